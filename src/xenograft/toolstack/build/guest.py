# SPDX-License-Identifier: GPL-2.0-or-later
"""The record of a built guest: all that the hypervisor needs to know to start it."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from xenograft.toolstack.build.acpi.tables import AcpiTables
from xenograft.toolstack.build.elf import Buffer
from xenograft.toolstack.build.kernel import Kernel
from xenograft.toolstack.build.memory_map import E820Entry, SpecialPages

_PIECE = 1 << 18
_ZEROS = bytes(_PIECE)


class Load(msgspec.Struct, frozen=True):
    """Bytes for guest-physical memory; `what` they are is for people."""

    gpa: int
    data: Buffer
    what: str


class BuiltGuest(msgspec.Struct, frozen=True):
    """A guest as it shall be at its first instruction; plain data, no resources.

    The loads' buffers may be views of a mapped file of tens of MiB: drop the record when the
    guest's memory is filled.
    """

    kind: str
    memory: int
    """Bytes of RAM, without special pages and ACPI tables."""
    vcpus: int
    """How many vCPUs there can be; `online` of them are enabled from the start."""
    online: int
    entry: int
    """Guest-physical address of the first instruction: 32-bit protected mode, paging off."""
    start_info: int
    """Guest-physical address of `hvm_start_info`, for EBX."""
    loads: tuple[Load, ...]
    """What is in memory, all else being zero. No two overlap."""
    e820: tuple[E820Entry, ...]
    ram: tuple[tuple[int, int], ...]
    """(gfn, pages) of the RAM."""
    extra: tuple[tuple[int, int], ...]
    """(gfn, pages) of the populated pages that aren't in `ram`: ACPI tables, special pages."""
    special: SpecialPages
    acpi: AcpiTables
    kernel: Kernel
    cmdline: str
    required_memory: int
    """Bytes of RAM without which the guest's parts don't fit; running takes more."""

    @property
    def pages(self) -> int:
        """How many pages the guest has in all."""
        return sum(count for _, count in (*self.ram, *self.extra))

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """The loads as (gpa, bytes) of at most 256 KiB, without pieces that are all zero."""
        for load in self.loads:
            data = memoryview(load.data)
            for at in range(0, len(data), _PIECE):
                piece = bytes(data[at : at + _PIECE])
                # Comparing stops at the first byte that differs, so this costs next to nothing.
                if piece != _ZEROS[: len(piece)]:
                    yield load.gpa + at, piece

    def report(self) -> str:
        """What would be built and where, as lines of text for people."""
        kernel = self.kernel
        bits = kernel.elf.bits
        wrapping = ", ".join(kernel.container) or "plain"
        lines = [
            f"guest     {self.kind}, {_mib(self.memory)}, {self.online} of {self.vcpus} vCPUs",
            f"kernel    {kernel.name}: ELF{bits} ({wrapping}); supports {', '.join(kernel.kinds)}",
        ]
        if kernel.version:
            lines.append(f"version   {kernel.version}")
        lines += [
            f"cmdline   {self.cmdline}",
            f"entry     {self.entry:#x}, start info at {self.start_info:#x}",
            f"memory    {self.pages} pages; the parts need {_mib(self.required_memory)}",
            "loads",
        ]
        lines += [
            f"  {load.gpa:#012x}-{load.gpa + len(load.data) - 1:#012x}  {load.what}"
            for load in sorted(self.loads, key=lambda load: load.gpa)
        ]
        lines.append("E820")
        lines += [
            f"  {entry.addr:#012x}-{entry.addr + entry.size - 1:#012x}  {entry.type.name}"
            for entry in self.e820
        ]
        lines.append("ACPI")
        lines += [f"  {name} {at:#x} {size:#06x}" for name, at, size in self.acpi.directory]
        lines.append("notes")
        for name, value in kernel.notes.values.items():
            text = f"{value:#x}" if isinstance(value, int) else str(value)
            lines.append(f"  {name} {text}")
        return "\n".join(lines) + "\n"


def _mib(size: int) -> str:
    whole, rest = divmod(size, 1 << 20)
    return f"{size / (1 << 20):.1f} MiB" if rest else f"{whole} MiB"
