# SPDX-License-Identifier: GPL-2.0-or-later
"""What benchmarks share: results, guests and peers as commands, times of marker lines."""

from __future__ import annotations

import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from xenograft.toolstack.images.cache import ImageCache
from xenograft.toolstack.images.initrd import MARKER

QEMU = "qemu-system-x86_64"
XG = str(Path(sys.executable).with_name("xg"))


@dataclass(frozen=True)
class Result:
    """One measured number and the promise it's held against.

    `value` is ours in `unit`; `peer` the peer's in the same unit; `bound` the promise, as a
    ratio to the peer where there is one (`higher` says that more is better), else in `unit`.
    """

    name: str
    value: float | None
    unit: str
    bound: float | None = None
    peer: float | None = None
    peer_name: str = ""
    higher: bool = False
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours in relation to the peer's; for speeds from times, the peer's to ours."""
        if self.value is None or self.peer is None:
            return None
        return self.peer / self.value if self.higher else self.value / self.peer

    @property
    def kept(self) -> bool | None:
        """Whether the promise is kept; None where it can't be said."""
        if self.bound is None or self.value is None:
            return None
        if not self.peer_name:
            return self.value <= self.bound
        if self.ratio is None:
            return None
        return self.ratio >= self.bound if self.higher else self.ratio <= self.bound


@dataclass(frozen=True)
class Peer:
    """A machine to compare with: how to run a kernel, and why it can't be had (or '').

    `parameters` are for the kernel's command line, its console first.
    """

    name: str
    parameters: str
    command: Callable[[Path, Path, str, int, int], list[str]]
    missing: str = ""


def xenograft(kernel: Path, ramdisk: Path, cmdline: str, vcpus: int, memory: int) -> list[str]:
    """The command that runs a guest here."""
    return [
        *(XG, "run", "--kernel", str(kernel), "--ramdisk", str(ramdisk)),
        *("--cmdline", cmdline, "--vcpus", str(vcpus), "--memory", f"{memory}M"),
        *("--timeout", "600"),
    ]


def _qemu(machine: str) -> Callable[[Path, Path, str, int, int], list[str]]:
    def command(kernel: Path, ramdisk: Path, cmdline: str, vcpus: int, memory: int) -> list[str]:
        return [
            *(QEMU, "-accel", "tcg", "-M", machine, "-m", str(memory), "-smp", str(vcpus)),
            *("-kernel", str(kernel), "-initrd", str(ramdisk), "-append", cmdline),
            *("-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"),
        ]

    return command


OURS = Peer("xenograft", "console=hvc0 quiet", xenograft)


def _early_tsc() -> str:
    """The TSC's frequency for a guest on microvm.

    On a busy host its kernel fails to measure it, and hangs. QEMU's TCG shows the host's own.
    """
    found = re.search(r"^cpu MHz\s*: ([\d.]+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f" tsc_early_khz={float(found[1]) * 1000:.0f}" if found else ""


def peers() -> list[Peer]:
    """QEMU's machines without acceleration, or the reason why they aren't there."""
    missing = "" if shutil.which(QEMU) else f"{QEMU} isn't installed"
    console = "console=ttyS0 quiet"
    return [
        Peer("QEMU TCG pc", console, _qemu("pc"), missing),
        Peer("QEMU TCG microvm", console + _early_tsc(), _qemu("microvm"), missing),
    ]


@dataclass
class Run:
    """When lines of interest appeared (seconds since the command started), and the output.

    `cpu`: seconds of processor time that the command took in all; `cpus`: until each mark.
    """

    marks: list[tuple[float, str]] = field(default_factory=list)
    cpus: list[float] = field(default_factory=list)
    output: str = ""
    cpu: float = 0.0

    def at(self, text: str) -> float:
        """When the first marked line that contains `text` appeared."""
        for when, line in self.marks:
            if text in line:
                return when
        raise RuntimeError(f"no line {text!r}; the output ends: {self.output[-400:]!r}")

    def cpu_at(self, text: str) -> float:
        """Processor time until the first marked line that contains `text`."""
        for (_, line), cpu in zip(self.marks, self.cpus, strict=True):
            if text in line:
                return cpu
        raise RuntimeError(f"no line {text!r}; the output ends: {self.output[-400:]!r}")


def processor_time(pid: int) -> float:
    """Seconds of processor time that a process and its threads have taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(command: Sequence[str], pattern: str, until: str, timeout: float = 600) -> Run:
    """Run a command until a line matches `until`, noting when lines match `pattern`.

    The command is ended then, unless it ends by itself at once.
    """
    result = Run()
    wanted, last = re.compile(pattern), re.compile(until)
    environment = {**os.environ, "LC_ALL": "C"}
    begin = time.monotonic()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
    )
    assert process.stdout is not None
    pending = b""
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while time.monotonic() - begin < timeout:
                if not selector.select(1):
                    continue
                data = os.read(process.stdout.fileno(), 65536)
                if not data:
                    return result
                now = time.monotonic() - begin
                *lines, pending = (pending + data).split(b"\n")
                for raw in lines:
                    line = raw.decode(errors="replace").rstrip("\r")
                    result.output += line + "\n"
                    if wanted.search(line):
                        result.marks.append((now, line))
                        result.cpus.append(processor_time(process.pid))
                    if last.search(line):
                        return result
        raise RuntimeError(f"{command[0]} took more than {timeout:g} s")
    finally:
        # Nothing of a guest is worth a clean end, and what it takes would count as its time.
        # (Popen.kill would wait for a command that has ended, and its usage would be lost.)
        os.kill(process.pid, signal.SIGKILL)
        usage = os.wait4(process.pid, 0)[2]
        process.returncode = -9
        result.cpu = usage.ru_utime + usage.ru_stime
        process.stdout.close()


def images() -> tuple[Path, Path]:
    """Debian's cloud kernel and the demonstration ramdisk, fetched if need be."""
    cache = ImageCache()
    return cache.get("debian-cloud").path, cache.get("demo-initrd").path


def boot(peer: Peer, vcpus: int, memory: int = 256) -> Run:
    """A run from the command's start to user space."""
    kernel, ramdisk = images()
    cmdline = f"{peer.parameters} xg.run=true"
    run = timed(peer.command(kernel, ramdisk, cmdline, vcpus, memory), MARKER, MARKER, 60)
    run.at(MARKER)
    return run


T = TypeVar("T")


def alternate(
    runs: int, measures: Mapping[str, Callable[[], T]], show: Callable[[T], str]
) -> dict[str, list[T]]:
    """Several runs of each measure, taken in turns so that a slow minute slows them all.

    A peer's run that fails counts as none; a failure of ours is an error.
    """
    taken: dict[str, list[T]] = {name: [] for name in measures}
    for turn in range(runs):
        for name, measure in measures.items():
            try:
                value = measure()
            except RuntimeError as error:
                if name == OURS.name:
                    raise
                print(f"  {name}, run {turn + 1}: {error}", file=sys.stderr, flush=True)
                continue
            taken[name].append(value)
            print(f"  {name}, run {turn + 1}: {show(value)}", file=sys.stderr, flush=True)
    return {name: values for name, values in taken.items() if values}
