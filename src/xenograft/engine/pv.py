# SPDX-License-Identifier: GPL-2.0-or-later
"""The part of the seam that PV guests need: page types, and CPUs whose kernel runs unprivileged.

An engine that runs PV guests has these methods beside those of `protocol`.  Their rules (which
entry a page table may hold, what is pushed on a kernel's stack) are Xen's; they stand in the
engine because a guest changes page tables and enters its kernel hundreds of thousands of times
a second.
"""

from __future__ import annotations

from typing import Protocol

from xenograft.engine.protocol import AddressSpace, Cpu, Engine, MachineMemory

PGT_NAMES = ("none", "l1", "l2", "l3", "l4", "seg_desc", "shared", "writable")
"""Types of frames, by number."""

PGT_seg_desc_page = 5
PGT_writable_page = 7

PV_ANSWERED = 0
PV_PASS = 1
PV_AGAIN = 2


class PvMemory(MachineMemory, Protocol):
    """Machine memory whose frames have types."""

    def types(self, mfn: int, /) -> tuple[int, int, bool, bool]:
        """(type, count of uses, validated, pinned) of a frame."""
        ...

    def take_zombies(self) -> list[int]:
        """Frames whose last reference page tables have given up; the caller drops it."""
        ...

    def use_m2p(self, wide: int, narrow: int, /) -> None:
        """Machine addresses of the machine-to-physical tables, of 64 and 32-bit entries."""
        ...

    def set_m2p(self, mfn: int, gfn: int, count: int, /) -> None:
        """Name frames in both tables (gfn 2**64-1: no name); nothing before `use_m2p`."""
        ...

    def m2p(self, mfn: int, /) -> int: ...


class PvPages(Protocol):
    """The page tables of one PV domain. Results are 0 or a negative errno."""

    def configure(self, compat: bool, m2p_l4e: int, perdomain_l4e: int, compat_l2: bytes) -> None:
        """Whether the guest is a 32-bit one, and the entries of Xen's in its tables."""
        ...

    def set_assist(self, assist: int, /) -> None:
        """The domain's VMASST_TYPE_* as a mask."""
        ...

    def get_type(self, mfn: int, type: int, /) -> int:
        """Take a reference and a use of `type` (1 to 4: a page table of that level)."""
        ...

    def put_type(self, mfn: int, /) -> None: ...
    def pin(self, mfn: int, level: int, /) -> int: ...
    def unpin(self, mfn: int, /) -> int: ...
    def update(self, ptr: int, val: int, owner: int = ..., /) -> int:
        """One mmu_update; `owner` is the domid whose pages the entry maps."""
        ...

    def update_descriptor(self, maddr: int, descriptor: int, /) -> int: ...
    def check_descriptor(self, descriptor: int, /) -> int | None:
        """The descriptor as the guest may have it, or None."""
        ...

    def swap_l1(self, maddr: int, entry: int, drop: bool, /) -> int:
        """Put an L1 entry that a grant stands for; returns the old one, or a negative errno.

        `drop` gives up what the old one mapped.
        """
        ...

    def relinquish(self, extents: list[tuple[int, int]], /) -> None:
        """Unpin all tables in the extents, and break circles of tables."""
        ...


class PvCpu(Cpu, Protocol):
    """A CPU that runs a PV guest."""

    def pv_attach(self, pages: PvPages, /) -> None: ...
    def pv_get(self, name: str, /) -> int: ...
    def pv_set(self, name: str, value: int, /) -> None: ...
    def pv_trap(self, vector: int, flags: int, cs: int, address: int, /) -> None: ...
    def pv_get_trap(self, vector: int, /) -> tuple[int, int, int]: ...
    def pv_set_gdt(self, frames: list[int], entries: int, /) -> int: ...
    def pv_gdt(self) -> list[int]: ...
    def pv_call(
        self, number: int, a: int, b: int, c: int, d: int, e: int, f: int, /
    ) -> tuple[int, int, int, int]:
        """(PV_*, result, first and second argument of what is left to do)."""
        ...

    def pv_load_segment(self, name: str, selector: int, /) -> bool: ...
    def pv_load_roots(self) -> None:
        """Bring the tables into force that kernel_table, user_table and user say."""
        ...

    def pv_new_table(self, mfn: int, user: bool, /) -> int:
        """Change the kernel's or the user's root table: 0 or a negative errno."""
        ...

    def pv_iret(self) -> None:
        """Answer the pending hypercall by an IRET, which happens at the next run."""
        ...

    def pv_drop(self) -> None:
        """Give up all frames that the CPU holds: root tables, GDT, LDT."""
        ...


class PvEngine(Engine, Protocol):
    """An engine that runs PV guests."""

    def pv_pages(self, memory: MachineMemory, space: AddressSpace, domid: int) -> PvPages: ...
