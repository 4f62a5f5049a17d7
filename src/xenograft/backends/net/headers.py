# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the headers of an Ethernet frame lie, as far as offloads and hashes need to know.

Ethernet with up to two VLAN tags (IEEE 802.3, 802.1Q, 802.1ad), IPv4 (RFC 791), IPv6 with its
extension headers (RFC 8200).  Frames come from guests: everything is checked against their end,
and what makes no sense is no IP packet.
"""

from __future__ import annotations

from typing import NamedTuple

ETH_HLEN = 14
ETH_ALEN = 6
ETH_P_IP = 0x0800
ETH_P_IPV6 = 0x86DD
_IPV4 = ETH_P_IP.to_bytes(2, "big")
_VLAN = (0x8100, 0x88A8)
_VLAN_TAGS = 2

IPPROTO_TCP = 6
IPPROTO_UDP = 17
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTH, _DEST_OPTIONS = 0, 43, 44, 51, 60
_EXTENSIONS = 8
"""Extension headers that are followed; more make no sense."""

BROADCAST = b"\xff" * ETH_ALEN


class Headers(NamedTuple):
    """Offsets in a frame, in bytes."""

    version: int
    """4 or 6."""
    network: int
    """Start of the IP header."""
    transport: int
    """Start of what follows it and its extensions."""
    protocol: int
    """IPPROTO_* of the transport, -1 in a fragment: it has no transport header of its own."""
    end: int
    """End of the IP packet: a frame may have padding behind it."""


def locate(frame: bytes) -> Headers | None:
    """The headers of an IP packet in an Ethernet frame; None for all other frames."""
    if frame[12:14] == _IPV4:  # as nearly always
        return _ipv4(frame, ETH_HLEN)
    at = ETH_HLEN - 2
    for _ in range(_VLAN_TAGS + 1):
        ethertype = int.from_bytes(frame[at : at + 2], "big")
        at += 2
        if ethertype not in _VLAN:
            break
        at += 2
    if ethertype == ETH_P_IP:
        return _ipv4(frame, at)
    if ethertype == ETH_P_IPV6:
        return _ipv6(frame, at)
    return None


def _ipv4(frame: bytes, at: int) -> Headers | None:
    if len(frame) < at + 20 or frame[at] >> 4 != 4:
        return None
    length = (frame[at] & 15) * 4
    total = frame[at + 2] << 8 | frame[at + 3]
    if length < 20 or total < length or at + total > len(frame):
        return None
    fragment = (frame[at + 6] << 8 | frame[at + 7]) & 0x3FFF  # more fragments, or an offset
    protocol = -1 if fragment else frame[at + 9]
    return Headers(4, at, at + length, protocol, at + total)


def _ipv6(frame: bytes, at: int) -> Headers | None:
    if len(frame) < at + 40 or frame[at] >> 4 != 6:
        return None
    end = at + 40 + (frame[at + 4] << 8 | frame[at + 5])
    if end > len(frame):
        return None
    protocol, transport = frame[at + 6], at + 40
    for _ in range(_EXTENSIONS):
        if protocol not in (_HOP_BY_HOP, _ROUTING, _DEST_OPTIONS, _AUTH, _FRAGMENT):
            return Headers(6, at, transport, protocol, end)
        if transport + 8 > end:
            return None
        if protocol == _FRAGMENT:
            return Headers(6, at, transport + 8, -1, end)
        units = frame[transport + 1]
        length = (units + 2) * 4 if protocol == _AUTH else (units + 1) * 8
        protocol, transport = frame[transport], transport + length
        if transport > end:
            return None
    return None


def is_multicast(address: bytes) -> bool:
    """Whether a MAC address means a group (broadcast is one too)."""
    return bool(address[:1] and address[0] & 1)


def format_mac(address: bytes) -> str:
    return ":".join(f"{byte:02x}" for byte in address)


def parse_mac(text: str) -> bytes:
    """Six bytes of ``00:16:3e:00:00:01``.  Raises ValueError."""
    parts = text.strip().split(":")
    if len(parts) != ETH_ALEN or any(not 1 <= len(part) <= 2 for part in parts):
        raise ValueError(f"{text[:40]!r} isn't a MAC address")
    return bytes(int(part, 16) for part in parts)
