# SPDX-License-Identifier: GPL-2.0-or-later
"""A package archive made for the test, and stand-ins for apt's tools that serve it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

needs_dpkg = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb isn't here")

# Both stand-ins log their arguments.  The presence of the file `lists` stands for the system's
# package lists, that of `private-lists` for those in the state directory of ours.
_APT_CACHE = r"""#!/bin/sh
echo "apt-cache $*" >> "$FAKE_APT/log"
case " $* " in
*" Dir::State="*) lists=private-lists ;;
*) lists=lists ;;
esac
[ -e "$FAKE_APT/$lists" ] || exit 100
for last; do :; done
[ -e "$FAKE_APT/$last.control" ] || exit 100
cat "$FAKE_APT/$last.control"
"""
_APT_GET = r"""#!/bin/sh
echo "apt-get $*" >> "$FAKE_APT/log"
for last; do :; done
case " $* " in
*" update "*)
    [ -e "$FAKE_APT/offline" ] && { echo "E: Failed to fetch lists" >&2; exit 100; }
    touch "$FAKE_APT/private-lists"; rm -f "$FAKE_APT/stale" ;;
*" download "*)
    [ -e "$FAKE_APT/stale" ] && { echo "E: 404 Not Found" >&2; exit 100; }
    cp "$FAKE_APT/$last.deb" "./${last}_1.0_amd64.deb" ;;
esac
"""


class FakeApt:
    """A directory with tools on PATH and the packages that they serve."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "lists").touch()
        for name, text in (("apt-cache", _APT_CACHE), ("apt-get", _APT_GET)):
            tool = root / "bin" / name
            tool.parent.mkdir(exist_ok=True)
            tool.write_text(text)
            tool.chmod(0o755)

    def package(self, name: str, files: dict[str, bytes], depends: str = "") -> None:
        """Make an archive with these files, and say that the lists know it."""
        tree = self.root / f"{name}.tree"
        control = f"Package: {name}\nVersion: 1.0\nArchitecture: amd64\nMaintainer: t <t@t>\n"
        control += f"Depends: {depends}\n" if depends else ""
        control += "Description: test\n"
        shutil.rmtree(tree, ignore_errors=True)
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN" / "control").write_text(control)
        for path, data in files.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(data)
            (tree / path).chmod(0o755)
        deb = self.root / f"{name}.deb"
        build = ["dpkg-deb", "--root-owner-group", "-b", str(tree), str(deb)]
        subprocess.run(build, check=True, capture_output=True)
        (self.root / f"{name}.control").write_text(f"{control}Size: {deb.stat().st_size}\n")

    def log(self) -> list[str]:
        """The tools' command lines so far."""
        path = self.root / "log"
        return path.read_text().splitlines() if path.exists() else []

    def calls(self, word: str) -> int:
        """How many of them have this word."""
        return sum(word in line.split() for line in self.log())


@pytest.fixture
def fake_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApt:
    """apt's tools replaced by stand-ins."""
    root = tmp_path / "fake-apt"
    root.mkdir()
    fake = FakeApt(root)
    monkeypatch.setenv("FAKE_APT", str(root))
    monkeypatch.setenv("PATH", f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return fake


@pytest.fixture
def no_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without apt."""
    monkeypatch.setenv("PATH", str(tmp_path))
