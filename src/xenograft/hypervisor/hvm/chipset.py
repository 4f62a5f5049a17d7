# SPDX-License-Identifier: GPL-2.0-or-later
"""The devices that Xen itself emulates for HVM guests, beside each vCPU's local APIC.

`Chipset` belongs to an HVM domain and connects `arch`'s I/O APIC and HPET (which know registers
and rules) with each other, with the domain's local APICs and with the machine's timers.  PVH
guests have none: of Xen's emulation flags (public/arch-x86/xen.h) they have the local APIC's alone.

Facts: Xen's hvm_ioapic_assert() and hvm_ioapic_deassert() (xen/arch/x86/hvm/irq.c), hpet_init().
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.hvm.params import HVM_PARAM_HPET_ENABLED
from xenograft.arch.x86.platform.hpet import HPET_BASE, HPET_SIZE, TIMERS, Hpet
from xenograft.arch.x86.platform.ioapic import IOAPIC_BASE, IOAPIC_SIZE, IoApic

if TYPE_CHECKING:
    from xenograft.arch.x86.platform.apic_bus import ApicBus
    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.timers import Timer

RANGES = (range(IOAPIC_BASE, IOAPIC_BASE + IOAPIC_SIZE), range(HPET_BASE, HPET_BASE + HPET_SIZE))
"""Guest-physical addresses where the devices answer."""


class Chipset:
    """Satisfies `IoApicEffects` and `HpetEffects` (arch.x86.platform.ioapic, .hpet)."""

    def __init__(self, domain: Domain, bus: ApicBus) -> None:
        self._domain = domain
        self._bus = bus
        self._timers: list[Timer | None] = [None] * TIMERS
        self.ioapic = IoApic(self)
        self.hpet = Hpet(self)
        domain.hvm_params[HVM_PARAM_HPET_ENABLED] = 1

    def close(self) -> None:
        """Stop the timers (the domain is being destroyed)."""
        self.hpet.close()

    # -- the guest's accesses: inside RANGES, 1, 2, 4 or 8 bytes ------------------------------
    def read(self, gpa: int, size: int) -> int:
        if gpa < HPET_BASE:
            return self.ioapic.mmio_read(gpa - IOAPIC_BASE, size)
        if not self._domain.hvm_params.get(HVM_PARAM_HPET_ENABLED):
            return (1 << 8 * size) - 1
        return self.hpet.mmio_read(gpa - HPET_BASE, size)

    def write(self, gpa: int, size: int, value: int) -> None:
        if gpa < HPET_BASE:
            self.ioapic.mmio_write(gpa - IOAPIC_BASE, size, value)
        elif self._domain.hvm_params.get(HVM_PARAM_HPET_ENABLED):
            self.hpet.mmio_write(gpa - HPET_BASE, size, value)

    # -- what the I/O APIC asks for -----------------------------------------------------------
    def ioapic_deliver(self, entry_low: int, dest: int) -> None:
        self._bus.message(entry_low, dest)

    def ioapic_unmasked(self, pin: int) -> None:
        self.hpet.unmasked()

    # -- what the HPET asks for ---------------------------------------------------------------
    def hpet_now(self) -> int:
        now: int = self._domain.hypervisor.clock.now()
        return now

    def hpet_arm_timer(self, index: int, deadline_ns: int | None) -> None:
        timers = self._domain.hypervisor.timers
        timers.cancel(self._timers[index])
        self._timers[index] = None
        if deadline_ns is not None:
            self._timers[index] = timers.add(deadline_ns, lambda: self.hpet.timer_expired(index))

    def hpet_masked(self, pin: int) -> bool:
        return self.ioapic.masked(pin)

    def hpet_pulse(self, pin: int) -> None:
        self.ioapic.pulse(pin)

    def hpet_hold(self, pin: int, up: bool) -> None:
        if up:
            self.ioapic.hold(pin)
        else:
            self.ioapic.release(pin)
