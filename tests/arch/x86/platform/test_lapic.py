# SPDX-License-Identifier: GPL-2.0-or-later
"""The local APIC's registers, priorities, timer and modes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenograft.arch.x86.platform import apicdef as a
from xenograft.arch.x86.platform.lapic import (
    LAPIC_VERSION,
    MIN_PERIOD_NS,
    LapicRecord,
    LocalApic,
    timer_divisor,
    x2apic_ldr_from_id,
)

ENABLE = a.APIC_BASE_ENABLE
X2APIC = a.APIC_BASE_ENABLE | a.APIC_BASE_EXTD
TSC_KHZ = 2_000_000


class Effects:
    """Records what the APIC asks for; time is what the test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000
        self.deadline: int | None = None
        self.ipis: list[tuple[int, int]] = []
        self.level_eois: list[int] = []
        self.interrupts = 0
        self.enables = 0

    def lapic_now(self) -> int:
        return self.now

    def lapic_guest_tsc(self) -> int:
        return self.now * TSC_KHZ // 1_000_000

    def lapic_tsc_to_ns(self, ticks: int) -> int:
        return -(-ticks * 1_000_000 // TSC_KHZ)

    def lapic_arm_timer(self, deadline_ns: int | None) -> None:
        self.deadline = deadline_ns

    def lapic_ipi(self, icr_low: int, dest: int) -> None:
        self.ipis.append((icr_low, dest))

    def lapic_interrupt(self) -> None:
        self.interrupts += 1

    def lapic_level_eoi(self, vector: int) -> None:
        self.level_eois.append(vector)

    def lapic_enabled(self) -> None:
        self.enables += 1


@pytest.fixture
def effects() -> Effects:
    return Effects()


@pytest.fixture
def apic(effects: Effects) -> LocalApic:
    """Software-enabled, in xAPIC mode."""
    apic = LocalApic(0, effects)
    apic.write_register(a.APIC_SPIV, 0x1FF)
    return apic


@pytest.fixture
def x2apic(apic: LocalApic) -> LocalApic:
    assert apic.write_apic_base(a.APIC_DEFAULT_PHYS_BASE | X2APIC | a.APIC_BASE_BSP)
    return apic


def msr(offset: int) -> int:
    return a.MSR_X2APIC_FIRST + (offset >> 4)


# -- power-on --------------------------------


def test_power_on_state(effects: Effects) -> None:
    apic = LocalApic(3, effects)
    assert apic.apic_base == 0xFEE00800
    assert apic.read_register(a.APIC_ID) == 6 << 24
    assert apic.read_register(a.APIC_LVR) == LAPIC_VERSION
    assert apic.read_register(a.APIC_SPIV) == 0xFF
    assert apic.read_register(a.APIC_DFR) == 0xFFFFFFFF
    assert [apic.read_register(reg) for reg in a.LVT_REGISTERS] == [a.APIC_LVT_MASKED] * 6
    assert apic.sw_disabled
    assert not apic.hw_disabled
    assert not apic.enabled
    assert LocalApic(0, effects).apic_base == 0xFEE00900


def test_nothing_is_deliverable_while_software_disabled(effects: Effects) -> None:
    apic = LocalApic(0, effects)
    apic.set_irq(0x80)
    assert apic.test_irq(0x80)
    assert apic.next_vector() == -1
    apic.write_register(a.APIC_SPIV, 0x1FF)
    assert effects.enables == 1
    assert apic.next_vector() == 0x80


def test_software_disable_masks_the_lvt(apic: LocalApic) -> None:
    apic.write_register(a.APIC_LVT0, 0x30)
    assert apic.read_register(a.APIC_LVT0) == 0x30
    apic.write_register(a.APIC_SPIV, 0xFF)
    assert apic.read_register(a.APIC_LVT0) == 0x30 | a.APIC_LVT_MASKED
    apic.write_register(a.APIC_LVT0, 0x31)
    assert apic.read_register(a.APIC_LVT0) == 0x31 | a.APIC_LVT_MASKED


# -- priorities --------------------------------


def test_the_highest_vector_comes_first_and_eoi_lets_the_next_in(apic: LocalApic) -> None:
    apic.set_irq(0x41)
    apic.set_irq(0x83)
    apic.set_irq(0x85)
    assert apic.next_vector() == 0x85
    apic.acknowledge(0x85)
    # 0x83 is of the same class as what is in service, so it waits.
    assert apic.next_vector() == -1
    assert apic.ppr() == 0x80
    apic.set_irq(0x90)
    assert apic.next_vector() == 0x90
    apic.eoi()
    apic.acknowledge(0x90)
    apic.eoi()
    assert apic.next_vector() == 0x83


def test_task_priority_holds_back_its_class(apic: LocalApic) -> None:
    apic.set_irq(0x45)
    apic.write_register(a.APIC_TASKPRI, 0x40)
    assert apic.next_vector() == -1
    apic.write_register(a.APIC_TASKPRI, 0x3F)
    assert apic.next_vector() == 0x45
    assert apic.ppr() == 0x3F


def test_cr8_is_the_class_of_the_task_priority(apic: LocalApic, effects: Effects) -> None:
    assert apic.set_cr8(5)
    assert apic.read_register(a.APIC_TASKPRI) == 0x50
    assert apic.cr8 == 5
    assert not apic.set_cr8(0x10)
    apic.set_irq(0x51)
    before = effects.interrupts
    assert apic.set_cr8(0)
    assert effects.interrupts == before + 1


def test_eoi_with_nothing_in_service_is_harmless(apic: LocalApic, effects: Effects) -> None:
    apic.eoi()
    assert effects.level_eois == []


def test_level_triggered_vectors_report_their_end(apic: LocalApic, effects: Effects) -> None:
    apic.set_irq(0x60, level=True)
    assert apic.read_register(a.APIC_TMR + 0x30) == 1
    apic.acknowledge(0x60)
    apic.eoi()
    assert effects.level_eois == [0x60]
    apic.set_irq(0x60)
    apic.acknowledge(0x60)
    apic.eoi()
    assert effects.level_eois == [0x60]


@given(st.sets(st.integers(16, 255)), st.integers(0, 255))
def test_next_vector_follows_its_definition(pending: set[int], tpr: int) -> None:
    apic = LocalApic(0, Effects())
    apic.write_register(a.APIC_SPIV, 0x1FF)
    apic.write_register(a.APIC_TASKPRI, tpr)
    for vector in pending:
        apic.set_irq(vector)
    deliverable = [vector for vector in pending if vector >> 4 > tpr >> 4]
    assert apic.next_vector() == max(deliverable, default=-1)
    words = [apic.read_register(a.APIC_IRR + 0x10 * i) for i in range(8)]
    assert {
        32 * i + bit for i, word in enumerate(words) for bit in range(32) if word >> bit & 1
    } == pending


@given(st.lists(st.tuples(st.sampled_from(["irq", "take", "eoi", "tpr"]), st.integers(16, 255))))
def test_vectors_in_service_nest_by_class(steps: list[tuple[str, int]]) -> None:
    """Whatever a guest does, what enters is of a higher class than all that is in service."""
    apic = LocalApic(0, Effects())
    apic.write_register(a.APIC_SPIV, 0x1FF)
    stack: list[int] = []
    for step, value in steps:
        if step == "irq":
            apic.set_irq(value)
        elif step == "tpr":
            apic.write_register(a.APIC_TASKPRI, value)
        elif step == "eoi":
            apic.eoi()
            if stack:
                stack.pop()
        elif (vector := apic.next_vector()) >= 0:
            assert not stack or vector >> 4 > stack[-1] >> 4
            apic.acknowledge(vector)
            stack.append(vector)
    assert apic.isr == sum(1 << vector for vector in stack)


# -- errors --------------------------------


def test_illegal_vectors_set_the_error_status_once_it_is_written(apic: LocalApic) -> None:
    apic.set_irq(3)
    assert apic.irr == 0
    assert apic.read_register(a.APIC_ESR) == 0
    apic.write_register(a.APIC_ESR, 0)
    assert apic.read_register(a.APIC_ESR) == a.APIC_ESR_RECVILL
    apic.write_register(a.APIC_ESR, 0)
    assert apic.read_register(a.APIC_ESR) == 0


@pytest.mark.parametrize("mode", [a.APIC_DM_FIXED, a.APIC_DM_LOWEST])
def test_sending_an_illegal_vector(apic: LocalApic, effects: Effects, mode: int) -> None:
    apic.write_register(a.APIC_LVTERR, 0xFE)
    apic.write_register(a.APIC_ICR, mode | 0x0F)
    assert effects.ipis == []
    assert apic.next_vector() == 0xFE
    apic.write_register(a.APIC_ESR, 0)
    assert apic.read_register(a.APIC_ESR) == a.APIC_ESR_SENDILL


def test_nmi_and_init_may_have_a_low_vector(apic: LocalApic, effects: Effects) -> None:
    apic.write_register(a.APIC_ICR2, 2 << 24)
    apic.write_register(a.APIC_ICR, a.APIC_DM_NMI)
    apic.write_register(a.APIC_ICR, a.APIC_DM_STARTUP | 8)
    assert effects.ipis == [(a.APIC_DM_NMI, 2), (a.APIC_DM_STARTUP | 8, 2)]


def test_an_illegal_error_vector_does_not_recurse(apic: LocalApic) -> None:
    apic.write_register(a.APIC_LVTERR, 5)
    apic.write_register(a.APIC_ICR, 1)
    apic.write_register(a.APIC_ESR, 0)
    assert apic.read_register(a.APIC_ESR) == a.APIC_ESR_SENDILL | a.APIC_ESR_RECVILL
    assert apic.irr == 0


# -- registers --------------------------------


def test_the_pending_bit_of_the_icr_never_reads_set(apic: LocalApic) -> None:
    apic.write_register(a.APIC_ICR, a.APIC_ICR_BUSY | a.APIC_DEST_SELF | 0x40)
    assert apic.read_register(a.APIC_ICR) == a.APIC_DEST_SELF | 0x40


def test_writable_bits_of_each_register(apic: LocalApic) -> None:
    expected = {
        a.APIC_ID: 0xFF000000,
        a.APIC_TASKPRI: 0xFF,
        a.APIC_LDR: 0xFF000000,
        a.APIC_DFR: 0xFFFFFFFF,
        a.APIC_ICR2: 0xFF000000,
        a.APIC_LVTT: 0x710FF,
        a.APIC_LVTTHMR: 0x117FF,
        a.APIC_LVTPC: 0x117FF,
        a.APIC_LVT0: 0x1F7FF,
        a.APIC_LVT1: 0x1F7FF,
        a.APIC_LVTERR: 0x110FF,
        a.APIC_TDCR: 0xB,
    }
    for register, bits in expected.items():
        apic.write_register(register, 0xFFFFFFFF)
        assert apic.read_register(register) == bits, hex(register)
    apic.write_register(a.APIC_DFR, 0)
    assert apic.read_register(a.APIC_DFR) == 0x0FFFFFFF


@pytest.mark.parametrize("register", [a.APIC_LVR, a.APIC_PROCPRI, a.APIC_TMCCT, a.APIC_IRR, 0x3F0])
def test_read_only_registers_ignore_writes(apic: LocalApic, register: int) -> None:
    before = apic.save()
    apic.write_register(register, 0xFFFFFFFF)
    assert apic.save() == before


def test_mmio_accesses_within_one_register(apic: LocalApic) -> None:
    apic.mmio_write(a.APIC_LDR, 4, 0x12345678)
    assert apic.mmio_read(a.APIC_LDR, 4) == 0x12000000
    assert apic.mmio_read(a.APIC_LDR + 3, 1) == 0x12
    assert apic.mmio_read(a.APIC_LDR + 2, 2) == 0x1200
    apic.mmio_write(a.APIC_LDR + 3, 1, 0x34)
    assert apic.read_register(a.APIC_LDR) == 0x34000000
    apic.mmio_write(a.APIC_TASKPRI, 1, 0x150)
    assert apic.read_register(a.APIC_TASKPRI) == 0x50


@pytest.mark.parametrize(
    ("offset", "size"), [(0x22, 4), (0x20, 8), (0x2F, 2), (0x3F4, 4), (0xFF0, 4)]
)
def test_mmio_accesses_across_registers_read_zero(apic: LocalApic, offset: int, size: int) -> None:
    apic.write_register(a.APIC_ID, 0xFF000000)
    assert apic.mmio_read(offset, size) == 0
    before = apic.save()
    apic.mmio_write(offset, size, (1 << 8 * size) - 1)
    assert apic.save() == before


@given(st.integers(0, 0xFFF), st.sampled_from([1, 2, 4, 8]), st.integers(0, 2**64 - 1))
def test_no_mmio_access_of_a_guest_does_harm(offset: int, size: int, value: int) -> None:
    apic = LocalApic(1, Effects())
    apic.write_register(a.APIC_SPIV, 0x1FF)
    apic.mmio_write(offset, size, value & ((1 << 8 * size) - 1))
    assert 0 <= apic.mmio_read(offset, size) < 1 << 32
    copy = LocalApic(1, Effects())
    copy.restore(apic.save())
    assert copy.save() == apic.save()


def test_the_register_page_is_claimed_in_xapic_mode_alone(apic: LocalApic) -> None:
    assert apic.claims(0xFEE00000)
    assert apic.claims(0xFEE00FFF)
    assert not apic.claims(0xFEE01000)
    apic.write_apic_base(a.APIC_DEFAULT_PHYS_BASE | X2APIC)
    assert not apic.claims(0xFEE00000)
    apic.write_apic_base(0)
    assert not apic.claims(0xFEE00000)


# -- x2APIC --------------------------------


def test_entering_x2apic_mode_fixes_the_ids(effects: Effects) -> None:
    for vcpu_id in (0, 1, 7, 8, 33, 127):
        apic = LocalApic(vcpu_id, effects)
        apic.write_apic_base(apic.apic_base | a.APIC_BASE_EXTD)
        assert apic.read_x2apic(msr(a.APIC_ID)) == 2 * vcpu_id
        ldr = (2 * vcpu_id >> 4) << 16 | 1 << (2 * vcpu_id & 15)
        assert apic.read_x2apic(msr(a.APIC_LDR)) == ldr
        assert x2apic_ldr_from_id(2 * vcpu_id) == ldr
        apic.init()
        assert apic.ldr == ldr


def test_x2apic_msrs_fault_in_xapic_mode(apic: LocalApic) -> None:
    assert apic.read_x2apic(msr(a.APIC_ID)) is None
    assert not apic.write_x2apic(msr(a.APIC_TASKPRI), 0)


def test_x2apic_readable_msrs(x2apic: LocalApic) -> None:
    readable = {
        offset >> 4
        for offset in range(0, 0x1000, 0x10)
        if x2apic.read_x2apic(msr(offset)) is not None
    }
    assert readable == {
        0x02, 0x03, 0x08, 0x0A, 0x0D, 0x0F, *range(0x10, 0x29), 0x2F, 0x30,
        *range(0x32, 0x3A), 0x3E,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("offset", "good", "bad"),
    [
        (a.APIC_TASKPRI, 0xFF, 0x100),
        (a.APIC_EOI, 0, 1),
        (a.APIC_ESR, 0, 1),
        (a.APIC_SPIV, 0x3FF, 0x1000),
        (a.APIC_LVTT, 0x710FF, 0x100),
        (a.APIC_LVTPC, 0x117FF, 0x8000),
        (a.APIC_LVT0, 0x1F7FF, 0x20000),
        (a.APIC_LVTERR, 0x110FF, 0x700),
        (a.APIC_TDCR, 0xB, 4),
        (a.APIC_SELF_IPI, 0xFF, 0x100),
        (a.APIC_ICR, 0xFFFFFFFF_000CCFFF, 0x1000),
        (a.APIC_CMCI, 0x117FF, 0x20000),
    ],
)
def test_x2apic_reserved_bits_fault(x2apic: LocalApic, offset: int, good: int, bad: int) -> None:
    assert x2apic.write_x2apic(msr(offset), good)
    assert not x2apic.write_x2apic(msr(offset), bad)
    if offset not in (a.APIC_ICR,):
        assert not x2apic.write_x2apic(msr(offset), 1 << 32)


@pytest.mark.parametrize(
    "offset", [a.APIC_ID, a.APIC_LVR, a.APIC_LDR, a.APIC_DFR, a.APIC_ICR2, a.APIC_IRR, 0xFF0, 0]
)
def test_x2apic_read_only_msrs_fault_on_writes(x2apic: LocalApic, offset: int) -> None:
    assert not x2apic.write_x2apic(msr(offset), 0)


def test_the_x2apic_icr_is_one_msr(x2apic: LocalApic, effects: Effects) -> None:
    assert x2apic.write_x2apic(msr(a.APIC_ICR), 0x12345678_00004042)
    assert effects.ipis == [(0x4042, 0x12345678)]
    assert x2apic.read_x2apic(msr(a.APIC_ICR)) == 0x12345678_00004042


def test_self_ipi(x2apic: LocalApic, effects: Effects) -> None:
    assert x2apic.write_x2apic(msr(a.APIC_SELF_IPI), 0x77)
    assert effects.ipis == [(a.APIC_DEST_SELF | 0x77, 0)]
    assert x2apic.read_x2apic(msr(a.APIC_SELF_IPI)) is None


# -- APIC_BASE --------------------------------

DISABLED, XAPIC, INVALID = 0, ENABLE, a.APIC_BASE_EXTD


@pytest.mark.parametrize(
    ("start", "to", "allowed"),
    [
        (XAPIC, XAPIC, True),
        (XAPIC, X2APIC, True),
        (XAPIC, DISABLED, True),
        (XAPIC, INVALID, False),
        (X2APIC, X2APIC, True),
        (X2APIC, XAPIC, False),
        (X2APIC, DISABLED, True),
        (X2APIC, INVALID, False),
        (DISABLED, DISABLED, True),
        (DISABLED, XAPIC, True),
        (DISABLED, X2APIC, False),
        (DISABLED, INVALID, False),
    ],
)
def test_mode_transitions(apic: LocalApic, start: int, to: int, allowed: bool) -> None:
    if start != XAPIC:
        assert apic.write_apic_base(a.APIC_DEFAULT_PHYS_BASE | start)
    before = apic.apic_base
    assert apic.write_apic_base(a.APIC_DEFAULT_PHYS_BASE | to) is allowed
    assert apic.apic_base == (a.APIC_DEFAULT_PHYS_BASE | to if allowed else before)


def test_apic_base_refuses_reserved_bits_and_another_address(apic: LocalApic) -> None:
    assert not apic.write_apic_base(apic.apic_base | 1)
    assert not apic.write_apic_base(apic.apic_base | 1 << 52)
    assert not apic.write_apic_base(0xFED00000 | ENABLE)
    assert not apic.write_apic_base(apic.apic_base | a.APIC_BASE_EXTD, x2apic_offered=False)


def test_enabling_again_resets(apic: LocalApic) -> None:
    apic.set_irq(0x55)
    assert apic.write_apic_base(a.APIC_DEFAULT_PHYS_BASE)
    assert apic.hw_disabled
    assert apic.next_vector() == -1
    assert apic.write_apic_base(a.APIC_DEFAULT_PHYS_BASE | ENABLE)
    assert apic.irr == 0
    assert apic.sw_disabled


# -- destinations --------------------------------


def test_physical_destinations(apic: LocalApic, effects: Effects) -> None:
    other = LocalApic(2, effects)
    assert other.matches(4, logical=False)
    assert other.matches(0xFF, logical=False)
    assert not other.matches(0, logical=False)
    other.write_apic_base(other.apic_base | a.APIC_BASE_EXTD)
    assert other.matches(4, logical=False)
    assert other.matches(0xFFFFFFFF, logical=False)
    assert not other.matches(0xFF, logical=False)


def test_flat_and_cluster_logical_destinations(apic: LocalApic) -> None:
    apic.write_register(a.APIC_LDR, 0x21000000)
    assert apic.matches(0x20, logical=True)
    assert apic.matches(0x01, logical=True)
    assert not apic.matches(0x02, logical=True)
    apic.write_register(a.APIC_DFR, 0)
    assert apic.matches(0x23, logical=True)
    assert not apic.matches(0x31, logical=True)
    assert not apic.matches(0x22, logical=True)
    apic.write_register(a.APIC_DFR, 0x50000000)  # neither flat nor cluster
    assert not apic.matches(0x21, logical=True)


def test_x2apic_logical_destinations(effects: Effects) -> None:
    apic = LocalApic(40, effects)  # id 80: cluster 5, bit 0
    apic.write_apic_base(apic.apic_base | a.APIC_BASE_EXTD)
    assert apic.matches(5 << 16 | 1, logical=True)
    assert apic.matches(5 << 16 | 0xFFFF, logical=True)
    assert not apic.matches(4 << 16 | 1, logical=True)
    assert not apic.matches(5 << 16 | 2, logical=True)


# -- the timer --------------------------------


@pytest.mark.parametrize(
    ("tdcr", "divisor"),
    [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (0xA, 128), (0xB, 1)],
)
def test_divide_configuration(tdcr: int, divisor: int) -> None:
    assert timer_divisor(tdcr) == divisor


def test_one_shot(apic: LocalApic, effects: Effects) -> None:
    apic.write_register(a.APIC_TDCR, 0xB)
    apic.write_register(a.APIC_LVTT, 0xEC)
    apic.write_register(a.APIC_TMICT, 1000)
    start = effects.now
    assert effects.deadline == start + 10_000
    effects.now = start + 4_005
    assert apic.read_register(a.APIC_TMCCT) == 600
    apic.timer_expired()  # too early
    assert apic.next_vector() == -1
    effects.now = start + 10_007
    apic.timer_expired()
    assert apic.next_vector() == 0xEC
    assert apic.read_register(a.APIC_TMCCT) == 0
    apic.acknowledge(0xEC)
    apic.timer_expired()
    assert apic.irr == 0


def test_periodic_keeps_its_phase_and_merges_missed_periods(
    apic: LocalApic, effects: Effects
) -> None:
    apic.write_register(a.APIC_TDCR, 0xB)
    apic.write_register(a.APIC_LVTT, a.APIC_TIMER_MODE_PERIODIC | 0x40)
    apic.write_register(a.APIC_TMICT, 100_000)
    start, period = effects.now, 1_000_000
    effects.now = start + period + 30
    apic.timer_expired()
    assert effects.deadline == start + 2 * period
    apic.acknowledge(0x40)
    effects.now = start + 5 * period + 10
    apic.timer_expired()
    assert effects.deadline == start + 6 * period
    assert apic.read_register(a.APIC_TMCCT) == 100_000 - 1
    apic.acknowledge(0x40)
    assert apic.irr == 0


def test_short_periods_are_slowed_down(apic: LocalApic, effects: Effects) -> None:
    apic.write_register(a.APIC_TDCR, 0xB)
    apic.write_register(a.APIC_LVTT, a.APIC_TIMER_MODE_PERIODIC | 0x40)
    apic.write_register(a.APIC_TMICT, 1)
    effects.now += 10
    apic.timer_expired()
    assert effects.deadline == effects.now + MIN_PERIOD_NS


def test_a_masked_timer_expires_without_an_interrupt(apic: LocalApic, effects: Effects) -> None:
    apic.write_register(a.APIC_LVTT, a.APIC_LVT_MASKED | 0x40)
    apic.write_register(a.APIC_TMICT, 10)
    effects.now += 1000
    apic.timer_expired()
    assert apic.irr == 0
    apic.write_register(a.APIC_LVTT, 0x40)
    assert apic.irr == 0


def test_changing_the_divisor_scales_what_is_left(apic: LocalApic, effects: Effects) -> None:
    apic.write_register(a.APIC_TDCR, 0xB)
    apic.write_register(a.APIC_LVTT, 0x40)
    apic.write_register(a.APIC_TMICT, 1000)
    effects.now += 5_000
    apic.write_register(a.APIC_TDCR, 0)  # half as fast
    assert effects.deadline == effects.now + 10_000
    assert apic.read_register(a.APIC_TMCCT) == 500


def test_stopping_by_a_count_of_zero(apic: LocalApic, effects: Effects) -> None:
    apic.write_register(a.APIC_LVTT, 0x40)
    apic.write_register(a.APIC_TMICT, 1000)
    apic.write_register(a.APIC_TMICT, 0)
    assert effects.deadline is None
    assert apic.read_register(a.APIC_TMCCT) == 0


def test_tsc_deadline(apic: LocalApic, effects: Effects) -> None:
    apic.write_register(a.APIC_LVTT, a.APIC_TIMER_MODE_TSC_DEADLINE | 0x40)
    apic.write_register(a.APIC_TMICT, 1000)  # ignored in this mode
    assert apic.read_register(a.APIC_TMICT) == 0
    target = effects.lapic_guest_tsc() + 2_000
    apic.write_tsc_deadline(target)
    assert apic.read_tsc_deadline() == target
    assert effects.deadline == effects.now + 1_000
    effects.now += 1_000
    apic.timer_expired()
    assert apic.next_vector() == 0x40
    assert apic.read_tsc_deadline() == 0


def test_a_tsc_deadline_in_the_past_fires_at_once(apic: LocalApic, effects: Effects) -> None:
    apic.write_register(a.APIC_LVTT, a.APIC_TIMER_MODE_TSC_DEADLINE | 0x40)
    apic.write_tsc_deadline(effects.lapic_guest_tsc() + 10_000_000)
    apic.write_tsc_deadline(1)
    assert apic.next_vector() == 0x40
    assert effects.deadline is None
    assert apic.read_tsc_deadline() == 0


def test_the_furthest_tsc_deadline_stays_a_time(apic: LocalApic, effects: Effects) -> None:
    apic.write_register(a.APIC_LVTT, a.APIC_TIMER_MODE_TSC_DEADLINE | 0x40)
    apic.write_tsc_deadline(2**64 - 1)
    assert apic.read_tsc_deadline() == 2**64 - 1
    assert effects.deadline is not None
    assert effects.deadline < 1 << 63


def test_a_tsc_deadline_of_zero_disarms(apic: LocalApic, effects: Effects) -> None:
    apic.write_register(a.APIC_LVTT, a.APIC_TIMER_MODE_TSC_DEADLINE | 0x40)
    apic.write_tsc_deadline(effects.lapic_guest_tsc() + 10_000)
    apic.write_tsc_deadline(0)
    assert effects.deadline is None
    assert apic.irr == 0


def test_tsc_deadline_is_ignored_in_other_modes(apic: LocalApic, effects: Effects) -> None:
    apic.write_tsc_deadline(5)
    assert apic.read_tsc_deadline() == 0
    assert effects.deadline is None


def test_leaving_deadline_mode_disarms(apic: LocalApic, effects: Effects) -> None:
    apic.write_register(a.APIC_LVTT, a.APIC_TIMER_MODE_TSC_DEADLINE | 0x40)
    apic.write_tsc_deadline(effects.lapic_guest_tsc() + 10_000)
    apic.write_register(a.APIC_LVTT, 0x40)
    assert effects.deadline is None
    assert apic.read_tsc_deadline() == 0


def test_periodic_to_one_shot_keeps_counting(apic: LocalApic, effects: Effects) -> None:
    apic.write_register(a.APIC_TDCR, 0xB)
    apic.write_register(a.APIC_LVTT, a.APIC_TIMER_MODE_PERIODIC | 0x40)
    apic.write_register(a.APIC_TMICT, 100_000)
    effects.now += 1_400_000
    apic.timer_expired()
    apic.write_register(a.APIC_LVTT, 0x41)
    assert effects.deadline == effects.now + 600_000


@given(
    st.integers(1, 2**32 - 1), st.sampled_from([0, 1, 2, 3, 8, 9, 10, 11]), st.integers(0, 2**40)
)
def test_current_count_matches_exact_arithmetic(count: int, tdcr: int, passed: int) -> None:
    effects = Effects()
    apic = LocalApic(0, effects)
    apic.write_register(a.APIC_SPIV, 0x1FF)
    apic.write_register(a.APIC_TDCR, tdcr)
    apic.write_register(a.APIC_LVTT, 0x40)
    apic.write_register(a.APIC_TMICT, count)
    effects.now += passed
    assert apic.read_register(a.APIC_TMCCT) == max(count - passed // (10 * timer_divisor(tdcr)), 0)


def test_lvt_inputs(apic: LocalApic) -> None:
    apic.raise_lvt(a.APIC_LVTPC)
    assert apic.irr == 0
    apic.write_register(a.APIC_LVTPC, 0x33)
    apic.raise_lvt(a.APIC_LVTPC)
    assert apic.test_irq(0x33)


# -- save and restore --------------------------------


def test_save_and_restore(apic: LocalApic, effects: Effects) -> None:
    apic.set_irq(0x42)
    apic.set_irq(0xFF, level=True)
    apic.acknowledge(0xFF)
    apic.write_register(a.APIC_LVTT, a.APIC_TIMER_MODE_PERIODIC | 0x40)
    apic.write_register(a.APIC_TMICT, 5_000)
    record = apic.save()
    data = msgspec.msgpack.encode(record)
    other_effects = Effects()
    copy = LocalApic(0, other_effects)
    copy.restore(msgspec.msgpack.decode(data, type=LapicRecord))
    assert copy.save() == record
    assert other_effects.deadline == effects.deadline == effects.now + 100_000


def test_restore_refuses_records_that_cannot_be(apic: LocalApic, effects: Effects) -> None:
    record = apic.save()
    with pytest.raises(ValueError, match="vCPU 0"):
        LocalApic(1, effects).restore(record)
    with pytest.raises(ValueError, match="x2APIC"):
        apic.restore(msgspec.structs.replace(record, apic_base=a.APIC_BASE_EXTD))
    with pytest.raises(ValueError, match="LVT"):
        apic.restore(msgspec.structs.replace(record, lvt=(1,)))
