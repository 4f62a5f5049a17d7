# SPDX-License-Identifier: GPL-2.0-or-later
"""The HPET's counter, comparators and interrupts, alone and beside a small model."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenograft.arch.x86.platform import hpet as h
from xenograft.arch.x86.platform.hpet import MIN_PERIOD, TICK_NS, TIMERS, Hpet
from xenograft.arch.x86.platform.ioapic import IOAPIC_PINS

MS = 1_000_000
START = 5 * MS + 7
MASK32 = (1 << 32) - 1
MASK64 = (1 << 64) - 1
ONES = {size: (1 << 8 * size) - 1 for size in (1, 2, 4, 8)}


class World:
    """Time, pins, and a record of what happened; satisfies HpetEffects."""

    def __init__(self) -> None:
        self.now = START
        self.deadlines: dict[int, int] = {}
        self.masked: set[int] = set()
        self.pulses: list[tuple[int, int]] = []
        """(time, pin)"""
        self.held: dict[int, int] = {}
        """How often by pin."""
        self.hpet = Hpet(self)

    def hpet_now(self) -> int:
        return self.now

    def hpet_arm_timer(self, index: int, deadline_ns: int | None) -> None:
        self.deadlines.pop(index, None)
        if deadline_ns is not None:
            self.deadlines[index] = deadline_ns

    def hpet_masked(self, pin: int) -> bool:
        return pin in self.masked

    def hpet_pulse(self, pin: int) -> None:
        self.pulses.append((self.now, pin))

    def hpet_hold(self, pin: int, up: bool) -> None:
        self.held[pin] = self.held.get(pin, 0) + (1 if up else -1)

    # -- what tests do --------------------------------
    def go_to(self, time: int) -> int:
        """Let time pass until `time`; how many timers were run."""
        ran = 0
        while self.deadlines and min(self.deadlines.values()) <= time:
            index = min(self.deadlines, key=lambda one: (self.deadlines[one], one))
            self.now = max(self.now, self.deadlines.pop(index))
            self.hpet.timer_expired(index)
            ran += 1
            assert ran < 100_000, "a flood"
        self.now = max(self.now, time)
        return ran

    def go(self, ns: int) -> int:
        return self.go_to(self.now + ns)

    def read(self, register: int, size: int = 8) -> int:
        return self.hpet.mmio_read(register, size)

    def write(self, register: int, value: int, size: int = 8) -> None:
        self.hpet.mmio_write(register, size, value)

    def configure(self, index: int, bits: int, route: int = 20) -> None:
        self.write(config(index), bits | route << h.TN_ROUTE_SHIFT)

    def enable(self, bits: int = h.CONFIG_ENABLE) -> None:
        self.write(h.REG_CONFIG, bits)


def config(index: int) -> int:
    return h.REG_TIMER + index * h.TIMER_STRIDE + h.TIMER_CONFIG


def comparator(index: int) -> int:
    return h.REG_TIMER + index * h.TIMER_STRIDE + h.TIMER_COMPARATOR


def pins(world: World) -> list[int]:
    return [pin for _, pin in world.pulses]


@pytest.fixture
def world() -> World:
    return World()


# -- registers --------------------------------


def test_power_on_state(world: World) -> None:
    assert world.read(h.REG_ID) == 16_000_000 << 32 | 0x8086A201
    assert world.read(h.REG_CONFIG) == world.read(h.REG_STATUS) == 0
    for index in range(TIMERS):
        assert world.read(config(index)) == 0x00F00000_00000030
        assert world.read(comparator(index)) == MASK64
    world.go(MS)
    assert world.read(h.REG_COUNTER) == 0


def test_the_counter_counts_while_enabled(world: World) -> None:
    world.write(h.REG_COUNTER, 1000)
    world.enable()
    world.go(TICK_NS * 50)
    assert world.read(h.REG_COUNTER) == 1050
    world.go(TICK_NS - 1)
    assert world.read(h.REG_COUNTER) == 1050
    world.enable(0)
    world.go(MS)
    assert world.read(h.REG_COUNTER) == 1050
    world.enable()
    world.go(TICK_NS)
    assert world.read(h.REG_COUNTER) == 1051


def test_the_counter_wraps(world: World) -> None:
    world.write(h.REG_COUNTER, MASK64)
    world.enable()
    world.go(3 * TICK_NS)
    assert world.read(h.REG_COUNTER) == 2


def test_a_running_counter_cannot_be_set(world: World) -> None:
    world.enable()
    world.write(h.REG_COUNTER, 1 << 40)
    assert world.read(h.REG_COUNTER) == 0


def test_accesses_of_each_size(world: World) -> None:
    assert world.read(h.REG_ID + 4, 4) == 16_000_000
    assert world.read(h.REG_ID, 2) == 0xA201
    assert world.read(h.REG_ID + 2, 1) == 0x86
    world.write(comparator(0), 0x11223344, 4)
    world.write(comparator(0) + 4, 0x55667788, 4)
    assert world.read(comparator(0)) == 0x5566778811223344
    world.write(comparator(0) + 2, 0xAA, 1)
    assert world.read(comparator(0), 4) == 0x11AA3344


@pytest.mark.parametrize(("offset", "size"), [(4, 8), (2, 4), (6, 4), (1, 2), (7, 8)])
def test_an_access_that_is_not_aligned(world: World, offset: int, size: int) -> None:
    assert world.read(h.REG_ID + offset, size) == ONES[size]
    before = world.hpet.save()
    world.write(comparator(0) + offset, 0, size)
    assert world.hpet.save() == before


def test_reserved_bits_and_capabilities_stay(world: World) -> None:
    world.write(h.REG_ID, 0)
    world.write(h.REG_CONFIG, MASK64)
    world.write(h.REG_STATUS, MASK64)
    world.write(config(2), MASK64)
    assert world.read(h.REG_ID) == h.CAPABILITIES
    assert world.read(h.REG_CONFIG) == 3
    assert world.read(h.REG_STATUS) == 0
    expected = 0x00F00000_00000030 | h.TN_WRITABLE & ~h.TN_ROUTE | 20 << h.TN_ROUTE_SHIFT
    assert world.read(config(2)) == expected


def test_where_no_register_is_there_is_zero(world: World) -> None:
    for offset in (0x08, 0x18, 0x28, 0xE8, 0xF8, 0x118, 0x160, 0x3F8):
        world.write(offset, MASK64)
        assert world.read(offset) == 0


def test_the_fsb_register_is_kept_and_means_nothing(world: World) -> None:
    world.write(0x130, 0xFEE00000_00000041)
    assert world.read(0x130) == 0xFEE00000_00000041


# -- one-shot --------------------------------


def test_a_one_shot_rings_once_at_its_comparator(world: World) -> None:
    world.configure(0, h.TN_ENABLE, 21)
    world.write(comparator(0), 1000)
    world.enable()
    world.go(1000 * TICK_NS - 1)
    assert world.pulses == []
    world.go(1)
    assert world.pulses == [(START + 1000 * TICK_NS, 21)]
    assert world.read(h.REG_COUNTER) == 1000
    world.go(100 * MS)
    assert len(world.pulses) == 1


def test_a_timer_that_is_not_enabled_rings_never(world: World) -> None:
    world.configure(0, 0)
    world.write(comparator(0), 1000)
    world.enable()
    assert world.go(MS) == 0
    world.configure(0, h.TN_ENABLE)
    world.write(comparator(0), world.read(h.REG_COUNTER) + 10)
    world.configure(0, 0)
    assert world.go(MS) == 0
    world.configure(0, h.TN_ENABLE)
    world.write(comparator(0), world.read(h.REG_COUNTER) + 10)
    world.enable(0)
    assert world.go(MS) == 0
    assert world.pulses == []


def test_a_comparator_in_the_past_rings_at_once(world: World) -> None:
    world.enable()
    world.go(MS)
    world.configure(1, h.TN_ENABLE, 22)
    world.write(comparator(1), 5)
    world.go(0)
    assert pins(world) == [22]


def test_32_bits_wrap_but_what_has_just_passed_rings(world: World) -> None:
    world.write(h.REG_COUNTER, (7 << 32) + 200_000)
    world.configure(0, h.TN_ENABLE | h.TN_32BIT)
    world.configure(1, h.TN_ENABLE | h.TN_32BIT, 21)
    world.write(comparator(0), 200_000 - h.JUST_PASSED)
    world.write(comparator(1), 200_000 - h.JUST_PASSED - 1)
    world.enable()
    world.go(0)
    assert pins(world) == [20]
    world.go((MASK32 - h.JUST_PASSED) * TICK_NS)
    assert pins(world) == [20, 21]
    assert world.read(h.REG_COUNTER) & MASK32 == 200_000 - h.JUST_PASSED - 1


def test_a_change_to_32_bits_counts_at_once(world: World) -> None:
    world.configure(0, h.TN_ENABLE)
    world.write(comparator(0), (1 << 40) + 100)
    world.enable()
    world.configure(0, h.TN_ENABLE | h.TN_32BIT)
    world.go(100 * TICK_NS)
    assert len(world.pulses) == 1
    world.enable(0)
    world.enable()
    assert world.hpet.timers[0].comparator == 100


def test_a_timer_of_the_host_that_comes_early_rings_nothing(world: World) -> None:
    world.configure(0, h.TN_ENABLE)
    world.write(comparator(0), 1000)
    world.enable()
    world.hpet.timer_expired(0)
    assert world.pulses == []
    world.go(MS)
    assert len(world.pulses) == 1


def test_a_tick_very_far_off_is_bounded(world: World) -> None:
    world.configure(0, h.TN_ENABLE)
    world.write(comparator(0), (1 << 63) - 1)
    world.enable()
    assert world.deadlines == {0: START + h.MAX_DELAY_NS}


# -- periodic --------------------------------


def start_periodic(world: World, period: int, bits: int = 0, index: int = 0) -> None:
    """As Linux does it: SETVAL, the first tick, then the period."""
    first = world.read(h.REG_COUNTER) + period
    world.configure(index, h.TN_ENABLE | h.TN_PERIODIC | h.TN_SETVAL | bits)
    world.write(comparator(index), first)
    assert not world.read(config(index)) & h.TN_SETVAL
    world.write(comparator(index), period)


@pytest.mark.parametrize("bits", [0, h.TN_32BIT])
def test_a_periodic_timer_rings_each_period(world: World, bits: int) -> None:
    world.write(h.REG_COUNTER, (1 << 32) - 15_000)
    start_periodic(world, 10_000, bits)
    world.enable()
    world.go(100_000 * TICK_NS)
    assert [time for time, _ in world.pulses] == [
        START + 10_000 * TICK_NS * tick for tick in range(1, 11)
    ]


def test_bits_beyond_the_width_do_not_make_a_period_longer(world: World) -> None:
    world.enable()
    start_periodic(world, 10_000, h.TN_32BIT)
    world.configure(0, h.TN_ENABLE | h.TN_PERIODIC | h.TN_SETVAL | h.TN_32BIT)
    world.write(comparator(0), (1 << 33) + 10_000)
    world.go(35_000 * TICK_NS)
    assert len(world.pulses) == 3


def test_its_comparator_reads_as_the_next_tick(world: World) -> None:
    start_periodic(world, 10_000)
    world.enable()
    world.go(25_000 * TICK_NS)
    assert world.read(comparator(0)) == 30_000


@pytest.mark.parametrize("period", [0, 1, 100, MIN_PERIOD - 1, MIN_PERIOD])
def test_a_tiny_period_is_bounded(world: World, period: int) -> None:
    start_periodic(world, period)
    world.enable()
    assert world.go(100 * MS) <= 1001
    assert len(world.pulses) >= 999


def test_a_period_that_a_change_of_width_has_made_tiny_is_bounded(world: World) -> None:
    start_periodic(world, (1 << 32) + 1)
    world.configure(0, h.TN_ENABLE | h.TN_PERIODIC | h.TN_32BIT)
    assert world.hpet.timers[0].period == 1
    world.enable()
    assert world.go(100 * MS) <= 1001


def test_a_long_period_is_half_of_the_width_at_most(world: World) -> None:
    start_periodic(world, MASK64, h.TN_32BIT)
    assert world.hpet.timers[0].period == MASK32 >> 1
    start_periodic(world, MASK64, 0, 1)
    assert world.hpet.timers[1].period == MASK64 >> 1


def test_without_a_period_it_is_a_one_shot(world: World) -> None:
    world.configure(0, h.TN_ENABLE | h.TN_PERIODIC | h.TN_SETVAL)
    world.write(comparator(0), 100)
    world.enable()
    world.go(100 * MS)
    assert len(world.pulses) == 1


def test_missed_ticks_are_left_out(world: World) -> None:
    start_periodic(world, 10_000)
    world.enable()
    world.now += 55_000 * TICK_NS  # nobody looked
    world.go(0)
    assert len(world.pulses) == 1
    world.go(5_000 * TICK_NS)
    assert len(world.pulses) == 2


def test_stopped_and_started_again(world: World) -> None:
    start_periodic(world, 10_000)
    world.enable()
    world.go(15_000 * TICK_NS)
    world.enable(0)
    assert world.go(100 * MS) == 0
    assert world.read(comparator(0)) == 20_000
    world.enable()
    world.go(5_000 * TICK_NS)
    assert len(world.pulses) == 2
    world.configure(0, h.TN_ENABLE)  # a one-shot now
    world.go(100 * MS)
    assert len(world.pulses) == 3
    world.configure(0, h.TN_ENABLE | h.TN_PERIODIC)
    world.go(20_000 * TICK_NS)
    assert len(world.pulses) == 5


# -- routes --------------------------------


@pytest.mark.parametrize("index", range(TIMERS))
@pytest.mark.parametrize("route", range(32))
def test_a_route_outside_the_capabilities(world: World, index: int, route: int) -> None:
    """XSA-261: what isn't among its pins isn't rung."""
    world.configure(index, h.TN_ENABLE, route)
    expected = route if route in range(20, 24) else 20
    assert world.read(config(index)) >> h.TN_ROUTE_SHIFT & 31 == expected
    world.write(comparator(index), 1)
    world.enable()
    world.go(MS)
    assert pins(world) == [expected]


def test_a_route_of_a_timer_that_is_not_enabled(world: World) -> None:
    world.configure(0, 0, 31)
    assert world.read(config(0)) == h.TN_CAPABILITIES
    world.configure(0, 0, 23)
    assert world.read(config(0)) >> h.TN_ROUTE_SHIFT & 31 == 23


def test_legacy_replacement(world: World) -> None:
    world.enable(h.CONFIG_LEGACY)
    for index in range(TIMERS):
        world.configure(index, h.TN_ENABLE, 31)
        world.write(comparator(index), 100 + index)
    assert [world.read(config(n)) >> h.TN_ROUTE_SHIFT & 31 for n in range(3)] == [31, 31, 20]
    world.enable(h.CONFIG_LEGACY | h.CONFIG_ENABLE)
    world.go(MS)
    assert pins(world) == [2, 8, 20]
    world.enable(h.CONFIG_ENABLE)
    assert [world.read(config(index)) >> h.TN_ROUTE_SHIFT & 31 for index in range(3)] == [20] * 3


def test_a_level_triggered_legacy_timer_rings_nothing(world: World) -> None:
    world.configure(0, h.TN_ENABLE | h.TN_LEVEL)
    world.write(comparator(0), 100)
    world.enable(h.CONFIG_LEGACY | h.CONFIG_ENABLE)
    assert world.go(MS) == 0
    world.enable(0)
    world.enable()
    world.enable(h.CONFIG_LEGACY | h.CONFIG_ENABLE)
    world.go(MS)
    assert (world.pulses, world.held, world.hpet.status) == ([], {}, 0)


def test_a_masked_pin_keeps_one_tick_and_the_timer_rests(world: World) -> None:
    world.masked.add(20)
    start_periodic(world, 10_000)
    world.enable()
    assert world.go(100_000 * TICK_NS + 8) == 1, "no timer of the host's for nothing"
    world.masked.clear()
    world.hpet.unmasked()
    world.hpet.unmasked()
    assert len(world.pulses) == 1
    world.go(10_000 * TICK_NS)
    assert len(world.pulses) == 2


def test_a_waiting_tick_takes_another_route(world: World) -> None:
    world.masked.add(20)
    world.configure(0, h.TN_ENABLE)
    world.write(comparator(0), 100)
    world.enable()
    world.go(MS)
    world.hpet.unmasked()  # another pin was
    assert world.pulses == []
    world.configure(0, h.TN_ENABLE, 23)
    assert pins(world) == [23]
    # Stopped, it's forgotten.
    world.masked.add(23)
    world.write(comparator(0), world.read(h.REG_COUNTER) + 1)
    world.go(MS)
    world.configure(0, 0, 23)
    world.masked.clear()
    world.hpet.unmasked()
    assert pins(world) == [23]


# -- level-triggered --------------------------------


def test_a_level_stays_until_its_status_is_cleared(world: World) -> None:
    world.configure(1, h.TN_ENABLE | h.TN_LEVEL, 22)
    world.write(comparator(1), 100)
    world.enable()
    world.go(MS)
    assert (world.read(h.REG_STATUS), world.held) == (2, {22: 1})
    world.write(h.REG_STATUS, 5)
    assert world.read(h.REG_STATUS) == 2
    world.configure(1, 0, 23)
    world.write(h.REG_STATUS, 2)
    assert (world.read(h.REG_STATUS), world.held) == (0, {22: 0})
    world.write(h.REG_STATUS, 2)
    assert world.held == {22: 0}
    assert world.pulses == []


def test_a_one_shot_level_rings_no_more_when_its_status_is_cleared(world: World) -> None:
    world.configure(1, h.TN_ENABLE | h.TN_LEVEL, 22)
    world.write(comparator(1), 100)
    world.enable()
    world.go(MS)
    world.write(h.REG_STATUS, 2)
    assert world.go(MS) == 0
    assert (world.hpet.status, world.held) == (0, {22: 0})


def test_a_periodic_level_waits_for_its_status(world: World) -> None:
    start_periodic(world, 10_000, h.TN_LEVEL)
    world.enable()
    assert world.go(95_000 * TICK_NS) == 1
    world.write(h.REG_STATUS, 1)
    assert world.go(5_000 * TICK_NS) == 1
    assert world.held == {20: 1}
    # Written anew while its status is set, it waits too.
    world.write(comparator(0), 20_000)
    assert world.go(MS) == 0


def test_a_level_is_held_while_masked(world: World) -> None:
    world.masked.add(20)
    world.configure(0, h.TN_ENABLE | h.TN_LEVEL)
    world.write(comparator(0), 100)
    world.enable()
    world.go(MS)
    assert (world.hpet.status, world.held) == (1, {20: 1})


# -- state --------------------------------


def test_it_is_saved_and_restored(world: World) -> None:
    start_periodic(world, 10_000)
    world.configure(1, h.TN_ENABLE | h.TN_LEVEL, 22)
    world.write(comparator(1), 100)
    world.write(h.REG_TIMER + h.TIMER_FSB, 77)
    world.enable()
    world.go(15_000 * TICK_NS + 3)
    record = msgspec.msgpack.decode(msgspec.msgpack.encode(world.hpet.save()), type=h.HpetRecord)
    other = World()
    other.now = world.now
    other.hpet.restore(record)
    assert other.hpet.save() == record
    assert other.deadlines == world.deadlines
    before = len(world.pulses)
    for one in (world, other):
        one.go(100_000 * TICK_NS)
    assert other.pulses == world.pulses[before:]
    assert other.read(h.REG_COUNTER) == world.read(h.REG_COUNTER)
    other.write(h.REG_STATUS, 2)
    assert other.held == {22: -1}, "it lets go of the pin that the record said"


def test_closed_it_does_nothing_more(world: World) -> None:
    start_periodic(world, 10_000)
    world.enable()
    world.hpet.close()
    assert world.go(MS) == 0


@pytest.mark.parametrize(
    ("damage", "timer"),
    [
        ({"timers": ()}, {}),
        ({"count": 1 << 64}, {}),
        ({"since": -1}, {}),
        ({}, {"comparator": -1}),
        ({}, {"period": 1 << 64}),
        ({}, {"held": IOAPIC_PINS}),
        ({}, {"deadline": 1 << 63}),
    ],
)
def test_a_damaged_record_is_refused(
    world: World, damage: dict[str, object], timer: dict[str, int]
) -> None:
    record = world.hpet.save()
    timers = tuple(msgspec.structs.replace(one, **timer) for one in record.timers)
    record = msgspec.structs.replace(record, **{"timers": timers, **damage})
    with pytest.raises(ValueError, match="HPET record"):
        world.hpet.restore(record)


def test_a_record_gives_a_timer_nothing_that_it_could_not_have(world: World) -> None:
    timer = h.HpetTimerRecord(MASK64, 5, 1, 0, START, -1, False)
    off = msgspec.structs.replace(timer, config=0)
    world.hpet.restore(h.HpetRecord(MASK64, MASK64, 0, START, (timer, off, timer)))
    assert world.read(h.REG_STATUS) == 7
    assert world.read(config(2)) >> h.TN_ROUTE_SHIFT & 31 == 20
    world.go(MS)
    assert world.pulses == []


# -- beside a model --------------------------------


class Model:
    """Timer 0 of 64 bits, edge, at pin 20, in words: it rings at each tick that it comes to."""

    def __init__(self) -> None:
        self.count = 0.0
        self.running = self.on = self.periodic = False
        self.next = MASK64
        self.period = 0
        self.rung = 0
        self.done = False

    def program(self, after: int, period: int) -> None:
        """The next tick so many ticks of the counter from now."""
        self.next = int(self.count) + after
        self.period = max(period, MIN_PERIOD) if period else 0
        self.on, self.done = True, False
        self._look()

    def _look(self) -> None:
        if not (self.running and self.on and not self.done) or int(self.count) < self.next:
            return
        self.rung += 1
        if self.period:
            self.next += (int(self.count) - self.next) // self.period * self.period + self.period
        else:
            self.done = True

    def run(self, running: bool) -> None:
        if running and not self.running:
            self.running = True
            if self.done:  # enabled anew, a comparator that has passed rings
                self.done = False
            self._look()
        self.running = running

    def off(self) -> None:
        self.on = False

    def go(self, ticks: int) -> None:
        for _ in range(ticks):
            if self.running:
                self.count += 1
                self._look()


TICKS = st.integers(1, 400)
STEPS = st.one_of(
    st.tuples(st.just("program"), TICKS, st.one_of(st.just(0), st.integers(MIN_PERIOD, 7000))),
    st.tuples(st.just("run"), st.booleans()),
    st.tuples(st.just("off")),
    st.tuples(st.just("go"), st.one_of(TICKS, st.just(9000))),
)


@given(st.lists(STEPS, max_size=12))
def test_it_does_what_the_model_does(steps: list[tuple[object, ...]]) -> None:
    world, model = World(), Model()
    for name, *arguments in steps:
        numbers = [int(str(int(bool(a)) if isinstance(a, bool) else a)) for a in arguments]
        if name == "program":
            after, period = numbers
            first = world.read(h.REG_COUNTER) + after
            world.configure(0, 0)
            if period:
                world.configure(0, h.TN_PERIODIC)
                world.write(comparator(0), period)
            world.configure(0, (h.TN_PERIODIC | h.TN_SETVAL) * bool(period))
            world.write(comparator(0), first)
            world.configure(0, h.TN_ENABLE | h.TN_PERIODIC * bool(period))
            model.program(after, period)
        elif name == "run":
            world.enable(h.CONFIG_ENABLE if numbers[0] else 0)
            world.go(0)
            model.run(bool(numbers[0]))
        elif name == "off":
            world.configure(0, 0)
            model.off()
        else:
            world.go(numbers[0] * TICK_NS)
            model.go(numbers[0])
        assert world.read(h.REG_COUNTER) == model.count
        assert len(world.pulses) == model.rung


REGISTERS = [
    *(h.REG_CONFIG, h.REG_STATUS, h.REG_COUNTER),
    *(config(index) for index in range(TIMERS)),
    *(comparator(index) for index in range(TIMERS)),
]
WORDS = st.one_of(
    st.integers(0, 7),
    st.integers(0, 0x3FFF),
    st.sampled_from([MASK32, MASK64, 1 << 31, 1 << 32, 1 << 63, (1 << 63) - 1]),
    st.integers(0, MASK64),
)


@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.one_of(st.sampled_from(REGISTERS), st.integers(0, h.HPET_SIZE - 1)),
            st.sampled_from([1, 2, 4, 8]),
            WORDS,
            st.sampled_from([0, 1, 15, 10_000, MS]),
            st.sampled_from([0, 0, 0, 1, 2]),
        ),
        max_size=60,
    )
)
def test_no_access_breaks_it(accesses: list[tuple[bool, int, int, int, int, int]]) -> None:
    """No exception, no pin that isn't its own, no more timers than the shortest period allows."""
    world = World()
    for is_write, offset, size, value, ns, what in accesses:
        if is_write:
            world.write(offset, value, size)
        else:
            assert 0 <= world.read(offset, size) <= ONES[size]
        if what == 1:
            world.masked ^= {2, 8, *range(20, 24)}
        if what:
            world.hpet.unmasked()
        assert world.go(ns) <= TIMERS * (2 + ns // h.MIN_PERIOD_NS)
        assert {*pins(world), *world.held} <= {2, 8, 20, 21, 22, 23}
        assert all(count in range(TIMERS + 1) for count in world.held.values())
        record = world.hpet.save()
        assert record.status == sum(1 << i for i, t in enumerate(record.timers) if t.held >= 0)
        world.hpet.restore(record)  # what it saves is a record of an HPET
        assert world.hpet.save() == record
