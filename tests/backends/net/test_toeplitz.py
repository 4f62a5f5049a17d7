# SPDX-License-Identifier: GPL-2.0-or-later
"""The hash, against the test vectors that Microsoft publishes for receive-side scaling."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backends.net import support
from xenograft.backends.net.toeplitz import flow_of, steer, toeplitz

KEY = bytes.fromhex(
    "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"
)


@pytest.mark.parametrize(
    ("source", "destination", "ports", "plain", "with_ports"),
    [
        ("66.9.149.187", "161.142.100.80", (2794, 1766), 0x323E8FC2, 0x51CCC178),
        ("199.92.111.2", "65.69.140.83", (14230, 4739), 0xD718262A, 0xC626B0EA),
        ("24.19.198.95", "12.22.207.184", (12898, 38024), 0xD2D0A5DE, 0x5C2B394A),
        ("3ffe:2501:200:1fff::7", "3ffe:2501:200:3::1", (2794, 1766), 0x2CC18CD5, 0x40207D3D),
        ("3ffe:501:8::260:97ff:fe40:efab", "ff02::1", (14230, 4739), 0x0F0C461C, 0xDDE51BBF),
    ],
)
def test_published_vectors(
    source: str, destination: str, ports: tuple[int, int], plain: int, with_ports: int
) -> None:
    addresses = ipaddress.ip_address(source).packed + ipaddress.ip_address(destination).packed
    assert toeplitz(KEY, addresses) == plain
    assert toeplitz(KEY, addresses + struct.pack(">HH", *ports)) == with_ports


@given(st.binary(max_size=40), st.binary(max_size=36))
def test_the_description_of_the_header(key: bytes, data: bytes) -> None:
    shift = int.from_bytes(key.ljust(80, b"\0"), "big")
    value = 0
    for byte in data:
        for bit in range(7, -1, -1):
            if byte >> bit & 1:
                value ^= shift >> 608 & 0xFFFFFFFF
            shift <<= 1
    assert toeplitz(key, data) == value


def test_an_empty_key_hashes_to_zero() -> None:
    assert toeplitz(b"", b"\xff" * 12) == 0


def test_the_most_specific_type_is_taken() -> None:
    data = support.tcp4(b"x")
    addresses = data[26:34]
    assert flow_of(data, 0xF) == (2, addresses + data[34:38])
    assert flow_of(data, 1) == (1, addresses)
    assert flow_of(data, 4 | 8) is None
    six = support.tcp6(b"x")
    assert flow_of(six, 0xF) == (8, six[22:54] + six[54:58])
    assert flow_of(six, 4) == (4, six[22:54])
    datagram = support.ethernet(
        support.MAC_B, support.MAC_A, 0x0800, support.ipv4(17, support.udp(b"x"))
    )
    assert flow_of(datagram, 0xF) == (1, datagram[26:34])
    assert flow_of(support.frame().data, 0xF) is None


def test_steering_keeps_flows_together() -> None:
    assert steer(support.tcp4(b"x")) == steer(support.tcp4(b"something else"))
    assert steer(support.frame().data) == 0
