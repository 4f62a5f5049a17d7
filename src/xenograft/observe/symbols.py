# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of a guest kernel's addresses, where its builder left any.

They come from the ELF symbol table of the kernel file (also inside a bzImage), from the table
that Linux carries for itself, or from a ``System.map`` beside the kernel.  Where there is none
of them everything works without names.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from xenograft.toolstack.errors import UserError

MAX_OFFSET = 1 << 20
"""Farther behind a symbol of unknown size an address isn't its."""

MAX_FILE = 1 << 30


class Place(NamedTuple):
    """An address in words: a symbol and how far behind it."""

    name: str
    offset: int

    def __str__(self) -> str:
        return f"{self.name}+{self.offset:#x}" if self.offset else self.name


class Symbols:
    """Symbols by address; `entries` are (address, size or 0, name)."""

    def __init__(self, entries: Iterable[tuple[int, int, str]], source: str = "") -> None:
        # Where several share an address the first by name counts, so that runs don't differ.
        ordered: dict[int, tuple[int, str]] = {}
        for address, size, name in sorted(entries, key=lambda entry: (entry[0], entry[2])):
            ordered.setdefault(address, (size, name))
        self._addresses = list(ordered)
        self._entries = list(ordered.values())
        self._by_name = {name: address for address, (_, name) in reversed(ordered.items())}
        self.source = source

    def __len__(self) -> int:
        return len(self._addresses)

    def lookup(self, address: int) -> Place | None:
        """The symbol that `address` belongs to."""
        index = bisect_right(self._addresses, address) - 1
        if index < 0:
            return None
        size, name = self._entries[index]
        offset = address - self._addresses[index]
        if offset >= (size or MAX_OFFSET):
            return None
        return Place(name, offset)

    def address_of(self, name: str) -> int | None:
        """Where a symbol lies."""
        return self._by_name.get(name)

    def start_of(self, address: int) -> int | None:
        """Where the function that `address` is in begins."""
        place = self.lookup(address)
        return None if place is None else address - place.offset

    @classmethod
    def from_system_map(cls, text: str, source: str = "") -> Symbols:
        """From lines ``address type name``, as System.map and /proc/kallsyms have them."""
        entries = []
        for line in text.splitlines():
            found = _MAP_LINE.match(line)
            if found is not None and int(found[1], 16):
                entries.append((int(found[1], 16), 0, found[2]))
        return cls(entries, source)

    @classmethod
    def from_kernel(cls, data: bytes, source: str = "") -> Symbols:
        """From a kernel file: ELF, or wrapped as kernels are. Raises UserError if it's none.

        If its symbol table was stripped, those count that Linux itself prints with its oopses.
        """
        from xenograft.observe.kallsyms import read_kallsyms
        from xenograft.toolstack.build.elf import parse_elf, read_symbols
        from xenograft.toolstack.build.kernel import unpack_kernel

        image, _, _ = unpack_kernel(data, source or "kernel")
        symbols = read_symbols(image, parse_elf(image, source or "kernel"))
        if symbols:
            return cls(((s.address, s.size, s.name) for s in symbols), source)
        return cls(((at, 0, name) for at, name in read_kallsyms(bytes(image))), source)


# Letters of nm; absolute ones (A) of the kernel are sizes and per-CPU offsets, not places.
_MAP_LINE = re.compile(r"^([0-9a-fA-F]+) [B-Zb-z] (\S+)(?:\s+\[\S+\])?$")


def beside(kernel: Path) -> list[Path]:
    """Files that may hold the symbols of a kernel, best first."""
    version = kernel.name.partition("-")[2]
    names = [kernel.name + ".debug"]
    if version:
        names += [f"vmlinux-{version}", f"System.map-{version}"]
    names += ["vmlinux", "System.map"]
    found = [kernel, *(kernel.parent / name for name in names)]
    if version:
        found.append(Path("/usr/lib/debug/boot") / f"vmlinux-{version}")
    return list(dict.fromkeys(found))


def find_symbols(kernel: Path | None) -> Symbols | None:
    """Symbols for a kernel file, or None; whatever is wrong with the files, this never fails."""
    if kernel is None:
        return None
    for path in beside(kernel):
        try:
            if not path.is_file() or path.stat().st_size > MAX_FILE:
                continue
            data = path.read_bytes()
            if path.name.startswith("System.map"):
                symbols = Symbols.from_system_map(data.decode("ascii", "replace"), str(path))
            else:
                symbols = Symbols.from_kernel(data, str(path))
        except (OSError, UserError):
            continue
        if len(symbols) > 1:
            return symbols
    return None
