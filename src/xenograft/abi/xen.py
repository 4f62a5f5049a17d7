# SPDX-License-Identifier: GPL-2.0-or-later
"""public/xen.h: hypercall numbers, virtual interrupts, shared info, time, start info.

Names that begin with two underscores are Xen's own; Python mangles them inside classes, so use
them at module level (or `HYPERCALLS`).
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from xenograft.abi.arch_x86.xen import XEN_LEGACY_MAX_VCPUS, arch_shared_info, arch_vcpu_info
from xenograft.abi.struct import (
    Struct,
    Union,
    array,
    chars,
    handle64,
    i8,
    named,
    octets,
    only,
    selects,
    u8,
    u16,
    u32,
    u64,
    ulong,
    x32,
    x64,
    xen_pfn_t,
    xulong,
)

# Hypercall numbers.
__HYPERVISOR_set_trap_table = 0
__HYPERVISOR_mmu_update = 1
__HYPERVISOR_set_gdt = 2
__HYPERVISOR_stack_switch = 3
__HYPERVISOR_set_callbacks = 4
__HYPERVISOR_fpu_taskswitch = 5
__HYPERVISOR_sched_op_compat = 6
__HYPERVISOR_platform_op = 7
__HYPERVISOR_set_debugreg = 8
__HYPERVISOR_get_debugreg = 9
__HYPERVISOR_update_descriptor = 10
__HYPERVISOR_memory_op = 12
__HYPERVISOR_multicall = 13
__HYPERVISOR_update_va_mapping = 14
__HYPERVISOR_set_timer_op = 15
__HYPERVISOR_event_channel_op_compat = 16
__HYPERVISOR_xen_version = 17
__HYPERVISOR_console_io = 18
__HYPERVISOR_physdev_op_compat = 19
__HYPERVISOR_grant_table_op = 20
__HYPERVISOR_vm_assist = 21
__HYPERVISOR_update_va_mapping_otherdomain = 22
__HYPERVISOR_iret = 23
__HYPERVISOR_vcpu_op = 24
__HYPERVISOR_set_segment_base = 25
__HYPERVISOR_mmuext_op = 26
__HYPERVISOR_xsm_op = 27
__HYPERVISOR_nmi_op = 28
__HYPERVISOR_sched_op = 29
__HYPERVISOR_callback_op = 30
__HYPERVISOR_xenoprof_op = 31
__HYPERVISOR_event_channel_op = 32
__HYPERVISOR_physdev_op = 33
__HYPERVISOR_hvm_op = 34
__HYPERVISOR_sysctl = 35
__HYPERVISOR_domctl = 36
__HYPERVISOR_kexec_op = 37
__HYPERVISOR_tmem_op = 38
__HYPERVISOR_argo_op = 39
__HYPERVISOR_xenpmu_op = 40
__HYPERVISOR_dm_op = 41
__HYPERVISOR_hypfs_op = 42
__HYPERVISOR_arch_0 = 48
__HYPERVISOR_arch_1 = 49
__HYPERVISOR_arch_2 = 50
__HYPERVISOR_arch_3 = 51
__HYPERVISOR_arch_4 = 52
__HYPERVISOR_arch_5 = 53
__HYPERVISOR_arch_6 = 54
__HYPERVISOR_arch_7 = 55

HYPERCALLS: dict[int, str] = {
    number: name.removeprefix("__HYPERVISOR_")
    for name, number in sorted(globals().items())
    if name.startswith("__HYPERVISOR_") and isinstance(number, int)
}
"""Hypercall number to name."""

# Virtual interrupts.
VIRQ_TIMER = 0
VIRQ_DEBUG = 1
VIRQ_CONSOLE = 2
VIRQ_DOM_EXC = 3
VIRQ_TBUF = 4
VIRQ_DEBUGGER = 6
VIRQ_XENOPROF = 7
VIRQ_CON_RING = 8
VIRQ_PCPU_STATE = 9
VIRQ_MEM_EVENT = 10
VIRQ_ARGO = 11
VIRQ_ENOMEM = 12
VIRQ_XENPMU = 13
VIRQ_ARCH_0 = 16
VIRQ_ARCH_1 = 17
VIRQ_ARCH_2 = 18
VIRQ_ARCH_3 = 19
VIRQ_ARCH_4 = 20
VIRQ_ARCH_5 = 21
VIRQ_ARCH_6 = 22
VIRQ_ARCH_7 = 23
NR_VIRQS = 24

VIRQ_NAMES: dict[int, str] = {
    number: name
    for name, number in sorted(globals().items())
    if name.startswith("VIRQ_") and isinstance(number, int)
}
"""Virtual interrupt to name."""

# What the lowest two bits of mmu_update.ptr ask for.
MMU_NORMAL_PT_UPDATE = 0
MMU_MACHPHYS_UPDATE = 1
MMU_PT_UPDATE_PRESERVE_AD = 2
MMU_PT_UPDATE_NO_TRANSLATE = 3

# mmuext_op.cmd.
MMUEXT_PIN_L1_TABLE = 0
MMUEXT_PIN_L2_TABLE = 1
MMUEXT_PIN_L3_TABLE = 2
MMUEXT_PIN_L4_TABLE = 3
MMUEXT_UNPIN_TABLE = 4
MMUEXT_NEW_BASEPTR = 5
MMUEXT_TLB_FLUSH_LOCAL = 6
MMUEXT_INVLPG_LOCAL = 7
MMUEXT_TLB_FLUSH_MULTI = 8
MMUEXT_INVLPG_MULTI = 9
MMUEXT_TLB_FLUSH_ALL = 10
MMUEXT_INVLPG_ALL = 11
MMUEXT_FLUSH_CACHE = 12
MMUEXT_SET_LDT = 13
MMUEXT_NEW_USER_BASEPTR = 15
MMUEXT_CLEAR_PAGE = 16
MMUEXT_COPY_PAGE = 17
MMUEXT_FLUSH_CACHE_GLOBAL = 18
MMUEXT_MARK_SUPER = 19
MMUEXT_UNMARK_SUPER = 20

# Flags of update_va_mapping.
UVMF_NONE = 0
UVMF_TLB_FLUSH = 1
UVMF_INVLPG = 2
UVMF_FLUSHTYPE_MASK = 3
UVMF_MULTI = 0
UVMF_LOCAL = 0
UVMF_ALL = 4

# console_io.
CONSOLEIO_write = 0
CONSOLEIO_read = 1

# vm_assist.
VMASST_CMD_enable = 0
VMASST_CMD_disable = 1
VMASST_TYPE_4gb_segments = 0
VMASST_TYPE_4gb_segments_notify = 1
VMASST_TYPE_writable_pagetables = 2
VMASST_TYPE_pae_extended_cr3 = 3
VMASST_TYPE_architectural_iopl = 4
VMASST_TYPE_runstate_update_flag = 5
VMASST_TYPE_m2p_strict = 32

# Reserved domain ids.
DOMID_FIRST_RESERVED = 0x7FF0
DOMID_SELF = 0x7FF0
DOMID_IO = 0x7FF1
DOMID_XEN = 0x7FF2
DOMID_COW = 0x7FF3
DOMID_INVALID = 0x7FF4
DOMID_IDLE = 0x7FFF
DOMID_MASK = 0x7FFF

# vcpu_time_info.flags.
XEN_PVCLOCK_TSC_STABLE_BIT = 1 << 0
XEN_PVCLOCK_GUEST_STOPPED = 1 << 1

# start_info.
MAX_GUEST_CMDLINE = 1024
SIF_PRIVILEGED = 1 << 0
SIF_INITDOMAIN = 1 << 1
SIF_MULTIBOOT_MOD = 1 << 2
SIF_MOD_START_PFN = 1 << 3
SIF_VIRT_P2M_4TOOLS = 1 << 4
SIF_PM_MASK = 0xFF00

# dom0_vga_console_info.video_type.
XEN_VGATYPE_TEXT_MODE_3 = 3
XEN_VGATYPE_VESA_LFB = 0x23
XEN_VGATYPE_EFI_LFB = 0x70


class _mmuext_arg1(Union):
    mfn: xen_pfn_t
    linear_addr: xulong


class _mmuext_arg2(Union):
    nr_ents: u32
    vcpumask: xulong
    src_mfn: xen_pfn_t


_MMUEXT_NAMES = {
    number: name
    for name, number in sorted(globals().items())
    if name.startswith("MMUEXT_") and isinstance(number, int)
}


class mmuext_op(Struct):
    """One extended MMU operation of a PV guest (HYPERVISOR_mmuext_op)."""

    cmd: Annotated[int, named(u32, _MMUEXT_NAMES)]
    arg1: _mmuext_arg1
    arg2: _mmuext_arg2


class mmu_update(Struct):
    """One page-table update of a PV guest (HYPERVISOR_mmu_update)."""

    ptr: x64
    val: x64


class multicall_entry(Struct):
    """One call of a HYPERVISOR_multicall batch."""

    op: Annotated[int, named(ulong, HYPERCALLS)]
    result: xulong
    args: Annotated[list[int], array(xulong, 6)]


class vcpu_time_info(Struct):
    """System time of a vCPU: base, TSC stamp and scale, behind a version (odd: in update)."""

    version: u32
    pad0: u32
    tsc_timestamp: u64
    system_time: u64
    tsc_to_system_mul: u32
    tsc_shift: i8
    flags: u8
    pad1: Annotated[bytes, octets(2)]


class vcpu_info(Struct):
    """A vCPU's upcall flags, event selector and time: 64 bytes in both layouts."""

    evtchn_upcall_pending: u8
    evtchn_upcall_mask: u8
    evtchn_pending_sel: xulong
    arch: arch_vcpu_info
    time: vcpu_time_info


# The member of the same name hides the class inside shared_info.
vcpu_info_t: TypeAlias = vcpu_info


class _evtchn_bits(Struct):
    """One bit per 2-level port: 64 words of 64 bits, or 32 of 32."""

    low: Annotated[list[int], array(xulong, 32)]
    high: Annotated[list[int], only(64, array(xulong, 32))]

    def words(self, bits: int = 64) -> list[int]:
        """The bitmap's words, as wide as the guest's."""
        return self.low + self.high if bits == 64 else list(self.low)


class shared_info(Struct):
    """The page shared by Xen and a domain."""

    vcpu_info: Annotated[list[vcpu_info_t], array(vcpu_info_t, XEN_LEGACY_MAX_VCPUS)]
    evtchn_pending: _evtchn_bits
    evtchn_mask: _evtchn_bits
    wc_version: u32
    wc_sec: u32
    wc_nsec: u32
    wc_sec_hi: Annotated[int, only(64, u32)]
    arch: arch_shared_info


class start_info_domU(Struct):
    """start_info.console of an unprivileged domain."""

    mfn: xen_pfn_t
    evtchn: u32


class start_info_dom0(Struct):
    """start_info.console of domain 0."""

    info_off: u32
    info_size: u32


class _start_info_console(Union):
    domU: start_info_domU
    dom0: start_info_dom0


class start_info(Struct):
    """What a PV guest finds at its entry point (rSI)."""

    magic: Annotated[bytes, chars(32)]
    nr_pages: ulong
    shared_info: xulong
    flags: x32
    store_mfn: xen_pfn_t
    store_evtchn: u32
    console: _start_info_console
    pt_base: xulong
    nr_pt_frames: ulong
    mfn_list: xulong
    mod_start: xulong
    mod_len: ulong
    cmd_line: Annotated[bytes, chars(MAX_GUEST_CMDLINE)]
    first_p2m_pfn: xulong
    nr_p2m_frames: ulong


class xen_multiboot_mod_list(Struct):
    """One module of a multiboot package (SIF_MULTIBOOT_MOD)."""

    mod_start: x32
    mod_end: x32
    cmdline: x32
    pad: u32


class vga_text_mode_3(Struct):
    """dom0_vga_console_info.u for XEN_VGATYPE_TEXT_MODE_3."""

    font_height: u16
    cursor_x: u16
    cursor_y: u16
    rows: u16
    columns: u16


class vga_vesa_lfb(Struct):
    """dom0_vga_console_info.u for XEN_VGATYPE_VESA_LFB and XEN_VGATYPE_EFI_LFB."""

    width: u16
    height: u16
    bytes_per_line: u16
    bits_per_pixel: u16
    lfb_base: x32
    lfb_size: u32
    red_pos: u8
    red_size: u8
    green_pos: u8
    green_size: u8
    blue_pos: u8
    blue_size: u8
    rsvd_pos: u8
    rsvd_size: u8
    gbl_caps: x32
    mode_attrs: u16
    pad: u16
    ext_lfb_base: x32


class _vga_console(Union):
    text_mode_3: vga_text_mode_3
    vesa_lfb: vga_vesa_lfb


class dom0_vga_console_info(Struct):
    """The boot loader's video mode, handed to domain 0."""

    _selects_ = selects(u=("video_type", {0x03: "text_mode_3", 0x23: "vesa_lfb", 0x70: "vesa_lfb"}))

    video_type: u8
    u: _vga_console


class xenctl_bitmap(Struct):
    """A bitmap in the caller's memory (domctl, sysctl)."""

    bitmap: handle64
    nr_bits: u32


class xen_uuid_t(Struct):
    """A UUID in its printed byte order."""

    a: Annotated[bytes, octets(16)]
