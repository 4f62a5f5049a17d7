# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import pytest

from tests.hypervisor.memory.world import World
from xenograft.abi.errno import Errno, XenError
from xenograft.hypervisor.memory.frames import INVALID_GFN, FrameTable, PagePool


@pytest.fixture
def table() -> FrameTable:
    return World(64).frames


@pytest.fixture
def pool(table: FrameTable) -> PagePool:
    return table.add_pool(1, 16)


def errno(error: pytest.ExceptionInfo[XenError]) -> Errno:
    return error.value.errno


def one(table: FrameTable, pool: PagePool) -> int:
    return table.alloc(pool)[0][0]


def test_allocation_counts(table: FrameTable, pool: PagePool) -> None:
    extents = table.alloc(pool, 10)
    assert sum(length for _, length in extents) == 10
    assert pool.tot_pages == 10
    assert table.memory.owner(extents[0][0]) == 1
    with pytest.raises(XenError) as error:
        table.alloc(pool, 7)
    assert errno(error) is Errno.E2BIG
    assert pool.tot_pages == 10


def test_the_machine_may_be_too_small(table: FrameTable) -> None:
    pool = table.add_pool(2, 1000)
    with pytest.raises(XenError) as error:
        table.alloc(pool, 65)
    assert errno(error) is Errno.ENOMEM
    assert pool.tot_pages == 0
    assert table.memory.free_frames() == 64


def test_a_dying_domain_gets_nothing(table: FrameTable, pool: PagePool) -> None:
    pool.dying = True
    with pytest.raises(XenError) as error:
        table.alloc(pool)
    assert errno(error) is Errno.EINVAL


def test_contiguous_or_not_at_all(table: FrameTable) -> None:
    pool = table.add_pool(2, 64)
    frames = [one(table, pool) for _ in range(64)]
    for mfn in frames[::2]:
        table.put_alloc_ref(mfn)
    with pytest.raises(XenError) as error:
        table.alloc(pool, 2, contiguous=True)
    assert errno(error) is Errno.ENOMEM
    assert table.memory.free_frames() == 32
    assert len(table.alloc(pool, 2)) == 2


def test_address_width(table: FrameTable, pool: PagePool) -> None:
    low = table.alloc(pool, 4, bits=12 + 3)
    assert all(mfn + length <= 8 for mfn, length in low)
    with pytest.raises(XenError) as error:
        table.alloc(pool, 8, bits=12 + 3)
    assert errno(error) is Errno.ENOMEM
    assert pool.tot_pages == 4


def test_a_frame_lives_until_its_last_reference(table: FrameTable, pool: PagePool) -> None:
    mfn = one(table, pool)
    free = table.memory.free_frames()
    assert table.get_page(mfn, 1)
    table.put_alloc_ref(mfn)
    assert table.memory.free_frames() == free
    assert pool.tot_pages == 1
    table.put_alloc_ref(mfn)  # the allocation's reference goes but once
    assert table.memory.refs(mfn) == 1
    table.put_page(mfn)
    assert table.memory.free_frames() == free + 1
    assert pool.tot_pages == 0


def test_get_page_wants_the_owner(table: FrameTable, pool: PagePool) -> None:
    mfn = one(table, pool)
    assert not table.get_page(mfn, 2)
    assert not table.get_page(1 << 40, 1)
    assert not table.get_page(-1, 1)
    table.put_alloc_ref(mfn)
    assert not table.get_page(mfn, 1)
    assert table.owner_and_reference(mfn) is None


def test_owner_and_reference(table: FrameTable, pool: PagePool) -> None:
    mfn = one(table, pool)
    assert table.owner_and_reference(mfn) == 1
    assert table.memory.refs(mfn) == 2


def test_m2p(table: FrameTable, pool: PagePool) -> None:
    assert table.gfn_of(3) == INVALID_GFN
    table.set_gfn(3, 0)
    assert table.gfn_of(3) == 0
    table.set_gfn(3, 100, 4)
    assert [table.gfn_of(mfn) for mfn in range(2, 8)] == [
        INVALID_GFN,
        100,
        101,
        102,
        103,
        INVALID_GFN,
    ]
    table.set_gfn(4, INVALID_GFN, 2)
    assert table.gfn_of(4) == table.gfn_of(5) == INVALID_GFN
    assert table.gfn_of(6) == 103


def test_a_freed_frame_forgets_its_gfn(table: FrameTable, pool: PagePool) -> None:
    mfn = one(table, pool)
    table.set_gfn(mfn, 77)
    table.put_alloc_ref(mfn)
    assert table.gfn_of(mfn) == INVALID_GFN


def test_special_frames_are_not_counted(table: FrameTable, pool: PagePool) -> None:
    mfn = table.alloc_special(pool)
    assert pool.tot_pages == 0
    assert table.is_special(mfn)
    assert not table.is_special(one(table, pool))
    assert table.get_page(mfn, 1)
    assert table.special_busy(mfn)
    table.put_page(mfn)
    assert not table.special_busy(mfn)


def test_a_guest_cannot_free_a_special_frame(table: FrameTable, pool: PagePool) -> None:
    mfn = table.alloc_special(pool)
    table.put_alloc_ref(mfn)
    assert table.memory.refs(mfn) == 1
    assert not table.get_page(mfn, 1)
    table.free_special(mfn)
    assert table.memory.refs(mfn) == 0
    assert pool.empty


def test_a_special_frame_in_use_stays(table: FrameTable, pool: PagePool) -> None:
    mfn = table.alloc_special(pool)
    table.get_page(mfn, 1)
    table.free_special(mfn)
    assert not pool.empty
    assert not table.get_page(mfn, 1)
    table.put_page(mfn)
    assert pool.empty


def test_steal_and_assign(table: FrameTable, pool: PagePool) -> None:
    other = table.add_pool(2, 1)
    mfn, used = one(table, pool), one(table, pool)
    table.get_page(used, 1)
    with pytest.raises(XenError):
        table.steal(pool, used)
    with pytest.raises(XenError):
        table.steal(other, mfn)
    table.steal(pool, mfn)
    assert pool.tot_pages == 1
    assert not table.get_page(mfn, 1)
    table.assign(other, mfn)
    assert other.tot_pages == 1
    assert table.memory.owner(mfn) == 2
    assert table.get_page(mfn, 2)
    table.put_page(used)
    table.steal(pool, used)
    with pytest.raises(XenError) as error:
        table.assign(other, used)
    assert errno(error) is Errno.E2BIG
    table.free_stolen(used)
    assert table.memory.refs(used) == 0


def test_claims(table: FrameTable) -> None:
    first, second = table.add_pool(1, 50), table.add_pool(2, 50)
    table.claim(first, 40)
    assert table.outstanding_claims == 40
    for bad in (60, 41):
        with pytest.raises(XenError) as error:
            table.claim(first, bad)
        assert errno(error) is Errno.EINVAL
    with pytest.raises(XenError) as error:
        table.claim(second, 25)
    assert errno(error) is Errno.ENOMEM
    with pytest.raises(XenError) as error:
        table.alloc(second, 25)
    assert errno(error) is Errno.ENOMEM
    table.alloc(second, 24)
    table.alloc(first, 30)
    assert (first.claimed, table.outstanding_claims) == (10, 10)
    table.claim(first, 0)
    assert table.outstanding_claims == 0
    with pytest.raises(XenError) as error:
        table.claim(first, 30)
    assert errno(error) is Errno.EINVAL
    table.claim(first, 35)
    assert first.claimed == 5


def test_writable_uses_are_counted(table: FrameTable, pool: PagePool) -> None:
    mfn = one(table, pool)
    assert table.get_writable(mfn)
    assert table.get_writable(mfn)
    table.put_writable(mfn)
    table.put_writable(mfn)
    with pytest.raises(ValueError, match="isn't used so"):
        table.put_writable(mfn)


def test_relinquish_in_steps(table: FrameTable) -> None:
    pool = table.add_pool(3, 40)
    told: list[bool] = []
    pool.on_empty = lambda: told.append(True)
    extents = table.alloc(pool, 40)
    used = extents[0][0] + 5
    table.get_page(used, 3)
    rounds = 0
    while not table.relinquish(pool, 3):
        rounds += 1
        assert rounds < 40
    assert rounds > 10
    assert pool.tot_pages == 1
    assert told == []
    assert table.relinquish(pool, 3)
    table.put_page(used)
    assert pool.empty
    assert told == [True]
    assert table.memory.free_frames() == 64


def test_relinquish_frees_many_at_once() -> None:
    table = World(4096).frames
    pool = table.add_pool(1, 4000)
    table.alloc(pool, 4000)
    assert table.relinquish(pool, 1 << 20)
    assert pool.empty
    assert table.memory.free_frames() == 4096


def test_pools(table: FrameTable, pool: PagePool) -> None:
    with pytest.raises(ValueError, match="already"):
        table.add_pool(1, 5)
    mfn = one(table, pool)
    with pytest.raises(ValueError, match="left"):
        table.drop_pool(pool)
    table.put_alloc_ref(mfn)
    table.drop_pool(pool)
    assert table.add_pool(1, 5).tot_pages == 0


def test_save_and_restore_of_a_pool(table: FrameTable, pool: PagePool) -> None:
    table.alloc(pool, 4)
    table.claim(pool, 10)
    state = pool.save()
    again = FrameTable(table.memory)
    copy = again.add_pool(1, 16)
    again.restore_pool(copy, state)
    assert copy.save() == state
    assert again.outstanding_claims == 6
