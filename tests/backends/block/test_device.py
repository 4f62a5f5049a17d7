# SPDX-License-Identifier: GPL-2.0-or-later
"""The block device, between a front end played here and images in memory."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.backends.block.frontend import (
    BARRIER,
    DISCARD,
    EOPNOTSUPP,
    ERROR,
    FLUSH,
    OKAY,
    READ,
    SECTOR,
    WRITE,
    FrontEnd,
    MemoryImage,
    Scene,
)
from tests.backends.block.images.support import pattern, qemu_img
from xenograft.backends.block import device as device_module
from xenograft.backends.block import queue as queue_module
from xenograft.backends.block.protocol import FLUSH_FAILED

BITS = pytest.mark.parametrize("bits", [32, 64])


def test_what_is_offered(scene: Scene) -> None:
    front = FrontEnd(scene, MemoryImage(3000))
    assert front.backend_state == 2
    assert front.offered("hotplug-status") == "connected"
    assert front.offered("feature-max-indirect-segments") == "256"
    assert front.offered("multi-queue-max-queues") == "4"
    assert front.offered("max-ring-page-order") == "4"
    assert front.offered("sectors") is None
    front.connect()
    assert front.backend_state == 4
    expected = {
        "sectors": "3000",
        "sector-size": "512",
        "info": "0",
        "feature-flush-cache": "1",
        "feature-barrier": "1",
        "feature-persistent": "1",
        "feature-discard": "1",
        "discard-granularity": "4096",
    }
    assert {name: front.offered(name) for name in expected} == expected


def test_discard_may_be_left_out(scene: Scene) -> None:
    nodes = {"discard-enable": "0"}
    front = FrontEnd(scene, MemoryImage(), **nodes).connect()
    assert front.offered("feature-discard") is None


@BITS
@pytest.mark.parametrize("persistent", [False, True])
def test_reads_and_writes(scene: Scene, bits: int, persistent: bool) -> None:
    image = MemoryImage()
    image.data[:] = pattern(len(image.data))
    front = FrontEnd(scene, image, bits=bits, persistent=persistent).connect()
    assert front.read(10, 88) == image.data[10 * SECTOR : 98 * SECTOR]
    data = pattern(20 * SECTOR, 1)
    assert front.write(100, data) == OKAY
    assert image.data[100 * SECTOR : 120 * SECTOR] == data
    assert front.read(100, 20) == data
    assert front.read(2047, 1) == image.data[2047 * SECTOR :]
    metrics = front.device.metrics
    assert (metrics.rd_req, metrics.rd_sect) == (3, 109)
    assert (metrics.wr_req, metrics.wr_sect) == (1, 20)


def test_answers_carry_id_and_operation(scene: Scene) -> None:
    front = FrontEnd(scene, MemoryImage()).connect()
    segments = front.put(bytes(SECTOR))
    answers = front.ask(
        front.request(READ, 0, segments, ident=0xFFFF_FFFF_FFFF_FFFF),
        front.request(FLUSH, 0, ident=7),
        front.indirect(WRITE, 8, segments, ident=8),
        front.request(77, 0, ident=9),
    )
    assert sorted(answers) == [
        (7, FLUSH, OKAY),
        (8, WRITE, OKAY),
        (9, 77, EOPNOTSUPP),
        (0xFFFF_FFFF_FFFF_FFFF, READ, OKAY),
    ]


def test_parts_of_pages_in_any_order(scene: Scene) -> None:
    """The segments are put together in their order, wherever their pages are."""
    image = MemoryImage()
    front = FrontEnd(scene, image).connect()
    refs = [ref for _, ref in front.pages]
    for number, (gfn, _) in enumerate(front.pages):
        front.domain.space.write(gfn * 4096, pattern(4096, number))
    segments = [(refs[5], 3, 3), (refs[2], 0, 7), (refs[5], 6, 7), (refs[0], 7, 7)]
    assert front.statuses(front.request(WRITE, 0, segments)) == [OKAY]
    expected = (
        pattern(4096, 5)[3 * SECTOR : 4 * SECTOR]
        + pattern(4096, 2)
        + pattern(4096, 5)[6 * SECTOR :]
        + pattern(4096, 0)[7 * SECTOR :]
    )
    assert image.data[: 12 * SECTOR] == expected
    untouched = front.domain.space.read(front.pages[5][0] * 4096, 3 * SECTOR)
    image.data[:] = pattern(len(image.data), 99)
    assert front.statuses(front.request(READ, 0, segments)) == [OKAY]
    assert front.got(segments) == image.data[: 12 * SECTOR]
    # What isn't part of a segment stays as it was.
    assert front.domain.space.read(front.pages[5][0] * 4096, 3 * SECTOR) == untouched


@BITS
@pytest.mark.parametrize("count", [1, 11, 12, 256])
def test_indirect_segments(scene: Scene, bits: int, count: int) -> None:
    image = MemoryImage(4096)
    front = FrontEnd(scene, image, bits=bits).connect()
    front.pages = [front.page() for _ in range(count)]
    data = pattern(count * 4096)
    segments = front.put(data)
    assert front.statuses(front.indirect(WRITE, 16, segments)) == [OKAY]
    assert image.data[16 * SECTOR : 16 * SECTOR + len(data)] == data
    for gfn, _ in front.pages:
        front.domain.space.write(gfn * 4096, bytes(4096))
    assert front.statuses(front.indirect(READ, 16, segments)) == [OKAY]
    assert front.got(segments) == data


@BITS
@pytest.mark.parametrize(("queues", "order"), [(1, 1), (1, 4), (4, 0), (3, 2)])
def test_rings_and_pages(scene: Scene, bits: int, queues: int, order: int) -> None:
    image = MemoryImage()
    front = FrontEnd(scene, image, bits=bits, queues=queues, order=order).connect()
    assert front.backend_state == 4, front.error
    sizes = [ring.slots for ring in front.rings]
    assert sizes == [32 << order] * queues
    segments = front.put(bytes(SECTOR))
    for queue in range(queues):
        # More than once around, in batches that don't divide the ring's size.
        for _ in range(3 * sizes[0] // 20):
            slots = [front.request(READ, queue, segments) for _ in range(20)]
            assert front.statuses(*slots, queue=queue) == [OKAY] * 20
        assert front.write(queue, pattern(SECTOR, queue), queue) == OKAY
    assert image.data[: queues * SECTOR] == b"".join(pattern(SECTOR, q) for q in range(queues))


def test_a_full_ring_at_once(scene: Scene) -> None:
    front = FrontEnd(scene, MemoryImage(), order=2).connect()
    segments = front.put(bytes(4096))
    slots = [front.request(READ, 8, segments) for _ in range(128)]
    assert front.statuses(*slots) == [OKAY] * 128


def test_one_event_serves_many_answers(scene: Scene) -> None:
    image = MemoryImage(now=False)
    front = FrontEnd(scene, image).connect()
    front.notified()
    front.submit(*(front.request(FLUSH, 0) for _ in range(5)))
    assert not front.notified()
    scene.finish()
    assert front.notified()
    assert not front.notified()
    assert len(front.rings[0].take()) == 5


def test_reads_that_need_no_waiting(real_scene: Scene) -> None:
    image = MemoryImage(now=True)
    image.data[:] = pattern(len(image.data))
    front = FrontEnd(real_scene, image).connect()
    segments = front.put(bytes(8192))
    front.submit(*(front.request(READ, 0, segments) for _ in range(3)))
    assert not real_scene.work.outstanding
    assert [answer.status for answer in front.rings[0].take()] == [OKAY] * 3
    assert front.got(segments) == image.data[:8192]
    assert front.device.metrics.immediate == 3


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_files_are_read_straight_into_the_guest(
    real_scene: Scene, tmp_path: Path, form: str
) -> None:
    """Pieces of pages from a file that is in memory, and from holes and compressed clusters."""
    raw, path = tmp_path / "raw", tmp_path / "disk"
    data = pattern(256 * 1024) + bytes(128 * 1024) + pattern(128 * 1024, 1)
    raw.write_bytes(data)
    if form == "raw":
        path = raw
    else:
        qemu_img("convert", "-O", "qcow2", "-o", "cluster_size=4k", raw, path)
    for persistent in (False, True):
        params = f"{form if form == 'qcow2' else 'aio'}:{path}"
        front = FrontEnd(real_scene, params=params, mode="r", persistent=persistent).connect()
        refs = [ref for _, ref in front.pages]
        segments = [(refs[3], 1, 6), (refs[0], 0, 7), (refs[7], 7, 7)]
        for sector in (0, 5, 509, 512, 700, 767, 900):
            for _ in range(2):
                assert front.statuses(front.request(READ, sector, segments)) == [OKAY]
                assert front.got(segments) == data[sector * SECTOR : (sector + 15) * SECTOR]
        assert front.device.metrics.immediate > 0
        front.switch(5)
        front.switch(6)


def test_writes_that_come_together_are_one_job(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its own status; not more than so many bytes go into one."""
    image = MemoryImage()
    front = FrontEnd(scene, image).connect()
    write = image.write

    def some_fail(offset: int, data: bytes) -> None:
        if offset == 3 * SECTOR:
            raise OSError(errno.EIO, "broken")
        write(offset, data)

    monkeypatch.setattr(image, "write", some_fail)
    segments = front.put(pattern(SECTOR))
    front.submit(*(front.request(WRITE, sector, segments) for sector in range(8)))
    assert scene.work.outstanding == 1
    scene.finish()
    assert [a.status for a in front.rings[0].take()] == [OKAY] * 3 + [ERROR] + [OKAY] * 4
    monkeypatch.setattr(queue_module, "WRITES_AT_ONCE", 4096)
    segments = front.put(pattern(2048))
    front.submit(*(front.request(WRITE, 8 * sector, segments) for sector in range(5)))
    assert scene.work.outstanding == 3
    scene.finish()
    assert [a.status for a in front.rings[0].take()] == [OKAY] * 5


def test_requests_gather_while_the_guest_is_busy(scene: Scene) -> None:
    """They are taken when it has nothing more to do, or after a while."""
    image = MemoryImage()
    front = FrontEnd(scene, image).connect()
    ring, segments = front.rings[0], front.put(bytes(SECTOR))
    for count in range(1, 4):
        ring.put(front.request(READ, count, segments))
        ring.show()
        front.domain.events.send(ring.port)
        scene.xen.run_host_events()
    assert not scene.work.outstanding
    assert len(scene.xen.when_idle) == 1
    # The guest goes on and on: the time is up.
    scene.xen.clock.advance_to(scene.xen.clock.now() + queue_module.GATHER_NS)
    scene.xen.timers.run_due(scene.xen.clock.now())
    assert scene.work.outstanding == 3
    assert not scene.xen.when_idle
    scene.finish()
    assert [a.status for a in ring.take()] == [OKAY] * 3


def test_only_so_much_at_once(real_scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "IMMEDIATE_BYTES", 8192)
    front = FrontEnd(real_scene, MemoryImage(now=True)).connect()
    segments = front.put(bytes(4096))
    slots = [front.request(READ, 0, segments) for _ in range(6)]
    assert front.statuses(*slots) == [OKAY] * 6
    assert front.device.metrics.immediate == 2
    # The next batch may again.
    assert front.statuses(front.request(READ, 0, segments)) == [OKAY]
    assert front.device.metrics.immediate == 3


def test_on_the_virtual_clock_every_request_takes_its_time(scene: Scene) -> None:
    front = FrontEnd(scene, MemoryImage(now=True)).connect()
    before = scene.xen.clock.now()
    segments = front.put(bytes(40960))
    assert front.statuses(front.request(READ, 0, segments)) == [OKAY]
    first = scene.xen.clock.now() - before
    assert first > 0
    segments = front.put(bytes(SECTOR))
    assert front.statuses(front.request(READ, 0, segments)) == [OKAY]
    assert scene.xen.clock.now() - before - first < first


def test_too_much_under_way_waits_in_the_ring(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "MAX_BYTES_UNDER_WAY", 40960)
    front = FrontEnd(scene, MemoryImage(), queues=2).connect()
    segments = front.put(bytes(8192))
    for queue in (0, 1):
        front.submit(*(front.request(READ, 0, segments) for _ in range(30)), queue=queue)
    assert scene.work.outstanding < 30
    scene.finish()
    for ring in front.rings:
        assert [answer.status for answer in ring.take()] == [OKAY] * 30
    assert front.device.metrics.oo_req > 0


# -- flushes and barriers ----------------------------------------------------------------------
def test_a_flush(scene: Scene) -> None:
    image = MemoryImage()
    front = FrontEnd(scene, image).connect()
    assert front.write(0, bytes(SECTOR)) == OKAY
    assert front.statuses(front.request(FLUSH, 0)) == [OKAY]
    assert [name for name, _, _ in image.log] == ["write", "flush"]
    # A flush with data: what is written before it is flushed as well.
    segments = front.put(pattern(SECTOR))
    assert front.statuses(front.request(FLUSH, 5, segments)) == [OKAY]
    assert [name for name, _, _ in image.log[2:]] == ["flush", "write"]
    assert front.device.metrics.f_req == 2


def test_a_barrier_keeps_its_place(real_scene: Scene) -> None:
    """What comes before is done before it, what comes after is done after it."""
    import threading

    gate = threading.Event()
    image = MemoryImage()
    write = image.write

    def slowly(offset: int, data: bytes) -> None:
        if offset < 16 * SECTOR:
            assert gate.wait(30)
        write(offset, data)

    image.write = slowly  # type: ignore[method-assign,assignment]
    front = FrontEnd(real_scene, image, queues=2).connect()
    segments = front.put(bytes(SECTOR))
    front.submit(front.request(WRITE, 0, segments), front.request(WRITE, 1, segments))
    front.submit(front.request(BARRIER, 100, segments), queue=1)
    front.submit(front.request(WRITE, 200, segments), front.request(READ, 300, segments))
    front.submit(front.request(BARRIER, 101, segments), front.request(WRITE, 201, segments))
    # Time for what may not happen: three free threads wait for jobs.
    real_scene.xen.door.serve(0.05)
    assert image.log == []
    gate.set()
    real_scene.finish()
    assert [answer.status for ring in front.rings for answer in ring.take()] == [OKAY] * 7
    order = [(name, offset // SECTOR) for name, offset, _ in image.log]
    assert sorted(order[:2]) == [("write", 0), ("write", 1)]
    assert order[2:5] == [("flush", 0), ("write", 100), ("flush", 0)]
    assert sorted(order[5:7]) == [("read", 300), ("write", 200)]
    assert order[7:] == [("flush", 0), ("write", 101), ("flush", 0), ("write", 201)]


def test_what_a_barrier_held_back_is_answered_on_every_ring(real_scene: Scene) -> None:
    """Also where it is refused, or needs no waiting, when its turn comes."""
    image = MemoryImage(now=True)
    front = FrontEnd(real_scene, image, queues=3).connect()
    segments = front.put(bytes(SECTOR))
    front.submit(front.request(BARRIER, 0, segments))
    front.submit(front.request(READ, 3, segments), queue=1)
    front.submit(front.request(READ, 1 << 40, segments), queue=2)
    real_scene.finish()
    assert [[a.status for a in ring.take()] for ring in front.rings] == [[OKAY], [OKAY], [ERROR]]
    assert [front.notified(queue) for queue in range(3)] == [True] * 3


def test_an_empty_barrier_is_a_flush(scene: Scene) -> None:
    image = MemoryImage()
    front = FrontEnd(scene, image).connect()
    assert front.statuses(front.request(BARRIER, 0), front.request(FLUSH, 0)) == [OKAY, OKAY]
    assert [name for name, _, _ in image.log] == ["flush", "flush"]


def test_a_barrier_that_is_refused_lets_others_pass(scene: Scene) -> None:
    front = FrontEnd(scene, MemoryImage()).connect()
    segments = front.put(bytes(SECTOR))
    answers = front.statuses(
        front.request(BARRIER, 1 << 50, segments),
        front.request(BARRIER, 0, [(999_999, 0, 0)]),
        front.request(WRITE, 0, segments),
    )
    assert answers == [ERROR, ERROR, OKAY]


# -- discard, read-only ------------------------------------------------------------------------
@BITS
def test_discard(scene: Scene, bits: int) -> None:
    image = MemoryImage()
    image.data[:] = pattern(len(image.data))
    front = FrontEnd(scene, image, bits=bits).connect()
    assert front.statuses(front.discard_request(8, 16)) == [OKAY]
    assert image.data[8 * SECTOR : 24 * SECTOR] == bytes(16 * SECTOR)
    assert image.log == [("discard", 8 * SECTOR, 16 * SECTOR)]
    assert front.statuses(
        front.discard_request(8, 16, flag=1),
        front.discard_request(2047, 2),
        front.discard_request(1 << 63, 1 << 63),
        front.discard_request(0, 2048),
    ) == [EOPNOTSUPP, ERROR, ERROR, OKAY]
    assert front.device.metrics.ds_req == 2


def test_read_only(scene: Scene) -> None:
    image = MemoryImage(readonly=True)
    front = FrontEnd(scene, image, mode="r").connect()
    assert front.offered("info") == "4"
    assert front.offered("feature-discard") is None
    segments = front.put(bytes(SECTOR))
    assert front.statuses(
        front.request(READ, 0, segments),
        front.request(WRITE, 0, segments),
        front.request(BARRIER, 0, segments),
        front.discard_request(0, 8),
        front.request(FLUSH, 0),
    ) == [ERROR, ERROR, ERROR, OKAY, OKAY]
    assert {name for name, _, _ in image.log} == {"read", "flush"}


# -- errors ------------------------------------------------------------------------------------
def test_errors_of_the_image_reach_the_guest(scene: Scene) -> None:
    image = MemoryImage()
    front = FrontEnd(scene, image).connect()
    image.errors = {
        "write": OSError(errno.ENOSPC, "No space left on device"),
        "read": OSError(errno.EIO, "Input/output error"),
        "flush": OSError(errno.EIO, "Input/output error"),
        "discard": OSError(errno.EIO, "Input/output error"),
    }
    segments = front.put(bytes(SECTOR))
    requests = (
        front.request(READ, 5, segments),
        front.request(WRITE, 6, segments),
        front.request(FLUSH, 0),
        front.discard_request(0, 8),
    )
    answers = {answer.operation: answer.status for answer in front.ask(*requests)}
    assert answers == {READ: ERROR, WRITE: ERROR, FLUSH: FLUSH_FAILED, DISCARD: ERROR}
    assert front.device.metrics.errors == 4
    assert "a flush has failed: Input/output error" in scene.log
    assert "discard error at sector 0: Input/output error" in scene.log
    assert "write error at sector 6: No space left on device" in scene.log
    for _ in range(20):
        assert front.write(0, bytes(SECTOR)) == ERROR
    assert scene.log.count("write error") < 20
    image.errors.clear()
    assert front.write(6, pattern(SECTOR)) == OKAY
    assert front.read(6, 1) == pattern(SECTOR)


@pytest.mark.parametrize("operation", [FLUSH, BARRIER])
def test_after_a_failed_flush_each_write_is_flushed(scene: Scene, operation: int) -> None:
    """Linux flushes no more then, and takes what was written for lasting."""
    image = MemoryImage()
    front = FrontEnd(scene, image).connect()
    failing = {"flush": OSError(errno.EIO, "Input/output error")}
    image.errors = failing
    assert front.statuses(front.request(operation, 0)) == [FLUSH_FAILED]
    assert front.device.patience < 0
    # Not even one that is on the disk is said to be, as long as that isn't sure.
    assert front.write(6, pattern(SECTOR)) == ERROR
    image.errors = {}
    image.log.clear()
    assert front.write(6, pattern(SECTOR)) == OKAY
    assert [name for name, _, _ in image.log] == ["write", "flush"]
    # It's so after saving and restoring too.
    assert front.device.save().write_through
    front.device.write_through = False
    image.errors = failing
    assert front.statuses(front.request(operation, 0)) == [FLUSH_FAILED]
    image.errors = {}
    state = front.device.save()
    front.device.write_through = False
    front.device.restore(state)
    assert front.device.write_through
    # Whoever still flushes is taken at his word.
    assert front.statuses(front.request(operation, 0)) == [OKAY]
    image.log.clear()
    assert front.write(6, pattern(SECTOR)) == OKAY
    assert [name for name, _, _ in image.log] == ["write"]


def test_ranges_and_segments_that_make_no_sense(scene: Scene) -> None:
    image = MemoryImage()
    front = FrontEnd(scene, image).connect()
    ref = front.pages[0][1]
    bad = [
        front.request(READ, 2048, [(ref, 0, 0)]),
        front.request(READ, 2047, [(ref, 0, 1)]),
        front.request(READ, (1 << 64) - 1, [(ref, 0, 0)]),
        front.request(WRITE, (1 << 64) - 1, [(ref, 0, 7)]),
        front.request(READ, 0, [(ref, 1, 0)]),
        front.request(READ, 0, [(ref, 0, 8)]),
        front.request(READ, 0, [(ref, 8, 255)]),
        front.request(READ, 0),
        front.request(WRITE, 0),
        front.raw_indirect(READ, 0, 0, [ref]),
        front.raw_indirect(READ, 0, 257, [ref]),
        front.raw_indirect(READ, 0, 0xFFFF, [ref] * 8),
        front.raw_indirect(FLUSH, 0, 1, [ref]),
    ]
    assert front.statuses(*bad) == [ERROR] * len(bad)
    too_many = bytearray(front.request(READ, 0, [(ref, 0, 0)]))
    too_many[1] = 12
    assert front.statuses(bytes(too_many)) == [ERROR]
    assert front.statuses(front.request(4, 0)) == [EOPNOTSUPP]
    assert image.log == []
    assert front.device.metrics.refused == len(bad) + 2


# -- other media, other sizes ------------------------------------------------------------------
def test_resize_online(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(64 * SECTOR))
    front = FrontEnd(scene, params=str(path)).connect()
    assert front.offered("sectors") == "64"
    assert front.write(64, bytes(SECTOR)) == ERROR
    os.truncate(path, 128 * SECTOR)
    states: list[str] = []
    scene.client.watch(f"{front.back}/state", lambda _p, _t: states.append("written"))
    front.device.resize()
    # The state is written again: that is what front ends look at.
    assert states == ["written", "written"]
    assert (front.offered("sectors"), front.backend_state) == ("128", 4)
    assert front.write(100, pattern(SECTOR)) == OKAY
    os.truncate(path, 32 * SECTOR)
    front.device.resize()
    assert front.offered("sectors") == "32"
    assert front.read(32, 1) == ERROR


def test_another_size_is_noticed_by_itself(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(64 * SECTOR))
    front = FrontEnd(scene, params=f"aio:{path}").connect()
    os.truncate(path, 128 * SECTOR)
    scene.xen.clock.advance_to(scene.xen.clock.now() + device_module.LOOK_AT_SIZE_NS)
    assert front.read(0, 1) == bytes(SECTOR)
    assert front.offered("sectors") == "128"


def test_a_cd_drive(scene: Scene, tmp_path: Path) -> None:
    nodes = {"device-type": "cdrom", "mode": "r"}
    first, second = tmp_path / "first.iso", tmp_path / "second.iso"
    first.write_bytes(pattern(64 * SECTOR, 1))
    second.write_bytes(pattern(96 * SECTOR, 2))
    front = FrontEnd(scene, params=str(first), **nodes).connect()
    assert (front.offered("info"), front.offered("sectors")) == ("7", "64")
    assert front.read(8, 8) == pattern(64 * SECTOR, 1)[8 * SECTOR : 16 * SECTOR]
    assert front.write(0, bytes(SECTOR)) == ERROR
    # Another one, with a read of the old one under way.
    segments = front.put(bytes(SECTOR))
    front.submit(front.request(READ, 0, segments))
    scene.client.write(f"{front.back}/params", str(second))
    scene.finish()
    assert [answer.status for answer in front.rings[0].take()] == [OKAY]
    assert front.got(segments) == pattern(64 * SECTOR, 1)[:SECTOR]
    assert front.offered("sectors") == "96"
    assert front.read(80, 8) == pattern(96 * SECTOR, 2)[80 * SECTOR : 88 * SECTOR]
    # None at all, and one that isn't there.
    scene.client.write(f"{front.back}/params", "")
    scene.finish()
    assert front.offered("sectors") == "0"
    assert front.read(0, 1) == ERROR
    assert front.statuses(front.request(FLUSH, 0)) == [ERROR]
    scene.client.write(f"{front.back}/params", str(tmp_path / "none"))
    scene.finish()
    assert "there is no such image" in scene.log
    assert front.offered("sectors") == "0"
    assert front.backend_state == 4
    scene.client.write(f"{front.back}/params", str(first))
    scene.finish()
    assert front.read(0, 1) == pattern(64 * SECTOR, 1)[:SECTOR]


def test_a_drive_that_is_empty_at_first(scene: Scene) -> None:
    nodes = {"device-type": "cdrom", "params": ""}
    front = FrontEnd(scene, **nodes).connect()
    assert (front.offered("sectors"), front.read(0, 1)) == ("0", ERROR)
    front.device.change_medium(MemoryImage(readonly=True))
    assert (front.offered("sectors"), front.read(0, 1)) == ("2048", bytes(SECTOR))


def test_a_disk_is_no_drive(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(64 * SECTOR))
    front = FrontEnd(scene, params=str(path)).connect()
    scene.client.write(f"{front.back}/params", str(tmp_path / "other"))
    scene.finish()
    assert front.read(0, 1) == bytes(SECTOR)
    with pytest.raises(device_module.DeviceError, match="is no CD drive"):
        front.device.change_medium(None)
