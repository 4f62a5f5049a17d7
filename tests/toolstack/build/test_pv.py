# SPDX-License-Identifier: GPL-2.0-or-later
"""The PV builder: where things are, and page tables that map them."""

from __future__ import annotations

import io
import struct

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from tests.toolstack.build.support import LINUX_NOTES, elf, note
from xenograft.abi import xen as abi
from xenograft.toolstack.build.kernel import parse_kernel
from xenograft.toolstack.build.pv import PvPlan, build_pv
from xenograft.toolstack.build.pvh import Module
from xenograft.toolstack.errors import UserError

MIB = 1 << 20
BASE = 0xFFFFFFFF80000000
P2M_BASE = 0x8000000000
KERNEL = ((0x1000000, b"\x90" * 5000, 0x3000),)
SHARED_INFO = 0x77000


MAPPED = [each for each in LINUX_NOTES if each[1] != 16]
"""Linux's notes, without the one that lets the ramdisk be anywhere."""


def kernel(*notes: tuple[str, int, bytes]) -> bytes:
    return elf(KERNEL, [*MAPPED, *notes])


def machine(plan: PvPlan) -> tuple[list[int], dict[int, bytes]]:
    """mfns by pfn (backwards, so that mistakes show), and what is in each frame."""
    mfns = [0x10000 + plan.pages - pfn for pfn in range(plan.pages)]
    frames: dict[int, bytearray] = {}
    for gpa, data in plan.contents(mfns, shared_info=SHARED_INFO, store_evtchn=1, console_evtchn=2):
        view = bytes(data)
        for at in range(0, len(view), 4096):
            assert gpa % 4096 == 0
            frames[mfns[(gpa + at) >> 12]] = bytearray(view[at : at + 4096].ljust(4096, b"\0"))
    return mfns, {mfn: bytes(data) for mfn, data in frames.items()}


def walk(plan: PvPlan, mfns: list[int], frames: dict[int, bytes], va: int) -> tuple[int, int]:
    """(pfn, L1 entry) behind an address."""
    table, entry = mfns[plan.root], 0
    for shift in (39, 30, 21, 12) if plan.bits == 64 else (30, 21, 12):
        (entry,) = struct.unpack_from("<Q", frames[table], (va >> shift & 511) * 8)
        assert entry & 1, f"nothing at {va:#x}, shift {shift}"
        table = (entry & 0xFFFFFFFFFF000) >> 12
    return mfns.index(table), entry


def test_a_linux_kernel() -> None:
    plan = build_pv(kernel(), memory=64 * MIB, modules=[Module(b"i" * 5000)], cmdline="quiet")
    assert (plan.bits, plan.entry, plan.virt_base) == (64, 0xFFFFFFFF810000C0, BASE)
    mfns, frames = machine(plan)
    first = 0x1000
    assert walk(plan, mfns, frames, BASE + (first << 12))[0] == first
    assert frames[mfns[first]][:16] == b"\x90" * 16
    for pfn in (0, plan.start_info, plan.stack, plan.mappings[0].pages - 1):
        assert walk(plan, mfns, frames, BASE + (pfn << 12))[0] == pfn


def test_tables_are_mapped_read_only() -> None:
    plan = build_pv(kernel(), memory=64 * MIB)
    mfns, frames = machine(plan)
    tables = {table.pfn for table in plan.tables}
    for pfn in range(plan.mappings[0].pages):
        entry = walk(plan, mfns, frames, BASE + (pfn << 12))[1]
        assert bool(entry & 2) is (pfn not in tables)


def test_the_start_info() -> None:
    plan = build_pv(kernel(), memory=64 * MIB, modules=[Module(b"i" * 5000)], cmdline="a=b")
    mfns, frames = machine(plan)
    info = abi.start_info.unpack(frames[mfns[plan.start_info]])
    assert info.magic.rstrip(b"\0") == b"xen-3.0-x86_64"
    assert info.nr_pages == 64 * MIB >> 12
    assert info.shared_info == SHARED_INFO
    assert (info.store_mfn, info.store_evtchn) == (mfns[plan.xenstore], 1)
    assert (info.console.domU.mfn, info.console.domU.evtchn) == (mfns[plan.console], 2)
    assert info.pt_base == BASE + (plan.root << 12)
    assert info.nr_pt_frames == plan.boot_tables
    assert info.cmd_line.rstrip(b"\0") == b"a=b"
    address, size = info.mod_start, info.mod_len
    assert size == 5000
    assert not info.flags & abi.SIF_MOD_START_PFN
    pfn = walk(plan, mfns, frames, address)[0]
    assert frames[mfns[pfn]][:4] == b"iiii"


def test_the_list_of_frames() -> None:
    plan = build_pv(kernel(), memory=64 * MIB)
    mfns, frames = machine(plan)
    pfn = walk(plan, mfns, frames, plan.p2m.start)[0]
    assert struct.unpack_from("<4Q", frames[mfns[pfn]]) == tuple(mfns[:4])
    assert plan.p2m_frames == 0


def test_a_list_and_a_ramdisk_outside_of_the_mapping() -> None:
    plan = build_pv(
        kernel(note(15, P2M_BASE, 8), note(16, 1)),
        memory=64 * MIB,
        modules=[Module(b"i" * 5000)],
    )
    mfns, frames = machine(plan)
    info = abi.start_info.unpack(frames[mfns[plan.start_info]])
    assert info.mfn_list == P2M_BASE
    assert walk(plan, mfns, frames, P2M_BASE + 0x5000)[0] == plan.p2m.pfn + 5
    assert (info.first_p2m_pfn, info.nr_p2m_frames) == (plan.p2m.pfn, plan.p2m_frames)
    assert plan.p2m_frames == plan.p2m.pages + len(plan.tables) - plan.boot_tables
    assert info.flags & abi.SIF_MOD_START_PFN
    assert frames[mfns[info.mod_start]][:4] == b"iiii"
    # What the initial mapping shows beyond the boot stack is free.
    assert info.mod_start == plan.mappings[0].pages


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("asked", [True, False])
def test_a_kernels_own_symbols(bits: int, asked: bool) -> None:
    """They lie behind it, as an ELF file that other tools can read."""
    names = [("start", 0x100000, 16), ("a_function", 0x100010, 48)]
    notes = [note(6, "linux"), note(5, "xen-3.0"), note(9, "yes"), note(3, 0)]
    notes += [note(11, "yes")] if asked else []
    image = elf([(0x100000, b"\xf4" * 64, 101)], notes, bits=bits, symbols=names)
    plan = build_pv(image, memory=8 << 20)
    behind = [(at, data) for at, data in plan.loads if at > 0x100000]
    if not asked:
        assert not behind
        return
    ((at, data),) = behind
    assert at == 0x100068
    assert int.from_bytes(data[:4], "little") == len(data)
    file = ELFFile(io.BytesIO(bytes(data[4:])))
    assert file.num_sections() == 3
    symbols = file.get_section(1)
    assert isinstance(symbols, SymbolTableSection)
    found = [(s.name, s["st_value"], s["st_size"]) for s in symbols.iter_symbols()]
    assert [one for one in found if one[0]] == names
    assert plan.start_info << 12 >= at + len(data)


def test_the_hypercall_page() -> None:
    plan = build_pv(kernel(note(2, 0xFFFFFFFF81001000, 8)), memory=64 * MIB)
    mfns, frames = machine(plan)
    assert plan.hypercall_page == 0x1001
    assert frames[mfns[0x1001]][32:35] == b"\x51\x41\x53"


def test_a_32_bit_kernel() -> None:
    notes = [
        note(6, "linux"),
        note(5, "xen-3.0"),
        note(3, 0xC0000000),
        note(1, 0xC1000000),
        note(9, "yes"),
    ]
    plan = build_pv(elf(KERNEL, notes, bits=32), memory=64 * MIB)
    assert plan.bits == 32
    mfns, frames = machine(plan)
    assert walk(plan, mfns, frames, 0xC1000000)[0] == 0x1000
    # Entries of the root have no rights of their own, and the last one is there.
    root = struct.unpack_from("<4Q", frames[mfns[plan.root]])
    assert root[3] & 0xFFF == 1
    assert struct.unpack_from("<2I", frames[mfns[plan.p2m.pfn]]) == tuple(mfns[:2])


def test_the_legacy_section() -> None:
    text = b"GUEST_OS=mini,XEN_VER=xen-3.0,VIRT_BASE=0x0,ELF_PADDR_OFFSET=0x0,HYPERCALL_PAGE=0x1001"
    image = elf(KERNEL, (), sections=[(b"__xen_guest", 1, text + b",VIRT_ENTRY=0x1000040\0")])
    plan = build_pv(image, memory=64 * MIB)
    assert (plan.entry, plan.hypercall_page, plan.virt_base) == (0x1000040, 0x1001, 0)


@pytest.mark.parametrize(
    ("notes", "message"),
    [
        ((note(18, 0x1000000),), "no PV kernel"),
        ((), "no PV kernel"),
        ((*LINUX_NOTES, note(1, 0x1234, 8)), "lies outside the kernel"),
        ((*LINUX_NOTES, note(2, 0x1234, 8)), "lies outside the kernel"),
        ((*LINUX_NOTES, note(4, 1 << 40, 8)), "nothing can be"),
        ((*LINUX_NOTES, note(10, "!dom0")), "control domain"),
    ],
)
def test_kernels_that_are_none(notes: tuple[tuple[str, int, bytes], ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_pv(elf(KERNEL, notes), memory=64 * MIB, name="k")


def test_what_does_not_fit() -> None:
    with pytest.raises(UserError, match="give more than"):
        build_pv(kernel(), memory=8 * MIB)
    with pytest.raises(UserError, match="give more than"):
        build_pv(kernel(), memory=18 * MIB, modules=[Module(bytes(4 * MIB))])
    with pytest.raises(UserError, match="too long"):
        build_pv(kernel(), memory=64 * MIB, cmdline="x" * 1024)
    with pytest.raises(UserError, match="one ramdisk"):
        build_pv(kernel(), memory=64 * MIB, modules=[Module(b"a"), Module(b"b")])
    with pytest.raises(UserError, match="whole pages"):
        build_pv(kernel(), memory=5)
    with pytest.raises(UserError, match="NUL"):
        build_pv(kernel(), memory=64 * MIB, cmdline="\0")
    with pytest.raises(UserError, match="vCPUs"):
        build_pv(kernel(), memory=64 * MIB, vcpus=0)


def test_kinds_of_a_kernel() -> None:
    assert parse_kernel(kernel()).kinds == ("pv", "pvh")
