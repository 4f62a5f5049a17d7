# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands against a service in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.toolstack.service.conftest import folder, kernel, quick_restarts, service
from tests.toolstack.service.support import Running
from xenograft.cli.main import run

__all__ = ["folder", "kernel", "quick_restarts", "service"]

Xg = Callable[..., tuple[int, str, str]]


@pytest.fixture
def xg(
    service: Running,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Xg:
    """`xg("list", "-v")`: (exit status, output, errors)."""
    monkeypatch.setenv("XG_SERVICE_DIR", str(service.paths.folder))
    monkeypatch.setenv("XG_CONF", str(tmp_path / "xl.conf"))

    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = run(list(words))
        output, errors = capsys.readouterr()
        return status, output, errors

    return call


@pytest.fixture
def cfg(tmp_path: Path, kernel: Path) -> Path:
    """A configuration file."""
    path = tmp_path / "web.cfg"
    path.write_text(f'name="web"\ntype="pvh"\nkernel="{kernel}"\nmemory=32\nvcpus=1\nmaxvcpus=2\n')
    return path
