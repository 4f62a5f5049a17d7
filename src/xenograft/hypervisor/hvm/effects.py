# SPDX-License-Identifier: GPL-2.0-or-later
"""What one vCPU's local APIC and MSRs ask of the vCPU that they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.engine.protocol import P2M_WRITE, PAGE_SHIFT
from xenograft.hypervisor.guest_time import update_vcpu_time
from xenograft.hypervisor.hvm.params import latch_shinfo_size

if TYPE_CHECKING:
    from xenograft.hypervisor.hvm.platform import HvmPlatform
    from xenograft.hypervisor.timers import Timer
    from xenograft.hypervisor.vcpu import Vcpu

_MASK64 = (1 << 64) - 1


class VcpuEffects:
    """Satisfies `LapicEffects` (arch.x86.platform.lapic) and `MsrEffects` (arch.x86.msr)."""

    __slots__ = ("_platform", "_timer", "_vcpu")

    def __init__(self, platform: HvmPlatform, vcpu: Vcpu) -> None:
        self._platform = platform
        self._vcpu = vcpu
        self._timer: Timer | None = None

    # -- of the local APIC -------------------------------------------------------------------
    def lapic_now(self) -> int:
        now: int = self._vcpu.domain.hypervisor.clock.now()
        return now

    def lapic_guest_tsc(self) -> int:
        return self._vcpu.tsc.tsc_at(self.lapic_now())

    def lapic_tsc_to_ns(self, ticks: int) -> int:
        return self._vcpu.tsc.ns_of(ticks)

    def lapic_arm_timer(self, deadline_ns: int | None) -> None:
        timers = self._vcpu.domain.hypervisor.timers
        timers.cancel(self._timer)
        self._timer = None
        if deadline_ns is not None:
            self._timer = timers.add(deadline_ns, self._expired)

    def _expired(self) -> None:
        if self._vcpu.lapic is not None:
            self._vcpu.lapic.timer_expired()

    def lapic_ipi(self, icr_low: int, dest: int) -> None:
        self._platform.bus.send(self._vcpu.vcpu_id, icr_low, dest)

    def lapic_interrupt(self) -> None:
        vcpu = self._vcpu
        vcpu.irq_dirty = True
        if vcpu.blocked and vcpu.lapic is not None and vcpu.lapic.next_vector() >= 0:
            vcpu.unblock()

    def lapic_level_eoi(self, vector: int) -> None:
        self._platform.level_eoi(vector)

    def lapic_enabled(self) -> None:
        vcpu = self._vcpu
        if vcpu.upcall_pending:
            vcpu.domain.assert_upcall(vcpu)

    # -- of the MSRs -------------------------------------------------------------------------
    def msr_get(self, register: str) -> int:
        cpu = self._vcpu.cpu
        assert cpu is not None
        return cpu.get(register)

    def msr_set(self, register: str, value: int) -> None:
        cpu = self._vcpu.cpu
        assert cpu is not None
        cpu.set(register, value)

    def msr_guest_tsc(self) -> int:
        return self.lapic_guest_tsc()

    def msr_adjust_tsc(self, delta: int) -> None:
        vcpu = self._vcpu
        vcpu.tsc = vcpu.tsc._replace(offset=(vcpu.tsc.offset + delta) & _MASK64)
        self._platform.set_tsc(vcpu)
        update_vcpu_time(vcpu, force=True)

    def msr_fill_page(self, gfn: int, page: bytes) -> bool:
        """The hypercall page: writable RAM of the guest's (Xen's wrmsr_hypervisor_regs)."""
        domain = self._vcpu.domain
        try:
            entry = domain.space.lookup(gfn)
        except IndexError:
            return False
        if entry is None or not entry[1] & P2M_WRITE:
            return False
        domain.memory.write(entry[0] << PAGE_SHIFT, page)
        call = self._vcpu.call
        if call is not None:
            cs_long = self.msr_get("efer") >> 10 & 1 and self.msr_get("cs.attr") >> 9 & 1
            latch_shinfo_size(domain, 64 if cs_long else 32)
        return True
