# SPDX-License-Identifier: GPL-2.0-or-later
"""Carrying out what `exits.decide` has decided about an exit of the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno
from xenograft.abi.hvm.params import HVM_PARAM_TRIPLE_FAULT_REASON
from xenograft.abi.sched import SHUTDOWN_NAMES, SHUTDOWN_reboot
from xenograft.engine.protocol import PAGE_SHIFT, Exit, ExitReason
from xenograft.hypervisor.call import Continuation, NoReturn
from xenograft.hypervisor.exits import Act, Context, decide
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.memory.p2m import FaultAction
from xenograft.hypervisor.pv.emulate import trap_failure
from xenograft.hypervisor.pv.platform import PvPlatform

if TYPE_CHECKING:
    from xenograft.engine.protocol import Cpu
    from xenograft.hypervisor.hypervisor import Hypervisor
    from xenograft.hypervisor.vcpu import Vcpu

X86_EXC_GP = 13
_MASK64 = (1 << 64) - 1
_MASK32 = (1 << 32) - 1

_ARGUMENT_REGISTERS = {
    64: ("rdi", "rsi", "rdx", "r10", "r8"),
    32: ("rbx", "rcx", "rdx", "rsi", "rdi"),
}


# As plain names: looking a member up in its class takes longer than comparing it.
_HYPERCALL = int(ExitReason.HYPERCALL)
_MMIO = (int(ExitReason.MMIO_READ), int(ExitReason.MMIO_WRITE))
_COMPLETE = Act.COMPLETE
_BLOCK = Act.BLOCK
_NO_LAPIC = Context()


def handle(hypervisor: Hypervisor, vcpu: Vcpu, cpu: Cpu, exit_: Exit) -> None:
    """Do what an exit of the guest asks for, and answer it."""
    domain = vcpu.domain
    if (hook := hypervisor.instruments.exit) is not None:
        hook(hypervisor.clock.now(), domain.domid, vcpu.vcpu_id, exit_)
    reason = exit_[0]
    if reason == _HYPERCALL:  # `decide` would say so
        hypercall(hypervisor, vcpu, cpu, exit_)
        return
    context = _NO_LAPIC
    if reason in _MMIO:
        if domain.p2m.touch(exit_[2] >> PAGE_SHIFT):
            cpu.retry()
            return
        arch = domain.arch
        context = Context(arch.lapic_base(vcpu), True, arch.device_ranges)
    act, a, b = decide(exit_, context)
    if act is _COMPLETE:
        cpu.complete(a)
    elif act is _BLOCK:
        if not vcpu.interrupt_pending():
            vcpu.block()
    elif act is Act.LAPIC_WRITE:
        assert vcpu.lapic is not None
        cpu.complete()
        vcpu.lapic.mmio_write(a, exit_[3], b)
    elif act is Act.LAPIC_READ:
        assert vcpu.lapic is not None
        cpu.complete(vcpu.lapic.mmio_read(a, b))
    elif act is Act.DEVICE_READ:
        assert not isinstance(domain.arch, PvPlatform)
        cpu.complete(domain.arch.device_read(a, b))
    elif act is Act.DEVICE_WRITE:
        assert not isinstance(domain.arch, PvPlatform)
        cpu.complete()
        domain.arch.device_write(a, exit_[3], b)
    elif act is Act.RDMSR:
        value = domain.arch.read_msr(vcpu, a)
        if value is None:
            cpu.fault(X86_EXC_GP, 0)
        else:
            cpu.complete(value)
    elif act is Act.WRMSR:
        if domain.arch.write_msr(vcpu, a, b):
            cpu.complete()
        else:
            cpu.fault(X86_EXC_GP, 0)
    elif act is Act.CPUID:
        cpu.complete(*domain.arch.cpuid(vcpu, a, b))
    elif act is Act.YIELD:
        hypervisor.yield_vcpu(vcpu)
    elif act is Act.DEBUG_OUT:
        cpu.complete()
        domain.console_write(bytes([a]))
    elif act is Act.DOWN:
        # Only an NMI could end this HLT; one that is pending does.
        if not vcpu.interrupt_pending():
            domain.arch.vcpu_down(vcpu)
    elif act is Act.EXCEPTION:
        assert isinstance(domain.arch, PvPlatform)
        domain.arch.exception(vcpu, exit_)
    elif act is Act.STAGE2:
        _stage2(vcpu, cpu, a, b)
    elif act is Act.TRIPLE_FAULT:
        if domain.kind is GuestKind.PV:
            domain.crash(trap_failure(exit_))
        else:
            _triple_fault(vcpu)
    elif act is Act.CRASH:
        domain.crash(f"the engine failed with error {a} at RIP {b:#x}")


def hypercall(hypervisor: Hypervisor, vcpu: Vcpu, cpu: Cpu, exit_: Exit) -> None:
    """Answer a hypercall (Xen's hvm_hypercall, pv_hypercall)."""
    flags, number = exit_[1], exit_[2]
    call = vcpu.call
    assert call is not None
    mode = flags >> 2 & 3
    is_pv = vcpu.domain.kind is GuestKind.PV
    if is_pv:
        call.bits, mask = vcpu.domain.bits, _MASK64 if vcpu.domain.bits == 64 else _MASK32
    elif mode == 3:
        call.bits, mask = 64, _MASK64
    else:
        call.bits, mask = 32, _MASK32
        number &= _MASK32
    if flags & 3 and not is_pv:
        cpu.complete(-Errno.EPERM & mask)
        return
    try:
        result = hypervisor.dispatch(call, number, exit_[3:])
    except Continuation as rest:
        cpu.set("rax", rest.number)
        for name, value in zip(_ARGUMENT_REGISTERS[call.bits], rest.arguments, strict=False):
            cpu.set(name, value & mask)
        cpu.retry()
        return
    except NoReturn:
        return
    if vcpu.cpu is not None:
        cpu.complete(result & mask)


def _stage2(vcpu: Vcpu, cpu: Cpu, gpa: int, access: int) -> None:
    """The second stage refuses an access."""
    domain = vcpu.domain
    action = domain.p2m.fault(gpa >> PAGE_SHIFT, access)
    if action is FaultAction.RETRY:
        return
    if action is FaultAction.CRASH:
        domain.crash(f"code in a frame of another domain at {gpa:#x}")
        return
    # What cannot be emulated gets #GP (hvm_hap_nested_page_fault).
    cpu.fault(X86_EXC_GP, 0)


def _triple_fault(vcpu: Vcpu) -> None:
    """Xen's hvm_triple_fault: what it means is HVM_PARAM_TRIPLE_FAULT_REASON."""
    domain = vcpu.domain
    reason = domain.hvm_params.get(HVM_PARAM_TRIPLE_FAULT_REASON, SHUTDOWN_reboot)
    name = SHUTDOWN_NAMES.get(reason, str(reason)).removeprefix("SHUTDOWN_")
    message = f"Triple fault - invoking HVM shutdown action {reason} ({name})"
    domain.log.message(message)
    if domain.crash_report is None:
        domain.crash_report = message
    domain.shutdown(reason)
