# SPDX-License-Identifier: GPL-2.0-or-later
"""Headers, checksums and segmentation."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backends.net import support
from xenograft.abi.io.netif import XEN_NETIF_GSO_TYPE_TCPV4, XEN_NETIF_GSO_TYPE_TCPV6
from xenograft.backends.net.checksum import fold, is_right, partial_sum
from xenograft.backends.net.headers import format_mac, locate, parse_mac
from xenograft.backends.net.packet import BadPacket, Packet, check_gso, complete, segment


def test_headers_of_ipv4() -> None:
    data = support.ethernet(
        support.MAC_B, support.MAC_A, 0x0800, support.ipv4(17, support.udp(b"x"))
    )
    assert locate(data + bytes(20)) == (4, 14, 34, 17, len(data))


def test_headers_behind_vlan_tags_and_ip_options() -> None:
    packet = support.ipv4(6, support.tcp(b""), options=b"\1" * 4)
    tagged = support.MAC_B + support.MAC_A + bytes.fromhex("88a80001 81000002 0800") + packet
    assert locate(tagged) == (4, 22, 46, 6, len(tagged))


def test_a_fragment_has_no_transport() -> None:
    for fragment in (0x2000, 0x00B9):
        packet = support.ipv4(17, support.udp(bytes(8)), fragment=fragment)
        headers = locate(support.ethernet(support.MAC_B, support.MAC_A, 0x0800, packet))
        assert headers is not None
        assert headers.protocol == -1


def test_headers_of_ipv6_with_extensions() -> None:
    hop_by_hop = struct.pack(">BB6x", 60, 0)
    options = struct.pack(">BB14x", 6, 1)
    packet = support.ipv6(0, hop_by_hop + options + support.tcp(b"abc"))
    data = support.ethernet(support.MAC_B, support.MAC_A, 0x86DD, packet)
    assert locate(data) == (6, 14, 14 + 40 + 24, 6, len(data))


def test_ipv6_fragments_and_endless_extensions() -> None:
    fragment = support.ipv6(44, struct.pack(">BBHI", 6, 0, 1, 5) + support.tcp(b""))
    headers = locate(support.ethernet(support.MAC_B, support.MAC_A, 0x86DD, fragment))
    assert headers is not None
    assert headers.protocol == -1
    endless = support.ipv6(0, bytes(8) * 20)
    assert locate(support.ethernet(support.MAC_B, support.MAC_A, 0x86DD, endless)) is None


@pytest.mark.parametrize("cut", [10, 14, 20, 33])
def test_headers_that_are_cut_short(cut: int) -> None:
    assert locate(support.tcp4(b"")[:cut]) is None
    assert locate(support.tcp6(b"")[:cut]) is None


@given(st.binary(max_size=120))
def test_any_bytes_are_looked_at_safely(data: bytes) -> None:
    for ethertype in (b"\x08\x00\x45", b"\x86\xdd\x60", b"\x81\x00\0\0\x08\x00\x45"):
        frame = bytes(12) + ethertype + data
        headers = locate(frame)
        if headers is not None:
            assert 14 <= headers.network < headers.transport <= headers.end <= len(frame)


@given(st.binary(max_size=300))
def test_the_sum_is_that_of_rfc_1071(data: bytes) -> None:
    expected = support.ones_complement(data)
    assert fold(partial_sum(data)) == expected


@pytest.mark.parametrize("body", [b"", b"x", b"hello!", bytes(1001)])
@pytest.mark.parametrize("make", [support.tcp4, support.tcp6])
def test_complete_computes_tcps_sum(make, body: bytes) -> None:  # type: ignore[no-untyped-def]
    done = complete(Packet(make(body) + bytes(3), csum_blank=True))
    assert support.transport_sum(done.data) == 0xFFFF
    assert not done.csum_blank
    assert done.validated
    headers = locate(done.data)
    assert headers is not None
    assert is_right(done.data, headers)


def test_complete_ignores_what_is_in_the_field() -> None:
    data = bytearray(support.tcp4(b"abc"))
    data[14 + 20 + 16 : 14 + 20 + 18] = b"\x12\x34"
    assert support.transport_sum(complete(Packet(bytes(data), True)).data) == 0xFFFF


def test_a_udp_sum_of_zero_is_sent_as_ones() -> None:
    def datagram(word: int) -> bytes:
        body = support.udp(struct.pack(">H", word))
        packet = support.ipv4(17, body)
        return support.ethernet(support.MAC_B, support.MAC_A, 0x0800, packet)

    # The word that makes the sum come out as zero.
    word = 0xFFFF - support.transport_sum(datagram(0))
    done = complete(Packet(datagram(word), True)).data
    assert done[14 + 20 + 6 : 14 + 20 + 8] == b"\xff\xff"


def test_complete_leaves_alone_what_it_does_not_know() -> None:
    icmp = support.ethernet(support.MAC_B, support.MAC_A, 0x0800, support.ipv4(1, bytes(8)))
    arp = support.ethernet(support.MAC_B, support.MAC_A, 0x0806, bytes(28))
    for data in (icmp, arp, support.tcp4(b"")[:40]):
        assert complete(Packet(data, True)) == Packet(data, False)


@given(
    st.integers(0, 5000),
    st.integers(1, 1500),
    st.integers(0, 0xFFFFFFFF),
    st.integers(0, 255),
    st.sampled_from([4, 6]),
)
def test_segments_carry_the_same_bytes(
    size: int, mss: int, sequence: int, flags: int, version: int
) -> None:
    body = bytes(index * 7 & 0xFF for index in range(size))
    make = support.tcp4 if version == 4 else support.tcp6
    kind = XEN_NETIF_GSO_TYPE_TCPV4 if version == 4 else XEN_NETIF_GSO_TYPE_TCPV6
    data = make(body, sequence=sequence, flags=flags, options=b"\1" * 12)
    pieces = segment(Packet(data, True, True, kind, mss))
    assert len(pieces) == max(1, -(-size // mss))
    at = 0
    for index, piece in enumerate(pieces):
        done = complete(piece)
        assert support.transport_sum(done.data) == 0xFFFF
        headers = locate(done.data)
        assert headers is not None
        assert headers.end == len(done.data)
        if version == 4:
            assert support.ones_complement(done.data[14:34]) == 0xFFFF
            ident = int.from_bytes(done.data[18:20], "big")
            assert ident == 7 + index
        tcp = done.data[headers.transport :]
        assert int.from_bytes(tcp[4:8], "big") == (sequence + at) & 0xFFFFFFFF
        last = index == len(pieces) - 1
        expected = flags & (0xFF if last else ~0x09) & (0xFF if index == 0 else ~0x80)
        assert tcp[13] == expected
        assert tcp[32:] == body[at : at + mss]
        at += mss


def test_blank_segments_hold_the_pseudo_headers_sum() -> None:
    data = support.tcp4(bytes(100))
    for piece in segment(Packet(data, True, True, XEN_NETIF_GSO_TYPE_TCPV4, 60)):
        pseudo = piece.data[26:34] + struct.pack(">HH", 6, len(piece.data) - 34)
        field = int.from_bytes(piece.data[50:52], "big")
        assert field == support.ones_complement(pseudo)


@pytest.mark.parametrize(
    "packet",
    [
        Packet(support.tcp6(bytes(99)), True, True, XEN_NETIF_GSO_TYPE_TCPV4, 50),
        Packet(support.tcp4(bytes(99)), True, True, XEN_NETIF_GSO_TYPE_TCPV6, 50),
        Packet(support.tcp4(bytes(99)), True, True, 9, 50),
        Packet(support.tcp4(bytes(99)), True, True, XEN_NETIF_GSO_TYPE_TCPV4, 0),
        Packet(bytes(99), True, True, XEN_NETIF_GSO_TYPE_TCPV4, 50),
        Packet(
            support.ethernet(support.MAC_B, support.MAC_A, 0x0800, support.ipv4(6, bytes(30))),
            gso_type=XEN_NETIF_GSO_TYPE_TCPV4,
            gso_size=50,
        ),
        Packet(
            support.ethernet(support.MAC_B, support.MAC_A, 0x0800, support.ipv4(6, bytes(10))),
            gso_type=XEN_NETIF_GSO_TYPE_TCPV4,
            gso_size=50,
        ),
    ],
)
def test_segmentation_that_does_not_fit(packet: Packet) -> None:
    with pytest.raises(BadPacket):
        check_gso(packet)


def test_too_many_segments() -> None:
    with pytest.raises(BadPacket, match="segments of 1"):
        segment(Packet(support.tcp4(bytes(99)), True, True, XEN_NETIF_GSO_TYPE_TCPV4, 1), 50)


def test_macs_as_text() -> None:
    assert format_mac(support.MAC_A) == "00:16:3e:00:00:01"
    assert parse_mac(" 0:16:3E:0:0:1 ") == support.MAC_A
    for text in ("", "00:16:3e:00:00", "00:16:3e:00:00:001", "00:16:3e:00:00:0g", "::::::"):
        with pytest.raises(ValueError):  # noqa: PT011  # int() says it in its own words
            parse_mac(text)
