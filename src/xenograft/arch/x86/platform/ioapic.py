# SPDX-License-Identifier: GPL-2.0-or-later
"""The I/O APIC of an HVM guest: 48 pins whose interrupts go to the domain's local APICs.

Registers and rules are those of Xen's virtual I/O APIC (xen/arch/x86/include/asm/hvm/vioapic.h,
xen/arch/x86/hvm/vioapic.c in 4.17; its saved form is public/arch-x86/hvm/save.h), which
follow Intel's 82093AA.  What stands in an entry's reserved bits is kept, as in Xen.

`IoApic` is registers and rules alone; what leaves it is a call of `IoApicEffects`.  Who is meant
by a destination is the work of `xenograft.arch.x86.platform.apic_bus`.
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from xenograft.arch.x86.platform import apicdef as a

IOAPIC_BASE: Final = 0xFEC00000
IOAPIC_SIZE: Final = 0x100
"""Bytes of its registers; the rest of the page is nobody's."""

IOAPIC_PINS: Final = 48
IOAPIC_VERSION: Final = 0x11
IOAPIC_VERSION_EOI: Final = 0x20
"""From this version on there's a register to end interrupts with."""

REG_SELECT: Final = 0x00
REG_WINDOW: Final = 0x10
REG_EOI: Final = 0x40
"""Offsets in memory."""

INDEX_ID: Final = 0x00
INDEX_VERSION: Final = 0x01
INDEX_ARBITRATION: Final = 0x02
INDEX_ENTRY: Final = 0x10
"""Registers behind the window: two for each pin from the last one on."""

# An entry's low half has vector, delivery mode, destination mode and trigger mode where the
# local APIC's interrupt command register has them, so apicdef's names serve for both.
ENTRY_DELIVERY_STATUS: Final = 1 << 12
ENTRY_POLARITY: Final = 1 << 13
ENTRY_REMOTE_IRR: Final = 1 << 14
ENTRY_LEVEL: Final = a.APIC_INT_LEVELTRIG
ENTRY_MASKED: Final = 1 << 16
ENTRY_DEST_SHIFT: Final = 56

_ID_SHIFT: Final = 24
_ID_MASK: Final = 0xF
_MASK32: Final = 0xFFFFFFFF
_MASK64: Final = (1 << 64) - 1
MAX_ASSERTED: Final = 16
"""Devices that may hold one pin: more than there are."""


class IoApicEffects(Protocol):
    """What an I/O APIC asks of the domain that it belongs to."""

    def ioapic_deliver(self, entry_low: int, dest: int) -> None:
        """Send a pin's interrupt (`apic_bus.ApicBus.message` does it)."""
        ...

    def ioapic_unmasked(self, pin: int) -> None:
        """A pin isn't masked any more: a timer that waited for this may go on."""
        ...


class IoApicRecord(msgspec.Struct, frozen=True):
    """The saved state; `asserted` counts, by pin, the devices that hold it."""

    select: int
    id: int
    entries: tuple[int, ...]
    asserted: tuple[int, ...]


class IoApic:
    """One I/O APIC, in its power-on state when made: every pin masked.

    ``entries`` are the 64-bit redirection entries.
    """

    __slots__ = ("_effects", "_version", "asserted", "entries", "id", "select")

    def __init__(self, effects: IoApicEffects, version: int = IOAPIC_VERSION) -> None:
        self._effects = effects
        self._version = version
        self.reset()

    # -- state ------------------------------------------------------------------------------
    def reset(self) -> None:
        """Power-on state."""
        self.select = 0
        self.id = 0
        self.entries = [ENTRY_MASKED] * IOAPIC_PINS
        self.asserted = [0] * IOAPIC_PINS

    def save(self) -> IoApicRecord:
        return IoApicRecord(self.select, self.id, tuple(self.entries), tuple(self.asserted))

    def restore(self, record: IoApicRecord) -> None:
        """Take over a saved state; nothing is delivered.

        Raises ValueError for a record of no I/O APIC.
        """
        if len(record.entries) != IOAPIC_PINS or len(record.asserted) != IOAPIC_PINS:
            raise ValueError(f"I/O APIC record with {len(record.entries)} pins")
        if not all(0 <= entry <= _MASK64 for entry in record.entries):
            raise ValueError("I/O APIC record with an entry of more than 64 bits")
        if not all(0 <= count <= MAX_ASSERTED for count in record.asserted):
            raise ValueError("I/O APIC record with a pin that more devices hold than there are")
        self.select = record.select & _MASK32
        self.id = record.id & _ID_MASK
        self.entries = list(record.entries)
        self.asserted = list(record.asserted)

    # -- pins -------------------------------------------------------------------------------
    def masked(self, pin: int) -> bool:
        return bool(self.entries[pin] & ENTRY_MASKED)

    def pulse(self, pin: int) -> None:
        """An edge: the pin goes up, and doesn't stay there."""
        entry = self.entries[pin]
        if entry & ENTRY_MASKED:
            return
        if not entry & ENTRY_LEVEL:
            self._deliver(pin)
        elif not entry & ENTRY_REMOTE_IRR:
            self._deliver_level(pin)

    def hold(self, pin: int) -> None:
        """One more device holds the pin up, until it calls `release`."""
        self.asserted[pin] += 1
        if self.asserted[pin] == 1:
            self.pulse(pin)

    def release(self, pin: int) -> None:
        """A device lets go of the pin."""
        if self.asserted[pin]:
            self.asserted[pin] -= 1

    def eoi(self, vector: int) -> None:
        """A local APIC has ended level-triggered `vector`: each pin with it that's still up rings.

        That's Xen's vioapic_update_EOI(): every pin with the vector is meant.
        """
        for pin, entry in enumerate(self.entries):
            if entry & a.APIC_VECTOR_MASK != vector:
                continue
            entry &= ~ENTRY_REMOTE_IRR
            self.entries[pin] = entry
            if entry & ENTRY_LEVEL and not entry & ENTRY_MASKED and self.asserted[pin]:
                self._deliver_level(pin)

    def _deliver_level(self, pin: int) -> None:
        # Before it's delivered: whoever takes it may end it at once.
        self.entries[pin] |= ENTRY_REMOTE_IRR
        self._deliver(pin)

    def _deliver(self, pin: int) -> None:
        entry = self.entries[pin]
        self._effects.ioapic_deliver(entry & _MASK32, entry >> ENTRY_DEST_SHIFT)

    # -- registers --------------------------------------------------------------------------
    def mmio_read(self, offset: int, size: int) -> int:
        """Read `size` bytes; where there's no register it reads 0."""
        if offset == REG_SELECT:
            value = self.select
        elif offset == REG_WINDOW:
            value = self._read_indirect()
        else:
            value = 0
        return value & (1 << 8 * size) - 1

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Write `size` bytes, taken for a register's whole value as in Xen."""
        value &= (1 << 8 * size) - 1 & _MASK32
        if offset == REG_SELECT:
            self.select = value
        elif offset == REG_WINDOW:
            self._write_indirect(value)
        elif offset == REG_EOI and self._version >= IOAPIC_VERSION_EOI:
            self.eoi(value & a.APIC_VECTOR_MASK)

    def _read_indirect(self) -> int:
        if self.select in (INDEX_ID, INDEX_ARBITRATION):
            return self.id << _ID_SHIFT
        if self.select == INDEX_VERSION:
            return (IOAPIC_PINS - 1) << 16 | self._version
        pin = (self.select - INDEX_ENTRY) >> 1
        if not 0 <= pin < IOAPIC_PINS:
            return 0
        entry = self.entries[pin]
        return entry >> 32 if self.select & 1 else entry & _MASK32

    def _write_indirect(self, value: int) -> None:
        if self.select == INDEX_ID:
            self.id = value >> _ID_SHIFT & _ID_MASK
            return
        pin = (self.select - INDEX_ENTRY) >> 1
        if 0 <= pin < IOAPIC_PINS:
            self._write_entry(pin, value, high=bool(self.select & 1))

    def _write_entry(self, pin: int, value: int, *, high: bool) -> None:
        """Half of an entry; remote IRR and delivery status are the I/O APIC's own."""
        old = self.entries[pin]
        if high:
            new = value << 32 | old & _MASK32
        else:
            new = old & ~_MASK32 | value & ~(ENTRY_DELIVERY_STATUS | ENTRY_REMOTE_IRR)
            new |= old & ENTRY_REMOTE_IRR
        if not new & ENTRY_LEVEL:
            new &= ~ENTRY_REMOTE_IRR
        self.entries[pin] = new
        if new & ENTRY_LEVEL and not new & (ENTRY_MASKED | ENTRY_REMOTE_IRR) and self.asserted[pin]:
            self._deliver_level(pin)
        if old & ENTRY_MASKED and not new & ENTRY_MASKED:
            self._effects.ioapic_unmasked(pin)
