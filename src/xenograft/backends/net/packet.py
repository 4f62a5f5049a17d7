# SPDX-License-Identifier: GPL-2.0-or-later
"""A frame on its way, with what its sender left for somebody else to do.

Guests leave two kinds of work to "hardware" (public/io/netif.h): the transport checksum
(csum_blank: the field holds the sum of the pseudo header alone) and segmentation (gso_size: one
TCP packet larger than the MTU stands for many).  Between guests on one machine both are left
undone as long as the receiver allows it: nobody ever sees a wire.
"""

from __future__ import annotations

from typing import NamedTuple

from xenograft.abi.io.netif import (
    XEN_NETIF_GSO_TYPE_NONE,
    XEN_NETIF_GSO_TYPE_TCPV4,
    XEN_NETIF_GSO_TYPE_TCPV6,
)
from xenograft.backends.net.checksum import fold, partial_sum, pseudo_header, transport_field
from xenograft.backends.net.headers import IPPROTO_TCP, Headers, locate

_TCP_FIN_PSH = 0x01 | 0x08
_TCP_CWR = 0x80


class Packet(NamedTuple):
    """An Ethernet frame, without its frame check sequence."""

    data: bytes
    csum_blank: bool = False
    """The transport checksum is for the receiver, or the last on our side, to compute."""
    validated: bool = False
    """The transport checksum needs no check."""
    gso_type: int = XEN_NETIF_GSO_TYPE_NONE
    gso_size: int = 0
    """Bytes of payload per segment; 0: not to be segmented."""

    @property
    def destination(self) -> bytes:
        return self.data[:6]

    @property
    def source(self) -> bytes:
        return self.data[6:12]


class BadPacket(Exception):
    """A packet asks for an offload that doesn't fit what it holds."""


def complete(packet: Packet, headers: Headers | None = None) -> Packet:
    """The same with its transport checksum computed, for receivers that want it.

    A packet whose transport has no checksum that we know is passed on as it is.
    """
    if not packet.csum_blank:
        return packet
    data = packet.data
    headers = headers or locate(data)
    field = None if headers is None else transport_field(headers)
    if headers is None or field is None:
        return packet._replace(csum_blank=False)
    frame = bytearray(data)
    frame[field : field + 2] = b"\0\0"
    total = pseudo_header(data, headers) + partial_sum(frame[headers.transport : headers.end])
    value = ~fold(total) & 0xFFFF
    # UDP: a sum of zero is sent as its other form, since zero means "none" (RFC 768).
    if not value and headers.protocol != IPPROTO_TCP:
        value = 0xFFFF
    frame[field : field + 2] = value.to_bytes(2, "big")
    return packet._replace(data=bytes(frame), csum_blank=False, validated=True)


def check_gso(packet: Packet) -> Headers:
    """The headers of a packet that asks for segmentation.  Raises BadPacket if it can't be."""
    headers = locate(packet.data)
    wanted = {XEN_NETIF_GSO_TYPE_TCPV4: 4, XEN_NETIF_GSO_TYPE_TCPV6: 6}.get(packet.gso_type)
    if headers is None or headers.version != wanted or headers.protocol != IPPROTO_TCP:
        raise BadPacket(f"GSO type {packet.gso_type} on something else")
    if headers.transport + 20 > headers.end:
        raise BadPacket("the TCP header is cut short")
    length = (packet.data[headers.transport + 12] >> 4) * 4
    if length < 20 or headers.transport + length > headers.end:
        raise BadPacket("the TCP header has an impossible length")
    if not packet.gso_size:
        raise BadPacket("segments of no bytes")
    return headers


def segment(packet: Packet, most: int = 1 << 16) -> list[Packet]:
    """Cut a packet into those that it stands for; their checksums stay blank.

    At most `most` of them.  Raises BadPacket.
    """
    if not packet.gso_size:
        return [packet]
    headers = check_gso(packet)
    data = packet.data
    start = headers.transport + (data[headers.transport + 12] >> 4) * 4
    payload = headers.end - start
    if payload <= packet.gso_size:
        return [packet._replace(csum_blank=True, gso_type=0, gso_size=0)]
    if -(-payload // packet.gso_size) > most:
        raise BadPacket(f"{payload} bytes in segments of {packet.gso_size}")
    header = data[:start]
    sequence = int.from_bytes(header[headers.transport + 4 : headers.transport + 8], "big")
    flags = header[headers.transport + 13]
    ident = int.from_bytes(header[headers.network + 4 : headers.network + 6], "big")
    segments = []
    for number, at in enumerate(range(0, payload, packet.gso_size)):
        body = data[start + at : start + min(at + packet.gso_size, payload)]
        last = at + packet.gso_size >= payload
        now = flags if last else flags & ~_TCP_FIN_PSH
        if number:
            now &= ~_TCP_CWR
        frame = bytearray(header)
        frame[headers.transport + 13] = now
        frame[headers.transport + 4 : headers.transport + 8] = (
            sequence + at & 0xFFFFFFFF
        ).to_bytes(4, "big")
        set_lengths(frame, headers, len(body), ident + number & 0xFFFF)
        blank_transport(frame, headers, start - headers.transport + len(body))
        segments.append(Packet(bytes(frame) + body, True, True))
    return segments


def set_lengths(frame: bytearray, headers: Headers, body: int, ident: int) -> None:
    """Length, identification and checksum of the IP header in `frame`.

    `frame` ends with TCP's header; `body` bytes follow.
    """
    network = headers.network
    total = len(frame) - network + body
    if headers.version == 6:
        frame[network + 4 : network + 6] = (total - 40).to_bytes(2, "big")
        return
    frame[network + 2 : network + 4] = total.to_bytes(2, "big")
    frame[network + 4 : network + 6] = ident.to_bytes(2, "big")
    frame[network + 10 : network + 12] = b"\0\0"
    length = (frame[network] & 15) * 4
    sum_ = ~fold(partial_sum(frame[network : network + length])) & 0xFFFF
    frame[network + 10 : network + 12] = sum_.to_bytes(2, "big")


def blank_transport(frame: bytearray, headers: Headers, length: int) -> None:
    """Put the pseudo header's sum where TCP's checksum goes, as for csum_blank."""
    value = fold(pseudo_header(frame, headers, length))
    frame[headers.transport + 16 : headers.transport + 18] = value.to_bytes(2, "big")
