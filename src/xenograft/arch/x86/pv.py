# SPDX-License-Identifier: GPL-2.0-or-later
"""What a PV guest's CPU begins with: registers, Xen's own descriptors, hypercall pages, CR4.

Facts: public/arch-x86/xen.h, xen-x86_64.h and xen-x86_32.h; vcpu_x86_64() and vcpu_x86_32() in
tools/libs/guest/xg_dom_x86.c; boot_gdt and boot_compat_gdt in xen/arch/x86/desc.c;
hypercall_page_initialise_ring3_kernel() and ..._ring1_kernel() in xen/arch/x86/pv/hypercall.c;
pv_fixup_guest_cr4() and pv_make_cr4() in xen/arch/x86/pv/domain.c of Xen 4.17.
"""

from __future__ import annotations

import struct
from typing import Final

from xenograft.abi.arch_x86 import xen as abi
from xenograft.arch.x86 import registers as r
from xenograft.arch.x86.cpuid.policy import CpuPolicy
from xenograft.arch.x86.pvh import GPRS, State

PERDOMAIN_VIRT_START: Final = 0xFFFF_8200_0000_0000
"""Where each root table maps the GDTs and LDTs of its domain's vCPUs."""
GDT_LDT_VCPU_SHIFT: Final = 17
GDT_LDT_PAGES: Final = 32
"""Per vCPU: 16 pages of GDT, then 16 of LDT."""
LAST_RESERVED_GDT_BYTE: Final = abi.FIRST_RESERVED_GDT_BYTE + 32 * 8 - 1
TSS_SELECTOR: Final = 0xE040

NULL_SEGMENT: Final = (0, 0, 0, 0)
FLAT_LIMIT: Final = 0xFFFFFFFF
CS64_ATTR: Final = 0xAFB
CS32_RING1_ATTR: Final = 0xCBB
DATA_ATTR: Final = 0xCF3
DATA_RING1_ATTR: Final = 0xCB3

CR0: Final = r.X86_CR0_PG | r.X86_CR0_WP | 1 << 5 | r.X86_CR0_ET | 1 << 1 | r.X86_CR0_PE
"""Paging, write protection, native FPU errors, MP: what Xen runs with. TS is the guest's."""
X86_CR0_TS: Final = 1 << 3
EFER: Final = r.EFER_SCE | r.EFER_LME | r.EFER_LMA | r.EFER_NXE

PV_CR4_GUEST_MASK: Final = r.X86_CR4_TSD | r.X86_CR4_DE | r.X86_CR4_FSGSBASE | r.X86_CR4_OSXSAVE
"""Bits that a PV guest sets for itself."""
PV_CR4_VISIBLE: Final = r.X86_CR4_PAE | r.X86_CR4_MCE | r.X86_CR4_OSFXSR | r.X86_CR4_OSXMMEXCPT
"""Bits that Xen sets, and a guest sees."""
CR4: Final = PV_CR4_VISIBLE | r.X86_CR4_PGE

_NEEDS = (
    ("tsc", r.X86_CR4_TSD),
    ("de", r.X86_CR4_DE),
    ("fsgsbase", r.X86_CR4_FSGSBASE),
    ("xsave", r.X86_CR4_OSXSAVE),
)


def fixup_guest_cr4(policy: CpuPolicy, value: int) -> int:
    """What a guest that writes `value` to CR4 reads back."""
    for feature, bit in _NEEDS:
        if not policy.has(feature):
            value &= ~bit
    return value & PV_CR4_GUEST_MASK | PV_CR4_VISIBLE


def make_cr4(guest: int) -> int:
    """The CR4 that is in force for a guest whose own is `guest`."""
    return CR4 | guest & PV_CR4_GUEST_MASK


def _put(state: State, name: str, sel: int, base: int, limit: int, attr: int) -> None:
    state[f"{name}.sel"] = sel
    state[f"{name}.base"] = base
    state[f"{name}.limit"] = limit
    state[f"{name}.attr"] = attr


def kernel_state(vcpu_id: int, bits: int, *, entry: int, stack: int, start_info: int) -> State:
    """The registers of a kernel at its entry point: flat segments, events on, paging on.

    CR3 isn't part of it: it's whatever root table the vCPU gets.
    """
    state: State = dict.fromkeys(GPRS, 0)
    state |= {"efer": EFER, "cr4": make_cr4(0), "cr0": CR0, "cr2": 0}
    if bits == 64:
        _put(state, "cs", abi.FLAT_KERNEL_CS, 0, FLAT_LIMIT, CS64_ATTR)
        _put(state, "ss", abi.FLAT_KERNEL_SS, 0, FLAT_LIMIT, DATA_ATTR)
        for name in ("ds", "es", "fs", "gs"):
            _put(state, name, *NULL_SEGMENT)
    else:
        _put(state, "cs", abi.FLAT_RING1_CS, 0, FLAT_LIMIT, CS32_RING1_ATTR)
        for name in ("ss", "ds", "es", "fs", "gs"):
            _put(state, name, abi.FLAT_RING1_DS, 0, FLAT_LIMIT, DATA_RING1_ATTR)
    state["gdtr.base"] = gdt_address(vcpu_id)
    state["gdtr.limit"] = LAST_RESERVED_GDT_BYTE
    state["idtr.base"] = state["idtr.limit"] = 0
    _put(state, "ldtr", 0, 0, 0, 0)
    # No I/O permission bitmap: every port faults.
    _put(state, "tr", TSS_SELECTOR, 0, 0, 0x8B)
    state |= {"rip": entry, "rsp": stack, "rsi": start_info}
    if bits == 64:
        state["rbx"] = 0
    state["rflags"] = r.X86_EFLAGS_IF | r.X86_EFLAGS_MBS
    return state


def cr3_frame(cr3: int, bits: int) -> int:
    """The frame of a root table, from CR3 as a guest of this width writes it.

    32 bits are too few for a machine address, so the frame's high bits take the place of the
    flags (xen_cr3_to_pfn() in public/arch-x86/xen-x86_32.h).
    """
    return cr3 >> 12 if bits == 64 else (cr3 >> 12 | cr3 << 20) & 0xFFFFFFFF


def frame_cr3(frame: int, bits: int) -> int:
    """The reverse of `cr3_frame`."""
    return frame << 12 if bits == 64 else (frame << 12 | frame >> 20) & 0xFFFFFFFF


def gdt_address(vcpu_id: int) -> int:
    """Where a vCPU's GDT lies in the address space."""
    return PERDOMAIN_VIRT_START + (vcpu_id << GDT_LDT_VCPU_SHIFT)


def reserved_gdt(bits: int) -> bytes:
    """Xen's page of each GDT: the flat segments that guests rely on."""
    code64, data0 = 0x00AF9B000000FFFF, 0x00CF93000000FFFF
    if bits == 64:
        entries = (
            *(0, code64, data0, 0),
            *(0x00CFFB000000FFFF, 0x00CFF3000000FFFF, 0x00AFFB000000FFFF, 0),
        )
    else:
        entries = (
            *(0, code64, data0, 0x00CFBB000000FFFF, 0x00CFB3000000FFFF),
            *(0x00CFFB000000FFFF, 0x00CFF3000000FFFF, 0),
        )
    return struct.pack("<8Q", *entries).ljust(4096, b"\0")


_IRET = 23


def hypercall_page(bits: int) -> bytes:
    """The code that a kernel calls to make hypercall n, at 32 * n."""
    page = bytearray(b"\xcc" * 4096)
    for number in range(128):
        at = number * 32
        load = b"\xb8" + number.to_bytes(4, "little")
        if bits == 64:
            # push rcx; push r11; mov eax, number; syscall; pop r11; pop rcx; ret
            code = b"\x51\x41\x53" + load + b"\x0f\x05\x41\x5b\x59\xc3"
            if number == _IRET:
                code = b"\x51\x41\x53\x50" + load + b"\x0f\x05"
        else:
            code = load + b"\xcd\x82\xc3"
            if number == _IRET:
                code = b"\x50" + load + b"\xcd\x82"
        page[at : at + len(code)] = code
    return bytes(page)
