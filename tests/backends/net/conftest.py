# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine with network services, closed when its test is done."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.backends.net.frontend import Scene


@pytest.fixture(params=["fake", "native"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """On the memory of tests, where Python copies packets, and on the native core's own."""
    scene = Scene(native=request.param == "native")
    yield scene
    scene.close()
    assert scene.networks.switches == {}
