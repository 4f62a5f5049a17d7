# SPDX-License-Identifier: GPL-2.0-or-later
"""The local APIC that each HVM-type vCPU has: xAPIC by MMIO, x2APIC by MSR.

Behaviour is that of Xen's virtual local APIC (xen/arch/x86/hvm/vlapic.c in 4.17), and of the
Intel SDM (volume 3, chapter "APIC") where Xen leaves the choice to it.  Two places follow the
SDM where Xen 4.17 falls short of it: a write to the ESR latches and clears the collected
errors (Xen drops the write), and a timer that expires while its LVT entry is masked leaves
nothing pending.

`LocalApic` is registers and rules alone.  What leaves the register file is an *effect*:
a call of `LapicEffects`, which the hypervisor's vCPU provides.  Routing an IPI to other
vCPUs is the work of `xenograft.arch.x86.platform.apic_bus`.

Accessors of MSRs return an int, or None for "this access raises #GP(0)".
Times are guest nanoseconds (`LapicEffects.now`).
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from xenograft.arch.x86.platform import apicdef as a

LAPIC_VERSION: Final = 0x00050014
"""Version 0x14, highest LVT entry 5: what Xen's LVR reads."""

MIN_PERIOD_NS: Final = 100_000
"""The shortest period of a periodic timer: Xen (hvm/vpt.c) slows faster ones down to this."""


MAX_DELAY_NS: Final = 1 << 62
"""A deadline further off than this (146 years) is taken as this: times stay below 2**63."""


def x2apic_ldr_from_id(apic_id: int) -> int:
    """The logical id that x2APIC mode fixes: cluster in the upper half, one bit in the lower."""
    return ((apic_id & ~0xF) << 12) | (1 << (apic_id & 0xF))


def timer_divisor(tdcr: int) -> int:
    """What the divide configuration register `tdcr` divides the bus clock by (1 to 128)."""
    code = (tdcr & 3) | ((tdcr & 8) >> 1)
    return 1 << ((code + 1) & 7)


class LapicEffects(Protocol):
    """What a local APIC asks of the vCPU that it belongs to."""

    def lapic_now(self) -> int:
        """Guest time in ns."""
        ...

    def lapic_guest_tsc(self) -> int:
        """The vCPU's time stamp counter, as RDTSC would read it now."""
        ...

    def lapic_tsc_to_ns(self, ticks: int) -> int:
        """How many ns `ticks` of the guest's TSC last."""
        ...

    def lapic_arm_timer(self, deadline_ns: int | None) -> None:
        """Call `LocalApic.timer_expired` at guest time `deadline_ns`; None: not any more.

        Replaces what was armed before.
        """
        ...

    def lapic_ipi(self, icr_low: int, dest: int) -> None:
        """Route an inter-processor interrupt (`apic_bus.ApicBus.send` does it)."""
        ...

    def lapic_interrupt(self) -> None:
        """A vector became pending, or a deliverable one may now exist: look at `next_vector`."""
        ...

    def lapic_level_eoi(self, vector: int) -> None:
        """A level-triggered vector was ended (for an I/O APIC)."""
        ...

    def lapic_enabled(self) -> None:
        """The APIC was software-enabled: raise the event upcall again if it is pending."""
        ...


class LapicRecord(msgspec.Struct, frozen=True):
    """The saved state of one local APIC; ``irr``, ``isr``, ``tmr`` are 32 bytes, bit 0 first."""

    vcpu_id: int
    apic_base: int
    id: int
    ldr: int
    dfr: int
    tpr: int
    svr: int
    esr: int
    esr_pending: int
    icr: int
    icr2: int
    lvt: tuple[int, ...]
    tmict: int
    tdcr: int
    tsc_deadline: int
    timer_start: int
    timer_deadline: int
    irr: bytes
    isr: bytes
    tmr: bytes


class LocalApic:
    """One vCPU's local APIC, in its power-on state when made (enabled, xAPIC mode).

    ``timer_start`` is when the current count began and ``timer_deadline`` when the timer
    next expires; both are -1 when nothing runs.
    """

    __slots__ = (
        "_effects",
        "apic_base",
        "dfr",
        "esr",
        "esr_pending",
        "icr",
        "icr2",
        "id",
        "irr",
        "isr",
        "ldr",
        "lvt",
        "svr",
        "tdcr",
        "timer_deadline",
        "timer_start",
        "tmict",
        "tmr",
        "tpr",
        "tsc_deadline",
        "vcpu_id",
    )

    def __init__(self, vcpu_id: int, effects: LapicEffects) -> None:
        self.vcpu_id = vcpu_id
        self._effects = effects
        self.apic_base = 0
        self.id = 0
        self.ldr = 0
        self.icr = self.icr2 = 0
        self.esr = self.esr_pending = 0
        self.irr = self.isr = self.tmr = 0
        self.tsc_deadline = 0
        self.timer_start = self.timer_deadline = -1
        self.reset()

    # -- state ------------------------------------------------------------------------------

    def reset(self) -> None:
        """Power-on state: globally enabled at the default address, software-disabled."""
        self.apic_base = a.APIC_BASE_ENABLE | a.APIC_DEFAULT_PHYS_BASE
        if self.vcpu_id == 0:
            self.apic_base |= a.APIC_BASE_BSP
        self.id = self.apic_id << 24
        self.init()

    def init(self) -> None:
        """What an INIT does: as `reset`, but APIC_BASE and the id stay (in x2APIC the LDR too)."""
        self.irr = self.isr = self.tmr = 0
        self.icr = self.icr2 = 0
        if not self.x2apic_mode:
            self.ldr = 0
        self.dfr = a.APIC_DFR_FLAT
        self.tpr = 0
        self.esr = self.esr_pending = 0
        self.svr = 0xFF
        self.lvt = dict.fromkeys(a.LVT_REGISTERS, a.APIC_LVT_MASKED)
        self.tmict = 0
        self.tdcr = 0
        self.tsc_deadline = 0
        self._stop_timer()

    @property
    def apic_id(self) -> int:
        """The id that Xen gives the vCPU: twice its number."""
        return self.vcpu_id * 2

    @property
    def hw_disabled(self) -> bool:
        """APIC_BASE's enable bit is clear: no register is reachable, CPUID hides the APIC."""
        return not self.apic_base & a.APIC_BASE_ENABLE

    @property
    def sw_disabled(self) -> bool:
        return not self.svr & a.APIC_SPIV_APIC_ENABLED

    @property
    def enabled(self) -> bool:
        """Accepts fixed and lowest-priority interrupts."""
        return bool(self.apic_base & a.APIC_BASE_ENABLE and self.svr & a.APIC_SPIV_APIC_ENABLED)

    @property
    def x2apic_mode(self) -> bool:
        return bool(self.apic_base & a.APIC_BASE_EXTD)

    def save(self) -> LapicRecord:
        return LapicRecord(
            vcpu_id=self.vcpu_id,
            apic_base=self.apic_base,
            id=self.id,
            ldr=self.ldr,
            dfr=self.dfr,
            tpr=self.tpr,
            svr=self.svr,
            esr=self.esr,
            esr_pending=self.esr_pending,
            icr=self.icr,
            icr2=self.icr2,
            lvt=tuple(self.lvt[reg] for reg in a.LVT_REGISTERS),
            tmict=self.tmict,
            tdcr=self.tdcr,
            tsc_deadline=self.tsc_deadline,
            timer_start=self.timer_start,
            timer_deadline=self.timer_deadline,
            irr=self.irr.to_bytes(32, "little"),
            isr=self.isr.to_bytes(32, "little"),
            tmr=self.tmr.to_bytes(32, "little"),
        )

    def restore(self, record: LapicRecord) -> None:
        """Take over a saved state and arm the timer again.

        Raises ValueError for a record of another vCPU, or with x2APIC mode on a disabled APIC.
        """
        if record.vcpu_id != self.vcpu_id:
            raise ValueError(f"local APIC record is of vCPU {record.vcpu_id}, not {self.vcpu_id}")
        if record.apic_base & a.APIC_BASE_EXTD and not record.apic_base & a.APIC_BASE_ENABLE:
            raise ValueError("local APIC record has x2APIC mode without the enable bit")
        if len(record.lvt) != len(a.LVT_REGISTERS):
            raise ValueError(f"local APIC record has {len(record.lvt)} LVT entries")
        self.apic_base = record.apic_base
        self.id = record.id
        self.ldr = record.ldr
        self.dfr = record.dfr
        self.tpr = record.tpr
        self.svr = record.svr
        self.esr = record.esr
        self.esr_pending = record.esr_pending
        self.icr = record.icr
        self.icr2 = record.icr2
        self.lvt = dict(zip(a.LVT_REGISTERS, record.lvt, strict=True))
        self.tmict = record.tmict
        self.tdcr = record.tdcr
        self.tsc_deadline = record.tsc_deadline
        self.timer_start = record.timer_start
        self.timer_deadline = record.timer_deadline
        self.irr = int.from_bytes(record.irr, "little")
        self.isr = int.from_bytes(record.isr, "little")
        self.tmr = int.from_bytes(record.tmr, "little")
        self._effects.lapic_arm_timer(self.timer_deadline if self.timer_deadline >= 0 else None)

    # -- interrupts --------------------------------------------------------------------------

    def set_irq(self, vector: int, level: bool = False) -> None:
        """A vector arrives (from an IPI, the LVT, an I/O APIC or Xen's upcall)."""
        if vector < 16:
            self._error(a.APIC_ESR_RECVILL)
            return
        bit = 1 << vector
        self.tmr = self.tmr | bit if level else self.tmr & ~bit
        if not self.irr & bit:
            self.irr |= bit
            self._effects.lapic_interrupt()

    def test_irq(self, vector: int) -> bool:
        """Whether `vector` is requested and hasn't been acknowledged."""
        return vector >= 16 and bool(self.irr >> vector & 1)

    def ppr(self) -> int:
        """The processor priority: of the TPR or the vector in service, whichever is higher."""
        in_service = (self.isr.bit_length() - 1) & 0xF0 if self.isr else 0
        return self.tpr if self.tpr & 0xF0 >= in_service else in_service

    def next_vector(self) -> int:
        """The highest requested vector above the processor priority, or -1."""
        irr = self.irr
        if not irr or not self.enabled:
            return -1
        vector = irr.bit_length() - 1
        return vector if vector & 0xF0 > self.ppr() & 0xF0 else -1

    def ends_alone(self, vector: int) -> bool:
        """Whether the end of `vector`, which is next, would concern nobody else.

        It's written to an MSR then, nothing waits for it, and no I/O APIC must hear of it.
        """
        bit = 1 << vector
        return self.irr == bit and not self.tmr & bit and self.x2apic_mode

    def acknowledge(self, vector: int) -> None:
        """The CPU entered `vector`: from requested to in service."""
        bit = 1 << vector
        self.isr |= bit
        self.irr &= ~bit

    def eoi(self) -> None:
        """End of the highest interrupt in service (nothing if there is none)."""
        if not self.isr:
            return
        vector = self.isr.bit_length() - 1
        bit = 1 << vector
        self.isr &= ~bit
        if self.tmr & bit:
            self._effects.lapic_level_eoi(vector)
        if self.irr:
            self._effects.lapic_interrupt()

    def _error(self, mask: int) -> None:
        """Collect an error; the first of its kind raises the error LVT entry."""
        if self.esr_pending & mask == mask:
            return
        entry = self.lvt[a.APIC_LVTERR]
        vector = entry & a.APIC_VECTOR_MASK
        raise_vector = not entry & a.APIC_LVT_MASKED and vector >= 16
        if not entry & a.APIC_LVT_MASKED and vector < 16:
            # The error vector is illegal itself: note that, rather than raising it for ever.
            mask |= a.APIC_ESR_RECVILL
        self.esr_pending |= mask
        if raise_vector and self.enabled:
            self.set_irq(vector)

    # -- the view through CR8 ---------------------------------------------------------------

    @property
    def cr8(self) -> int:
        """The task priority class (TPR bits 4-7), as MOV from CR8 reads it."""
        return self.tpr >> 4

    def set_cr8(self, value: int) -> bool:
        """MOV to CR8; False: reserved bits, which raise #GP."""
        if value & ~0xF:
            return False
        self._set_tpr(value << 4)
        return True

    def _set_tpr(self, value: int) -> None:
        self.tpr = value
        if self.irr:
            self._effects.lapic_interrupt()

    # -- the timer ---------------------------------------------------------------------------

    @property
    def _timer_mode(self) -> int:
        return self.lvt[a.APIC_LVTT] & a.APIC_TIMER_MODE_MASK

    def _counting(self) -> bool:
        return self._timer_mode in (a.APIC_TIMER_MODE_ONESHOT, a.APIC_TIMER_MODE_PERIODIC)

    def _stop_timer(self) -> None:
        if self.timer_deadline >= 0:
            self._effects.lapic_arm_timer(None)
        self.timer_start = self.timer_deadline = -1

    def _run_timer(self, start: int, deadline: int) -> None:
        self.timer_start = start
        self.timer_deadline = deadline
        self._effects.lapic_arm_timer(deadline)

    def _current_count(self) -> int:
        """The current count register: what is left of the initial count."""
        if not self.tmict or self.timer_start < 0:
            return 0
        passed = self._effects.lapic_now() - self.timer_start
        passed //= a.APIC_BUS_CYCLE_NS * timer_divisor(self.tdcr)
        if self._timer_mode == a.APIC_TIMER_MODE_PERIODIC:
            passed %= self.tmict
        return max(self.tmict - passed, 0)

    def _update_timer(self, mode: int, old_divisor: int, restart: bool) -> None:
        """Let the timer follow a change of mode, divisor or (`restart`) initial count.

        `mode` is the new one (the LVT still has the old); the divisor is already set.
        What was left of the count stays, in ticks of the new divisor.
        """
        period = self.tmict * a.APIC_BUS_CYCLE_NS * old_divisor
        left = 0
        now = self._effects.lapic_now()
        if restart:
            left = period
        elif period and self.timer_start >= 0:
            passed = now - self.timer_start
            if self._timer_mode == a.APIC_TIMER_MODE_PERIODIC:
                passed %= period
            left = max(period - passed, 0)
        if not left or mode not in (a.APIC_TIMER_MODE_ONESHOT, a.APIC_TIMER_MODE_PERIODIC):
            self._stop_timer()
            return
        divisor = timer_divisor(self.tdcr)
        if divisor != old_divisor:
            period = self.tmict * a.APIC_BUS_CYCLE_NS * divisor
            left = left * divisor // old_divisor
        # A start in the past keeps the current count continuous; before time 0 there is none.
        self._run_timer(max(now - (period - left), 0), now + left)

    def timer_expired(self) -> None:
        """The deadline given to `LapicEffects.lapic_arm_timer` has come.

        A periodic timer is armed for its next period (not before MIN_PERIOD_NS); periods missed
        meanwhile give one interrupt.  Calls that come too early or after the timer was stopped
        do nothing.
        """
        now = self._effects.lapic_now()
        if self.timer_deadline < 0 or now < self.timer_deadline:
            return
        mode = self._timer_mode
        if mode == a.APIC_TIMER_MODE_PERIODIC:
            period = self.tmict * a.APIC_BUS_CYCLE_NS * timer_divisor(self.tdcr)
            period = max(period, MIN_PERIOD_NS)
            missed = (now - self.timer_deadline) // period
            start = self.timer_deadline + missed * period
            self._run_timer(start, start + period)
        else:
            # A one-shot count stays at 0: the start is kept, so that the count reads as over.
            self.timer_deadline = -1
            if mode == a.APIC_TIMER_MODE_TSC_DEADLINE:
                self.tsc_deadline = 0
        entry = self.lvt[a.APIC_LVTT]
        if self.enabled and not entry & a.APIC_LVT_MASKED:
            self.set_irq(entry & a.APIC_VECTOR_MASK)

    def read_tsc_deadline(self) -> int:
        """MSR_IA32_TSC_DEADLINE: 0 in the other timer modes and once it has passed."""
        return self.tsc_deadline if self._timer_mode == a.APIC_TIMER_MODE_TSC_DEADLINE else 0

    def write_tsc_deadline(self, value: int) -> None:
        """Write of MSR_IA32_TSC_DEADLINE: ignored in the other timer modes; 0 disarms."""
        if self.hw_disabled or self._timer_mode != a.APIC_TIMER_MODE_TSC_DEADLINE:
            return
        if not value:
            self.tsc_deadline = 0
            self._stop_timer()
            return
        now = self._effects.lapic_now()
        delta = self._effects.lapic_tsc_to_ns(max(value - self._effects.lapic_guest_tsc(), 0))
        delta = min(delta, MAX_DELAY_NS)
        self.tsc_deadline = value
        if delta > 0:
            self._run_timer(now, now + delta)
        else:
            self.timer_start = self.timer_deadline = now
            self.timer_expired()
            self._effects.lapic_arm_timer(None)

    # -- LVT inputs other than the timer ------------------------------------------------------

    def raise_lvt(self, register: int) -> None:
        """An input of the LVT (APIC_LVTPC, APIC_LVTTHMR, ...) fires in fixed mode."""
        entry = self.lvt[register]
        if self.enabled and not entry & a.APIC_LVT_MASKED:
            self.set_irq(entry & a.APIC_VECTOR_MASK)

    # -- registers -----------------------------------------------------------------------------

    def read_register(self, offset: int) -> int:
        """The 32-bit register at `offset` (a multiple of 16); unknown ones read 0."""
        if a.APIC_ISR <= offset < a.APIC_ESR:
            bank = (self.isr, self.tmr, self.irr)[(offset - a.APIC_ISR) >> 7]
            return bank >> ((offset & 0x70) << 1) & 0xFFFFFFFF
        match offset:
            case a.APIC_ID:
                return self.id
            case a.APIC_LVR:
                return LAPIC_VERSION
            case a.APIC_TASKPRI:
                return self.tpr
            case a.APIC_PROCPRI:
                return self.ppr()
            case a.APIC_LDR:
                return self.ldr
            case a.APIC_DFR:
                return self.dfr
            case a.APIC_SPIV:
                return self.svr
            case a.APIC_ESR:
                return self.esr
            case a.APIC_ICR:
                return self.icr
            case a.APIC_ICR2:
                return self.icr2
            case a.APIC_TMICT:
                return self.tmict if self._counting() else 0
            case a.APIC_TMCCT:
                return self._current_count() if self._counting() else 0
            case a.APIC_TDCR:
                return self.tdcr
            case _:
                return self.lvt.get(offset, 0)

    def write_register(self, offset: int, value: int) -> None:
        """Write the 32-bit register at `offset`; read-only and unknown ones ignore it."""
        match offset:
            case a.APIC_EOI:
                self.eoi()
            case a.APIC_TASKPRI:
                self._set_tpr(value & 0xFF)
            case a.APIC_ICR:
                self.icr = value & ~a.APIC_ICR_BUSY
                dest = self.icr2 if self.x2apic_mode else self.icr2 >> 24
                self._ipi(self.icr, dest)
            case a.APIC_ICR2:
                self.icr2 = value & 0xFF000000
            case a.APIC_ID:
                self.id = value & 0xFF000000
            case a.APIC_LDR:
                self.ldr = value & 0xFF000000
            case a.APIC_DFR:
                self.dfr = value | 0x0FFFFFFF
            case a.APIC_SPIV:
                self._write_svr(value)
            case a.APIC_ESR:
                self.esr = self.esr_pending
                self.esr_pending = 0
            case a.APIC_TMICT:
                if self._counting():
                    self.tmict = value
                    self._update_timer(self._timer_mode, timer_divisor(self.tdcr), restart=True)
            case a.APIC_TDCR:
                old_divisor = timer_divisor(self.tdcr)
                self.tdcr = value & a.APIC_TDR_DIV_MASK
                self._update_timer(self._timer_mode, old_divisor, restart=False)
            case _ if offset in self.lvt:
                self._write_lvt(offset, value)

    def _write_svr(self, value: int) -> None:
        was_disabled = self.sw_disabled
        self.svr = value & 0x3FF
        if self.sw_disabled:
            for register in a.LVT_REGISTERS:
                self.lvt[register] |= a.APIC_LVT_MASKED
        elif was_disabled:
            self._effects.lapic_enabled()
            if self.irr:
                self._effects.lapic_interrupt()

    def _write_lvt(self, register: int, value: int) -> None:
        if register == a.APIC_LVTT:
            mode = value & a.APIC_TIMER_MODE_MASK
            deadline_mode = a.APIC_TIMER_MODE_TSC_DEADLINE
            if (mode == deadline_mode) != (self._timer_mode == deadline_mode):
                # To or from TSC-deadline mode: the timer is disarmed.
                self.tmict = 0
                self.tsc_deadline = 0
                self._stop_timer()
            elif mode != deadline_mode:
                self._update_timer(mode, timer_divisor(self.tdcr), restart=False)
        if self.sw_disabled:
            value |= a.APIC_LVT_MASKED
        self.lvt[register] = value & a.LVT_BITS[register]

    def _ipi(self, icr_low: int, dest: int) -> None:
        if icr_low & a.APIC_VECTOR_MASK < 16 and icr_low & a.APIC_MODE_MASK in (
            a.APIC_DM_FIXED,
            a.APIC_DM_LOWEST,
        ):
            self._error(a.APIC_ESR_SENDILL)
            return
        self._effects.lapic_ipi(icr_low, dest)

    # -- xAPIC: MMIO ---------------------------------------------------------------------------

    def claims(self, gpa: int) -> bool:
        """Whether guest-physical address `gpa` lies in this vCPU's register page."""
        return (
            self.apic_base & (a.APIC_BASE_ENABLE | a.APIC_BASE_EXTD) == a.APIC_BASE_ENABLE
            and gpa & ~0xFFF == self.apic_base & a.APIC_BASE_ADDR_MASK
        )

    def mmio_read(self, offset: int, size: int) -> int:
        """Read `size` bytes at `offset` of the register page.

        Registers are 32 bits at multiples of 16: an access that doesn't fit in one reads 0.
        """
        within = offset & 0xF
        if within + size > 4 or offset > a.APIC_TDCR + 3:
            return 0
        value = self.read_register(offset & ~0xF) >> (within * 8)
        return value & ((1 << (size * 8)) - 1)

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Write `size` bytes; a narrow write changes its part of the register alone."""
        within = offset & 0xF
        register = offset & ~0xF
        if within + size > 4 or register > a.APIC_TDCR:
            return
        if size < 4:
            mask = ((1 << (size * 8)) - 1) << (within * 8)
            value = self.read_register(register) & ~mask | value << (within * 8) & mask
        self.write_register(register, value & 0xFFFFFFFF)

    # -- x2APIC: MSRs 0x800-0x8ff ----------------------------------------------------------------

    def read_x2apic(self, msr: int) -> int | None:
        """RDMSR of MSR_X2APIC_FIRST..LAST; None: #GP."""
        offset = (msr - a.MSR_X2APIC_FIRST) << 4
        if not self.x2apic_mode or offset not in a.X2APIC_READABLE:
            return None
        value = self.read_register(offset)
        return value | self.icr2 << 32 if offset == a.APIC_ICR else value

    def write_x2apic(self, msr: int, value: int) -> bool:
        """WRMSR of MSR_X2APIC_FIRST..LAST; False: #GP."""
        offset = (msr - a.MSR_X2APIC_FIRST) << 4
        if not self.x2apic_mode:
            return False
        writable = a.X2APIC_WRITABLE.get(offset)
        if writable is None or value & ~writable:
            return False
        if offset == a.APIC_ICR:
            self.icr2 = value >> 32
        elif offset == a.APIC_SELF_IPI:
            offset, value = a.APIC_ICR, a.APIC_DEST_SELF | value
        self.write_register(offset, value & 0xFFFFFFFF)
        return True

    # -- MSR_APIC_BASE ---------------------------------------------------------------------------

    def write_apic_base(self, value: int, x2apic_offered: bool = True) -> bool:
        """WRMSR of MSR_APIC_BASE; False: #GP.

        The modes are disabled, xAPIC and x2APIC.  x2APIC is reached from xAPIC alone, and
        left only by disabling the APIC; disabled to xAPIC resets it.  As in Xen, the register
        page of the xAPIC can't be moved.
        """
        allowed = a.APIC_BASE_ADDR_MASK | a.APIC_BASE_ENABLE | a.APIC_BASE_BSP
        if x2apic_offered:
            allowed |= a.APIC_BASE_EXTD
        if value & ~allowed:
            return False
        mode = value & (a.APIC_BASE_ENABLE | a.APIC_BASE_EXTD)
        if mode == a.APIC_BASE_ENABLE and value & a.APIC_BASE_ADDR_MASK != a.APIC_DEFAULT_PHYS_BASE:
            return False
        changed = self.apic_base ^ value
        if changed & a.APIC_BASE_ENABLE:
            if value & a.APIC_BASE_EXTD:
                return False
            if value & a.APIC_BASE_ENABLE:
                self.reset()
        elif changed & a.APIC_BASE_EXTD and (self.hw_disabled or self.x2apic_mode):
            return False
        self.apic_base = value
        if self.x2apic_mode:
            self.id = self.apic_id
            self.ldr = x2apic_ldr_from_id(self.apic_id)
        return True

    # -- being a destination ----------------------------------------------------------------------

    def matches(self, dest: int, logical: bool) -> bool:
        """Whether an interrupt sent to `dest` without a shorthand is for this APIC.

        `dest` has 8 bits from an xAPIC and 32 from an x2APIC.
        """
        if logical:
            return self._matches_logical(dest)
        if self.x2apic_mode:
            return dest in (0xFFFFFFFF, self.id)
        return dest in (0xFF, self.id >> 24)

    def _matches_logical(self, dest: int) -> bool:
        if self.x2apic_mode:
            return self.ldr >> 16 == dest >> 16 and bool(self.ldr & dest & 0xFFFF)
        own = self.ldr >> 24
        dest &= 0xFF
        if self.dfr == a.APIC_DFR_FLAT:
            return bool(own & dest)
        if self.dfr == a.APIC_DFR_CLUSTER:
            return own >> 4 == dest >> 4 and bool(own & dest & 0xF)
        return False
