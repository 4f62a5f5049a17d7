# SPDX-License-Identifier: GPL-2.0-or-later
"""The HPET of an HVM guest: a 64-bit counter of 16 ns, and three timers that compare with it.

Registers and rules are those of Xen's virtual HPET (xen/arch/x86/include/asm/hpet.h,
xen/arch/x86/hvm/hpet.c and vpt.c in 4.17; its saved form is public/arch-x86/hvm/save.h), which
follow the IA-PC HPET specification 1.0a.  Of Xen's own are:

- A timer can be routed to pins 20 to 23 of the I/O APIC.  Another route in an enabled timer
  becomes 20, in others 0 (XSA-261).
- A period is between 100 us and half of what the timer's width can count.
- The counter can be set while it stands still; a write while it runs starts the timers anew.
- A tick whose pin is masked is kept, and the timer rests; unmasking the pin lets both go on.
- With level-triggered interrupts the next tick of a periodic timer waits until the status bit
  is cleared.
- Timers 0 and 1 of legacy replacement ring pins 2 and 8; level-triggered, they ring nothing.
- A one-shot comparator that the counter has just passed (1/1024 s at 32 bits) rings at once.

Here a timer rings the pin that its route names when it rings, not the one from when it was
started, and the one that holds a pin up lets go of that same pin.  A legacy timer's pin doesn't
stay up between two ticks.

`Hpet` is registers and rules alone; what leaves it is a call of `HpetEffects`.  Times are guest
nanoseconds (`HpetEffects.hpet_now`), ticks are the counter's.
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from xenograft.arch.x86.platform.ioapic import IOAPIC_PINS

HPET_BASE: Final = 0xFED00000
HPET_SIZE: Final = 0x400
"""Bytes of its registers; the rest of the page is nobody's."""

TIMERS: Final = 3
TICK_NS: Final = 16

REG_ID: Final = 0x000
REG_CONFIG: Final = 0x010
REG_STATUS: Final = 0x020
REG_COUNTER: Final = 0x0F0
REG_TIMER: Final = 0x100
TIMER_STRIDE: Final = 0x20
TIMER_CONFIG: Final = 0x00
TIMER_COMPARATOR: Final = 0x08
TIMER_FSB: Final = 0x10
"""Offsets of a timer's registers from REG_TIMER + n * TIMER_STRIDE."""

CAPABILITIES: Final = TICK_NS * 1_000_000 << 32 | 0x8086A201
"""Period in fs; Intel, legacy replacement, 64 bits, three timers, revision 1."""

CONFIG_ENABLE: Final = 1 << 0
CONFIG_LEGACY: Final = 1 << 1

TN_LEVEL: Final = 1 << 1
TN_ENABLE: Final = 1 << 2
TN_PERIODIC: Final = 1 << 3
TN_PERIODIC_CAP: Final = 1 << 4
TN_64BIT_CAP: Final = 1 << 5
TN_SETVAL: Final = 1 << 6
TN_32BIT: Final = 1 << 8
TN_ROUTE_SHIFT: Final = 9
TN_ROUTE: Final = 0x1F << TN_ROUTE_SHIFT
TN_WRITABLE: Final = TN_LEVEL | TN_ENABLE | TN_PERIODIC | TN_SETVAL | TN_32BIT | TN_ROUTE

ROUTES: Final = 0x00F00000
"""The pins of the I/O APIC that a timer may be routed to, by bit."""
FIRST_ROUTE: Final = 20
TN_CAPABILITIES: Final = ROUTES << 32 | TN_64BIT_CAP | TN_PERIODIC_CAP
LEGACY_PINS: Final = (2, 8)

MIN_PERIOD_NS: Final = 100_000
"""The shortest period: Xen slows timers of all kinds down to this."""
MIN_PERIOD: Final = MIN_PERIOD_NS // TICK_NS
MAX_DELAY_NS: Final = 1 << 54
"""A tick further off than this (208 days) comes then: as much as Xen's arithmetic holds."""
JUST_PASSED: Final = (1_000_000_000 >> 10) // TICK_NS

_MASK32: Final = 0xFFFFFFFF
_MASK64: Final = (1 << 64) - 1
_SIGN64: Final = 1 << 63


class HpetEffects(Protocol):
    """What an HPET asks of the domain that it belongs to."""

    def hpet_now(self) -> int:
        """Guest time in ns."""
        ...

    def hpet_arm_timer(self, index: int, deadline_ns: int | None) -> None:
        """Call `Hpet.timer_expired(index)` at guest time `deadline_ns`; None: not any more.

        Replaces what was armed for that timer before.
        """
        ...

    def hpet_masked(self, pin: int) -> bool:
        """Whether the I/O APIC's pin is masked."""
        ...

    def hpet_pulse(self, pin: int) -> None:
        """An edge on a pin of the I/O APIC."""
        ...

    def hpet_hold(self, pin: int, up: bool) -> None:
        """Hold a pin up, or let go of it again."""
        ...


class HpetTimerRecord(msgspec.Struct, frozen=True):
    """The saved state of one timer; `deadline` and `held` are -1 where there's none."""

    config: int
    comparator: int
    period: int
    fsb: int
    deadline: int
    held: int
    waiting: bool


class HpetRecord(msgspec.Struct, frozen=True):
    """The saved state of an HPET."""

    config: int
    status: int
    count: int
    since: int
    timers: tuple[HpetTimerRecord, ...]


class HpetTimer:
    """One comparator. `comparator` has 64 bits in both widths, as in Xen."""

    __slots__ = ("comparator", "config", "deadline", "fsb", "held", "period", "waiting")

    def __init__(self) -> None:
        self.config = TN_CAPABILITIES
        self.comparator = _MASK64
        self.period = 0
        self.fsb = 0
        self.deadline = -1
        """When it rings next, in ns, or -1."""
        self.held = -1
        """The pin that it holds up, or -1."""
        self.waiting = False
        """It has a tick for a pin that is masked."""

    @property
    def enabled(self) -> bool:
        return bool(self.config & TN_ENABLE)

    @property
    def level(self) -> bool:
        return bool(self.config & TN_LEVEL)

    @property
    def periodic(self) -> bool:
        return bool(self.config & TN_PERIODIC)

    @property
    def wide(self) -> bool:
        """Whether it compares all 64 bits."""
        return not self.config & TN_32BIT

    def save(self) -> HpetTimerRecord:
        return HpetTimerRecord(
            self.config,
            self.comparator,
            self.period,
            self.fsb,
            self.deadline,
            self.held,
            self.waiting,
        )


class Hpet:
    """One HPET, in its power-on state when made: the counter stands at 0.

    The counter was ``count`` at time ``since`` (in ns), and goes on from there if it is enabled.
    """

    __slots__ = ("_effects", "config", "count", "since", "status", "timers")

    def __init__(self, effects: HpetEffects) -> None:
        self._effects = effects
        self.config = 0
        self.status = 0
        self.count = 0
        self.since = 0
        self.timers = [HpetTimer() for _ in range(TIMERS)]

    # -- state ------------------------------------------------------------------------------
    def close(self) -> None:
        """Nothing is to happen any more: stop the timers."""
        for index in range(TIMERS):
            self._stop(index)

    def save(self) -> HpetRecord:
        timers = tuple(timer.save() for timer in self.timers)
        return HpetRecord(self.config, self.status, self.count, self.since, timers)

    def restore(self, record: HpetRecord) -> None:
        """Take over a saved state and arm the timers again.

        The pins that it holds are the I/O APIC's to restore.  Raises ValueError for a record of
        no HPET.
        """
        if len(record.timers) != TIMERS:
            raise ValueError(f"HPET record with {len(record.timers)} timers")
        for saved in record.timers:
            values = (saved.config, saved.comparator, saved.period, saved.fsb)
            if not all(0 <= value <= _MASK64 for value in values):
                raise ValueError("HPET record with a register of more than 64 bits")
            if not -1 <= saved.held < IOAPIC_PINS or not -1 <= saved.deadline < _SIGN64:
                raise ValueError("HPET record with a pin or a time that can't be")
        if not 0 <= record.count <= _MASK64 or not 0 <= record.since < _SIGN64:
            raise ValueError("HPET record with a counter that can't be")
        self.config = record.config & (CONFIG_ENABLE | CONFIG_LEGACY)
        self.status = record.status & (1 << TIMERS) - 1
        self.count, self.since = record.count, record.since
        for index, (timer, saved) in enumerate(zip(self.timers, record.timers, strict=True)):
            timer.config = TN_CAPABILITIES | saved.config & TN_WRITABLE
            timer.comparator, timer.period = saved.comparator, saved.period
            timer.fsb, timer.held, timer.waiting = saved.fsb, saved.held, saved.waiting
            self._set_valid_route(index)
            self._arm(index, saved.deadline)

    # -- the counter ------------------------------------------------------------------------
    @property
    def enabled(self) -> bool:
        return bool(self.config & CONFIG_ENABLE)

    def counter(self) -> int:
        """The main counter."""
        if not self.enabled:
            return self.count
        return self.count + (self._effects.hpet_now() - self.since) // TICK_NS & _MASK64

    def _time_of(self, counter: int, ticks: int) -> int:
        """When the counter, which is `counter` now, will have gone on by `ticks`."""
        passed = (counter - self.count & _MASK64) * TICK_NS
        return self.since + passed + min(ticks * TICK_NS, MAX_DELAY_NS)

    def comparator(self, index: int) -> int:
        """A timer's comparator as it reads: a periodic one's is always ahead of the counter."""
        timer = self.timers[index]
        if self.enabled and timer.periodic and timer.period:
            passed = self.counter() - timer.comparator & _MASK64
            if passed < _SIGN64:
                ahead = (passed // timer.period + 1) * timer.period
                timer.comparator = timer.comparator + ahead & _MASK64
        return timer.comparator if timer.wide else timer.comparator & _MASK32

    # -- timers -----------------------------------------------------------------------------
    def _legacy(self, index: int) -> bool:
        return bool(self.config & CONFIG_LEGACY) and index < len(LEGACY_PINS)

    def _pin(self, index: int) -> int:
        if self._legacy(index):
            return LEGACY_PINS[index]
        return (self.timers[index].config & TN_ROUTE) >> TN_ROUTE_SHIFT

    def _set_valid_route(self, index: int) -> None:
        """Take back a route that the timer's capabilities don't have (XSA-261)."""
        timer = self.timers[index]
        if self._legacy(index) or ROUTES >> self._pin(index) & 1:
            return
        timer.config &= ~TN_ROUTE
        if timer.enabled:
            timer.config |= FIRST_ROUTE << TN_ROUTE_SHIFT

    def _arm(self, index: int, deadline: int) -> None:
        timer = self.timers[index]
        if deadline >= 0 or timer.deadline >= 0:
            self._effects.hpet_arm_timer(index, deadline if deadline >= 0 else None)
        timer.deadline = deadline

    def _stop(self, index: int) -> None:
        self._arm(index, -1)
        self.timers[index].waiting = False
        self.comparator(index)  # brings it up to date, while the counter still runs

    def _restart(self, index: int) -> None:
        self._stop(index)
        self._start(index)

    def _start(self, index: int) -> None:
        """Have an enabled timer ring when the counter comes to its comparator."""
        timer = self.timers[index]
        if not timer.enabled or (timer.level and self.status >> index & 1):
            return
        timer.waiting = False
        if timer.level and self._legacy(index):
            self._arm(index, -1)
            return
        comparator, counter = self.comparator(index), self.counter()
        if timer.wide:
            ticks = comparator - counter & _MASK64
            if ticks >= _SIGN64:
                ticks = 0
        else:
            ticks = comparator - (counter & _MASK32)
            if ticks < 0:
                ticks = 0 if ticks >= -JUST_PASSED else ticks & _MASK32
        self._arm(index, self._time_of(counter, ticks))

    def _go_on(self, index: int) -> None:
        """Let a periodic timer that has rung come to its next tick."""
        timer = self.timers[index]
        if not timer.periodic or not timer.period:
            return
        self.comparator(index)
        counter = self.counter()
        ticks = min(timer.comparator - counter & _MASK64, timer.period)
        # A change of width may have left next to nothing of the period.
        earliest = self._effects.hpet_now() + MIN_PERIOD_NS if timer.period < MIN_PERIOD else 0
        self._arm(index, max(self._time_of(counter, ticks), earliest))

    def timer_expired(self, index: int) -> None:
        """The time that was armed for a timer has come."""
        timer = self.timers[index]
        if timer.deadline < 0 or self._effects.hpet_now() < timer.deadline:
            return
        timer.deadline = -1
        if not (self.enabled and timer.enabled):
            return  # a record said that it runs
        if timer.level:
            self._raise_level(index)
        else:
            timer.waiting = True
            self._ring(index)

    def _raise_level(self, index: int) -> None:
        timer = self.timers[index]
        if self._legacy(index) or timer.held >= 0:
            return
        self.status |= 1 << index
        timer.held = self._pin(index)
        self._effects.hpet_hold(timer.held, True)

    def _ring(self, index: int) -> None:
        """Deliver the tick that waits, unless its pin is masked."""
        pin = self._pin(index)
        if self._effects.hpet_masked(pin):
            return
        self.timers[index].waiting = False
        self._go_on(index)
        self._effects.hpet_pulse(pin)

    def unmasked(self) -> None:
        """A pin of the I/O APIC isn't masked any more: what waited for it goes on."""
        for index, timer in enumerate(self.timers):
            if timer.waiting:
                self._ring(index)

    # -- registers --------------------------------------------------------------------------
    def mmio_read(self, offset: int, size: int) -> int:
        """Read `size` (1, 2, 4, 8) bytes; all ones where they aren't aligned to their size."""
        if offset & size - 1:
            return (1 << 8 * size) - 1
        return self._read(offset & ~7) >> 8 * (offset & 7) & (1 << 8 * size) - 1

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Write `size` (1, 2, 4, 8) bytes; nothing happens where they aren't aligned to it."""
        if offset & size - 1:
            return
        register = offset & ~7
        old = self._read(register)
        mask = (1 << 8 * size) - 1 << 8 * (offset & 7)
        new = old & ~mask | value << 8 * (offset & 7) & mask
        if register == REG_CONFIG:
            self._write_config(new)
        elif register == REG_STATUS:
            self._write_status(new)
        elif register == REG_COUNTER:
            self._write_counter(new)
        elif REG_TIMER <= register < REG_TIMER + TIMERS * TIMER_STRIDE:
            index, which = divmod(register - REG_TIMER, TIMER_STRIDE)
            if which == TIMER_CONFIG:
                self._write_timer_config(index, new)
            elif which == TIMER_COMPARATOR:
                self._write_comparator(index, new)
            elif which == TIMER_FSB:
                self.timers[index].fsb = new

    def _read(self, register: int) -> int:
        """A register of 64 bits; 0 where there's none."""
        if register == REG_COUNTER:
            return self.counter()
        if register == REG_ID:
            return CAPABILITIES
        if register == REG_CONFIG:
            return self.config
        if register == REG_STATUS:
            return self.status
        if not REG_TIMER <= register < REG_TIMER + TIMERS * TIMER_STRIDE:
            return 0
        index, which = divmod(register - REG_TIMER, TIMER_STRIDE)
        if which == TIMER_CONFIG:
            return self.timers[index].config
        if which == TIMER_COMPARATOR:
            return self.comparator(index)
        return self.timers[index].fsb if which == TIMER_FSB else 0

    def _write_config(self, value: int) -> None:
        was, will = self.enabled, bool(value & CONFIG_ENABLE)
        if was and not will:
            for index, timer in enumerate(self.timers):
                if timer.enabled:
                    self._stop(index)
            self.count = self.counter()
        self.config = value & (CONFIG_ENABLE | CONFIG_LEGACY)
        for index in range(TIMERS):
            self._set_valid_route(index)
        if will and not was:
            self.since = self._effects.hpet_now()
            for index, timer in enumerate(self.timers):
                if not timer.wide:
                    timer.comparator &= _MASK32
                self._start(index)

    def _write_status(self, value: int) -> None:
        """Ones clear their bits."""
        for index, timer in enumerate(self.timers):
            bit = 1 << index
            if not value & self.status & bit:
                continue
            self.status &= ~bit
            if timer.held >= 0:
                pin, timer.held = timer.held, -1
                self._effects.hpet_hold(pin, False)
            if self.enabled and timer.level and timer.periodic:
                self._start(index)

    def _write_counter(self, value: int) -> None:
        if not self.enabled:
            self.count = value
            return
        for index, timer in enumerate(self.timers):
            if timer.enabled:
                self._restart(index)

    def _write_timer_config(self, index: int, value: int) -> None:
        timer = self.timers[index]
        old = timer.config
        timer.config = TN_CAPABILITIES | value & TN_WRITABLE
        self._set_valid_route(index)
        if not timer.wide:
            timer.period &= _MASK32
        if not self.enabled:
            return
        changed = old ^ timer.config
        if not timer.enabled:
            if old & TN_ENABLE:
                self._stop(index)
        elif changed & (TN_PERIODIC | TN_ENABLE) or (changed & TN_32BIT and not timer.wide):
            self._restart(index)
        elif timer.waiting:
            self._ring(index)  # it may have another pin now

    def _write_comparator(self, index: int, value: int) -> None:
        timer = self.timers[index]
        if timer.periodic and not timer.config & TN_SETVAL:
            longest = (_MASK64 if timer.wide else _MASK32) >> 1
            timer.period = min(max(value, MIN_PERIOD), longest)
        else:
            timer.config &= ~TN_SETVAL
            timer.comparator = value
        if self.enabled and timer.enabled:
            self._restart(index)
