# SPDX-License-Identifier: GPL-2.0-or-later
"""The pure function from an exit to an action, with invented exits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenograft.engine import fake
from xenograft.engine.protocol import Exit, ExitReason
from xenograft.hypervisor.exits import DEBUG_PORT, Act, Action, Context, decide, ones

APIC = 0xFEE00000
WITH_APIC = Context(lapic_base=APIC)
DEVICES = (range(0xFEC00000, 0xFEC00100), range(0xFED00000, 0xFED00400))
WITH_DEVICES = Context(lapic_base=APIC, devices=DEVICES)


@pytest.mark.parametrize(
    ("exit_", "action"),
    [
        (fake.make_exit(ExitReason.BUDGET), Action(Act.RESUME)),
        (fake.make_exit(ExitReason.KICK), Action(Act.RESUME)),
        (fake.make_exit(ExitReason.DEBUG, 0x1234), Action(Act.RESUME)),
        (fake.hypercall(29, 1, 2), Action(Act.HYPERCALL, 29)),
        (fake.halt(True), Action(Act.BLOCK)),
        (fake.halt(False), Action(Act.DOWN)),
        (fake.pause(), Action(Act.YIELD)),
        (fake.shutdown(8), Action(Act.TRIPLE_FAULT, 8)),
        (fake.cpuid(7, 1), Action(Act.CPUID, 7, 1)),
        (fake.msr_read(0x1B), Action(Act.RDMSR, 0x1B)),
        (fake.msr_write(0x10, 99), Action(Act.WRMSR, 0x10, 99)),
        (fake.stage2(0x5000, 1), Action(Act.STAGE2, 0x5000, 1)),
        (fake.make_exit(ExitReason.ERROR, 6, 0x40), Action(Act.CRASH, 6, 0x40)),
        (fake.io_out(DEBUG_PORT, 0x141), Action(Act.DEBUG_OUT, 0x41)),
        (fake.io_out(DEBUG_PORT, 0x41, size=2), Action(Act.COMPLETE)),
        (fake.io_out(0x70, 1), Action(Act.COMPLETE)),
        (fake.io_in(0x71), Action(Act.COMPLETE, 0xFF)),
        (fake.io_in(0xCF8, size=4), Action(Act.COMPLETE, 0xFFFFFFFF)),
        (fake.mmio_read(0xC0000000, size=8), Action(Act.COMPLETE, (1 << 64) - 1)),
        (fake.mmio_write(0xC0000000, 5), Action(Act.COMPLETE)),
        (fake.mmio_read(APIC + 0x30), Action(Act.LAPIC_READ, 0x30, 4)),
        (fake.mmio_write(APIC + 0xB0, 7), Action(Act.LAPIC_WRITE, 0xB0, 7)),
        (fake.mmio_read(APIC + 0x1000), Action(Act.COMPLETE, 0xFFFFFFFF)),
        (fake.mmio_read(APIC - 4), Action(Act.COMPLETE, 0xFFFFFFFF)),
    ],
)
def test_what_an_exit_means(exit_: Exit, action: Action) -> None:
    assert decide(exit_, WITH_APIC) == action


@pytest.mark.parametrize(
    ("exit_", "action"),
    [
        (fake.mmio_read(0xFEC00010), Action(Act.DEVICE_READ, 0xFEC00010, 4)),
        (fake.mmio_write(0xFEC00010, 7), Action(Act.DEVICE_WRITE, 0xFEC00010, 7)),
        (fake.mmio_read(0xFED003F8, size=8), Action(Act.DEVICE_READ, 0xFED003F8, 8)),
        (fake.mmio_read(0xFED003FC, size=8), Action(Act.COMPLETE, (1 << 64) - 1)),
        (fake.mmio_write(0xFEC000FF, 7, size=2), Action(Act.COMPLETE)),
        (fake.mmio_read(0xFEC00100), Action(Act.COMPLETE, 0xFFFFFFFF)),
        (fake.mmio_read(0xFEBFFFFF, size=2), Action(Act.COMPLETE, 0xFFFF)),
        (fake.mmio_read(APIC + 0x30), Action(Act.LAPIC_READ, 0x30, 4)),
    ],
)
def test_emulated_devices_answer_whole_accesses(exit_: Exit, action: Action) -> None:
    assert decide(exit_, WITH_DEVICES) == action
    if action.act is not Act.LAPIC_READ:
        assert decide(exit_, WITH_APIC).act is Act.COMPLETE


def test_without_an_apic_page_its_place_is_a_hole() -> None:
    assert decide(fake.mmio_read(APIC + 0x30), Context()) == Action(Act.COMPLETE, 0xFFFFFFFF)
    assert decide(fake.mmio_write(APIC + 0xB0, 7), Context()) == Action(Act.COMPLETE)
    # Nor does a page number of -1 catch the lowest addresses.
    assert decide(fake.mmio_write(0xB0, 7), Context()) == Action(Act.COMPLETE)


def test_the_debug_port_can_be_closed() -> None:
    assert decide(fake.io_out(DEBUG_PORT, 0x41), Context(debug_port=False)).act is Act.COMPLETE


@given(
    st.integers(0, 40),
    st.integers(0, 15),
    st.lists(st.integers(0, (1 << 64) - 1), min_size=6, max_size=6),
)
def test_no_exit_is_without_an_action(reason: int, flags: int, args: list[int]) -> None:
    if reason in (ExitReason.IO_IN, ExitReason.MMIO_READ):
        args[1] = 1 << args[1] % 4
    exit_ = (reason, flags, *args)
    action = decide(exit_, WITH_APIC)  # type: ignore[arg-type]
    assert isinstance(action.act, Act)
    if reason > ExitReason.EXCEPTION:
        assert action.act is Act.CRASH


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_ones(size: int) -> None:
    assert ones(size) == int.from_bytes(b"\xff" * size, "little")
