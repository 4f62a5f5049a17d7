# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames for the network tests, built and checked by code that shares nothing with the tested."""

from __future__ import annotations

import ipaddress
import struct

from xenograft.backends.net.packet import Packet
from xenograft.backends.net.switch import Port

MAC_A = bytes.fromhex("00163e000001")
MAC_B = bytes.fromhex("00163e000002")
MAC_C = bytes.fromhex("00163e000003")
BROADCAST = b"\xff" * 6


def ones_complement(data: bytes) -> int:
    """RFC 1071's sum, word by word."""
    if len(data) % 2:
        data += b"\0"
    total = 0
    for (word,) in struct.iter_unpack(">H", data):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ethernet(destination: bytes, source: bytes, ethertype: int, payload: bytes) -> bytes:
    return destination + source + struct.pack(">H", ethertype) + payload


def frame(destination: bytes = MAC_B, source: bytes = MAC_A, size: int = 64) -> Packet:
    """A frame of a private protocol."""
    return Packet(ethernet(destination, source, 0x88B5, bytes(size - 14)))


def ipv4(
    protocol: int, payload: bytes, *, ident: int = 7, fragment: int = 0, options: bytes = b""
) -> bytes:
    source, destination = ipaddress.IPv4Address("10.0.0.1"), ipaddress.IPv4Address("10.0.0.2")
    header = bytearray(
        struct.pack(
            ">BBHHHBBH4s4s",
            0x40 | (20 + len(options)) // 4,
            0,
            20 + len(options) + len(payload),
            ident,
            fragment,
            64,
            protocol,
            0,
            source.packed,
            destination.packed,
        )
        + options
    )
    header[10:12] = struct.pack(">H", ~ones_complement(bytes(header)) & 0xFFFF)
    return bytes(header) + payload


def ipv6(protocol: int, payload: bytes) -> bytes:
    source, destination = ipaddress.IPv6Address("fd00::1"), ipaddress.IPv6Address("fd00::2")
    header = struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64)
    return header + source.packed + destination.packed + payload


def tcp(
    body: bytes,
    *,
    sequence: int = 1000,
    flags: int = 0x18,
    options: bytes = b"",
    window: int = 65535,
) -> bytes:
    offset = (20 + len(options)) // 4
    header = struct.pack(">HHIIBBHHH", 4000, 80, sequence, 0, offset << 4, flags, window, 0, 0)
    return header + options + body


def udp(body: bytes) -> bytes:
    return struct.pack(">HHHH", 4000, 53, 8 + len(body), 0) + body


def tcp4(body: bytes, **options: object) -> bytes:
    return ethernet(MAC_B, MAC_A, 0x0800, ipv4(6, tcp(body, **options)))  # type: ignore[arg-type]


def tcp6(body: bytes, **options: object) -> bytes:
    return ethernet(MAC_B, MAC_A, 0x86DD, ipv6(6, tcp(body, **options)))  # type: ignore[arg-type]


def transport_sum(data: bytes) -> int:
    """The sum over pseudo header and transport of a plain IPv4 or IPv6 frame; 0xFFFF is right."""
    packet = data[14:]
    if packet[0] >> 4 == 4:
        length = (packet[0] & 15) * 4
        end = int.from_bytes(packet[2:4], "big")
        pseudo = packet[12:20] + struct.pack(">HH", packet[9], end - length)
        return ones_complement(pseudo + packet[length:end])
    end = 40 + int.from_bytes(packet[4:6], "big")
    pseudo = packet[8:40] + struct.pack(">II", end - 40, packet[6])
    return ones_complement(pseudo + packet[40:end])


class Plug(Port):
    """A port that keeps what it is given."""

    def __init__(self, name: str, room: int = 1000) -> None:
        super().__init__(name)
        self.room = room
        self.queued: list[Packet] = []
        self.got: list[Packet] = []
        self.flushes = 0

    def deliver(self, packet: Packet) -> bool:
        if len(self.queued) >= self.room:
            return False
        self.queued.append(packet)
        return True

    def flush(self) -> None:
        self.flushes += 1
        self.got += self.queued
        self.queued.clear()
