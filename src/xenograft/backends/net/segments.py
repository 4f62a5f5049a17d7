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
from xenograft.backends.net.packet import Packet, blank_transport, set_lengths

LINK_MTU = 65520
"""Bytes that libslirp takes in one packet; it allows for no more."""

SEGMENT_MAX = 32736
"""Bytes of a TCP segment of libslirp's, so that two of them fit into one packet (`join`)."""

PEER_MTU = SEGMENT_MAX + 60
"""Bytes that libslirp sends in one packet: a segment with the headers of IPv6 and TCP."""

WINDOW_MAX = 2 * SEGMENT_MAX
"""Bytes that a guest may offer to take at once (libslirp can't scale windows)."""

_FIN, _SYN, _PSH, _ACK = 0x01, 0x02, 0x08, 0x10
_IP_MAX = 65535
_MSS, _NOP, _END = 2, 1, 0
_DF, _MF, _OFFSET = 0x4000, 0x2000, 0x1FFF
_ICMPV6, _ROUTER_ADVERTISEMENT, _MTU_OPTION = 58, 134, 5


def suited(packet: Packet, headers: Headers) -> Packet:
    """A guest's TCP segment as it suits libslirp: large segments, and no more than can be joined.

    Others are unchanged.  The checksum of one that was changed is left to be computed.
    """
    data, tcp = packet.data, headers.transport
    if headers.protocol != IPPROTO_TCP or tcp + 20 > headers.end:
        return packet
    if int.from_bytes(data[tcp + 14 : tcp + 16], "big") > WINDOW_MAX:
        data = data[: tcp + 14] + WINDOW_MAX.to_bytes(2, "big") + data[tcp + 16 :]
    if data[tcp + 13] & _SYN:
        data = _with_mss(data, tcp, headers.end)
    return packet if data is packet.data else packet._replace(data=data, csum_blank=True)


def _with_mss(data: bytes, tcp: int, end: int) -> bytes:
    """A SYN that offers segments as large as we can take; unchanged if it offers none."""
    end = min(tcp + (data[tcp + 12] >> 4) * 4, end)
    at = tcp + 20
    while at + 1 < end and data[at] != _END:
        if data[at] == _NOP:
            at += 1
            continue
        length = data[at + 1]
        if data[at] == _MSS and length == 4 and at + 4 <= end:
            return data[: at + 2] + SEGMENT_MAX.to_bytes(2, "big") + data[at + 4 :]
        if length < 2:
            break
        at += length
    return data


def join(first: bytes, second: bytes, mtu: int) -> Packet | None:
    """Two TCP segments of the peer's as one packet for a link with `mtu`, to be segmented there.

    None if the second doesn't continue the first, or one segment could hold both.  As with GRO,
    all that is in the headers has to be equal; but for the second's FIN, and PSH, which libslirp
    sets whenever it has sent all that it has.
    """
    if first[:ETH_HLEN] != second[:ETH_HLEN]:
        return None
    one, two = locate(first), locate(second)
    if one is None or two is None or one[:4] != two[:4] or one.protocol != IPPROTO_TCP:
        return None
    ip, tcp = one.network, one.transport
    start = tcp + (first[tcp + 12] >> 4) * 4 if tcp + 20 <= min(one.end, two.end) else 0
    body, more = one.end - start, two.end - start
    if start < tcp + 20 or body <= 0 or more <= 0 or one.end + more - ip > _IP_MAX:
        return None
    if one.version == 4:
        same = (
            first[ip + 1] == second[ip + 1] and first[ip + 6 : ip + 10] == second[ip + 6 : ip + 10]
        )
        addresses = ip + 12
    else:
        same = first[ip : ip + 4] == second[ip : ip + 4]
        addresses = ip + 6
    sequence = int.from_bytes(first[tcp + 4 : tcp + 8], "big")
    continues = (sequence + body & 0xFFFFFFFF).to_bytes(4, "big") == second[tcp + 4 : tcp + 8]
    plain = first[tcp + 13] & ~_PSH == _ACK == second[tcp + 13] & ~(_FIN | _PSH)
    if not (
        same
        and continues
        and plain
        and first[addresses : tcp + 4] == second[addresses : tcp + 4]
        and first[tcp + 8 : tcp + 13] == second[tcp + 8 : tcp + 13]
        and first[tcp + 14 : tcp + 16] == second[tcp + 14 : tcp + 16]
        and first[tcp + 18 : start] == second[tcp + 18 : start]
        and one.end + more > mtu + ETH_HLEN
    ):
        return None
    header = bytearray(first[:start])
    header[tcp + 13] = second[tcp + 13]
    set_lengths(header, one, body + more, int.from_bytes(first[ip + 4 : ip + 6], "big"))
    return _large(
        header,
        one,
        one.end + more,
        mtu,
        memoryview(first)[start : one.end],
        memoryview(second)[start : two.end],
    )


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
        rest = headers.transport + 20
        return [_large(bytearray(data[:rest]), headers, headers.end, mtu, memoryview(data)[rest:])]
    return _fragments(data, headers, mtu) if headers.version == 4 else []


def _large(header: bytearray, headers: Headers, end: int, mtu: int, *rest: memoryview) -> Packet:
    """A TCP segment out of its headers, TCP's without options at least, and the rest.

    `end` is where it ends, which `headers` may not tell.
    """
    length = (header[headers.transport + 12] >> 4) * 4
    size = mtu - (headers.transport - headers.network) - length
    kind = XEN_NETIF_GSO_TYPE_TCPV4 if headers.version == 4 else XEN_NETIF_GSO_TYPE_TCPV6
    blank_transport(header, headers, end - headers.transport)
    return Packet(b"".join((header, *rest)), True, True, kind, max(size, 1))


def _fragments(data: bytes, headers: Headers, mtu: int) -> list[Packet]:
    """An IPv4 datagram, or a part of one, in parts."""
    start, body = headers.network, headers.transport
    field = int.from_bytes(data[start + 6 : start + 8], "big")
    step = (mtu - (body - start)) & ~7
    if step <= 0 or field & _DF:
        return []
    follow, offset = field & _MF, field & _OFFSET
    packets = []
    for at in range(body, headers.end, step):
        part = data[at : min(at + step, headers.end)]
        header = bytearray(data[:body])
        more = _MF if at + step < headers.end else follow
        header[start + 2 : start + 4] = (body - start + len(part)).to_bytes(2, "big")
        header[start + 6 : start + 8] = (offset + (at - body >> 3) | more).to_bytes(2, "big")
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
