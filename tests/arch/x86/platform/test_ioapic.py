# SPDX-License-Identifier: GPL-2.0-or-later
"""The I/O APIC's registers and pins, alone, with local APICs, and beside a small model."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.arch.x86.platform.test_apic_bus import Machine
from xenograft.arch.x86.platform import apicdef as a
from xenograft.arch.x86.platform import ioapic as io
from xenograft.arch.x86.platform.ioapic import IOAPIC_PINS, IoApic

LEVEL = io.ENTRY_LEVEL
MASKED = io.ENTRY_MASKED
IRR = io.ENTRY_REMOTE_IRR
LOGICAL = a.APIC_DEST_LOGICAL
PIN = 20
VECTOR = 0x51


class Effects:
    """Records what the I/O APIC asks for."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, int]] = []
        self.unmasked: list[int] = []

    def ioapic_deliver(self, entry_low: int, dest: int) -> None:
        self.sent.append((entry_low & 0xFF, dest))

    def ioapic_unmasked(self, pin: int) -> None:
        self.unmasked.append(pin)


@pytest.fixture
def effects() -> Effects:
    return Effects()


@pytest.fixture
def apic(effects: Effects) -> IoApic:
    return IoApic(effects)


def read(apic: IoApic, index: int) -> int:
    apic.mmio_write(io.REG_SELECT, 4, index)
    return apic.mmio_read(io.REG_WINDOW, 4)


def write(apic: IoApic, index: int, value: int) -> None:
    apic.mmio_write(io.REG_SELECT, 4, index)
    apic.mmio_write(io.REG_WINDOW, 4, value)


def route(apic: IoApic, low: int, dest: int = 0, pin: int = PIN) -> None:
    write(apic, io.INDEX_ENTRY + 2 * pin + 1, dest << 24)
    write(apic, io.INDEX_ENTRY + 2 * pin, low)


# -- registers --------------------------------


def test_power_on_state(apic: IoApic) -> None:
    assert read(apic, io.INDEX_VERSION) == 0x002F0011
    assert read(apic, io.INDEX_ID) == 0
    for pin in range(IOAPIC_PINS):
        assert read(apic, io.INDEX_ENTRY + 2 * pin) == MASKED
        assert read(apic, io.INDEX_ENTRY + 2 * pin + 1) == 0


def test_the_id_has_four_bits_and_the_arbitration_id_is_the_same(apic: IoApic) -> None:
    write(apic, io.INDEX_ID, 0xFFFFFFFF)
    assert read(apic, io.INDEX_ID) == 0x0F000000
    write(apic, io.INDEX_ARBITRATION, 0x03000000)
    write(apic, io.INDEX_VERSION, 0)
    assert read(apic, io.INDEX_ARBITRATION) == 0x0F000000
    assert read(apic, io.INDEX_VERSION) == 0x002F0011


def test_remote_irr_and_delivery_status_are_its_own(apic: IoApic) -> None:
    route(apic, 0xFFFFFFFF, 0xAB)
    assert read(apic, io.INDEX_ENTRY + 2 * PIN) == 0xFFFFFFFF & ~(IRR | io.ENTRY_DELIVERY_STATUS)
    assert read(apic, io.INDEX_ENTRY + 2 * PIN + 1) == 0xAB000000


def test_beyond_the_pins_there_is_nothing(apic: IoApic) -> None:
    for index in (3, 4, 0xE, 0xF, io.INDEX_ENTRY + 2 * IOAPIC_PINS, 0xFF, 0x110, 0xFFFFFFFF):
        write(apic, index, 0x12345678)
        assert read(apic, index) == 0
    assert set(apic.entries) == {MASKED}


def test_only_the_offsets_of_its_registers_answer(apic: IoApic) -> None:
    apic.mmio_write(io.REG_SELECT, 4, 1)
    for offset in (1, 4, 8, 0x11, 0x14, 0x20, 0x40, 0xFC):
        apic.mmio_write(offset, 4, 0x55)
        assert apic.mmio_read(offset, 4) == 0
    assert apic.mmio_read(io.REG_SELECT, 4) == 1


def test_narrow_and_wide_accesses(apic: IoApic) -> None:
    apic.mmio_write(io.REG_SELECT, 1, 0x77701)
    assert apic.mmio_read(io.REG_SELECT, 4) == 1
    assert apic.mmio_read(io.REG_WINDOW, 1) == 0x11
    assert apic.mmio_read(io.REG_WINDOW, 2) == 0x0011
    assert apic.mmio_read(io.REG_WINDOW, 8) == 0x002F0011
    apic.mmio_write(io.REG_SELECT, 8, 0xFFFFFFFF_00000001)
    assert apic.mmio_read(io.REG_SELECT, 8) == 1


def test_newer_versions_have_a_register_to_end_interrupts(effects: Effects) -> None:
    for version, sent in ((0x11, 1), (0x20, 2)):
        effects.sent.clear()
        apic = IoApic(effects, version)
        assert read(apic, io.INDEX_VERSION) & 0xFF == version
        route(apic, VECTOR | LEVEL)
        apic.hold(PIN)
        apic.mmio_write(io.REG_EOI, 4, VECTOR)
        assert len(effects.sent) == sent


# -- pins --------------------------------


def test_an_edge_is_delivered_each_time(apic: IoApic, effects: Effects) -> None:
    route(apic, VECTOR, 0x12)
    apic.pulse(PIN)
    apic.pulse(PIN)
    assert effects.sent == [(VECTOR, 0x12)] * 2
    assert not apic.entries[PIN] & IRR


def test_a_masked_pin_delivers_nothing_and_forgets_edges(apic: IoApic, effects: Effects) -> None:
    route(apic, VECTOR | MASKED)
    apic.pulse(PIN)
    route(apic, VECTOR)
    assert effects.sent == []
    assert effects.unmasked == [PIN]
    route(apic, VECTOR)
    assert effects.unmasked == [PIN], "it was unmasked already"


def test_a_level_rings_until_it_falls(apic: IoApic, effects: Effects) -> None:
    route(apic, VECTOR | LEVEL)
    apic.hold(PIN)
    apic.pulse(PIN)
    assert effects.sent == [(VECTOR, 0)], "not again before its end"
    assert apic.entries[PIN] & IRR
    apic.eoi(VECTOR)
    assert len(effects.sent) == 2
    apic.release(PIN)
    apic.eoi(VECTOR)
    assert len(effects.sent) == 2
    assert not apic.entries[PIN] & IRR


def test_a_level_that_rose_while_masked_rings_when_unmasked(apic: IoApic, effects: Effects) -> None:
    route(apic, VECTOR | LEVEL | MASKED)
    apic.hold(PIN)
    assert effects.sent == []
    route(apic, VECTOR | LEVEL)
    assert effects.sent == [(VECTOR, 0)]


def test_the_end_of_a_masked_one_delivers_nothing(apic: IoApic, effects: Effects) -> None:
    route(apic, VECTOR | LEVEL)
    apic.hold(PIN)
    route(apic, VECTOR | LEVEL | MASKED)
    apic.eoi(VECTOR)
    assert len(effects.sent) == 1
    assert not apic.entries[PIN] & IRR


def test_two_devices_on_one_pin(apic: IoApic, effects: Effects) -> None:
    route(apic, VECTOR | LEVEL)
    apic.hold(PIN)
    apic.hold(PIN)
    assert len(effects.sent) == 1
    apic.release(PIN)
    apic.eoi(VECTOR)
    assert len(effects.sent) == 2, "the other one holds it still"
    apic.release(PIN)
    apic.release(PIN)  # nobody's: no matter
    apic.hold(PIN)
    apic.eoi(VECTOR)
    assert len(effects.sent) == 3


def test_an_end_is_for_all_pins_with_the_vector(apic: IoApic, effects: Effects) -> None:
    for pin in (20, 21):
        route(apic, VECTOR | LEVEL, pin, pin)
        apic.hold(pin)
    route(apic, 0x61 | LEVEL, 22, 22)
    apic.hold(22)
    effects.sent.clear()
    apic.eoi(VECTOR)
    assert effects.sent == [(VECTOR, 20), (VECTOR, 21)]


def test_edge_mode_clears_the_remote_irr(apic: IoApic, effects: Effects) -> None:
    route(apic, VECTOR | LEVEL)
    apic.hold(PIN)
    route(apic, VECTOR)
    assert not apic.entries[PIN] & IRR
    # A change of the destination alone keeps it, and doesn't ring again.
    route(apic, VECTOR | LEVEL)
    assert len(effects.sent) == 2
    write(apic, io.INDEX_ENTRY + 2 * PIN + 1, 3 << 24)
    assert apic.entries[PIN] & IRR
    assert len(effects.sent) == 2


# -- with local APICs --------------------------------


class Wired:
    """An I/O APIC on a bus with local APICs."""

    def __init__(self, vcpus: int) -> None:
        self.machine = Machine(vcpus)
        self.apic = IoApic(self)

    def ioapic_deliver(self, entry_low: int, dest: int) -> None:
        self.machine.bus.message(entry_low, dest)

    def ioapic_unmasked(self, pin: int) -> None:
        """Nothing waits."""

    def ring(self, low: int, dest: int) -> list[int]:
        route(self.apic, low | VECTOR, dest)
        self.apic.pulse(PIN)
        return self.machine.pending(VECTOR)


def test_physical_destinations() -> None:
    wired = Wired(3)
    assert wired.ring(0, 2) == [1]
    assert wired.ring(0, 0xFF) == [0, 1, 2]
    assert wired.ring(0, 7) == []


def test_logical_destinations() -> None:
    wired = Wired(4)
    for apic in wired.machine.apics:
        apic.write_register(a.APIC_LDR, 1 << 24 + apic.vcpu_id)
    assert wired.ring(LOGICAL, 0b1010) == [1, 3]
    assert wired.ring(LOGICAL, 0) == []


def test_the_lowest_priority_takes_turns() -> None:
    wired = Wired(2)
    lowest = a.APIC_DM_LOWEST
    assert sorted(wired.ring(lowest, 0xFF) + wired.ring(lowest, 0xFF)) == [0, 1]
    wired.machine.apics[0].write_register(a.APIC_TASKPRI, 0x80)
    assert wired.ring(lowest, 0xFF) == [1]
    wired.machine.apics[1].write_register(a.APIC_SPIV, 0xFF)
    assert wired.ring(lowest, 2) == [], "a disabled one takes none"


def test_an_nmi_and_modes_that_are_nothing() -> None:
    wired = Wired(2)
    assert wired.ring(a.APIC_DM_NMI, 2) == []
    assert wired.machine.events == [("nmi", 1)]
    for mode in (a.APIC_DM_SMI, a.APIC_DM_INIT, a.APIC_DM_EXTINT, 0x300, 0x600):
        assert wired.ring(mode, 0xFF) == []
    assert wired.machine.events == [("nmi", 1)]


def test_a_level_marks_the_trigger_mode() -> None:
    wired = Wired(1)
    route(wired.apic, VECTOR | LEVEL)
    wired.apic.pulse(PIN)
    apic = wired.machine.apics[0]
    assert apic.tmr == 1 << VECTOR
    route(wired.apic, VECTOR)
    wired.apic.pulse(PIN)
    assert apic.tmr == 0


def test_a_level_of_lowest_priority_marks_it_too() -> None:
    wired = Wired(1)
    route(wired.apic, VECTOR | LEVEL | a.APIC_DM_LOWEST)
    wired.apic.pulse(PIN)
    assert wired.machine.apics[0].tmr == 1 << VECTOR


def test_an_illegal_vector_is_an_error_of_the_receiver() -> None:
    wired = Wired(1)
    route(wired.apic, 0x0F)
    wired.apic.pulse(PIN)
    assert wired.machine.apics[0].irr == 0
    assert wired.machine.apics[0].esr_pending == a.APIC_ESR_RECVILL


# -- state --------------------------------


def test_it_is_saved_and_restored(apic: IoApic) -> None:
    write(apic, io.INDEX_ID, 5 << 24)
    route(apic, VECTOR | LEVEL, 3)
    apic.hold(PIN)
    record = msgspec.msgpack.decode(msgspec.msgpack.encode(apic.save()), type=io.IoApicRecord)
    effects = Effects()
    other = IoApic(effects)
    other.restore(record)
    assert other.save() == record
    assert effects.sent == []
    other.eoi(VECTOR)
    assert effects.sent == [(VECTOR, 3)]


@pytest.mark.parametrize(
    "damage",
    [
        {"entries": (MASKED,) * 24},
        {"asserted": (0,) * 47},
        {"entries": (1 << 64,) * IOAPIC_PINS},
        {"entries": (-1,) * IOAPIC_PINS},
        {"asserted": (1 << 40,) * IOAPIC_PINS},
    ],
)
def test_a_damaged_record_is_refused(apic: IoApic, damage: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="I/O APIC record"):
        apic.restore(msgspec.structs.replace(apic.save(), **damage))


# -- beside a model --------------------------------


class Model:
    """One pin, as the rules say it in words: what it sends, and when."""

    def __init__(self) -> None:
        self.vector, self.level, self.masked = 0, False, True
        self.irr = False
        self.holders = 0
        self.sent: list[int] = []

    def _look(self, rising: bool) -> None:
        if self.masked:
            return
        if self.level:
            if not self.irr and (self.holders or rising):
                self.irr = True
                self.sent.append(self.vector)
        elif rising:
            self.sent.append(self.vector)

    def program(self, vector: int, level: bool, masked: bool) -> None:
        self.vector, self.level, self.masked = vector, level, masked
        self.irr = self.irr and level
        self._look(False)

    def pulse(self) -> None:
        self._look(True)

    def hold(self) -> None:
        self.holders += 1
        self._look(self.holders == 1)

    def release(self) -> None:
        self.holders = max(self.holders - 1, 0)

    def eoi(self, vector: int) -> None:
        if vector == self.vector:
            self.irr = False
            self._look(False)


VECTORS = st.sampled_from([0x20, VECTOR, 0xFE])
STEPS = st.one_of(
    st.tuples(st.just("program"), VECTORS, st.booleans(), st.booleans()),
    st.tuples(st.just("eoi"), VECTORS),
    st.sampled_from([("pulse",), ("hold",), ("release",)]),
)


@given(st.lists(STEPS, max_size=40))
def test_it_does_what_the_model_does(steps: list[tuple[object, ...]]) -> None:
    effects = Effects()
    apic, model = IoApic(effects), Model()
    for name, *arguments in steps:
        getattr(model, str(name))(*arguments)
        if name == "program":
            vector, level, masked = arguments
            route(apic, int(str(vector)) | LEVEL * bool(level) | MASKED * bool(masked))
        elif name == "eoi":
            apic.eoi(int(str(arguments[0])))
        else:
            getattr(apic, str(name))(PIN)
        assert [vector for vector, _ in effects.sent] == model.sent
        assert bool(apic.entries[PIN] & IRR) == model.irr


@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.one_of(st.sampled_from([0, 0x10, 0x40]), st.integers(0, io.IOAPIC_SIZE - 1)),
            st.sampled_from([1, 2, 4, 8]),
            st.one_of(st.integers(0, 0x70), st.integers(0, (1 << 64) - 1)),
            st.integers(0, 3),
        ),
        max_size=60,
    )
)
def test_no_access_breaks_it(accesses: list[tuple[bool, int, int, int, int]]) -> None:
    wired = Wired(2)
    apic = wired.apic
    for is_write, offset, size, value, what in accesses:
        if is_write:
            apic.mmio_write(offset, size, value)
        else:
            assert 0 <= apic.mmio_read(offset, size) < 1 << 8 * size
        pin = value % IOAPIC_PINS
        (apic.pulse, apic.hold, apic.release, apic.eoi)[what](pin)
        record = apic.save()
        assert all(0 <= entry < 1 << 64 for entry in record.entries)
        assert all(not entry & io.ENTRY_DELIVERY_STATUS for entry in record.entries)
        assert all(entry & LEVEL or not entry & IRR for entry in record.entries)
