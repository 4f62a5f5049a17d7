# SPDX-License-Identifier: GPL-2.0-or-later
"""The table itself: set-up, sizes, versions, seeds, the report, saving."""

from __future__ import annotations

import pytest

from tests.hypervisor.grants.bench import entry_maddr, grant, grant_transitive, map_ref, use_of
from tests.hypervisor.memory.world import Caller, Dom, World
from xenograft.abi import grant_table as abi
from xenograft.abi.errno import Errno, XenError
from xenograft.abi.grant_table import (
    GNTTAB_RESERVED_CONSOLE,
    GNTTAB_RESERVED_XENSTORE,
    GNTMAP_host_map,
    GNTMAP_readonly,
    GNTST_bad_domain,
    GNTST_bad_virt_addr,
    GNTST_general_error,
    GNTST_okay,
    GNTST_permission_denied,
    GNTTABOP_get_status_frames,
    GNTTABOP_get_version,
    GNTTABOP_query_size,
    GNTTABOP_set_version,
    GNTTABOP_setup_table,
    GTF_permit_access,
    GTF_reading,
    grant_entry_v1,
    grant_entry_v2_full_page,
)
from xenograft.abi.memory import XENMAPSPACE_grant_table, XENMEM_add_to_physmap, xen_add_to_physmap
from xenograft.abi.xen import DOMID_SELF
from xenograft.engine.protocol import PAGE_SHIFT
from xenograft.hypervisor.grants.shared import (
    STATUS_PER_PAGE,
    V1_PER_PAGE,
    V2_PER_PAGE,
    grant_frames_for,
    status_frames_for,
)
from xenograft.hypervisor.grants.table import GrantTable, GrantTableState
from xenograft.hypervisor.kinds import GuestKind

NO_GFN = (1 << 64) - 1


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def dom(world: World) -> Dom:
    return world.domain(1, pages=8)


@pytest.fixture
def guest(world: World, dom: Dom) -> Caller:
    return Caller(world, dom)


def setup(caller: Caller, frames: int, domid: int = DOMID_SELF) -> tuple[int, list[int]]:
    frame_list = caller.frames([77] * frames)
    op = abi.gnttab_setup_table(dom=domid, nr_frames=frames, frame_list=frame_list, status=9)
    assert caller.grant_op(GNTTABOP_setup_table, op) == 0
    return op.status, caller.ints(frame_list, frames, caller.bits // 8)


def set_version(caller: Caller, version: int) -> tuple[int, int]:
    op = abi.gnttab_set_version(version=version)
    return caller.grant_op(GNTTABOP_set_version, op), op.version


# -- layout --------------------------------------------------------------------------------------
def test_entries_per_frame() -> None:
    assert grant_entry_v1.sizeof() * V1_PER_PAGE == 4096
    assert grant_entry_v2_full_page.sizeof() * V2_PER_PAGE == 4096
    assert 2 * STATUS_PER_PAGE == 4096
    assert [status_frames_for(n) for n in (0, 1, 8, 9, 64)] == [0, 1, 1, 2, 8]
    assert [grant_frames_for(n) for n in (1, 2, 8)] == [8, 16, 64]


def test_entries_read_as_the_headers_say(world: World, dom: Dom) -> None:
    grant(dom, 20, 3, 0x1234)
    entry = grant_entry_v1.unpack(world.memory.read(entry_maddr(dom, 20), 8))
    assert (entry.flags, entry.domid, entry.frame) == (GTF_permit_access, 3, 0x1234)
    assert dom.grants.shared.page(20).gfn == 0x1234
    dom.grants.set_version(2)
    grant(dom, 20, 3, 0x1_2345_6789)
    wide = grant_entry_v2_full_page.unpack(world.memory.read(entry_maddr(dom, 20), 16))
    assert (wide.hdr.flags, wide.hdr.domid, wide.frame) == (1, 3, 0x1_2345_6789)
    assert dom.grants.shared.page(20).gfn == 0x1_2345_6789


# -- making --------------------------------------------------------------------------------------
def test_a_new_table_has_one_frame(dom: Dom) -> None:
    table = dom.grants
    assert (table.nr_frames, table.version, len(table.shared)) == (1, 1, 512)
    assert (table.max_grant_frames, table.max_maptrack_frames) == (64, 1024)
    assert dom.pool.tot_pages == 8


@pytest.mark.parametrize(
    "limits", [{"max_grant_frames": 0}, {"max_maptrack_frames": -1}, {"max_version": 3}]
)
def test_limits_are_checked(dom: Dom, limits: dict[str, int]) -> None:
    with pytest.raises(XenError) as error:
        GrantTable(dom, **limits)  # type: ignore[arg-type]
    assert error.value.errno is Errno.EINVAL


# -- setup_table, query_size ---------------------------------------------------------------------
def test_setup_of_a_translated_domain_tells_gfns(guest: Caller, dom: Dom) -> None:
    request = xen_add_to_physmap(domid=DOMID_SELF, space=XENMAPSPACE_grant_table, idx=1, gpfn=300)
    assert guest.memory_op(XENMEM_add_to_physmap, request) == 0
    assert setup(guest, 3) == (GNTST_okay, [NO_GFN, 300, NO_GFN])
    assert dom.grants.nr_frames == 3


def test_setup_of_a_pv_domain_tells_mfns(world: World) -> None:
    pv = Caller(world, world.domain(2, GuestKind.PV))
    status, frames = setup(pv, 4)
    assert status == GNTST_okay
    assert frames == pv.dom.grants.shared.frames
    assert {world.memory.owner(frame) for frame in frames} == {2}


def test_setup_by_a_32_bit_guest(world: World, dom: Dom) -> None:
    caller = Caller(world, dom, bits=32)
    assert setup(caller, 2) == (GNTST_okay, [0xFFFFFFFF] * 2)


def test_setup_never_shrinks(guest: Caller, dom: Dom) -> None:
    assert setup(guest, 5)[0] == GNTST_okay
    assert setup(guest, 0) == (GNTST_okay, [])
    assert dom.grants.nr_frames == 5


def test_setup_has_limits(world: World, guest: Caller, dom: Dom) -> None:
    other = world.domain(2)
    assert setup(guest, 64)[0] == GNTST_okay
    assert setup(guest, 65)[0] == GNTST_general_error
    assert setup(guest, 1, 9)[0] == GNTST_bad_domain
    assert setup(guest, 3, 2)[0] == GNTST_permission_denied
    assert other.grants.nr_frames == 1
    dom0 = Caller(world, world.domain(0, privileged=True))
    assert setup(dom0, 3, 2)[0] == GNTST_okay
    assert other.grants.nr_frames == 3
    op = abi.gnttab_setup_table(dom=DOMID_SELF, nr_frames=2, frame_list=0x10)
    assert guest.grant_op(GNTTABOP_setup_table, op) == 0
    assert op.status == GNTST_bad_virt_addr
    op = abi.gnttab_setup_table(dom=DOMID_SELF, nr_frames=0xFFFFFFFF)
    assert guest.grant_op(GNTTABOP_setup_table, op) == 0
    assert op.status == GNTST_general_error


def test_setup_when_memory_has_run_out(world: World, guest: Caller, dom: Dom) -> None:
    greedy = world.domain(2, max_pages=100_000)
    world.frames.alloc(greedy.pool, world.memory.free_frames() - 2)
    assert setup(guest, 5)[0] == GNTST_general_error
    assert dom.grants.nr_frames == 1
    assert world.memory.free_frames() == 2
    assert setup(guest, 3)[0] == GNTST_okay


def test_placing_a_frame_when_memory_has_run_out(world: World, dom: Dom) -> None:
    greedy = world.domain(2, max_pages=100_000)
    world.frames.alloc(greedy.pool, world.memory.free_frames())
    with pytest.raises(XenError) as error:
        dom.grants.frame_for_map(1)
    assert error.value.errno is Errno.EINVAL
    assert dom.grants.frame_for_map(0) == dom.grants.shared.frames[0]


@pytest.mark.parametrize("cmd", [GNTTABOP_setup_table, GNTTABOP_query_size])
@pytest.mark.parametrize("count", [0, 2])
def test_these_come_alone(guest: Caller, cmd: int, count: int) -> None:
    assert guest.grant_op_at(cmd, guest.put(bytes(100)), count) == -Errno.EINVAL


def test_query_size(world: World, guest: Caller) -> None:
    world.domain(2)

    def query(domid: int) -> tuple[int, int, int]:
        op = abi.gnttab_query_size(dom=domid, status=9)
        assert guest.grant_op(GNTTABOP_query_size, op) == 0
        return op.status, op.nr_frames, op.max_nr_frames

    assert query(DOMID_SELF) == (GNTST_okay, 1, 64)
    assert query(2)[0] == GNTST_permission_denied
    assert query(9)[0] == GNTST_bad_domain


# -- versions ------------------------------------------------------------------------------------
def test_get_version(world: World, guest: Caller, dom: Dom) -> None:
    world.domain(2)
    op = abi.gnttab_get_version(dom=DOMID_SELF)
    assert guest.grant_op(GNTTABOP_get_version, op) == 0
    assert op.version == 1
    dom.grants.set_version(2)
    assert guest.grant_op(GNTTABOP_get_version, op) == 0
    assert op.version == 2
    assert guest.grant_op(GNTTABOP_get_version, abi.gnttab_get_version(dom=2)) == -Errno.EPERM
    assert guest.grant_op(GNTTABOP_get_version, abi.gnttab_get_version(dom=9)) == -Errno.ESRCH


def test_version_2_and_back_keeps_the_reserved_entries(guest: Caller, dom: Dom) -> None:
    dom.grants.seed_reserved((0, 100), (5, 200))
    grant(dom, 50, 3, 0x77)
    assert set_version(guest, 2) == (0, 2)
    assert len(dom.grants.shared) == 256
    assert len(dom.grants.shared.status) == 1
    for ref, domid, gfn in ((GNTTAB_RESERVED_CONSOLE, 0, 100), (GNTTAB_RESERVED_XENSTORE, 5, 200)):
        assert dom.grants.shared.header(ref) == GTF_permit_access | domid << 16
        assert dom.grants.shared.page(ref).gfn == gfn
    assert dom.grants.shared.header(50) == 0
    assert set_version(guest, 1) == (0, 1)
    assert dom.grants.shared.status == []
    assert dom.grants.shared.header(1) == GTF_permit_access | 5 << 16
    assert dom.grants.shared.page(1).gfn == 200


def test_reserved_entries_in_use_survive(world: World, guest: Caller, dom: Dom) -> None:
    dom.grants.seed_reserved((2, 3), None)
    back = Caller(world, world.domain(2, pages=1))
    op = map_ref(back, dom, 0, 60, GNTMAP_host_map | GNTMAP_readonly)
    assert op.status == GNTST_okay
    assert set_version(guest, 2) == (0, 2)
    assert use_of(dom, 0) == GTF_reading
    assert dom.grants.shared.flags(0) == GTF_permit_access
    assert set_version(guest, 1) == (0, 1)
    assert dom.grants.shared.flags(0) == GTF_permit_access | GTF_reading


def test_versions_that_cannot_be(world: World, guest: Caller, dom: Dom) -> None:
    assert set_version(guest, 0) == (-Errno.EINVAL, 1)
    assert set_version(guest, 3) == (-Errno.EINVAL, 1)
    assert set_version(guest, 1) == (0, 1)
    dom.grants.max_version = 1
    assert set_version(guest, 2) == (-Errno.ENOSYS, 1)
    dom.grants.max_version = 2
    grant(dom, 9, 2, 3)
    back = Caller(world, world.domain(2, pages=1))
    assert map_ref(back, dom, 9, 60).status == GNTST_okay
    assert set_version(guest, 2) == (-Errno.EBUSY, 1)


def test_version_1_cannot_say_everything(guest: Caller, dom: Dom) -> None:
    dom.grants.set_version(2)
    grant(dom, 2, 5, 1 << 32)
    assert set_version(guest, 1) == (-Errno.ERANGE, 2)
    grant_transitive(dom, 2, 5, 6, 7)
    assert set_version(guest, 1) == (-Errno.ERANGE, 2)
    dom.grants.v2_ops = 1
    assert set_version(guest, 1) == (-Errno.EAGAIN, 2)
    dom.grants.v2_ops = 0
    dom.hypervisor.memory.write(entry_maddr(dom, 2), b"\x02\0\x05\0")  # accept_transfer
    assert set_version(guest, 1) == (0, 1)
    assert dom.grants.shared.header(2) == 0


def test_status_frames_leave_the_physical_map(world: World, guest: Caller, dom: Dom) -> None:
    free = world.memory.free_frames()
    dom.grants.set_version(2)
    request = xen_add_to_physmap(
        domid=DOMID_SELF, space=XENMAPSPACE_grant_table, idx=0x80000000, gpfn=300
    )
    assert guest.memory_op(XENMEM_add_to_physmap, request) == 0
    assert set_version(guest, 1) == (0, 1)
    assert dom.p2m.lookup(300)[0] > 1 << 60
    assert world.memory.free_frames() == free
    assert dom.crashes == []


def test_a_status_frame_that_somebody_holds(world: World, guest: Caller, dom: Dom) -> None:
    dom.grants.set_version(2)
    world.frames.get_page(dom.grants.shared.status[0], 1)
    assert set_version(guest, 1) == (-Errno.EBUSY, 2)
    assert len(dom.crashes) == 1


def test_version_2_grows_both(dom: Dom) -> None:
    dom.grants.set_version(2)
    dom.grants.grow(9)
    assert (dom.grants.nr_frames, len(dom.grants.shared.status)) == (9, 2)
    at = dom.grants.shared.status_maddr(9 * 256 - 1)
    assert at == dom.grants.shared.status[1] << PAGE_SHIFT | 255 * 2


def test_get_status_frames(world: World) -> None:
    pv = Caller(world, world.domain(2, GuestKind.PV))

    def ask(frames: int, domid: int = DOMID_SELF) -> tuple[int, list[int]]:
        frame_list = pv.put([7] * frames)
        op = abi.gnttab_get_status_frames(dom=domid, nr_frames=frames, frame_list=frame_list)
        assert pv.grant_op(GNTTABOP_get_status_frames, op) == 0
        return op.status, pv.ints(frame_list, frames)

    world.domain(3)
    assert ask(1)[0] == GNTST_general_error
    pv.dom.grants.set_version(2)
    assert ask(1) == (GNTST_okay, pv.dom.grants.shared.status)
    assert ask(2)[0] == GNTST_general_error
    assert ask(1, 3)[0] == GNTST_permission_denied
    assert ask(1, 9)[0] == GNTST_bad_domain
    pv.bits = 32
    assert ask(1) == (GNTST_okay, pv.dom.grants.shared.status)


# -- the end -------------------------------------------------------------------------------------
def test_report_of_grants_in_use(world: World, dom: Dom) -> None:
    back = Caller(world, world.domain(2, pages=1))
    for ref in range(20, 32):
        grant(dom, ref, 2, 3)
        assert map_ref(back, dom, ref, 100 + ref).status == GNTST_okay
    active = dom.grants.active_grants()
    assert [one.ref for one in active] == list(range(20, 32))
    assert {(one.domid, one.gfn) for one in active} == {(2, 3)}
    lines = dom.grants.warn_active_grants()
    assert len(lines) == 11
    assert lines[0].startswith("d1 has active grant 14 (GFN 3, MFN: 0x")
    assert lines[-1] == "d1 has too many (12) active grants to report"


def test_save_and_restore(world: World, dom: Dom) -> None:
    dom.grants.set_version(2)
    back = world.domain(2, pages=1)
    grant(dom, 20, 2, 3)
    op = map_ref(Caller(world, back), dom, 20, 60)
    for table in (dom.grants, back.grants):
        state = table.save()
        assert isinstance(state, GrantTableState)
        copy = GrantTable(table.domain)
        copy.restore(state)
        assert copy.save() == state
    back.grants = copy
    dom.grants.save()
    assert copy.maptrack[op.handle].ref == 20
