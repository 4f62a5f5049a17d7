# SPDX-License-Identifier: GPL-2.0-or-later
"""The service's folder: whose it is, and what is refused."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from xenograft.toolstack.errors import UserError
from xenograft.toolstack.service.paths import service_paths


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XG_SERVICE_DIR", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


def test_the_variable_names_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XG_SERVICE_DIR", str(folder / "deep" / "in"))
    paths = service_paths()
    assert paths.folder == folder / "deep" / "in"
    assert stat.S_IMODE(paths.folder.stat().st_mode) == 0o700
    assert {paths.socket.parent, paths.lock.parent, paths.log.parent} == {paths.folder}


def test_the_runtime_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    assert service_paths().folder == folder / "xenograft"


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o777])
def test_a_runtime_folder_of_others_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    shared = folder / "shared"
    shared.mkdir()
    shared.chmod(mode)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(shared))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    assert service_paths().folder == folder / f"xenograft-{os.getuid()}"


def test_a_relative_runtime_folder_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "run")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    assert service_paths(create=False).folder == folder / f"xenograft-{os.getuid()}"
    assert not list(folder.iterdir())


def test_what_others_may_use_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder / "place"
    monkeypatch.setenv("XG_SERVICE_DIR", str(place))
    place.mkdir()
    place.chmod(0o750)
    with pytest.raises(UserError, match="others may use it"):
        service_paths()
    place.chmod(0o700)
    assert service_paths().folder == place


def test_a_link_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "real").mkdir(mode=0o700)
    (folder / "link").symlink_to(folder / "real")
    monkeypatch.setenv("XG_SERVICE_DIR", str(folder / "link"))
    with pytest.raises(UserError, match="isn't a folder"):
        service_paths()


def test_a_file_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "file").write_text("")
    monkeypatch.setenv("XG_SERVICE_DIR", str(folder / "file"))
    with pytest.raises(UserError, match="can't be used: "):
        service_paths()


def test_somebody_elses_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XG_SERVICE_DIR", str(folder))
    uid = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: uid)
    with pytest.raises(UserError, match="belongs to somebody else"):
        service_paths()


def test_a_path_too_long_for_a_socket(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XG_SERVICE_DIR", str(folder / ("x" * 120)))
    with pytest.raises(UserError, match="too long for a socket"):
        service_paths()
