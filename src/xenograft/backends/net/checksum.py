# SPDX-License-Identifier: GPL-2.0-or-later
"""The Internet checksum (RFC 1071) of TCP and UDP over IPv4 and IPv6."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from xenograft.backends.net.headers import IPPROTO_TCP, IPPROTO_UDP, Headers


def sum_in_python(data: bytes | bytearray | memoryview) -> int:
    """What `partial_sum` gives, where there's no native core.

    2**16 is 1 modulo 65535, so the sum is the whole of the data taken as one number: that is
    one pass of long arithmetic instead of a loop.
    """
    if len(data) & 1:
        return int.from_bytes(data, "big") * 256 % 0xFFFF or 0xFFFF * any(data)
    return int.from_bytes(data, "big") % 0xFFFF or 0xFFFF * any(data)


partial_sum: Callable[[bytes | bytearray | memoryview], int] = sum_in_python
"""A number that `fold` turns into the one's complement sum of the data's big-endian words."""
with contextlib.suppress(ImportError):
    from xenograft.engine import _core

    partial_sum = _core.inet_sum


def fold(total: int) -> int:
    """Fold a sum to 16 bits; 0 comes of zeros alone."""
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo_header(frame: bytes | bytearray, headers: Headers, length: int = -1) -> int:
    """The sum of the addresses, the protocol and the transport's length (RFC 9293, RFC 8200).

    `length`: that, where it's another one than the headers tell.
    """
    network = headers.network
    if length < 0:
        length = headers.end - headers.transport
    if headers.version == 4:
        addresses = frame[network + 12 : network + 20]
    else:
        addresses = frame[network + 8 : network + 40]
    return partial_sum(addresses) + headers.protocol + length


def transport_field(headers: Headers) -> int | None:
    """Where the transport checksum is; None if there's none, or no room for it."""
    offset = {IPPROTO_TCP: 16, IPPROTO_UDP: 6}.get(headers.protocol)
    if offset is None or headers.transport + offset + 2 > headers.end:
        return None
    return headers.transport + offset


def is_right(frame: bytes, headers: Headers) -> bool:
    """Whether the transport checksum of a packet is right."""
    total = pseudo_header(frame, headers) + partial_sum(frame[headers.transport : headers.end])
    return fold(total) == 0xFFFF
