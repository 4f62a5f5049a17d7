# SPDX-License-Identifier: GPL-2.0-or-later
"""NBD servers that stand still, die, come back, and have forgotten."""

from __future__ import annotations

import errno
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.backends.block.images.nbd_server import FLUSH, READ, WRITE, NbdServer
from tests.backends.block.images.support import KIB, MIB, need, pattern
from xenograft.backends.block.images.image import ImageError
from xenograft.backends.block.images.nbd import NbdImage


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NbdServer]:
    one = NbdServer(tmp_path / "socket", MIB).start()
    yield one
    one.going.set()
    one.die()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as one:
        yield one


def test_requests_under_way_are_done_by_the_next_server(
    server: NbdServer, pool: ThreadPoolExecutor
) -> None:
    image = NbdImage(server.uri)
    image.write(0, b"a" * 512)
    image.flush()
    server.going.clear()
    under_way: list[Future[object]] = [pool.submit(image.write, 4096, b"b" * 512)]
    server.wait_for(3)
    under_way.append(pool.submit(image.read, 0, 512))
    server.die()
    assert not any(one.done() for one in under_way)
    server.going.set()
    server.start()
    assert under_way[1].result(30) == b"a" * 512
    under_way[0].result(30)
    assert image.read(4096, 512) == b"b" * 512
    image.close()


def test_a_flush_covers_what_a_dead_server_had_acknowledged(server: NbdServer) -> None:
    """Written, answered, and lost by the server: written again before the flush is answered."""
    image = NbdImage(server.uri)
    image.write(0, b"old" * 100)
    image.flush()
    image.write(0, b"new" * 100)
    image.write(150, b"newest" * 10)
    server.die()
    assert server.cache[:3] == b"old"
    before = len(server.seen)
    server.start()
    image.flush()
    want = bytearray(b"new" * 100)
    want[150:210] = b"newest" * 10
    assert server.stable[:300] == want
    assert [one for one in server.seen[before:] if one[0] != READ] == [
        *((WRITE, 0), (WRITE, 150), (FLUSH, 0))
    ]
    # What was flushed isn't written once more.
    before = len(server.seen)
    server.die()
    server.start()
    assert image.read(0, 3) == b"new"
    assert server.seen[before:] == [(READ, 0)]
    image.close()


def test_what_is_kept_for_that_has_a_bound(
    server: NbdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xenograft.backends.block.images.nbd._KEPT_BYTES", 64 * KIB)
    image = NbdImage(server.uri)
    for index in range(64):
        image.write(index * 4096, pattern(4096, index))
        assert image._kept_bytes <= 64 * KIB
    assert sum(command == FLUSH for command, _ in server.seen) == 3
    image.close()


def test_a_server_that_stays_away(server: NbdServer, pool: ThreadPoolExecutor) -> None:
    image = NbdImage(server.uri, patience=0.2)
    image.write(0, b"x" * 512)
    server.die()
    for work in (lambda: image.read(0, 512), lambda: image.write(0, b"y"), image.flush):
        with pytest.raises(OSError, match="socket=") as caught:
            pool.submit(work).result(30)
        assert caught.value.errno == errno.EIO
    # Once it's back, all is as if it had not been away.
    server.start()
    until(lambda: image._live)
    image.flush()
    assert server.stable[:512] == b"x" * 512
    image.close()


def test_another_export_in_its_place(server: NbdServer) -> None:
    image = NbdImage(server.uri)
    server.die()
    server.stable = bytearray(2 * MIB)
    server.cache = bytearray(2 * MIB)
    server.start()
    with pytest.raises(OSError, match="has 2097152 bytes now, not 1048576"):
        image.read(0, 512)
    image.close()


@pytest.mark.parametrize("size", [512, 8 * MIB])
def test_nobody_waits_for_a_server_that_stands_still(
    tmp_path: Path, pool: ThreadPoolExecutor, size: int
) -> None:
    """`abort` ends what is under way, even if it's stuck in sending; `close` doesn't wait."""
    server = NbdServer(tmp_path / "socket", 64 * MIB).start()
    image = NbdImage(server.uri)
    server.going.clear()
    under_way = [pool.submit(image.write, index * 512, bytes(size)) for index in range(4)]
    server.wait_for(1)
    assert not any(one.done() for one in under_way)
    image.abort()
    for one in under_way:
        with pytest.raises(OSError, match="the disk is gone"):
            one.result(30)
    with pytest.raises(OSError, match="the disk is gone"):
        image.read(0, 512)
    image.close()
    assert not image._reader.is_alive()
    server.die()


def test_a_server_that_drips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its greeting has one time limit, not one for each byte."""
    import socket

    monkeypatch.setattr("xenograft.backends.block.images.nbd_session._GREETING_S", 0.5)
    path = tmp_path / "socket"
    end = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                while not end.wait(0.1):
                    try:
                        connection.sendall(b"N")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            with pytest.raises(ImageError, match="doesn't answer"):
                NbdImage(f"nbd+unix:///?socket={path}")
        finally:
            end.set()
            thread.join(20)


def until(condition: Callable[[], bool]) -> None:
    for _ in range(1500):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it hasn't happened")


def serve(disk: Path, path: Path) -> subprocess.Popen[bytes]:
    """QEMU's server, once it listens."""
    path.unlink(missing_ok=True)
    command = [*need("qemu-nbd"), "-f", "raw", "-k", str(path), "-t", "-e", "8", str(disk)]
    process = subprocess.Popen(command)
    until(lambda: listens(path))
    return process


def listens(path: Path) -> bool:
    """Whether a server answers; its socket is there a moment before."""
    with socket.socket(socket.AF_UNIX) as one:
        return one.connect_ex(str(path)) == 0


def test_qemus_server_is_killed_again_and_again(tmp_path: Path) -> None:
    """Threads that write and read back notice nothing."""
    disk, path = tmp_path / "disk", tmp_path / "socket"
    disk.write_bytes(bytes(4 * MIB))
    process = serve(disk, path)
    try:
        image = NbdImage(f"nbd:unix:{path}")
        done = [0] * 4

        def work(worker: int) -> None:
            for turn in range(150):
                data = pattern(4096, worker * 1000 + turn)
                image.write((worker * 256 + turn) * 4096, data)
                assert image.read((worker * 256 + turn) * 4096, 4096) == data
                if turn % 10 == 0:
                    image.flush()
                done[worker] += 1

        with ThreadPoolExecutor(4) as workers:
            running = [workers.submit(work, worker) for worker in range(4)]
            for round_ in range(4):
                until(lambda r=round_: sum(done) >= r * 140 + 20)  # type: ignore[misc]
                process.send_signal(signal.SIGKILL)
                process.wait(20)
                process = serve(disk, path)
            for one in running:
                one.result(60)
        image.flush()
        image.close()
    finally:
        process.terminate()
        process.wait(20)
    data = disk.read_bytes()
    for worker in range(4):
        want = b"".join(pattern(4096, worker * 1000 + turn) for turn in range(150))
        assert data[worker * MIB : worker * MIB + len(want)] == want
