# SPDX-License-Identifier: GPL-2.0-or-later
"""The I/O APIC and the HPET of HVM guests in a running machine; PVH guests have neither."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hypervisor.support import IF, Bench, Guest
from xenograft.abi.hvm.params import HVM_PARAM_HPET_ENABLED
from xenograft.arch.x86.platform import apicdef, hpet, ioapic
from xenograft.engine import fake
from xenograft.engine.fake import FakeCpu, halt
from xenograft.engine.protocol import ExitReason
from xenograft.hypervisor.hvm.chipset import Chipset
from xenograft.hypervisor.hvm.platform import HvmPlatform
from xenograft.hypervisor.kinds import GuestKind

MS = 1_000_000
APIC = apicdef.APIC_DEFAULT_PHYS_BASE
IOAPIC = ioapic.IOAPIC_BASE
HPET = hpet.HPET_BASE
CONFIG = HPET + hpet.REG_TIMER
COMPARATOR = CONFIG + hpet.TIMER_COMPARATOR
VECTOR = 0x51
PERIOD = 62_500
"""Ticks in a millisecond."""


def redirect(pin: int, low: int, dest: int = 0) -> Guest:
    """Program a pin's redirection entry."""
    index = ioapic.INDEX_ENTRY + 2 * pin
    yield fake.mmio_write(IOAPIC, index + 1)
    yield fake.mmio_write(IOAPIC + 0x10, dest << 24)
    yield fake.mmio_write(IOAPIC, index)
    yield fake.mmio_write(IOAPIC + 0x10, low)


def timer(bits: int, ticks: int, route: int = 20) -> Guest:
    """Program timer 0, for `ticks` from now and as its period, and start the counter."""
    bits |= hpet.TN_ENABLE | route << hpet.TN_ROUTE_SHIFT
    yield fake.mmio_write(CONFIG, bits, size=8)
    yield fake.mmio_write(COMPARATOR, ticks, size=8)
    yield fake.mmio_write(COMPARATOR, ticks, size=8)
    yield fake.mmio_write(HPET + hpet.REG_CONFIG, hpet.CONFIG_ENABLE)


ENABLE_APIC = fake.mmio_write(APIC + apicdef.APIC_SPIV, 0x1FF)
EOI = fake.mmio_write(APIC + apicdef.APIC_EOI, 0)
PERIODIC = hpet.TN_PERIODIC | hpet.TN_SETVAL


def hvm(*scripts: Any, **more: Any) -> Bench:
    return Bench(*scripts, kind=GuestKind.HVM, **more)


def chipset(bench: Bench) -> Chipset:
    assert isinstance(bench.domain.arch, HvmPlatform)
    assert bench.domain.arch.chipset is not None
    return bench.domain.arch.chipset


def reads(bench: Bench) -> list[int]:
    return [a.values[0] for e, a in bench.cpu().answers if e[0] == ExitReason.MMIO_READ]


LOOKS = [
    fake.mmio_read(HPET, size=8),
    fake.mmio_write(IOAPIC, ioapic.INDEX_VERSION),
    fake.mmio_read(IOAPIC + 0x10),
]


def test_an_hvm_guest_finds_them() -> None:
    bench = hvm([*LOOKS])
    bench.run()
    assert reads(bench) == [hpet.CAPABILITIES, 0x002F0011]
    assert bench.domain.hvm_params[HVM_PARAM_HPET_ENABLED] == 1


def test_a_pvh_guest_finds_nothing_there() -> None:
    bench = Bench([*LOOKS])
    bench.run()
    assert reads(bench) == [(1 << 64) - 1, 0xFFFFFFFF]
    assert HVM_PARAM_HPET_ENABLED not in bench.domain.hvm_params


def test_the_hpet_can_be_taken_away() -> None:
    write = fake.mmio_write(HPET + hpet.REG_CONFIG, 1)
    bench = hvm([*LOOKS, write])
    bench.domain.hvm_params[HVM_PARAM_HPET_ENABLED] = 0
    bench.run()
    assert reads(bench) == [(1 << 64) - 1, 0x002F0011]
    assert not chipset(bench).hpet.enabled


def test_a_timer_comes_through_the_ioapic_into_a_local_apic() -> None:
    def guest(cpu: FakeCpu) -> Guest:
        cpu.registers["rflags"] |= IF
        yield ENABLE_APIC
        yield from redirect(20, VECTOR)
        yield from timer(0, PERIOD)
        yield halt(True)
        yield EOI

    bench = hvm(guest)
    bench.run()
    assert bench.cpu().entered == [VECTOR]
    assert MS <= bench.now < MS + 1000


def test_a_periodic_timer_comes_to_another_vcpu() -> None:
    def first(cpu: FakeCpu) -> Guest:
        yield from redirect(23, VECTOR, 2)  # the id of vCPU 1
        yield from timer(PERIODIC, PERIOD, 23)
        yield halt(False)

    def second(cpu: FakeCpu) -> Guest:
        cpu.registers["rflags"] |= IF
        yield ENABLE_APIC
        for _ in range(5):
            yield halt(True)
            yield EOI

    bench = hvm(first, second)
    bench.run(deadline=20 * MS)
    assert bench.cpu(1).entered == [VECTOR] * 5
    assert bench.cpu(0).entered == []


def test_a_level_rings_again_until_its_status_is_cleared() -> None:
    def guest(cpu: FakeCpu) -> Guest:
        cpu.registers["rflags"] |= IF
        yield ENABLE_APIC
        yield from redirect(21, VECTOR | ioapic.ENTRY_LEVEL)
        yield from timer(hpet.TN_LEVEL, PERIOD, 21)
        yield halt(True)
        yield EOI
        yield fake.mmio_read(HPET + hpet.REG_STATUS)
        yield fake.mmio_write(HPET + hpet.REG_STATUS, 1)
        yield EOI
        yield fake.mmio_read(HPET + hpet.REG_STATUS)
        yield fake.mmio_read(IOAPIC + 0x10)

    bench = hvm(guest)
    bench.run()
    assert bench.cpu().entered == [VECTOR] * 2
    assert reads(bench) == [1, 0, VECTOR | ioapic.ENTRY_LEVEL]


def test_a_masked_pin_delays_a_tick() -> None:
    seen: list[int] = []

    def guest(cpu: FakeCpu) -> Guest:
        cpu.registers["rflags"] |= IF
        yield ENABLE_APIC
        yield from redirect(20, VECTOR | ioapic.ENTRY_MASKED)
        yield from timer(0, 0)
        yield fake.io_in(1)
        seen.append(len(cpu.entered))
        yield from redirect(20, VECTOR)
        yield fake.io_in(2)
        seen.append(len(cpu.entered))

    bench = hvm(guest)
    bench.run()
    assert seen == [0, 1]


def test_a_dying_domain_leaves_no_timer() -> None:
    bench = hvm([*timer(PERIODIC, PERIOD), halt(True)])
    bench.run(until=lambda: bench.domain.vcpus[0].blocked, deadline=MS // 2)
    assert len(bench.xen.timers) > 0
    bench.xen.destroy_domain(bench.domain)
    assert len(bench.xen.timers) == 0


def test_the_shortest_period_is_no_flood() -> None:
    """A guest that asks for 16 ns gets 100 us."""

    def guest(cpu: FakeCpu) -> Guest:
        cpu.registers["rflags"] |= IF
        yield ENABLE_APIC
        yield from redirect(20, VECTOR)
        yield from timer(PERIODIC, 1)
        while True:
            yield halt(True)
            yield EOI

    bench = hvm(guest)
    ran = 0

    class Counting(hpet.Hpet):
        __slots__ = ()

        def timer_expired(self, index: int) -> None:
            nonlocal ran
            ran += 1
            super().timer_expired(index)

    chipset(bench).hpet = Counting(chipset(bench))
    bench.run(deadline=100 * MS)
    assert 900 <= ran <= 1001


ADDRESSES = st.one_of(
    st.sampled_from([IOAPIC, IOAPIC + 0x10, IOAPIC + 0x40]),
    st.sampled_from([HPET + offset for offset in (0x10, 0x20, 0xF0)]),
    st.integers(0, 23).map(lambda n: CONFIG + 4 * n),
    st.integers(IOAPIC - 8, IOAPIC + 0x108),
    st.integers(HPET - 8, HPET + 0x408),
    st.integers(0, 0x3F).map(lambda n: APIC + 16 * n),
)
WORDS = st.one_of(st.integers(0, 0x70), st.integers(0, 0x1FFFF), st.integers(0, (1 << 64) - 1))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(ADDRESSES, st.sampled_from([1, 2, 4, 8]), st.booleans(), WORDS), max_size=60)
)
def test_a_hostile_guest_harms_nobody(
    accesses: list[tuple[int, int, bool, int]],
) -> None:
    """Random accesses on two vCPUs: each is answered, and the machine goes on."""

    def guest(cpu: FakeCpu) -> Guest:
        cpu.registers["rflags"] |= IF
        for gpa, size, is_write, value in accesses:
            if gpa == APIC + apicdef.APIC_ICR:
                continue  # it may well stop itself
            answer = yield (
                fake.mmio_write(gpa, value, size=size) if is_write else fake.mmio_read(gpa, size)
            )
            assert answer.kind == "complete"
            assert is_write or 0 <= answer.values[0] < 1 << 8 * size

    bench = hvm(guest, guest)
    try:
        bench.run(deadline=50 * MS)
        ended = [len(bench.cpu(index).answers) for index in range(2)]
        expected = sum(gpa != APIC + apicdef.APIC_ICR for gpa, *_ in accesses)
        assert all(count >= expected for count in ended)
        neighbour = bench.add_domain(kind=GuestKind.HVM)
        assert isinstance(neighbour.arch, HvmPlatform)
        assert neighbour.arch.chipset is not None
        assert neighbour.arch.chipset.ioapic.select == 0
    finally:
        bench.close()


@pytest.mark.parametrize("route", [0, 2, 16, 19, 24, 31])
def test_xsa_261(route: int) -> None:
    """A route that the timer can't have, with all pins of the I/O APIC open."""
    vectors = {pin: 0x40 + pin for pin in range(ioapic.IOAPIC_PINS)}

    def guest(cpu: FakeCpu) -> Guest:
        cpu.registers["rflags"] |= IF
        yield ENABLE_APIC
        for pin, vector in vectors.items():
            yield from redirect(pin, vector)
        yield from timer(0, PERIOD, route)
        yield halt(True)

    bench = hvm(guest)
    bench.run()
    assert bench.cpu().entered == [vectors[20]]
