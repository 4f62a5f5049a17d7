# SPDX-License-Identifier: GPL-2.0-or-later
"""A PV domain on the native engine, from outside: grants in its page tables, and its end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

pytest.importorskip("xenograft.engine.unicorn")

from tests.toolstack.build.support import elf, note
from xenograft.abi.grant_table import (
    GNTMAP_contains_pte,
    GNTMAP_host_map,
    GNTMAP_readonly,
)
from xenograft.engine.unicorn import UnicornEngine
from xenograft.hypervisor.domain import Domain
from xenograft.hypervisor.grants.mapping import map_grant_ref, unmap_grant
from xenograft.hypervisor.grants.status import GrantError
from xenograft.hypervisor.hypervisor import Hypervisor
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.pv.platform import PvPlatform
from xenograft.hypervisor.pv.tables import l1_entry
from xenograft.hypervisor.time import VirtualClock
from xenograft.toolstack.build.pv import PvPlan, build_pv
from xenograft.toolstack.create import create_control_domain, create_pv_domain

BASE = 0x100000
P, RW, US = 1, 2, 4
PLACE = BASE + 0x80000
"""An address of the initial mapping where nothing is."""
REF = 9
FRAMES = 1 << 15


class World:
    """A machine with a PV guest that never runs, and a neighbour that grants a page."""

    def __init__(self) -> None:
        self.xen = Hypervisor(UnicornEngine(), frames=FRAMES, clock=VirtualClock())
        self.memory = cast(Any, self.xen.memory)
        create_control_domain(self.xen)
        self.free = self.memory.free_frames()
        image = elf(
            [(BASE, b"\xf4" * 64, 0x2000)],
            [note(8, "generic"), note(5, "xen-3.0"), note(3, 0), note(1, BASE)],
        )
        self.plan: PvPlan = build_pv(image, memory=8 << 20)
        self.guest: Domain = create_pv_domain(self.xen, self.plan, name="pv")
        self.neighbour = self.xen.create_domain(GuestKind.PV, max_pages=8)
        ((self.page, _),) = self.neighbour.p2m.populate(0)
        self.neighbour.grants.seed(REF, self.guest.domid, self.page)
        self.xen.running = self.guest.vcpus[0]

    def entry(self, address: int = PLACE) -> int:
        """The guest's L1 entry for an address."""
        at = l1_entry(self.guest.vcpus[0], address)
        assert at is not None
        return int(self.memory.read_u64(at))

    def map(self, address: int = PLACE, flags: int = GNTMAP_host_map) -> int:
        neighbour = self.neighbour.domid
        return map_grant_ref(self.guest.grants, neighbour, REF, flags, address).handle

    def update(self, address: int, value: int) -> int:
        platform = self.guest.arch
        assert isinstance(platform, PvPlatform)
        at = l1_entry(self.guest.vcpus[0], address)
        assert at is not None
        result = platform.pages.update(at, value, self.guest.domid)
        self.xen.frames.settle()
        return result


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.xen.running = None
    made.xen.close()


def test_a_grant_in_a_page_table(world: World) -> None:
    old = world.entry() >> 12 & 0xFFFFFFFF
    handle = world.map()
    assert world.entry() >> 12 & 0xFFFFFFFF == world.page
    assert world.entry() & (P | RW | US) == P | RW | US
    assert world.memory.types(world.page)[:2] == (7, 1)
    assert world.memory.refs(world.page) == 2
    assert world.memory.refs(old) == 1  # what was there isn't mapped any more
    assert world.guest.space.lookup(world.page) is not None
    unmap_grant(world.guest.grants, handle, PLACE)
    assert world.entry() == 0
    assert (world.memory.types(world.page)[1], world.memory.refs(world.page)) == (0, 1)
    assert world.guest.space.lookup(world.page) is None


def test_a_grant_for_reading(world: World) -> None:
    handle = world.map(flags=GNTMAP_host_map | GNTMAP_readonly)
    assert world.entry() & (P | RW) == P
    assert world.memory.types(world.page)[1] == 0
    unmap_grant(world.guest.grants, handle, PLACE)


def test_a_grant_by_its_entry(world: World) -> None:
    at = l1_entry(world.guest.vcpus[0], PLACE)
    assert at is not None
    flags = GNTMAP_host_map | GNTMAP_contains_pte
    handle = world.map(at, flags)
    assert world.entry() >> 12 & 0xFFFFFFFF == world.page
    unmap_grant(world.guest.grants, handle, at)
    for bad in (at + 4, world.page << 12, (FRAMES + 5) << 12):
        with pytest.raises(GrantError):
            world.map(bad, flags)
    assert world.memory.refs(world.page) == 1


@pytest.mark.parametrize("address", [0x7000000000, 0xFFFF820000000000, 1 << 46])
def test_places_that_no_table_maps(world: World, address: int) -> None:
    with pytest.raises(GrantError):
        world.map(address)
    assert world.memory.refs(world.page) == 1


def test_an_entry_that_was_changed_is_not_unmapped(world: World) -> None:
    """The reference goes with the entry; the grant stays in use, as in Xen."""
    handle = world.map()
    assert world.update(PLACE, 0) == 0
    assert (world.memory.types(world.page)[1], world.memory.refs(world.page)) == (0, 1)
    with pytest.raises(GrantError):
        unmap_grant(world.guest.grants, handle, PLACE)
    assert world.memory.refs(world.page) == 1


def test_a_neighbours_frame_without_a_grant(world: World) -> None:
    assert world.update(PLACE, world.page << 12 | P) == -16
    assert world.memory.refs(world.page) == 1


@pytest.mark.parametrize("mapped", [False, True])
def test_the_end_gives_everything_back(world: World, mapped: bool) -> None:
    if mapped:
        world.map()
    world.xen.running = None
    world.xen.destroy_domain(world.guest)
    assert world.guest.domid not in world.xen.domains
    assert (world.memory.types(world.page)[1], world.memory.refs(world.page)) == (0, 1)
    world.xen.destroy_domain(world.neighbour)
    kept = world.free - world.memory.free_frames()
    mappings = world.xen.pv_mappings
    assert mappings is not None
    assert kept == len(mappings._frames.mfns)


def test_the_machine_to_physical_table(world: World) -> None:
    for pfn in (0, 77, world.plan.pages - 1):
        (mfn,) = (
            m
            for m in range(FRAMES)
            if world.memory.m2p(m) == pfn and world.memory.owner(m) == world.guest.domid
        )
        assert world.xen.frames.valid(mfn)


def test_frames_that_are_given_back_leave_the_view(world: World) -> None:
    mfn = world.entry(PLACE + 0x1000) >> 12 & 0xFFFFFFFF
    world.guest.p2m.guest_remove_page(mfn)
    assert world.memory.owner(mfn) == world.guest.domid  # still mapped
    assert world.update(PLACE + 0x1000, 0) == 0
    assert world.memory.refs(mfn) == 0
    assert world.guest.space.lookup(mfn) is None
    assert world.memory.m2p(mfn) == (1 << 64) - 1
