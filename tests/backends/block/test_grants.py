# SPDX-License-Identifier: GPL-2.0-or-later
"""The front end's pages: which stay mapped, and for how long."""

from __future__ import annotations

import pytest

from tests.backends.block.frontend import FrontEnd, MemoryImage, Scene
from xenograft.backends.block.grants import GrantPages
from xenograft.hypervisor.grants.status import GrantError


def pages_of(scene: Scene, persistent: bool, limit: int = 8) -> tuple[FrontEnd, GrantPages]:
    front = FrontEnd(scene, MemoryImage())
    return front, GrantPages(scene.host, front.domain.domid, persistent, limit)


def test_pages_that_pass(scene: Scene) -> None:
    front, grants = pages_of(scene, persistent=False)
    refs = [ref for _, ref in front.pages[:3]]
    pages = grants.acquire(refs, readonly=True)
    assert [front.in_use(ref) for ref in refs] == [True] * 3
    assert [page.mapping.readonly for page in pages] == [True] * 3
    grants.release(pages)
    assert not any(front.in_use(ref) for ref in refs)
    assert (grants.kept, grants.save()) == (0, ())


def test_pages_that_stay(scene: Scene) -> None:
    front, grants = pages_of(scene, persistent=True)
    refs = [ref for _, ref in front.pages[:3]]
    first = grants.acquire([*refs, refs[0]], readonly=True)
    assert first[0] is first[3]
    assert not first[0].mapping.readonly
    grants.release(first)
    second = grants.acquire(refs, readonly=False)
    assert second == first[:3]
    grants.release(second)
    assert all(front.in_use(ref) for ref in refs)
    assert grants.save() == tuple(refs)
    grants.close()
    assert not any(front.in_use(ref) for ref in refs)


def test_a_bad_reference_holds_nothing(scene: Scene) -> None:
    for persistent in (False, True):
        front, grants = pages_of(scene, persistent)
        refs = [front.pages[0][1], 4000]
        with pytest.raises(GrantError):
            grants.acquire(refs, readonly=True)
        assert front.in_use(refs[0]) is persistent
        grants.close()
        assert not front.in_use(refs[0])


def test_the_least_lately_used_give_way(scene: Scene) -> None:
    front, grants = pages_of(scene, persistent=True, limit=8)
    refs = [ref for _, ref in front.pages]
    for ref in refs[:8]:
        grants.release(grants.acquire([ref], readonly=False))
    grants.release(grants.acquire([refs[0]], readonly=False))
    grants.release(grants.acquire([refs[8]], readonly=False))
    assert grants.kept == 8
    assert [front.in_use(ref) for ref in refs[:9]] == [True, False, *[True] * 7]
    grants.close()


def test_pages_in_use_never_give_way(scene: Scene) -> None:
    front, grants = pages_of(scene, persistent=True, limit=2)
    refs = [ref for _, ref in front.pages]
    held = grants.acquire(refs[:2], readonly=False)
    passing = grants.acquire(refs[2:4], readonly=True)
    assert [page.kept for page in (*held, *passing)] == [True, True, False, False]
    assert passing[0].mapping.readonly
    grants.release(passing)
    assert [front.in_use(ref) for ref in refs[:4]] == [True, True, False, False]
    grants.release(held)
    grants.close()


def test_close_takes_what_is_under_way_as_well(scene: Scene) -> None:
    front, grants = pages_of(scene, persistent=False)
    pages = grants.acquire([front.pages[0][1]], readonly=False)
    grants.close()
    assert not front.in_use(front.pages[0][1])
    grants.release(pages)


def test_a_device_keeps_what_it_may(scene: Scene) -> None:
    front = FrontEnd(scene, MemoryImage(), persistent=True).connect()
    ref = front.pages[0][1]
    assert front.read(0, 1) == bytes(512)
    assert front.in_use(ref)
    other = FrontEnd(scene, MemoryImage(), persistent=False).connect()
    assert other.read(0, 1) == bytes(512)
    assert not other.in_use(other.pages[0][1])
    front.switch(5)
    front.switch(6)
    assert not front.in_use(ref)
