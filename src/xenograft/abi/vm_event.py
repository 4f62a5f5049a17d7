# SPDX-License-Identifier: GPL-2.0-or-later
"""public/vm_event.h: what a monitor is told of a domain, and answers."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.struct import (
    Struct,
    Union,
    array,
    bitfield,
    octets,
    selects,
    u8,
    u16,
    u32,
    u64,
    x32,
    x64,
)

VM_EVENT_INTERFACE_VERSION = 7

# vm_event_st.flags.
VM_EVENT_FLAG_VCPU_PAUSED = 1 << 0
VM_EVENT_FLAG_FOREIGN = 1 << 1
VM_EVENT_FLAG_EMULATE = 1 << 2
VM_EVENT_FLAG_EMULATE_NOWRITE = 1 << 3
VM_EVENT_FLAG_TOGGLE_SINGLESTEP = 1 << 4
VM_EVENT_FLAG_SET_EMUL_READ_DATA = 1 << 5
VM_EVENT_FLAG_DENY = 1 << 6
VM_EVENT_FLAG_ALTERNATE_P2M = 1 << 7
VM_EVENT_FLAG_SET_REGISTERS = 1 << 8
VM_EVENT_FLAG_SET_EMUL_INSN_DATA = 1 << 9
VM_EVENT_FLAG_GET_NEXT_INTERRUPT = 1 << 10
VM_EVENT_FLAG_FAST_SINGLESTEP = 1 << 11
VM_EVENT_FLAG_NESTED_P2M = 1 << 12
VM_EVENT_FLAG_RESET_VMTRACE = 1 << 13
VM_EVENT_FLAG_RESET_FORK_STATE = 1 << 14
VM_EVENT_FLAG_RESET_FORK_MEMORY = 1 << 15

# vm_event_st.reason.
VM_EVENT_REASON_UNKNOWN = 0
VM_EVENT_REASON_MEM_ACCESS = 1
VM_EVENT_REASON_MEM_SHARING = 2
VM_EVENT_REASON_MEM_PAGING = 3
VM_EVENT_REASON_WRITE_CTRLREG = 4
VM_EVENT_REASON_MOV_TO_MSR = 5
VM_EVENT_REASON_SOFTWARE_BREAKPOINT = 6
VM_EVENT_REASON_SINGLESTEP = 7
VM_EVENT_REASON_GUEST_REQUEST = 8
VM_EVENT_REASON_DEBUG_EXCEPTION = 9
VM_EVENT_REASON_CPUID = 10
VM_EVENT_REASON_PRIVILEGED_CALL = 11
VM_EVENT_REASON_INTERRUPT = 12
VM_EVENT_REASON_DESCRIPTOR_ACCESS = 13
VM_EVENT_REASON_EMUL_UNIMPLEMENTED = 14
VM_EVENT_REASON_VMEXIT = 15

# vm_event_write_ctrlreg.index.
VM_EVENT_X86_CR0 = 0
VM_EVENT_X86_CR3 = 1
VM_EVENT_X86_CR4 = 2
VM_EVENT_X86_XCR0 = 3

# vm_event_mem_access.flags.
MEM_ACCESS_R = 1 << 0
MEM_ACCESS_W = 1 << 1
MEM_ACCESS_X = 1 << 2
MEM_ACCESS_RWX = 7
MEM_ACCESS_RW = 3
MEM_ACCESS_RX = 5
MEM_ACCESS_WX = 6
MEM_ACCESS_GLA_VALID = 1 << 3
MEM_ACCESS_FAULT_WITH_GLA = 1 << 4
MEM_ACCESS_FAULT_IN_GPT = 1 << 5

# vm_event_desc_access.descriptor.
VM_EVENT_DESC_IDTR = 1
VM_EVENT_DESC_GDTR = 2
VM_EVENT_DESC_LDTR = 3
VM_EVENT_DESC_TR = 4

# vm_event_paging.flags.
MEM_PAGING_DROP_PAGE = 1 << 0
MEM_PAGING_EVICT_FAIL = 1 << 1

_MEMBERS = {
    VM_EVENT_REASON_MEM_ACCESS: "mem_access",
    VM_EVENT_REASON_MEM_SHARING: "mem_sharing",
    VM_EVENT_REASON_MEM_PAGING: "mem_paging",
    VM_EVENT_REASON_WRITE_CTRLREG: "write_ctrlreg",
    VM_EVENT_REASON_MOV_TO_MSR: "mov_to_msr",
    VM_EVENT_REASON_SOFTWARE_BREAKPOINT: "software_breakpoint",
    VM_EVENT_REASON_SINGLESTEP: "singlestep",
    VM_EVENT_REASON_DEBUG_EXCEPTION: "debug_exception",
    VM_EVENT_REASON_CPUID: "cpuid",
    VM_EVENT_REASON_INTERRUPT: "interrupt",
    VM_EVENT_REASON_DESCRIPTOR_ACCESS: "desc_access",
    VM_EVENT_REASON_VMEXIT: "vmexit",
}


class vm_event_x86_selector_reg(Struct):
    """Limit and attributes of a segment."""

    limit: Annotated[int, bitfield(u32, 20)]
    ar: Annotated[int, bitfield(u32, 12)]


class vm_event_regs_x86(Struct):
    """The vCPU's registers."""

    rax: x64
    rcx: x64
    rdx: x64
    rbx: x64
    rsp: x64
    rbp: x64
    rsi: x64
    rdi: x64
    r8: x64
    r9: x64
    r10: x64
    r11: x64
    r12: x64
    r13: x64
    r14: x64
    r15: x64
    rflags: x64
    dr6: x64
    dr7: x64
    rip: x64
    cr0: x64
    cr2: x64
    cr3: x64
    cr4: x64
    sysenter_cs: x64
    sysenter_esp: x64
    sysenter_eip: x64
    msr_efer: x64
    msr_star: x64
    msr_lstar: x64
    gdtr_base: x64
    npt_base: x64
    vmtrace_pos: u64
    cs_base: x32
    ss_base: x32
    ds_base: x32
    es_base: x32
    fs_base: x64
    gs_base: x64
    cs: vm_event_x86_selector_reg
    ss: vm_event_x86_selector_reg
    ds: vm_event_x86_selector_reg
    es: vm_event_x86_selector_reg
    fs: vm_event_x86_selector_reg
    gs: vm_event_x86_selector_reg
    shadow_gs: u64
    gdtr_limit: u16
    cs_sel: u16
    ss_sel: u16
    ds_sel: u16
    es_sel: u16
    fs_sel: u16
    gs_sel: u16
    _pad: u16


class vm_event_regs_arm(Struct):
    """An Arm vCPU's registers."""

    ttbr0: u64
    ttbr1: u64
    ttbcr: u64
    pc: u64
    cpsr: u64


class vm_event_mem_access(Struct):
    """A page was accessed that a monitor watches."""

    gfn: x64
    offset: u64
    gla: x64
    flags: x32
    _pad: u32


class vm_event_write_ctrlreg(Struct):
    """A control register was written."""

    index: u32
    _pad: u32
    new_value: x64
    old_value: x64


class vm_event_singlestep(Struct):
    """One instruction was executed."""

    gfn: x64


class vm_event_fast_singlestep(Struct):
    """Step with another view."""

    p2midx: u16


class vm_event_debug(Struct):
    """A debug exception or breakpoint."""

    gfn: x64
    pending_dbg: u64
    insn_length: u32
    type: u8
    _pad: Annotated[bytes, octets(3)]


class vm_event_mov_to_msr(Struct):
    """An MSR was written."""

    msr: x64
    new_value: x64
    old_value: x64


class _vm_event_desc_access_arch_vmx(Struct):
    instr_info: u32
    _pad1: u32
    exit_qualification: u64


class _vm_event_desc_access_arch(Union):
    vmx: _vm_event_desc_access_arch_vmx


class vm_event_desc_access(Struct):
    """A descriptor table register was accessed."""

    arch: _vm_event_desc_access_arch
    descriptor: u8
    is_write: u8
    _pad: Annotated[bytes, octets(6)]


class vm_event_cpuid(Struct):
    """CPUID was executed."""

    insn_length: u32
    leaf: x32
    subleaf: x32
    _pad: u32


class vm_event_interrupt_x86(Struct):
    """An interrupt is pending."""

    vector: u32
    type: u32
    error_code: u32
    _pad: u32
    cr2: x64


class vm_event_paging(Struct):
    """A page that was paged out is wanted."""

    gfn: x64
    p2mt: u32
    flags: x32


class vm_event_sharing(Struct):
    """A shared page could not be unshared."""

    gfn: x64
    p2mt: u32
    _pad: u32


class vm_event_emul_read_data(Struct):
    """Data that an emulated read shall return."""

    size: u32
    data: Annotated[bytes, octets(340)]


class vm_event_emul_insn_data(Struct):
    """Bytes to emulate instead."""

    data: Annotated[bytes, octets(16)]


class _vm_event_vmexit_arch_vmx(Struct):
    reason: u64
    qualification: u64


class _vm_event_vmexit_arch(Struct):
    vmx: _vm_event_vmexit_arch_vmx


class vm_event_vmexit(Struct):
    """The guest left."""

    arch: _vm_event_vmexit_arch


class _vm_event_st_u_interrupt(Union):
    x86: vm_event_interrupt_x86


class _vm_event_st_u(Union):
    mem_paging: vm_event_paging
    mem_sharing: vm_event_sharing
    mem_access: vm_event_mem_access
    write_ctrlreg: vm_event_write_ctrlreg
    mov_to_msr: vm_event_mov_to_msr
    desc_access: vm_event_desc_access
    singlestep: vm_event_singlestep
    fast_singlestep: vm_event_fast_singlestep
    software_breakpoint: vm_event_debug
    debug_exception: vm_event_debug
    cpuid: vm_event_cpuid
    vmexit: vm_event_vmexit
    interrupt: _vm_event_st_u_interrupt


class _vm_event_st_data_regs(Union):
    x86: vm_event_regs_x86
    arm: vm_event_regs_arm


class _vm_event_st_data_emul(Union):
    read: vm_event_emul_read_data
    insn: vm_event_emul_insn_data


class _vm_event_st_data(Union):
    regs: _vm_event_st_data_regs
    emul: _vm_event_st_data_emul


class vm_event_st(Struct):
    """A request or a response in the ring."""

    _selects_ = selects(u=("reason", _MEMBERS))

    version: u32
    flags: x32
    reason: u32
    vcpu_id: u32
    altp2m_idx: u16
    _pad: Annotated[list[int], array(u16, 3)]
    u: _vm_event_st_u
    data: _vm_event_st_data
