# SPDX-License-Identifier: GPL-2.0-or-later
"""The console's page, and a guest that doesn't leave it alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from xenograft.abi.hvm import params
from xenograft.engine.fake import FakeEngine
from xenograft.hypervisor.domain import Domain
from xenograft.hypervisor.hypervisor import Hypervisor
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.time import VirtualClock
from xenograft.toolstack.create import attach_console, create_control_domain

PAGE = 100


@pytest.fixture
def machine() -> Iterator[Hypervisor]:
    hypervisor = Hypervisor(FakeEngine(), frames=1024, clock=VirtualClock())
    yield hypervisor
    hypervisor.close()


@pytest.fixture
def control(machine: Hypervisor) -> Domain:
    return create_control_domain(machine)


@pytest.fixture
def guest(machine: Hypervisor, control: Domain) -> Domain:
    domain = machine.create_domain(GuestKind.PVH, max_pages=200)
    domain.p2m.populate(0, 128)
    domain.hvm_params[params.HVM_PARAM_CONSOLE_PFN] = PAGE
    return domain


def test_a_page_that_the_guest_gives_back_goes_to_nobody_else(
    machine: Hypervisor, control: Domain, guest: Domain
) -> None:
    console = attach_console(control, guest)
    guest.p2m.guest_remove_page(PAGE)
    neighbour = machine.create_domain(GuestKind.PVH, max_pages=1024)
    count = machine.memory.free_frames()
    neighbour.p2m.populate(0, count)
    console.send(b"typed into the void" * 200)
    assert neighbour.space.read(0, count << 12) == bytes(count << 12)
    free = machine.memory.free_frames()
    console.close()
    assert machine.memory.free_frames() == free + 1
    console.drain()
    assert neighbour.space.read(0, count << 12) == bytes(count << 12)


def test_the_page_is_let_go_with_the_console(
    machine: Hypervisor, control: Domain, guest: Domain
) -> None:
    console = attach_console(control, guest)
    assert [one.ref for one in guest.grants.active_grants()] == [0]
    console.close()
    console.close()
    assert guest.grants.active_grants() == []
    machine.destroy_domain(guest)
    assert guest.domid not in machine.domains


def test_a_console_page_that_is_not_there(control: Domain, guest: Domain) -> None:
    guest.p2m.guest_remove_page(PAGE)
    with pytest.raises(ValueError, match="0x64 isn't populated"):
        attach_console(control, guest)
