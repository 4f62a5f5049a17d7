# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine without vCPUs, and a domain that calls it."""

from __future__ import annotations

import pytest

from tests.hypervisor.memory.world import Caller, Dom, World


@pytest.fixture
def world() -> World:
    return World(4096)


@pytest.fixture
def dom(world: World) -> Dom:
    return world.domain(1, pages=8, max_pages=1000)


@pytest.fixture
def guest(world: World, dom: Dom) -> Caller:
    return Caller(world, dom)
