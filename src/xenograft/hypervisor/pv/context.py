# SPDX-License-Identifier: GPL-2.0-or-later
"""A PV vCPU's full context: how guests bring up further vCPUs, and how vCPUs are saved.

Facts: arch_set_info_guest() in xen/arch/x86/domain.c and arch_get_info_guest() in domctl.c of
Xen 4.17; struct vcpu_guest_context in public/arch-x86/xen.h.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from xenograft.abi.arch_x86.xen import (
    FIRST_RESERVED_GDT_ENTRY,
    VGCF_failsafe_disables_events,
    VGCF_in_kernel,
    VGCF_online,
    VGCF_syscall_disables_events,
    cpu_user_regs,
    cpu_user_regs_32,
    trap_info,
    vcpu_guest_context,
    vcpu_guest_context_32,
)
from xenograft.abi.errno import Errno, XenError
from xenograft.arch.x86 import pv
from xenograft.arch.x86.registers import X86_EFLAGS_IF, X86_EFLAGS_MBS, is_canonical
from xenograft.engine.protocol import PAGE_SHIFT
from xenograft.hypervisor.pv.debugreg import HYPERVISOR_VIRT_END, set_debugreg

if TYPE_CHECKING:
    from xenograft.arch.x86.pvh import State
    from xenograft.engine.pv import PvCpu
    from xenograft.hypervisor.call import Call
    from xenograft.hypervisor.vcpu import Vcpu

EFLAGS_IOPL = 0x3000
EFLAGS_VM = 1 << 17
KERNEL_MODE = VGCF_in_kernel
_KEPT_FLAGS = VGCF_failsafe_disables_events | VGCF_syscall_disables_events
MAX_LDT = 8192
LDT_SELECTOR, LDT_ATTR = 0xE048, 0x82
LDT_OFFSET = 16 << PAGE_SHIFT
"""Where a vCPU's LDT is mapped, behind its GDT."""
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


def set_context(
    vcpu: Vcpu, context: Context, registers: dict[str, int | bytes] | None = None
) -> None:
    """Give a vCPU that never ran its context. Raises XenError(EINVAL), with nothing changed.

    `registers`: of a vCPU that was saved, for what isn't part of the context (its FPU).  Raises
    ValueError if they make no sense.
    """
    from xenograft.hypervisor.pv.platform import PvPlatform

    domain = vcpu.domain
    platform = domain.arch
    assert isinstance(platform, PvPlatform)
    _check(context, domain.bits)
    cpu = platform.make_cpu(vcpu)
    if registers is not None:
        cpu.restore(registers)
    _take_tables(cpu, context, domain.bits)
    _set_traps(cpu, context, domain.bits)
    state = _registers(vcpu.vcpu_id, context, domain.bits)
    platform.start(vcpu, state)
    cpu.pv_set("cr4", pv.fixup_guest_cr4(platform.policy, context.ctrlreg[4]))
    cpu.set("cr4", pv.make_cr4(cpu.pv_get("cr4")))
    if context.ctrlreg[0] & pv.X86_CR0_TS:
        cpu.pv_set("taskswitch", 1)
        cpu.set("cr0", pv.CR0 | pv.X86_CR0_TS)
    for number in (0, 1, 2, 3, 6, 7):
        # One that can't be had is left out, as in Xen.
        with contextlib.suppress(XenError):
            set_debugreg(cpu, number, context.debugreg[number], domain.bits)
    _set_segments(cpu, context, domain.bits)
    domain.hypervisor.frames.settle()


def get_context(vcpu: Vcpu) -> Context:
    """The context of a vCPU that stands still, as `set_context` takes it; frames by mfn."""
    from xenograft.hypervisor.pv.platform import pv_cpu

    cpu = pv_cpu(vcpu)
    bits = vcpu.domain.bits
    context: Context
    if bits == 64:
        context = vcpu_guest_context()
        context.user_regs = regs = cpu_user_regs()
        for name in (*_GPRS_64, "rip", "rsp"):
            setattr(regs, name, cpu.get(name))
        regs.rflags = cpu.get("rflags") & ~EFLAGS_IOPL | cpu.pv_get("iopl")
        context.syscall_callback_eip = cpu.pv_get("syscall")
        gs = cpu.get("gs.base"), cpu.get("kernel_gs_base")
        context.fs_base = cpu.get("fs.base")
        context.gs_base_user, context.gs_base_kernel = gs if cpu.pv_get("user") else gs[::-1]
        context.ctrlreg[1] = cpu.pv_get("user_table") << PAGE_SHIFT
    else:
        context = vcpu_guest_context_32()
        context.user_regs = narrow = cpu_user_regs_32()
        for name in (*_GPRS_32, "eip", "esp"):
            setattr(narrow, name, cpu.get("r" + name[1:]) & 0xFFFFFFFF)
        narrow.eflags = cpu.get("rflags") & ~EFLAGS_IOPL | cpu.pv_get("iopl")
        context.event_callback_cs = cpu.pv_get("event_cs")
        context.failsafe_callback_cs = cpu.pv_get("failsafe_cs")
    context.ctrlreg[3] = pv.frame_cr3(cpu.pv_get("kernel_table"), bits)
    for name in ("cs", "ss", "ds", "es", "fs", "gs"):
        setattr(context.user_regs, name, cpu.get(f"{name}.sel"))
    _get_rest(vcpu, cpu, context)
    return context


def _get_rest(vcpu: Vcpu, cpu: PvCpu, context: Context) -> None:
    """What is the same in both widths."""
    in_kernel = vcpu.domain.bits == 32 or not cpu.pv_get("user")
    context.flags = cpu.pv_get("flags") & _KEPT_FLAGS
    context.flags |= (KERNEL_MODE if in_kernel else 0) | (0 if vcpu.down else VGCF_online)
    for vector in range(256):
        flags, cs, address = cpu.pv_get_trap(vector)
        context.trap_ctxt[vector] = trap_info(vector=vector, flags=flags, cs=cs, address=address)
    context.ldt_base, context.ldt_ents = cpu.pv_get("ldt_base"), cpu.pv_get("ldt_entries")
    for index, mfn in enumerate(cpu.pv_gdt()):
        context.gdt_frames[index] = mfn
    context.gdt_ents = cpu.pv_get("gdt_entries")
    context.kernel_ss, context.kernel_sp = cpu.pv_get("kernel_ss"), cpu.pv_get("kernel_sp")
    context.ctrlreg[0] = pv.CR0 | (pv.X86_CR0_TS if cpu.pv_get("taskswitch") else 0)
    context.ctrlreg[4] = cpu.pv_get("cr4")
    for number in (0, 1, 2, 3, 6, 7):
        context.debugreg[number] = cpu.get(f"dr{number}")
    context.event_callback_eip = cpu.pv_get("event")
    context.failsafe_callback_eip = cpu.pv_get("failsafe")
    context.vm_assist = vcpu.domain.vm_assist


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
    if context.ldt_ents:
        far = 0xF580_0000 if bits == 32 else 1 << 47
        high = bits == 64 and context.ldt_base >= HYPERVISOR_VIRT_END
        if context.ldt_base & 0xFFF or (context.ldt_base >= far and not high):
            raise XenError(Errno.EINVAL)


def _take_tables(cpu: PvCpu, context: Context, bits: int) -> None:
    """Root tables and descriptor frames: all or none of them. Raises XenError(EINVAL)."""
    count = (context.gdt_ents + 511) // 512
    root = pv.cr3_frame(context.ctrlreg[3], bits)
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
    cpu.pv_set("ldt_base", context.ldt_base if context.ldt_ents else 0)
    cpu.pv_set("ldt_entries", context.ldt_ents)
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
    if context.ldt_ents:
        state["ldtr.sel"], state["ldtr.base"] = LDT_SELECTOR, pv.gdt_address(vcpu_id) + LDT_OFFSET
        state["ldtr.limit"], state["ldtr.attr"] = context.ldt_ents * 8 - 1, LDT_ATTR
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
