# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that scribbles on its event words and control blocks while Xen uses them.

Whatever it writes, every operation ends after a bounded number of memory accesses, with a
result or an XenError, and touches nothing but the guest's own FIFO pages.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hypervisor.events.fifo_guest import FifoGuest
from tests.hypervisor.events.support import Domain, Machine
from xenograft.abi.errno import XenError
from xenograft.abi.event_channel import EVTCHN_FIFO_LINKED
from xenograft.abi.xen import VIRQ_TIMER
from xenograft.engine.fake import FakeMemory

ACCESSES_PER_OPERATION = 40
"""Reads, writes and atomic operations in guest memory that one event may cost."""

U32 = st.one_of(
    st.integers(0, 0xFFFFFFFF),
    st.sampled_from([0, 0xFFFFFFFF, 0x2000_0000, 0xA000_0001, 0x3001_FFFF, 0xE000_0002]),
)

SCRIBBLE = st.tuples(st.just("scribble"), st.integers(0, 7), U32)
CONTROL = st.tuples(st.just("control"), st.integers(0, 35), U32)
OPERATION = st.tuples(
    st.sampled_from(
        ["send", "unmask", "close", "bind", "priority", "move", "virq", "poll", "status"]
    ),
    st.integers(0, 7),
    st.integers(0, 17),
)


class CountingMemory(FakeMemory):
    """Counts accesses, and lets a hostile guest act before each compare-and-exchange."""

    def __init__(self, frames: int) -> None:
        super().__init__(frames)
        self.accesses = 0
        self.interfere: Callable[[int], None] | None = None

    def read(self, maddr: int, size: int) -> bytes:
        self.accesses += 1
        return super().read(maddr, size)

    def write(self, maddr: int, data: bytes) -> None:
        self.accesses += 1
        super().write(maddr, data)

    def compare_exchange_u32(self, maddr: int, expected: int, value: int) -> int:
        if self.interfere is not None:
            self.interfere(maddr)
        return super().compare_exchange_u32(maddr, expected, value)


def make_guest() -> tuple[Domain, FifoGuest, CountingMemory]:
    machine = Machine()
    memory = machine.memory = machine.frames.memory = CountingMemory(512)
    domain = machine.domain(1, vcpus=2)
    return domain, FifoGuest(domain), memory


def perform(domain: Domain, guest: FifoGuest, name: str, a: int, b: int) -> None:
    events = domain.events
    match name:
        case "scribble":
            domain.memory.write_u32(guest.word_maddr(a), b)
        case "control":
            domain.memory.write_u32(guest.control[a % 2] + a // 2 * 4, b)
        case "send":
            events.send(a)
        case "unmask":
            events.unmask(a)
        case "close":
            events.close(a)
        case "bind":
            events.bind_ipi(b & 1)
        case "priority":
            events.set_priority(a, b)
        case "move":
            events.bind_vcpu(a, b & 1)
        case "virq":
            events.raise_virq(domain.vcpus[b & 1], VIRQ_TIMER)
        case "poll":
            events.poll(domain.vcpus[b & 1], [a])
        case "status":
            events.is_pending(a)
            events.is_masked(a)


@settings(max_examples=150, deadline=None)
@given(script=st.lists(st.one_of(SCRIBBLE, CONTROL, OPERATION, OPERATION), max_size=60))
def test_scribbled_words_never_do_harm(script: list[tuple[str, int, int]]) -> None:
    domain, guest, memory = make_guest()
    bystander = domain.hypervisor.domain(2)
    for vcpu in range(2):
        domain.events.bind_virq(VIRQ_TIMER, vcpu)
        domain.events.bind_ipi(vcpu)
    own = {maddr >> 12 for maddr in guest.control + guest.array}
    own.add(domain.shared_info_maddr >> 12)
    memory.dirty_frames()
    for name, a, b in script:
        memory.accesses = 0
        with contextlib.suppress(XenError):
            perform(domain, guest, name, a, b)
        assert memory.accesses <= ACCESSES_PER_OPERATION
    assert set(memory.dirty_frames()) <= own
    assert bystander.pending_bits() == set()
    assert domain.events.reset()


def test_a_guest_that_changes_the_tail_all_the_time_loses_its_event_only() -> None:
    domain, guest, memory = make_guest()
    a, b = domain.events.bind_ipi(0), domain.events.bind_ipi(0)
    domain.events.send(a)
    flips = 0

    def flip(maddr: int) -> None:
        nonlocal flips
        flips += 1
        memory.write_u32(maddr, 1 << EVTCHN_FIFO_LINKED | flips)

    memory.interfere = flip
    domain.events.send(b)
    assert flips == 5
    memory.interfere = None
    assert not guest.bit(a, 28)


def test_a_guest_that_unlinks_the_tail_meanwhile_gets_a_new_head() -> None:
    domain, guest, memory = make_guest()
    a, b = domain.events.bind_ipi(0), domain.events.bind_ipi(0)
    domain.events.send(a)
    taken = []

    def consume(maddr: int) -> None:
        memory.interfere = None
        taken.append(guest.consume_one(0))

    memory.interfere = consume
    domain.events.send(b)
    assert taken == [a]
    assert guest.consume_all(0) == [b]
    assert guest.word(a) == 0


def test_a_circular_queue_does_not_catch_xen() -> None:
    """Links lead in a circle: only the guest itself would follow them."""
    domain, guest, memory = make_guest()
    ports = [domain.events.bind_ipi(0) for _ in range(3)]
    for port, link in zip(ports, (2, 3, 1), strict=True):
        memory.write_u32(guest.word_maddr(port), 1 << EVTCHN_FIFO_LINKED | link)
    memory.accesses = 0
    for port in ports:
        domain.events.send(port)
    assert memory.accesses <= 3 * ACCESSES_PER_OPERATION


def test_allocation_with_every_word_linked_costs_a_read_per_page() -> None:
    domain, guest, memory = make_guest()
    for page in range(1, 128):
        guest.add_page(page)
    domain.events.alloc_unbound(2, port=131071)
    for maddr in guest.array:
        memory.write(maddr, b"\xff" * 4096)
    memory.accesses = 0
    with contextlib.suppress(XenError):
        domain.events.bind_ipi(0)
    assert memory.accesses <= 130
