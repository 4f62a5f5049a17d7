# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames of a peer without an MTU, made to fit one."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.backends.net import support
from xenograft.backends.net.checksum import fold, partial_sum, sum_in_python
from xenograft.backends.net.headers import locate
from xenograft.backends.net.packet import Packet, complete, segment
from xenograft.backends.net.segments import SEGMENT_MAX, WINDOW_MAX, fit, join, suited


def right(data: bytes) -> bytes:
    return complete(Packet(data, True)).data


@given(st.binary(max_size=200), st.integers(0, 3))
def test_the_native_sum_is_that_of_python(data: bytes, cut: int) -> None:
    for view in (data, bytearray(data), memoryview(data)[cut:]):
        assert fold(partial_sum(view)) == fold(sum_in_python(view))


@pytest.mark.parametrize("make", [support.tcp4, support.tcp6])
def test_large_segments_are_marked(make: object) -> None:
    assert callable(make)
    body = bytes(index * 3 & 0xFF for index in range(30000))
    (packet,) = fit(right(make(body, options=b"\1" * 12)), 1500)
    pieces = [complete(piece).data for piece in segment(packet)]
    assert max(map(len, pieces)) == 1514
    assert all(support.transport_sum(piece) == 0xFFFF for piece in pieces)
    headers = locate(pieces[0])
    assert headers is not None
    assert b"".join(piece[headers.transport + 32 :] for piece in pieces) == body


def test_small_frames_are_left_alone() -> None:
    for data in (right(support.tcp4(bytes(1400))), support.frame(size=60).data, b"x"):
        assert fit(data, 1500) == [Packet(data, validated=True)]


@settings(max_examples=20)
@given(st.integers(1473, 60000), st.sampled_from([576, 1500, 9000]))
def test_datagrams_are_fragmented(size: int, mtu: int) -> None:
    body = bytes(index & 0xFF for index in range(size))
    data = right(
        support.ethernet(support.MAC_B, support.MAC_A, 0x0800, support.ipv4(17, support.udp(body)))
    )
    got = b""
    packets = fit(data, mtu)
    for index, packet in enumerate(packets):
        ip = packet.data[14:]
        assert len(ip) <= mtu
        assert support.ones_complement(ip[:20]) == 0xFFFF
        total, _, fragment = struct.unpack_from(">HHH", ip, 2)
        assert total == len(ip)
        assert (fragment & 0x1FFF) * 8 == len(got)
        assert bool(fragment & 0x2000) is (index < len(packets) - 1)
        got += ip[20:]
    assert got == data[34:]


def test_what_cannot_be_made_to_fit_is_dropped() -> None:
    six = support.ethernet(
        support.MAC_B, support.MAC_A, 0x86DD, support.ipv6(17, support.udp(bytes(3000)))
    )
    whole = support.ethernet(
        support.MAC_B,
        support.MAC_A,
        0x0800,
        support.ipv4(17, support.udp(bytes(3000)), fragment=0x4000),
    )
    assert fit(six, 1500) == fit(whole, 1500) == fit(support.frame(size=2000).data, 1500) == []


@given(st.binary(max_size=120), st.integers(68, 100))
def test_any_bytes_are_made_to_fit_safely(data: bytes, mtu: int) -> None:
    for start in (b"\x08\x00\x45", b"\x86\xdd\x60", b""):
        for packet in fit(bytes(12) + start + data, mtu):
            assert packet.gso_size or len(packet.data) <= mtu + 14


def test_parts_of_datagrams_are_fragmented_further() -> None:
    body = bytes(index * 5 & 0xFF for index in range(9000))
    parts = (support.ipv4(17, body[:6000], fragment=0x2000),)
    parts += (support.ipv4(17, body[6000:], fragment=6000 >> 3),)
    got, more = b"", []
    for part in parts:
        for packet in fit(support.ethernet(support.MAC_B, support.MAC_A, 0x0800, part), 1500):
            ip = packet.data[14:]
            assert len(ip) <= 1500
            assert support.ones_complement(ip[:20]) == 0xFFFF
            field = int.from_bytes(ip[6:8], "big")
            assert (field & 0x1FFF) * 8 == len(got)
            more.append(bool(field & 0x2000))
            got += ip[20:]
    assert got == body
    assert more == [True] * (len(more) - 1) + [False]


Make = Callable[..., bytes]


def pieces_of(make: Make, body: bytes, size: int, flags: int) -> list[bytes]:
    """A TCP stream's segments, with their checksums right, as a peer sends them."""
    options = b"\1" * 12
    return [
        right(
            make(
                body[at : at + size],
                sequence=0xFFFFFF00 + at & 0xFFFFFFFF,
                flags=0x10 if at + size < len(body) else flags,
                options=options,
            )
        )
        for at in range(0, len(body), size)
    ]


@settings(max_examples=40)
@given(
    st.sampled_from([support.tcp4, support.tcp6]),
    st.integers(1000, 60000),
    st.sampled_from([0x10, 0x18, 0x19, 0x11]),
)
def test_segments_in_sequence_are_joined(make: Make, size: int, flags: int) -> None:
    body = bytes(index * 11 & 0xFF for index in range(size))
    first, second = pieces_of(make, body, -(-size // 2), flags)
    packet = join(first, second, 200)
    assert packet is not None
    assert packet.gso_size
    assert packet.csum_blank
    cut = [complete(piece).data for piece in segment(packet)]
    assert all(support.transport_sum(piece) == 0xFFFF for piece in cut)
    assert all(support.ones_complement(p[14:34]) == 0xFFFF for p in cut if p[14] >> 4 == 4)
    headers = locate(cut[0])
    assert headers is not None
    assert b"".join(piece[headers.transport + 32 :] for piece in cut) == body
    assert cut[-1][headers.transport + 13] == flags


def test_what_is_no_continuation_is_not_joined() -> None:
    def frame(sequence: int = 1500, flags: int = 0x10, make: Make = support.tcp4) -> bytes:
        return right(make(bytes(500), sequence=sequence, flags=flags))

    first, second = frame(1000), frame()
    assert join(first, second, 500) is not None
    assert join(frame(1000, 0x18), second, 500) is not None
    # A gap, an overlap, the same again; flags that mean something; another family.
    for other in (frame(1501), frame(1499), first, frame(flags=0x12), frame(flags=0x14)):
        assert join(first, other, 500) is None
    assert join(first, frame(make=support.tcp6), 500) is None
    assert join(frame(1000, 0x11), second, 500) is None
    # Nothing in it; no TCP; a part of a datagram; what would fit without being cut.
    assert join(first, right(support.tcp4(b"", sequence=1500, flags=0x10)), 500) is None
    assert join(right(support.tcp4(b"", sequence=1500, flags=0x10)), second, 500) is None
    assert join(support.frame(size=600).data, support.frame(size=600).data, 500) is None
    part = support.ethernet(
        support.MAC_B, support.MAC_A, 0x0800, support.ipv4(6, bytes(600), fragment=0x2000)
    )
    assert join(part, part, 500) is None
    assert join(first, second, 1500) is None
    # More than a packet holds.
    large = right(support.tcp4(bytes(33000), sequence=1000, flags=0x10))
    assert join(large, right(support.tcp4(bytes(33000), sequence=34000, flags=0x10)), 500) is None


@given(st.integers(0, 59), st.integers(0, 255))
def test_any_other_header_is_another_packet(at: int, value: int) -> None:
    """One byte of the headers changed: not joined, unless it's one that doesn't count."""
    first = right(support.tcp4(bytes(500), sequence=1000, flags=0x10, options=b"\1" * 4))
    second = bytearray(
        right(support.tcp4(bytes(500), sequence=1500, flags=0x10, options=b"\1" * 4))
    )
    same = second[at] == value
    second[at] = value
    joined = join(first, bytes(second), 500)
    counts = not (
        at in (18, 19, 24, 25, 50, 51)  # IP's identification; checksums
        or (at == 47 and value & ~0x09 == 0x10)  # FIN and PSH
        or at >= 58  # the body
    )
    if counts and not same and at not in (16, 17):
        assert joined is None
    elif joined is not None:
        assert len(joined.data) <= len(first) + 500


def syn(options: bytes, flags: int = 2) -> Packet:
    return Packet(right(support.tcp4(b"", flags=flags, options=options, window=8000)))


@pytest.mark.parametrize(("window", "offered"), [(0, 0), (WINDOW_MAX, WINDOW_MAX), (65535, None)])
def test_a_window_is_no_larger_than_what_can_be_joined(window: int, offered: int | None) -> None:
    packet = Packet(right(support.tcp4(b"", flags=0x10, window=window)))
    headers = locate(packet.data)
    assert headers is not None
    done = complete(suited(packet, headers)).data
    assert int.from_bytes(done[48:50], "big") == (WINDOW_MAX if offered is None else offered)
    assert support.transport_sum(done) == 0xFFFF


def mss_of(packet: Packet) -> int | None:
    at = packet.data.find(b"\x02\x04", 54)
    return None if at < 0 else int.from_bytes(packet.data[at + 2 : at + 4], "big")


@pytest.mark.parametrize(
    "options",
    [
        b"\x02\x04\x05\xb4",
        b"\x01\x01\x04\x02\x02\x04\x05\xb4\x01\x01",
        b"\x03\x03\x07\x01\x02\x04\x05\xb4",
    ],
)
@pytest.mark.parametrize("flags", [0x02, 0x12])
def test_a_syn_offers_large_segments(options: bytes, flags: int) -> None:
    packet = syn(options.ljust(-(-len(options) // 4) * 4, b"\0"), flags)
    headers = locate(packet.data)
    assert headers is not None
    done = complete(suited(packet, headers))
    assert mss_of(done) == SEGMENT_MAX
    assert support.transport_sum(done.data) == 0xFFFF
    assert len(done.data) == len(packet.data)


@pytest.mark.parametrize(
    "packet",
    [
        syn(b""),
        syn(b"\0\0\0\0"),
        syn(b"\x04\x01\x02\x04"),
        syn(b"\x02\x03\x05\0"),
        syn(b"\x02\x04\x05\xb4", 0x10),
    ],
    ids=["no options", "an end", "a length of 1", "a length of 3", "no SYN"],
)
def test_other_segments_are_left_alone(packet: Packet) -> None:
    headers = locate(packet.data)
    assert headers is not None
    assert suited(packet, headers) == packet


@given(st.binary(max_size=60))
def test_any_options_are_looked_at_safely(options: bytes) -> None:
    data = bytearray(support.tcp4(options, flags=2))
    data[46] = 0xF0
    headers = locate(bytes(data))
    assert headers is not None
    assert len(suited(Packet(bytes(data)), headers).data) == len(data)


def test_a_router_advertisement_tells_the_links_mtu() -> None:
    options = struct.pack(">BBHI", 5, 1, 0, 65520) + struct.pack(">BB6s", 1, 1, support.MAC_A)
    body = bytearray(struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + options)
    ip = support.ipv6(58, bytes(body))
    frame = bytearray(support.ethernet(support.MAC_B, support.MAC_A, 0x86DD, ip))
    total = support.transport_sum(bytes(frame))
    frame[56:58] = struct.pack(">H", ~total & 0xFFFF)
    assert support.transport_sum(bytes(frame)) == 0xFFFF
    (packet,) = fit(bytes(frame), 1500)
    assert packet.data[54 + 16 + 4 : 54 + 16 + 8] == struct.pack(">I", 1500)
    assert support.transport_sum(packet.data) == 0xFFFF
