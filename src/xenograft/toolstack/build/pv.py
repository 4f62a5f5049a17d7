# SPDX-License-Identifier: GPL-2.0-or-later
"""The PV builder: a kernel's bytes in, a plan of the guest's memory out; nothing is started.

A PV guest begins with paging on, so its builder makes its page tables.  They hold machine frame
numbers, which are known when its memory is allocated: the plan then says what is to be written
(`PvPlan.contents`), given the machine frame of each of the guest's pages.

The places of things are those of Xen 4.17's libxenguest (xc_dom_build_image(), xg_dom_x86.c):
kernel, ramdisk (if it is mapped), p2m list, start info, xenstore and console pages, page tables,
boot stack; then what lies outside of the initial mapping: ramdisk, p2m list.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import msgspec

from xenograft.abi import xen as abi
from xenograft.arch.x86.pv import hypercall_page
from xenograft.toolstack.build.bsd_symtab import bsd_symbols
from xenograft.toolstack.build.decompress import decompress
from xenograft.toolstack.build.elf import EM_386, Buffer
from xenograft.toolstack.build.kernel import Kernel, Unpacker, parse_kernel
from xenograft.toolstack.build.memory_map import PAGE_SHIFT, PAGE_SIZE, page_up
from xenograft.toolstack.build.notes import PvNotes, require_pv
from xenograft.toolstack.build.pvh import Module, kernel_loads, mib_up, module_data
from xenograft.toolstack.errors import UserError

PADDING = 512 << 10
"""Bytes that stay free and mapped behind the boot stack, at least."""
MAPPING_ALIGN = 4 << 20
MAGIC = "xen-3.0-x86_"

_P, _RW, _US, _A, _D = 1, 2, 4, 32, 64
_L1_FLAGS = _P | _RW | _A
_TABLE_FLAGS = _P | _RW | _US | _A | _D
_LEVELS = {64: range(4), 32: range(3)}


class Mapping(msgspec.Struct, frozen=True):
    """Pages that are mapped one after the other: from address `start`, `pages` from pfn `pfn`."""

    start: int
    pfn: int
    pages: int

    @property
    def end(self) -> int:
        return self.start + (self.pages << PAGE_SHIFT)


class Table(msgspec.Struct, frozen=True):
    """One page table: its pfn, level, and the first address that it translates."""

    pfn: int
    level: int
    start: int


class PvPlan(msgspec.Struct, frozen=True):
    """A PV guest as it shall be at its first instruction; pages by pfn, addresses virtual."""

    bits: int
    memory: int
    """Bytes."""
    maxmem: int
    """Bytes that it may have one day: what its memory map shows."""
    vcpus: int
    online: int
    entry: int
    loads: tuple[tuple[int, Buffer], ...]
    """(guest-physical address, bytes): kernel, ramdisk."""
    mappings: tuple[Mapping, ...]
    tables: tuple[Table, ...]
    """The root is the first."""
    boot_tables: int
    """How many of them the guest is told of (start_info.nr_pt_frames)."""
    p2m: Mapping
    p2m_frames: int
    """Pages of the p2m list and its own page tables, if it lies outside of the initial mapping."""
    start_info: int
    xenstore: int
    console: int
    stack: int
    """pfns."""
    hypercall_page: int | None
    """pfn, if the kernel asks for one."""
    virt_base: int
    ramdisk: tuple[int, int]
    """Address (or pfn, if it isn't mapped) and size; (0, 0) without one."""
    ramdisk_mapped: bool
    kernel: Kernel
    cmdline: str

    kind: str = "pv"

    @property
    def pages(self) -> int:
        return self.memory >> PAGE_SHIFT

    @property
    def root(self) -> int:
        """pfn of the root table."""
        return self.tables[0].pfn

    def address(self, pfn: int) -> int:
        """Virtual address of a page in the initial mapping."""
        return self.virt_base + (pfn << PAGE_SHIFT)

    def contents(
        self,
        mfns: Sequence[int],
        *,
        shared_info: int,
        store_evtchn: int = 0,
        console_evtchn: int = 0,
        flags: int = 0,
    ) -> Iterator[tuple[int, Buffer]]:
        """(guest-physical address, bytes) of all that isn't zero; `mfns` by pfn.

        `shared_info` is the machine address of the shared info page.
        """
        yield from self.loads
        if self.hypercall_page is not None:
            yield self.hypercall_page << PAGE_SHIFT, hypercall_page(self.bits)
        code = "Q" if self.bits == 64 else "I"
        yield self.p2m.pfn << PAGE_SHIFT, struct.pack(f"<{len(mfns)}{code}", *mfns)
        for table in self.tables:
            yield table.pfn << PAGE_SHIFT, self._table(table, mfns)
        info = self._start_info(mfns, shared_info, store_evtchn, console_evtchn, flags)
        yield self.start_info << PAGE_SHIFT, info.pack(self.bits)

    def _table(self, table: Table, mfns: Sequence[int]) -> bytes:
        entries = [0] * 512
        span = 1 << PAGE_SHIFT + 9 * (table.level - 1)
        if table.level > 1:
            for below in self.tables:
                top = table.level == len(_LEVELS[self.bits])
                index = below.start // span & 511 if top else (below.start - table.start) // span
                if below.level == table.level - 1 and 0 <= index < 512:
                    flags = _P if self.bits == 32 and table.level == 3 else _TABLE_FLAGS
                    entries[index] = mfns[below.pfn] << PAGE_SHIFT | flags
            return struct.pack("<512Q", *entries)
        read_only = {each.pfn for each in self.tables}
        for mapping in self.mappings:
            for i in range(512):
                address = table.start + i * span
                if mapping.start <= address < mapping.end:
                    pfn = mapping.pfn + (address - mapping.start >> PAGE_SHIFT)
                    flags = _L1_FLAGS & ~_RW if pfn in read_only else _L1_FLAGS
                    entries[i] = mfns[pfn] << PAGE_SHIFT | flags
        return struct.pack("<512Q", *entries)

    def _start_info(
        self,
        mfns: Sequence[int],
        shared_info: int,
        store_evtchn: int,
        console_evtchn: int,
        flags: int,
    ) -> abi.start_info:
        info = abi.start_info()
        info.magic = f"{MAGIC}{'64' if self.bits == 64 else '32p'}".encode()
        info.nr_pages = self.pages
        info.shared_info = shared_info
        info.flags = flags | abi.SIF_VIRT_P2M_4TOOLS
        info.store_mfn = mfns[self.xenstore]
        info.store_evtchn = store_evtchn
        info.console.domU.mfn = mfns[self.console]
        info.console.domU.evtchn = console_evtchn
        info.pt_base = self.address(self.root)
        info.nr_pt_frames = self.boot_tables
        info.mfn_list = self.p2m.start
        info.mod_start, info.mod_len = self.ramdisk
        if self.ramdisk[1] and not self.ramdisk_mapped:
            info.flags |= abi.SIF_MOD_START_PFN
        info.cmd_line = self.cmdline.encode("utf-8", "surrogateescape")
        if self.p2m_frames:
            info.first_p2m_pfn, info.nr_p2m_frames = self.p2m.pfn, self.p2m_frames
        return info


def build_pv(
    kernel: Buffer | Kernel,
    *,
    memory: int,
    maxmem: int | None = None,
    modules: Sequence[Module] = (),
    cmdline: str = "",
    vcpus: int = 1,
    online: int | None = None,
    name: str = "kernel",
    unpack: Unpacker = decompress,
) -> PvPlan:
    """Plan a PV guest of `memory` bytes of RAM and `vcpus` vCPUs (`online` of them to be used).

    The arguments are those of `pvh.build_pvh`; `maxmem` is what it may have one day.  Raises
    UserError, one line, for whatever in the input can't become a guest.
    """
    online = vcpus if online is None else online
    if not 1 <= online <= vcpus:
        raise UserError(f"{online} of {vcpus} vCPUs online: a guest has one at least")
    if memory <= 0 or memory % PAGE_SIZE:
        raise UserError(f"memory of {memory} bytes: it has to be whole pages of {PAGE_SIZE} bytes")
    if len(modules) > 1:
        raise UserError("a PV guest takes one ramdisk, and no further modules")
    if "\0" in cmdline:
        raise UserError(f"{name}: a command line can't hold a NUL character")
    if len(cmdline.encode("utf-8", "surrogateescape")) >= abi.MAX_GUEST_CMDLINE:
        raise UserError(
            f"{name}: the command line is too long for a PV guest"
            f" ({abi.MAX_GUEST_CMDLINE - 1} bytes at most)"
        )
    if not isinstance(kernel, Kernel):
        kernel = parse_kernel(kernel, name, unpack)
    notes = require_pv(kernel.elf, kernel.notes, kernel.name)
    limit = max(memory, maxmem or 0)
    return _Planner(kernel, notes, memory, limit, vcpus, online, modules, cmdline).plan()


class _Planner:
    """Hands out pages one after the other, and remembers where what is."""

    def __init__(
        self,
        kernel: Kernel,
        notes: PvNotes,
        memory: int,
        maxmem: int,
        vcpus: int,
        online: int,
        modules: Sequence[Module],
        cmdline: str,
    ) -> None:
        self.kernel, self.notes = kernel, notes
        self.memory, self.maxmem, self.vcpus, self.online = memory, maxmem, vcpus, online
        self.module = modules[0] if modules else None
        self.cmdline = cmdline
        self.bits = 32 if kernel.elf.machine == EM_386 else 64
        self.next = page_up(kernel.elf.end - notes.paddr_offset) >> PAGE_SHIFT
        self.loads: list[tuple[int, Buffer]] = [
            (load.gpa - notes.paddr_offset, load.data) for load in kernel_loads(kernel)
        ]
        self._symbols()
        self._check("its kernel", self.next)

    def _symbols(self) -> None:
        """Its own symbols right behind the kernel, if it asks for them."""
        if not self.kernel.notes.text("BSD_SYMTAB").startswith("yes"):
            return
        data = bsd_symbols(self.kernel.image, self.kernel.elf)
        word = self.bits // 8
        at = -(-(self.kernel.elf.end - self.notes.paddr_offset) // word) * word
        if data:
            self.loads.append((at, data))
            self.next = page_up(at + len(data)) >> PAGE_SHIFT

    def _check(self, what: str, end: int) -> None:
        if end << PAGE_SHIFT > self.memory:
            need = mib_up(end << PAGE_SHIFT)
            raise UserError(
                f"{self.kernel.name}: {self.memory >> 20} MiB of memory is too little: {what} ends"
                f" at {need} MiB; give more than {need} MiB (--memory)"
            )

    def take(self, what: str, size: int) -> int:
        """The first pfn of pages that hold `size` bytes."""
        pfn = self.next
        self.next += page_up(size) >> PAGE_SHIFT
        self._check(what, self.next)
        return pfn

    def plan(self) -> PvPlan:
        notes, base = self.notes, self.notes.virt_base
        ramdisk, mapped = (0, 0), not notes.module_unmapped
        if self.module is not None and mapped:
            ramdisk = self._ramdisk()
            ramdisk = (base + (ramdisk[0] << PAGE_SHIFT), ramdisk[1])
        list_size = (self.memory >> PAGE_SHIFT) * self.bits // 8
        p2m_pfn = -1
        if notes.p2m_base is None:
            p2m_pfn = self.take("the list of its frames", list_size)
        start_info = self.take("the start info", PAGE_SIZE)
        xenstore = self.take("the xenstore page", PAGE_SIZE)
        console = self.take("the console page", PAGE_SIZE)
        tables, mapping = self._boot_tables(base)
        stack = self.take("the boot stack", PAGE_SIZE)
        boot_tables = len(tables)
        mappings = [mapping]
        self.next = mapping.pages  # the rest of the mapping is the guest's
        if self.module is not None and not mapped:
            ramdisk = self._ramdisk()
        p2m_frames = 0
        if notes.p2m_base is not None:
            p2m_pfn = self.take("the list of its frames", list_size)
            mappings.append(Mapping(notes.p2m_base, p2m_pfn, page_up(list_size) >> PAGE_SHIFT))
            known = {(table.level, table.start) for table in tables}
            wanted = [t for t in _tables_for(mappings[1], self._levels) if t not in known]
            first = self.take("the list of its frames", len(wanted) << PAGE_SHIFT)
            tables += [Table(first + i, *each) for i, each in enumerate(wanted)]
            p2m_frames = mappings[1].pages + len(wanted)
        p2m_start = base + (p2m_pfn << PAGE_SHIFT) if notes.p2m_base is None else notes.p2m_base
        page = notes.hypercall_page
        return PvPlan(
            bits=self.bits,
            memory=self.memory,
            maxmem=self.maxmem,
            vcpus=self.vcpus,
            online=self.online,
            entry=notes.entry,
            loads=tuple(self.loads),
            mappings=tuple(mappings),
            tables=tuple(tables),
            boot_tables=boot_tables,
            p2m=Mapping(p2m_start, p2m_pfn, page_up(list_size) >> PAGE_SHIFT),
            p2m_frames=p2m_frames,
            start_info=start_info,
            xenstore=xenstore,
            console=console,
            stack=stack,
            hypercall_page=None if page is None else page - base >> PAGE_SHIFT,
            virt_base=base,
            ramdisk=ramdisk,
            ramdisk_mapped=mapped,
            kernel=self.kernel,
            cmdline=self.cmdline,
        )

    @property
    def _levels(self) -> int:
        return len(_LEVELS[self.bits])

    def _ramdisk(self) -> tuple[int, int]:
        """(pfn, size) of the ramdisk."""
        assert self.module is not None
        data = module_data(self.module.data, max(0, self.memory - (self.next << PAGE_SHIFT)))
        pfn = self.take(self.module.name, len(data))
        self.loads.append((pfn << PAGE_SHIFT, data))
        return pfn, len(data)

    def _boot_tables(self, base: int) -> tuple[list[Table], Mapping]:
        """The tables of the initial mapping, which they are part of, and that mapping."""
        extra = (PADDING >> PAGE_SHIFT) + 1
        pages = extra
        while True:
            end = self.next + pages + (base >> PAGE_SHIFT)
            align = MAPPING_ALIGN >> PAGE_SHIFT
            end = (end + align - 1) // align * align - (base >> PAGE_SHIFT)
            mapping = Mapping(base, 0, end)
            wanted = _tables_for(mapping, self._levels)
            if self.next + len(wanted) + extra <= end:
                break
            pages = len(wanted) + extra
        self._check("the initial mapping", end)
        first = self.take("its page tables", len(wanted) << PAGE_SHIFT)
        return [Table(first + i, *each) for i, each in enumerate(wanted)], mapping


def _tables_for(mapping: Mapping, levels: int) -> list[tuple[int, int]]:
    """(level, first address) of the tables that a mapping needs, the root first."""
    wanted: list[tuple[int, int]] = [(levels, 0)]
    for level in range(levels - 1, 0, -1):
        span = 1 << PAGE_SHIFT + 9 * level
        first, last = mapping.start // span, (mapping.end - 1) // span
        starts = list(range(first, last + 1))
        if levels == 3 and level == 2 and 3 not in starts:
            starts.append(3)  # Xen's own mappings of a 32-bit guest are in there
        wanted += [(level, start * span) for start in starts]
    return wanted
