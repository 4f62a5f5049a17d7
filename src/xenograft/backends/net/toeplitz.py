# SPDX-License-Identifier: GPL-2.0-or-later
"""Which queue a packet goes to: hashes of its flow (public/io/netif.h, "Hash types")."""

from __future__ import annotations

import zlib

from xenograft.abi.io.netif import (
    XEN_NETIF_CTRL_HASH_TYPE_IPV4,
    XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP,
    XEN_NETIF_CTRL_HASH_TYPE_IPV6,
    XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP,
)
from xenograft.backends.net.headers import IPPROTO_TCP, Headers, locate


def toeplitz(key: bytes, data: bytes) -> int:
    """The Toeplitz hash, 32 bits: for each bit of the data, 32 bits of the key from there on.

    A key that is too short goes on with zeros.
    """
    bits = len(data) * 8
    window = int.from_bytes(key[: len(data) + 4].ljust(len(data) + 4, b"\0"), "big")
    value = int.from_bytes(data, "big")
    result = 0
    for index in range(bits):
        if value >> bits - 1 - index & 1:
            result ^= window >> bits - index
    return result & 0xFFFFFFFF


def flow_of(frame: bytes, types: int, headers: Headers | None = None) -> tuple[int, bytes] | None:
    """(hash type, bytes that go into the hash) by the most specific of `types`, or None."""
    headers = headers or locate(frame)
    if headers is None:
        return None
    at = headers.network
    four = headers.version == 4
    addresses = frame[at + 12 : at + 20] if four else frame[at + 8 : at + 40]
    tcp = XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP if four else XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP
    plain = XEN_NETIF_CTRL_HASH_TYPE_IPV4 if four else XEN_NETIF_CTRL_HASH_TYPE_IPV6
    transport = headers.transport
    if types & tcp and headers.protocol == IPPROTO_TCP and transport + 4 <= headers.end:
        return tcp, addresses + frame[transport : transport + 4]
    return (plain, addresses) if types & plain else None


def steer(frame: bytes) -> int:
    """A number that is the same for all packets of a flow, for a back end's own choice."""
    flow = flow_of(frame, 0xF)
    return zlib.crc32(flow[1]) if flow is not None else 0
