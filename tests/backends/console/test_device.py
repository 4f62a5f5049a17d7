# SPDX-License-Identifier: GPL-2.0-or-later
"""Channels: a front end's console on one side, a socket or terminal of the host on the other."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.scene import Guest, scene
from xenograft.abi.io.console import XENCONS_OUT_SIZE, xencons_interface
from xenograft.abi.io.xenbus import XenbusState
from xenograft.backends.console.device import ConsoleDevice
from xenograft.backends.console.line import PENDING, PtyLine
from xenograft.toolstack.config.channel import Channel
from xenograft.toolstack.errors import UserError

AT = xencons_interface.offsetof


@pytest.fixture
def guest() -> Iterator[Guest]:
    with scene(virtual=False) as one:
        yield one.guest()


class Front:
    """A console's front end."""

    def __init__(self, guest: Guest, channel: Channel) -> None:
        self.guest = guest
        record = guest.devices.attach_channel(channel)
        device = guest.scene.services.buses["console"].find(guest.domid, record.devid)
        assert isinstance(device, ConsoleDevice)
        self.device, self.path = device, record.frontend_path
        self.page = guest.page()
        guest.xen.space.write(self.page << 12, bytes(4096))
        self.ref, self.port = guest.grant(self.page), guest.port()

    def connect(self) -> None:
        self.guest.write(self.path, ring_ref=self.ref, port=self.port)
        self.guest.write(self.path, state=3)

    def say(self, data: bytes) -> int:
        """Write as much as there's room for."""
        producer = self.guest.read_u32(self.page, AT("out_prod"))
        room = XENCONS_OUT_SIZE - (producer - self.guest.read_u32(self.page, AT("out_cons")))
        data = data[:room]
        base, start = (self.page << 12) + AT("out"), producer % XENCONS_OUT_SIZE
        first = data[: XENCONS_OUT_SIZE - start]
        self.guest.xen.space.write(base + start, first)
        self.guest.xen.space.write(base, data[len(first) :])
        producer += len(data)
        self.guest.write_u32(self.page, AT("out_prod"), producer)
        self.guest.notify(self.port)
        return len(data)

    def hear(self) -> bytes:
        consumer = self.guest.read_u32(self.page, AT("in_cons"))
        producer = self.guest.read_u32(self.page, AT("in_prod"))
        ring = self.guest.xen.space.read((self.page << 12) + AT("in_"), 1024)
        data = bytes(ring[index % 1024] for index in range(consumer, producer))
        self.guest.write_u32(self.page, AT("in_cons"), producer)
        self.guest.notify(self.port)
        return data


def connect(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(str(path))
    client.settimeout(5)
    return client


@pytest.fixture
def front(guest: Guest, tmp_path: Path) -> Front:
    return Front(guest, Channel("org.example.0", "socket", str(tmp_path / "sock")))


def test_nodes(guest: Guest, front: Front, tmp_path: Path) -> None:
    read = guest.store.read
    assert front.path == f"/local/domain/{guest.domid}/device/console/1"
    assert [read(f"{front.path}/{name}") for name in ("name", "type", "state")] == [
        "org.example.0",
        "ioemu",
        "1",
    ]
    back = f"/local/domain/0/backend/console/{guest.domid}/1"
    assert [read(f"{back}/{name}") for name in ("connection", "path", "state")] == [
        "socket",
        str(tmp_path / "sock"),
        "2",
    ]


def test_both_ways(front: Front, tmp_path: Path) -> None:
    run = front.guest.scene.run
    with connect(tmp_path / "sock") as client:
        # What is sent before the guest is there waits for it.
        client.sendall(b"early")
        run()
        front.connect()
        run()
        run()
        assert front.hear() == b"early"
        front.say(b"hello\n")
        assert client.recv(100) == b"hello\n"
        client.sendall(b"there")
        run()
        assert front.hear() == b"there"


def test_one_program_at_a_time(front: Front, tmp_path: Path) -> None:
    run = front.guest.scene.run
    front.connect()
    with connect(tmp_path / "sock") as first:
        run()
        with connect(tmp_path / "sock") as second:
            run()
            assert second.recv(10) == b""
        front.say(b"x")
        assert first.recv(10) == b"x"
    run()
    with connect(tmp_path / "sock") as third:
        run()
        front.say(b"y")
        assert third.recv(10) == b"y"


def test_one_that_left_before_the_guest_came(front: Front, tmp_path: Path) -> None:
    run = front.guest.scene.run
    connect(tmp_path / "sock").close()
    run()
    with connect(tmp_path / "sock") as client:
        run()
        front.connect()
        run()
        front.say(b"z")
        assert client.recv(10) == b"z"


def test_nobody_there(front: Front) -> None:
    front.connect()
    for _ in range(10):
        assert front.say(b"x" * 1000) == 1000
    assert front.device.backend is not None
    assert front.device.backend.output == b"x" * 10_000


def test_a_slow_program_holds_up_the_guest(front: Front, tmp_path: Path) -> None:
    """What the guest writes isn't lost, and isn't kept without bound."""
    front.connect()
    run = front.guest.scene.run
    with connect(tmp_path / "sock") as client:
        run()
        sent = 0
        data = bytes(range(251)) * 9
        for _ in range(1000):
            taken = front.say(data[sent % 251 :][:2000])
            sent += taken
            if not taken:
                break
        else:
            pytest.fail("the guest could always write on")
        assert sent < (2 << 20)
        got = b""
        while len(got) < sent:
            got += client.recv(1 << 16)
            run()
        assert got == (bytes(range(251)) * (sent // 251 + 1))[:sent]
        assert front.say(b"x") == 1


def test_a_guest_that_does_not_read_holds_up_the_program(front: Front, tmp_path: Path) -> None:
    front.connect()
    run = front.guest.scene.run
    with connect(tmp_path / "sock") as client:
        client.setblocking(False)
        sent = 0
        for _ in range(2000):
            try:
                sent += client.send(b"k" * 1000)
            except BlockingIOError:
                break
            run()
        else:
            pytest.fail("the program could always write on")
        assert front.device.backend is not None
        assert front.device.backend.waiting <= PENDING + 4096
        got = 0
        while got < sent:
            part = len(front.hear())
            run()
            got += part
            assert part or front.device.backend.waiting
        assert got == sent


def test_pty(guest: Guest) -> None:
    front = Front(guest, Channel("terminal", "pty"))
    name = guest.store.read(f"{front.path}/tty")
    front.connect()
    descriptor = os.open(name, os.O_RDWR | os.O_NOCTTY)
    try:
        os.write(descriptor, b"typed\n")
        # The kernel brings it over in its own time.
        heard = b""
        while not heard.endswith(b"\n"):
            guest.scene.xen.door.serve(1.0)
            heard += front.hear()
        assert heard == b"typed\n"
        front.say(b"shown\n")
        assert os.read(descriptor, 100) == b"shown\n"
        # Nobody reads: the guest goes on, and what's oldest is lost.
        for _ in range(100):
            assert front.say(b"x" * 1900) == 1900
    finally:
        os.close(descriptor)
    assert isinstance(front.device.line, PtyLine)


def test_reconnects(front: Front, tmp_path: Path) -> None:
    front.connect()
    with connect(tmp_path / "sock") as client:
        front.guest.scene.run()
        for state in (5, 6, 1):
            front.guest.write(front.path, state=state)
        assert front.device.state is XenbusState.InitWait
        front.port = front.guest.port()
        front.connect()
        front.say(b"again")
        assert client.recv(100) == b"again"


@pytest.mark.parametrize("nodes", [{"ring_ref": 999}, {"port": 77}, {"ring_ref": "x"}])
def test_wrong_nodes(front: Front, nodes: dict[str, object]) -> None:
    front.guest.write(front.path, ring_ref=front.ref, port=front.port)
    front.guest.write(front.path, **nodes)
    front.guest.write(front.path, state=3)
    assert front.device.state is XenbusState.Closing


def test_the_socket_goes_with_the_device(front: Front, tmp_path: Path) -> None:
    front.connect()
    assert (tmp_path / "sock").is_socket()
    assert (tmp_path / "sock").stat().st_mode & 0o777 == 0o600
    front.guest.devices.remove("console", 1)
    assert not (tmp_path / "sock").exists()


def test_a_stale_socket_is_replaced(guest: Guest, tmp_path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stale.bind(str(tmp_path / "sock"))
    stale.close()
    Front(guest, Channel("c", "socket", str(tmp_path / "sock")))
    connect(tmp_path / "sock").close()


def test_errors_are_one_line(guest: Guest, tmp_path: Path) -> None:
    def attach(path: str) -> str:
        with pytest.raises(UserError) as caught:
            guest.devices.attach_channel(Channel("c", "socket", path))
        return str(caught.value)

    assert "absolute" in attach("sock")
    assert "isn't a folder" in attach(str(tmp_path / "none" / "sock"))
    (tmp_path / "file").write_bytes(b"")
    assert "no socket" in attach(str(tmp_path / "file"))
    assert "107 bytes" in attach(str(tmp_path / ("x" * 120)))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(tmp_path / "busy"))
        other.listen()
        assert attach(str(tmp_path / "busy")) == (
            f"channel c: {tmp_path}/busy: another program listens there"
        )
    assert guest.scene.services.devices(guest.domid) == []
    assert guest.devices.all() == []


def test_save_and_restore(front: Front, tmp_path: Path) -> None:
    assert front.device.save() is None
    front.connect()
    front.say(b"before")
    assert front.device.backend is not None
    front.device.backend.send(b"k" * 2000)
    state = front.device.save()
    assert state is not None
    assert (state.window, len(state.waiting)) == (b"before", 976)
    for number in (5, 6, 1):
        front.guest.write(front.path, state=number)
    front.port = front.guest.port()
    front.connect()
    front.device.restore(state)
    assert front.device.save() == state
    heard = b""
    while len(heard) < 2000:
        heard += front.hear()
    assert heard == b"k" * 2000
