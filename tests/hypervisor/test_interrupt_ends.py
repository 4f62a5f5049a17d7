# SPDX-License-Identifier: GPL-2.0-or-later
"""Ends of interrupts that the engine takes without an exit: the guest sees no difference.

Whoever watches exits is shown each of them, so that the same guest, watched and not, is the
comparison.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hypervisor.support import IF, Bench, Guest
from xenograft.arch.x86.platform import apicdef as a
from xenograft.engine import fake
from xenograft.engine.fake import FakeCpu
from xenograft.engine.protocol import MSR_APIC_BASE, MSR_X2APIC_EOI, Exit, ExitReason
from xenograft.hypervisor.vcpu import Vcpu

X2APIC = a.APIC_DEFAULT_PHYS_BASE | a.APIC_BASE_ENABLE | a.APIC_BASE_EXTD
MSR_SVR = a.MSR_X2APIC_FIRST + (a.APIC_SPIV >> 4)
MSR_TPR = a.MSR_X2APIC_FIRST + (a.APIC_TASKPRI >> 4)
MSR_SELF_IPI = a.MSR_X2APIC_FIRST + (a.APIC_SELF_IPI >> 4)
BEGIN, END = 1000, 20_000

VECTORS = st.sampled_from([0x31, 0x35, 0x41, 0x52, 0x91, 0xE2])
STEPS = st.one_of(
    st.tuples(st.just("eoi"), st.just(0)),
    st.tuples(st.just("eoi"), st.just(0)),
    st.tuples(st.just("self"), VECTORS),
    st.tuples(st.just("tpr"), st.sampled_from([0, 0x40, 0x90])),
    st.tuples(st.just("if"), st.sampled_from([0, IF])),
    st.tuples(st.just("read"), st.just(0)),
    st.tuples(st.just("work"), st.integers(1, 400)),
)
TIMERS = st.lists(st.tuples(st.integers(BEGIN, BEGIN + 4000), VECTORS, st.booleans()), max_size=12)


class Seen(NamedTuple):
    """What the guest sees, and the local APIC at the end."""

    entered: list[int]
    read: list[int]
    irr: int
    isr: int


class Watcher:
    """Watches exits, and counts those that are ends of interrupts."""

    def __init__(self) -> None:
        self.ends = 0

    def exit(self, time: int, domid: int, vcpu: int, exit: Exit) -> None:
        self.ends += exit[0] == ExitReason.MSR_WRITE and exit[2] == MSR_X2APIC_EOI


def play(
    steps: list[tuple[str, int]], timers: list[tuple[int, int, bool]], watched: bool = False
) -> tuple[Seen, int]:
    """A guest that does `steps`, while vectors (some of them by level) come at given times.

    Returns what it sees, and how many ends the hypervisor was asked for.
    """

    def guest(cpu: FakeCpu) -> Guest:
        cpu.on_interrupt = None
        yield fake.msr_write(MSR_APIC_BASE, X2APIC)
        yield fake.msr_write(MSR_SVR, a.APIC_SPIV_APIC_ENABLED | 0xFF)
        cpu.skip(BEGIN - cpu.instructions())
        cpu.registers["rflags"] |= IF
        for what, value in steps:
            if what == "eoi":
                yield fake.msr_write(MSR_X2APIC_EOI, 0)
            elif what == "self":
                yield fake.msr_write(MSR_SELF_IPI, value)
            elif what == "tpr":
                yield fake.msr_write(MSR_TPR, value)
            elif what == "if":
                cpu.registers["rflags"] = cpu.registers["rflags"] & ~IF | value
            elif what == "read":
                for register in (a.APIC_ISR, a.APIC_IRR):
                    for word in range(8):
                        answer = yield fake.msr_read(a.MSR_X2APIC_FIRST + (register >> 4) + word)
                        read.append(answer.values[0])
            else:
                cpu.skip(value)
                yield fake.io_in(0x80)
        yield fake.halt(False)

    read: list[int] = []
    bench = Bench(guest)
    watcher = Watcher()
    if watched:
        bench.xen.instruments.add(watcher)
    apic = bench.domain.vcpus[0].lapic
    assert apic is not None
    for time, vector, level in timers:
        bench.xen.timers.add(time, lambda v=vector, by=level: apic.set_irq(v, by))  # type: ignore[misc]
    asked: list[int] = []
    arch = bench.domain.arch
    write = arch.write_msr

    def spy(vcpu: Vcpu, index: int, value: int) -> bool:
        asked.extend([value] * (index == MSR_X2APIC_EOI))
        return write(vcpu, index, value)

    arch.write_msr = spy  # type: ignore[method-assign]
    cpu = bench.cpu()
    # What waits when the guest has nothing more to do would keep it awake for ever.
    bench.run(deadline=END)
    seen = Seen(cpu.entered, read, apic.irr, apic.isr)
    bench.close()
    assert not watched or watcher.ends == len(asked)
    return seen, len(asked)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=40), TIMERS)
def test_the_guest_sees_no_difference(
    steps: list[tuple[str, int]], timers: list[tuple[int, int, bool]]
) -> None:
    seen, asked = play(steps, timers, True)
    assert asked == sum(what == "eoi" for what, _ in steps)
    assert play(steps, timers)[0] == seen


@pytest.mark.parametrize(
    ("vectors", "exits"),
    [
        ([(BEGIN, 0x41, False)], [False]),
        # A level-triggered one ends at the I/O APIC, too.
        ([(BEGIN, 0x41, True)], [True]),
        # The second one waits for the end of the first.
        ([(BEGIN, 0x45, False), (BEGIN + 100, 0x41, False)], [True, False]),
    ],
)
def test_which_ends_are_exits(vectors: list[tuple[int, int, bool]], exits: list[bool]) -> None:
    ends = [("eoi", 0), ("work", 10)] * len(vectors)
    seen, asked = play([("work", 50), ("work", 100), ("work", 10), *ends], vectors)
    assert seen == Seen([vector for _, vector, _ in vectors], [], 0, 0)
    assert asked == sum(exits)
