# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts all uses of a PV domain's frames anew, and compares with the counts that are kept.

Nothing is taken from the counts themselves: page tables are read entry by entry, and added to
what is pinned, what the vCPUs have loaded, what the hypervisor writes to, and what others have
mapped by grants.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import Any, cast

from xenograft.abi.grant_table import GNTMAP_device_map, GNTMAP_host_map, GNTMAP_readonly
from xenograft.hypervisor.domain import Domain

P, RW, PSE = 1, 2, 1 << 7
FLAGS = 0xFFF0_0000_0000_0FFF
SEG, WRITABLE = 5, 7
XEN_SLOTS = range(256, 272)
XEN_SLOTS_32 = range(428, 512)
DESCRIPTOR_PAGES = 32


class Audit:
    """What a domain's frames are used for, by its own account."""

    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        self.memory = cast(Any, domain.memory)
        self.own = set(domain.pool.pages) | set(domain.pool.special)
        self.refs: Counter[int] = Counter(dict.fromkeys(self.own, 1))
        # Shared info and grant frames are written by the hypervisor for as long as they live.
        self.types: Counter[tuple[int, int]] = Counter(
            dict.fromkeys(((mfn, WRITABLE) for mfn in domain.pool.special), 1)
        )
        self.foreign: Counter[int] = Counter()
        """Frames of others that page tables map."""
        self.tables = 0
        self.entries = 0
        self.wrong: list[str] = []
        for mfn in self.own:
            kind, count, validated, pinned = self.memory.types(mfn)
            if kind in (1, 2, 3, 4) and count:
                if not validated:
                    self.wrong.append(f"{mfn:#x} is in use as a table and isn't validated")
                self._table(mfn, kind)
            if pinned:
                self._use(mfn, kind)
        self._vcpus()
        self._hypervisor()
        self._grants()

    def _use(self, mfn: int, kind: int) -> None:
        self.refs[mfn] += 1
        self.types[mfn, kind] += 1

    def _table(self, table: int, level: int) -> None:
        self.tables += 1
        compat = self.domain.bits == 32
        entries = struct.unpack("<512Q", self.memory.read(table << 12, 4096))
        for slot, entry in enumerate(entries):
            if not entry & P:
                continue
            mfn = (entry & ~FLAGS) >> 12
            if level == 4 and slot in XEN_SLOTS:
                continue
            if compat and level == 2 and slot in XEN_SLOTS_32 and mfn not in self.own:
                continue  # the machine-to-physical table, in the last table of level 2
            self.entries += 1
            if entry & PSE:
                self.wrong.append(f"{table:#x}[{slot}] = {entry:#x}: a large page")
            elif level == 1:
                self._data(table, slot, entry, mfn)
            elif mfn not in self.own:
                self.wrong.append(f"{table:#x}[{slot}] = {entry:#x}: a table of another's")
            elif mfn != table:  # a table that maps itself takes nothing
                kind = self.memory.types(mfn)[0]
                if kind == level and entry & RW and not compat:
                    self.wrong.append(f"{table:#x}[{slot}] = {entry:#x}: a writable linear table")
                self._use(mfn, level if kind == level else level - 1)

    def _data(self, table: int, slot: int, entry: int, mfn: int) -> None:
        if mfn not in self.own:
            self.foreign[mfn] += 1
            return
        self.refs[mfn] += 1
        if entry & RW:
            self.types[mfn, WRITABLE] += 1
            kind, count, _, _ = self.memory.types(mfn)
            if kind != WRITABLE or not count:
                self.wrong.append(f"{table:#x}[{slot}] = {entry:#x}: type {kind} is writable")

    def _vcpus(self) -> None:
        level = 3 if self.domain.bits == 32 else 4
        for vcpu in self.domain.vcpus:
            if vcpu.cpu is None:
                continue
            cpu = cast(Any, vcpu.cpu)
            for name in ("kernel_table", "user_table"):
                if mfn := cpu.pv_get(name):
                    self._use(mfn, level)
            at = cpu.pv_get("descriptors")
            for entry in struct.unpack("<32Q", self.memory.read(at, 8 * DESCRIPTOR_PAGES)):
                if entry & P and (mfn := (entry & ~FLAGS) >> 12) in self.own:
                    self._use(mfn, SEG)

    def _hypervisor(self) -> None:
        written = [vcpu.vcpu_info_mfn for vcpu in self.domain.vcpus]
        if (fifo := self.domain.events._fifo) is not None:
            pages = [*fifo._array, *(state.control_maddr for state in fifo._vcpus)]
            written += [None if maddr is None else maddr >> 12 for maddr in pages]
        for mfn in written:
            if mfn is not None:
                self._use(mfn, WRITABLE)

    def _grants(self) -> None:
        """What others have mapped of this domain: theirs are the references."""
        mine = self.domain.grants.active
        granted: Counter[int] = Counter()
        for other in self.domain.hypervisor.domains.values():
            for track in other.grants.maptrack.values():
                if track.domid == self.domain.domid and track.ref in mine:
                    mfn = mine[track.ref].mfn
                    for flag in (GNTMAP_host_map, GNTMAP_device_map):
                        if track.flags & flag:
                            self.refs[mfn] += 1
                            if not track.flags & GNTMAP_readonly:
                                self.types[mfn, WRITABLE] += 1
                if other is self.domain and track.domid != self.domain.domid:
                    granter = self.domain.hypervisor.domains[track.domid]
                    granted[granter.grants.active[track.ref].mfn] += 1
        shown = set(self.foreign) - set(granted)
        machine = {mfn for mfn in shown if self.memory.owner(mfn) >= 0x7FF0}
        if shown - machine:
            self.wrong.append(f"frames of others in page tables: {sorted(shown - machine)}")

    def check(self) -> None:
        """Raises AssertionError, saying which frames are counted otherwise."""
        by_frame: dict[int, dict[int, int]] = {}
        for (mfn, kind), number in self.types.items():
            by_frame.setdefault(mfn, {})[kind] = number
        for mfn in self.own:
            kind, count, _, _ = self.memory.types(mfn)
            counted = by_frame.get(mfn, {})
            if count and counted != {kind: count}:
                self.wrong.append(f"{mfn:#x}: {count} uses of type {kind}; counted {counted}")
            if self.memory.refs(mfn) != self.refs[mfn]:
                self.wrong.append(
                    f"{mfn:#x} (type {kind}, {count}): {self.memory.refs(mfn)} references;"
                    f" counted {self.refs[mfn]}"
                )
        unused = [mfn for mfn in by_frame if mfn in self.own and not self.memory.types(mfn)[1]]
        if unused:
            self.wrong.append(f"used, and without a count: {unused[:5]}")
        if self.memory.take_zombies():
            self.wrong.append("frames without references that nobody has freed")
        assert not self.wrong, "\n".join(self.wrong[:10])
