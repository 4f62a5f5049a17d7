# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import pytest

from tests.hypervisor.memory.world import Caller, Dom, World
from xenograft.abi.errno import Errno
from xenograft.abi.memory import (
    XENMAPIDX_grant_table_status,
    XENMAPSPACE_dev_mmio,
    XENMAPSPACE_gmfn,
    XENMAPSPACE_gmfn_foreign,
    XENMAPSPACE_gmfn_range,
    XENMAPSPACE_grant_table,
    XENMAPSPACE_shared_info,
    XENMEM_add_to_physmap,
    XENMEM_add_to_physmap_batch,
    XENMEM_remove_from_physmap,
    xen_add_to_physmap,
    xen_add_to_physmap_batch,
    xen_add_to_physmap_batch_extra,
    xen_remove_from_physmap,
)
from xenograft.abi.xen import DOMID_SELF, DOMID_XEN
from xenograft.engine.protocol import PAGE_SHIFT
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.memory.frames import INVALID_GFN, INVALID_MFN
from xenograft.hypervisor.memory.limits import BUDGET
from xenograft.hypervisor.memory.p2m_types import P2mType


@pytest.fixture
def world() -> World:
    return World(2048)


@pytest.fixture
def dom(world: World) -> Dom:
    return world.domain(1, pages=16)


@pytest.fixture
def guest(world: World, dom: Dom) -> Caller:
    return Caller(world, dom)


@pytest.fixture
def dom0(world: World) -> Caller:
    return Caller(world, world.domain(0, pages=16, privileged=True))


def add(
    caller: Caller,
    space: int,
    idx: int,
    gpfn: int,
    *,
    size: int = 0,
    domid: int = DOMID_SELF,
    start: int = 0,
) -> int:
    request = xen_add_to_physmap(domid=domid, size=size, space=space, idx=idx, gpfn=gpfn)
    return caller.memory_op(XENMEM_add_to_physmap | start << 6, request)


def add_batch(
    caller: Caller,
    space: int,
    pairs: list[tuple[int, int]],
    *,
    domid: int = DOMID_SELF,
    extra: int = 0,
    start: int = 0,
) -> tuple[int, list[int]]:
    errs = caller.put([0xAAAAAAAA] * len(pairs), 4)
    request = xen_add_to_physmap_batch(
        domid=domid,
        space=space,
        size=len(pairs),
        u=xen_add_to_physmap_batch_extra(foreign_domid=extra),
        idxs=caller.frames([idx for idx, _ in pairs]),
        gpfns=caller.frames([gpfn for _, gpfn in pairs]),
        errs=errs,
    )
    result = caller.memory_op(XENMEM_add_to_physmap_batch | start << 6, request)
    codes = [code - (1 << 32) if code >> 31 else code for code in caller.ints(errs, len(pairs), 4)]
    return result, codes


def remove(caller: Caller, gpfn: int, domid: int = DOMID_SELF) -> int:
    request = xen_remove_from_physmap(domid=domid, gpfn=gpfn)
    return caller.memory_op(XENMEM_remove_from_physmap, request)


def mfn(dom: Dom, gfn: int) -> int:
    return dom.p2m.lookup(gfn)[0]


# -- shared info ---------------------------------------------------------------------------------
def test_shared_info_replaces_and_frees_ram(world: World, guest: Caller, dom: Dom) -> None:
    free = world.memory.free_frames()
    shared = dom.shared_info_maddr >> PAGE_SHIFT
    assert add(guest, XENMAPSPACE_shared_info, 0, 5) == 0
    assert mfn(dom, 5) == shared
    assert world.memory.free_frames() == free + 1
    assert dom.pool.tot_pages == 15
    # to another place: the old one becomes a hole
    assert add(guest, XENMAPSPACE_shared_info, 0, 99) == 0
    assert mfn(dom, 5) == INVALID_MFN
    assert mfn(dom, 99) == shared
    assert world.memory.refs(shared) == 1
    # there already
    assert add(guest, XENMAPSPACE_shared_info, 0, 99) == 0
    assert mfn(dom, 99) == shared


def test_shared_info_has_one_page(guest: Caller) -> None:
    assert add(guest, XENMAPSPACE_shared_info, 1, 5) == -Errno.EINVAL


def test_a_special_page_is_only_unhooked(world: World, guest: Caller, dom: Dom) -> None:
    assert add(guest, XENMAPSPACE_shared_info, 0, 99) == 0
    assert add(guest, XENMAPSPACE_gmfn, 3, 99) == 0
    shared = dom.shared_info_maddr >> PAGE_SHIFT
    assert world.memory.refs(shared) == 1
    assert world.frames.gfn_of(shared) == INVALID_GFN
    assert world.frames.gfn_of(mfn(dom, 99)) == 99


# -- grant table ---------------------------------------------------------------------------------
def test_grant_frames_grow_the_table(guest: Caller, dom: Dom) -> None:
    assert add(guest, XENMAPSPACE_grant_table, 3, 200) == 0
    assert dom.grants.nr_frames == 4
    assert mfn(dom, 200) == dom.grants.shared.frames[3]
    assert add(guest, XENMAPSPACE_grant_table, 64, 201) == -Errno.EINVAL
    assert add(guest, XENMAPSPACE_grant_table, 0xFFFFFFFF, 201) == -Errno.EINVAL
    assert dom.grants.nr_frames == 4


def test_status_frames_come_with_version_2(guest: Caller, dom: Dom) -> None:
    idx = XENMAPIDX_grant_table_status
    assert add(guest, XENMAPSPACE_grant_table, idx, 200) == -Errno.EINVAL
    dom.grants.set_version(2)
    assert add(guest, XENMAPSPACE_grant_table, idx, 200) == 0
    assert mfn(dom, 200) == dom.grants.shared.status[0]
    assert add(guest, XENMAPSPACE_grant_table, idx | 7, 201) == 0
    assert dom.grants.nr_frames == 64
    assert add(guest, XENMAPSPACE_grant_table, idx | 8, 202) == -Errno.EINVAL


# -- one's own pages -----------------------------------------------------------------------------
def test_moving_a_page(world: World, guest: Caller, dom: Dom) -> None:
    dom.write(3, 0, b"three")
    frame = mfn(dom, 3)
    assert add(guest, XENMAPSPACE_gmfn, 3, 8) == 0
    assert (mfn(dom, 8), mfn(dom, 3)) == (frame, INVALID_MFN)
    assert dom.read(8, 0, 5) == b"three"
    assert dom.pool.tot_pages == 15
    assert add(guest, XENMAPSPACE_gmfn, 3, 9) == -Errno.EINVAL
    assert add(guest, XENMAPSPACE_gmfn, 8, 8) == 0
    assert mfn(dom, 8) == frame
    assert dom.read(8, 0, 5) == b"three"
    assert dom.pool.tot_pages == 15


def test_moving_a_range(guest: Caller, dom: Dom) -> None:
    frames = [mfn(dom, gfn) for gfn in range(4)]
    assert add(guest, XENMAPSPACE_gmfn_range, 0, 100, size=4) == 0
    assert [mfn(dom, 100 + i) for i in range(4)] == frames
    assert dom.pool.tot_pages == 16


def test_a_range_stops_at_the_first_error(guest: Caller, dom: Dom) -> None:
    assert add(guest, XENMAPSPACE_gmfn_range, 14, 100, size=4) == -Errno.EINVAL
    assert mfn(dom, 101) != INVALID_MFN
    assert mfn(dom, 102) == INVALID_MFN


def test_a_long_range_continues(world: World) -> None:
    dom = world.domain(3, pages=500, max_pages=500)
    caller = Caller(world, dom)
    assert add(caller, XENMAPSPACE_gmfn_range, 0, 1000, size=500) == 0
    assert caller.continued == 499 // BUDGET
    assert dom.space.entries()[0][:1] + dom.space.entries()[0][2:3] == (1000, 500)


@pytest.mark.parametrize(
    ("fields", "errno"),
    [
        ({"gpfn": (1 << 64) - 1}, Errno.EINVAL),
        ({"gpfn": 1 << 50}, Errno.EINVAL),
        ({"space": 9}, Errno.EINVAL),
        ({"space": XENMAPSPACE_gmfn_foreign}, Errno.ENOSYS),
        ({"space": XENMAPSPACE_dev_mmio}, Errno.EACCES),
        ({"space": XENMAPSPACE_gmfn_range, "gpfn": (1 << 64) - 2, "size": 3}, Errno.EOVERFLOW),
        ({"space": XENMAPSPACE_gmfn_range, "idx": (1 << 64) - 2, "size": 3}, Errno.EOVERFLOW),
        ({"space": XENMAPSPACE_gmfn_range, "size": 3, "start": 4}, Errno.EILSEQ),
        ({"start": 1 << 16}, Errno.EDOM),
        ({"domid": 9}, Errno.ESRCH),
        ({"domid": 2}, Errno.EPERM),
    ],
)
def test_bad_requests(
    world: World, guest: Caller, dom: Dom, fields: dict[str, int], errno: Errno
) -> None:
    world.domain(2, pages=1)
    request = {"space": XENMAPSPACE_gmfn, "idx": 1, "gpfn": 50} | fields
    before = dom.space.entries()
    assert add(guest, **request) == -errno  # type: ignore[arg-type]
    assert dom.space.entries() == before
    assert dom.pool.tot_pages == 16


def test_pv_domains_have_no_physical_map(world: World) -> None:
    pv = Caller(world, world.domain(2, GuestKind.PV))
    assert add(pv, XENMAPSPACE_shared_info, 0, 5) == -Errno.EACCES
    assert add_batch(pv, XENMAPSPACE_shared_info, [(0, 5)])[0] == -Errno.EACCES
    assert remove(pv, 5) == -Errno.EACCES


def test_the_control_domain_arranges_others(dom0: Caller, dom: Dom) -> None:
    assert add(dom0, XENMAPSPACE_shared_info, 0, 70, domid=1) == 0
    assert mfn(dom, 70) == dom.shared_info_maddr >> PAGE_SHIFT


def test_device_memory_stays(guest: Caller, dom: Dom) -> None:
    dom.p2m.set_mmio_direct(0xFEE00)
    assert add(guest, XENMAPSPACE_gmfn, 1, 0xFEE00) == -Errno.EPERM
    assert mfn(dom, 1) != INVALID_MFN
    assert dom.crashes == []


def test_a_grant_mapping_is_not_replaced(world: World, guest: Caller, dom: Dom) -> None:
    other = world.domain(2, pages=1)
    dom.p2m.add_page(60, mfn(other, 0), kind=P2mType.grant_map_rw)
    assert add(guest, XENMAPSPACE_gmfn, 1, 60) == -Errno.ENXIO
    assert add(guest, XENMAPSPACE_gmfn, 60, 1) == -Errno.EINVAL
    assert remove(guest, 60) == -Errno.ENOENT
    assert dom.p2m.lookup(60) == (mfn(other, 0), P2mType.grant_map_rw)
    assert dom.pool.tot_pages == 16


def test_a_frame_that_is_elsewhere(guest: Caller, dom: Dom) -> None:
    """A page of one's own, mapped by a grant to oneself, isn't at that gfn as far as Xen knows."""
    frame = mfn(dom, 3)
    dom.p2m.add_page(60, frame, kind=P2mType.grant_map_rw)
    assert add(guest, XENMAPSPACE_gmfn, 60, 70) == -Errno.EXDEV
    assert dom.p2m.lookup(60) == (frame, P2mType.grant_map_rw)


# -- the batch form ------------------------------------------------------------------------------
def test_batch_has_an_errno_for_each(guest: Caller, dom: Dom) -> None:
    frame = mfn(dom, 2)
    result, errs = add_batch(guest, XENMAPSPACE_gmfn, [(1, 100), (77, 101), (2, 102)])
    assert (result, errs) == (0, [0, -Errno.EINVAL, 0])
    assert mfn(dom, 102) == frame


def test_batch_continues(world: World) -> None:
    dom = world.domain(3, pages=300, max_pages=300)
    caller = Caller(world, dom)
    result, errs = add_batch(caller, XENMAPSPACE_gmfn, [(i, 1000 + i) for i in range(300)])
    assert (result, set(errs)) == (0, {0})
    assert caller.continued == 2


@pytest.mark.parametrize(
    ("space", "pairs", "more", "errno"),
    [
        (XENMAPSPACE_gmfn_range, [(1, 50)], {}, Errno.EOPNOTSUPP),
        (XENMAPSPACE_gmfn, [(1, (1 << 64) - 1)], {}, Errno.EINVAL),
        (XENMAPSPACE_gmfn, [(1, 50)], {"start": 1}, Errno.EILSEQ),
        (XENMAPSPACE_gmfn, [(1, 50)], {"start": 2}, Errno.EILSEQ),
        (XENMAPSPACE_gmfn, [(1, 50)], {"start": 1 << 16}, Errno.EDOM),
        (XENMAPSPACE_gmfn, [(1, 50)], {"domid": 9}, Errno.ESRCH),
        (XENMAPSPACE_dev_mmio, [(1, 50)], {}, Errno.EACCES),
    ],
)
def test_bad_batches(
    guest: Caller,
    space: int,
    pairs: list[tuple[int, int]],
    more: dict[str, int],
    errno: Errno,
) -> None:
    assert add_batch(guest, space, pairs, **more)[0] == -errno


def test_an_empty_batch(guest: Caller) -> None:
    assert add_batch(guest, XENMAPSPACE_gmfn, [])[0] == 0


def test_dev_mmio_is_for_the_hardware_domain(dom0: Caller) -> None:
    assert add_batch(dom0, XENMAPSPACE_dev_mmio, [(1, 50)], extra=1)[0] == -Errno.EOPNOTSUPP
    assert add_batch(dom0, XENMAPSPACE_dev_mmio, [(1, 50)]) == (0, [-Errno.EINVAL])


def test_32_bit_batch(world: World, dom: Dom) -> None:
    caller = Caller(world, dom, bits=32)
    frame = mfn(dom, 1)
    assert add_batch(caller, XENMAPSPACE_gmfn, [(1, 100)]) == (0, [0])
    assert mfn(dom, 100) == frame


# -- foreign pages -------------------------------------------------------------------------------
def foreign(caller: Caller, fgfn: int, gpfn: int, of: int) -> int:
    result, (err,) = add_batch(caller, XENMAPSPACE_gmfn_foreign, [(fgfn, gpfn)], extra=of)
    return result or err


def test_the_hardware_domain_maps_foreign_pages(world: World, dom0: Caller, dom: Dom) -> None:
    free = world.memory.free_frames()
    assert foreign(dom0, 2, 500, 1) == 0
    dom0.dom.write(500, 0, b"from dom0")
    assert dom.read(2, 0, 9) == b"from dom0"
    assert world.memory.refs(mfn(dom, 2)) == 2
    # over RAM of its own, which is released
    assert foreign(dom0, 3, 4, 1) == 0
    assert world.memory.free_frames() == free + 1
    assert remove(dom0, 500) == 0
    assert world.memory.refs(mfn(dom, 2)) == 1


def test_foreign_pages_that_cannot_be(world: World, guest: Caller, dom0: Caller, dom: Dom) -> None:
    world.domain(2, pages=1)
    assert foreign(guest, 0, 50, 2) == -Errno.EPERM
    assert foreign(dom0, 0, 50, 9) == -Errno.ESRCH
    assert foreign(dom0, 0, 50, 0) == -Errno.EPERM
    assert foreign(dom0, 0, 50, DOMID_XEN) == -Errno.EINVAL
    assert foreign(dom0, 77, 50, 1) == -Errno.EINVAL
    assert foreign(dom0, 0, 50, 1) == 0
    # what is foreign to dom0 can't be passed on, nor replaced
    assert foreign(dom0, 1, 50, 1) == -Errno.ENXIO
    assert world.memory.refs(mfn(dom, 1)) == 1
    assert world.memory.refs(mfn(dom, 0)) == 2


def test_a_foreign_page_over_a_special_one(world: World, dom0: Caller, dom: Dom) -> None:
    assert add(dom0, XENMAPSPACE_shared_info, 0, 500) == 0
    assert foreign(dom0, 2, 500, 1) == 0
    assert mfn(dom0.dom, 500) == mfn(dom, 2)
    shared = dom0.dom.shared_info_maddr >> PAGE_SHIFT
    assert (world.memory.refs(shared), world.frames.gfn_of(shared)) == (1, INVALID_GFN)


def test_a_domain_is_not_foreign_to_itself(world: World, dom0: Caller) -> None:
    """Another control domain may arrange dom0's map, but not so."""
    other = Caller(world, world.domain(5, privileged=True))
    result, errs = add_batch(other, XENMAPSPACE_gmfn_foreign, [(0, 50)], domid=0, extra=0)
    assert (result, errs) == (0, [-Errno.EINVAL])


def test_only_ram_is_foreign_mapped(world: World, dom0: Caller) -> None:
    """What another hardware-like domain has mapped from a third can't be mapped again."""
    owner, middle = world.domain(3, pages=1), world.domain(4, pages=1)
    middle.p2m.set_foreign(9, mfn(owner, 0))
    assert foreign(dom0, 9, 50, 4) == -Errno.EINVAL
    assert world.memory.refs(mfn(owner, 0)) == 2


# -- removing ------------------------------------------------------------------------------------
def test_remove_keeps_the_frame(world: World, guest: Caller, dom: Dom) -> None:
    free = world.memory.free_frames()
    frame = mfn(dom, 3)
    assert remove(guest, 3) == 0
    assert mfn(dom, 3) == INVALID_MFN
    assert world.memory.owner(frame) == 1
    assert (dom.pool.tot_pages, world.memory.free_frames()) == (16, free)
    assert remove(guest, 3) == -Errno.ENOENT
    assert remove(guest, 3, 9) == -Errno.ESRCH


def test_remove_needs_leave(world: World, guest: Caller, dom0: Caller) -> None:
    world.domain(2, pages=2)
    assert remove(guest, 0, 2) == -Errno.EPERM
    assert remove(dom0, 0, 2) == 0
    request = xen_remove_from_physmap(domid=DOMID_SELF, gpfn=1)
    assert guest.memory_op(XENMEM_remove_from_physmap | 1 << 6, request) == -Errno.EINVAL
