# SPDX-License-Identifier: GPL-2.0-or-later
"""Tap interfaces: with a real one where that's permitted, and what is said where it isn't."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backends.net import support
from tests.backends.net.frontend import Scene
from tests.backends.net.support import BROADCAST, MAC_A, Plug, frame
from xenograft.abi.io.netif import XEN_NETIF_GSO_TYPE_TCPV4
from xenograft.backends.net import tap
from xenograft.backends.net.bridge import parse_bridge
from xenograft.backends.net.networks import NetworkError, Networks
from xenograft.backends.net.packet import Packet
from xenograft.backends.net.tap import TapError, TapPort, from_vnet
from xenograft.backends.net.uplink import uplinks

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.close()


@pytest.fixture
def port(scene: Scene) -> Iterator[TapPort]:
    name = f"xg{uuid.uuid4().hex[:10]}"
    try:
        port = TapPort("up", name, scene.xen.door)
    except TapError as error:
        pytest.skip(str(error))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH22x", name.encode(), 0)
        flags = struct.unpack_from("16sH", fcntl.ioctl(control, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), flags | IFF_UP))
    yield port
    port.close()


@pytest.fixture
def host(port: TapPort) -> Iterator[socket.socket]:
    """The host's side of the interface."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as host:
        host.bind((port.interface, 0))
        host.settimeout(20)
        yield host


def receive(host: socket.socket, source: bytes) -> bytes:
    """The next frame from `source`: the host itself sends some too."""
    while True:
        data = host.recv(1 << 16)
        if data[6:12] == source:
            return data


def test_frames_to_the_host(scene: Scene, port: TapPort, host: socket.socket) -> None:
    guest = Plug("guest")
    switch = scene.networks.get("xenbr0")
    switch.attach(guest)
    switch.attach(port)
    guest.send(frame(BROADCAST, MAC_A, 100))
    guest.send(Packet(support.tcp4(b"hello"), csum_blank=True))
    switch.run()
    assert receive(host, MAC_A) == frame(BROADCAST, MAC_A, 100).data
    assert support.transport_sum(receive(host, MAC_A)) == 0xFFFF


def test_large_segments_are_cut_for_the_host(
    scene: Scene, port: TapPort, host: socket.socket
) -> None:
    assert port.deliver(
        Packet(support.tcp4(bytes(3000)), True, True, XEN_NETIF_GSO_TYPE_TCPV4, 1460)
    )
    port.flush()
    assert [len(receive(host, MAC_A)) for _ in range(3)] == [1514, 1514, 134]
    assert not port.deliver(Packet(bytes(99), True, True, XEN_NETIF_GSO_TYPE_TCPV4, 50))


def test_frames_from_the_host(scene: Scene, port: TapPort, host: socket.socket) -> None:
    guest = Plug("guest")
    switch = scene.networks.get("xenbr0")
    switch.attach(guest)
    switch.attach(port)
    data = frame(BROADCAST, support.MAC_C, 200).data
    host.send(data)
    for _ in range(100):
        scene.xen.door.serve(0.2)
        if data in [packet.data for packet in guest.got]:
            return
    raise AssertionError("the frame has not come")


def test_an_interface_in_use(scene: Scene, port: TapPort) -> None:
    with pytest.raises(TapError, match=f"tap {port.interface}: in use by another program"):
        TapPort("second", port.interface, scene.xen.door)


def test_closing(scene: Scene, port: TapPort) -> None:
    scene.networks.get("xenbr0").attach(port)
    port.close()
    port.close()
    assert port.switch is None
    assert not port.deliver(frame())
    port.flush()
    assert not Path(f"/sys/class/net/{port.interface}").exists()


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EPERM, "not permitted; have root set it up: ip tuntap add dev x0"),
        (errno.EBUSY, "in use by another program"),
        (errno.EINVAL, "it's there, but is no tap interface"),
        (errno.ENODEV, "can't be had: No such device"),
    ],
)
def test_an_interface_that_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, scene: Scene, number: int, message: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tap, "_DEVICE", "/dev/null")
    monkeypatch.setattr(tap.fcntl, "ioctl", refuse)
    networks = Networks(scene.xen.clock.now, uplink=uplinks(scene.xen))
    with pytest.raises(NetworkError, match=f"bridge lan: tap x0: {message}"):
        networks.define(parse_bridge("lan,uplink=tap:x0"))
    assert "lan" not in networks.switches


def test_a_host_without_tap(monkeypatch: pytest.MonkeyPatch, scene: Scene) -> None:
    monkeypatch.setattr(tap, "_DEVICE", "/nonexistent/tun")
    with pytest.raises(TapError, match="can't open /nonexistent/tun: No such file"):
        TapPort("up", "x0", scene.xen.door)


# -- headers ---------------------------------------------------------------------------------------
def vnet(flags: int, kind: int, size: int, start: int, offset: int, data: bytes) -> bytes:
    return struct.pack("<BBHHHH", flags, kind, 54, size, start, offset) + data


def test_the_header_in_front_of_a_frame() -> None:
    data = support.tcp4(bytes(3000))
    assert from_vnet(vnet(0, 0, 0, 0, 0, data)) == Packet(data)
    assert from_vnet(vnet(2, 0, 0, 0, 0, data)) == Packet(data, validated=True)
    assert from_vnet(vnet(1, 0, 0, 34, 16, data)) == Packet(data, True, True)
    assert from_vnet(vnet(1, 1, 1460, 34, 16, data)) == Packet(data, True, True, 1, 1460)
    assert from_vnet(vnet(1, 0x81, 1460, 34, 16, data)) == Packet(data, True, True, 1, 1460)
    for bad in (vnet(1, 3, 9, 34, 16, data), vnet(1, 4, 1460, 34, 16, data), b"", bytes(23)):
        assert from_vnet(bad) is None


def test_a_sum_that_only_the_header_explains() -> None:
    data = support.ethernet(BROADCAST, MAC_A, 0x0800, support.ipv4(1, b"\x08\0\0\0\0\1\0\1ping"))
    packet = from_vnet(vnet(1, 0, 0, 14 + 20 + 0, 2, data))
    assert packet is not None
    odd = support.ethernet(BROADCAST, MAC_A, 0x88B5, bytes(8) + b"some data")
    packet = from_vnet(vnet(1, 0, 0, 16, 4, odd))
    assert packet is not None
    assert not packet.csum_blank
    assert support.ones_complement(packet.data[16:]) == 0xFFFF


@given(st.binary(max_size=90))
def test_any_header_is_looked_at_safely(data: bytes) -> None:
    from_vnet(data)
    from_vnet(data[:10] + support.tcp4(data))
