# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian packages by name, through apt's ordinary tools and without root.

`apt-cache` answers from the package lists of the system where there are any.  Where there
are none, or where they're too old, lists are fetched into a private state directory inside
the cache, with the sources that the administrator configured: no host is named here.
`apt-get download` checks signatures and checksums; `dpkg-deb` unpacks.

This module is read by the set-up script before anything is installed: it imports the
standard library and `xenograft.toolstack.errors` alone.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from xenograft.toolstack.errors import UserError

Say = Callable[[str], None]
"""Takes one line of progress for a person."""

# Fields of `apt-cache show` look like "Version: 6.1.192-2".
_FIELD = re.compile(r"^([A-Z][A-Za-z0-9-]*): ?(.*)$", re.MULTILINE)


def say_stderr(line: str) -> None:
    """The usual `Say`: a line on standard error."""
    print(line, file=sys.stderr, flush=True)


def have_apt() -> bool:
    """Whether this system has the three tools that are needed."""
    return all(shutil.which(tool) for tool in ("apt-get", "apt-cache", "dpkg-deb"))


class Apt:
    """apt's tools, with a private state directory to fall back on.

    `state` is a directory of ours (made when needed); `say` takes progress lines.  All methods
    raise `UserError` with one line that says what failed.
    """

    def __init__(self, state: Path, say: Say = say_stderr) -> None:
        self._state = state
        self._say = say
        self._private = False
        self._updated = False

    def show(self, package: str) -> dict[str, str]:
        """The control fields of the newest version of a package, by name."""
        self._need_apt()
        found = self._show(package)
        if found is None and not self._private:
            # Lists that an earlier run has fetched will do.
            self._private = True
            found = self._show(package)
        if found is None and not self._updated:
            self._update()
            found = self._show(package)
        if found is None:
            raise UserError(
                f"package {package} isn't in the package lists of this system "
                "(check the network, and the sources that apt is configured with)"
            )
        return found

    def depends(self, package: str) -> list[str]:
        """Names in the Depends field, versions and alternatives dropped."""
        field = self.show(package).get("Depends", "")
        names = (part.split("|")[0].split("(")[0].strip() for part in field.split(","))
        return [name.split(":")[0] for name in names if name]

    def resolve(self, package: str, follow: str | None) -> str:
        """Follow a metapackage: its first dependency that matches the regex `follow`."""
        if follow is None:
            return package
        for name in self.depends(package):
            if re.fullmatch(follow, name):
                return name
        raise UserError(f"package {package} depends on nothing that looks like {follow}")

    def download(self, package: str, into: Path) -> Path:
        """Fetch the package's archive into the directory `into`; returns its path."""
        fields = self.show(package)
        size = int(fields.get("Size", "0"))
        try:
            return self._download(package, into, size)
        except UserError:
            if self._updated:
                raise
            # Lists that are older than the archive name versions that it no longer has.
            self._update()
            return self._download(package, into, int(self.show(package).get("Size", "0")))

    # -- apt's tools ---------------------------------------------------------------------
    def _need_apt(self) -> None:
        if not have_apt():
            raise UserError("this needs apt-get, apt-cache and dpkg-deb, which aren't here")

    def _options(self) -> list[str]:
        options = ["-o", "APT::Sandbox::User=", "-o", f"Dir::Cache={self._state / 'cache'}"]
        if self._private:
            options += ["-o", f"Dir::State={self._state / 'state'}"]
        return options

    def _prepare(self) -> None:
        for part in ("cache/archives/partial", "state/lists/partial"):
            (self._state / part).mkdir(parents=True, exist_ok=True)

    def _run(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        self._prepare()
        environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        return subprocess.run(
            argv, capture_output=True, text=True, check=False, env=environment, timeout=900
        )

    def _show(self, package: str) -> dict[str, str] | None:
        done = self._run(["apt-cache", *self._options(), "show", "--no-all-versions", package])
        fields = dict(_FIELD.findall(done.stdout)) if done.returncode == 0 else {}
        return fields if "Version" in fields else None

    def _update(self) -> None:
        self._private = self._updated = True
        self._say("fetching package lists (into the cache, no root needed) ...")
        done = self._run(["apt-get", *self._options(), "-q", "update"])
        if done.returncode:
            raise UserError(f"apt-get update failed: {_last_error(done.stderr)}")

    def _download(self, package: str, into: Path, size: int) -> Path:
        self._prepare()
        into.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "LC_ALL": "C"}
        with subprocess.Popen(
            ["apt-get", *self._options(), "-q", "download", package],
            cwd=into,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env=environment,
        ) as process:
            stderr = _watch(process, into, f"fetching {package}", size, self._say)
        if process.returncode:
            raise UserError(f"can't fetch package {package}: {_last_error(stderr)}")
        # apt writes the name with the version's colon escaped, so that it's found by a pattern.
        found = sorted(into.glob(f"{package.split(':')[0]}_*.deb"))
        if not found:
            raise UserError(f"apt-get fetched package {package}, but left no archive")
        return found[-1]


def _last_error(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.startswith(("E:", "Err"))]
    return lines[-1].removeprefix("E:").strip() if lines else "no reason given"


def _watch(process: subprocess.Popen[str], directory: Path, what: str, size: int, say: Say) -> str:
    """Wait for `process`, showing how far the files in `directory` have come."""
    live = say is say_stderr and sys.stderr.isatty()
    megabytes = f"{size / 1e6:.1f} MB"
    if not live:
        say(f"{what} ({megabytes})")
    while True:
        try:
            stderr = process.communicate(timeout=0.2)[1]
        except subprocess.TimeoutExpired:
            if live:
                have = sum(f.stat().st_size for f in directory.glob("*") if f.is_file())
                print(f"\r{what}: {have / 1e6:.1f} of {megabytes} ", end="", file=sys.stderr)
            continue
        if live:
            print(f"\r{what}: {megabytes}{' ' * 20}", file=sys.stderr, flush=True)
        return stderr


def unpack(deb: Path, into: Path) -> None:
    """Unpack all files of a package archive below the directory `into`."""
    into.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["dpkg-deb", "-x", str(deb), str(into)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"can't unpack {deb.name}: {done.stderr.strip() or 'dpkg-deb failed'}")


def extract(deb: Path, patterns: Sequence[str], into: Path) -> list[Path]:
    """Extract the regular files whose path matches one of `patterns` (as `boot/vmlinuz-*`).

    They land directly in `into`, without their folders.  A kernel package unpacks to hundreds
    of megabytes of modules; a caller who needs two files takes two.
    """
    into.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            written = list(_extract_tar(process.stdout, patterns, into))
            # Read on to the end: dpkg-deb reports a broken pipe as an error.
            while process.stdout.read(1 << 20):
                continue
        except tarfile.TarError as error:
            raise UserError(f"can't unpack {deb.name}: {error}") from None
        stderr = process.stderr.read().decode(errors="replace").strip()
    if process.returncode:
        raise UserError(f"can't unpack {deb.name}: {stderr or 'dpkg-deb failed'}")
    return written


def _extract_tar(stream: IO[bytes], patterns: Sequence[str], into: Path) -> Iterator[Path]:
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if not member.isfile() or not any(fnmatch.fnmatch(name, p) for p in patterns):
                continue
            source = archive.extractfile(member)
            assert source is not None
            target = into / Path(name).name
            with target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
            target.chmod(member.mode & 0o755)
            yield target
