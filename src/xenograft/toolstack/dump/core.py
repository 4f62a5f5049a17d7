# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain's core dump, as `xl dump-core` writes it.

Source: Xen's docs/misc/dump-core-format.txt; the registers of an HVM-type vCPU stand where
XEN_DOMCTL_getvcpucontext puts them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from xenograft.abi import elfnote
from xenograft.abi.arch_x86.xen import VGCF_online, cpu_user_regs, vcpu_guest_context
from xenograft.abi.version import (
    xen_capabilities_info,
    xen_changeset_info,
    xen_compile_info,
    xen_extraversion,
)
from xenograft.hypervisor.memory.p2m_types import RAM_TYPES, P2mType
from xenograft.toolstack.dump.elf import PAGE, SHT_NOTE, SHT_PROGBITS, Section, head, note

if TYPE_CHECKING:
    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.vcpu import Vcpu

XC_CORE_MAGIC = 0xF00FEBED
XC_CORE_MAGIC_HVM = 0xF00FEBEE
FORMAT_VERSION = 1
_PIECE_PAGES = 256
_NT_PRSTATUS = 1
_GPRS = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10"),
    *("r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi"),
)


class CoreDump:
    """A dump of a domain that stands still until the last piece has been taken."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._runs = _page_runs(domain)

    def pieces(self) -> Iterator[bytes]:
        """The file, piece by piece (1 MiB at most, but for the first)."""
        yield self._head()
        memory = self._domain.memory
        for _, mfn, count in self._runs:
            for at in range(0, count, _PIECE_PAGES):
                pages = min(_PIECE_PAGES, count - at)
                yield memory.read((mfn + at) * PAGE, pages * PAGE)

    def _head(self) -> bytes:
        domain = self._domain
        contexts = [_context(vcpu) for vcpu in domain.vcpus]
        packed = [context.pack(64) for context in contexts]
        pages = sum(count for _, _, count in self._runs)
        sections = [
            Section(".note.Xen", SHT_NOTE, _notes(domain, pages), align=4),
            Section(".xen_prstatus", SHT_PROGBITS, b"".join(packed), len(packed[0])),
            Section(
                ".xen_shared_info",
                SHT_PROGBITS,
                domain.memory.read(domain.shared_info_maddr, PAGE),
                PAGE,
            ),
            _frame_section(domain, self._runs),
            Section(".xen_pages", SHT_PROGBITS, b"", PAGE, PAGE, pages * PAGE),
        ]
        registers = b"".join(
            note(b"CORE", _NT_PRSTATUS, _prstatus(context, index))
            for index, context in enumerate(contexts)
        )
        physical = [(gfn * PAGE, count * PAGE) for gfn, _, count in self._runs]
        return head(sections, physical, registers)


def _page_runs(domain: Domain) -> list[tuple[int, int, int]]:
    """(gfn, mfn, pages) of the domain's own RAM, ascending."""
    if not domain.p2m.translated:
        frames = domain.hypervisor.frames
        runs: list[tuple[int, int, int]] = []
        for mfn in domain.pool.pages:
            gfn = frames.gfn_of(mfn)
            if runs and (gfn, mfn) == (runs[-1][0] + runs[-1][2], runs[-1][1] + runs[-1][2]):
                runs[-1] = (*runs[-1][:2], runs[-1][2] + 1)
            else:
                runs.append((gfn, mfn, 1))
        return sorted(runs)
    state = domain.p2m.save()
    odd = {gfn for gfn, kind in state.types if P2mType(kind) not in RAM_TYPES}
    runs = []
    for gfn, mfn, count, _ in state.entries:
        start = 0
        for other in sorted(odd.intersection(range(gfn, gfn + count))) if odd else ():
            if other - gfn > start:
                runs.append((gfn + start, mfn + start, other - gfn - start))
            start = other - gfn + 1
        if start < count:
            runs.append((gfn + start, mfn + start, count - start))
    return runs


def _frame_section(domain: Domain, runs: list[tuple[int, int, int]]) -> Section:
    """Which page of .xen_pages is which of the guest."""
    if domain.p2m.translated:
        pfns = [gfn + i for gfn, _, count in runs for i in range(count)]
        return Section(".xen_pfn", SHT_PROGBITS, struct.pack(f"<{len(pfns)}Q", *pfns), 8)
    pairs = [n for gfn, mfn, count in runs for i in range(count) for n in (gfn + i, mfn + i)]
    return Section(".xen_p2m", SHT_PROGBITS, struct.pack(f"<{len(pairs)}Q", *pairs), 16)


def _notes(domain: Domain, pages: int) -> bytes:
    version = domain.hypervisor.xen_version
    magic = XC_CORE_MAGIC_HVM if domain.kind.is_hvm_type else XC_CORE_MAGIC
    compiled = xen_compile_info(
        compiler=version.compiler.encode(),
        compile_by=version.compile_by.encode(),
        compile_domain=version.compile_domain.encode(),
        compile_date=version.compile_date.encode(),
    )
    about = (
        struct.pack("<2Q", version.major, version.minor)
        + xen_extraversion(text=version.extra.encode()).pack(64)
        + compiled.pack(64)
        + xen_capabilities_info(text=version.capabilities.encode()).pack(64)
        + xen_changeset_info(text=version.changeset.encode()).pack(64)
        + struct.pack("<2Q", version.virt_start, PAGE)
    )
    header = struct.pack("<4Q", magic, len(domain.vcpus), pages, PAGE)
    return b"".join(
        (
            note(b"Xen", elfnote.XEN_ELFNOTE_DUMPCORE_NONE, b""),
            note(b"Xen", elfnote.XEN_ELFNOTE_DUMPCORE_HEADER, header),
            note(b"Xen", elfnote.XEN_ELFNOTE_DUMPCORE_XEN_VERSION, about),
            note(
                b"Xen",
                elfnote.XEN_ELFNOTE_DUMPCORE_FORMAT_VERSION,
                struct.pack("<Q", FORMAT_VERSION),
            ),
        )
    )


def _context(vcpu: Vcpu) -> vcpu_guest_context:
    """A vCPU's registers; of one that was never brought up all are zero."""
    context = vcpu_guest_context()
    cpu = vcpu.cpu
    if cpu is None:
        return context
    context.flags = VGCF_online if vcpu.online else 0
    registers: cpu_user_regs = context.user_regs
    for name in (*_GPRS, "rip", "rflags", "rsp"):
        setattr(registers, name, cpu.get(name))
    for name in ("cs", "ss", "ds", "es", "fs", "gs"):
        setattr(registers, name, cpu.get(f"{name}.sel"))
    control = list(context.ctrlreg)
    for index in (0, 2, 3, 4):
        control[index] = cpu.get(f"cr{index}")
    context.ctrlreg = control
    debug = list(context.debugreg)
    for index in (0, 1, 2, 3, 6, 7):
        debug[index] = cpu.get(f"dr{index}")
    context.debugreg = debug
    context.fs_base = cpu.get("fs.base")
    # In the kernel GS holds its own base, and the other one is the user's.
    context.gs_base_kernel = cpu.get("gs.base")
    return context


def _prstatus(context: vcpu_guest_context, index: int) -> bytes:
    """struct elf_prstatus of Linux for x86-64: 112 bytes about a process, then the registers."""
    regs = context.user_regs
    order = [getattr(regs, name) for name in _GPRS]
    values = [
        *order,
        regs.rax,  # orig_rax
        regs.rip,
        regs.cs,
        regs.rflags,
        regs.rsp,
        regs.ss,
        context.fs_base,
        context.gs_base_kernel,
        regs.ds,
        regs.es,
        regs.fs,
        regs.gs,
    ]
    # Threads are numbered from 1.
    process = struct.pack("<3IHHQQ4I", 0, 0, 0, 0, 0, 0, 0, index + 1, 0, 0, 0)
    return process.ljust(112, b"\0") + struct.pack("<27Q", *values) + bytes(8)
