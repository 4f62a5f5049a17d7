# SPDX-License-Identifier: GPL-2.0-or-later
"""Front ends that write anything: no exception, no hang, nothing outside the granted pages."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.backends.block.frontend import (
    ERROR,
    GTF_PERMIT,
    GTF_READONLY,
    INDIRECT,
    OKAY,
    PAGE,
    READ,
    SECTOR,
    WRITE,
    FrontEnd,
    MemoryImage,
    Scene,
)
from tests.backends.block.images.support import pattern
from xenograft.backends.block.images.image import Image

SECRET = b"\xd5" * PAGE
"""What is in pages that weren't granted: it may neither change nor reach the disk."""


FUZZ = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    # A random seed can't be made smaller, and each attempt takes its time.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)


class Stage:
    """A guest with granted pages among others, and a neighbour."""

    def __init__(self, scene: Scene, image: Image | None = None, **options: int | bool) -> None:
        self.scene = scene
        self.image = MemoryImage(256)
        given = image or self.image
        self.front = FrontEnd(scene, given, **options).connect()  # type: ignore[arg-type]
        front = self.front
        self.readonly = [front.page(GTF_PERMIT | GTF_READONLY) for _ in range(2)]
        for_another = front.page(GTF_PERMIT)
        front.domain.grants.shared.write_v1(for_another[1], GTF_PERMIT, 7, for_another[0])
        self.hole = front.grant(5000)
        self.refs = [ref for _, ref in (*front.pages[:4], *self.readonly, for_another)]
        self.refs += [self.hole, 3, 0, 4000, 1 << 31]
        self.neighbour = scene.domain(8)
        granted = {gfn for gfn, _ in front.pages}
        self.private = [gfn for gfn in range(600, 620) if gfn not in granted]
        self.private += [for_another[0]]
        for gfn in self.private:
            front.domain.space.write(gfn * PAGE, SECRET)
        for gfn in range(8):
            self.neighbour.space.write(gfn * PAGE, SECRET)
        for gfn, _ in self.readonly:
            front.domain.space.write(gfn * PAGE, b"\x11" * PAGE)

    def check(self) -> None:
        space = self.front.domain.space
        assert all(space.read(gfn * PAGE, PAGE) == SECRET for gfn in self.private)
        assert all(self.neighbour.space.read(gfn * PAGE, PAGE) == SECRET for gfn in range(8))
        assert all(space.read(gfn * PAGE, PAGE) == b"\x11" * PAGE for gfn, _ in self.readonly)
        assert SECRET[:SECTOR] not in self.image.data


def slots(stage: Stage, rng: random.Random) -> bytes:
    """A request that is nearly right, or not at all."""
    front = stage.front

    def segment() -> tuple[int, int, int]:
        first = rng.choice([0, 0, 0, 1, 7, 8, 255])
        return rng.choice(stage.refs), first, rng.choice([first, 7, 7, 0, 8, 255])

    sector = rng.choice([0, 1, 100, 250, 255, 256, 1 << 55, (1 << 64) - 1])
    match rng.randrange(6):
        case 0:
            return rng.randbytes(108)
        case 1:
            operation = rng.choice([READ, WRITE, 3, 2, 4, 77])
            return front.request(operation, sector, [segment() for _ in range(rng.randrange(12))])
        case 2:
            gfn, ref = rng.choice(front.pages[4:])
            count = rng.choice([1, 3, 30, 256, 257, 0xFFFF])
            packed = b"".join(struct.pack("<IBBxx", *segment()) for _ in range(min(count, 512)))
            front.domain.space.write(gfn * PAGE, packed)
            refs = [rng.choice([ref, ref, ref, *stage.refs]) for _ in range(8)]
            return front.raw_indirect(rng.choice([READ, WRITE, WRITE, 3]), sector, count, refs)
        case 3:
            return front.discard_request(sector, rng.choice([0, 1, 300, 1 << 63]), rng.randrange(3))
        case 4:
            return bytes([INDIRECT]) + rng.randbytes(107)
        case _:
            segments = [(rng.choice(stage.refs[:4]), 0, 7) for _ in range(rng.randint(1, 11))]
            return front.request(rng.choice([READ, WRITE]), rng.randrange(160), segments)


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("virtual", [False, True])
@settings(FUZZ, max_examples=15)
@given(seed=st.integers(0, 1 << 32), bits=st.sampled_from([32, 64]))
def test_any_requests(persistent: bool, virtual: bool, seed: int, bits: int) -> None:
    rng = random.Random(seed)
    scene = Scene(virtual=virtual)
    try:
        stage = Stage(scene, bits=bits, persistent=persistent)
        stage.image.now = rng.random() < 0.5
        # Who has data read into his rings hears whatever was on the disk.
        garbled = rng.random() < 0.2
        if garbled:
            stage.refs += [ref for _, ref in stage.front.rings[0].pages]
        for _ in range(rng.randint(1, 12)):
            batch = [slots(stage, rng) for _ in range(rng.randint(1, 32))]
            # Nor is there much to hear for who puts in more than fits.
            ring = stage.front.rings[0]
            garbled |= ring.req_prod - ring.rsp_cons + len(batch) > ring.slots
            stage.front.submit(*batch)
            if rng.random() < 0.7:
                scene.finish()
                answers = stage.front.rings[0].take()
                assert garbled or {answer.status for answer in answers} <= {0, -1, -2}
                if stage.front.device.queues[0].halted:
                    break
        scene.finish()
        stage.check()
        stage.front.rings[0].take()
        queue = stage.front.device.queues[0]
        if not queue.halted and not garbled:
            assert queue.ring.outstanding == 0
            # It still works for who behaves.
            assert stage.front.write(8, pattern(PAGE)) == OKAY
            assert stage.image.data[8 * SECTOR : 16 * SECTOR] == pattern(PAGE)
    finally:
        scene.close()


@settings(FUZZ, max_examples=15)
@given(
    seed=st.integers(0, 1 << 32),
    indices=st.lists(
        st.one_of(st.integers(0, 0xFFFFFFFF), st.integers(0, 70), st.integers(-70, -1)),
        min_size=1,
        max_size=12,
    ),
    field=st.sampled_from([0, 4, 8, 12]),
)
def test_any_indices(seed: int, indices: list[int], field: int) -> None:
    """Producer and event indices that jump; our own in the page that are overwritten."""
    rng = random.Random(seed)
    scene = Scene()
    try:
        stage = Stage(scene, queues=2)
        front, ring = stage.front, stage.front.rings[0]
        for value in indices:
            for _ in range(rng.randrange(4)):
                ring.put(slots(stage, rng))
            ring.word(field, value)
            front.kick()
            if rng.random() < 0.5:
                scene.finish()
        scene.finish()
        stage.check()
        # The other ring is none the worse for it.
        assert front.write(0, pattern(SECTOR), queue=1) == OKAY
        device = front.device
        assert device.state == 4
        if field != 0:
            assert not device.queues[0].halted
    finally:
        scene.close()


def test_a_broken_ring_is_told_once_and_looked_at_no_more(scene: Scene) -> None:
    front = FrontEnd(scene, MemoryImage()).connect()
    front.rings[0].show(1000)
    for _ in range(3):
        front.kick()
    assert scene.log.count("halting the ring") == 1
    front.rings[0].show(0)
    front.kick()
    assert front.device.queues[0].halted
    front.switch(5)
    front.switch(6)
    assert front.backend_state == 6


def test_a_broken_ring_with_requests_under_way(scene: Scene) -> None:
    image = MemoryImage()
    front = FrontEnd(scene, image).connect()
    front.submit(front.request(WRITE, 0, front.put(pattern(SECTOR))))
    front.rings[0].show(5000)
    front.kick()
    scene.finish()
    assert image.data[:SECTOR] == pattern(SECTOR)


def test_a_ring_of_nothing_but_stale_requests(scene: Scene) -> None:
    """A front end that connects with a producer index of its own choosing."""
    front = FrontEnd(scene, MemoryImage())
    front.rings[0].word(0, 33)
    front.connect()
    assert front.backend_state == 5
    assert "req_prod" in (front.error or "")


def test_grants_that_are_taken_back_under_way(scene: Scene) -> None:
    """Pages that are in use can't be: the guest's change shows when they are mapped next."""
    image = MemoryImage()
    front = FrontEnd(scene, image).connect()
    segments = front.put(bytes(PAGE))
    ref = front.pages[0][1]
    front.submit(front.request(READ, 0, segments))
    assert front.in_use(ref)
    front.domain.grants.shared.write_v1(ref, 0, 0, 0)
    scene.finish()
    assert front.statuses(front.request(READ, 0, segments))[-1] == ERROR


def test_pages_that_may_only_be_read(scene: Scene) -> None:
    front = FrontEnd(scene, MemoryImage()).connect()
    gfn, ref = front.page(GTF_PERMIT | GTF_READONLY)
    front.domain.space.write(gfn * PAGE, pattern(PAGE))
    assert front.statuses(front.request(WRITE, 0, [(ref, 0, 7)])) == [OKAY]
    assert front.statuses(front.request(READ, 8, [(ref, 0, 7)])) == [ERROR]
    assert front.domain.space.read(gfn * PAGE, PAGE) == pattern(PAGE)
    assert front.read(0, 8) == pattern(PAGE)


def test_a_write_takes_the_data_of_its_moment(scene: Scene) -> None:
    """What the guest changes after it has submitted a write doesn't reach the image in part."""
    image = MemoryImage()
    front = FrontEnd(scene, image).connect()
    segments = front.put(pattern(PAGE))
    front.submit(front.request(WRITE, 0, segments))
    front.domain.space.write(front.pages[0][0] * PAGE, SECRET)
    scene.finish()
    assert image.data[:PAGE] == pattern(PAGE)


@settings(FUZZ, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    *("state", "ring-ref", "event-channel", "protocol", "feature-persistent"),
                    *("multi-queue-num-queues", "ring-page-order", "ring-ref0", "queue-0/ring-ref"),
                ]
            ),
            st.one_of(
                st.integers(-1, 9).map(str),
                st.sampled_from(["", "x", "x86_32-abi", "99999999999", "\u00b2", " 4 ", "0x4"]),
            ),
        ),
        max_size=20,
    )
)
def test_any_nodes(changes: list[tuple[str, str]]) -> None:
    """The front end's directory, state and all, in any order."""
    scene = Scene()
    try:
        front = FrontEnd(scene, MemoryImage())
        for name, value in changes:
            front.store.write(f"{front.path}/{name}", value)
            scene.run()
        scene.finish()
        assert not scene.xen.host_events
    finally:
        scene.close()
