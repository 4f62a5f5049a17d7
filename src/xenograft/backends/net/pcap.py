# SPDX-License-Identifier: GPL-2.0-or-later
"""Captures that tcpdump and Wireshark read: the pcap format with nanoseconds.

Facts: pcap-savefile(5).  Packets are captured as the guest sees them, but with their checksums
computed, so that no reader marks them as wrong; those that stand for several segments are one
large packet.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from pathlib import Path

from xenograft.backends.net.packet import Packet, complete

_MAGIC_NS = 0xA1B23C4D
_LINKTYPE_ETHERNET = 1
SNAPLEN = 1 << 18

_HEADER = struct.Struct("<IHHiIII")
_RECORD = struct.Struct("<IIII")


class PcapWriter:
    """Writes packets to a file as they come.  Raises OSError if it can't be made.

    `wall_clock` gives nanoseconds since 1970.  A file that can't be written to any more (a full
    disk) ends the capture, and says so in `error`: the guest's packets go on.
    """

    def __init__(self, path: Path, wall_clock: Callable[[], int]) -> None:
        self.path = path
        self.error: OSError | None = None
        self.packets = 0
        self._wall_clock = wall_clock
        self._file = path.open("wb")
        try:
            self._file.write(_HEADER.pack(_MAGIC_NS, 2, 4, 0, 0, SNAPLEN, _LINKTYPE_ETHERNET))
            # Somebody may look at the file while the guest runs.
            self._file.flush()
        except OSError:
            with contextlib.suppress(OSError):
                self._file.close()
            raise

    def write(self, packet: Packet) -> None:
        """Add a packet, with the present time."""
        if self.error is not None or self._file.closed:
            return
        data = complete(packet).data
        seconds, nanoseconds = divmod(self._wall_clock(), 1_000_000_000)
        part = data[:SNAPLEN]
        record = _RECORD.pack(seconds & 0xFFFFFFFF, nanoseconds, len(part), len(data))
        try:
            self._file.write(record + part)
            self.packets += 1
        except OSError as error:
            self.error = error

    def flush(self) -> None:
        """Bring what was written to the file."""
        if self.error is None and not self._file.closed:
            try:
                self._file.flush()
            except OSError as error:
                self.error = error

    def close(self) -> None:
        """End the capture; a second time does nothing."""
        self.flush()
        try:
            self._file.close()
        except OSError as error:
            self.error = error
