# SPDX-License-Identifier: GPL-2.0-or-later
"""Who gets an inter-processor interrupt."""

from __future__ import annotations

import pytest

from xenograft.arch.x86.platform import apicdef as a
from xenograft.arch.x86.platform.apic_bus import ApicBus
from xenograft.arch.x86.platform.lapic import LocalApic


class Machine:
    """Some APICs on a bus, as a domain would wire them."""

    def __init__(self, vcpus: int, x2apic: bool = False) -> None:
        self.events: list[tuple[object, ...]] = []
        self.apics = [LocalApic(index, self._effects(index)) for index in range(vcpus)]
        self.bus = ApicBus(self.apics, self)
        for apic in self.apics:
            if x2apic:
                apic.write_apic_base(apic.apic_base | a.APIC_BASE_EXTD)
            apic.write_register(a.APIC_SPIV, 0x1FF)

    def _effects(self, index: int) -> Effects:
        return Effects(self, index)

    def apic_nmi(self, vcpu_id: int) -> None:
        self.events.append(("nmi", vcpu_id))

    def apic_init(self, vcpu_id: int) -> None:
        self.events.append(("init", vcpu_id))

    def apic_startup(self, vcpu_id: int, vector: int) -> None:
        self.events.append(("startup", vcpu_id, vector))

    def pending(self, vector: int) -> list[int]:
        """Which vCPUs have `vector` requested; clears it."""
        found = [apic.vcpu_id for apic in self.apics if apic.test_irq(vector)]
        for apic in self.apics:
            apic.irr = 0
        return found


class Effects:
    def __init__(self, machine: Machine, vcpu_id: int) -> None:
        self.machine = machine
        self.vcpu_id = vcpu_id

    def lapic_now(self) -> int:
        return 0

    def lapic_guest_tsc(self) -> int:
        return 0

    def lapic_tsc_to_ns(self, ticks: int) -> int:
        return ticks

    def lapic_arm_timer(self, deadline_ns: int | None) -> None:
        raise AssertionError("no timer in these tests")

    def lapic_ipi(self, icr_low: int, dest: int) -> None:
        self.machine.bus.send(self.vcpu_id, icr_low, dest)

    def lapic_interrupt(self) -> None:
        pass

    def lapic_level_eoi(self, vector: int) -> None:
        pass

    def lapic_enabled(self) -> None:
        pass


@pytest.mark.parametrize(
    ("short_hand", "targets"),
    [
        (a.APIC_DEST_SELF, [1]),
        (a.APIC_DEST_ALLINC, [0, 1, 2, 3]),
        (a.APIC_DEST_ALLBUT, [0, 2, 3]),
    ],
)
@pytest.mark.parametrize("x2apic", [False, True])
def test_shorthands(short_hand: int, targets: list[int], x2apic: bool) -> None:
    machine = Machine(4, x2apic)
    machine.apics[1].write_register(a.APIC_ICR, short_hand | 0x50)
    assert machine.pending(0x50) == targets


def test_physical_destination_from_an_xapic() -> None:
    machine = Machine(4)
    machine.apics[0].write_register(a.APIC_ICR2, 4 << 24)
    machine.apics[0].write_register(a.APIC_ICR, 0x50)
    assert machine.pending(0x50) == [2]
    machine.apics[0].write_register(a.APIC_ICR2, 0xFF << 24)
    machine.apics[0].write_register(a.APIC_ICR, 0x51)
    assert machine.pending(0x51) == [0, 1, 2, 3]
    machine.apics[0].write_register(a.APIC_ICR2, 3 << 24)
    machine.apics[0].write_register(a.APIC_ICR, 0x52)
    assert machine.pending(0x52) == []


def test_x2apic_reaches_more_than_32_vcpus() -> None:
    machine = Machine(64, x2apic=True)
    icr = a.MSR_X2APIC_FIRST + (a.APIC_ICR >> 4)
    assert machine.apics[0].write_x2apic(icr, 126 << 32 | 0x50)
    assert machine.pending(0x50) == [63]
    # Logical: cluster 2 has the ids 32 to 47, so vCPUs 16 to 23; bits 0 and 14 are two of them.
    assert machine.apics[0].write_x2apic(icr, (2 << 16 | 0x4001) << 32 | 0x800 | 0x51)
    assert machine.pending(0x51) == [16, 23]
    assert machine.apics[5].write_x2apic(icr, 0xFFFFFFFF << 32 | 0x52)
    assert machine.pending(0x52) == list(range(64))


def test_fixed_interrupts_pass_disabled_apics_by() -> None:
    machine = Machine(3)
    machine.apics[1].write_register(a.APIC_SPIV, 0xFF)
    machine.apics[2].write_apic_base(a.APIC_DEFAULT_PHYS_BASE)
    machine.bus.send(0, a.APIC_DEST_ALLINC | 0x50, 0)
    assert machine.pending(0x50) == [0]


def test_nmi_init_and_startup_reach_disabled_apics() -> None:
    machine = Machine(3)
    machine.apics[2].write_register(a.APIC_SPIV, 0xFF)
    machine.bus.send(0, a.APIC_DM_INIT | a.APIC_INT_ASSERT | a.APIC_DEST_ALLBUT, 0)
    machine.bus.send(0, a.APIC_DM_STARTUP | 0x9A, 4)
    machine.bus.send(0, a.APIC_DM_NMI, 4)
    assert machine.events == [("init", 1), ("init", 2), ("startup", 2, 0x9A), ("nmi", 2)]


def test_init_deassert_does_nothing() -> None:
    machine = Machine(2)
    machine.bus.send(0, a.APIC_DM_INIT | a.APIC_INT_LEVELTRIG | a.APIC_DEST_ALLBUT, 0)
    assert machine.events == []
    asserted = a.APIC_DM_INIT | a.APIC_INT_LEVELTRIG | a.APIC_INT_ASSERT | a.APIC_DEST_ALLBUT
    machine.bus.send(0, asserted, 0)
    assert machine.events == [("init", 1)]


@pytest.mark.parametrize("mode", [a.APIC_DM_SMI, a.APIC_DM_REMRD, a.APIC_DM_EXTINT])
def test_other_delivery_modes_are_ignored(mode: int) -> None:
    machine = Machine(2)
    machine.bus.send(0, mode | a.APIC_DEST_ALLINC | 0x50, 0)
    assert machine.events == []
    assert machine.pending(0x50) == []


def test_lowest_priority_takes_the_lowest_and_rotates_among_equals() -> None:
    machine = Machine(4)
    lowest = a.APIC_DM_LOWEST | a.APIC_DEST_ALLINC
    chosen = []
    for vector in range(0x50, 0x54):
        machine.bus.send(0, lowest | vector, 0)
        chosen += machine.pending(vector)
    assert chosen == [1, 2, 3, 0]
    for apic in machine.apics:
        apic.write_register(a.APIC_TASKPRI, 0x20)
    machine.apics[2].write_register(a.APIC_TASKPRI, 0x10)
    machine.bus.send(0, lowest | 0x60, 0)
    assert machine.pending(0x60) == [2]


def test_lowest_priority_without_a_target_is_dropped() -> None:
    machine = Machine(2)
    for apic in machine.apics:
        apic.write_register(a.APIC_SPIV, 0xFF)
    machine.bus.send(0, a.APIC_DM_LOWEST | a.APIC_DEST_ALLINC | 0x50, 0)
    assert machine.pending(0x50) == []
