# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hypervisor.grants.bench import (
    assert_unused,
    entry_maddr,
    flags_of,
    grant,
    grant_part,
    grant_transitive,
    map_ref,
    mfn,
    revoke,
    unmap_ref,
    use_of,
)
from tests.hypervisor.memory.world import Caller, Dom, World
from xenograft.abi.grant_table import (
    GNTMAP_application_map,
    GNTMAP_contains_pte,
    GNTMAP_device_map,
    GNTMAP_host_map,
    GNTMAP_readonly,
    GNTST_bad_dev_addr,
    GNTST_bad_domain,
    GNTST_bad_gntref,
    GNTST_bad_handle,
    GNTST_bad_page,
    GNTST_general_error,
    GNTST_no_space,
    GNTST_okay,
    GTF_reading,
    GTF_readonly,
    GTF_writing,
)
from xenograft.abi.xen import DOMID_SELF
from xenograft.engine.protocol import PAGE_SHIFT, AccessError
from xenograft.hypervisor.grants.copying import acquire_grant, release_grant
from xenograft.hypervisor.grants.host import map_grant
from xenograft.hypervisor.grants.mapping import release_mappings
from xenograft.hypervisor.grants.status import GrantError
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.memory.p2m_types import P2mType

RW = GNTMAP_host_map
RO = GNTMAP_host_map | GNTMAP_readonly
REF = 20
PAGE = 3


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def front(world: World, request: pytest.FixtureRequest) -> Iterator[Dom]:
    """The granting domain, with tables of both versions; nothing may be left when it goes."""
    dom = world.domain(1, pages=8)
    dom.grants.set_version(request.param)
    grant(dom, REF, 2, PAGE)
    yield dom
    for other in list(world.domains.values()):
        world.destroy(other)
    assert world.domains == {}
    assert world.memory.free_frames() == world.free_at_start


@pytest.fixture
def back(world: World, front: Dom) -> Caller:
    return Caller(world, world.domain(2, pages=4))


def test_map_and_unmap(world: World, front: Dom, back: Caller) -> None:
    op = map_ref(back, front, REF, 60)
    assert (op.status, op.dev_bus_addr) == (GNTST_okay, mfn(front, PAGE) << PAGE_SHIFT)
    assert back.dom.p2m.lookup(60) == (mfn(front, PAGE), P2mType.grant_map_rw)
    assert use_of(front, REF) == GTF_reading | GTF_writing
    assert world.memory.refs(mfn(front, PAGE)) == 2
    assert world.frames.gfn_of(mfn(front, PAGE)) == PAGE
    back.dom.write(60, 8, b"from the back")
    assert front.read(PAGE, 8, 13) == b"from the back"
    assert unmap_ref(back, op.handle, 60) == GNTST_okay
    assert back.dom.p2m.lookup(60)[1] is P2mType.mmio_dm
    assert_unused(world, front, REF, PAGE)
    assert world.frames.gfn_of(mfn(front, PAGE)) == PAGE


def test_read_only(world: World, front: Dom, back: Caller) -> None:
    op = map_ref(back, front, REF, 60, RO)
    assert op.status == GNTST_okay
    assert back.dom.p2m.lookup(60)[1] is P2mType.grant_map_ro
    assert use_of(front, REF) == GTF_reading
    with pytest.raises(AccessError):
        back.dom.write(60, 0, b"x")
    assert unmap_ref(back, op.handle, 60) == GNTST_okay
    assert_unused(world, front, REF, PAGE)


def test_a_read_only_grant_cannot_be_written(front: Dom, back: Caller) -> None:
    grant(front, REF, 2, PAGE, GTF_readonly)
    assert map_ref(back, front, REF, 60).status == GNTST_general_error
    assert use_of(front, REF) == 0
    assert map_ref(back, front, REF, 60, RO).status == GNTST_okay
    # nor when it's in use for reading
    assert map_ref(back, front, REF, 61).status == GNTST_general_error
    assert use_of(front, REF) == GTF_reading


def test_mapped_twice(world: World, front: Dom, back: Caller) -> None:
    reader, writer = map_ref(back, front, REF, 60, RO), map_ref(back, front, REF, 61)
    assert reader.handle != writer.handle
    assert use_of(front, REF) == GTF_reading | GTF_writing
    assert world.memory.refs(mfn(front, PAGE)) == 3
    assert unmap_ref(back, writer.handle, 61) == GNTST_okay
    assert use_of(front, REF) == GTF_reading
    assert unmap_ref(back, reader.handle, 60) == GNTST_okay
    assert_unused(world, front, REF, PAGE)


@pytest.mark.parametrize(
    ("domid", "ref", "status"),
    [
        (9, REF, GNTST_bad_domain),
        (DOMID_SELF, REF, GNTST_bad_domain),
        (1, 512, GNTST_bad_gntref),
        (1, 0xFFFFFFFF, GNTST_bad_gntref),
        (1, 21, GNTST_general_error),  # not granted
        (1, 22, GNTST_general_error),  # granted to somebody else
        (1, 23, GNTST_bad_page),  # a hole
        (1, 24, GNTST_bad_page),  # far beyond
    ],
)
def test_what_is_not_granted(
    world: World, front: Dom, back: Caller, domid: int, ref: int, status: int
) -> None:
    grant(front, 22, 3, PAGE)
    grant(front, 23, 2, 500)
    grant(front, 24, 2, 0xFFFFFFFF)
    assert map_ref(back, front, ref, 60, domid=domid).status == status
    assert back.dom.p2m.lookup(60)[1] is P2mType.mmio_dm
    assert back.dom.grants.maptrack == {}
    assert front.grants.active == {}
    assert all(use_of(front, one) == 0 for one in range(20, 25))
    assert world.memory.refs(mfn(front, PAGE)) == 1


@pytest.mark.parametrize(
    ("flags", "status"),
    [
        (0, GNTST_bad_gntref),
        (GNTMAP_readonly, GNTST_bad_gntref),
        (GNTMAP_device_map, GNTST_general_error),
        (GNTMAP_host_map | GNTMAP_device_map, GNTST_general_error),
        (GNTMAP_host_map | GNTMAP_application_map, GNTST_general_error),
        (GNTMAP_host_map | GNTMAP_contains_pte, GNTST_general_error),
        (GNTMAP_host_map | 1 << 20, GNTST_general_error),
    ],
)
def test_flags(world: World, front: Dom, back: Caller, flags: int, status: int) -> None:
    assert map_ref(back, front, REF, 60, flags).status == status
    assert_unused(world, front, REF, PAGE)
    assert back.dom.grants.maptrack == {}


def test_a_page_of_others_cannot_be_granted(world: World, front: Dom, back: Caller) -> None:
    """What a domain has mapped by grant, or as a foreign page, isn't its own to pass on."""
    third = Caller(world, world.domain(3, pages=2))
    assert map_ref(back, front, REF, 60).status == GNTST_okay
    grant(back.dom, REF, 3, 60)
    assert map_ref(third, back.dom, REF, 60).status == GNTST_bad_page
    dom0 = world.domain(0, pages=1, privileged=True)
    dom0.p2m.set_foreign(70, mfn(front, 1))
    grant(dom0, REF, 3, 70)
    assert map_ref(third, dom0, REF, 60).status == GNTST_bad_page
    assert world.memory.refs(mfn(front, 1)) == 2


def test_parts_and_deputies_cannot_be_mapped(world: World, front: Dom, back: Caller) -> None:
    if front.grants.version == 1:
        grant(front, REF, 2, PAGE, 0x100)
    else:
        grant_part(front, REF, 2, PAGE, 0, 64)
        grant_transitive(front, 21, 2, 3, 7)
        assert map_ref(back, front, 21, 60).status == GNTST_general_error
    assert map_ref(back, front, REF, 60).status == GNTST_general_error
    assert_unused(world, front, REF, PAGE)


def test_a_part_in_use_cannot_be_mapped(world: World, back: Caller, front: Dom) -> None:
    front.grants.set_version(2)  # version 1 has no grants of parts
    grant_part(front, REF, 2, PAGE, 0, 64)
    held = acquire_grant(front.grants, REF, 2, True)
    grant(front, REF, 2, PAGE)
    assert map_ref(back, front, REF, 60, RO).status == GNTST_general_error
    release_grant(front.grants, REF, True)
    world.frames.put_page(held.mfn)
    assert map_ref(back, front, REF, 60, RO).status == GNTST_okay


def test_over_ram_of_ones_own(world: World, front: Dom, back: Caller) -> None:
    """The page that was there stays allocated, without a place."""
    old = mfn(back.dom, 2)
    op = map_ref(back, front, REF, 2)
    assert op.status == GNTST_okay
    assert world.memory.owner(old) == 2
    assert back.dom.pool.tot_pages == 4
    assert unmap_ref(back, op.handle, 2) == GNTST_okay
    assert back.dom.p2m.lookup(2)[1] is P2mType.mmio_dm


def test_over_another_grant_is_a_crash(world: World, front: Dom, back: Caller) -> None:
    grant(front, 21, 2, 4)
    assert map_ref(back, front, REF, 60).status == GNTST_okay
    assert map_ref(back, front, 21, 60).status == GNTST_general_error
    assert len(back.dom.crashes) == 1
    assert_unused(world, front, 21, 4)
    assert back.dom.p2m.lookup(60)[0] == mfn(front, PAGE)


def test_beyond_the_address_space(world: World, front: Dom, back: Caller) -> None:
    assert map_ref(back, front, REF, 1 << 40).status == GNTST_general_error
    assert_unused(world, front, REF, PAGE)


def test_granting_to_oneself(world: World, front: Dom) -> None:
    caller = Caller(world, front)
    grant(front, 21, 1, PAGE)
    frame = mfn(front, PAGE)
    op = map_ref(caller, front, 21, 60)
    assert op.status == GNTST_okay
    # a frame of one's own has one place, as in Xen
    assert front.p2m.lookup(PAGE)[1] is P2mType.mmio_dm
    assert front.p2m.lookup(60) == (frame, P2mType.grant_map_rw)
    assert unmap_ref(caller, op.handle, 60) == GNTST_okay
    assert world.memory.refs(frame) == 1


def test_counters_do_not_overflow(world: World, front: Dom, back: Caller) -> None:
    ops = [map_ref(back, front, REF, 100 + i, RO) for i in range(129)]
    assert [op.status for op in ops] == [GNTST_okay] * 128 + [GNTST_general_error]
    assert map_ref(back, front, REF, 60).status == GNTST_okay
    for i, op in enumerate(ops[:128]):
        assert unmap_ref(back, op.handle, 100 + i) == GNTST_okay
    assert use_of(front, REF) == GTF_reading | GTF_writing


def test_as_many_mappings_as_the_limit_says(world: World, front: Dom, back: Caller) -> None:
    back.dom.grants.max_maptrack_frames = 0
    assert map_ref(back, front, REF, 60).status == GNTST_no_space
    assert_unused(world, front, REF, PAGE)
    back.dom.grants.max_maptrack_frames = 1
    for i in range(256):
        ref, gfn = 30 + i // 100, 1000 + i
        grant(front, ref, 2, PAGE, 0) if i % 100 == 0 else None
        assert map_ref(back, front, ref, gfn).status == GNTST_okay
    assert map_ref(back, front, 33, 2000).status == GNTST_no_space
    assert unmap_ref(back, 17, 1017) == GNTST_okay
    op = map_ref(back, front, 32, 1017)
    assert (op.status, op.handle) == (GNTST_okay, 17)


# -- unmapping -----------------------------------------------------------------------------------
def test_bad_handles(front: Dom, back: Caller) -> None:
    op = map_ref(back, front, REF, 60)
    assert unmap_ref(back, op.handle + 1, 60) == GNTST_bad_handle
    assert unmap_ref(back, 0xFFFFFFFF, 60) == GNTST_bad_handle
    assert unmap_ref(back, op.handle, 60) == GNTST_okay
    assert unmap_ref(back, op.handle, 60) == GNTST_bad_handle


def test_unmap_at_the_wrong_place(front: Dom, back: Caller) -> None:
    op = map_ref(back, front, REF, 60)
    for gfn in (61, 1):
        assert unmap_ref(back, op.handle, gfn) == GNTST_general_error
    assert back.dom.p2m.lookup(60)[1] is P2mType.grant_map_rw
    assert use_of(front, REF) == GTF_reading | GTF_writing
    assert unmap_ref(back, op.handle, 0) == GNTST_okay  # names no place, so nothing is undone
    assert back.dom.p2m.lookup(60)[1] is P2mType.grant_map_rw
    assert unmap_ref(back, op.handle, 60) == GNTST_okay


def test_revoked_while_mapped(world: World, front: Dom, back: Caller) -> None:
    op = map_ref(back, front, REF, 60)
    grant(front, REF, 3, 5)  # an impolite guest: the mapping goes on with the old page
    grant_flags = flags_of(front, REF)
    assert back.dom.p2m.lookup(60)[0] == mfn(front, PAGE)
    third = Caller(world, world.domain(3))
    assert map_ref(third, front, REF, 60).status == GNTST_general_error
    assert unmap_ref(back, op.handle, 60) == GNTST_okay
    assert flags_of(front, REF) & ~0x18 == grant_flags & ~0x18
    assert map_ref(third, front, REF, 60).status == GNTST_okay
    assert third.dom.p2m.lookup(60)[0] == mfn(front, 5)


def test_the_page_given_back_while_mapped(world: World, front: Dom, back: Caller) -> None:
    frame = mfn(front, PAGE)
    op = map_ref(back, front, REF, 60)
    back.dom.write(60, 0, b"mine")
    front.p2m.guest_remove_page(PAGE)
    assert world.memory.owner(frame) == 1
    assert front.pool.tot_pages == 8
    assert back.dom.read(60, 0, 4) == b"mine"
    revoke(front, REF)
    assert unmap_ref(back, op.handle, 60) == GNTST_okay
    assert front.pool.tot_pages == 7
    assert world.memory.refs(frame) == 0


def test_the_granter_dies_first(world: World, front: Dom, back: Caller) -> None:
    op = map_ref(back, front, REF, 60)
    back.dom.write(60, 0, b"still here")
    world.destroy(front)
    assert 1 in world.domains
    assert back.dom.read(60, 0, 10) == b"still here"
    assert any("active grant 14" in line for _, _, line in world.log.lines)
    assert unmap_ref(back, op.handle, 60) == GNTST_okay
    assert 1 not in world.domains


def test_the_mapper_dies_first(world: World, front: Dom, back: Caller) -> None:
    grant(front, 21, 2, 4)
    map_ref(back, front, REF, 60)
    map_ref(back, front, 21, 61, RO)
    world.destroy(back.dom)
    assert 2 not in world.domains
    assert_unused(world, front, REF, PAGE)
    assert_unused(world, front, 21, 4)


def test_mappings_are_released_in_steps(world: World, front: Dom, back: Caller) -> None:
    for i in range(5):
        map_ref(back, front, REF, 60 + i)
    assert not release_mappings(back.dom.grants, 2)
    assert len(back.dom.grants.maptrack) == 3
    assert not any(kind is P2mType.grant_map_rw for kind in back.dom.p2m._types.values())
    assert release_mappings(back.dom.grants, 9)
    assert_unused(world, front, REF, PAGE)


# -- PV domains ----------------------------------------------------------------------------------
def test_pv_domains_cannot_map_yet(world: World, front: Dom) -> None:
    pv = Caller(world, world.domain(3, GuestKind.PV))
    grant(front, REF, 3, PAGE)
    assert map_ref(pv, front, REF, 60).status == GNTST_general_error
    assert_unused(world, front, REF, PAGE)


def test_device_mappings_of_a_pv_domain(world: World, front: Dom) -> None:
    """Without an IOMMU they only hold the page."""
    pv = Caller(world, world.domain(3, GuestKind.PV))
    grant(front, REF, 3, PAGE)
    op = map_ref(pv, front, REF, 0, GNTMAP_device_map)
    assert op.status == GNTST_okay
    assert use_of(front, REF) == GTF_reading | GTF_writing
    assert unmap_ref(pv, op.handle, 0, op.dev_bus_addr + 4096) == GNTST_bad_dev_addr
    assert unmap_ref(pv, op.handle, 0, op.dev_bus_addr) == GNTST_okay
    assert_unused(world, front, REF, PAGE)


class Recorder:
    """A mapper as PV domains will have one."""

    def __init__(self) -> None:
        self.seen: list[tuple[object, ...]] = []

    def create(self, addr: int, mfn: int, flags: int, cache_flags: int) -> None:
        self.seen.append(("create", addr, mfn, flags, cache_flags))

    def replace(self, addr: int, mfn: int, new_addr: int, flags: int) -> None:
        if new_addr == 0xBAD000:
            raise GrantError(GNTST_general_error)
        self.seen.append(("replace", addr, mfn, new_addr, flags))


def test_host_and_device_mapping_at_once(world: World, front: Dom) -> None:
    pv = Caller(world, world.domain(3, GuestKind.PV))
    mapper = pv.dom.grants.host_mapper = Recorder()
    grant(front, REF, 3, PAGE)
    frame, both = mfn(front, PAGE), GNTMAP_host_map | GNTMAP_device_map
    op = map_ref(pv, front, REF, 60, both)
    assert op.status == GNTST_okay
    assert mapper.seen == [("create", 60 << 12, frame, both, 0)]
    assert world.memory.refs(frame) == 3
    assert unmap_ref(pv, op.handle, 60) == GNTST_okay
    assert world.memory.refs(frame) == 2
    assert use_of(front, REF) == GTF_reading | GTF_writing
    assert unmap_ref(pv, op.handle, 0, frame << 12) == GNTST_okay
    assert_unused(world, front, REF, PAGE)
    assert pv.dom.grants.maptrack == {}


def test_a_pv_granter_counts_writable_uses(world: World, back: Caller) -> None:
    pv = world.domain(3, GuestKind.PV, max_pages=9)
    ((frame, _),) = pv.p2m.populate(0, 1)
    grant(pv, REF, 2, frame)
    op = map_ref(back, pv, REF, 60)
    assert op.status == GNTST_okay
    assert world.frames.memory.writers(frame) == 1
    assert unmap_ref(back, op.handle, 60) == GNTST_okay
    assert world.frames.memory.writers(frame) == 0


# -- what only goes wrong inside -----------------------------------------------------------------
def test_a_frame_that_cannot_be_written(
    world: World, front: Dom, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a page table of a PV domain will be."""
    pv = Caller(world, world.domain(3, GuestKind.PV))
    grant(front, REF, 3, PAGE)
    monkeypatch.setattr(world.frames, "get_writable", lambda mfn: False)
    assert map_ref(pv, front, REF, 0, GNTMAP_device_map).status == GNTST_general_error
    assert_unused(world, front, REF, PAGE)


def test_types_and_references_are_given_back(world: World, front: Dom) -> None:
    pv = Caller(world, world.domain(3, GuestKind.PV))
    grant(front, REF, 3, PAGE)
    op = map_ref(pv, front, REF, 60, GNTMAP_host_map | GNTMAP_device_map)
    assert op.status == GNTST_general_error
    assert world.frames.memory.writers(mfn(front, PAGE)) == 0
    assert_unused(world, front, REF, PAGE)


def test_nothing_to_unmap_from(world: World, front: Dom, back: Caller) -> None:
    op = map_ref(back, front, REF, 60)
    entry = front.grants.active.pop(REF)
    assert unmap_ref(back, op.handle, 60) == GNTST_bad_handle
    del world.domains[1]
    assert unmap_ref(back, op.handle, 60) == GNTST_bad_domain
    assert len(back.dom.crashes) == 1
    world.domains[1], front.grants.active[REF] = front, entry


# -- an entry that changes under our hands -------------------------------------------------------
class Unstable:
    """Machine memory whose guest rewrites an entry whenever the hypervisor looks at it."""

    def __init__(self, inner: object, at: int, times: int, values: tuple[int, int]) -> None:
        self._inner, self._at, self._left, self._values = inner, at, times, values

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def _rewrite(self) -> None:
        if self._left:
            self._left -= 1
            value = self._values[self._left % 2]
            self._inner.write_u32(self._at, value)  # type: ignore[attr-defined]

    def compare_exchange_u32(self, maddr: int, expected: int, value: int) -> int:
        if maddr == self._at:
            self._rewrite()
        return self._inner.compare_exchange_u32(maddr, expected, value)  # type: ignore

    def test_and_set_bit(self, maddr: int, bit: int) -> bool:
        self._rewrite()
        return self._inner.test_and_set_bit(maddr, bit)  # type: ignore


@pytest.mark.parametrize(("times", "status"), [(3, GNTST_okay), (5, GNTST_general_error)])
def test_an_unstable_entry_of_version_1(world: World, times: int, status: int) -> None:
    front, back = world.domain(1, pages=8), Caller(world, world.domain(2))
    grant(front, REF, 2, PAGE)
    granted = 1 | 2 << 16
    values = (granted | GTF_reading, granted)
    front.grants.shared.memory = Unstable(  # type: ignore[assignment]
        world.memory, entry_maddr(front, REF), times, values
    )
    assert map_ref(back, front, REF, 60).status == status


def test_an_entry_of_version_2_withdrawn_in_between(world: World) -> None:
    front, back = world.domain(1, pages=8), Caller(world, world.domain(2))
    front.grants.set_version(2)
    grant(front, REF, 2, PAGE)
    front.grants.shared.memory = Unstable(  # type: ignore[assignment]
        world.memory, entry_maddr(front, REF), 1, (0, 0)
    )
    assert map_ref(back, front, REF, 60).status == GNTST_general_error
    assert use_of(front, REF) == 0
    assert world.memory.refs(mfn(front, PAGE)) == 1


# -- back ends in the host -----------------------------------------------------------------------
@pytest.fixture
def host(world: World, front: Dom) -> Dom:
    grant(front, REF, 0, PAGE)
    return world.domain(0, privileged=True)


def test_host_mapping(world: World, front: Dom, host: Dom) -> None:
    with map_grant(host.grants, 1, REF) as page:
        assert (page.mfn, page.maddr) == (mfn(front, PAGE), mfn(front, PAGE) << 12)
        assert use_of(front, REF) == GTF_reading | GTF_writing
        page.write(100, b"ring")
        assert front.read(PAGE, 100, 4) == b"ring"
        assert page.read(98, 8) == b"\0\0ring\0\0"
        for offset, size in ((-1, 1), (4090, 7), (0, 4097), (5, -1)):
            with pytest.raises(IndexError):
                page.read(offset, size)
        assert host.space.entries() == []
    assert_unused(world, front, REF, PAGE)
    with pytest.raises(ValueError, match="unmapped"):
        page.read(0, 1)
    page.unmap()


def test_host_mapping_read_only(world: World, front: Dom, host: Dom) -> None:
    grant(front, REF, 0, PAGE, GTF_readonly)
    with pytest.raises(GrantError) as error:
        map_grant(host.grants, 1, REF)
    assert error.value.status == GNTST_general_error
    with map_grant(host.grants, 1, REF, readonly=True) as page:
        assert use_of(front, REF) == GTF_reading
        with pytest.raises(ValueError, match="read-only"):
            page.write(0, b"x")
    assert_unused(world, front, REF, PAGE)


def test_host_mappings_pass_the_same_checks(front: Dom, host: Dom) -> None:
    grant(front, 21, 5, PAGE)
    for domid, ref, status in (
        (9, REF, GNTST_bad_domain),
        (1, 5000, GNTST_bad_gntref),
        (1, 21, GNTST_general_error),
    ):
        with pytest.raises(GrantError) as error:
            map_grant(host.grants, domid, ref)
        assert error.value.status == status
    assert host.grants.maptrack == {}


def test_host_mappings_keep_a_dead_domains_page(world: World, front: Dom, host: Dom) -> None:
    page = map_grant(host.grants, 1, REF)
    page.write(0, b"last words")
    world.destroy(front)
    assert front.pool.tot_pages == 1
    assert page.read(0, 10) == b"last words"
    page.unmap()
    assert 1 not in world.domains


def test_host_mappings_end_with_their_domain(world: World, front: Dom, host: Dom) -> None:
    page = map_grant(host.grants, 1, REF)
    world.destroy(host)
    assert_unused(world, front, REF, PAGE)
    page.unmap()  # harmless


def test_instruments_hear_of_grants(world: World, front: Dom, back: Caller) -> None:
    heard: list[tuple[object, ...]] = []

    class Ear:
        def grant_op(self, *what: object) -> None:
            heard.append(what[1:])

    with world.instruments.listening(Ear()):
        op = map_ref(back, front, REF, 60)
        unmap_ref(back, op.handle, 60)
        map_ref(back, front, 21, 60)
    assert heard == [
        (2, "map_grant_ref", 1, REF, GNTST_okay),
        (2, "unmap_grant_ref", 1, REF, GNTST_okay),
        (2, "map_grant_ref", -1, -1, GNTST_general_error),
    ]


def test_a_map_that_a_fault_strikes(world: World, front: Dom, back: Caller) -> None:
    """It fails with nothing held, and the next one works."""
    asked: list[tuple[int, ...]] = []

    def first(*what: int) -> int:
        asked.append(what)
        return GNTST_bad_page if len(asked) == 1 else 0

    world.faults.add_grant_map(first)
    assert map_ref(back, front, REF, 60).status == GNTST_bad_page
    assert_unused(world, front, REF, PAGE)
    assert map_ref(back, front, REF, 60).status == GNTST_okay
    assert asked == [(2, 1, REF), (2, 1, REF)]
