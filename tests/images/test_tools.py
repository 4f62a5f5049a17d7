# SPDX-License-Identifier: GPL-2.0-or-later
"""Host programs: the system's where they're installed, else out of their packages, once."""

from __future__ import annotations

from pathlib import Path

import pytest

from xenograft.toolstack.errors import UserError
from xenograft.toolstack.images import tools
from xenograft.toolstack.images.tools import PACKAGES, program


def test_the_systems_own_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "mke2fs"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = program("mke2fs", tmp_path / "cache")
    assert found.path == command
    assert found.sibling("e2fsck") == tmp_path / "e2fsck"
    assert not (tmp_path / "cache").exists()


def test_without_apt_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools.shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(tools, "have_apt", lambda: False)
    with pytest.raises(UserError, match="debootstrap isn't installed"):
        program("debootstrap", tmp_path)


def test_packages_are_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Packages:
        def __init__(self, *_: object) -> None:
            pass

        def download(self, package: str, into: Path) -> Path:
            asked.append(package)
            return into / package

    def unpack(deb: Path, into: Path) -> None:
        (into / "usr/bin").mkdir(parents=True, exist_ok=True)
        if deb.name == "xenstore-utils":
            (into / "usr/bin/xenstore-ls").touch()

    monkeypatch.setattr(tools.shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(tools, "have_apt", lambda: True)
    monkeypatch.setattr(tools, "Apt", Packages)
    monkeypatch.setattr(tools, "unpack", unpack)
    found = program("xenstore-ls", tmp_path, say=lambda _line: None)
    assert asked == list(PACKAGES["xenstore-ls"])
    assert found.path.is_relative_to(tmp_path)
    assert str(found.path.parent) in found.env["PATH"].split(":")
    assert found.env["LD_LIBRARY_PATH"].startswith(str(tmp_path))
    assert program("xenstore-ls", tmp_path) == found
    assert len(asked) == len(PACKAGES["xenstore-ls"])
