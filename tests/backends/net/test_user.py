# SPDX-License-Identifier: GPL-2.0-or-later
"""User networking with the real libslirp: a small IP stack plays the guest."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.backends.net import support
from tests.backends.net.frontend import Scene
from tests.backends.net.support import BROADCAST, MAC_A, MAC_B
from tests.conftest import unavailable
from xenograft.backends.net import libslirp
from xenograft.backends.net.bridge import Bridge
from xenograft.backends.net.forward import Forward, ForwardError
from xenograft.backends.net.libslirp import LibraryMissing
from xenograft.backends.net.networks import NetworkError, Networks
from xenograft.backends.net.packet import Packet, complete
from xenograft.backends.net.segments import SEGMENT_MAX
from xenograft.backends.net.switch import Port
from xenograft.backends.net.uplink import uplinks
from xenograft.backends.net.user import (
    FIRST_GUEST,
    NAMESERVER,
    ROUTER,
    UserNetwork,
    _false_reply,
)

PATIENCE = 20.0
"""Seconds of the host's time after which a test gives up."""

IP = ipaddress.IPv4Address


class Stack(Port):
    """A guest: answers ARP, and keeps what else it gets as (protocol, IP payload, sender)."""

    def __init__(self, mac: bytes = MAC_A, address: IP = FIRST_GUEST) -> None:
        super().__init__(f"guest {mac.hex()}")
        self.mac, self.address = mac, address
        self.router: bytes | None = None
        self.arp: list[bytes] = []
        self.got: list[tuple[int, bytes, IP]] = []
        self.large = 0
        self._queue: list[Packet] = []

    def deliver(self, packet: Packet) -> bool:
        self._queue.append(packet)
        return True

    def flush(self) -> None:
        queue, self._queue = self._queue, []
        for packet in queue:
            self._take(packet)

    def _take(self, packet: Packet) -> None:
        data = packet.data
        self.large = max(self.large, packet.gso_size and len(data))
        if data[12:14] == b"\x08\x06":
            kind, sender, source = data[21], data[22:28], data[28:32]
            self.router = sender
            self.arp.append(data)
            if kind == 1 and data[38:42] == self.address.packed:
                reply = struct.pack(">HHBBH", 1, 0x800, 6, 4, 2)
                reply += self.mac + self.address.packed + sender + source
                self.send(Packet(support.ethernet(sender, self.mac, 0x0806, reply)))
        elif data[12:14] == b"\x08\x00" and data[:6] in (self.mac, BROADCAST):
            assert not packet.csum_blank or packet.gso_size
            length = (data[14] & 15) * 4
            end = 14 + int.from_bytes(data[16:18], "big")
            self.got.append((data[23], data[14 + length : end], IP(data[26:30])))

    def ask_for(self, address: IP) -> None:
        """An ARP request."""
        body = struct.pack(">HHBBH", 1, 0x800, 6, 4, 1)
        body += self.mac + self.address.packed + bytes(6) + address.packed
        self.send(Packet(support.ethernet(BROADCAST, self.mac, 0x0806, body)))
        assert self.switch is not None
        self.switch.run()

    def ip(self, protocol: int, payload: bytes, to: IP, source: IP | None = None) -> None:
        header = bytearray(
            struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0)
            + (source or self.address).packed
            + to.packed
        )
        header[10:12] = struct.pack(">H", ~support.ones_complement(bytes(header)) & 0xFFFF)
        destination = self.router or BROADCAST
        data = support.ethernet(destination, self.mac, 0x0800, bytes(header) + payload)
        self.send(complete(Packet(data, protocol in (6, 17))))
        assert self.switch is not None
        self.switch.run()

    def udp(self, port: int, to: IP, to_port: int, body: bytes, source: IP | None = None) -> None:
        self.ip(17, struct.pack(">HHHH", port, to_port, 8 + len(body), 0) + body, to, source)

    def take(self, protocol: int) -> list[bytes]:
        """The payloads of a protocol that have come."""
        found = [payload for one, payload, _ in self.got if one == protocol]
        self.got = [entry for entry in self.got if entry[0] != protocol]
        return found


class Tcp:
    """A connection of a stack's, without loss, retransmission or mercy."""

    def __init__(self, net: Net, stack: Stack, to: IP, port: int, own: int = 40000) -> None:
        self.net, self.stack, self.to, self.port, self.own = net, stack, to, port, own
        self.seq, self.ack = 1000, 0
        self.received = b""
        self.ended = self.reset = False

    def segment(self, flags: int, body: bytes = b"", options: bytes = b"") -> None:
        header = struct.pack(
            ">HHIIBBHHH",
            self.own,
            self.port,
            self.seq,
            self.ack,
            (20 + len(options)) << 2,
            flags,
            65535,
            0,
            0,
        )
        self.stack.ip(6, header + options + body, self.to)
        self.seq += len(body) + bool(flags & 3)

    def pump(self) -> None:
        """Take what has come, and acknowledge it."""
        for segment in self.stack.take(6):
            _, port, seq, _, offset, flags = struct.unpack_from(">HHIIBB", segment)
            if port != self.own:
                continue
            body = segment[(offset >> 4) * 4 :]
            self.reset = self.reset or bool(flags & 4)
            if flags & 2:
                self.ack = seq + 1
            elif seq != self.ack or not (body or flags & 1):
                continue
            else:
                self.received += body
                self.ack += len(body) + (flags & 1)
                self.ended = self.ended or bool(flags & 1)
            self.segment(16)

    def connect(self) -> Tcp:
        self.segment(2, options=struct.pack(">BBH", 2, 4, 1460))
        self.until(lambda: self.ack > 0)
        return self

    def accept(self) -> Tcp:
        """Answer the SYN that has come to us."""
        (segment,) = self.stack.take(6)
        self.port, self.own, seq = struct.unpack_from(">HHI", segment)
        self.ack = seq + 1
        self.segment(18, options=struct.pack(">BBH", 2, 4, 1460))
        return self

    def until(self, done: Callable[[], bool]) -> None:
        def look() -> bool:
            self.pump()
            return done() or self.reset

        self.net.until(look)
        assert done()


class Net:
    """A machine with a user network, and guests on it."""

    def __init__(self, bridge: Bridge | None = None) -> None:
        self.scene = Scene()
        self.networks = Networks(
            self.scene.xen.clock.now, self.scene.services._later, uplinks(self.scene.xen)
        )
        try:
            self.switch = self.networks.define(bridge or Bridge("user", uplink="user"))
        except NetworkError as error:
            self.close()
            unavailable(str(error))
        found = self.networks.user_network(self.switch.name)
        assert found is not None
        self.user: UserNetwork = found

    def close(self) -> None:
        self.networks.close()
        self.scene.close()

    def guest(self, mac: bytes = MAC_A, address: IP = FIRST_GUEST) -> Stack:
        stack = Stack(mac, address)
        self.switch.attach(stack)
        stack.ask_for(ROUTER)
        self.scene.run()
        assert stack.router is not None
        return stack

    def until(self, done: Callable[[], bool]) -> None:
        """Serve the host until something has happened; the machine's clock stands still."""
        end = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < end, "nothing has happened"
            self.scene.xen.door.serve(0.02)
            self.scene.run()


@pytest.fixture
def net() -> Iterator[Net]:
    net = Net()
    yield net
    net.close()


class Server:
    """A TCP server on the host's loopback: tells what it got, after a greeting."""

    def __init__(self, greeting: bytes = b"", expect: int = 0) -> None:
        self.got = b""
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(PATIENCE)
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, args=(greeting, expect))
        self._thread.start()

    def _serve(self, greeting: bytes, expect: int) -> None:
        try:
            connection, _ = self._socket.accept()
            with connection:
                connection.settimeout(PATIENCE)
                connection.sendall(greeting)
                while len(self.got) < expect and (data := connection.recv(65536)):
                    self.got += data
        except TimeoutError:
            return

    def close(self) -> None:
        self._thread.join()
        self._socket.close()


class Silent(Stack):
    """A guest that doesn't answer ARP by itself, as one that was just restored and is busy."""

    def _take(self, packet: Packet) -> None:
        if packet.data[12:14] == b"\x08\x06":
            self.arp.append(packet.data)
        else:
            super()._take(packet)


@pytest.mark.parametrize(("late_ms", "comes"), [(0, True), (900, True), (1100, False)])
def test_what_waits_for_an_address_comes_with_it(net: Net, late_ms: int, comes: bool) -> None:
    """At once, not when libslirp looks next; it keeps a packet for a second."""
    stack = Silent()
    net.switch.attach(stack)
    echo = struct.pack(">BBHHH", 8, 0, 0, 7, 1) + b"first"
    echo = echo[:2] + struct.pack(">H", ~support.ones_complement(echo) & 0xFFFF) + echo[4:]
    stack.ip(1, echo, ROUTER)
    assert not stack.take(1)
    (asked,) = stack.arp
    assert asked[38:42] == stack.address.packed
    net.scene.xen.clock.advance_to(net.scene.xen.clock.now() + late_ms * 1_000_000)
    reply = struct.pack(">HHBBH", 1, 0x800, 6, 4, 2) + stack.mac + stack.address.packed
    reply += asked[22:32]
    stack.send(Packet(support.ethernet(asked[22:28], stack.mac, 0x0806, reply)))
    net.switch.run()
    assert [payload[8:] for payload in stack.take(1)] == ([b"first"] if comes else [])


def test_dhcp_gives_addresses(net: Net) -> None:
    def dhcp(kind: int, mac: bytes, extra: bytes = b"") -> bytes:
        body = struct.pack(">BBBBIHH16s", 1, 1, 6, 0, 0x1234, 0, 0x8000, bytes(16))
        body += mac.ljust(16, b"\0") + bytes(192) + b"\x63\x82\x53\x63"
        return body + bytes([53, 1, kind]) + extra + b"\xff"

    leases = []
    for mac in (MAC_A, MAC_B):
        stack = Stack(mac, IP("0.0.0.0"))
        net.switch.attach(stack)
        stack.udp(68, IP("255.255.255.255"), 67, dhcp(1, mac))
        (offer,) = stack.take(17)
        given = offer[8 + 16 : 8 + 20]
        wanted = bytes([50, 4]) + given + bytes([54, 4]) + ROUTER.packed
        stack.udp(68, IP("255.255.255.255"), 67, dhcp(3, mac, wanted))
        (answer,) = stack.take(17)
        assert bytes([53, 1, 5]) in answer
        assert bytes([3, 4]) + ROUTER.packed in answer
        assert bytes([6, 4]) + NAMESERVER.packed in answer
        leases.append(IP(answer[8 + 16 : 8 + 20]))
    assert leases == [FIRST_GUEST, FIRST_GUEST + 1]


def test_a_guest_reaches_the_hosts_loopback_by_tcp(net: Net) -> None:
    stack = net.guest()
    server = Server(b"welcome", expect=5)
    tcp = Tcp(net, stack, ROUTER, server.port).connect()
    tcp.until(lambda: tcp.received == b"welcome")
    tcp.segment(24, b"hello")
    tcp.until(lambda: tcp.ended)
    server.close()
    assert server.got == b"hello"


def test_much_data_comes_in_large_segments(net: Net) -> None:
    stack = net.guest()
    data = bytes(index * 7 & 0xFF for index in range(300_000))
    server = Server(data)
    tcp = Tcp(net, stack, ROUTER, server.port).connect()
    tcp.until(lambda: tcp.ended)
    server.close()
    assert tcp.received == data
    # Two segments of libslirp's in one.
    assert stack.large > SEGMENT_MAX + 20_000


def test_a_port_that_nobody_listens_on(net: Net) -> None:
    stack = net.guest()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    tcp = Tcp(net, stack, ROUTER, port)
    tcp.segment(2)
    net.until(lambda: (tcp.pump(), tcp.reset)[1])


def test_udp_to_the_host_and_back(net: Net) -> None:
    stack = net.guest()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(PATIENCE)
        stack.udp(5000, ROUTER, server.getsockname()[1], b"ping")
        net.until(lambda: True)
        data, sender = server.recvfrom(100)
        assert data == b"ping"
        server.sendto(b"pong" * 900, sender)
        parts: list[bytes] = []
        net.until(lambda: bool(parts.extend(stack.take(17)) or len(parts) == 3))
        assert b"".join(parts)[8:] == b"pong" * 900


def test_a_forwarded_port_leads_to_the_guest(net: Net) -> None:
    opened = net.user.open_forward(Forward("tcp", 0, 22), MAC_A)
    assert opened.host_port > 0
    assert net.user.forwards == [opened]
    stack = net.guest()
    with socket.create_connection(("127.0.0.1", opened.host_port), PATIENCE) as client:
        net.until(lambda: any(protocol == 6 for protocol, *_ in stack.got))
        tcp = Tcp(net, stack, ROUTER, 0).accept()
        assert tcp.own == 22
        client.sendall(b"hello guest")
        tcp.until(lambda: tcp.received == b"hello guest")
        tcp.segment(24, b"hello host")
        net.until(lambda: True)
        client.settimeout(PATIENCE)
        assert client.recv(100) == b"hello host"


@pytest.mark.parametrize("again", [False, True])
def test_many_connect_to_a_forwarded_port_at_once(net: Net, again: bool) -> None:
    """They wait, while libslirp takes one after the other."""
    opened = net.user.open_forward(Forward("tcp", 0, 22), MAC_A)
    if again:
        # It leads elsewhere by now, through another socket.
        net.guest(address=IP("10.0.2.77")).udp(9, ROUTER, 9, b"x")
        net.until(lambda: True)
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            address = ("127.0.0.1", opened.host_port)
            stack.enter_context(socket.create_connection(address, PATIENCE))


@pytest.mark.parametrize(("code", "false"), [(0, False), (1, True), (3, True)])
def test_an_error_is_not_taken_for_the_answer_to_a_ping(code: int, false: bool) -> None:
    header = bytes(12) + b"\x08\0" + bytes([0x45]) + bytes(8) + b"\x01" + bytes(10)
    assert _false_reply(header + bytes([0, code]) + bytes(60)) is false
    # Other types have codes of their own, other protocols other fields there.
    assert not _false_reply(header + bytes([3, code]) + bytes(60))
    assert not _false_reply(header[:23] + b"\x11" + header[24:] + bytes([0, code]) + bytes(60))
    for length in range(len(header) + 2):
        _false_reply((header + bytes([0, code]))[:length])


def test_a_forward_follows_its_guests_address(net: Net) -> None:
    opened = net.user.open_forward(Forward("udp", 0, 53), MAC_B)
    first = net.guest(MAC_A, FIRST_GUEST)
    moved = net.guest(MAC_B, IP("10.0.2.77"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"who", ("127.0.0.1", opened.host_port))
        net.until(lambda: bool(moved.got))
    (datagram,) = moved.take(17)
    assert datagram[2:4] == b"\x00\x35"
    assert datagram[8:] == b"who"
    assert first.got == []


@pytest.mark.parametrize("address", ["10.0.2.2", "10.0.2.3", "10.9.9.9", "10.0.2.255"])
def test_a_forward_does_not_follow_to_addresses_that_are_not_a_guests(
    net: Net, address: str
) -> None:
    net.user.open_forward(Forward("tcp", 0, 22), MAC_A)
    stack = net.guest()
    stack.udp(1, ROUTER, 1, b"", IP(address))
    assert net.user._opened[0].target == FIRST_GUEST


def test_a_forward_with_a_fixed_address(net: Net) -> None:
    net.user.open_forward(Forward("tcp", 0, 22), MAC_A, IP("10.0.2.50"))
    net.guest()
    assert net.user._opened[0].target == IP("10.0.2.50")


def test_guests_have_different_addresses_before_they_say_theirs(net: Net) -> None:
    for mac in (MAC_A, MAC_A, MAC_B):
        net.user.open_forward(Forward("tcp", 0, 22), mac)
    targets = [opened.target for opened in net.user._opened]
    assert targets == [FIRST_GUEST, FIRST_GUEST, FIRST_GUEST + 1]


def test_a_port_in_use(net: Net) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ForwardError, match=rf"can't listen on 127.0.0.1, tcp port {port}: "):
            net.user.open_forward(Forward("tcp", port, 22), MAC_A)
    with pytest.raises(ForwardError, match=r"can't listen on 198.51.100.1"):
        net.user.open_forward(Forward("tcp", 0, 22, "198.51.100.1"), MAC_A)
    assert net.user.forwards == []


def test_a_closed_forward_is_closed(net: Net) -> None:
    opened = net.user.open_forward(Forward("tcp", 0, 22), MAC_A)
    net.user.close_forward(opened)
    net.user.close_forward(opened)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", opened.host_port), PATIENCE)


def test_a_restricted_network_reaches_nothing() -> None:
    net = Net(Bridge("closed", uplink="user", restricted=True))
    try:
        stack = net.guest()
        server = socket.create_server(("127.0.0.1", 0))
        server.setblocking(False)
        tcp = Tcp(net, stack, ROUTER, server.getsockname()[1])
        tcp.segment(2)
        for _ in range(5):
            net.scene.xen.door.serve(0.01)
        with pytest.raises(BlockingIOError):
            server.accept()
        server.close()
    finally:
        net.close()


def test_hostile_packets(net: Net) -> None:
    stack = net.guest()
    for size in (14, 15, 20, 33, 34, 40, 60):
        for kind in (b"\x08\x00\x45", b"\x08\x06\x00", b"\x86\xdd\x60", b"\xff\xff\xff"):
            data = (stack.router or b"") + MAC_A + kind + bytes(size)
            for blank in (True, False):
                stack.send(Packet(data[:size], blank))
    for length in (0, 19, 20, 60000):
        stack.udp(1, ROUTER, 1, b"x" * 30)
        header = struct.pack(">BBHHHBBH", 0x4F, 0, length, 1, 0, 64, 6, 0) + bytes(8)
        stack.send(Packet(support.ethernet(BROADCAST, MAC_A, 0x0800, header + bytes(60))))
    net.switch.run()
    net.scene.run()
    server = Server(b"still here")
    tcp = Tcp(net, stack, ROUTER, server.port).connect()
    tcp.until(lambda: tcp.received == b"still here")
    server.close()


def test_closing_twice_and_afterwards(net: Net) -> None:
    stack = net.guest()
    net.user.close()
    net.user.close()
    assert net.user.deliver(support.frame()) is False
    stack.ask_for(ROUTER)
    assert net.scene.xen.door.may_open is False


# -- the library -----------------------------------------------------------------------------------
def test_a_library_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(libslirp, "SONAME", "libnonesuch.so.9")
    with pytest.raises(LibraryMissing, match=r"isn't here \(Debian: package libslirp0\)"):
        libslirp.load()
    bad = tmp_path / "libslirp.so.0"
    bad.write_bytes(b"no library")
    with pytest.raises(LibraryMissing, match="can't load libslirp"):
        libslirp.load(lambda: [bad])
    scene = Scene()
    networks = Networks(scene.xen.clock.now, scene.services._later, uplinks(scene.xen))
    with pytest.raises(NetworkError, match="bridge user: user networking needs libslirp"):
        networks.get("user")
    scene.close()
