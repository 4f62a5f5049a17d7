# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory operations as guests call them, except for the rearranging ones (test_physmap.py)."""

from __future__ import annotations

import pytest

from tests.hypervisor.memory.world import Caller, Dom, World
from xenograft.abi import memory as abi
from xenograft.abi.errno import Errno
from xenograft.abi.hvm.e820 import e820entry
from xenograft.abi.memory import (
    MEMOP_EXTENT_SHIFT,
    XENMEM_claim_pages,
    XENMEM_current_reservation,
    XENMEM_decrease_reservation,
    XENMEM_exchange,
    XENMEM_increase_reservation,
    XENMEM_maximum_gpfn,
    XENMEM_maximum_ram_page,
    XENMEM_maximum_reservation,
    XENMEM_memory_map,
    XENMEM_populate_physmap,
    XENMEM_set_memory_map,
    xen_memory_domain,
    xen_memory_exchange,
    xen_memory_map,
    xen_memory_reservation,
)
from xenograft.abi.xen import DOMID_SELF, shared_info
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.memory.limits import BUDGET
from xenograft.hypervisor.memory.ops import MEMORY_OPS

RESERVATION_OPS = (
    XENMEM_increase_reservation,
    XENMEM_decrease_reservation,
    XENMEM_populate_physmap,
)


def reserve(
    caller: Caller,
    cmd: int,
    gfns: list[int],
    *,
    order: int = 0,
    flags: int = 0,
    domid: int = DOMID_SELF,
    start: int = 0,
) -> tuple[int, list[int]]:
    """The result, and the list as it is afterwards."""
    addr = caller.frames(gfns)
    request = xen_memory_reservation(
        extent_start=addr,
        nr_extents=len(gfns),
        extent_order=order,
        mem_flags=flags,
        domid=domid,
    )
    result = caller.memory_op(cmd | start << MEMOP_EXTENT_SHIFT, request)
    return result, caller.ints(addr, len(gfns), caller.bits // 8)


def populate(caller: Caller, gfns: list[int], **more: int) -> int:
    return reserve(caller, XENMEM_populate_physmap, gfns, **more)[0]


def decrease(caller: Caller, gfns: list[int], **more: int) -> int:
    return reserve(caller, XENMEM_decrease_reservation, gfns, **more)[0]


# -- the table ---------------------------------------------------------------------------------
def test_every_operation_of_the_interface_has_a_row() -> None:
    declared = {
        name: value
        for name, value in vars(abi).items()
        if name.startswith("XENMEM_") and name[7:] in {row[7:] for row in OPERATIONS}
    }
    assert len(declared) == len(OPERATIONS)
    assert {row.name: row.number for row in MEMORY_OPS.values()} == declared


OPERATIONS = {
    f"XENMEM_{name}"
    for name in (
        "increase_reservation",
        "decrease_reservation",
        "maximum_ram_page",
        "current_reservation",
        "maximum_reservation",
        "machphys_mfn_list",
        "populate_physmap",
        "add_to_physmap",
        "memory_map",
        "machine_memory_map",
        "exchange",
        "machphys_mapping",
        "set_memory_map",
        "maximum_gpfn",
        "remove_from_physmap",
        "set_pod_target",
        "get_pod_target",
        "get_sharing_freed_pages",
        "get_sharing_shared_pages",
        "paging_op",
        "access_op",
        "sharing_op",
        "add_to_physmap_batch",
        "claim_pages",
        "machphys_compat_mfn_list",
        "get_vnumainfo",
        "reserved_device_memory_map",
        "acquire_resource",
    )
}


@pytest.mark.parametrize("kind", [GuestKind.PVH, GuestKind.HVM])
@pytest.mark.parametrize(
    "cmd",
    [
        abi.XENMEM_machine_memory_map,
        abi.XENMEM_machphys_mapping,
        abi.XENMEM_paging_op,
        abi.XENMEM_sharing_op,
        8,
        29,
        63,
    ],
)
def test_refused_to_hvm_type_guests(world: World, kind: GuestKind, cmd: int) -> None:
    caller = Caller(world, world.domain(1, kind, pages=1))
    assert caller.memory_op_at(cmd, caller.put(bytes(256))) == -Errno.ENOSYS


@pytest.mark.parametrize("row", MEMORY_OPS.values(), ids=lambda row: row.name)
def test_a_bad_pointer_is_never_more_than_an_error(guest: Caller, row: object) -> None:
    number = row.number  # type: ignore[attr-defined]
    result = guest.memory_op_at(number, 0xDEAD0000)
    if number in RESERVATION_OPS:
        assert result == 0
    elif row.argument is None:  # type: ignore[attr-defined]
        assert result >= 0
    else:
        assert result in (-Errno.EFAULT, -Errno.EACCES, -Errno.ENOSYS)


# -- populate, increase, decrease ----------------------------------------------------------------
def test_populate(guest: Caller, dom: Dom) -> None:
    assert populate(guest, [100, 300, 200]) == 3
    assert dom.pool.tot_pages == 11
    for gfn in (100, 200, 300):
        mfn, _ = dom.p2m.lookup(gfn)
        assert dom.p2m.frames.gfn_of(mfn) == gfn


def test_populate_of_large_extents(guest: Caller, dom: Dom) -> None:
    assert populate(guest, [512], order=9) == 1
    assert dom.pool.tot_pages == 520
    assert [run[:1] + run[2:] for run in dom.space.entries()] == [(0, 8, 7), (512, 512, 7)]


def test_the_order_has_a_limit(world: World, guest: Caller) -> None:
    assert populate(guest, [1024], order=10) == 0
    assert decrease(guest, [0], order=10) == 0
    dom0 = Caller(world, world.domain(0, privileged=True, max_pages=3000))
    assert populate(dom0, [2048], order=10) == 1
    assert populate(dom0, [4096], order=19) == 0


def test_partial_success_is_counted(guest: Caller, dom: Dom) -> None:
    gfns = list(range(1000, 3000))
    assert populate(guest, gfns) == 992
    assert dom.pool.tot_pages == 1000
    assert guest.continued == 992 // BUDGET


def test_it_goes_on_where_it_stopped(guest: Caller, dom: Dom) -> None:
    assert populate(guest, [100, 101, 102, 103], start=2) == 4
    assert dom.p2m.lookup(101)[0] > 1 << 60
    assert dom.p2m.lookup(102)[0] < 1 << 60


@pytest.mark.parametrize("cmd", RESERVATION_OPS)
@pytest.mark.parametrize(
    "change",
    [
        {"start": 9},
        {"domid": 55},
        {"flags": 5},  # an address width within a page
        {"flags": 1 << 8 | abi.XENMEMF_exact_node_request},
        {"order": 40},
    ],
)
def test_what_is_wrong_changes_nothing(
    guest: Caller, dom: Dom, cmd: int, change: dict[str, int]
) -> None:
    assert reserve(guest, cmd, [1, 2], **change)[0] == change.get("start", 0)
    assert dom.pool.tot_pages == 8


def test_too_many_extents_to_encode(guest: Caller) -> None:
    request = xen_memory_reservation(nr_extents=1 << 26, domid=DOMID_SELF)
    assert guest.memory_op(XENMEM_decrease_reservation, request) == 0
    assert guest.memory_op(XENMEM_decrease_reservation | 5 << 6, request) == 5


def test_a_list_that_ends_in_a_hole(guest: Caller, dom: Dom) -> None:
    addr = guest.frames([100, 101])
    request = xen_memory_reservation(extent_start=addr, nr_extents=5, domid=DOMID_SELF)
    assert guest.memory_op(XENMEM_populate_physmap, request) == 2
    assert dom.pool.tot_pages == 10


def test_other_domains_memory(world: World, guest: Caller) -> None:
    other = world.domain(2, pages=4)
    assert populate(guest, [100], domid=2) == 0
    assert decrease(guest, [0], domid=2) == 0
    assert other.pool.tot_pages == 4
    dom0 = Caller(world, world.domain(0, privileged=True))
    assert populate(dom0, [100], domid=2) == 1
    assert decrease(dom0, [0, 1], domid=2) == 2
    assert other.pool.tot_pages == 3


def test_the_device_model_may(world: World) -> None:
    served, model = world.domain(2, GuestKind.HVM), world.domain(3)
    model.target = served
    assert populate(Caller(world, model), [0, 1], domid=2) == 2
    assert served.pool.tot_pages == 2


def test_nobody_populates_themselves_on_demand(guest: Caller) -> None:
    assert populate(guest, [100], flags=abi.XENMEMF_populate_on_demand) == 0


def test_a_node_is_a_wish(guest: Caller, world: World) -> None:
    assert populate(guest, [100], flags=3 << 8) == 1
    assert populate(guest, [101], flags=abi.XENMEMF_vnode) == 1
    dom0 = Caller(world, world.domain(0, privileged=True))
    assert populate(dom0, [100], flags=1 << 8) == 1
    assert populate(dom0, [101], flags=65 << 8) == 0


def test_decrease(world: World, guest: Caller, dom: Dom) -> None:
    free = world.memory.free_frames()
    assert decrease(guest, [7, 0, 3]) == 3
    assert world.memory.free_frames() == free + 3
    assert decrease(guest, [1, 3, 2]) == 1
    assert dom.pool.tot_pages == 4


def test_decrease_of_an_extent_stops_at_a_hole(guest: Caller, dom: Dom) -> None:
    assert decrease(guest, [4], order=3) == 0
    assert dom.pool.tot_pages == 4


def test_increase_of_a_translated_domain_maps_nothing(guest: Caller, dom: Dom) -> None:
    result, gfns = reserve(guest, XENMEM_increase_reservation, [5, 5], order=2)
    assert (result, gfns) == (2, [5, 5])
    assert dom.pool.tot_pages == 16
    assert len(dom.space.entries()) == 1


def test_pv_guests_learn_their_frames(world: World) -> None:
    pv = Caller(world, world.domain(1, GuestKind.PV, max_pages=64))
    result, mfns = reserve(pv, XENMEM_increase_reservation, [0, 0], order=1)
    assert result == 2
    assert {world.memory.owner(mfn) for mfn in mfns} == {1}
    result, mfns = reserve(pv, XENMEM_populate_physmap, [500, 501])
    assert result == 2
    assert [world.frames.gfn_of(mfn) for mfn in mfns] == [500, 501]
    result, _ = reserve(pv, XENMEM_decrease_reservation, mfns)
    assert result == 2
    assert pv.dom.pool.tot_pages == 4


def test_pv_increase_without_a_list(world: World) -> None:
    pv = Caller(world, world.domain(1, GuestKind.PV, max_pages=64))
    request = xen_memory_reservation(nr_extents=3, domid=DOMID_SELF)
    assert pv.memory_op(XENMEM_increase_reservation, request) == 3
    assert pv.dom.pool.tot_pages == 3


def test_an_address_width(world: World) -> None:
    pv = Caller(world, world.domain(1, GuestKind.PV, max_pages=4000))
    _, mfns = reserve(pv, XENMEM_increase_reservation, [0] * 20, flags=12 + 5)
    assert 0 < sum(mfn != 0 for mfn in mfns) <= 32
    assert all(mfn < 32 for mfn in mfns)


def test_32_bit_callers(world: World, dom: Dom) -> None:
    caller = Caller(world, dom, bits=32)
    assert populate(caller, [100, 101, 102]) == 3
    assert decrease(caller, [101]) == 1
    assert dom.pool.tot_pages == 10


# -- exchange ------------------------------------------------------------------------------------
def exchange(
    caller: Caller,
    given: list[int],
    taken: list[int],
    orders: tuple[int, int] = (0, 0),
    done: int = 0,
    domids: tuple[int, int] = (DOMID_SELF, DOMID_SELF),
) -> tuple[int, int, list[int]]:
    """(result, nr_exchanged, the list of what was taken)."""
    out = caller.frames(taken)
    request = xen_memory_exchange(
        in_=xen_memory_reservation(
            extent_start=caller.frames(given),
            nr_extents=len(given),
            extent_order=orders[0],
            domid=domids[0],
        ),
        out=xen_memory_reservation(
            extent_start=out, nr_extents=len(taken), extent_order=orders[1], domid=domids[1]
        ),
        nr_exchanged=done,
    )
    result = caller.memory_op(XENMEM_exchange, request)
    return result, request.nr_exchanged, caller.ints(out, len(taken), caller.bits // 8)


def pv_with_pages(world: World, count: int) -> tuple[Caller, list[int]]:
    dom = world.domain(1, GuestKind.PV, max_pages=count)
    start = dom.p2m.populate(0, count)[0][0] if count else 0
    return Caller(world, dom), list(range(start, start + count))


def test_exchange_for_contiguous_frames(world: World) -> None:
    pv, mfns = pv_with_pages(world, 8)
    for mfn in mfns:
        world.memory.write_u32(mfn << 12, 0x5EC12E7)
    result, done, taken = exchange(pv, mfns, [100, 104], (0, 2))
    assert (result, done) == (0, 8)
    assert pv.dom.pool.tot_pages == 8
    for base, gfn in zip(taken, (100, 104), strict=True):
        assert [world.frames.gfn_of(base + i) for i in range(4)] == [gfn + i for i in range(4)]
        assert world.memory.read_u32(base << 12) == 0


def test_exchange_for_smaller_extents(world: World) -> None:
    pv, mfns = pv_with_pages(world, 4)
    result, done, taken = exchange(pv, [mfns[0]], [7, 8, 9, 10], (2, 0))
    assert (result, done) == (0, 1)
    assert [world.frames.gfn_of(mfn) for mfn in taken] == [7, 8, 9, 10]


def test_exchange_stops_at_a_frame_in_use(world: World) -> None:
    pv, mfns = pv_with_pages(world, 3)
    world.frames.get_page(mfns[1], 1)
    result, done, _ = exchange(pv, mfns, [50, 51, 52])
    assert (result, done) == (-Errno.EINVAL, 1)
    assert pv.dom.pool.tot_pages == 3
    assert world.memory.owner(mfns[1]) == 1


def test_exchange_gives_back_what_it_took_when_memory_runs_out(world: World) -> None:
    pv, mfns = pv_with_pages(world, 2)
    greedy = world.domain(2, max_pages=10_000)
    world.frames.alloc(greedy.pool, world.memory.free_frames())
    result, done, _ = exchange(pv, mfns, [50], (0, 1))
    assert (result, done) == (-Errno.ENOMEM, 0)
    assert pv.dom.pool.tot_pages == 2
    assert world.frames.get_page(mfns[0], 1)


def test_exchange_continues(world: World) -> None:
    pv, mfns = pv_with_pages(world, 3 * BUDGET)
    result, done, _ = exchange(pv, mfns, list(range(3 * BUDGET)))
    assert (result, done) == (0, 3 * BUDGET)
    assert pv.continued == 2


@pytest.mark.parametrize(
    ("given", "taken", "orders", "done", "domids", "errno"),
    [
        ([0], [0], (0, 10), 0, (DOMID_SELF, DOMID_SELF), Errno.EPERM),
        ([0], [0], (0, 0), 2, (DOMID_SELF, DOMID_SELF), Errno.EINVAL),
        ([0], [0], (0, 0), 0, (DOMID_SELF, 1), Errno.EINVAL),
        ([0], [0, 1], (0, 0), 0, (DOMID_SELF, DOMID_SELF), Errno.EINVAL),
        ([0], [0], (0, 0), 0, (9, 9), Errno.ESRCH),
        ([1 << 40], [0], (0, 0), 0, (DOMID_SELF, DOMID_SELF), Errno.EINVAL),
        ([0], [0], (0, 0), 0, (2, 2), Errno.EPERM),
    ],
)
def test_bad_exchanges(
    world: World,
    given: list[int],
    taken: list[int],
    orders: tuple[int, int],
    done: int,
    domids: tuple[int, int],
    errno: Errno,
) -> None:
    world.domain(2, pages=1)
    pv, _ = pv_with_pages(world, 2)
    assert exchange(pv, given, taken, orders, done, domids)[:2] == (-errno, done)


def test_exchange_that_runs_out_halfway(world: World) -> None:
    """Some of the new frames were there already: they go back, and so do the old ones."""
    pv, mfns = pv_with_pages(world, 4)
    greedy = world.domain(2, max_pages=10_000)
    world.frames.alloc(greedy.pool, world.memory.free_frames() - 2)
    result, done, _ = exchange(pv, [mfns[0]], [1, 2, 3, 4], (2, 0))
    assert (result, done) == (-Errno.ENOMEM, 0)
    assert world.memory.free_frames() == 2
    assert pv.dom.pool.tot_pages == 4


def test_exchange_into_a_list_that_ends(world: World) -> None:
    """The frames are exchanged all the same; only nobody can say where they'd belong."""
    pv, mfns = pv_with_pages(world, 2)
    request = xen_memory_exchange(
        in_=xen_memory_reservation(extent_start=pv.frames(mfns), nr_extents=2, domid=DOMID_SELF),
        out=xen_memory_reservation(extent_start=8, nr_extents=2, domid=DOMID_SELF),
    )
    assert pv.memory_op(XENMEM_exchange, request) == -Errno.EFAULT
    assert request.nr_exchanged == 0
    assert pv.dom.pool.tot_pages == 2
    again = XENMEM_exchange | 1 << MEMOP_EXTENT_SHIFT
    assert pv.memory_op(again, request) == -Errno.EINVAL


def test_nothing_left_to_exchange(world: World) -> None:
    pv, mfns = pv_with_pages(world, 1)
    assert exchange(pv, mfns, [5], done=1)[:2] == (0, 1)


def test_translated_domains_cannot_exchange(guest: Caller) -> None:
    assert exchange(guest, [3], [3])[:2] == (-Errno.EOPNOTSUPP, 0)
    assert exchange(guest, [99], [3])[:2] == (-Errno.EINVAL, 0)


def test_exchange_by_a_32_bit_caller(world: World) -> None:
    pv, mfns = pv_with_pages(world, 4)
    pv.bits = 32
    result, done, taken = exchange(pv, mfns, [9], (0, 2))
    assert (result, done) == (0, 4)
    assert world.frames.gfn_of(taken[0]) == 9


# -- numbers -------------------------------------------------------------------------------------
def ask(caller: Caller, cmd: int, domid: int = DOMID_SELF) -> int:
    return caller.memory_op(cmd, xen_memory_domain(domid=domid))


def test_reservations(world: World, guest: Caller) -> None:
    world.domain(2, pages=3)
    assert ask(guest, XENMEM_current_reservation) == 8
    assert ask(guest, XENMEM_maximum_reservation) == 1000
    assert ask(guest, XENMEM_maximum_gpfn) == 7
    assert ask(guest, XENMEM_current_reservation, 2) == -Errno.EPERM
    assert ask(guest, XENMEM_current_reservation, 9) == -Errno.ESRCH
    dom0 = Caller(world, world.domain(0, privileged=True))
    assert ask(dom0, XENMEM_current_reservation, 2) == 3
    assert ask(dom0, XENMEM_current_reservation | 1 << 6, 2) == -Errno.EINVAL


def test_maximum_gpfn_never_falls(guest: Caller, dom: Dom) -> None:
    assert populate(guest, [5000]) == 1
    assert decrease(guest, [5000]) == 1
    assert ask(guest, XENMEM_maximum_gpfn) == 5000


@pytest.mark.parametrize("bits", [64, 32])
def test_maximum_gpfn_of_a_pv_guest_is_what_it_says(world: World, bits: int) -> None:
    dom = world.domain(1, GuestKind.PV)
    dom.bits = bits
    pv = Caller(world, dom)
    assert ask(pv, XENMEM_maximum_gpfn) == 0
    at = dom.shared_info_maddr + shared_info.offsetof("arch.max_pfn", bits)
    world.memory.write_u32(at, 5000)
    assert ask(pv, XENMEM_maximum_gpfn) == 4999


def test_maximum_ram_page(guest: Caller) -> None:
    assert guest.memory_op_at(XENMEM_maximum_ram_page, 0) == 4096
    assert guest.memory_op_at(XENMEM_maximum_ram_page | 1 << 6, 0) == -Errno.EINVAL


def test_results_for_32_bit_callers_fit(world: World) -> None:
    dom = world.domain(1, max_pages=1 << 40)
    caller = Caller(world, dom, bits=32)
    assert ask(caller, XENMEM_maximum_reservation) == 0x7FFFFFFF


def test_claims(world: World, guest: Caller) -> None:
    dom0 = Caller(world, world.domain(0, privileged=True))
    other = world.domain(2, max_pages=500)
    claim = xen_memory_reservation(nr_extents=400, domid=2)
    assert guest.memory_op(XENMEM_claim_pages, claim) == -Errno.EPERM
    assert dom0.memory_op(XENMEM_claim_pages, claim) == 0
    assert other.pool.claimed == 400
    assert dom0.memory_op(XENMEM_claim_pages, claim) == -Errno.EINVAL
    claim.nr_extents = 0
    assert dom0.memory_op(XENMEM_claim_pages, claim) == 0
    for bad in ({"extent_start": 8}, {"extent_order": 1}, {"mem_flags": 1}, {"domid": 9}):
        wrong = xen_memory_reservation(**({"nr_extents": 9, "domid": 2} | bad))
        assert dom0.memory_op(XENMEM_claim_pages, wrong) == -Errno.EINVAL


# -- memory maps ---------------------------------------------------------------------------------
E820 = [(0, 0xA0000, 1), (0x100000, 0x7F00000, 1), (0xFC000000, 0x1000, 2)]


def set_map(caller: Caller, entries: list[tuple[int, int, int]], domid: int) -> int:
    data = b"".join(e820entry(addr=a, size=s, type=t).pack() for a, s, t in entries)
    request = abi.xen_foreign_memory_map(
        domid=domid,
        map=xen_memory_map(nr_entries=len(entries), buffer=caller.put(data or b"\0")),
    )
    return caller.memory_op(XENMEM_set_memory_map, request)


def get_map(caller: Caller, room: int) -> tuple[int, int, list[e820entry]]:
    buffer = caller.put(bytes(20 * room))
    request = xen_memory_map(nr_entries=room, buffer=buffer)
    result = caller.memory_op(XENMEM_memory_map, request)
    data = caller.memory.read(buffer, 20 * room)
    count = min(request.nr_entries, room)
    return result, request.nr_entries, [e820entry.unpack(data[20 * i :]) for i in range(count)]


def test_memory_maps(world: World, guest: Caller) -> None:
    dom0 = Caller(world, world.domain(0, privileged=True))
    assert get_map(guest, 4)[0] == -Errno.ENOSYS
    assert set_map(dom0, E820, 1) == 0
    result, count, entries = get_map(guest, 10)
    assert (result, count) == (0, 3)
    assert [(entry.addr, entry.size, entry.type) for entry in entries] == E820
    result, count, entries = get_map(guest, 2)
    assert (result, count, len(entries)) == (0, 2, 2)


def test_memory_map_by_a_32_bit_caller(world: World, guest: Caller) -> None:
    assert set_map(guest, E820, DOMID_SELF) == 0
    result, count, entries = get_map(Caller(world, guest.dom, bits=32), 5)
    assert (result, count) == (0, 3)
    assert entries[1].size == 0x7F00000


def test_bad_memory_maps(world: World, guest: Caller) -> None:
    world.domain(2)
    assert set_map(guest, E820, 2) == -Errno.EPERM
    assert set_map(guest, E820, 9) == -Errno.ESRCH
    assert set_map(guest, [(0, 0, 1)] * 1025, 1) == -Errno.EINVAL
    assert set_map(guest, [(0, 1, 1)] * 1024, 1) == 0
    request = abi.xen_foreign_memory_map(domid=1, map=xen_memory_map(nr_entries=3, buffer=64))
    assert guest.memory_op(XENMEM_set_memory_map, request) == -Errno.EFAULT
    assert guest.memory_op_at(XENMEM_memory_map | 1 << 6, 0) in (-Errno.EFAULT, -Errno.ENOSYS)


def test_machine_memory_map(world: World) -> None:
    request = xen_memory_map(nr_entries=8)
    pv = Caller(world, world.domain(1, GuestKind.PV))
    assert pv.memory_op(abi.XENMEM_machine_memory_map, request) == -Errno.EPERM
    dom0 = Caller(world, world.domain(0, GuestKind.PV, privileged=True))
    assert dom0.memory_op(abi.XENMEM_machine_memory_map, request) == 0
    assert request.nr_entries == 1
    buffer = dom0.put(bytes(40))
    request = xen_memory_map(nr_entries=2, buffer=buffer)
    assert dom0.memory_op(abi.XENMEM_machine_memory_map, request) == 0
    entry = e820entry.unpack(dom0.memory.read(buffer, 20))
    assert (entry.addr, entry.size, entry.type) == (0, 4096 << 12, 1)
    request.nr_entries = 1
    assert dom0.memory_op(abi.XENMEM_machine_memory_map, request) == -Errno.EINVAL


def test_machphys(world: World, guest: Caller) -> None:
    mapping = abi.xen_machphys_mapping()
    pv = Caller(world, world.domain(2, GuestKind.PV))
    assert pv.memory_op(abi.XENMEM_machphys_mapping, mapping) == 0
    assert mapping.v_start == 0xFFFF800000000000
    assert mapping.max_mfn == (1 << 38) // 8 - 1
    dom0 = Caller(world, world.domain(0, GuestKind.PV, privileged=True))
    assert dom0.memory_op(abi.XENMEM_machphys_mapping, mapping) == 0
    assert mapping.max_mfn == 4095
    narrow = Caller(world, pv.dom, bits=32)
    mapping = abi.xen_machphys_mapping()
    assert narrow.memory_op(abi.XENMEM_machphys_mapping, mapping) == 0
    assert (mapping.v_start, mapping.v_end) == (0xF5800000, 0xFFE00000)
    frames = abi.xen_machphys_mfn_list(max_extents=4, extent_start=8, nr_extents=3)
    for cmd in (abi.XENMEM_machphys_mfn_list, abi.XENMEM_machphys_compat_mfn_list):
        assert guest.memory_op(cmd, frames) == 0
        assert frames.nr_extents == 0


# -- what isn't there ----------------------------------------------------------------------------
def test_populate_on_demand_targets(world: World, guest: Caller) -> None:
    dom0 = Caller(world, world.domain(0, privileged=True))
    world.domain(2, GuestKind.PV)
    target = abi.xen_pod_target(domid=1, target_pages=500, pod_entries=9)
    for cmd in (abi.XENMEM_set_pod_target, abi.XENMEM_get_pod_target):
        assert guest.memory_op(cmd, target) == -Errno.EPERM
        assert dom0.memory_op(cmd, target) == 0
        assert (target.tot_pages, target.pod_cache_pages, target.pod_entries) == (8, 0, 0)
        assert dom0.memory_op(cmd, abi.xen_pod_target(domid=9)) == -Errno.ESRCH
        assert dom0.memory_op(cmd, abi.xen_pod_target(domid=2)) == -Errno.EINVAL
    target.target_pages = 1001
    assert dom0.memory_op(abi.XENMEM_set_pod_target, target) == -Errno.EINVAL


def test_sharing(guest: Caller) -> None:
    assert guest.memory_op_at(abi.XENMEM_get_sharing_freed_pages, 0) == 0
    assert guest.memory_op_at(abi.XENMEM_get_sharing_shared_pages, 0) == 0


def test_virtual_numa(world: World, guest: Caller) -> None:
    world.domain(2)
    cmd = abi.XENMEM_get_vnumainfo
    info = abi.xen_vnuma_topology_info
    assert guest.memory_op(cmd, info(domid=DOMID_SELF)) == -Errno.EOPNOTSUPP
    assert guest.memory_op(cmd, info(domid=DOMID_SELF, pad=1)) == -Errno.EINVAL
    assert guest.memory_op(cmd, info(domid=2)) == -Errno.EPERM
    assert guest.memory_op(cmd, info(domid=9)) == -Errno.ESRCH


def test_reserved_device_memory(guest: Caller) -> None:
    request = abi.xen_reserved_device_memory_map(flags=1, nr_entries=5)
    assert guest.memory_op(abi.XENMEM_reserved_device_memory_map, request) == 0
    assert request.nr_entries == 0
    request.flags = 2
    assert guest.memory_op(abi.XENMEM_reserved_device_memory_map, request) == -Errno.EINVAL


def test_access_rights(world: World, guest: Caller) -> None:
    world.domain(2, GuestKind.PV)
    dom0 = Caller(world, world.domain(0, privileged=True))

    def ask_for(caller: Caller, domid: int) -> int:
        return caller.memory_op(abi.XENMEM_access_op, abi.xen_mem_access_op(domid=domid))

    assert ask_for(guest, 1) == -Errno.EPERM
    assert ask_for(guest, 9) == -Errno.ESRCH
    assert ask_for(guest, 0) == -Errno.EPERM
    assert ask_for(dom0, 2) == -Errno.EINVAL
    assert ask_for(dom0, 1) == -Errno.ENODEV


def test_operations_that_never_continue(guest: Caller) -> None:
    addr = guest.put(bytes(256))
    for cmd in (abi.XENMEM_memory_map, abi.XENMEM_get_sharing_freed_pages):
        assert guest.memory_op_at(cmd | 1 << MEMOP_EXTENT_SHIFT, addr) == -Errno.ENOSYS
