# SPDX-License-Identifier: GPL-2.0-or-later
"""The PV console's page: two byte rings with free-running indices (public/io/console.h).

The back end's side.  A guest that writes nonsense into the indices gets nonsense: no index is
believed further than the size of its ring (as xenconsoled does it).
"""

from __future__ import annotations

from typing import Protocol

from xenograft.abi.io.console import (
    MASK_XENCONS_IDX,
    XENCONS_IN_SIZE,
    XENCONS_OUT_SIZE,
    xencons_interface,
)


class PageMemory(Protocol):
    """The part of `engine.protocol.MachineMemory` that a ring needs."""

    def read(self, maddr: int, size: int) -> bytes: ...
    def write(self, maddr: int, data: bytes) -> None: ...
    def read_u32(self, maddr: int) -> int: ...
    def write_u32(self, maddr: int, value: int) -> None: ...


class ConsoleRing:
    """The page at machine address `maddr`, seen from the back end."""

    __slots__ = ("_in", "_in_cons", "_in_prod", "_memory", "_out", "_out_cons", "_out_prod")

    def __init__(self, memory: PageMemory, maddr: int) -> None:
        self._memory = memory
        at = xencons_interface.offsetof
        self._in, self._out = maddr + at("in_"), maddr + at("out")
        self._in_cons, self._in_prod = maddr + at("in_cons"), maddr + at("in_prod")
        self._out_cons, self._out_prod = maddr + at("out_cons"), maddr + at("out_prod")

    def read(self) -> bytes:
        """Take what the guest has written."""
        memory = self._memory
        cons, prod = memory.read_u32(self._out_cons), memory.read_u32(self._out_prod)
        size = prod - cons & 0xFFFFFFFF
        if size == 0 or size > XENCONS_OUT_SIZE:
            return b""
        start = MASK_XENCONS_IDX(cons, XENCONS_OUT_SIZE)
        first = min(size, XENCONS_OUT_SIZE - start)
        data = memory.read(self._out + start, first)
        if first < size:
            data += memory.read(self._out, size - first)
        memory.write_u32(self._out_cons, prod)
        return data

    def write(self, data: bytes) -> int:
        """Put as much of `data` into the ring as fits; returns how many bytes that is."""
        memory = self._memory
        cons, prod = memory.read_u32(self._in_cons), memory.read_u32(self._in_prod)
        used = prod - cons & 0xFFFFFFFF
        if used >= XENCONS_IN_SIZE:
            return 0
        size = min(len(data), XENCONS_IN_SIZE - used)
        start = MASK_XENCONS_IDX(prod, XENCONS_IN_SIZE)
        first = min(size, XENCONS_IN_SIZE - start)
        memory.write(self._in + start, data[:first])
        if first < size:
            memory.write(self._in, data[first:size])
        memory.write_u32(self._in_prod, prod + size & 0xFFFFFFFF)
        return size

    def unread(self) -> int:
        """Bytes of input in the ring that the guest has not taken."""
        memory = self._memory
        used = memory.read_u32(self._in_prod) - memory.read_u32(self._in_cons) & 0xFFFFFFFF
        return min(used, XENCONS_IN_SIZE)
