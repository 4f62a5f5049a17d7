# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames of a peer without an MTU, made to fit one."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.backends.net import support
from xenograft.backends.net.checksum import fold, partial_sum, sum_in_python
from xenograft.backends.net.headers import locate
from xenograft.backends.net.packet import Packet, complete, segment
from xenograft.backends.net.segments import SEGMENT_MAX, fit, raise_mss


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


def syn(options: bytes, flags: int = 2) -> Packet:
    return Packet(right(support.tcp4(b"", flags=flags, options=options)))


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
    done = complete(raise_mss(packet, headers))
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
    assert raise_mss(packet, headers) == packet


@given(st.binary(max_size=60))
def test_any_options_are_looked_at_safely(options: bytes) -> None:
    data = bytearray(support.tcp4(options, flags=2))
    data[46] = 0xF0
    headers = locate(bytes(data))
    assert headers is not None
    assert len(raise_mss(Packet(bytes(data)), headers).data) == len(data)


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
