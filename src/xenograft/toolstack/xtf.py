# SPDX-License-Identifier: GPL-2.0-or-later
"""Running tests of the Xen Test Framework: kernels that each try one thing, and say how it went.

A test comes as ``tests/<name>/test-<env>-<name>`` with a configuration beside it for each
variation, ``test-<env>-<name>[~<variation>].cfg``.  `env` says what kind of guest it is: pv64,
pv32pae, hvm64, hvm32, hvm32pae, hvm32pse.  The HVM ones are started as firmware, at their ELF
entry in flat 32-bit mode, without a device model.  The last line of output tells the result.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from xenograft.toolstack.build.domain import default_cache, read_file
from xenograft.toolstack.build.guest import BuiltGuest
from xenograft.toolstack.build.kernel import parse_kernel
from xenograft.toolstack.build.pv import PvPlan, build_pv
from xenograft.toolstack.build.pvh import build_pvh
from xenograft.toolstack.config.domain import DomainConfig
from xenograft.toolstack.config.syntax import parse_settings
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.machine import Machine

RESULTS = ("SUCCESS", "SKIP", "ERROR", "FAILURE", "CRASH")
"""What a test can end with; CRASH stands for no result at all."""
PASSED = ("SUCCESS", "SKIP")
MACHINE_MIB = 2048
MEMORY_MIB = 128
TIMEOUT_S = 120.0
MAX_REASON = 120

_NAME = re.compile(r"test-(pv64|pv32pae|hvm64|hvm32pae|hvm32pse|hvm32)-([a-z0-9-]+)\Z")
_RESULT = re.compile(r"^Test result: (\w+)\s*$", re.MULTILINE)
_REASON = re.compile(r"^(?:Fail|Failure|Error|Skip|Warning|\*\*\* PANIC).*$", re.MULTILINE)


class Test(msgspec.Struct, frozen=True, kw_only=True):
    """One test in one environment and variation."""

    name: str
    """As in reports: ``test-hvm32-invlpg~hap``."""
    env: str
    path: Path
    cmdline: str = ""
    vcpus: int = 1
    memory: int = MEMORY_MIB

    @property
    def is_pv(self) -> bool:
        return self.env.startswith("pv")


class Result(msgspec.Struct, frozen=True):
    """How a test went. `reason` is a line for people, `output` all that it printed."""

    name: str
    result: str
    reason: str
    output: str

    @property
    def passed(self) -> bool:
        return self.result in PASSED


def find_tests(paths: Iterable[Path]) -> list[Test]:
    """The tests in files and trees, each once, in the order of their names.

    Raises UserError for a path that holds none.
    """
    found: dict[str, Test] = {}
    for path in paths:
        tests = [test for file in _binaries(path) for test in _variations(file)]
        if not tests:
            raise UserError(
                f"{path}: no test of the Xen Test Framework (test-pv64-…, test-hvm64-…) is there;"
                " build them first"
            )
        found |= {test.name: test for test in tests}
    return [found[name] for name in sorted(found)]


def _binaries(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (file for file in sorted(path.rglob("test-*")) if _NAME.match(file.name))
    elif path.exists() and _NAME.match(path.name):
        yield path


def _variations(file: Path) -> Iterator[Test]:
    match = _NAME.match(file.name)
    assert match is not None
    env = match[1]
    configs = sorted(file.parent.glob(f"{file.name}~*.cfg")) or [file.with_name(f"{file.name}.cfg")]
    for config in configs:
        if config.name == f"{file.name}.cfg" and not config.exists():
            yield Test(name=file.name, env=env, path=file)
        else:
            yield _configured(config, env, file)


def _configured(config: Path, env: str, file: Path) -> Test:
    try:
        text = config.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{config}: {error}") from error
    values = {name: setting.value for name, setting in parse_settings(text, str(config)).items()}

    def number(key: str, default: int) -> int:
        try:
            return int(str(values.get(key, default)), 0)
        except ValueError:
            raise UserError(f"{config}: {key}={values[key]!r} is no number") from None

    return Test(
        name=config.name.removesuffix(".cfg"),
        env=env,
        path=file,
        cmdline=str(values.get("cmdline", values.get("extra", ""))),
        vcpus=number("vcpus", 1),
        memory=number("memory", MEMORY_MIB),
    )


def build(test: Test) -> BuiltGuest | PvPlan:
    """The guest of a test. Raises UserError."""
    name = f"test {test.path}"
    kernel = parse_kernel(read_file(str(test.path), "test"), name, default_cache())
    if test.is_pv:
        return build_pv(
            kernel, memory=test.memory << 20, cmdline=test.cmdline, vcpus=test.vcpus, name=name
        )
    built = build_pvh(
        kernel, memory=test.memory << 20, cmdline=test.cmdline, vcpus=test.vcpus, name=name
    )
    return msgspec.structs.replace(built, kind="hvm", entry=kernel.elf.entry)


def run_test(test: Test, timeout: float = TIMEOUT_S) -> Result:
    """Run a test on a machine of its own, for `timeout` seconds of its virtual time at most."""
    try:
        built = build(test)
        config = DomainConfig(
            name=test.name.replace("~", "-"), vcpus=test.vcpus, memory=test.memory
        )
    except UserError as error:
        return Result(test.name, "ERROR", str(error), "")
    printed: list[bytes] = []
    with Machine(clock="virtual", memory=MACHINE_MIB) as machine:
        domain = machine.create_built(built, config)
        domain.xen.console_listeners.append(printed.append)
        end = ""
        try:
            domain.wait(timeout)
        except TimeoutError:
            end = f"still running after {timeout:g} s"
        output = domain.console.output or b"".join(printed).decode("utf-8", "replace")
        crash = domain.crash_report
    return Result(test.name, *judge(output, end or crash or ""), output)


def judge(output: str, end: str) -> tuple[str, str]:
    """(result, reason) from what a test printed, and how it ended (in words, if badly)."""
    results = _RESULT.findall(output)
    result = results[-1] if results and results[-1] in RESULTS else "CRASH"
    lines = _REASON.findall(output)
    reason = lines[0].strip() if lines else ""
    if result == "CRASH":
        tail = output.rstrip().splitlines()[-1:]
        reason = reason or end or (tail[0] if tail else "it printed nothing")
    return result, "" if result == "SUCCESS" else reason[:MAX_REASON]
