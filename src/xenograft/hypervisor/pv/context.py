# SPDX-License-Identifier: GPL-2.0-or-later
"""A PV vCPU's full context: how guests bring up further vCPUs, and toolstacks the first one.

Facts: arch_set_info_guest() in xen/arch/x86/domain.c of Xen 4.17; struct vcpu_guest_context in
public/arch-x86/xen.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.arch_x86.xen import (
    FIRST_RESERVED_GDT_ENTRY,
    VGCF_in_kernel,
    vcpu_guest_context,
    vcpu_guest_context_32,
)
from xenograft.abi.errno import Errno, XenError
from xenograft.arch.x86 import pv
from xenograft.arch.x86.registers import X86_EFLAGS_IF, X86_EFLAGS_MBS, is_canonical
from xenograft.engine.protocol import PAGE_SHIFT

if TYPE_CHECKING:
    from xenograft.arch.x86.pvh import State
    from xenograft.engine.pv import PvCpu
    from xenograft.hypervisor.call import Call
    from xenograft.hypervisor.vcpu import Vcpu

EFLAGS_IOPL = 0x3000
EFLAGS_VM = 1 << 17
KERNEL_MODE = VGCF_in_kernel
MAX_LDT = 8192
_GPRS_64 = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8"),
    *("rax", "rcx", "rdx", "rsi", "rdi"),
)
_GPRS_32 = ("ebx", "ecx", "edx", "esi", "edi", "ebp", "eax")

Context = vcpu_guest_context | vcpu_guest_context_32


def initialise(call: Call, vcpu: Vcpu, arg: int) -> None:
    """VCPUOP_initialise. Raises XenError: EFAULT; EEXIST if it is initialised; EINVAL."""
    context: Context
    if call.domain.bits == 64:
        context = call.read(arg, vcpu_guest_context)
    else:
        context = call.read(arg, vcpu_guest_context_32)
    if vcpu.initialised:
        raise XenError(Errno.EEXIST)
    set_context(vcpu, context)


def set_context(vcpu: Vcpu, context: Context) -> None:
    """Give a vCPU that never ran its context. Raises XenError(EINVAL), with nothing changed."""
    from xenograft.hypervisor.pv.platform import PvPlatform

    domain = vcpu.domain
    platform = domain.arch
    assert isinstance(platform, PvPlatform)
    _check(context, domain.bits)
    cpu = platform.make_cpu(vcpu)
    _take_tables(cpu, context, domain.bits)
    _set_traps(cpu, context, domain.bits)
    state = _registers(vcpu.vcpu_id, context, domain.bits)
    platform.start(vcpu, state)
    _set_segments(cpu, context, domain.bits)
    domain.hypervisor.frames.settle()


def _check(context: Context, bits: int) -> None:
    addresses: list[int] = []
    if isinstance(context, vcpu_guest_context):
        addresses += [
            context.user_regs.rip,
            context.fs_base,
            context.gs_base_kernel,
            context.gs_base_user,
        ]
        addresses += [
            context.event_callback_eip,
            context.failsafe_callback_eip,
            context.syscall_callback_eip,
        ]
    fine = all(is_canonical(address) for address in addresses)
    if not fine or context.ldt_ents > MAX_LDT or context.gdt_ents > FIRST_RESERVED_GDT_ENTRY:
        raise XenError(Errno.EINVAL)
    if context.ldt_ents and context.ldt_base & 0xFFF:
        raise XenError(Errno.EINVAL)


def _take_tables(cpu: PvCpu, context: Context, bits: int) -> None:
    """Root tables and descriptor frames: all or none of them. Raises XenError(EINVAL)."""
    count = (context.gdt_ents + 511) // 512
    cr3 = context.ctrlreg[3]
    root = cr3 >> PAGE_SHIFT if bits == 64 else (cr3 >> PAGE_SHIFT | cr3 << 20) & 0xFFFFFFFF
    results = [cpu.pv_set_gdt(list(context.gdt_frames[:count]), context.gdt_ents)]
    if not results[-1]:
        results.append(cpu.pv_new_table(root, False))
    if bits == 64 and context.ctrlreg[1] and not results[-1]:
        results.append(cpu.pv_new_table(context.ctrlreg[1] >> PAGE_SHIFT, True))
    if any(results):
        cpu.pv_drop()
        raise XenError(Errno.EINVAL)


def _set_traps(cpu: PvCpu, context: Context, bits: int) -> None:
    from xenograft.hypervisor.pv.calls import least_privilege

    for vector, trap in enumerate(context.trap_ctxt):
        cpu.pv_trap(vector, trap.flags, least_privilege(trap.cs, bits), trap.address)
    cpu.pv_set("event", context.event_callback_eip)
    cpu.pv_set("failsafe", context.failsafe_callback_eip)
    if isinstance(context, vcpu_guest_context):
        cpu.pv_set("syscall", context.syscall_callback_eip)
    else:
        cpu.pv_set("event_cs", least_privilege(context.event_callback_cs & 0xFFFF, 32))
        cpu.pv_set("failsafe_cs", least_privilege(context.failsafe_callback_cs & 0xFFFF, 32))
    cpu.pv_set("flags", context.flags)
    cpu.pv_set("kernel_ss", least_privilege(context.kernel_ss & 0xFFFF, bits))
    cpu.pv_set("kernel_sp", context.kernel_sp)
    cpu.pv_set("user", int(bits == 64 and not context.flags & KERNEL_MODE))


def _registers(vcpu_id: int, context: Context, bits: int) -> State:
    state = pv.kernel_state(vcpu_id, bits, entry=0, stack=0, start_info=0)
    if isinstance(context, vcpu_guest_context):
        for name in (*_GPRS_64, "rip", "rsp"):
            state[name] = getattr(context.user_regs, name)
    else:
        for name in (*_GPRS_32, "eip", "esp"):
            state["r" + name[1:]] = getattr(context.user_regs, name)
    keep = ~(EFLAGS_IOPL | EFLAGS_VM) & 0x3FFFFF
    state["rflags"] = _flags(context) & keep | X86_EFLAGS_IF | X86_EFLAGS_MBS
    return state


def _set_segments(cpu: PvCpu, context: Context, bits: int) -> None:
    from xenograft.hypervisor.pv.calls import least_privilege

    regs = context.user_regs
    # A selector that can't be loaded is null afterwards, as when Xen switches to the vCPU.
    for name in ("cs", "ss"):
        cpu.pv_load_segment(name, least_privilege(getattr(regs, name), bits))
    for name in ("ds", "es", "fs", "gs"):
        if not cpu.pv_load_segment(name, getattr(regs, name)):
            cpu.pv_load_segment(name, 0)
    if isinstance(context, vcpu_guest_context):
        in_kernel = bool(context.flags & KERNEL_MODE)
        cpu.set("fs.base", context.fs_base)
        kernel, user = context.gs_base_kernel, context.gs_base_user
        cpu.set("gs.base", kernel if in_kernel else user)
        cpu.set("kernel_gs_base", user if in_kernel else kernel)
    cpu.pv_set("iopl", _flags(context) & EFLAGS_IOPL)


def _flags(context: Context) -> int:
    if isinstance(context, vcpu_guest_context):
        return context.user_regs.rflags
    return context.user_regs.eflags
