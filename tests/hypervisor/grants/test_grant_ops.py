# SPDX-License-Identifier: GPL-2.0-or-later
"""The family's table and filters; transfer, swap, cache_flush; arguments at random."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hypervisor.grants.bench import (
    entry_maddr,
    flags_of,
    grant,
    map_ref,
    mfn,
    unmap_ref,
)
from tests.hypervisor.memory.world import Caller, Dom, World
from xenograft.abi import grant_table as abi
from xenograft.abi.errno import Errno
from xenograft.abi.grant_table import (
    GNTTAB_CACHE_CLEAN,
    GNTTAB_CACHE_INVAL,
    GNTTAB_CACHE_SOURCE_GREF,
    GNTST_bad_domain,
    GNTST_bad_gntref,
    GNTST_bad_page,
    GNTST_eagain,
    GNTST_general_error,
    GNTST_okay,
    GNTTABOP_cache_flush,
    GNTTABOP_map_grant_ref,
    GNTTABOP_swap_grant_ref,
    GNTTABOP_transfer,
    GNTTABOP_unmap_and_replace,
    GNTTABOP_unmap_grant_ref,
)
from xenograft.abi.struct import Struct
from xenograft.hypervisor.grants.ops import BUDGET, GNTTABOPS
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.memory.ops import MEMORY_OPS
from xenograft.hypervisor.memory.p2m_types import GRANT_TYPES, SPECIAL_TYPES
from xenograft.hypervisor.ops import Op

# hvm_grant_table_op() of Xen 4.17 lets these through.
FOR_HVM = {
    "query_size",
    "setup_table",
    "set_version",
    "get_version",
    "copy",
    "map_grant_ref",
    "unmap_grant_ref",
    "swap_grant_ref",
}


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def pv(world: World) -> Caller:
    return Caller(world, world.domain(3, GuestKind.PV))


def test_every_operation_has_a_row() -> None:
    declared = {name: no for name, no in vars(abi).items() if name.startswith("GNTTABOP_")}
    assert {row.name: row.number for row in GNTTABOPS.values()} == declared


@pytest.mark.parametrize("kind", list(GuestKind))
@pytest.mark.parametrize("row", GNTTABOPS.values(), ids=lambda row: row.name)
def test_the_filter_of_hvm_type_guests(world: World, kind: GuestKind, row: object) -> None:
    name = row.name.removeprefix("GNTTABOP_")  # type: ignore[attr-defined]
    caller = Caller(world, world.domain(1, kind))
    result = caller.grant_op_at(row.number, caller.put(bytes(64)), 0)  # type: ignore[attr-defined]
    refused = name == "dump_table" or (kind is not GuestKind.PV and name not in FOR_HVM)
    assert (result == -Errno.ENOSYS) is refused


@pytest.mark.parametrize("kind", list(GuestKind))
def test_numbers_and_counts(world: World, kind: GuestKind) -> None:
    caller = Caller(world, world.domain(1, kind))
    refused = -Errno.EINVAL if kind is GuestKind.PV else -Errno.ENOSYS
    assert caller.grant_op_at(13, 0, 1) == -Errno.ENOSYS
    assert caller.grant_op_at(1 << 12 | GNTTABOP_map_grant_ref, 0, 0) == refused
    assert caller.grant_op_at(GNTTABOP_map_grant_ref, 0, 0xFFFFFFFF) == -Errno.EINVAL
    assert caller.grant_op_at(GNTTABOP_map_grant_ref, 0, 0) == 0
    assert caller.grant_op_at(1 << 32 | GNTTABOP_map_grant_ref, 0, 1 << 32) == 0


def test_long_arrays_of_mappings(world: World) -> None:
    front, back = world.domain(1, pages=4), Caller(world, world.domain(2))
    grant(front, 20, 2, 3)
    maps = [
        abi.gnttab_map_grant_ref(host_addr=(60 + i) << 12, flags=2, ref=20, dom=1)
        for i in range(70)
    ]
    assert back.grant_op(GNTTABOP_map_grant_ref, *maps) == 0
    assert [op.handle for op in maps] == list(range(70))
    assert back.continued == 69 // BUDGET
    unmaps = [abi.gnttab_unmap_grant_ref(host_addr=op.host_addr, handle=op.handle) for op in maps]
    assert back.grant_op(GNTTABOP_unmap_grant_ref, *unmaps) == 0
    assert {op.status for op in unmaps} == {GNTST_okay}
    assert front.grants.active == {}


# -- swap ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("version", [1, 2])
def test_swap(world: World, version: int) -> None:
    front, back = world.domain(1, pages=8), Caller(world, world.domain(2))
    front.grants.set_version(version)
    guest = Caller(world, front)
    grant(front, 20, 2, 3)
    grant(front, 21, 9, 4, abi.GTF_readonly)

    def swap(a: int, b: int) -> int:
        op = abi.gnttab_swap_grant_ref(ref_a=a, ref_b=b, status=9)
        assert guest.grant_op(GNTTABOP_swap_grant_ref, op) == 0
        return op.status

    assert swap(20, 21) == GNTST_okay
    assert front.grants.shared.page(21).gfn == 3
    assert flags_of(front, 20) == abi.GTF_permit_access | abi.GTF_readonly
    assert swap(20, 20) == GNTST_okay
    assert swap(20, 512) == GNTST_bad_gntref
    assert swap(512, 20) == GNTST_bad_gntref
    op = map_ref(back, front, 21, 60)
    assert swap(20, 21) == swap(21, 20) == GNTST_eagain
    assert unmap_ref(back, op.handle, 60) == GNTST_okay
    assert swap(20, 21) == GNTST_okay


# -- transfer -----------------------------------------------------------------------------------
def accept(dom: Dom, ref: int, giver: int, gfn: int) -> None:
    """The entry of a guest that waits for a page."""
    memory, at = dom.hypervisor.memory, entry_maddr(dom, ref)
    if dom.grants.version == 1:
        memory.write(at, struct.pack("<HHI", abi.GTF_accept_transfer, giver, gfn))
    else:
        memory.write(at, struct.pack("<HHIQ", abi.GTF_accept_transfer, giver, 0, gfn))


def transfer(caller: Caller, frame: int, domid: int, ref: int) -> int:
    op = abi.gnttab_transfer(mfn=frame, domid=domid, ref=ref, status=9)
    assert caller.grant_op(GNTTABOP_transfer, op) == 0
    return op.status


def pv_page(caller: Caller) -> int:
    frame = caller.dom.p2m.populate(0, 1)[0][0]
    caller.world.memory.write(frame << 12, b"a present")
    return frame


DONE = abi.GTF_accept_transfer | abi.GTF_transfer_committed | abi.GTF_transfer_completed


@pytest.mark.parametrize("version", [1, 2])
def test_transfer_to_a_translated_domain(world: World, pv: Caller, version: int) -> None:
    taker = world.domain(1, pages=2)
    taker.grants.set_version(version)
    accept(taker, 20, 3, 50)
    frame = pv_page(pv)
    assert transfer(pv, frame, 1, 20) == GNTST_okay
    assert taker.p2m.lookup(50)[0] == frame
    assert taker.read(50, 0, 9) == b"a present"
    assert flags_of(taker, 20) == DONE
    assert (pv.dom.pool.tot_pages, taker.pool.tot_pages) == (0, 3)
    assert transfer(pv, frame, 1, 20) == GNTST_bad_page


def test_transfer_to_a_pv_domain(world: World, pv: Caller) -> None:
    taker = world.domain(1, GuestKind.PV)
    accept(taker, 20, 3, 50)
    frame = pv_page(pv)
    assert transfer(pv, frame, 1, 20) == GNTST_okay
    assert taker.grants.shared.page(20).gfn == frame
    assert world.frames.gfn_of(frame) == 50


def test_what_cannot_be_transferred(world: World, pv: Caller) -> None:
    taker = world.domain(1, pages=2, max_pages=3)
    accept(taker, 20, 3, 50)
    assert transfer(pv, 1 << 40, 1, 20) == GNTST_bad_page
    assert transfer(pv, mfn(taker, 0), 1, 20) == GNTST_bad_page
    frame = pv_page(pv)
    world.frames.get_page(frame, 3)
    assert transfer(pv, frame, 1, 20) == GNTST_bad_page
    world.frames.put_page(frame)
    assert pv.dom.pool.tot_pages == 1


@pytest.mark.parametrize(
    ("domid", "ref", "status"),
    [
        (9, 20, GNTST_bad_domain),
        (1, 21, GNTST_general_error),
        (1, 22, GNTST_general_error),
        (1, 5000, GNTST_general_error),
        (2, 20, GNTST_general_error),
    ],
)
def test_a_transfer_that_fails_loses_the_page(
    world: World, pv: Caller, domid: int, ref: int, status: int
) -> None:
    taker = world.domain(1, pages=2)
    full = world.domain(2, pages=2, max_pages=2)
    accept(taker, 22, 4, 50)
    accept(full, 20, 3, 50)
    free = world.memory.free_frames()
    assert transfer(pv, pv_page(pv), domid, ref) == status
    assert world.memory.free_frames() == free
    assert pv.dom.pool.tot_pages == 0
    assert taker.pool.tot_pages == full.pool.tot_pages == 2


def test_a_transfer_to_a_bad_place(world: World, pv: Caller) -> None:
    taker = world.domain(1, pages=2)
    accept(taker, 20, 3, 60)
    taker.p2m.set_mmio_direct(60)
    assert transfer(pv, pv_page(pv), 1, 20) == GNTST_general_error
    assert flags_of(taker, 20) == DONE
    assert taker.pool.tot_pages == 3


# -- unmap_and_replace, cache_flush --------------------------------------------------------------
def test_unmap_and_replace_goes_to_the_page_tables(world: World, pv: Caller) -> None:
    seen: list[tuple[int, ...]] = []

    class Mapper:
        def create(self, *what: int) -> None:
            seen.append(what)

        def replace(self, *what: int) -> None:
            seen.append(what)

    pv.dom.grants.host_mapper = Mapper()
    front = world.domain(1, pages=4)
    grant(front, 20, 3, 2)
    op = map_ref(pv, front, 20, 7)
    frame = mfn(front, 2)
    replace = abi.gnttab_unmap_and_replace(host_addr=7 << 12, new_addr=8 << 12, handle=op.handle)
    assert pv.grant_op(GNTTABOP_unmap_and_replace, replace) == 0
    assert replace.status == GNTST_okay
    assert seen == [(7 << 12, frame, 2, 0), (7 << 12, frame, 8 << 12, 2)]
    assert front.grants.active == {}


def test_cache_flush(world: World, pv: Caller) -> None:
    front = world.domain(1, pages=4)
    frame, own = mfn(front, 2), pv_page(pv)

    def flush(of: int, offset: int = 0, length: int = 64, what: int = GNTTAB_CACHE_CLEAN) -> int:
        op = abi.gnttab_cache_flush(offset=offset, length=length, op=what)
        op.a.dev_bus_addr = of << 12
        return pv.grant_op(GNTTABOP_cache_flush, op)

    assert flush(own) == 0
    assert flush(own, what=GNTTAB_CACHE_CLEAN | GNTTAB_CACHE_INVAL) == 0
    assert flush(own, what=GNTTAB_CACHE_INVAL) == -Errno.EOPNOTSUPP
    assert flush(own, what=0) == 0
    assert flush(own, length=0) == 0
    assert flush(own, 4095, 2) == -Errno.EINVAL
    assert flush(own, 4096, 0) == -Errno.EINVAL
    assert flush(own, what=GNTTAB_CACHE_SOURCE_GREF | 1) == -Errno.EINVAL
    assert flush(1 << 40) == -Errno.EINVAL
    assert flush(world.memory.frames - 1) == -Errno.EPERM
    assert flush(frame) == -Errno.EINVAL
    grant(front, 20, 3, 2)
    op = abi.gnttab_map_grant_ref(flags=abi.GNTMAP_device_map, ref=20, dom=1)
    assert pv.grant_op(GNTTABOP_map_grant_ref, op) == 0
    assert flush(frame) == 0
    assert world.memory.refs(frame) == 2


def test_long_arrays_of_flushes(pv: Caller) -> None:
    op = abi.gnttab_cache_flush(length=64, op=GNTTAB_CACHE_CLEAN)
    op.a.dev_bus_addr = pv_page(pv) << 12
    assert pv.grant_op(GNTTABOP_cache_flush, *[op] * 70) == 0
    assert pv.continued == 2


def test_status_frames_at_a_bad_address(pv: Caller) -> None:
    pv.dom.grants.set_version(2)
    op = abi.gnttab_get_status_frames(dom=3, nr_frames=1, frame_list=8)
    assert pv.grant_op(abi.GNTTABOP_get_status_frames, op) == 0
    assert op.status == abi.GNTST_bad_virt_addr


# -- anything at all -----------------------------------------------------------------------------
def check_consistency(world: World) -> None:
    """No domain reaches a frame that is neither its own nor granted or foreign to it."""
    for dom in world.domains.values():
        for gfn, first, count, _ in dom.space.entries():
            for i in range(count):
                kind = dom.p2m.lookup(gfn + i)[1]
                owner = world.memory.owner(first + i)
                assert kind in SPECIAL_TYPES or owner == dom.domid
                assert kind not in GRANT_TYPES or any(
                    entry.mfn == first + i and entry.domid == dom.domid
                    for other in world.domains.values()
                    for entry in other.grants.active.values()
                )


numbers = st.one_of(
    st.integers(0, 4),
    st.integers(0, 70),
    st.sampled_from([1 << 12, 2 << 12, 0x7FF0, 0xFFFF, 1 << 31, (1 << 32) - 1, (1 << 64) - 1]),
    st.integers(0, (1 << 64) - 1),
)


HANDLES = {"extent_start", "buffer", "idxs", "gpfns", "errs", "frame_list"}


def argument(caller: Caller, row: Op | None, values: list[int]) -> bytes:
    """A structure of the operation's with these numbers as members; pointers mostly lead to
    a list of small numbers. Three of them, since operations on grants take arrays."""
    supply = iter(values)
    target = caller.put(bytes(range(0, 40)) * 8)
    structure = getattr(row, "argument", None)
    if structure is None:
        return bytes(256)

    def fill(cls: type[Struct]) -> bytes:
        data = bytearray(cls.sizeof(caller.bits))
        for member in cls.fields(caller.bits):
            end = member.offset + member.size
            nested = getattr(member.ctype, "cls", None)
            if nested is not None and issubclass(nested, Struct):
                data[member.offset : end] = fill(nested)
                continue
            value = next(supply, 1)
            if member.name in HANDLES and value % 8:
                value = target
            size = min(8, member.size)
            value &= (1 << 8 * size) - 1
            data[member.offset : member.offset + size] = value.to_bytes(size, "little")
        return bytes(data)

    return fill(structure) + fill(structure) + fill(structure)


@settings(max_examples=200, deadline=None)
@given(
    kind=st.sampled_from(list(GuestKind)),
    bits=st.sampled_from([32, 64]),
    version=st.sampled_from([1, 2]),
    calls=st.lists(
        st.tuples(
            st.booleans(),
            st.integers(0, 31),
            st.integers(0, 3),
            st.lists(numbers, max_size=30),
        ),
        min_size=1,
        max_size=12,
    ),
)
def test_no_argument_breaks_the_host(
    kind: GuestKind,
    bits: int,
    version: int,
    calls: list[tuple[bool, int, int, list[int]]],
) -> None:
    """Numbers at random in all members of the arguments."""
    world = World(700)
    front = world.domain(1, pages=8, max_pages=200)
    victim = world.domain(2, pages=8, max_pages=8)
    caller = Caller(world, world.domain(3, kind, pages=8, max_pages=200), bits)
    front.grants.set_version(version)
    caller.dom.grants.set_version(version)
    for ref in range(8, 40):
        grant(front, ref, 3, ref - 8)
        grant(caller.dom, ref, 3, ref - 8)
    secret = b"nobody may write here"
    for gfn in range(8):
        victim.write(gfn, 0, secret)
    for is_grant_op, cmd, count, values in calls:
        row = (GNTTABOPS if is_grant_op else MEMORY_OPS).get(cmd)
        addr = caller.put(argument(caller, row, values))
        result = (
            caller.grant_op_at(cmd, addr, count) if is_grant_op else caller.memory_op_at(cmd, addr)
        )
        assert result > -200
        check_consistency(world)
    assert victim.pool.tot_pages == 8
    assert all(victim.read(gfn, 0, len(secret)) == secret for gfn in range(8))
    for dom in list(world.domains.values()):
        world.destroy(dom)
    assert world.domains == {}
    assert world.memory.free_frames() == world.free_at_start


def test_the_tables_name_structures_for_decoders() -> None:
    for row in (*GNTTABOPS.values(), *MEMORY_OPS.values()):
        if row.argument is not None:
            assert row.argument.sizeof(64) > 0
            assert row.argument.sizeof(32) > 0
    assert all(row.argument is not None for row in GNTTABOPS.values())
