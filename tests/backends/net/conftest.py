# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine with network services, closed when its test is done."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.backends.net.frontend import Scene


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.close()
    assert scene.networks.switches == {}
