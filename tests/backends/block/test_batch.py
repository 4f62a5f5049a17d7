# SPDX-License-Identifier: GPL-2.0-or-later
"""Batches of requests that the native core does: the same as Python's, one after the other."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.backends.block.frontend import (
    BARRIER,
    ERROR,
    GTF_PERMIT,
    GTF_READONLY,
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
from tests.backends.block.test_hostile import FUZZ, SECRET, Stage, slots
from xenograft.backends.block.images.raw import RawImage
from xenograft.engine import _core

SECTORS = 2048
Batch = Callable[..., tuple[int, int, int, int, bool]]


class Disk:
    """A machine with a guest and a disk in a file, where the native core may do requests."""

    def __init__(self, folder: str, **options: int | bool) -> None:
        self.path = Path(folder) / "disk"
        self.path.write_bytes(pattern(SECTORS * SECTOR))
        self.scene = Scene(virtual=False, native=True)
        self.stage = Stage(self.scene, RawImage(str(self.path)), **options)
        self.front = self.stage.front

    @property
    def done(self) -> int:
        """Requests that needed no thread."""
        return self.front.device.metrics.immediate

    def memory(self) -> list[bytes]:
        """The guest's pages but those of the ring, where answers may be in any order."""
        space, ring = self.front.domain.space, {gfn for gfn, _ in self.front.rings[0].pages}
        return [space.read(gfn * PAGE, PAGE) for gfn in range(40) if gfn not in ring]

    def listen(self) -> None:
        """Watch the ring: then every request passes through Python."""
        self.scene.xen.instruments.ring = lambda *_: None


@contextmanager
def disk(**options: int | bool) -> Iterator[Disk]:
    with TemporaryDirectory() as folder:
        one = Disk(folder, **options)
        try:
            yield one
        finally:
            one.scene.close()


@pytest.mark.parametrize("bits", [32, 64])
def test_plain_requests_are_done_at_once(bits: int) -> None:
    with disk(bits=bits) as one:
        front = one.front
        data = pattern(11 * PAGE, 1)
        front.submit(front.request(WRITE, 16, front.put(data)))
        assert [answer.status for answer in front.rings[0].take()] == [OKAY]
        assert one.path.read_bytes()[16 * SECTOR :][: len(data)] == data
        segments = front.put(bytes(11 * PAGE))
        front.submit(front.indirect(READ, 16, segments))
        (answer,) = front.rings[0].take()
        assert (answer.operation, answer.status) == (READ, OKAY)
        assert front.got(segments) == data
        assert one.done == 2
        metrics = front.device.metrics
        assert (metrics.rd_req, metrics.rd_sect, metrics.wr_req, metrics.wr_sect) == (1, 88, 1, 88)
        assert not any(front.in_use(ref) for _, ref in front.pages)


def test_who_watches_sees_every_request() -> None:
    with disk() as one:
        lines: list[str] = []
        one.scene.xen.instruments.ring = lambda *arguments: lines.append(arguments[-1])
        assert one.front.write(0, pattern(PAGE)) == OKAY
        assert [line[0] for line in lines] == [">", "<"]


def test_nothing_is_done_past_a_barrier() -> None:
    with disk() as one:
        front = one.front
        data = front.put(pattern(PAGE, 3))
        batch = [front.request(BARRIER, 0, data), front.request(WRITE, 8, data)]
        assert front.statuses(*batch) == [OKAY, OKAY]
        assert one.path.read_bytes()[: 2 * PAGE] == pattern(PAGE, 3) * 2


def test_a_read_only_disk_isn_t_written() -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "disk"
        path.write_bytes(bytes(SECTORS * SECTOR))
        scene = Scene(virtual=False, native=True)
        try:
            front = FrontEnd(scene, RawImage(str(path), readonly=True), mode="r").connect()
            assert front.write(0, pattern(PAGE)) == ERROR
            assert front.read(0, 8) == bytes(PAGE)
        finally:
            scene.close()


def test_a_read_that_must_wait_looks_its_pages_up_again() -> None:
    """Pages whose grants are gone when the data come aren't written any more."""
    scene = Scene(virtual=False, native=True)
    try:
        image = MemoryImage()
        image.data[:PAGE] = pattern(PAGE)
        front = FrontEnd(scene, image).connect()
        assert front.read(0, 8) == pattern(PAGE)
        gfn, ref = front.pages[0]
        segments = front.put(b"\xee" * PAGE)
        front.submit(front.request(READ, 0, segments))
        front.domain.grants.shared.write_v1(ref, 0, 0, gfn)
        scene.finish()
        assert [answer.status for answer in front.rings[0].take()] == [ERROR]
        assert front.domain.space.read(gfn * PAGE, PAGE) == b"\xee" * PAGE
    finally:
        scene.close()


def request(front: FrontEnd, rng: random.Random, stage: Stage, operation: int, at: int) -> bytes:
    """A request of which most are good; its place on the disk is its own."""
    segments = []
    starts = [0] if rng.random() < 0.7 else [0, 2]
    for _ in range(rng.choice([1, 2, 11, 11, 12, 0])):
        good = rng.random() < 0.97
        first = rng.choice(starts)
        last = rng.choice([7, 7, first + 7 * (len(starts) == 1)]) if good else rng.choice([8, 0])
        pages = [ref for _, ref in front.pages]
        segments.append((rng.choice(pages if good else stage.refs), first, last))
    ident = rng.getrandbits(64)
    sector = at * 96 if rng.random() < 0.95 else rng.choice([SECTORS - 1, (1 << 64) - 1])
    if rng.random() < 0.4:
        return front.indirect(operation, sector, segments, ident)
    return front.request(operation, sector, segments[:12], ident)


@pytest.mark.parametrize("persistent", [False, True])
@settings(FUZZ, max_examples=12)
@given(seed=st.integers(0, 1 << 32), bits=st.sampled_from([32, 64]), order=st.integers(0, 2))
def test_the_same_as_python(persistent: bool, seed: int, bits: int, order: int) -> None:
    """Answers, guest memory and disk after any requests, done natively and in Python."""
    found = []
    for native in (True, False):
        rng = random.Random(seed)
        with disk(bits=bits, order=order, persistent=persistent) as one:
            if not native:
                one.listen()
            answers: dict[int, tuple[int, int]] = {}
            for _ in range(6):
                # What is written has no order; what is read has.
                operation = rng.choice([READ, WRITE])
                count = rng.randint(1, 20)
                batch = [request(one.front, rng, one.stage, operation, i) for i in range(count)]
                for answer in one.front.ask(*batch):
                    answers[answer.id] = answer.operation, answer.status
            one.stage.check()
            found.append((answers, one.memory(), one.path.read_bytes()))
    assert found[0] == found[1]


@settings(FUZZ, max_examples=25)
@given(seed=st.integers(0, 1 << 32), bits=st.sampled_from([32, 64]))
def test_any_requests(seed: int, bits: int) -> None:
    rng = random.Random(seed)
    with disk(bits=bits) as one:
        front, stage, ring = one.front, one.stage, one.front.rings[0]
        garbled = False
        for _ in range(rng.randint(1, 12)):
            batch = [slots(stage, rng) for _ in range(rng.randint(1, 32))]
            # Who puts in more than fits finds requests where answers should be.
            garbled |= ring.req_prod - ring.rsp_cons + len(batch) > ring.slots
            front.submit(*batch)
            if rng.random() < 0.7:
                one.scene.finish()
                answers = ring.take()
                assert garbled or {answer.status for answer in answers} <= {0, -1, -2}
                if front.device.queues[0].halted:
                    break
        one.scene.finish()
        stage.check()
        assert SECRET[:SECTOR] not in one.path.read_bytes()
        ring.take()
        if not front.device.queues[0].halted and not garbled:
            assert front.write(8, pattern(PAGE)) == OKAY
            assert one.path.read_bytes()[8 * SECTOR : 16 * SECTOR] == pattern(PAGE)


def test_grants_that_aren_t_plain_are_python_s() -> None:
    """Mapped ones, of holes, for others, read-only ones: nothing of them is touched natively."""
    with disk() as one:
        front, memory = one.front, one.scene.xen.memory
        queue = front.device.queues[0]
        whole = struct.pack("<IBBxx", front.pages[0][1], 0, 7)

        def looked_up(ref: int, write: bool) -> bool:
            whole = struct.pack("<IBBxx", ref, 0, 7)
            return memory.locate(whole, {}, queue.granted(), write) is not None

        good, readonly = front.pages[0][1], front.page(GTF_PERMIT | GTF_READONLY)[1]
        assert looked_up(good, True)
        assert looked_up(readonly, False)
        assert not looked_up(readonly, True)
        assert not looked_up(one.stage.hole, False)
        assert not any(looked_up(ref, False) for ref in (0, 511, 512, 1 << 31, 0xFFFFFFFF))
        mapping = one.scene.host.map(front.domain.domid, good)
        assert not looked_up(good, False)
        mapping.unmap()
        assert looked_up(good, True)
        one.scene.xen.faults.grant_map = lambda *_: 0
        assert queue.granted() is None
        one.scene.xen.faults.grant_map = None
        one.scene.xen.instruments.grant_op = lambda *_: None
        assert queue.granted() is None
        assert memory.locate(whole, {}, None, False) is None


def test_parts_of_granted_pages_are_exchanged_all_or_none() -> None:
    with disk() as one:
        front, memory = one.front, one.scene.xen.memory
        granted = front.device.queues[0].granted()
        assert granted is not None
        refs = [ref for _, ref in front.pages]

        def parts(*wanted: tuple[int, int, int]) -> bytes:
            return b"".join(struct.pack("=IHH", *part) for part in wanted)

        data = pattern(5000)
        two = parts((refs[0], 0, 4096), (refs[1], 4096 - 904, 904))
        assert memory.exchange(granted, two, data) == b""
        assert memory.exchange(granted, two) == data
        assert memory.exchange(granted, parts((refs[1], 4095, 1))) == data[-1:]
        before = one.memory()
        readonly = front.page(GTF_PERMIT | GTF_READONLY)[1]
        wrong = [(refs[2], 4090, 7), (refs[2], 0xFFFF, 1), (readonly, 0, 1), (5000, 0, 1)]
        for part in wrong:
            both = parts((refs[0], 0, 1), part)
            assert memory.exchange(granted, both, bytes(1 + part[2])) is None
        assert memory.exchange(granted, parts((refs[0], 0, 8)), bytes(7)) is None
        assert memory.exchange(granted, parts(*[(refs[0], 0, 1)] * 65)) is None
        assert one.memory() == before


@pytest.mark.parametrize(
    "change",
    [
        {"ring": struct.pack("Q", 1)},
        {"ring": struct.pack("Q", 1 << 60)},
        {"ring": b""},
        {"bits": 16},
        {"slots": 33},
        {"slots": 0},
        {"slots": 64},
        {"sectors": 1 << 62},
        {"granted": (1, 2)},
    ],
)
def test_a_batch_of_nonsense_is_refused(change: dict[str, object]) -> None:
    memory = _core.Memory(300)
    ((mfn, _),) = memory.alloc(1)
    whole: dict[str, object] = {
        "ring": struct.pack("Q", mfn << 12),
        **{"bits": 64, "slots": 32, "consumer": 0, "producer": 0, "count": 1},
        **{"kept": {}, "granted": None, "fd": -1, "sectors": 8, "budget": 4096, "patience": -1},
    }
    batch: Batch = _core.blkif_batch
    assert batch(memory, *whole.values()) == (0, 0, 0, 0, False)
    with pytest.raises((IndexError, ValueError, TypeError)):
        batch(memory, *{**whole, **change}.values())
    memory.close()
