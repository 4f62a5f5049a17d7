# SPDX-License-Identifier: GPL-2.0-or-later
"""Core dumps: read back by pyelftools, which knows nothing of us, and by gdb where it's there."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from tests.hypervisor.support import Bench
from xenograft.abi import elfnote
from xenograft.abi.arch_x86.xen import vcpu_guest_context
from xenograft.hypervisor.kinds import GuestKind
from xenograft.toolstack.dump.core import XC_CORE_MAGIC, XC_CORE_MAGIC_HVM, CoreDump
from xenograft.toolstack.dump.elf import MAX_PROGRAM_HEADERS, Section, head, note

PAGE = 4096


@pytest.fixture
def bench() -> Iterator[Bench]:
    one = Bench(vcpus=2)
    one.domain.p2m.populate(0x100, 2)
    one.domain.space.write(0x100 * PAGE + 5, b"here I am")
    one.domain.space.write(0x101 * PAGE, b"and here")
    cpu = one.domain.vcpus[0].cpu
    assert cpu is not None
    for name, value in (("rip", 0xFFFFFFFF81000000), ("rax", 0x1234), ("rsp", 0x8000)):
        cpu.set(name, value)
    yield one
    one.close()


def dumped(bench: Bench) -> bytes:
    return b"".join(CoreDump(bench.domain).pieces())


def section(elf: ELFFile, name: str) -> bytes:
    found = elf.get_section_by_name(name)
    assert found is not None, name
    return bytes(found.data())


def test_sections(bench: Bench) -> None:
    elf = ELFFile(io.BytesIO(dumped(bench)))
    assert (elf["e_type"], elf["e_machine"]) == ("ET_CORE", "EM_X86_64")
    pfns = struct.unpack(f"<{len(section(elf, '.xen_pfn')) // 8}Q", section(elf, ".xen_pfn"))
    pages = section(elf, ".xen_pages")
    assert len(pages) == len(pfns) * PAGE
    assert list(pfns) == sorted(pfns)
    assert pages[pfns.index(0x100) * PAGE :][5:14] == b"here I am"
    assert pages[pfns.index(0x101) * PAGE :][:8] == b"and here"
    assert elf.get_section_by_name(".xen_pages")["sh_offset"] % PAGE == 0
    assert section(elf, ".xen_shared_info") == bench.domain.memory.read(
        bench.domain.shared_info_maddr, PAGE
    )


def test_registers(bench: Bench) -> None:
    elf = ELFFile(io.BytesIO(dumped(bench)))
    data = section(elf, ".xen_prstatus")
    size = vcpu_guest_context.sizeof(64)
    assert len(data) == 2 * size == 2 * elf.get_section_by_name(".xen_prstatus")["sh_entsize"]
    first, second = (vcpu_guest_context.unpack(data[i * size : (i + 1) * size], 64) for i in (0, 1))
    assert (first.user_regs.rip, first.user_regs.rax) == (0xFFFFFFFF81000000, 0x1234)
    assert first.ctrlreg[0] & 1
    # The second was never brought up.
    assert second.user_regs.rip == 0


def test_notes(bench: Bench) -> None:
    elf = ELFFile(io.BytesIO(dumped(bench)))
    notes = {n["n_type"]: n for n in elf.get_section_by_name(".note.Xen").iter_notes()}
    header = notes[elfnote.XEN_ELFNOTE_DUMPCORE_HEADER]
    assert header["n_name"] == "Xen"
    pages = len(section(elf, ".xen_pfn")) // 8
    values = struct.unpack("<4Q", header["n_descdata"])
    assert values == (XC_CORE_MAGIC_HVM, 2, pages, PAGE)
    version = notes[elfnote.XEN_ELFNOTE_DUMPCORE_XEN_VERSION]["n_descdata"]
    assert struct.unpack_from("<2Q16s", version) == (4, 17, b".7".ljust(16, b"\0"))
    assert len(version) == 16 + 16 + 144 + 1024 + 64 + 16
    form = notes[elfnote.XEN_ELFNOTE_DUMPCORE_FORMAT_VERSION]["n_descdata"]
    assert form == struct.pack("<Q", 1)


def test_program_headers(bench: Bench) -> None:
    elf = ELFFile(io.BytesIO(dumped(bench)))
    kinds = [segment["p_type"] for segment in elf.iter_segments()]
    assert kinds[0] == "PT_NOTE"
    assert set(kinds[1:]) == {"PT_LOAD"}
    for segment in elf.iter_segments():
        start = 0x100 * PAGE - segment["p_paddr"]
        if segment["p_type"] == "PT_LOAD" and 0 <= start < segment["p_filesz"]:
            assert segment.data()[start + 5 : start + 14] == b"here I am"
            break
    else:
        raise AssertionError("no segment holds the page")
    statuses = [n for segment in elf.iter_segments() for n in _notes_of(segment)]
    assert [n["n_type"] for n in statuses] == ["NT_PRSTATUS", "NT_PRSTATUS"]


def _notes_of(segment: object) -> list[dict[str, object]]:
    return list(segment.iter_notes()) if hasattr(segment, "iter_notes") else []


def test_gdb_reads_it(bench: Bench, tmp_path: Path) -> None:
    gdb = shutil.which("gdb")
    if gdb is None:
        pytest.skip("gdb isn't installed")
    core = tmp_path / "core"
    core.write_bytes(dumped(bench))
    done = subprocess.run(
        [
            *(gdb, "-nx", "-batch", "-core", str(core)),
            *("-ex", "info threads", "-ex", "p/x $rip", "-ex", "p/x $rax", "-ex", "x/s 0x100005"),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "0xffffffff81000000" in done.stdout
    assert "= 0x1234" in done.stdout
    assert '"here I am"' in done.stdout


def test_foreign_and_granted_pages_are_not_the_domains(bench: Bench) -> None:
    other = bench.add_domain(1, GuestKind.PVH, False)
    other.p2m.populate(0x10, 1)
    mfn, _ = other.p2m.lookup(0x10)
    bench.domain.p2m.set_foreign(0x200, mfn)
    elf = ELFFile(io.BytesIO(dumped(bench)))
    data = section(elf, ".xen_pfn")
    pfns = struct.unpack(f"<{len(data) // 8}Q", data)
    assert 0x200 not in pfns
    assert 0x101 in pfns


def test_too_many_runs_leave_out_the_program_headers() -> None:
    runs = [(i * 2 * PAGE, PAGE) for i in range(MAX_PROGRAM_HEADERS + 1)]
    data = head([Section(".xen_pages", 1, b"", PAGE, PAGE, 0)], runs, b"")
    elf = ELFFile(io.BytesIO(data))
    assert elf["e_phnum"] == 1
    assert elf.get_section_by_name(".xen_pages") is not None


def test_notes_are_padded() -> None:
    assert len(note(b"Xen", 1, b"abc")) == 12 + 4 + 4
    assert note(b"CORE", 1, b"")[12:] == b"CORE\0\0\0\0"


def test_magic_says_the_kind(bench: Bench) -> None:
    assert XC_CORE_MAGIC != XC_CORE_MAGIC_HVM
    assert struct.pack("<Q", XC_CORE_MAGIC_HVM) in dumped(bench)[:65536]
