# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import pytest

from tests.hypervisor.memory.world import Dom, World
from xenograft.abi.errno import Errno, XenError
from xenograft.engine.protocol import (
    P2M_EXEC,
    P2M_PRESENT,
    P2M_RWX,
    P2M_WRITE,
    PAGE_SHIFT,
)
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.memory.frames import INVALID_GFN, INVALID_MFN
from xenograft.hypervisor.memory.p2m import FaultAction
from xenograft.hypervisor.memory.p2m_types import FLAGS, P2mType


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def dom(world: World) -> Dom:
    return world.domain(1, pages=8)


def errno_of(action: object, *args: object) -> Errno:
    with pytest.raises(XenError) as error:
        action(*args)  # type: ignore[operator]
    return error.value.errno


def mfn_of(dom: Dom, gfn: int) -> int:
    return dom.p2m.lookup(gfn)[0]


def test_types_have_xens_numbers() -> None:
    assert {kind.name: int(kind) for kind in P2mType} == {
        "ram_rw": 0,
        "invalid": 1,
        "ram_ro": 3,
        "mmio_dm": 4,
        "mmio_direct": 5,
        "populate_on_demand": 6,
        "grant_map_rw": 7,
        "grant_map_ro": 8,
        "map_foreign": 14,
    }


def test_permissions_of_types() -> None:
    assert FLAGS[P2mType.ram_rw] == P2M_RWX
    assert FLAGS[P2mType.ram_ro] == P2M_PRESENT | P2M_EXEC
    assert FLAGS[P2mType.grant_map_rw] == P2M_PRESENT | P2M_WRITE
    assert FLAGS[P2mType.grant_map_ro] == P2M_PRESENT
    assert FLAGS[P2mType.map_foreign] == P2M_PRESENT | P2M_WRITE


def test_populate_maps_and_counts(dom: Dom) -> None:
    assert dom.pool.tot_pages == 8
    for gfn in range(8):
        mfn, kind = dom.p2m.lookup(gfn)
        assert kind is P2mType.ram_rw
        assert dom.p2m.frames.gfn_of(mfn) == gfn
    assert dom.p2m.lookup(8) == (INVALID_MFN, P2mType.mmio_dm)
    assert dom.p2m.max_mapped == 7


def test_populate_over_ram_leaves_the_old_frame_unmapped(dom: Dom) -> None:
    old = mfn_of(dom, 3)
    dom.p2m.populate(3)
    assert mfn_of(dom, 3) != old
    assert dom.p2m.frames.gfn_of(old) == INVALID_GFN
    assert dom.pool.tot_pages == 9


def test_populate_beyond_the_address_space(dom: Dom) -> None:
    assert errno_of(dom.p2m.populate, 1 << 36) is Errno.EINVAL
    assert errno_of(dom.p2m.populate, (1 << 36) - 1, 2) is Errno.EINVAL
    assert errno_of(dom.p2m.populate, (1 << 64) - 1) is Errno.EINVAL


def test_a_frame_has_one_place(dom: Dom) -> None:
    mfn = mfn_of(dom, 2)
    dom.p2m.add_page(100, mfn)
    assert mfn_of(dom, 100) == mfn
    assert mfn_of(dom, 2) == INVALID_MFN
    assert dom.p2m.frames.gfn_of(mfn) == 100
    assert dom.space.entries()[-1] == (100, mfn, 1, P2M_RWX)


def test_remove_page(dom: Dom) -> None:
    mfn = mfn_of(dom, 2)
    assert errno_of(dom.p2m.remove_page, 2, mfn + 1) is Errno.EILSEQ
    assert errno_of(dom.p2m.remove_page, 50, mfn) is Errno.EILSEQ
    dom.p2m.remove_page(2, mfn)
    assert mfn_of(dom, 2) == INVALID_MFN
    assert dom.pool.tot_pages == 8
    assert dom.p2m.frames.gfn_of(mfn) == INVALID_GFN


def test_guest_remove_page(world: World, dom: Dom) -> None:
    free = world.memory.free_frames()
    dom.p2m.guest_remove_page(5)
    assert world.memory.free_frames() == free + 1
    assert dom.pool.tot_pages == 7
    assert errno_of(dom.p2m.guest_remove_page, 5) is Errno.ENOENT
    dom.p2m.set_mmio_direct(20)
    assert errno_of(dom.p2m.guest_remove_page, 20) is Errno.EPERM


def test_guest_remove_page_of_a_page_in_use(world: World, dom: Dom) -> None:
    mfn = mfn_of(dom, 5)
    world.frames.get_page(mfn, 1)
    dom.p2m.guest_remove_page(5)
    assert world.memory.refs(mfn) == 1
    assert dom.pool.tot_pages == 8
    world.frames.put_page(mfn)
    assert dom.pool.tot_pages == 7


def test_a_special_frame_survives_guest_remove_page(world: World, dom: Dom) -> None:
    mfn = dom.shared_info_maddr >> PAGE_SHIFT
    dom.p2m.add_page(40, mfn)
    dom.p2m.guest_remove_page(40)
    assert world.memory.refs(mfn) == 1
    assert mfn_of(dom, 40) == INVALID_MFN
    dom.p2m.add_page(41, mfn)
    assert mfn_of(dom, 41) == mfn


def test_get_page_takes_a_reference(world: World, dom: Dom) -> None:
    mfn = mfn_of(dom, 1)
    assert dom.p2m.get_page(1) == (mfn, P2mType.ram_rw)
    assert world.memory.refs(mfn) == 2
    assert dom.p2m.get_page(99) is None


def test_foreign_mappings_hold_a_reference(world: World, dom: Dom) -> None:
    dom0 = world.domain(0, pages=2, privileged=True)
    mfn = mfn_of(dom, 1)
    dom0.p2m.set_foreign(60, mfn)
    assert world.memory.refs(mfn) == 2
    dom0.p2m.set_foreign(60, mfn)  # once more changes nothing
    assert world.memory.refs(mfn) == 2
    assert dom0.p2m.lookup(60) == (mfn, P2mType.map_foreign)
    assert world.frames.gfn_of(mfn) == 1
    dom0.write(60, 0, b"hi")
    assert dom.read(1, 0, 2) == b"hi"
    assert dom0.p2m.get_page(60) == (mfn, P2mType.map_foreign)
    world.frames.put_page(mfn)
    dom0.p2m.remove_page(60, mfn)
    assert world.memory.refs(mfn) == 1
    assert world.frames.gfn_of(mfn) == 1


def test_nothing_replaces_a_foreign_mapping(world: World, dom: Dom) -> None:
    dom0 = world.domain(0, pages=4, privileged=True)
    dom0.p2m.set_foreign(60, mfn_of(dom, 1))
    assert errno_of(dom0.p2m.set_foreign, 60, mfn_of(dom, 2)) is Errno.EPERM
    assert errno_of(dom0.p2m.add_page, 60, mfn_of(dom0, 0)) is Errno.EPERM
    assert errno_of(dom0.p2m.guest_remove_page, 60) is Errno.ENXIO
    assert len(dom0.crashes) == 2
    assert dom0.p2m.lookup(60) == (mfn_of(dom, 1), P2mType.map_foreign)


def test_a_foreign_mapping_over_ram(world: World, dom: Dom) -> None:
    dom0 = world.domain(0, pages=4, privileged=True)
    old = mfn_of(dom0, 2)
    dom0.p2m.set_foreign(2, mfn_of(dom, 1))
    assert world.frames.gfn_of(old) == INVALID_GFN
    assert errno_of(dom0.p2m.set_foreign, 1 << 40, mfn_of(dom, 1)) is Errno.EINVAL
    assert errno_of(dom0.p2m.set_foreign, 7, 1023) is Errno.EINVAL
    assert world.memory.refs(mfn_of(dom, 1)) == 2


def test_device_memory_is_fixed(dom: Dom) -> None:
    dom.p2m.set_mmio_direct(0xFEE00)
    assert dom.p2m.lookup(0xFEE00) == (INVALID_MFN, P2mType.mmio_direct)
    assert errno_of(dom.p2m.add_page, 0xFEE00, mfn_of(dom, 0)) is Errno.EPERM
    assert errno_of(dom.p2m.remove_page, 0xFEE00, mfn_of(dom, 0)) is Errno.EILSEQ
    assert dom.p2m.get_page(0xFEE00) is None


def test_read_only_ram(dom: Dom) -> None:
    dom.p2m.set_read_only(2, 2)
    assert dom.p2m.lookup(3)[1] is P2mType.ram_ro
    assert dom.space.lookup(3) == (mfn_of(dom, 3), P2M_PRESENT | P2M_EXEC)
    assert dom.p2m.get_page(3) == (mfn_of(dom, 3), P2mType.ram_ro)
    dom.p2m.frames.put_page(mfn_of(dom, 3))
    assert errno_of(dom.p2m.set_read_only, 99) is Errno.EINVAL
    dom.p2m.guest_remove_page(3)
    dom.p2m.populate(3)
    assert dom.p2m.lookup(3)[1] is P2mType.ram_rw


@pytest.mark.parametrize(
    ("kind", "access", "action"),
    [
        (P2mType.ram_rw, 1, FaultAction.RETRY),
        (P2mType.ram_ro, 0, FaultAction.RETRY),
        (P2mType.ram_ro, 1, FaultAction.DISCARD),
        (P2mType.grant_map_ro, 1, FaultAction.GP),
        (P2mType.grant_map_ro, 0, FaultAction.RETRY),
        (P2mType.grant_map_rw, 1, FaultAction.RETRY),
        (P2mType.grant_map_rw, 2, FaultAction.CRASH),
        (P2mType.mmio_direct, 1, FaultAction.MMIO),
        (P2mType.mmio_dm, 0, FaultAction.MMIO),
    ],
)
def test_faults(world: World, dom: Dom, kind: P2mType, access: int, action: FaultAction) -> None:
    if kind is P2mType.ram_ro:
        dom.p2m.set_read_only(9 - 2)
        gfn = 7
    elif kind is P2mType.mmio_direct:
        dom.p2m.set_mmio_direct(50)
        gfn = 50
    elif kind in (P2mType.grant_map_ro, P2mType.grant_map_rw):
        other = world.domain(2, pages=1)
        dom.p2m.add_page(50, mfn_of(other, 0), kind=kind)
        gfn = 50
    else:
        gfn = 1 if kind is P2mType.ram_rw else 70
    assert dom.p2m.fault(gfn, access) is action


def test_a_pv_domain_sees_the_machine(world: World) -> None:
    dom = world.domain(1, GuestKind.PV)
    ((mfn, length),) = dom.p2m.populate(100, 4)
    assert length == 4
    assert dom.p2m.lookup(mfn + 1) == (mfn + 1, P2mType.ram_rw)
    assert dom.p2m.lookup(1 << 30) == (INVALID_MFN, P2mType.invalid)
    assert world.frames.gfn_of(mfn + 1) == 101
    assert dom.p2m.gfn_of(mfn) == mfn
    assert errno_of(dom.p2m.guest_remove_page, 1 << 30) is Errno.EINVAL
    other = world.domain(2, pages=1)
    assert errno_of(dom.p2m.guest_remove_page, mfn_of(other, 0)) is Errno.ENXIO
    dom.p2m.guest_remove_page(mfn)
    assert dom.pool.tot_pages == 3
    dom.p2m.populate((1 << 64) - 1)  # names of frames are the guest's own affair
    assert dom.pool.tot_pages == 4


def test_the_end_of_a_domain(world: World) -> None:
    dom, dom0 = world.domain(1, pages=20), world.domain(0, pages=3, privileged=True)
    mfn = mfn_of(dom, 4)
    dom0.p2m.set_foreign(60, mfn)
    dom.p2m.remove_page(6, mfn_of(dom, 6))  # allocated, but mapped nowhere
    world.destroy(dom)
    assert 1 in world.domains
    assert dom.pool.tot_pages == 1
    assert dom.space.entries() == []
    assert dom0.read(60, 0, 4) == bytes(4)
    world.destroy(dom0)
    assert world.domains == {}
    assert world.memory.free_frames() == world.free_at_start


def test_save_and_restore(world: World, dom: Dom) -> None:
    dom.p2m.set_read_only(2)
    dom.p2m.set_mmio_direct(50)
    dom.p2m.e820 = ((0, 0x8000, 1),)
    state = dom.p2m.save()
    other = world.domain(2)
    for gfn in range(8):
        world.frames.set_gfn(mfn_of(dom, gfn), INVALID_GFN)
    other.p2m.restore(state)
    assert other.p2m.save() == state
    assert other.p2m.lookup(2) == dom.p2m.lookup(2)
    assert other.p2m.lookup(50)[1] is P2mType.mmio_direct
    assert world.frames.gfn_of(mfn_of(dom, 7)) == 7
