# SPDX-License-Identifier: GPL-2.0-or-later
"""Between guests, whose frames have an MTU, and a peer in this process that has none.

libslirp knows nothing of offloads.  It is told that its link takes tens of kilobytes, so that a
TCP segment of its own is one packet, not dozens; here such packets become what the guest's front
end understands: TCP segments are marked to be segmented, datagrams are fragmented (RFC 791).
"""

from __future__ import annotations

from xenograft.abi.io.netif import XEN_NETIF_GSO_TYPE_TCPV4, XEN_NETIF_GSO_TYPE_TCPV6
from xenograft.backends.net.checksum import fold, partial_sum
from xenograft.backends.net.headers import ETH_HLEN, IPPROTO_TCP, Headers, locate
from xenograft.backends.net.packet import Packet, blank_transport

LINK_MTU = 65520
"""What libslirp is told; it takes no more."""

SEGMENT_MAX = 32768
"""The largest segment that libslirp makes (its TCP_MAXSEG_MAX)."""

_SYN = 0x02
_MSS, _NOP, _END = 2, 1, 0
_DF = 0x4000
_ICMPV6, _ROUTER_ADVERTISEMENT, _MTU_OPTION = 58, 134, 5


def raise_mss(packet: Packet, headers: Headers) -> Packet:
    """A guest's SYN that offers segments as large as we can take; others unchanged.

    Its checksum is left to be computed.
    """
    data, at = packet.data, headers.transport
    if headers.protocol != IPPROTO_TCP or at + 20 > headers.end or not data[at + 13] & _SYN:
        return packet
    end = min(at + (data[at + 12] >> 4) * 4, headers.end)
    at += 20
    while at + 1 < end and data[at] != _END:
        if data[at] == _NOP:
            at += 1
            continue
        length = data[at + 1]
        if data[at] == _MSS and length == 4 and at + 4 <= end:
            raised = data[: at + 2] + SEGMENT_MAX.to_bytes(2, "big") + data[at + 4 :]
            return packet._replace(data=raised, csum_blank=True)
        if length < 2:
            break
        at += length
    return packet


def fit(data: bytes, mtu: int) -> list[Packet]:
    """A frame of the peer's, whose checksums are right, as packets for a link with `mtu`.

    What can't be made to fit (an IPv6 datagram) is no packet.
    """
    if len(data) <= mtu + ETH_HLEN:
        return [Packet(_with_mtu(data, mtu), validated=True)]
    headers = locate(data)
    if headers is None:
        return []
    if headers.protocol == IPPROTO_TCP and headers.transport + 20 <= headers.end:
        return [_large_segment(data, headers, mtu)]
    return _fragments(data, headers, mtu) if headers.version == 4 else []


def _large_segment(data: bytes, headers: Headers, mtu: int) -> Packet:
    length = (data[headers.transport + 12] >> 4) * 4
    size = mtu - (headers.transport - headers.network) - length
    kind = XEN_NETIF_GSO_TYPE_TCPV4 if headers.version == 4 else XEN_NETIF_GSO_TYPE_TCPV6
    frame = bytearray(data)
    blank_transport(frame, headers, headers.end - headers.transport)
    return Packet(bytes(frame), True, True, kind, max(size, 1))


def _fragments(data: bytes, headers: Headers, mtu: int) -> list[Packet]:
    """An IPv4 datagram in parts."""
    start, body = headers.network, headers.transport
    step = (mtu - (body - start)) & ~7
    if step <= 0 or int.from_bytes(data[start + 6 : start + 8], "big") & _DF:
        return []
    packets = []
    for at in range(body, headers.end, step):
        part = data[at : min(at + step, headers.end)]
        header = bytearray(data[:body])
        more = at + step < headers.end
        header[start + 2 : start + 4] = (body - start + len(part)).to_bytes(2, "big")
        header[start + 6 : start + 8] = ((at - body) >> 3 | more << 13).to_bytes(2, "big")
        header[start + 10 : start + 12] = b"\0\0"
        total = ~fold(partial_sum(bytes(header[start:body]))) & 0xFFFF
        header[start + 10 : start + 12] = total.to_bytes(2, "big")
        packets.append(Packet(bytes(header) + part, validated=True))
    return packets


def _with_mtu(data: bytes, mtu: int) -> bytes:
    """The frame; a router advertisement (RFC 4861) with the link's MTU in it, not the peer's."""
    if data[12:14] != b"\x86\xdd" or len(data) < 70 or data[20] != _ICMPV6:
        return data
    headers = locate(data)
    if headers is None or data[headers.transport] != _ROUTER_ADVERTISEMENT:
        return data
    at = headers.transport + 16
    while at + 8 <= headers.end and data[at + 1]:
        if data[at] == _MTU_OPTION:
            old, new = data[at + 4 : at + 8], mtu.to_bytes(4, "big")
            field = headers.transport + 2
            was = int.from_bytes(data[field : field + 2], "big")
            # RFC 1624: the sum changes by as much as what it's the sum of.
            total = fold((~was & 0xFFFF) + (0xFFFF - fold(partial_sum(old))) + partial_sum(new))
            frame = bytearray(data)
            frame[at + 4 : at + 8] = new
            frame[field : field + 2] = (~total & 0xFFFF).to_bytes(2, "big")
            return bytes(frame)
        at += data[at + 1] * 8
    return data
