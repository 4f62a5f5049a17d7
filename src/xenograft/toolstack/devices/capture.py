# SPDX-License-Identifier: GPL-2.0-or-later
"""A capture of one interface's packets into a file, as long as the interface is there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from xenograft.backends.net.pcap import PcapWriter
from xenograft.toolstack.errors import UserError

if TYPE_CHECKING:
    from xenograft.backends.net.vif import VifDevice
    from xenograft.hypervisor.time import Clock


class Capture:
    """Packets of one interface after the other (a guest's, from one life to the next) in a file.

    The times are those of the machine's wall clock.  Raises UserError if the file can't be made.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        try:
            self._writer = PcapWriter(path, lambda: clock.epoch_ns + clock.now())
        except OSError as error:
            raise UserError(f"can't write {path}: {error.strerror}") from None

    @property
    def packets(self) -> int:
        """How many were written."""
        return self._writer.packets

    @property
    def error(self) -> str | None:
        """Why nothing is written any more (the disk is full), if so."""
        problem = self._writer.error
        return None if problem is None else f"can't write {self._writer.path}: {problem.strerror}"

    def follow(self, device: VifDevice) -> None:
        """Capture the packets of an interface, until it goes."""
        tap = self._writer.write
        device.port.taps.append(tap)
        device.on_release.append(lambda: device.port.taps.remove(tap))
        device.on_release.append(self._writer.flush)

    def close(self) -> None:
        """End the capture; the file is complete then."""
        self._writer.close()
