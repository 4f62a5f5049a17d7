# SPDX-License-Identifier: GPL-2.0-or-later
"""The seam between the hypervisor and a CPU engine.

An engine runs guest instructions; it knows nothing of Xen.  What crosses this seam is
integers and bytes alone (no callbacks, no shared Python objects), so that an engine may live
in another process.  The native engine (`xenograft.engine.unicorn`) and the scripted one for
tests (`xenograft.engine.fake`) both satisfy these protocols.

A run ends in an *exit*: a flat tuple ``(reason, flags, a0, a1, a2, a3, a4, a5)`` of integers.

========== =============================================== =================================
reason     a0..a5                                          how the hypervisor answers it
========== =============================================== =================================
BUDGET     -                                               run again
KICK       -                                               run again (`Cpu.kick` was called)
HYPERCALL  number, arg1..arg5                              `complete(result)` or `fault`
IO_IN      port, size                                      `complete(value)`
IO_OUT     port, size, value                               `complete()`
MMIO_READ  gpa, size                                       `complete(value)`
MMIO_WRITE gpa, size, value                                `complete()`
CPUID      leaf, subleaf                                   `complete(eax, ebx, ecx, edx)`
MSR_READ   index                                           `complete(value)` or `fault(13, 0)`
MSR_WRITE  index, value                                    `complete()` or `fault(13, 0)`
HALT       1 if interrupts are enabled else 0              run again once an event is there
PAUSE      -                                               run again (the vCPU spins)
SHUTDOWN   vector that could not be delivered              do not run again: triple fault
STAGE2     gpa, access (0 read, 1 write, 2 fetch), gva     change the p2m and run, or `fault`
DEBUG      rip                                             run again
ERROR      engine's error number, rip                      do not run again
EXCEPTION  vector, error code, cr2, rip, in its kernel     `complete(length)` or `fault`
========== =============================================== =================================

CR8 reads and writes come as MSR_READ and MSR_WRITE of index ``SYSREG_CR8``.  RDRAND's stream is
the pure function of the register ``entropy``, whose seed the hypervisor sets.

``flags``: bits 0-1 CPL, bits 2-3 mode (0 real, 1 16-bit protected, 2 32-bit, 3 64-bit).
An exit that needs an answer stays pending until `complete` or `fault`; no interrupt enters
meanwhile, and the guest's registers are those before the instruction.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

Exit = tuple[int, int, int, int, int, int, int, int]


class ExitReason(IntEnum):
    """Why `Cpu.run` came back."""

    BUDGET = 0
    KICK = 1
    HYPERCALL = 2
    IO_IN = 3
    IO_OUT = 4
    MMIO_READ = 5
    MMIO_WRITE = 6
    CPUID = 7
    MSR_READ = 8
    MSR_WRITE = 9
    HALT = 10
    PAUSE = 11
    SHUTDOWN = 12
    STAGE2 = 13
    DEBUG = 14
    ERROR = 15
    EXCEPTION = 16
    """Of PV guests alone: an instruction that the hypervisor may carry out."""


SYSREG_CR8 = 1 << 32 | 8

MSR_APIC_BASE = 0x1B
MSR_X2APIC_EOI = 0x80B

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT

# Permission bits of a second-stage (p2m) entry.
P2M_PRESENT = 1
P2M_WRITE = 2
P2M_EXEC = 4
P2M_COW = 8
P2M_RWX = P2M_PRESENT | P2M_WRITE | P2M_EXEC


class AccessError(Exception):
    """A guest address isn't backed by memory, or isn't writable (`address` is the first)."""

    def __init__(self, address: int) -> None:
        super().__init__(f"bad guest address {address:#x}")
        self.address = address


class MachineMemory(Protocol):
    """All frames of the machine: one sparse file, with a frame table.

    Frames are named by mfn (int).  A machine address is ``mfn << 12 | offset``.  Accesses may
    cross frames; out-of-range accesses raise IndexError.
    """

    frames: int
    """Number of frames (4 KiB each)."""

    def alloc(self, owner: int, count: int = 1, /) -> list[tuple[int, int]]:
        """Take `count` zeroed frames for `owner` (a domid); returns extents (mfn, length).

        Raises MemoryError when the machine has fewer free frames.
        """
        ...

    def free(self, mfn: int, count: int = 1, /) -> None:
        """Give frames back (their reference count must be 1)."""
        ...

    def free_frames(self) -> int: ...
    def owner(self, mfn: int, /) -> int: ...
    def set_owner(self, mfn: int, owner: int, /) -> None: ...
    def get_ref(self, mfn: int, /) -> int:
        """Add a reference; returns the new count. A fresh frame has count 1."""
        ...

    def put_ref(self, mfn: int, /) -> int:
        """Drop a reference; at 0 the frame is freed. Returns the new count."""
        ...

    def refs(self, mfn: int, /) -> int: ...
    def get_writable(self, mfn: int, /) -> bool:
        """Count a use of the frame that writes; False while it is something else (a page table)."""
        ...

    def put_writable(self, mfn: int, /) -> None:
        """End a use that `get_writable` has counted."""
        ...

    def set_external(self, owner: int, external: bool, /) -> None:
        """Say that mappings of the owner's frames by others don't count as uses that write."""
        ...

    def read(self, maddr: int, size: int, /) -> bytes: ...
    def write(self, maddr: int, data: bytes | bytearray | memoryview, /) -> None:
        """The one copy-out: marks frames dirty and drops their translated code."""
        ...

    def read_u32(self, maddr: int, /) -> int: ...
    def write_u32(self, maddr: int, value: int, /) -> None: ...
    def read_u64(self, maddr: int, /) -> int: ...
    def write_u64(self, maddr: int, value: int, /) -> None: ...
    def test_and_set_bit(self, maddr: int, bit: int, /) -> bool:
        """Atomically set bit `bit` (may exceed 63) of the bitmap at maddr; returns the old."""
        ...

    def test_and_clear_bit(self, maddr: int, bit: int, /) -> bool: ...
    def compare_exchange_u32(self, maddr: int, expected: int, value: int, /) -> int:
        """Atomic compare and exchange; returns the value found."""
        ...

    def locate(
        self,
        records: bytes,
        table: dict[int, int],
        granted: Granted | None = None,
        write: bool = False,
        /,
    ) -> tuple[bytes, int] | None:
        """Pieces of pages as one array for `gather`, `scatter` and `fill`, and their size.

        A record is 8 bytes: a key (32 bits), the first and the last 512-byte sector, two unused
        bytes.  `table` gives the machine address of each key's page; `granted`, if it's given,
        those of plain pages that aren't in it, which may be written if `write`; they are good
        until a guest runs.  None if a key isn't found, if first is behind last or last behind
        7, or for more than 512 records.
        """
        ...

    def exchange(
        self, granted: Granted, parts: bytes, data: bytes | bytearray | memoryview = ..., /
    ) -> bytes | None:
        """What is in parts of granted pages, or write `data` over them (and return nothing).

        A part has 8 bytes: the entry of the table (32 bits), offset and size (16 bits each).
        None if one isn't a plain page, or for more than 64 parts; then nothing was done.
        """
        ...

    def gather(self, pieces: bytes, /) -> bytes:
        """What is in pieces, one behind the other."""
        ...

    def scatter(self, pieces: bytes, data: bytes | bytearray | memoryview, /) -> None:
        """Write data over pieces, as `write` does. Raises ValueError if it's of another size."""
        ...

    def fill(self, pieces: bytes, fd: int, offset: int, /) -> int:
        """Read a file into pieces, as far as that needs no waiting (RWF_NOWAIT): bytes read.

        Pieces beyond that may have changed as well.  Raises OSError.
        """
        ...

    def dirty_frames(self, clear: bool = True, /) -> list[int]:
        """mfns written (by guests or copy-out) since the last clear; needs dirty logging on."""
        ...

    def set_dirty_logging(self, on: bool, /) -> None:
        """Switch the log on or off; either way it starts empty."""
        ...

    def data(self, mfn: int, count: int = 1, /) -> list[tuple[int, int]]:
        """Those of some frames that may hold something, as runs (mfn, count); others are zero."""
        ...

    def digest(self, mfns: list[tuple[int, int]], /) -> bytes:
        """SHA-256 over the contents of the extents, in the order given."""
        ...

    def close(self) -> None: ...


class Granted(NamedTuple):
    """Pages that a guest shows to another: a table in its memory, and what tells plain ones.

    An entry of the table has 8 bytes: flags and grantee (16 bits each), and a guest frame.
    """

    space: AddressSpace
    """The granter's."""
    frames: bytes
    """The table's frames in machine memory, 64 bits each."""
    in_use: dict[int, Any]
    """Entries that somebody has mapped: not to be looked at."""
    special: dict[int, Any]
    """Guest frames that aren't plain memory."""
    owner: int
    """To whom the frames must belong."""
    peer: int
    """The grantee."""


class AddressSpace(Protocol):
    """A guest-physical space: the p2m, 512-entry leaves of (mfn, permissions)."""

    def map(self, gfn: int, mfn: int, count: int = 1, flags: int = P2M_RWX) -> None: ...
    def unmap(self, gfn: int, count: int = 1) -> None: ...
    def lookup(self, gfn: int, /) -> tuple[int, int] | None:
        """(mfn, permission bits), or None for a hole."""
        ...

    def entries(self) -> list[tuple[int, int, int, int]]:
        """All mapped runs as (gfn, mfn, count, flags), ascending, maximal."""
        ...

    def share(
        self, child: AddressSpace, owner: int, other: int, shared: int, /
    ) -> tuple[list[tuple[int, int, int, int]], list[tuple[int, int, int, int]]]:
        """Let an empty space see the same frames, copied when either of the two is written.

        Frames that only this space refers to (owner's, with one reference) go to the owner
        `shared`, with a reference for each space; a copy made later belongs to `owner` here and
        to `other` there.  Returns runs as `entries` does: those whose frames are shared from
        now on (others were shared before), and those that are not.
        """
        ...

    def unshare(self, gfn: int, /) -> bool:
        """Have a frame of its own behind a gfn; False if there's no frame left for it."""
        ...

    def private(self, gfn: int, count: int, /) -> list[tuple[int, int, int, int]]:
        """Entries of a range that aren't shared, as runs (gfn, mfn, count, 0)."""
        ...

    def drop_shared(self, gfn: int, count: int, /) -> None:
        """Unmap the shared entries of a range, and drop their references."""
        ...

    def read(self, gpa: int, size: int, /) -> bytes:
        """Raises AccessError for a hole."""
        ...

    def write(self, gpa: int, data: bytes | bytearray | memoryview, /) -> None:
        """Raises AccessError for a hole or a read-only page; nothing is written then."""
        ...

    def trim(self, least: int = 8 << 20, /) -> int:
        """Give back what the engine keeps for speed alone, if it's at least so many bytes.

        Returns how many there were. Nothing that a guest can see changes.
        """
        ...

    def close(self) -> None: ...


class Cpu(Protocol):
    """One virtual CPU of the engine."""

    def run(self, budget: int, deadline: int = 0, /) -> Exit:
        """Run until an exit, `budget` instructions, or CLOCK_MONOTONIC ns `deadline` (0: none).

        Releases Python's lock while running.
        """
        ...

    def complete(self, a: int = 0, b: int = 0, c: int = 0, d: int = 0, /) -> None:
        """Answer the pending exit; the instruction finishes at the next run."""
        ...

    def retry(self) -> None:
        """Leave the pending exit unanswered: its instruction runs again (continuations)."""
        ...

    def fault(self, vector: int, error_code: int = -1, cr2: int = -1) -> None:
        """Deliver an exception instead of the pending instruction (-1: none)."""
        ...

    def kick(self) -> None:
        """Make a `run` under way, or the next one, return soon. May be called from any thread."""
        ...

    def instructions(self) -> int:
        """Instructions run since creation (or as restored): the base of virtual time."""
        ...

    # -- registers, by architectural name ------------------------------------------------
    def get(self, name: str, /) -> int: ...
    def set(self, name: str, value: int, /) -> None: ...
    def save(self) -> dict[str, int | bytes]:
        """All of the CPU's state as plain values, portable between processes."""
        ...

    def restore(self, state: Mapping[str, int | bytes], /) -> None: ...

    # -- interrupts ----------------------------------------------------------------------
    def set_interrupt(self, vector: int, ends: bool = False, /) -> None:
        """Request a maskable interrupt, entered when the guest allows it (-1: withdraw).

        `ends`: once it has entered, the guest's next write of 0 to the x2APIC's EOI register
        (MSR 0x80b) is no exit, but told by `ended_interrupt`; unless this is called before, or
        MSR_APIC_BASE is written.
        """
        ...

    def taken_interrupt(self) -> int:
        """The vector that entered since the last call, or -1."""
        ...

    def ended_interrupt(self) -> bool:
        """Whether the guest has ended an interrupt without an exit since the last call."""
        ...

    def set_line(self, maddr: int, vector: int, /) -> None:
        """A level line: while the byte at maddr is non-zero, `vector` is requested.

        vector -1 removes it. The line has priority over `set_interrupt`.  Whoever makes the
        byte non-zero calls `poke_line` afterwards.
        """
        ...

    def poke_line(self) -> None: ...
    def set_nmi(self) -> None: ...
    def injections(self) -> list[tuple[int, int, int]]:
        """Interrupts that entered since the last call (the latest 64), oldest first.

        Each is (`instructions` then, vector, kind): kind 0 from `set_interrupt`, 1 from the
        line, 2 an NMI.
        """
        ...

    def interruptible(self) -> bool:
        """Whether a maskable interrupt would enter now (IF, no shadow)."""
        ...

    # -- memory as the guest's current page tables show it ---------------------------------
    def translate(self, gva: int, /) -> int:
        """Guest-physical address of gva (supervisor read). Raises AccessError."""
        ...

    def read(self, gva: int, size: int, /) -> bytes: ...
    def write(self, gva: int, data: bytes | bytearray | memoryview, /) -> None: ...
    def flush_tlb(self) -> None: ...

    # -- what is answered without an exit ----------------------------------------------------
    def set_cpuid(self, table: list[tuple[int, int, int, int, int, int]], /) -> None:
        """(leaf, subleaf or -1 for any, eax, ebx, ecx, edx): answered natively. Others exit."""
        ...

    def pass_msrs(self, indices: list[int], /) -> None:
        """MSRs that the engine itself keeps; all others exit."""
        ...

    def limit_controls(self, cr4: int, efer: int, xcr0: int, /) -> None:
        """Bits that the guest may set in these registers; others raise #GP (default: all)."""
        ...

    def trap_ports(self, first: int, last: int, trap: bool, /) -> None:
        """Ports that exit (default: all). Others read as ones, and writes are dropped."""
        ...

    def fast_hypercalls(self, table: list[tuple[int, int, int]], /) -> None:
        """(number, first argument, result): answered natively (64-bit mode, CPL 0)."""
        ...

    def set_tsc(self, virtual: bool, khz: int, offset: int) -> None:
        """RDTSC = time in ns * khz / 1e6 + offset; time is CLOCK_MONOTONIC or `instructions`."""
        ...

    def tsc(self) -> int:
        """What RDTSC would give now."""
        ...

    def pause_exits(self, every: int, /) -> None:
        """Exit at each `every`-th PAUSE (0: never, the default)."""
        ...

    def skip(self, count: int, /) -> None:
        """Advance `instructions` by count without running (idleness on the virtual clock)."""
        ...

    def close(self) -> None: ...


class Engine(Protocol):
    """Makes memories, spaces and CPUs of one kind."""

    name: str

    def memory(self, frames: int) -> MachineMemory: ...
    def space(self, memory: MachineMemory) -> AddressSpace: ...
    def cpu(self, space: AddressSpace, index: int) -> Cpu:
        """A CPU in its reset state (real mode, RIP 0xfff0)."""
        ...
