# SPDX-License-Identifier: GPL-2.0-or-later
"""Services for tests, ended whatever happens."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.toolstack.build.support import linux
from tests.toolstack.service.support import Running
from xenograft.toolstack.service import lifecycle
from xenograft.toolstack.service.messages import StopService


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "vmlinux"
    path.write_bytes(linux())
    return path


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: pytest's own can be too long for a socket."""
    with tempfile.TemporaryDirectory(prefix="xg-") as name:
        yield Path(name)


@pytest.fixture
def quick_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guests that end at once are built again after a moment."""
    monkeypatch.setattr(lifecycle, "RESTART_INTERVAL_NS", 20_000_000)


@pytest.fixture
def service(folder: Path, quick_restarts: None) -> Iterator[Running]:
    running = Running(folder)
    yield running
    if running.paths.socket.exists():
        running.ask(StopService())
    running.join()
