# SPDX-License-Identifier: GPL-2.0-or-later
"""A model of page types in plain Python, to hold the native one against.

It says whether an operation has to succeed, and which types and references there are then.  It
keeps no counts of its own between operations beyond those that it has worked out, and reads the
contents of tables from memory, as they are when the operation begins.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from copy import deepcopy

P, RW, US, PWT, PCD, A, D, PSE, G = 1, 2, 4, 8, 16, 32, 64, 128, 256
AVAIL, NX = 0xE00, 1 << 63
GUEST_KERNEL = 1 << 52
AVAIL_HIGH = 0x7FF << 52
FLAGS = 0xFFF0_0000_0000_0FFF
ALLOWED = P | RW | US | A | D | AVAIL | AVAIL_HIGH | NX
SAME_PAGE = NX | AVAIL_HIGH | AVAIL | G | D | A | US
SEG, WRITABLE = 5, 7
XEN_SLOTS = range(256, 272)


class Refused(Exception):
    """The operation fails, and changes nothing."""


class Model:
    """One 64-bit PV domain's frames. `owned` are its own; `read` reads a frame's 512 entries."""

    def __init__(self, owned: set[int], read: Callable[[int], tuple[int, ...]]) -> None:
        self.owned = owned
        self._read = read
        self.types: dict[int, int] = dict.fromkeys(owned, 0)
        self.counts: dict[int, int] = dict.fromkeys(owned, 0)
        self.refs: dict[int, int] = dict.fromkeys(owned, 1)
        self.linear: dict[int, int] = dict.fromkeys(owned, 0)
        self.valid: set[int] = set()
        self.pinned: set[int] = set()

    # -- trying --------------------------------------------------------------------------------
    def attempt(self, operation: Callable[[Model], None]) -> bool:
        """Whether an operation succeeds; if it doesn't, nothing has changed."""
        trial = Model(self.owned, self._read)
        for name in ("types", "counts", "refs", "linear", "valid", "pinned"):
            setattr(trial, name, deepcopy(getattr(self, name)))
        try:
            operation(trial)
        except Refused:
            return False
        for name in ("types", "counts", "refs", "linear", "valid", "pinned"):
            setattr(self, name, getattr(trial, name))
        return True

    def entries(self, mfn: int, level: int) -> list[int]:
        found = [
            entry
            for slot, entry in enumerate(self._read(mfn))
            if entry & P and not (level == 4 and slot in XEN_SLOTS)
        ]
        return found

    # -- taking and dropping -------------------------------------------------------------------
    def get_page(self, mfn: int) -> None:
        if mfn not in self.owned:
            raise Refused
        self.refs[mfn] += 1

    def get_type(self, mfn: int, type_: int) -> None:
        if self.counts[mfn]:
            if self.types[mfn] != type_ or mfn not in self.valid:
                raise Refused
            self.counts[mfn] += 1
            return
        if self.types[mfn] == type_ == SEG and mfn in self.valid:
            self.counts[mfn] = 1
            return
        self.types[mfn], self.counts[mfn], self.linear[mfn] = type_, 1, 0
        self.valid.discard(mfn)
        if type_ == SEG:
            if not all(descriptor_fine(value) for value in self._read(mfn)):
                raise Refused
        elif type_ == 1:
            for entry in self.entries(mfn, 1):
                self.get_l1e(entry)
        elif type_ in (2, 3, 4):
            for entry in self.entries(mfn, type_):
                self.get_lne(entry, type_, mfn)
        self.valid.add(mfn)

    def put_type(self, mfn: int) -> None:
        self.counts[mfn] -= 1
        if self.counts[mfn]:
            return
        type_ = self.types[mfn]
        if type_ in (1, 2, 3, 4):
            self.valid.discard(mfn)
            for entry in self.entries(mfn, type_):
                if type_ == 1:
                    self.put_l1e(entry)
                else:
                    self.put_lne(entry, type_, mfn)
            self.types[mfn] = 0

    def get_l1e(self, entry: int) -> None:
        if entry & FLAGS & ~(ALLOWED | G):
            raise Refused
        mfn = (entry & ~FLAGS) >> 12
        self.get_page(mfn)
        if entry & RW:
            if self.counts[mfn] and self.types[mfn] != WRITABLE:
                raise Refused
            self.types[mfn] = WRITABLE
            self.valid.add(mfn)
            self.counts[mfn] += 1

    def put_l1e(self, entry: int) -> None:
        mfn = (entry & ~FLAGS) >> 12
        if entry & RW:
            self.put_type(mfn)
        self.refs[mfn] -= 1

    def get_lne(self, entry: int, level: int, table: int) -> None:
        if entry & FLAGS & ~ALLOWED:
            raise Refused
        mfn = (entry & ~FLAGS) >> 12
        if mfn not in self.owned:
            raise Refused
        trial = deepcopy((self.types, self.counts, self.refs, self.linear, self.valid))
        try:
            self.get_page(mfn)
            self.get_type(mfn, level - 1)
        except Refused:
            self.types, self.counts, self.refs, self.linear, self.valid = trial
            self._get_linear(entry, mfn, level, table)

    def _get_linear(self, entry: int, mfn: int, level: int, table: int) -> None:
        if entry & RW:
            raise Refused
        if mfn == table:
            return
        fine = self.types[mfn] == level and mfn in self.valid and self.counts[mfn]
        if not fine or self.linear[mfn] > 0 or self.linear[table] < 0:
            raise Refused
        self.linear[mfn] -= 1
        self.linear[table] += 1
        self.refs[mfn] += 1
        self.counts[mfn] += 1

    def put_lne(self, entry: int, level: int, table: int) -> None:
        mfn = (entry & ~FLAGS) >> 12
        if mfn == table:
            return
        if self.types[mfn] == level:
            self.linear[mfn] += 1
            self.linear[table] -= 1
        self.put_type(mfn)
        self.refs[mfn] -= 1

    # -- operations ----------------------------------------------------------------------------
    def pin(self, mfn: int, level: int) -> None:
        self.get_page(mfn)
        self.get_type(mfn, level)
        if mfn in self.pinned:
            raise Refused
        self.pinned.add(mfn)

    def unpin(self, mfn: int) -> None:
        if mfn not in self.owned or mfn not in self.pinned:
            raise Refused
        self.pinned.discard(mfn)
        self.put_type(mfn)
        self.refs[mfn] -= 1

    def update(self, maddr: int, value: int) -> None:
        """mmu_update's normal command."""
        table, slot = maddr >> 12, (maddr & 0xFFF) >> 3
        if table not in self.owned:
            raise Refused
        level = self.types[table] if self.counts[table] else WRITABLE
        old = self._read(table)[slot]
        if level == WRITABLE:
            if not self.counts[table]:
                self.types[table] = WRITABLE
                self.valid.add(table)
            return
        if level == SEG:
            raise Refused
        if level == 4 and slot in XEN_SLOTS:
            raise Refused
        if value & P:
            allowed = ALLOWED | G if level == 1 else ALLOWED
            if value & FLAGS & ~allowed:
                raise Refused
            if not (old ^ value) & ~SAME_PAGE and old & P:
                return
            if level == 1:
                self.get_l1e(value)
            else:
                self.get_lne(value, level, table)
        if old & P:
            if level == 1:
                self.put_l1e(old)
            else:
                self.put_lne(old, level, table)


def descriptor_fine(value: int) -> bool:
    """Whether a 64-bit guest may have a descriptor in a table (check_descriptor)."""
    low, high = value & 0xFFFFFFFF, value >> 32
    if not high & 1 << 15 or high & 1 << 12:
        return True
    kind = high >> 8 & 0xF
    if kind == 0:
        return True
    selector = low >> 16
    gate = selector >> 3 < 7168 or selector & 4 or selector == 0xE033
    return kind == 0xC and bool(gate) and not high & 0xFF


def unpack(data: bytes) -> tuple[int, ...]:
    """A frame's contents as 512 entries."""
    return struct.unpack("<512Q", data)
