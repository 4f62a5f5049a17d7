# SPDX-License-Identifier: GPL-2.0-or-later
"""A tap interface of the host as a way to the outside, where that's permitted.

Facts: Documentation/networking/tuntap.rst and include/uapi/linux/if_tun.h of Linux; the header
before each packet is that of virtio_net.h, which carries the offloads.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections import deque
from typing import TYPE_CHECKING

from xenograft.abi.io.netif import XEN_NETIF_GSO_TYPE_TCPV4, XEN_NETIF_GSO_TYPE_TCPV6
from xenograft.backends.net.headers import locate
from xenograft.backends.net.packet import BadPacket, Packet, check_gso, complete, segment
from xenograft.backends.net.switch import Port

if TYPE_CHECKING:
    from xenograft.hypervisor.door import Door

TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
TUNSETVNETHDRSZ = 0x400454D8
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 = 1, 2, 4

_DEVICE = "/dev/net/tun"
_VNET_HEADER = struct.Struct("<BBHHHH")
_NEEDS_CSUM, _DATA_VALID = 1, 2
_GSO_TYPES = {0: 0, 1: XEN_NETIF_GSO_TYPE_TCPV4, 4: XEN_NETIF_GSO_TYPE_TCPV6}
_GSO_ECN = 0x80
_BURST = 64
"""Packets from the host that are taken in one go."""

_PACKET_MAX = 1 << 17
QUEUE_PACKETS = 1024


class TapError(Exception):
    """The interface can't be had: one line."""


class TapPort(Port):
    """The interface `interface`, made if it isn't there.  Raises TapError."""

    def __init__(self, name: str, interface: str, door: Door) -> None:
        super().__init__(name)
        self.interface = interface
        self._door = door
        self._queue: deque[bytes] = deque()
        self._fd: int | None = _open(interface)
        door.watch(self._fd, self._ready)

    def _ready(self) -> None:
        """Packets from the host."""
        for _ in range(_BURST):
            if self._fd is None:
                return
            try:
                data = os.read(self._fd, _PACKET_MAX)
            except BlockingIOError:
                break
            except OSError:
                # The interface has gone.
                self.close()
                return
            packet = from_vnet(data)
            if packet is not None:
                self.send(packet)
        if self.switch is not None:
            self.switch.run()

    def deliver(self, packet: Packet) -> bool:
        if self._fd is None or len(self._queue) >= QUEUE_PACKETS:
            return False
        # Segments are cut here: the header that would leave that to the host isn't worth trusting
        # a guest's packet with.
        try:
            packets = segment(packet)
        except BadPacket:
            return False
        self._queue.extend(complete(one).data for one in packets)
        return True

    def flush(self) -> None:
        while self._queue and self._fd is not None:
            data = self._queue.popleft()
            try:
                os.write(self._fd, bytes(_VNET_HEADER.size) + data)
            except OSError as error:
                # Down, or full: packets are lost there as on any link.
                if error.errno == errno.EBADFD:
                    self.close()

    def close(self) -> None:
        """Let go of the interface; a second time does nothing."""
        fd, self._fd = self._fd, None
        if fd is not None:
            self.unplug()
            self._queue.clear()
            self._door.unwatch(fd)
            os.close(fd)


def from_vnet(data: bytes) -> Packet | None:
    """The packet behind a virtio-net header as the host writes it; None for what can't be."""
    if len(data) < _VNET_HEADER.size + 14:
        return None
    flags, gso_type, _header, gso_size, start, offset = _VNET_HEADER.unpack_from(data)
    frame = data[_VNET_HEADER.size :]
    kind = _GSO_TYPES.get(gso_type & ~_GSO_ECN)
    if kind is None:
        return None
    blank = bool(flags & _NEEDS_CSUM)
    if blank:
        headers = locate(frame)
        # What we don't know how to sum is summed as the header says.
        if headers is None or headers.transport != start:
            frame, blank = _sum(frame, start, start + offset), False
    packet = Packet(frame, blank, bool(flags & (_NEEDS_CSUM | _DATA_VALID)), kind, gso_size)
    if kind:
        try:
            check_gso(packet)
        except BadPacket:
            return None
    return packet


def _sum(frame: bytes, start: int, field: int) -> bytes:
    """The frame with the sum from `start` on put into `field`."""
    from xenograft.backends.net.checksum import fold, partial_sum

    if field + 2 > len(frame):
        return frame
    value = ~fold(partial_sum(frame[start:])) & 0xFFFF
    return frame[:field] + (value or 0xFFFF).to_bytes(2, "big") + frame[field + 2 :]


def _open(interface: str) -> int:
    try:
        fd = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise TapError(f"tap {interface}: can't open {_DEVICE}: {error.strerror}") from None
    try:
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", interface.encode(), flags))
        fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", _VNET_HEADER.size))
        fcntl.ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)
    except OSError as error:
        os.close(fd)
        raise TapError(f"tap {interface}: {_reason(interface, error)}") from None
    return fd


def _reason(interface: str, error: OSError) -> str:
    if error.errno == errno.EPERM:
        return (
            f"not permitted; have root set it up: ip tuntap add dev {interface} mode tap user $USER"
        )
    if error.errno == errno.EBUSY:
        return "in use by another program"
    if error.errno == errno.EINVAL:
        return "it's there, but is no tap interface"
    return f"can't be had: {error.strerror}"
