# SPDX-License-Identifier: GPL-2.0-or-later
"""public/arch-x86/xen.h, xen-x86_64.h, xen-x86_32.h: registers, vCPU contexts, selectors.

Structures that differ in kind between the two widths, not only in size, are two classes: the
plain name is x86-64's, ``..._32`` is i386's.
"""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.struct import (
    Struct,
    array,
    octets,
    only,
    u8,
    u16,
    u32,
    ulong,
    x8,
    x16,
    x32,
    x64,
    xen_pfn_t,
    xulong,
)

XEN_LEGACY_MAX_VCPUS = 32

# Xen's part of every PV guest's GDT.
FIRST_RESERVED_GDT_PAGE = 14
FIRST_RESERVED_GDT_BYTE = FIRST_RESERVED_GDT_PAGE * 4096
FIRST_RESERVED_GDT_ENTRY = FIRST_RESERVED_GDT_BYTE // 8

# Flat selectors of 64-bit PV guests (user and kernel alike run in ring 3).
FLAT_RING3_CS32 = 0xE023
FLAT_RING3_CS64 = 0xE033
FLAT_RING3_DS32 = 0xE02B
FLAT_RING3_DS64 = 0x0000
FLAT_RING3_SS32 = 0xE02B
FLAT_RING3_SS64 = 0xE02B
FLAT_KERNEL_CS = FLAT_RING3_CS64
FLAT_KERNEL_DS = FLAT_RING3_DS64
FLAT_KERNEL_SS = FLAT_RING3_SS64
FLAT_USER_CS = FLAT_RING3_CS64
FLAT_USER_DS = FLAT_RING3_DS64
FLAT_USER_SS = FLAT_RING3_SS64

# Flat selectors of 32-bit PV guests (kernel in ring 1).
FLAT_RING1_CS = 0xE019
FLAT_RING1_DS = 0xE021
FLAT_RING1_SS = 0xE021
FLAT_RING3_CS = 0xE02B
FLAT_RING3_DS = 0xE033
FLAT_RING3_SS = 0xE033

# Where a 64-bit PV guest finds Xen, and the machine-to-physical table.
HYPERVISOR_VIRT_START = 0xFFFF_8000_0000_0000
HYPERVISOR_VIRT_END = 0xFFFF_8800_0000_0000
MACH2PHYS_VIRT_START = 0xFFFF_8000_0000_0000
MACH2PHYS_VIRT_END = 0xFFFF_8040_0000_0000
MACH2PHYS_NR_ENTRIES = (MACH2PHYS_VIRT_END - MACH2PHYS_VIRT_START) >> 3

# The same for 32-bit PV guests (PAE).
HYPERVISOR_VIRT_START_32 = 0xF580_0000
MACH2PHYS_VIRT_START_32 = 0xF580_0000
MACH2PHYS_VIRT_END_32 = 0xF680_0000

# HYPERVISOR_set_segment_base.
SEGBASE_FS = 0
SEGBASE_GS_USER = 1
SEGBASE_GS_KERNEL = 2
SEGBASE_GS_USER_SEL = 3

# iret_context.flags: return with SYSRET.
VGCF_in_syscall = 1 << 8

# vcpu_guest_context.flags.
VGCF_i387_valid = 1 << 0
VGCF_in_kernel = 1 << 2
VGCF_failsafe_disables_events = 1 << 3
VGCF_syscall_disables_events = 1 << 4
VGCF_online = 1 << 5

# xen_arch_domainconfig.emulation_flags.
XEN_X86_EMU_LAPIC = 1 << 0
XEN_X86_EMU_HPET = 1 << 1
XEN_X86_EMU_PM = 1 << 2
XEN_X86_EMU_RTC = 1 << 3
XEN_X86_EMU_IOAPIC = 1 << 4
XEN_X86_EMU_PIC = 1 << 5
XEN_X86_EMU_VGA = 1 << 6
XEN_X86_EMU_IOMMU = 1 << 7
XEN_X86_EMU_PIT = 1 << 8
XEN_X86_EMU_USE_PIRQ = 1 << 9
XEN_X86_EMU_VPCI = 1 << 10
XEN_X86_EMU_ALL = 0x7FF

# xen_arch_domainconfig.misc_flags.
XEN_X86_MSR_RELAXED = 1 << 0
XEN_X86_MISC_FLAGS_MAX = XEN_X86_MSR_RELAXED

# xen_cpuid_leaf.subleaf of a leaf that has none.
XEN_CPUID_NO_SUBLEAF = 0xFFFF_FFFF

# The bytes before CPUID that ask a PV guest's Xen to emulate it: ud2, "xen".
XEN_EMULATE_PREFIX = bytes.fromhex("0f0b78656e")

# The debug console port of HVM guests.
XEN_HVM_DEBUGCONS_IOPORT = 0xE9


class trap_info(Struct):
    """One entry of a PV guest's virtual IDT; flags: bits 0-1 DPL, bit 2 clears events."""

    vector: u8
    flags: x8
    cs: x16
    address: xulong


class iret_context(Struct):
    """What HYPERVISOR_iret finds on a 64-bit PV kernel's stack."""

    rax: x64
    r11: x64
    rcx: x64
    flags: x64
    rip: x64
    cs: x64
    rflags: x64
    rsp: x64
    ss: x64


class cpu_user_regs(Struct):
    """Registers of a 64-bit vCPU, as on Xen's stack."""

    r15: x64
    r14: x64
    r13: x64
    r12: x64
    rbp: x64
    rbx: x64
    r11: x64
    r10: x64
    r9: x64
    r8: x64
    rax: x64
    rcx: x64
    rdx: x64
    rsi: x64
    rdi: x64
    error_code: x32
    entry_vector: u32
    rip: x64
    cs: x16
    _pad0: u16
    saved_upcall_mask: u8
    _pad1: Annotated[bytes, octets(3)]
    rflags: x64
    rsp: x64
    ss: x16
    _pad2: Annotated[bytes, octets(6)]
    es: x16
    _pad3: Annotated[bytes, octets(6)]
    ds: x16
    _pad4: Annotated[bytes, octets(6)]
    fs: x16
    _pad5: Annotated[bytes, octets(6)]
    gs: x16
    _pad6: Annotated[bytes, octets(6)]


class cpu_user_regs_32(Struct):
    """Registers of a 32-bit vCPU."""

    ebx: x32
    ecx: x32
    edx: x32
    esi: x32
    edi: x32
    ebp: x32
    eax: x32
    error_code: x16
    entry_vector: u16
    eip: x32
    cs: x16
    saved_upcall_mask: u8
    _pad0: u8
    eflags: x32
    esp: x32
    ss: x16
    _pad1: u16
    es: x16
    _pad2: u16
    ds: x16
    _pad3: u16
    fs: x16
    _pad4: u16
    gs: x16
    _pad5: u16


class arch_vcpu_info(Struct):
    """The part of vcpu_info that is x86's: CR2 of a PV guest's last page fault."""

    cr2: xulong
    pad: Annotated[list[int], array(ulong, 1)]
    _pad32: Annotated[list[int], only(32, array(u32, 4))]


class xen_callback(Struct):
    """xen_callback_t of a 32-bit guest: a far pointer (64-bit guests have a plain address)."""

    cs: xulong
    eip: xulong


class vcpu_guest_context(Struct):
    """State of a 64-bit PV vCPU (VCPUOP_initialise, XEN_DOMCTL_{get,set}vcpucontext)."""

    fpu_ctxt: Annotated[bytes, octets(512)]
    flags: xulong
    user_regs: cpu_user_regs
    trap_ctxt: Annotated[list[trap_info], array(trap_info, 256)]
    ldt_base: xulong
    ldt_ents: ulong
    gdt_frames: Annotated[list[int], array(xulong, 16)]
    gdt_ents: ulong
    kernel_ss: xulong
    kernel_sp: xulong
    ctrlreg: Annotated[list[int], array(xulong, 8)]
    debugreg: Annotated[list[int], array(xulong, 8)]
    event_callback_eip: xulong
    failsafe_callback_eip: xulong
    syscall_callback_eip: xulong
    vm_assist: xulong
    fs_base: x64
    gs_base_kernel: x64
    gs_base_user: x64


class vcpu_guest_context_32(Struct):
    """State of a 32-bit PV vCPU; pack and unpack it with bits=32."""

    fpu_ctxt: Annotated[bytes, octets(512)]
    flags: xulong
    user_regs: cpu_user_regs_32
    trap_ctxt: Annotated[list[trap_info], array(trap_info, 256)]
    ldt_base: xulong
    ldt_ents: ulong
    gdt_frames: Annotated[list[int], array(xulong, 16)]
    gdt_ents: ulong
    kernel_ss: xulong
    kernel_sp: xulong
    ctrlreg: Annotated[list[int], array(xulong, 8)]
    debugreg: Annotated[list[int], array(xulong, 8)]
    event_callback_cs: xulong
    event_callback_eip: xulong
    failsafe_callback_cs: xulong
    failsafe_callback_eip: xulong
    vm_assist: xulong


class arch_shared_info(Struct):
    """The part of shared_info that is x86's: where a PV guest keeps its p2m."""

    max_pfn: ulong
    pfn_to_mfn_frame_list_list: xen_pfn_t
    nmi_reason: xulong
    p2m_cr3: xulong
    p2m_vaddr: xulong
    p2m_generation: ulong
    wc_sec_hi: Annotated[int, only(32, u32)]


class xen_arch_domainconfig(Struct):
    """x86's part of XEN_DOMCTL_createdomain."""

    emulation_flags: x32
    misc_flags: x32


class xen_cpuid_leaf(Struct):
    """One CPUID leaf of a serialised policy."""

    leaf: x32
    subleaf: x32
    a: x32
    b: x32
    c: x32
    d: x32


class xen_msr_entry(Struct):
    """One MSR of a serialised policy."""

    idx: x32
    flags: x32
    val: x64
