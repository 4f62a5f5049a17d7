# SPDX-License-Identifier: GPL-2.0-or-later
"""Privileged instructions of PV kernels, carried out in their stead.

A PV kernel runs unprivileged, so that such an instruction faults; Xen looks at it and does what
the kernel may do.  Whatever isn't emulated is a #GP for the guest.

Facts: pv_emulate_privileged_op() and its helpers in xen/arch/x86/pv/emul-priv-op.c of Xen 4.17.
"""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING, cast

from xenograft.abi.errno import XenError
from xenograft.abi.xen import vcpu_info
from xenograft.arch.x86 import pv
from xenograft.arch.x86.pv_decode import MAX_LENGTH, Insn, Op, decode
from xenograft.arch.x86.registers import X86_CR4_TSD, X86_EXC_GP, X86_EXC_PF
from xenograft.engine.protocol import PAGE_SHIFT, AccessError, Exit
from xenograft.hypervisor.pv.debugreg import get_debugreg, set_debugreg
from xenograft.hypervisor.pv.ports import PageFault, iopl_ok, port_ok, string_io

if TYPE_CHECKING:
    from xenograft.engine.pv import PvCpu
    from xenograft.hypervisor.pv.platform import PvPlatform
    from xenograft.hypervisor.vcpu import Vcpu

GPRS = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *(f"r{number}" for number in range(8, 16)),
)
"""General registers in the order of their numbers in instructions."""
PCI_CONFIG_ADDRESS = 0xCF8
_MASK32 = 0xFFFFFFFF
_FIELDS = ("rip", "cs.base", "cs.attr")


_FAILURES = {
    1: "no handler for what is to be delivered",
    2: "the code selector of a handler can't be loaded",
    3: "the kernel's stack selector can't be loaded",
    4: "the kernel's stack can't be written",
    5: "the frame of an IRET can't be read",
    6: "an IRET to user mode without user page tables",
}


def trap_failure(exit_: Exit) -> str:
    """In words, why a PV guest couldn't be entered: vector (or reason), address, RIP."""
    vector, address, rip = exit_[2:5]
    if vector >> 63:
        reason = _FAILURES.get((1 << 64) - vector, "unknown")
        return f"{reason} (address {address:#x}, RIP {rip:#x})"
    return f"Unhandled: vec {vector}, {address:#x} at RIP {rip:#x}"


class _Fault(Exception):
    """The instruction is a #GP."""


def exception(platform: PvPlatform, vcpu: Vcpu, exit_: Exit) -> None:
    """An exception that the engine left to us: emulate the instruction, or deliver it."""
    vector, error, in_kernel = exit_[2], exit_[3], bool(exit_[6])
    cpu = cast("PvCpu", vcpu.cpu)
    insn = _fetch(cpu, vcpu) if vector == X86_EXC_GP and not error else None
    if insn is None:
        cpu.fault(vector, error)
        return
    try:
        length = _Emulation(platform, vcpu, cpu, in_kernel).run(insn)
    except _Fault:
        cpu.fault(X86_EXC_GP, 0)
        return
    except PageFault as fault:
        cpu.fault(X86_EXC_PF, fault.error, fault.address)
        return
    if vcpu.cpu is not None:
        cpu.complete(length)


def _fetch(cpu: PvCpu, vcpu: Vcpu) -> Insn | None:
    rip, base, attr = (cpu.get(name) for name in _FIELDS)
    bits = 64 if attr & 1 << 9 else 32 if attr & 1 << 10 else 16
    at = rip if bits == 64 else base + rip & _MASK32
    # The instruction may be the last of its page, and nothing mapped behind it.
    size = min(MAX_LENGTH, 0x1000 - (at & 0xFFF))
    try:
        code = cpu.read(at, size)
    except AccessError:
        return None
    if size < MAX_LENGTH:
        with contextlib.suppress(AccessError):
            code += cpu.read(at + size, MAX_LENGTH - size)
    return None if bits == 16 else decode(code, bits)


class _Emulation:
    """One instruction of one vCPU."""

    def __init__(self, platform: PvPlatform, vcpu: Vcpu, cpu: PvCpu, in_kernel: bool) -> None:
        self.platform, self.vcpu, self.cpu = platform, vcpu, cpu
        self.in_kernel = in_kernel

    def run(self, insn: Insn) -> int:
        """How far it takes RIP: not at all, if a string instruction isn't done.

        Raises _Fault, PageFault.
        """
        op = insn.op
        if op in (Op.INS, Op.OUTS):
            return self._string(insn)
        self._run(op, insn)
        return insn.length

    def _run(self, op: Op, insn: Insn) -> None:
        if op in (Op.IN, Op.OUT):
            self._port(insn)
            return
        if op in (Op.CLI, Op.STI):
            # Ignored, as Xen does: POPF couldn't be caught.
            if not iopl_ok(self.vcpu, self.cpu, self.in_kernel):
                raise _Fault
            return
        if op is Op.CPUID:
            self._cpuid()
            return
        if op in (Op.RDTSC, Op.RDTSCP):
            self._rdtsc(op)
            return
        if not self.in_kernel:
            raise _Fault
        handler = _KERNEL_OPS.get(op)
        if handler is None:
            raise _Fault
        handler(self, insn)

    # -- ports ---------------------------------------------------------------------------------
    def _check_port(self, insn: Insn) -> None:
        port = insn.port if insn.port >= 0 else self.cpu.get("rdx") & 0xFFFF
        bitmap = self.platform.io_bitmaps.get(self.vcpu.vcpu_id, (0, 0))
        if not port_ok(self.vcpu, self.cpu, self.in_kernel, port, insn.size, bitmap):
            raise _Fault

    def _port(self, insn: Insn) -> None:
        """No port belongs to the guest: reads give ones, writes are dropped."""
        self._check_port(insn)
        if insn.op is Op.IN:
            ones = (1 << 8 * insn.size) - 1
            rax = self.cpu.get("rax")
            self.cpu.set("rax", ones if insn.size == 4 else rax | ones)

    def _string(self, insn: Insn) -> int:
        self._check_port(insn)
        bits = 64 if self.cpu.get("cs.attr") & 1 << 9 else 32
        return insn.length if string_io(self.cpu, insn, bits) else 0

    # -- time and identity -----------------------------------------------------------------------
    def _cpuid(self) -> None:
        cpu = self.cpu
        leaf, subleaf = cpu.get("rax") & _MASK32, cpu.get("rcx") & _MASK32
        for name, value in zip(
            ("rax", "rbx", "rcx", "rdx"),
            self.platform.cpuid(self.vcpu, leaf, subleaf),
            strict=True,
        ):
            cpu.set(name, value)

    def _rdtsc(self, op: Op) -> None:
        cpu = self.cpu
        if cpu.pv_get("cr4") & X86_CR4_TSD and not self.in_kernel:
            raise _Fault
        if op is Op.RDTSCP:
            cpu.set("rcx", cpu.get("tsc_aux") & _MASK32)
        tsc = cpu.tsc()
        cpu.set("rax", tsc & _MASK32)
        cpu.set("rdx", tsc >> 32)

    # -- for the kernel alone --------------------------------------------------------------------
    def _clts(self, _insn: Insn) -> None:
        self._taskswitch(False)

    def _taskswitch(self, on: bool) -> None:
        cpu = self.cpu
        cpu.pv_set("taskswitch", int(on))
        cpu.set("cr0", pv.CR0 | (pv.X86_CR0_TS if on else 0))

    def _nothing(self, _insn: Insn) -> None:
        """WBINVD: caches are nothing that a guest without devices could tell."""

    def _cr2_at(self) -> int | None:
        maddr = self.vcpu.vcpu_info_maddr
        bits = self.vcpu.domain.bits
        return None if maddr is None else maddr + vcpu_info.offsetof("arch.cr2", bits)

    def _read_cr(self, insn: Insn) -> None:
        cpu, wide = self.cpu, self.vcpu.domain.bits == 64
        if insn.number == 0:
            value = pv.CR0 | (pv.X86_CR0_TS if cpu.pv_get("taskswitch") else 0)
        elif insn.number == 2:
            at = self._cr2_at()
            size = 8 if wide else 4
            value = (
                0
                if at is None
                else int.from_bytes(self.vcpu.domain.memory.read(at, size), "little")
            )
        elif insn.number == 3:
            mfn = cpu.pv_get("kernel_table")
            value = mfn << PAGE_SHIFT if wide else (mfn << PAGE_SHIFT | mfn >> 20) & _MASK32
        elif insn.number == 4:
            value = cpu.pv_get("cr4")
        else:
            raise _Fault
        cpu.set(GPRS[insn.gpr], value)

    def _write_cr(self, insn: Insn) -> None:
        cpu, wide = self.cpu, self.vcpu.domain.bits == 64
        value = cpu.get(GPRS[insn.gpr])
        if insn.number == 0:
            if (value ^ pv.CR0) & ~pv.X86_CR0_TS:
                raise _Fault
            self._taskswitch(bool(value & pv.X86_CR0_TS))
        elif insn.number == 2:
            at = self._cr2_at()
            if at is not None:
                data = struct.pack("<Q" if wide else "<I", value)
                self.vcpu.domain.memory.write(at, data)
        elif insn.number == 3:
            mfn = value >> PAGE_SHIFT if wide else value >> PAGE_SHIFT | (value & 0xFFF) << 20
            if cpu.pv_new_table(mfn, False):
                raise _Fault
            self.vcpu.domain.hypervisor.frames.settle()
        elif insn.number == 4:
            guest = pv.fixup_guest_cr4(self.platform.policy, value)
            cpu.pv_set("cr4", guest)
            cpu.set("cr4", pv.make_cr4(guest))
        else:
            raise _Fault

    def _read_dr(self, insn: Insn) -> None:
        try:
            self.cpu.set(GPRS[insn.gpr], get_debugreg(self.cpu, insn.number))
        except XenError:
            raise _Fault from None

    def _write_dr(self, insn: Insn) -> None:
        value = self.cpu.get(GPRS[insn.gpr])
        try:
            set_debugreg(self.cpu, insn.number, value, self.vcpu.domain.bits)
        except XenError:
            raise _Fault from None

    def _rdmsr(self, _insn: Insn) -> None:
        value = self.platform.read_msr(self.vcpu, self.cpu.get("rcx") & _MASK32)
        if value is None:
            raise _Fault
        self.cpu.set("rax", value & _MASK32)
        self.cpu.set("rdx", value >> 32)

    def _wrmsr(self, _insn: Insn) -> None:
        cpu = self.cpu
        value = cpu.get("rax") & _MASK32 | (cpu.get("rdx") & _MASK32) << 32
        if not self.platform.write_msr(self.vcpu, cpu.get("rcx") & _MASK32, value):
            raise _Fault

    def _xsetbv(self, _insn: Insn) -> None:
        cpu, mask = self.cpu, self.platform.policy.xcr0_mask
        value = cpu.get("rax") & _MASK32 | (cpu.get("rdx") & _MASK32) << 32
        if cpu.get("rcx") & _MASK32 or not value & 1 or value & ~mask:
            raise _Fault
        cpu.set("xcr0", value)


_KERNEL_OPS = {
    Op.CLTS: _Emulation._clts,
    Op.WBINVD: _Emulation._nothing,
    Op.READ_CR: _Emulation._read_cr,
    Op.WRITE_CR: _Emulation._write_cr,
    Op.READ_DR: _Emulation._read_dr,
    Op.WRITE_DR: _Emulation._write_dr,
    Op.RDMSR: _Emulation._rdmsr,
    Op.WRMSR: _Emulation._wrmsr,
    Op.XSETBV: _Emulation._xsetbv,
}
