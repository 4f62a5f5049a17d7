# SPDX-License-Identifier: GPL-2.0-or-later
"""The PVH builder: where everything lies, and what it refuses to build."""

from __future__ import annotations

import gzip
import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.toolstack.build.support import (
    COMPRESSORS,
    LINUX_NOTES,
    Note,
    bzimage,
    elf,
    linux,
    linux_payload,
    note,
)
from xenograft.toolstack.build.guest import BuiltGuest
from xenograft.toolstack.build.kernel import parse_kernel
from xenograft.toolstack.build.memory_map import E820Type, identity_page_table
from xenograft.toolstack.build.pvh import MAX_CMDLINE, Module, build_pvh
from xenograft.toolstack.errors import UserError

MIB = 1 << 20
KERNEL = linux()


class Memory:
    """Guest-physical memory after loading."""

    def __init__(self, guest: BuiltGuest) -> None:
        self._loads = [(load.gpa, bytes(load.data)) for load in guest.loads]

    def read(self, gpa: int, size: int) -> bytes:
        out = bytearray(size)
        for base, data in self._loads:
            low, high = max(base, gpa), min(base + len(data), gpa + size)
            if low < high:
                out[low - gpa : high - gpa] = data[low - base : high - base]
        return bytes(out)

    def text(self, gpa: int) -> str:
        return self.read(gpa, MAX_CMDLINE).split(b"\0")[0].decode() if gpa else ""


class StartInfo:
    """`hvm_start_info` of a built guest, followed to its ends."""

    def __init__(self, guest: BuiltGuest) -> None:
        memory = Memory(guest)
        fields = struct.unpack("<IIIIQQQQII", memory.read(guest.start_info, 56))
        self.magic, self.version, self.flags, count, modlist, cmdline, self.rsdp = fields[:7]
        memmap, entries = fields[7:9]
        self.cmdline = memory.text(cmdline)
        modules = [struct.unpack("<QQQQ", memory.read(modlist + 32 * i, 32)) for i in range(count)]
        self.modules = [
            (paddr, memory.read(paddr, size), memory.text(text)) for paddr, size, text, _ in modules
        ]
        self.e820 = [
            struct.unpack("<QQI", memory.read(memmap + 24 * i, 20)) for i in range(entries)
        ]


def check(guest: BuiltGuest) -> StartInfo:
    """What holds for every built guest."""
    loads = sorted((load.gpa, load.gpa + len(load.data)) for load in guest.loads)
    assert all(low[1] <= high[0] for low, high in pairwise(loads))
    ranges = [(gfn << 12, gfn + count << 12) for gfn, count in (*guest.ram, *guest.extra)]
    for start, end in loads:
        assert any(low <= start and end <= high for low, high in ranges)
    assert all(low[1] <= high[0] for low, high in pairwise(sorted(ranges)))
    assert sum(high - low for low, high in ranges) >> 12 == guest.pages
    info = StartInfo(guest)
    assert (info.magic, info.version, info.flags) == (0x336EC578, 1, 0)
    assert info.rsdp == guest.acpi.rsdp_address
    assert Memory(guest).read(info.rsdp, 8) == b"RSD PTR "
    assert info.e820 == [(e.addr, e.size, e.type) for e in guest.e820]
    assert sum(size for _, size, kind in info.e820 if kind == E820Type.RAM) == guest.memory
    assert guest.kernel.elf.start <= guest.entry < guest.kernel.elf.end
    assert guest.required_memory <= guest.ram[0][1] << 12
    return info


def test_linux_is_placed_as_by_xen() -> None:
    # On Xen 4.17 the reference guest had its start info on the page after the kernel, and then
    # the ramdisk: kernel up to 0x3e00000, ramdisk from 0x3e01000.
    notes = [*LINUX_NOTES[:-1], note(18, 0x1000850, 8)]
    kernel = elf([(0x1000000, b"x" * 4096, 0x2E00000)], notes)
    ramdisk = b"ramdisk!" * 0x42600
    guest = build_pvh(kernel, memory=128 * MIB, modules=[Module(ramdisk)], cmdline="console=hvc0")
    info = check(guest)
    assert guest.start_info == 0x3E00000
    assert info.modules == [(0x3E01000, ramdisk, "")]
    assert guest.entry == 0x1000850
    assert info.cmdline == "console=hvc0"
    assert guest.ram == ((0, 0x8000),)
    assert guest.extra == ((0xFC000, 3), (0xFEFF8, 8))


def test_modules_come_before_the_start_info_where_the_kernel_maps_them() -> None:
    kernel = elf([(0x100000, b"x" * 100, 0x1800)], [note(18, 0x100000)])
    modules = [Module(b"one" * 2000, "first line"), Module(b"", "empty"), Module(b"three")]
    guest = build_pvh(kernel, memory=4 * MIB, modules=modules)
    info = check(guest)
    assert info.modules == [
        (0x102000, b"one" * 2000, "first line"),
        (0x104000, b"", "empty"),
        (0x104000, b"three", ""),
    ]
    assert guest.start_info == 0x105000
    assert guest.required_memory == 0x106000
    assert info.cmdline == ""


@pytest.mark.parametrize("form", sorted(COMPRESSORS))
def test_every_compression(form: str) -> None:
    guest = build_pvh(bzimage(linux_payload(KERNEL, form)), memory=32 * MIB)
    check(guest)
    plain = build_pvh(KERNEL, memory=32 * MIB)
    assert [(load.gpa, bytes(load.data)) for load in guest.loads] == [
        (load.gpa, bytes(load.data)) for load in plain.loads
    ]


def test_32_bit_kernel() -> None:
    kernel = elf([(0x100000, b"\xf4" * 64, 64)], [note(18, 0x100010)], bits=32)
    guest = build_pvh(kernel, memory=2 * MIB)
    check(guest)
    assert guest.entry == 0x100010


@given(st.integers(32, 8192), st.integers(1, 128), st.data())
def test_sizes_and_vcpus(mib: int, vcpus: int, data: st.DataObject) -> None:
    online = data.draw(st.integers(1, vcpus))
    guest = build_pvh(KERNEL, memory=mib * MIB, vcpus=vcpus, online=online)
    check(guest)
    assert guest.memory == mib * MIB
    assert (guest.vcpus, guest.online) == (vcpus, online)
    madt = bytes(guest.acpi.tables).index(b"APIC")
    entries = guest.acpi.tables[madt + 44 : madt + 44 + 8 * vcpus]
    assert sum(flags for *_, flags in struct.iter_unpack("<BBBBI", entries)) == online


def test_parsed_kernel_is_taken_too() -> None:
    kernel = parse_kernel(KERNEL, "mine")
    guest = build_pvh(kernel, memory=32 * MIB)
    assert guest.kernel is kernel
    assert guest == build_pvh(KERNEL, memory=32 * MIB, name="mine")


def test_identity_page_table_is_in_its_special_page() -> None:
    guest = build_pvh(KERNEL, memory=32 * MIB)
    assert Memory(guest).read(guest.special.ident_pt << 12, 4096) == identity_page_table()


@pytest.mark.parametrize(
    ("notes", "low"),
    [
        (LINUX_NOTES, False),
        ([n for n in LINUX_NOTES if n[1] != 17], True),
        ([note(6, "FreeBSD"), note(18, 0x1000040)], False),
    ],
)
def test_place_of_the_rsdp(notes: list[Note], low: bool) -> None:
    guest = build_pvh(linux(notes=notes), memory=32 * MIB)
    check(guest)
    assert guest.acpi.rsdp_address == (0xFFFC0 if low else 0xFC002000)
    assert guest.extra[0] == (0xFC000, 2 if low else 3)


def test_low_rsdp_gives_way_to_the_kernel() -> None:
    notes = [note(6, "linux"), note(18, 0xF0000)]
    guest = build_pvh(elf([(0xF0000, b"x" * 0x20000, 0x20000)], notes), memory=4 * MIB)
    check(guest)
    assert guest.acpi.rsdp_address > 0xFC000000


SEGMENT = st.tuples(
    st.integers(0, 0x1200).map(lambda page: page << 8),
    st.binary(min_size=1, max_size=64),
    st.integers(64, 0x20000),
)
NOTES = st.lists(
    st.sampled_from([note(6, "linux"), note(16, 1), note(17, 0x8000), note(10, "dom0")])
)


@given(
    st.lists(SEGMENT, min_size=1, max_size=3),
    NOTES,
    st.lists(st.integers(0, 0x100000), max_size=3),
    st.integers(1, 0x300),
)
def test_any_kernel_is_placed_or_refused(
    segments: list[tuple[int, bytes, int]], notes: list[Note], sizes: list[int], pages: int
) -> None:
    image = elf(segments, [*notes, note(18, segments[0][0])])
    modules = [Module(b"m" * size) for size in sizes]
    try:
        guest = build_pvh(image, memory=pages << 12, modules=modules, cmdline="x")
    except UserError:
        return
    check(guest)


def test_gzip_modules_are_unpacked_as_by_xen() -> None:
    plain = b"070701" + bytes(5000)
    packed = gzip.compress(plain)
    twice = packed + packed

    def module_of(data: bytes, mib: int = 32) -> bytes:
        guest = build_pvh(KERNEL, memory=mib * MIB, modules=[Module(data)])
        return check(guest).modules[0][1]

    assert module_of(packed) == plain
    assert module_of(twice) == twice
    assert module_of(packed[:-3] + b"\0\0\0") != plain  # damaged: the guest shall see it
    assert module_of(COMPRESSORS["xz"](plain)) == COMPRESSORS["xz"](plain)
    large = gzip.compress(bytes(20 * MIB))
    assert module_of(large) == large  # it fits packed alone
    assert len(module_of(large, 64)) == 20 * MIB


def test_pieces() -> None:
    kernel = elf([(0x100000, bytes(MIB) + b"end", 2 * MIB)], [note(18, 0x100000)])
    guest = build_pvh(kernel, memory=8 * MIB)
    memory: dict[int, bytes] = dict(guest.pieces())
    assert all(0 < len(data) <= 1 << 18 for data in memory.values())
    assert not any(0x100000 <= gpa < 0x200000 for gpa in memory)
    assert memory[0x200000] == b"end"
    written = bytearray(8 * MIB)
    for gpa, data in memory.items():
        if gpa < len(written):
            written[gpa : gpa + len(data)] = data
    assert bytes(written) == Memory(guest).read(0, 8 * MIB)


def test_report() -> None:
    guest = build_pvh(
        bzimage(linux_payload(KERNEL, "xz")),
        memory=64 * MIB,
        modules=[Module(b"x" * 100, name="ramdisk initrd")],
        cmdline="quiet",
        vcpus=4,
        online=2,
        name="vmlinuz",
    )
    report = guest.report()
    for part in (
        "pvh, 64 MiB, 2 of 4 vCPUs",
        "vmlinuz: ELF64 (bzImage, xz); supports pv, pvh",
        "6.1.0-test",
        "cmdline   quiet",
        "entry     0x1000040, start info at 0x1205000",
        "0x0001206000-0x0001206063  ramdisk initrd",
        "0x00feff8000-0x00feffffff  RESERVED",
        "RSDP 0xfc",
        "GUEST_OS linux",
        "PHYS32_ENTRY 0x1000040",
    ):
        assert part in report


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"memory": 16 * MIB}, r"k: 16 MiB of memory is too little: kernel end at 19 MiB"),
        (
            {"memory": 32 * MIB, "modules": [Module(b"x" * (20 * MIB), name="initrd")]},
            "kernel and initrd end at 39 MiB; give more than 39 MiB",
        ),
        (
            {"memory": 32 * MIB, "modules": [Module(b"x" * (40 * MIB), name="initrd")]},
            "initrd: 40 MiB don't fit in a guest with 32 MiB of memory; give it more than 59 MiB",
        ),
        ({"memory": 0}, "whole pages"),
        ({"memory": 32 * MIB + 1}, "whole pages"),
        ({"memory": 32 * MIB, "vcpus": 0}, "a guest has 1 to 128"),
        ({"memory": 32 * MIB, "vcpus": 129}, "a guest has 1 to 128"),
        ({"memory": 32 * MIB, "vcpus": 2, "online": 3}, "3 of 2 vCPUs online"),
        ({"memory": 32 * MIB, "cmdline": "a\0b"}, "k: a command line can't hold a NUL"),
        ({"memory": 32 * MIB, "cmdline": "x" * 70000}, "a command line of 70000 bytes"),
        ({"memory": 32 * MIB, "modules": [Module(b"")] * 65}, "65 modules; 64 at most"),
    ],
)
def test_refuses(options: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        build_pvh(KERNEL, name="k", **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_kernel_in_the_hole_is_refused() -> None:
    kernel = elf([(0xFB000000, b"x", 0x2000000)], [note(18, 0xFB000000)])
    with pytest.raises(UserError, match="have to lie below the hole"):
        build_pvh(kernel, memory=8192 * MIB)
    with pytest.raises(UserError, match="have to lie below the hole"):
        build_pvh(kernel, memory=64 * MIB)
