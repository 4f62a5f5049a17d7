# SPDX-License-Identifier: GPL-2.0-or-later
"""Scenes that a test may open, and that are closed after it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.backends.block.frontend import Scene


@pytest.fixture
def scene() -> Iterator[Scene]:
    """A machine on the virtual clock."""
    scene = Scene()
    yield scene
    scene.close()


@pytest.fixture
def real_scene() -> Iterator[Scene]:
    """A machine on the real clock."""
    scene = Scene(virtual=False)
    yield scene
    scene.close()
