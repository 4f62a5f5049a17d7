#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Set up a checkout: virtual environment, dependencies, native core.

Needs Python 3.11 and a C compiler, and neither root nor anything of PyPI: this script and what
it imports stand on the standard library.  A bare Debian lacks two parts of Python that are
needed here, ensurepip and the C headers; both are taken from Debian's own packages, unpacked
below `.venv`, with nothing installed.

Each step leaves a mark with a digest of what it depended on, so that a second run does
nothing.  `--dev` adds the tools for tests; `--check` runs the source checks.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 (an old python3 gets a message, not a crash)
    sys.exit(f"bootstrap: Python 3.11 or newer is needed, this is {sys.version.split()[0]}")

import tomllib

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
MARKS = VENV / "xenograft-setup.json"
SUPPORT = VENV / "support"
PYTHON = VENV / "bin" / "python"

sys.path.insert(0, str(ROOT / "src"))
sys.dont_write_bytecode = True

from xenograft.toolstack.errors import UserError  # noqa: E402
from xenograft.toolstack.images.apt import Apt, have_apt, unpack  # noqa: E402


class Marks:
    """What has been done, and from what: step name -> digest, in one file in the venv."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._done = dict(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            self._done = {}

    def current(self, step: str, digest: str) -> bool:
        """Whether the step was done from exactly this."""
        return self._done.get(step) == digest

    def set(self, step: str, digest: str) -> None:
        """Note a step as done."""
        self._done[step] = digest
        temporary = self._path.with_suffix(".new")
        temporary.write_text(json.dumps(self._done, indent=1, sort_keys=True))
        temporary.replace(self._path)


def digest(parts: Iterable[bytes]) -> str:
    """One digest over byte strings, their borders included."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little") + part)
    return total.hexdigest()


def native_sources(root: Path) -> list[Path]:
    """What the native parts are compiled from."""
    found = [root / "setup.py"]
    for suffix in ("*.c", "*.h", "*.S", "*.s", "*.ld", "*.inc"):
        found += (root / "src").rglob(suffix)
    return sorted(path for path in found if path.is_file())


def guest_sources(root: Path) -> list[Path]:
    """What the tiny guests are compiled from."""
    return sorted(path for path in (root / "guests").rglob("*") if path.is_file())


def files_digest(root: Path, paths: Iterable[Path]) -> str:
    """One digest over the names and contents of files below `root`."""
    named = ((str(path.relative_to(root)).encode(), path.read_bytes()) for path in paths)
    return digest(part for pair in named for part in pair)


def package_digest(root: Path) -> str:
    """Changes when an installed package would: metadata, build script, native sources."""
    project = tomllib.loads((root / "pyproject.toml").read_text())
    installed = {k: v for k, v in project["project"].items() if k != "optional-dependencies"}
    metadata = [project.get("build-system"), installed, project.get("tool", {}).get("setuptools")]
    described = json.dumps(metadata, sort_keys=True).encode()
    return digest([described, files_digest(root, native_sources(root)).encode()])


def development_tools(root: Path) -> list[str]:
    """The requirements of the `dev` extra."""
    project = tomllib.loads((root / "pyproject.toml").read_text())
    return list(project["project"]["optional-dependencies"]["dev"])


def say(line: str) -> None:
    """One line of progress."""
    print(f"[set-up] {line}", file=sys.stderr, flush=True)


def step(what: str, action: Callable[[], None]) -> None:
    """Run a step between two lines that say so, with the time that it took."""
    say(f"{what} ...")
    begin = time.monotonic()
    action()
    say(f"{what}: done in {time.monotonic() - begin:.1f} s")


def run(argv: list[str], failure: str, environment: dict[str, str] | None = None) -> None:
    """Run a command with its output on standard error; `failure` says what it was for."""
    done = subprocess.run(
        argv, cwd=ROOT, stdout=sys.stderr, env={**os.environ, **(environment or {})}, check=False
    )
    if done.returncode:
        raise UserError(f"{failure} (exit status {done.returncode}; its output is above)")


def apt() -> Apt:
    """apt with its private state below the venv."""
    return Apt(SUPPORT / "apt", say)


# -- the steps ---------------------------------------------------------------------------------
def usable_venv() -> bool:
    """Whether `.venv` is an environment of this Python with pip, at this place."""
    if not PYTHON.exists():
        return False
    probe = "import sys, pip; print(sys.prefix, sys.version)"
    done = subprocess.run([str(PYTHON), "-c", probe], capture_output=True, text=True, check=False)
    return done.returncode == 0 and done.stdout.strip() == f"{VENV} {sys.version}"


def make_venv() -> None:
    """Make the virtual environment, with pip in it."""
    if VENV.exists():
        shutil.rmtree(VENV)
    if importlib.util.find_spec("ensurepip") is not None:
        run([sys.executable, "-m", "venv", str(VENV)], "can't make a virtual environment")
        return
    run([sys.executable, "-m", "venv", "--without-pip", str(VENV)], "can't make .venv")
    if not have_apt():
        raise UserError("this Python has no ensurepip: install python3-venv, or python3-pip-whl")
    unpack(apt().download("python3-pip-whl", SUPPORT / "debs"), SUPPORT / "pip")
    wheels = sorted((SUPPORT / "pip").rglob("pip-*.whl"))
    if not wheels:
        raise UserError("package python3-pip-whl holds no pip wheel")
    # A wheel is a zip file, from which Python can run pip to install that same wheel.
    pip = [str(PYTHON), str(wheels[0] / "pip")]
    run([*pip, "install", "--quiet", "--no-index", str(wheels[0])], "can't install pip")


def header_paths() -> list[str]:
    """Folders to add to the compiler's search path so that Python.h is found; often none."""
    include = Path(sysconfig.get_path("include"))
    if (include / "Python.h").exists():
        return []
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    package = f"lib{version}-dev"
    headers = SUPPORT / "headers" / "usr" / "include"
    if not (headers / version / "Python.h").exists():
        if not have_apt():
            raise UserError(f"Python's C headers aren't here: install {version}-dev")
        unpack(apt().download(package, SUPPORT / "debs"), SUPPORT / "headers")
    if not (headers / version / "Python.h").exists():
        raise UserError(f"package {package} holds no Python.h: install {version}-dev")
    # pyconfig.h of Debian includes one by its multiarch folder, so both levels are needed.
    return [str(headers / version), str(headers)]


_PROGRAM = '#include <stdio.h>\n#include <pthread.h>\nint f(void) { return puts(""); }\n'

LIBC_PACKAGES = ("libc6-dev", "linux-libc-dev", "libcrypt-dev")
"""The C library's headers and link files, which a gcc without its recommendations lacks."""


def compiles(compiler: str, environment: dict[str, str]) -> bool:
    """Whether a shared library can be made with the C library."""
    with tempfile.TemporaryDirectory() as folder:
        argv = [*compiler.split(), "-xc", "-", "-shared", "-fPIC", "-lm", "-o", f"{folder}/x.so"]
        environment = {**os.environ, **environment}
        done = subprocess.run(
            argv, input=_PROGRAM, text=True, capture_output=True, check=False, env=environment
        )
    return done.returncode == 0


def compiler_environment() -> dict[str, str]:
    """What the compiler needs in its environment to compile and link; often nothing.

    Raises UserError if there is no compiler, or the C library's parts can't be had.
    """
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        raise UserError("no C compiler: install gcc")
    for tool in ("objcopy", "nm"):
        if not shutil.which(tool):
            raise UserError(f"no {tool}: install binutils")
    if compiles(compiler, {}):
        return {}
    failure = UserError(f"{compiler} can't compile (no C library headers?): install libc6-dev")
    if not have_apt():
        raise failure
    tree = SUPPORT / "libc"
    for package in LIBC_PACKAGES:
        unpack(apt().download(package, SUPPORT / "debs"), tree)
    folder = f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}"
    libraries = Path(f"{tree}{folder}")
    for script in (libraries / name for name in ("libc.so", "libm.so")):
        # These name the library's parts by their place in a system.
        text = script.read_text()
        script.write_text(text.replace(f" {folder}/", f" {libraries}/"))
    include = tree / "usr" / "include"
    environment = {
        "C_INCLUDE_PATH": f"{include}:{include / libraries.name}",
        "LIBRARY_PATH": str(libraries),
    }
    if not compiles(compiler, environment):
        raise failure
    return environment


def install_package() -> None:
    """Build the native core, and install the package and what it depends on."""
    environment = compiler_environment()
    found = (environment.get("C_INCLUDE_PATH", ""), os.environ.get("C_INCLUDE_PATH", ""))
    if paths := [*header_paths(), *filter(None, found)]:
        environment["C_INCLUDE_PATH"] = os.pathsep.join(paths)
    # What an older build left would be taken for current by its time stamp.
    shutil.rmtree(ROOT / "build", ignore_errors=True)
    run(
        [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--editable", "."],
        "can't install the package and its dependencies",
        environment,
    )
    run([str(VENV / "bin" / "xg"), "--version"], "the installed xg doesn't start")


def build_guest() -> None:
    """Build the guest that the package carries."""
    run([str(PYTHON), "-m", "xenograft.guests.build", "demo"], "can't build the tiny guest")


def install_development_tools() -> None:
    """The tools for tests and checks."""
    pip = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check"]
    run([*pip, *development_tools(ROOT)], "can't install the tools for tests")


def set_up(development: bool) -> None:
    """Do what isn't done yet."""
    base = digest([sys.executable.encode(), sys.version.encode(), str(ROOT).encode()])
    marks = Marks(MARKS)
    if not (marks.current("venv", base) and PYTHON.exists()):
        if not usable_venv():
            step("virtual environment", make_venv)
            marks = Marks(MARKS)
        marks.set("venv", base)
    package = package_digest(ROOT)
    if not (marks.current("package", package) and (VENV / "bin" / "xg").exists()):
        step("dependencies and native core", install_package)
        marks.set("package", package)
    guest = files_digest(ROOT, guest_sources(ROOT))
    if not marks.current("guest", guest):
        step("the tiny guest", build_guest)
        marks.set("guest", guest)
    tools = digest(requirement.encode() for requirement in development_tools(ROOT))
    if development and not marks.current("tools", tools):
        step("tools for tests", install_development_tools)
        marks.set("tools", tools)


CHECKS: dict[str, list[str]] = {
    "lint": ["ruff", "check", "--quiet", "--output-format=concise"],
    "format": ["ruff", "format", "--check", "--quiet"],
    "import rules": ["lint-imports"],
    "types": ["mypy", "--no-error-summary"],
}


def check() -> None:
    """Run the source checks side by side; print the output of those that fail."""
    running = {
        name: subprocess.Popen(
            [str(VENV / "bin" / argv[0]), *argv[1:]],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name, argv in CHECKS.items()
    }
    failed = []
    for name, process in running.items():
        output = process.communicate()[0]
        if process.returncode:
            failed.append(name)
            print(f"--- {name}\n{output.rstrip()}", file=sys.stderr)
    if failed:
        raise UserError(f"checks failed: {', '.join(failed)}")
    say(f"checks passed: {', '.join(running)}")


def main(argv: list[str]) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bootstrap", description=__doc__.split("\n")[0])
    parser.add_argument("--dev", action="store_true", help="also the tools for tests")
    parser.add_argument("--check", action="store_true", help="run the source checks")
    options = parser.parse_args(argv)
    try:
        if options.check:
            check()
            return 0
        # Two runs at once (an editor's and a person's) would build into the same folders.
        with (ROOT / "pyproject.toml").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            set_up(options.dev)
    except UserError as error:
        print(f"bootstrap: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
