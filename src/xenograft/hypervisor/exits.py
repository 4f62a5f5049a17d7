# SPDX-License-Identifier: GPL-2.0-or-later
"""What an exit of the engine means: a pure function from the exit to an action.

Nothing here touches a domain or an engine, so that every exit can be tried in a test.  The
caller (`hypervisor.run`) carries the action out.

Facts: Xen's hvm_io handlers (vlapic_range, vioapic_range, hpet_range, hvm_print_line at port
0xe9), hvm_hlt(), hvm_triple_fault(); an unclaimed read gives all ones, an unclaimed write is
dropped.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from xenograft.abi.vcpu import VCPUOP_set_singleshot_timer, VCPUOP_stop_singleshot_timer
from xenograft.abi.xen import __HYPERVISOR_vcpu_op
from xenograft.arch.x86.platform.apicdef import APIC_EOI, MSR_X2APIC_FIRST
from xenograft.engine.protocol import Exit, ExitReason

LAPIC_SIZE = 0x1000
DEBUG_PORT = 0xE9
"""HVM guests' debug console: Xen prints what is written there (hvm_print_line)."""


class Act(IntEnum):
    """What to do about an exit. The operands are `a` and `b` of the Action."""

    RESUME = 0
    """Run on: nothing happened."""
    COMPLETE = 1
    """Answer the exit with the value `a`."""
    HYPERCALL = 2
    """Do hypercall number `a` (arguments in the exit)."""
    DEBUG_OUT = 3
    """The guest printed the byte `a`; then complete."""
    LAPIC_READ = 4
    """Read the local APIC's register at offset `a`, `b` bytes."""
    LAPIC_WRITE = 5
    """Write the local APIC's register at offset `a`; the value is `b`."""
    CPUID = 6
    """Answer leaf `a`, subleaf `b`."""
    RDMSR = 7
    WRMSR = 8
    """MSR `a` (value `b`)."""
    BLOCK = 9
    """HLT with interrupts enabled: wait for an event."""
    DOWN = 10
    """HLT with interrupts disabled: the vCPU goes down."""
    YIELD = 11
    """The vCPU spins: let another run."""
    TRIPLE_FAULT = 12
    STAGE2 = 13
    """A guest-physical address `a` that the second stage refuses, access `b`."""
    CRASH = 14
    """The engine failed with its error `a` at RIP `b`: the domain cannot go on."""
    EXCEPTION = 15
    """A PV guest's instruction faulted, and may be emulated."""
    DEVICE_READ = 16
    """Read `b` bytes at guest-physical address `a` of an emulated device."""
    DEVICE_WRITE = 17
    """Write an emulated device at guest-physical address `a`; the value is `b`."""


class Action(NamedTuple):
    """An act with its operands."""

    act: Act
    a: int = 0
    b: int = 0


class Context(NamedTuple):
    """What the decision depends on besides the exit.

    `lapic_base`: guest-physical address of the xAPIC page, or -1 (disabled, or in x2APIC mode).
    `debug_port`: whether writes to port 0xe9 are printed.
    `devices`: guest-physical addresses where emulated devices answer (HVM guests alone have some).
    """

    lapic_base: int = -1
    debug_port: bool = True
    devices: tuple[range, ...] = ()


# As plain integers: looking a member up in its class takes longer than comparing it.
_NOTHING = (int(ExitReason.BUDGET), int(ExitReason.KICK), int(ExitReason.DEBUG))
_HYPERCALL = int(ExitReason.HYPERCALL)
_IO_IN = int(ExitReason.IO_IN)
_IO_OUT = int(ExitReason.IO_OUT)
_MMIO_READ = int(ExitReason.MMIO_READ)
_MMIO_WRITE = int(ExitReason.MMIO_WRITE)
_CPUID = int(ExitReason.CPUID)
_MSR_READ = int(ExitReason.MSR_READ)
_MSR_WRITE = int(ExitReason.MSR_WRITE)
_HALT = int(ExitReason.HALT)
_PAUSE = int(ExitReason.PAUSE)
_SHUTDOWN = int(ExitReason.SHUTDOWN)
_EXCEPTION = int(ExitReason.EXCEPTION)
_STAGE2 = int(ExitReason.STAGE2)

_EOI = MSR_X2APIC_FIRST + (APIC_EOI >> 4)
_OWN_TIMER = (VCPUOP_set_singleshot_timer, VCPUOP_stop_singleshot_timer)


def is_private(exit_: Exit) -> bool:
    """Whether an exit of an HVM-type guest concerns nobody but its vCPU.

    Such are answered while other domains run on other CPUs; a computing guest's timer tick
    consists of them: the end of an interrupt, and the next one-shot timer.

    >>> is_private((ExitReason.MSR_WRITE, 0, _EOI, 0, 0, 0, 0, 0))
    True
    """
    reason = exit_[0]
    if reason == _HYPERCALL:
        return exit_[2] == __HYPERVISOR_vcpu_op and exit_[3] in _OWN_TIMER
    return reason == _MSR_WRITE and exit_[2] == _EOI


_RESUME = Action(Act.RESUME)
_COMPLETE = Action(Act.COMPLETE)


def ones(size: int) -> int:
    """What a read of `size` bytes gives where nobody answers."""
    return (1 << (8 * size)) - 1


_UNCLAIMED = {size: Action(Act.COMPLETE, ones(size)) for size in (1, 2, 4, 8)}


def _of_device(devices: tuple[range, ...], gpa: int, size: int) -> bool:
    """Whether one device answers the whole access."""
    for one in devices:  # a plain loop: HVM guests come here for each hole, too
        if one.start <= gpa < one.stop:
            return gpa + size <= one.stop
    return False


def decide(exit: Exit, context: Context) -> Action:
    """The action for an exit.

    >>> decide((ExitReason.IO_IN, 0, 0x60, 1, 0, 0, 0, 0), Context())
    Action(act=<Act.COMPLETE: 1>, a=255, b=0)
    """
    reason, _, a0, a1, a2, _, _, _ = exit
    if reason == _HYPERCALL:
        return Action(Act.HYPERCALL, a0)
    if reason in _NOTHING:
        return _RESUME
    if reason == _MMIO_WRITE:
        offset = a0 - context.lapic_base
        if context.lapic_base >= 0 and 0 <= offset < LAPIC_SIZE:
            return Action(Act.LAPIC_WRITE, offset, a2)
        if context.devices and _of_device(context.devices, a0, a1):
            return Action(Act.DEVICE_WRITE, a0, a2)
        return _COMPLETE
    if reason == _MMIO_READ:
        offset = a0 - context.lapic_base
        if context.lapic_base >= 0 and 0 <= offset < LAPIC_SIZE:
            return Action(Act.LAPIC_READ, offset, a1)
        if context.devices and _of_device(context.devices, a0, a1):
            return Action(Act.DEVICE_READ, a0, a1)
        return _UNCLAIMED[a1]
    if reason == _HALT:
        return Action(Act.BLOCK if a0 else Act.DOWN)
    if reason == _PAUSE:
        return Action(Act.YIELD)
    if reason == _MSR_READ:
        return Action(Act.RDMSR, a0)
    if reason == _MSR_WRITE:
        return Action(Act.WRMSR, a0, a1)
    if reason == _CPUID:
        return Action(Act.CPUID, a0, a1)
    if reason == _IO_IN:
        return _UNCLAIMED[a1]
    if reason == _IO_OUT:
        if a0 == DEBUG_PORT and a1 == 1 and context.debug_port:
            return Action(Act.DEBUG_OUT, a2 & 0xFF)
        return _COMPLETE
    if reason == _EXCEPTION:
        return Action(Act.EXCEPTION, a0, a1)
    if reason == _STAGE2:
        return Action(Act.STAGE2, a0, a1)
    if reason == _SHUTDOWN:
        return Action(Act.TRIPLE_FAULT, a0)
    return Action(Act.CRASH, a0, a1)
