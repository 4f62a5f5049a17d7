# SPDX-License-Identifier: GPL-2.0-or-later
"""NBD: against QEMU's server, and against servers that break the protocol in all ways."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.backends.block.images.nbd_server import receive
from tests.backends.block.images.support import KIB, MIB, need, pattern
from xenograft.backends.block.images.image import ImageError
from xenograft.backends.block.images.nbd import NbdImage, is_nbd, parse_uri
from xenograft.backends.block.images.open import open_image
from xenograft.backends.block.images.qcow2.create import create_qcow2


@contextlib.contextmanager
def qemu_nbd(image: Path, *options: str) -> Iterator[str]:
    """QEMU's server on a Unix socket; yields the socket's path."""
    path = image.with_name("socket")
    command = [*need("qemu-nbd"), "-f", "raw", "-k", str(path), "-t", *options, str(image)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        for _ in range(200):
            if path.exists():
                break
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.02)
        try:
            yield str(path)
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.write_bytes(pattern(MIB))
    return path


def test_reads_writes_flushes_and_trims(disk: Path) -> None:
    with qemu_nbd(disk, "-x", "a name", "--discard=unmap") as path:
        image = open_image(f"nbd+unix:///a%20name?socket={path}")
        assert image.size == image.refresh() == MIB
        assert image.read(1000, 3000) == pattern(MIB)[1000:4000]
        assert image.read(MIB - 10, 20) == pattern(MIB)[-10:] + bytes(10)
        assert image.read_now(0, 512) is None
        image.write(4096, memoryview(b"x" * 100_000))
        image.flush()
        assert disk.read_bytes()[4096:104096] == b"x" * 100_000
        assert image.discard_granularity
        image.discard(512 * KIB, 256 * KIB)
        image.close()
    data = disk.read_bytes()
    assert data[4096:104096] == b"x" * 100_000
    assert data[:4096] == pattern(MIB)[:4096]


def test_large_requests_are_split(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(80 * MIB)
    with qemu_nbd(path) as where:
        image = NbdImage(f"nbd:unix:{where}")
        data = pattern(70 * MIB)
        image.write(512, data)
        assert image.read(512, 70 * MIB) == data
        image.close()


def test_several_threads_share_a_connection(disk: Path) -> None:
    with qemu_nbd(disk) as path:
        image = NbdImage(f"nbd:unix:{path}")

        def work(index: int) -> None:
            data = pattern(4096, index)
            image.write(index * 4096, data)
            assert image.read(index * 4096, 4096) == data

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(256)))
        image.flush()
        image.close()
    assert disk.read_bytes() == b"".join(pattern(4096, index) for index in range(256))


def test_an_export_that_is_read_only(disk: Path) -> None:
    with qemu_nbd(disk, "-r") as path:
        with pytest.raises(ImageError, match="gives it read-only; add access=ro"):
            NbdImage(f"nbd:unix:{path}")
        image = NbdImage(f"nbd:unix:{path}", readonly=True)
        assert image.read(0, 512) == pattern(MIB)[:512]
        assert image.discard_granularity == 0
        image.flush()
        image.discard(0, 4096)
        with pytest.raises(OSError, match="opened read-only"):
            image.write(0, b"x" * 512)
        image.close()
    assert disk.read_bytes() == pattern(MIB)


def test_an_export_that_is_not_there(disk: Path) -> None:
    with qemu_nbd(disk, "-x", "one") as path, pytest.raises(ImageError, match=r"refuses: .*two"):
        NbdImage(f"nbd+unix:///two?socket={path}")


def test_behind_a_qcow2_image(disk: Path, tmp_path: Path) -> None:
    with qemu_nbd(disk) as path:
        top = tmp_path / "top"
        create_qcow2(str(top), MIB, backing=f"nbd+unix:///?socket={path}", backing_format="raw")
        image = open_image(str(top), "qcow2")
        image.write(0, b"n" * 512)
        assert image.read(0, MIB) == b"n" * 512 + pattern(MIB)[512:]
        image.close()
    assert disk.read_bytes() == pattern(MIB)


@pytest.mark.parametrize(
    ("uri", "address", "name"),
    [
        ("nbd://host", ("host", 10809), ""),
        ("nbd://host:77/x%2fy", ("host", 77), "x/y"),
        ("nbd://[::1]:77/x", ("::1", 77), "x"),
        ("nbd+unix:///x?socket=/run/a", "/run/a", "x"),
        ("nbd:host:77", ("host", 77), ""),
        ("nbd:host:77:exportname=x", ("host", 77), "x"),
        ("nbd:unix:/run/a:exportname=x", "/run/a", "x"),
    ],
)
def test_addresses(uri: str, address: object, name: str) -> None:
    assert is_nbd(uri)
    assert parse_uri(uri) == (address, name)


@pytest.mark.parametrize(
    "uri",
    [
        *("nbd://", "nbd:///x", "nbd://h:port/", "nbd://h:99999/", "nbd+unix:///x", "nbd:h"),
        *("nbd:h:x", "nbds://h/x", "nbds+unix:///x?socket=/s", "nbd+vsock://1:2/x"),
    ],
)
def test_bad_addresses(uri: str) -> None:
    with pytest.raises(ImageError) as caught:
        NbdImage(uri)
    assert str(caught.value).startswith(f"{uri}: ")
    assert "\n" not in str(caught.value)


def test_nobody_there(tmp_path: Path) -> None:
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        port = placeholder.getsockname()[1]
        for uri in (f"nbd://127.0.0.1:{port}", f"nbd+unix:///?socket={tmp_path / 'none'}"):
            with pytest.raises(ImageError, match="can't connect"):
                NbdImage(uri)
    with pytest.raises(ImageError, match="only raw images"):
        open_image("nbd://a/b", "qcow2")


# -- servers that break the protocol ---------------------------------------------------------------
HELLO = struct.pack(">QQH", 0x4E42444D41474943, 0x49484156454F5054, 3)


def reply(option: int, kind: int, payload: bytes = b"") -> bytes:
    return struct.pack(">QIII", 0x0003E889045565A9, option, kind, len(payload)) + payload


INFO = reply(7, 3, struct.pack(">HQH", 0, 64 * KIB, 1 | 1 << 2 | 1 << 5))
ACK = reply(7, 1)

Talk = Callable[[socket.socket], None]


@contextlib.contextmanager
def server(talk: Talk) -> Iterator[str]:
    """A server for one client on the loopback; yields its URI."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                talk(connection)

        thread = threading.Thread(target=run)
        thread.start()
        yield f"nbd://127.0.0.1:{listener.getsockname()[1]}/x"
        thread.join(20)
        assert not thread.is_alive()


def option(connection: socket.socket) -> int:
    """Take one option of the client's; returns its number."""
    _, number, length = struct.unpack(">QII", receive(connection, 16))
    receive(connection, length)
    return int(number)


def request(connection: socket.socket) -> tuple[int, int, int, int]:
    """Take a request: (command, cookie, offset, size)."""
    magic, _, kind, cookie, offset, size = struct.unpack(">IHHQQI", receive(connection, 28))
    assert magic == 0x25609513
    if kind == 1:
        receive(connection, size)
    return kind, cookie, offset, size


def says(*parts: bytes) -> Talk:
    """Sends the first part at once, the others after something has come."""

    def talk(connection: socket.socket) -> None:
        connection.sendall(parts[0])
        for part in parts[1:]:
            connection.recv(4096)
            connection.sendall(part)

    return talk


@pytest.mark.parametrize(
    ("talk", "message"),
    [
        (says(b""), "hung up"),
        (says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "not an NBD server"),
        (says(struct.pack(">QQH", 0x4E42444D41474943, 1, 3)), "not an NBD server"),
        (says(HELLO[:16] + b"\0\0"), "not an NBD server"),
        (says(HELLO), "hung up"),
        (says(HELLO, b"?" * 20), "answers nonsense"),
        (says(HELLO, reply(3, 1)), "answers nonsense"),
        (says(HELLO, ACK), "answers nonsense"),
        (says(HELLO, struct.pack(">QIII", 0x0003E889045565A9, 7, 3, 1 << 31)), "nonsense"),
        (says(HELLO, reply(7, 1 << 31 | 6, b"no such export")), "refuses: no such export"),
        (says(HELLO, reply(7, 1 << 31 | 2)), "refuses: 0x80000002"),
        (says(HELLO, reply(7, 1 << 31 | 5, b"use\nSTARTTLS")), "wants TLS, which isn't supported"),
        (says(HELLO, INFO), "hung up"),
    ],
)
def test_greetings(talk: Talk, message: str) -> None:
    with server(talk) as uri, pytest.raises(ImageError, match=message) as caught:
        NbdImage(uri)
    assert "\n" not in str(caught.value)


def test_a_server_that_knows_the_old_way_alone() -> None:
    def talk(connection: socket.socket) -> None:
        connection.sendall(HELLO[:16] + b"\0\1")
        receive(connection, 4)
        assert option(connection) == 7
        connection.sendall(reply(7, 1 << 31 | 1))
        assert option(connection) == 1
        connection.sendall(struct.pack(">QH", 64 * KIB, 1) + bytes(124))
        kind, cookie, offset, size = request(connection)
        assert (kind, offset, size) == (0, 512, 4)
        connection.sendall(struct.pack(">IIQ", 0x67446698, 0, cookie) + b"data")
        assert request(connection)[0] == 2

    with server(talk) as uri:
        image = NbdImage(uri)
        assert (image.size, image.discard_granularity) == (64 * KIB, 0)
        assert image.read(512, 4) == b"data"
        # It has not said that it can: there is nothing to flush.
        image.flush()
        image.close()


def answering(answer: Callable[[int], bytes]) -> Talk:
    def talk(connection: socket.socket) -> None:
        connection.sendall(HELLO)
        receive(connection, 4)
        option(connection)
        connection.sendall(INFO + ACK)
        while answered := answer(request(connection)[1]):
            connection.sendall(answered)

    return talk


@pytest.mark.parametrize(
    "answer",
    [
        lambda cookie: b"",
        lambda cookie: b"?" * 16,
        lambda cookie: struct.pack(">IIQ", 0x67446698, 0, cookie + 1),
        lambda cookie: struct.pack(">IIQ", 0x67446698, 0, cookie)[:7],
    ],
)
def test_answers_that_make_no_sense(answer: Callable[[int], bytes]) -> None:
    """The connection is given up: without patience all requests fail, none hangs."""

    def once(cookie: int) -> bytes:
        first, state["calls"] = not state["calls"], state["calls"] + 1
        return answer(cookie) if first else b""

    state = {"calls": 0}
    with server(answering(once)) as uri:
        image = NbdImage(uri, patience=0)
        if len(answer(1)) == 7:
            # Half an answer, and then the end.
            assert image._session is not None
            image._session._socket.shutdown(socket.SHUT_WR)
        for work in (lambda: image.read(0, 512), lambda: image.write(0, b"x"), image.flush):
            with pytest.raises(OSError, match="nbd://") as caught:
                work()
            assert caught.value.errno == errno.EIO
        image.close()


@pytest.mark.parametrize(
    ("number", "meant"), [(28, errno.ENOSPC), (1, errno.EPERM), (5, errno.EIO), (12345, errno.EIO)]
)
def test_errors_of_the_server(number: int, meant: int) -> None:
    with server(answering(lambda c: struct.pack(">IIQ", 0x67446698, number, c))) as uri:
        image = NbdImage(uri)
        for work in (lambda: image.read(0, 512), image.flush, lambda: image.discard(0, 512)):
            with pytest.raises(OSError, match="nbd://") as caught:
                work()
            assert caught.value.errno == meant
        # The server may have dropped what it couldn't write.
        with pytest.raises(OSError, match="an earlier flush has failed"):
            image.flush()
        image.close()
