# SPDX-License-Identifier: GPL-2.0-or-later
"""Captures, read back by a reader of the format's description."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.backends.net import support
from xenograft.backends.net.packet import Packet
from xenograft.backends.net.pcap import PcapWriter


def read(path: Path) -> list[tuple[int, bytes]]:
    """(time in ns, packet) of a little-endian pcap file with nanoseconds."""
    data = path.read_bytes()
    magic, major, minor, _zone, _accuracy, snaplen, link = struct.unpack_from("<IHHiIII", data)
    assert (magic, major, minor, link) == (0xA1B23C4D, 2, 4, 1)
    packets, at = [], 24
    while at < len(data):
        seconds, nanoseconds, kept, length = struct.unpack_from("<IIII", data, at)
        assert kept == min(length, snaplen)
        at += 16
        packets.append((seconds * 10**9 + nanoseconds, data[at : at + kept]))
        at += kept
    return packets


def test_packets_with_their_times(tmp_path: Path) -> None:
    times = iter([1_600_000_000_123_456_789, 1_600_000_001_000_000_000])
    writer = PcapWriter(tmp_path / "x.pcap", lambda: next(times))
    first, second = support.frame(size=60), support.frame(size=70000)
    writer.write(first)
    writer.write(second)
    writer.flush()
    assert read(tmp_path / "x.pcap") == [
        (1_600_000_000_123_456_789, first.data),
        (1_600_000_001_000_000_000, second.data),
    ]
    writer.close()
    writer.close()
    writer.write(first)
    assert writer.packets == 2


def test_checksums_are_computed(tmp_path: Path) -> None:
    writer = PcapWriter(tmp_path / "x.pcap", lambda: 0)
    writer.write(Packet(support.tcp4(b"hello"), csum_blank=True))
    writer.close()
    ((_, data),) = read(tmp_path / "x.pcap")
    assert support.transport_sum(data) == 0xFFFF


def test_a_full_disk_ends_the_capture(tmp_path: Path) -> None:
    writer = PcapWriter(tmp_path / "x.pcap", lambda: 0)
    writer._file.close()
    writer._file = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115
    writer.write(support.frame())
    assert isinstance(writer.error, OSError)
    writer.write(support.frame())
    writer.flush()
    writer.close()
    assert writer.packets == 0


def test_a_file_that_cannot_be_made() -> None:
    for path in ("/nonexistent/x.pcap", "/dev/full"):
        with pytest.raises(OSError, match=r"No such file|No space"):
            PcapWriter(Path(path), lambda: 0)
