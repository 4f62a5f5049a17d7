# SPDX-License-Identifier: GPL-2.0-or-later
"""Populate on demand: what comes where, what it counts as, and what happens when none is left."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hypervisor.memory.world import Caller, Dom, World
from xenograft.abi import memory as abi
from xenograft.abi.errno import Errno, XenError
from xenograft.engine.protocol import PAGE_SHIFT, AccessError
from xenograft.hypervisor.call import CpuAccess
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.memory.frames import INVALID_MFN
from xenograft.hypervisor.memory.p2m import FaultAction
from xenograft.hypervisor.memory.p2m_types import P2mType
from xenograft.hypervisor.memory.pod import BATCH, PopulateOnDemand

ENTRIES = 64
TARGET = 24


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def dom(world: World) -> Dom:
    dom = world.domain(1, max_pages=TARGET)
    dom.p2m.populate_on_demand(0, ENTRIES)
    pod(dom).set_target(TARGET)
    return dom


def pod(dom: Dom) -> PopulateOnDemand:
    assert dom.p2m.pod is not None
    return dom.p2m.pod


def counts(dom: Dom) -> tuple[int, int, int]:
    """(reservation, entries, cache)"""
    return dom.pool.tot_pages, len(pod(dom).entries), len(pod(dom).cache)


def test_the_reservation_is_the_target(dom: Dom) -> None:
    assert counts(dom) == (TARGET, ENTRIES, TARGET)
    assert dom.p2m.lookup(5) == (INVALID_MFN, P2mType.populate_on_demand)
    assert dom.p2m.max_mapped == ENTRIES - 1


def test_a_touch_brings_a_batch(dom: Dom) -> None:
    assert dom.p2m.fault(20, 1) is FaultAction.RETRY
    assert counts(dom) == (TARGET, ENTRIES - BATCH, TARGET - BATCH)
    for gfn in range(16, 32):
        assert dom.p2m.lookup(gfn)[1] is P2mType.ram_rw
    assert dom.p2m.lookup(32)[1] is P2mType.populate_on_demand
    assert dom.p2m.fault(200, 0) is FaultAction.MMIO


def test_the_last_frame_comes_where_it_is_wanted(dom: Dom) -> None:
    dom.p2m.touch(0)
    dom.p2m.touch(20)
    assert len(pod(dom).cache) == 0
    for gfn in range(ENTRIES):
        if dom.p2m.lookup(gfn)[1] is P2mType.ram_rw:
            dom.write(gfn, 0, b"kept")
    assert dom.p2m.lookup(20)[1] is P2mType.ram_rw
    assert not dom.crashes


def test_a_page_that_is_granted_or_looked_at_comes_too(dom: Dom) -> None:
    page = dom.p2m.get_page(40)
    assert page is not None
    assert page[1] is P2mType.ram_rw
    dom.p2m.frames.put_page(page[0])


def test_zero_pages_go_back_when_the_cache_is_empty(dom: Dom) -> None:
    dom.p2m.touch(0)
    dom.p2m.touch(16)
    dom.write(3, 8, b"data")
    assert counts(dom) == (TARGET, ENTRIES - TARGET, 0)
    assert dom.p2m.touch(63)
    assert dom.read(3, 8, 4) == b"data"
    assert dom.p2m.lookup(63)[1] is P2mType.ram_rw
    assert dom.pool.tot_pages == TARGET
    assert not dom.crashes


def test_out_of_memory_is_a_crash(dom: Dom) -> None:
    for gfn in range(ENTRIES):
        if dom.crashes:
            break
        dom.p2m.touch(gfn)
        if dom.p2m.lookup(gfn)[1] is P2mType.ram_rw:
            dom.write(gfn, 0, b"x")
    assert gfn == TARGET + 1
    assert dom.crashes[0].startswith(f"out of populate-on-demand memory: tot={TARGET} entries=40;")
    assert dom.p2m.get_page(ENTRIES - 1) is None
    assert dom.pool.tot_pages == TARGET


def test_entries_that_are_given_up_need_no_frame(dom: Dom) -> None:
    guest = Caller(dom.hypervisor, dom)
    reservation = abi.xen_memory_reservation(nr_extents=40, domid=1)
    reservation.extent_start = guest.memory.put(
        b"".join(n.to_bytes(8, "little") for n in range(40))
    )
    assert guest.memory_op(abi.XENMEM_decrease_reservation, reservation) == 40
    assert counts(dom) == (TARGET, ENTRIES - 40, TARGET)
    for gfn in range(40, ENTRIES):
        dom.p2m.touch(gfn)
        dom.write(gfn, 0, b"x")
    assert counts(dom) == (TARGET, 0, 0)
    assert not dom.crashes
    dom.p2m.guest_remove_page(50)
    assert dom.pool.tot_pages == TARGET - 1


def test_a_page_that_is_given_back_serves_another_entry(dom: Dom) -> None:
    dom.p2m.touch(0)
    dom.write(2, 0, b"secret")
    mfn = dom.p2m.lookup(2)[0]
    dom.p2m.guest_remove_page(2)
    assert dom.p2m.lookup(2)[1] is P2mType.mmio_dm
    assert mfn in pod(dom).cache
    assert counts(dom) == (TARGET, ENTRIES - BATCH, TARGET - BATCH + 1)
    while mfn in pod(dom).cache:
        dom.p2m.touch(pod(dom).entries.runs()[0][0])
    assert b"secret" not in dom.hypervisor.memory.read(mfn << PAGE_SHIFT, 4096)


def test_a_page_that_others_map_is_not_kept(dom: Dom) -> None:
    dom.p2m.touch(0)
    mfn = dom.p2m.lookup(2)[0]
    assert dom.p2m.frames.get_page(mfn, 1)
    dom.p2m.guest_remove_page(2)
    assert mfn not in pod(dom).cache
    dom.p2m.frames.put_page(mfn)
    assert dom.pool.tot_pages == TARGET - 1


def test_a_frame_that_is_mapped_over_an_entry_ends_it(dom: Dom) -> None:
    dom.pool.max_pages += 1
    dom.p2m.populate(7)
    assert counts(dom) == (TARGET + 1, ENTRIES - 1, TARGET)


def test_targets(dom: Dom) -> None:
    dom.pool.max_pages = 1000
    pod(dom).set_target(TARGET - 1)
    assert counts(dom) == (TARGET, ENTRIES, TARGET)
    dom.p2m.touch(0)
    pod(dom).set_target(TARGET + 8)
    assert counts(dom) == (TARGET + 8, ENTRIES - BATCH, TARGET + 8 - BATCH)
    pod(dom).set_target(900)
    assert counts(dom) == (ENTRIES, ENTRIES - BATCH, ENTRIES - BATCH)
    with pytest.raises(XenError) as error:
        dom.p2m.populate_on_demand(0, 1)
    assert error.value.errno is Errno.EBUSY
    with pytest.raises(XenError) as error:
        dom.p2m.populate_on_demand(1 << 36, 1)
    assert error.value.errno is Errno.EINVAL


def test_by_hypercall(world: World) -> None:
    world.domain(1, max_pages=100)
    world.domain(2, GuestKind.PV, max_pages=100)
    dom0 = Caller(world, world.domain(0, privileged=True))
    reservation = abi.xen_memory_reservation(
        nr_extents=2, extent_order=4, mem_flags=abi.XENMEMF_populate_on_demand, domid=1
    )
    reservation.extent_start = dom0.memory.put(bytes(8) + (64).to_bytes(8, "little"))
    assert dom0.memory_op(abi.XENMEM_populate_physmap, reservation) == 2
    target = abi.xen_pod_target(domid=1, target_pages=10)
    assert dom0.memory_op(abi.XENMEM_set_pod_target, target) == 0
    assert (target.tot_pages, target.pod_cache_pages, target.pod_entries) == (10, 10, 32)
    for domid in (0, 2):
        reservation.domid = domid
        assert dom0.memory_op(abi.XENMEM_populate_physmap, reservation) == 0


def test_a_dead_domain_keeps_nothing(world: World, dom: Dom) -> None:
    dom.p2m.touch(0)
    world.destroy(dom)
    assert world.memory.free_frames() == world.free_at_start


class Untouched:
    """A CPU whose pages can be reached once they're there; addresses are guest-physical."""

    def __init__(self, dom: Dom) -> None:
        self._dom = dom

    def translate(self, gva: int) -> int:
        return gva

    def read(self, gva: int, size: int) -> bytes:
        return self._dom.space.read(gva, size)

    def write(self, gva: int, data: bytes) -> None:
        self._dom.space.write(gva, data)


def test_copies_bring_pages(dom: Dom) -> None:
    access = CpuAccess(Untouched(dom), dom.p2m)  # type: ignore[arg-type]
    access.write(0xFFF, b"ab")
    assert access.read(0xFFF, 3) == b"ab\0"
    assert access.read(40 << PAGE_SHIFT, 2) == b"\0\0"
    for address in (ENTRIES << PAGE_SHIFT, 200 << PAGE_SHIFT):
        with pytest.raises(XenError) as error:
            access.read(address, 1)
        assert error.value.errno is Errno.EFAULT
    without = CpuAccess(Untouched(dom))  # type: ignore[arg-type]
    with pytest.raises(XenError):
        without.write(60 << PAGE_SHIFT, b"x")


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["touch", "write", "clear", "remove", "target"]), st.integers(0, 47)),
    max_size=60,
)


@settings(deadline=None)
@given(OPERATIONS)
def test_contents_and_counts_hold(operations: list[tuple[str, int]]) -> None:
    """What was written stays, what wasn't is zero, and the reservation never exceeds its limit."""
    world = World(256)
    dom = world.domain(1, max_pages=40)
    dom.p2m.populate_on_demand(0, 48)
    pod(dom).set_target(12)
    written: dict[int, bytes] = {}
    gone: set[int] = set()
    for operation, gfn in operations:
        if operation == "target":
            pod(dom).set_target(min(gfn, 40))
        elif gfn in gone:
            continue
        elif operation == "remove":
            dom.p2m.guest_remove_page(gfn)
            gone.add(gfn)
            written.pop(gfn, None)
        else:
            dom.p2m.touch(gfn)
            if dom.crashes:
                break
            if operation != "touch":
                data = bytes([gfn + 1]) * 4 if operation == "write" else bytes(4)
                dom.write(gfn, 100, data)
                written[gfn] = data
        mapped = [one for one in range(48) if dom.p2m.lookup(one)[1] is P2mType.ram_rw]
        assert dom.pool.tot_pages == len(mapped) + len(pod(dom).cache) <= 40
        assert not set(mapped) & set(pod(dom).entries)
        assert not gone & (set(mapped) | set(pod(dom).entries))
    if not dom.crashes:
        for gfn, data in written.items():
            dom.p2m.touch(gfn)
            if not dom.crashes:
                assert dom.read(gfn, 100, 4) == data
    world.destroy(dom)
    assert world.memory.free_frames() == world.free_at_start


def test_a_hole_stays_an_error(dom: Dom) -> None:
    with pytest.raises(AccessError):
        dom.read(ENTRIES, 0, 1)
