# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hypervisor.grants.bench import (
    assert_unused,
    entry_maddr,
    grant,
    grant_part,
    grant_transitive,
    map_ref,
    mfn,
    use_of,
)
from tests.hypervisor.memory.world import Caller, Dom, World
from xenograft.abi.errno import Errno, XenError
from xenograft.abi.grant_table import (
    GNTCOPY_dest_gref,
    GNTCOPY_source_gref,
    GNTMAP_host_map,
    GNTMAP_readonly,
    GNTST_bad_copy_arg,
    GNTST_bad_domain,
    GNTST_bad_gntref,
    GNTST_bad_page,
    GNTST_general_error,
    GNTST_okay,
    GNTST_permission_denied,
    GNTTABOP_copy,
    GTF_reading,
    GTF_readonly,
    GTF_writing,
    gnttab_copy,
    gnttab_copy_ptr,
)
from xenograft.abi.xen import DOMID_SELF
from xenograft.hypervisor.grants.copying import acquire_grant, release_grant
from xenograft.hypervisor.grants.host import copy_from_grant, copy_to_grant
from xenograft.hypervisor.grants.ops import BUDGET
from xenograft.hypervisor.grants.status import GrantError
from xenograft.hypervisor.kinds import GuestKind

REF = 20
PAGE = 3


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(params=[1, 2], ids=["v1", "v2"])
def front(world: World, request: pytest.FixtureRequest) -> Iterator[Dom]:
    dom = world.domain(1, pages=8)
    dom.grants.set_version(request.param)
    grant(dom, REF, 2, PAGE)
    yield dom
    for other in list(world.domains.values()):
        world.destroy(other)
    assert world.memory.free_frames() == world.free_at_start


@pytest.fixture
def front2(world: World) -> Dom:
    """A granting domain with version 2, for what only that has."""
    dom = world.domain(1, pages=8)
    dom.grants.set_version(2)
    return dom


@pytest.fixture
def back(world: World) -> Caller:
    return Caller(world, world.domain(2, pages=8))


def page(gfn: int, offset: int = 0) -> gnttab_copy_ptr:
    pointer = gnttab_copy_ptr(domid=DOMID_SELF, offset=offset)
    pointer.u.gmfn = gfn
    return pointer


def ref(number: int, domid: int = 1, offset: int = 0) -> gnttab_copy_ptr:
    pointer = gnttab_copy_ptr(domid=domid, offset=offset)
    pointer.u.ref = number
    return pointer


def op(source: gnttab_copy_ptr, dest: gnttab_copy_ptr, length: int, flags: int) -> gnttab_copy:
    return gnttab_copy(source=source, dest=dest, len=length, flags=flags, status=99)


def copy(
    caller: Caller,
    source: gnttab_copy_ptr,
    dest: gnttab_copy_ptr,
    length: int,
    flags: int,
) -> int:
    one = op(source, dest, length, flags)
    assert caller.grant_op(GNTTABOP_copy, one) == 0
    return one.status


def test_from_a_grant(world: World, front: Dom, back: Caller) -> None:
    front.write(PAGE, 100, b"from the front")
    assert copy(back, ref(REF, offset=100), page(1, 50), 14, GNTCOPY_source_gref) == GNTST_okay
    assert back.dom.read(1, 49, 16) == b"\0from the front\0"
    assert_unused(world, front, REF, PAGE)


def test_to_a_grant(world: World, front: Dom, back: Caller) -> None:
    back.dom.write(1, 0, b"from the back")
    assert copy(back, page(1), ref(REF, offset=8), 13, GNTCOPY_dest_gref) == GNTST_okay
    assert front.read(PAGE, 8, 13) == b"from the back"
    assert_unused(world, front, REF, PAGE)


def test_from_grant_to_grant(world: World, front: Dom, back: Caller) -> None:
    third = world.domain(3, pages=2)
    grant(third, 9, 2, 1)
    front.write(PAGE, 0, b"x" * 4096)
    both = GNTCOPY_source_gref | GNTCOPY_dest_gref
    assert copy(back, ref(REF), ref(9, 3), 4096, both) == GNTST_okay
    assert third.read(1, 0, 4096) == b"x" * 4096
    assert_unused(world, third, 9, 1)


def test_between_pages_of_ones_own(back: Caller) -> None:
    back.dom.write(0, 0, b"abcdef")
    assert copy(back, page(0), page(0, 3), 6, 0) == GNTST_okay
    assert back.dom.read(0, 0, 9) == b"abcabcdef"


def test_of_nothing(front: Dom, back: Caller) -> None:
    assert copy(back, ref(REF, offset=4096), page(1), 0, GNTCOPY_source_gref) == GNTST_okay


def test_read_only_grants(front: Dom, back: Caller) -> None:
    grant(front, REF, 2, PAGE, GTF_readonly)
    assert copy(back, ref(REF), page(1), 8, GNTCOPY_source_gref) == GNTST_okay
    assert copy(back, page(1), ref(REF), 8, GNTCOPY_dest_gref) == GNTST_general_error
    assert use_of(front, REF) == 0


def test_copies_beside_a_mapping(world: World, front: Dom, back: Caller) -> None:
    mapped = map_ref(back, front, REF, 60, GNTMAP_host_map | GNTMAP_readonly)
    assert mapped.status == GNTST_okay
    assert copy(back, ref(REF), page(1), 8, GNTCOPY_source_gref) == GNTST_okay
    assert use_of(front, REF) == GTF_reading
    assert copy(back, page(1), ref(REF), 8, GNTCOPY_dest_gref) == GNTST_okay
    assert use_of(front, REF) == GTF_reading
    assert world.memory.refs(mfn(front, PAGE)) == 2


@pytest.mark.parametrize(
    ("source", "dest", "length", "flags", "status"),
    [
        (ref(REF, 9), page(1), 8, GNTCOPY_source_gref, GNTST_bad_domain),
        (ref(REF, 1), page(1), 8, 0, GNTST_permission_denied),
        (page(1), ref(REF, 1), 8, 0, GNTST_permission_denied),
        (ref(9999), page(1), 8, GNTCOPY_source_gref, GNTST_bad_gntref),
        (ref(21), page(1), 8, GNTCOPY_source_gref, GNTST_general_error),
        (ref(22), page(1), 8, GNTCOPY_source_gref, GNTST_bad_page),
        (ref(REF), page(99), 8, GNTCOPY_source_gref, GNTST_bad_page),
        (ref(REF), page(1 << 60), 8, GNTCOPY_source_gref, GNTST_bad_page),
        (ref(REF, offset=4090), page(1), 8, GNTCOPY_source_gref, GNTST_bad_copy_arg),
        (ref(REF), page(1, 4090), 8, GNTCOPY_source_gref, GNTST_bad_copy_arg),
        (ref(REF), page(1, 65535), 65535, GNTCOPY_source_gref, GNTST_bad_copy_arg),
    ],
)
def test_bad_copies(
    world: World,
    front: Dom,
    back: Caller,
    source: gnttab_copy_ptr,
    dest: gnttab_copy_ptr,
    length: int,
    flags: int,
    status: int,
) -> None:
    grant(front, 22, 2, 500)
    assert copy(back, source, dest, length, flags) == status
    assert_unused(world, front, REF, PAGE)
    assert use_of(front, 22) == 0
    assert world.memory.refs(mfn(back.dom, 1)) == 1


def test_mapped_pages_are_no_ends_of_a_copy(world: World, front: Dom, back: Caller) -> None:
    assert map_ref(back, front, REF, 60).status == GNTST_okay
    assert copy(back, page(60), page(1), 8, 0) == GNTST_bad_page


def test_each_of_an_array_has_its_status(front: Dom, back: Caller) -> None:
    ops = [
        op(ref(REF), page(1), 8, GNTCOPY_source_gref),
        op(ref(21), page(1), 8, GNTCOPY_source_gref),
        op(ref(REF), page(2), 8, GNTCOPY_source_gref),
    ]
    assert back.grant_op(GNTTABOP_copy, *ops) == 0
    assert [one.status for one in ops] == [GNTST_okay, GNTST_general_error, GNTST_okay]


def test_long_arrays_continue(front: Dom, back: Caller) -> None:
    ops = [op(ref(REF, offset=i), page(1, i), 1, GNTCOPY_source_gref) for i in range(100)]
    front.write(PAGE, 0, bytes(range(100)))
    assert back.grant_op(GNTTABOP_copy, *ops) == 0
    assert {one.status for one in ops} == {GNTST_okay}
    assert back.continued == 99 // BUDGET
    assert back.dom.read(1, 0, 100) == bytes(range(100))


def test_an_array_that_ends_in_a_hole(front: Dom, back: Caller) -> None:
    addr = back.put(op(ref(REF), page(1), 8, GNTCOPY_source_gref))
    assert back.grant_op_at(GNTTABOP_copy, addr, 2) == -Errno.EFAULT
    assert back.grant_op_at(GNTTABOP_copy, addr, 0) == 0
    assert back.grant_op_at(GNTTABOP_copy, addr, 0x80000000) == -Errno.EINVAL


def test_by_a_32_bit_guest(world: World, front: Dom, back: Caller) -> None:
    front.write(PAGE, 0, b"narrow")
    narrow = Caller(world, back.dom, bits=32)
    assert copy(narrow, ref(REF), page(1), 6, GNTCOPY_source_gref) == GNTST_okay
    assert back.dom.read(1, 0, 6) == b"narrow"


def test_a_pv_domain_names_its_frames_by_mfn(world: World, front: Dom) -> None:
    pv = Caller(world, world.domain(3, GuestKind.PV))
    ((frame, _),) = pv.dom.p2m.populate(0, 1)
    grant(front, REF, 3, PAGE)
    front.write(PAGE, 0, b"for pv")
    assert copy(pv, ref(REF), page(frame), 6, GNTCOPY_source_gref) == GNTST_okay
    assert world.memory.read(frame << 12, 6) == b"for pv"
    assert copy(pv, ref(REF), page(mfn(front, 0)), 6, GNTCOPY_source_gref) == GNTST_bad_page


def test_a_frame_that_cannot_be_written(
    world: World, front: Dom, back: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.frames, "get_writable", lambda mfn: False)
    assert copy(back, page(1), ref(REF), 8, GNTCOPY_dest_gref) == GNTST_general_error
    assert_unused(world, front, REF, PAGE)
    assert world.memory.refs(mfn(back.dom, 1)) == 1


# -- parts of pages -----------------------------------------------------------------------------
def test_a_part_of_a_page(world: World, front2: Dom, back: Caller) -> None:
    grant_part(front2, REF, 2, PAGE, 100, 50)
    front2.write(PAGE, 100, b"p" * 50)

    def take(offset: int, length: int) -> int:
        return copy(back, ref(REF, offset=offset), page(1), length, GNTCOPY_source_gref)

    assert take(100, 50) == GNTST_okay
    assert back.dom.read(1, 0, 51) == b"p" * 50 + b"\0"
    assert take(149, 1) == GNTST_okay
    for offset, length in ((99, 1), (100, 51), (150, 1), (0, 0)):
        assert take(offset, length) == GNTST_general_error
    assert front2.grants.v2_ops == 0
    assert_unused(world, front2, REF, PAGE)


def test_a_part_beyond_the_page_is_never_touched(front2: Dom, back: Caller) -> None:
    grant_part(front2, REF, 2, PAGE, 4000, 0xFFFF)
    status = copy(back, ref(REF, offset=4000), page(1), 97, GNTCOPY_source_gref)
    assert status == GNTST_bad_copy_arg
    status = copy(back, ref(REF, offset=4000), page(1), 96, GNTCOPY_source_gref)
    assert status == GNTST_okay


def test_a_part_that_moves_while_in_use(world: World, front2: Dom) -> None:
    grant_part(front2, REF, 2, PAGE, 0, 64)
    held = acquire_grant(front2.grants, REF, 2, True)
    assert (held.start, held.length) == (0, 64)
    assert front2.grants.v2_ops == 1
    with pytest.raises(XenError) as error:
        front2.grants.set_version(1)
    assert error.value.errno is Errno.EBUSY
    grant_part(front2, REF, 2, PAGE, 64, 64)
    with pytest.raises(GrantError):
        acquire_grant(front2.grants, REF, 2, False)
    grant(front2, REF, 2, 4)
    with pytest.raises(GrantError):
        acquire_grant(front2.grants, REF, 2, False)
    again = acquire_grant(front2.grants, REF, 2, True)  # a second reader gets the first page
    assert again.mfn == held.mfn == mfn(front2, PAGE)
    for _ in range(2):
        release_grant(front2.grants, REF, True)
        world.frames.put_page(held.mfn)
    assert front2.grants.v2_ops == 0
    assert_unused(world, front2, REF, PAGE)


# -- transitive grants ---------------------------------------------------------------------------
@pytest.fixture
def third(world: World, front2: Dom) -> Dom:
    """Domain 3 grants its page 1 to domain 1, which passes it on to domain 2."""
    dom = world.domain(3, pages=4)
    grant(dom, 9, 1, 1)
    dom.write(1, 0, b"from far away")
    grant_transitive(front2, REF, 2, 3, 9)
    return dom


def test_transitive(world: World, front2: Dom, third: Dom, back: Caller) -> None:
    assert copy(back, ref(REF), page(1), 13, GNTCOPY_source_gref) == GNTST_okay
    assert back.dom.read(1, 0, 13) == b"from far away"
    assert copy(back, page(1, 5), ref(REF), 3, GNTCOPY_dest_gref) == GNTST_okay
    assert third.read(1, 0, 4) == b"far"[:3] + b"m"
    assert_unused(world, third, 9, 1)
    assert (use_of(front2, REF), front2.grants.active, front2.grants.v2_ops) == (0, {}, 0)


def test_transitive_to_the_first_granter(world: World, front2: Dom, third: Dom) -> None:
    grant_transitive(front2, REF, 3, 3, 9)
    caller = Caller(world, third)
    assert copy(caller, ref(REF), page(2), 13, GNTCOPY_source_gref) == GNTST_okay
    assert third.read(2, 0, 13) == b"from far away"


def test_transitive_goes_one_step(world: World, front2: Dom, third: Dom, back: Caller) -> None:
    fourth = world.domain(4, pages=2)
    grant(fourth, 5, 3, 0)
    third.grants.set_version(2)
    grant_transitive(third, 9, 1, 4, 5)
    assert copy(back, ref(REF), page(1), 4, GNTCOPY_source_gref) == GNTST_general_error
    assert (use_of(front2, REF), use_of(third, 9), use_of(fourth, 5)) == (0, 0, 0)
    assert front2.grants.active == third.grants.active == fourth.grants.active == {}


@pytest.mark.parametrize(
    ("domid", "gref", "status"),
    [
        (1, 9, GNTST_general_error),  # itself
        (77, 9, GNTST_general_error),
        (3, 5000, GNTST_bad_gntref),
        (3, 10, GNTST_general_error),  # not granted to domain 1
    ],
)
def test_transitive_to_nowhere(
    front2: Dom, third: Dom, back: Caller, domid: int, gref: int, status: int
) -> None:
    grant_transitive(front2, REF, 2, domid, gref)
    assert copy(back, ref(REF), page(1), 4, GNTCOPY_source_gref) == status
    assert (use_of(front2, REF), front2.grants.active, front2.grants.v2_ops) == (0, {}, 0)


def test_transitive_in_use_twice(world: World, front2: Dom, third: Dom) -> None:
    first = acquire_grant(front2.grants, REF, 2, True)
    second = acquire_grant(front2.grants, REF, 2, False)
    assert first.mfn == second.mfn == mfn(third, 1)
    assert use_of(third, 9) == GTF_reading | GTF_writing
    assert world.memory.refs(first.mfn) == 3
    grant(third, 10, 1, 2)
    grant_transitive(front2, REF, 2, 3, 10)
    with pytest.raises(GrantError):
        acquire_grant(front2.grants, REF, 2, True)
    assert_unused(world, third, 10, 2)
    for readonly in (True, False):
        release_grant(front2.grants, REF, readonly)
        world.frames.put_page(first.mfn)
    assert_unused(world, third, 9, 1)
    assert front2.grants.v2_ops == 0


def test_a_grant_that_becomes_transitive_while_in_use(
    world: World, front2: Dom, third: Dom
) -> None:
    grant(front2, REF, 2, PAGE)
    held = acquire_grant(front2.grants, REF, 2, True)
    grant_transitive(front2, REF, 2, 3, 9)
    with pytest.raises(GrantError):
        acquire_grant(front2.grants, REF, 2, True)
    release_grant(front2.grants, REF, True)
    world.frames.put_page(held.mfn)
    assert_unused(world, third, 9, 1)
    assert world.memory.refs(held.mfn) == 1
    assert front2.grants.v2_ops == 0


def test_version_1_has_neither_parts_nor_deputies(world: World, back: Caller) -> None:
    front = world.domain(1, pages=4)
    world.memory.write(entry_maddr(front, REF), b"\x03\0\x02\0\x03\0\0\0")
    assert copy(back, ref(REF), page(1), 4, GNTCOPY_source_gref) == GNTST_general_error
    grant(front, REF, 2, 1, 0x100)
    assert copy(back, ref(REF), page(1), 4, GNTCOPY_source_gref) == GNTST_okay


# -- counters and dying domains ------------------------------------------------------------------
def test_counters_do_not_overflow(world: World, front: Dom) -> None:
    held = [acquire_grant(front.grants, REF, 2, True) for _ in range(128)]
    with pytest.raises(GrantError):
        acquire_grant(front.grants, REF, 2, True)
    for one in held:
        release_grant(front.grants, REF, True)
        world.frames.put_page(one.mfn)
    assert_unused(world, front, REF, PAGE)


def test_in_use_by_another(front: Dom, back: Caller) -> None:
    held = acquire_grant(front.grants, REF, 2, True)
    grant(front, REF, 3, PAGE)
    with pytest.raises(GrantError) as error:
        acquire_grant(front.grants, REF, 3, True)
    assert error.value.status == GNTST_general_error
    release_grant(front.grants, REF, True)
    front.hypervisor.frames.put_page(held.mfn)


def test_a_second_use_of_a_dying_domains_page(world: World, front: Dom) -> None:
    held = acquire_grant(front.grants, REF, 2, True)
    front.dying = True
    with pytest.raises(GrantError) as error:
        acquire_grant(front.grants, REF, 2, True)
    assert error.value.status == GNTST_bad_domain
    front.dying = False
    release_grant(front.grants, REF, True)
    world.frames.put_page(held.mfn)
    assert_unused(world, front, REF, PAGE)


# -- back ends in the host -----------------------------------------------------------------------
def test_host_copies(world: World, front: Dom) -> None:
    host = world.domain(0, privileged=True)
    grant(front, REF, 0, PAGE)
    copy_to_grant(host.grants, 1, REF, 10, b"hello")
    assert front.read(PAGE, 10, 5) == b"hello"
    assert copy_from_grant(host.grants, 1, REF, 8, 8) == b"\0\0hello\0"
    for offset, size in ((4090, 7), (-1, 2), (0, -1)):
        with pytest.raises(IndexError):
            copy_from_grant(host.grants, 1, REF, offset, size)
    with pytest.raises(GrantError) as error:
        copy_from_grant(host.grants, 1, 21, 0, 1)
    assert error.value.status == GNTST_general_error
    with pytest.raises(GrantError) as error:
        copy_from_grant(host.grants, 9, REF, 0, 1)
    assert error.value.status == GNTST_bad_domain
    assert_unused(world, front, REF, PAGE)


def test_host_copies_of_a_part(front2: Dom, world: World) -> None:
    host = world.domain(0, privileged=True)
    grant_part(front2, REF, 0, PAGE, 100, 8)
    copy_to_grant(host.grants, 1, REF, 100, b"12345678")
    with pytest.raises(IndexError):
        copy_to_grant(host.grants, 1, REF, 99, b"x")
    assert copy_from_grant(host.grants, 1, REF, 104, 4) == b"5678"
