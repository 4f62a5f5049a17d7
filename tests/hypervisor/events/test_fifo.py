# SPDX-License-Identifier: GPL-2.0-or-later
"""The FIFO ABI: set-up, queues, priorities, moving, and a model whose guest is a kernel's."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from tests.hypervisor.events.fifo_guest import ARRAY_GFN, CONTROL_GFN, FifoGuest
from tests.hypervisor.events.support import Domain, Machine, errno_of
from xenograft.abi.errno import Errno
from xenograft.abi.event_channel import (
    EVTCHN_FIFO_BUSY,
    EVTCHN_FIFO_LINKED,
    EVTCHN_FIFO_MASKED,
    EVTCHN_FIFO_PENDING,
    EVTCHN_FIFO_PRIORITY_DEFAULT,
)
from xenograft.abi.xen import VIRQ_TIMER
from xenograft.hypervisor.kinds import GuestKind


@pytest.fixture
def domain() -> Domain:
    return Machine().domain(1, vcpus=2)


@pytest.fixture
def guest(domain: Domain) -> FifoGuest:
    return FifoGuest(domain)


# -- set-up ------------------------------------------------------------------------------------
def test_init_control_refuses(domain: Domain) -> None:
    init = domain.events.init_control
    domain.new_page(5)
    [(foreign, _)] = domain.memory.alloc(77)
    domain.p2m.space.map(6, foreign)
    assert errno_of(init, 2, 5, 0) is Errno.ENOENT
    assert errno_of(init, 0, 5, 4096 - 64) is Errno.EINVAL  # crosses the page
    assert errno_of(init, 0, 5, 12) is Errno.EINVAL  # not aligned to 8
    assert errno_of(init, 0, 5, 0xFFFFFFF8) is Errno.EINVAL
    assert errno_of(init, 0, 4, 0) is Errno.EINVAL  # a hole
    assert errno_of(init, 0, 6, 0) is Errno.EINVAL  # another domain's
    assert errno_of(init, 0, 1 << 40, 0) is Errno.EINVAL
    assert errno_of(init, 0, 0xFFFFFFFFFFFFFFFF, 0) is Errno.EINVAL
    assert domain.events.abi_name == "2-level"
    assert domain.memory.refs(domain.p2m.lookup(5)[0]) == 1
    init(0, 5, 4096 - 72)
    assert domain.events.abi_name == "fifo"
    assert errno_of(init, 0, 5, 0) is Errno.EINVAL  # has one
    init(1, 5, 0)  # two in one page
    assert domain.memory.refs(domain.p2m.lookup(5)[0]) == 3


def test_expand_array_refuses(domain: Domain, guest: FifoGuest) -> None:
    assert errno_of(domain.events.expand_array, 0x999) is Errno.EINVAL
    for _ in range(127):
        domain.events.expand_array(ARRAY_GFN)  # the same page: harms nobody but the guest
    assert errno_of(domain.events.expand_array, ARRAY_GFN) is Errno.ENOSPC


def test_a_pv_guest_names_machine_frames() -> None:
    domain = Machine().domain(1, kind=GuestKind.PV)
    mine = domain.new_frame()
    [(foreign, _)] = domain.memory.alloc(77)
    assert errno_of(domain.events.init_control, 0, foreign, 0) is Errno.EINVAL
    assert errno_of(domain.events.init_control, 0, 1 << 40, 0) is Errno.EINVAL
    domain.events.init_control(0, mine, 0)


def test_pages_are_held_until_reset(domain: Domain) -> None:
    guest = FifoGuest(domain, pages=2)
    mfns = [maddr >> 12 for maddr in guest.control + guest.array]
    assert [domain.memory.refs(mfn) for mfn in mfns] == [2, 2, 2, 2]
    assert domain.events.reset()
    assert domain.events.abi_name == "2-level"
    assert [domain.memory.refs(mfn) for mfn in mfns] == [1, 1, 1, 1]
    domain.events.init_control(0, CONTROL_GFN, 0)
    domain.dying = True
    assert domain.events.destroy()
    assert [domain.memory.refs(mfn) for mfn in mfns] == [1, 1, 1, 1]


def test_the_limit_of_ports_rises(domain: Domain, guest: FifoGuest) -> None:
    assert domain.events.alloc_unbound(2, port=131071) == 131071
    assert errno_of(domain.events.alloc_unbound, 2, 131072) is Errno.ENOSPC


def test_events_pending_at_the_switch_are_raised_again(domain: Domain) -> None:
    port = domain.events.bind_ipi(1)
    domain.events.send(port)
    assert domain.pending_bits() == {port}
    domain.vcpus[1].take_upcall()
    guest = FifoGuest(domain)
    assert guest.consume_all(0) == []
    assert guest.consume_all(1) == [port]
    assert domain.vcpus[1].upcalls == 2


def test_events_wait_for_their_array_page(domain: Domain) -> None:
    guest = FifoGuest(domain, pages=1)
    domain.events.alloc_unbound(1, port=1500)
    peer = domain.events.bind_interdomain(1, 1500)
    domain.events.send(peer)
    assert not domain.events.is_pending(1500)
    assert domain.events.is_masked(1500)
    guest.consume_all(0)
    guest.add_page(1)
    assert guest.consume_all(0) == [1500]


def test_events_for_a_vcpu_without_control_block_are_dropped(domain: Domain) -> None:
    domain.new_page(CONTROL_GFN)
    domain.events.init_control(0, CONTROL_GFN, 0)
    domain.new_page(ARRAY_GFN)
    domain.events.expand_array(ARRAY_GFN)
    port = domain.events.bind_virq(VIRQ_TIMER, 1)
    domain.events.raise_virq(domain.vcpus[1], VIRQ_TIMER)
    assert not domain.events.is_pending(port)


# -- delivery ------------------------------------------------------------------------------------
def test_events_are_handled_in_order_of_arrival(domain: Domain, guest: FifoGuest) -> None:
    ports = [domain.events.bind_ipi(0) for _ in range(5)]
    order = [ports[i] for i in (3, 1, 4, 0, 2)]
    for port in order:
        domain.events.send(port)
        domain.events.send(port)
    assert domain.vcpus[0].upcalls == 1
    assert guest.consume_all(0) == order


def test_higher_priorities_come_first(domain: Domain, guest: FifoGuest) -> None:
    ports = [domain.events.bind_ipi(0) for _ in range(4)]
    for port, priority in zip(ports, (15, 7, 0, 3), strict=True):
        domain.events.set_priority(port, priority)
        domain.events.send(port)
    assert domain.memory.read_u32(guest.control[0]) == 1 << 15 | 1 << 7 | 1 << 0 | 1 << 3
    assert guest.consume_all(0) == [ports[2], ports[3], ports[1], ports[0]]


def test_set_priority_refuses(domain: Domain, guest: FifoGuest) -> None:
    port = domain.events.bind_ipi(0)
    assert errno_of(domain.events.set_priority, port, 16) is Errno.EINVAL
    assert errno_of(domain.events.set_priority, 50, 1) is Errno.EACCES
    assert errno_of(domain.events.set_priority, 1 << 20, 1) is Errno.EINVAL


def test_a_new_binding_has_the_default_priority(domain: Domain, guest: FifoGuest) -> None:
    port = domain.events.bind_ipi(0)
    domain.events.set_priority(port, 0)
    domain.events.close(port)
    assert domain.events.bind_ipi(0) == port
    domain.events.send(port)
    assert domain.memory.read_u32(guest.control[0]) == 1 << EVTCHN_FIFO_PRIORITY_DEFAULT


def test_masked_events_are_pending_but_not_linked(domain: Domain, guest: FifoGuest) -> None:
    port = domain.events.bind_ipi(0)
    guest.mask(port)
    domain.events.send(port)
    assert guest.bit(port, EVTCHN_FIFO_PENDING)
    assert not guest.bit(port, EVTCHN_FIFO_LINKED)
    assert guest.consume_all(0) == []
    guest.unmask(port)
    assert guest.consume_all(0) == [port]


def test_a_closed_port_stays_busy_until_it_leaves_its_queue(
    domain: Domain, guest: FifoGuest
) -> None:
    port = domain.events.bind_ipi(0)
    domain.events.send(port)
    domain.events.close(port)
    assert not guest.bit(port, EVTCHN_FIFO_PENDING)
    assert domain.events.bind_ipi(0) == port + 1
    assert errno_of(domain.events.alloc_unbound, 2, port) is Errno.EBUSY
    assert guest.consume_all(0) == []
    assert domain.events.bind_ipi(0) == port


def test_an_emptied_queues_tail_is_forgotten_when_its_port_moves(
    domain: Domain, guest: FifoGuest
) -> None:
    """Else the next event of the old queue would be linked into the new one, and be lost."""
    mover = domain.events.alloc_unbound(1)
    remote = domain.events.bind_interdomain(1, mover)
    other = domain.events.bind_ipi(0)
    guest.consume_all(0)
    domain.events.send(remote)
    assert guest.consume_all(0) == [mover]
    domain.events.bind_vcpu(mover, 1)
    domain.events.send(remote)
    domain.events.send(other)
    assert guest.consume_all(0) == [other]
    assert guest.consume_all(1) == [mover]


def test_linking_behind_a_tail_clears_its_busy_bit(domain: Domain, guest: FifoGuest) -> None:
    a, b = domain.events.bind_ipi(0), domain.events.bind_ipi(0)
    domain.events.send(a)
    domain.memory.test_and_set_bit(guest.word_maddr(a), EVTCHN_FIFO_BUSY)
    domain.events.send(b)
    assert not guest.bit(a, EVTCHN_FIFO_BUSY)
    assert guest.word(a) & 0x1FFFF == b


def test_a_poller_wakes_for_masked_events(domain: Domain, guest: FifoGuest) -> None:
    port = domain.events.bind_ipi(0)
    guest.mask(port)
    assert domain.events.poll(domain.vcpus[1], [port])
    domain.events.send(port)
    domain.events.send(port)
    assert domain.vcpus[1].unblocked == 1


def test_first_idle_port_skips_whole_pages_of_busy_ones(domain: Domain) -> None:
    guest = FifoGuest(domain, pages=3)
    domain.events.alloc_unbound(2, port=2999)
    for page in range(2):
        domain.memory.write(guest.array[page], b"\0\0\0\x20" * 1024)
    assert domain.events.bind_ipi(0) == 2048
    domain.memory.write_u32(guest.word_maddr(1027), 0)
    assert domain.events.bind_ipi(0) == 1027


# -- the model ---------------------------------------------------------------------------------
class FifoModel(RuleBasedStateMachine):
    """Queues as plain lists.  The guest consumes from memory; both must agree all the time."""

    ports = Bundle("ports")

    @initialize()
    def start(self) -> None:
        machine = Machine()
        self.domain = machine.domain(1, vcpus=2)
        self.peer = machine.domain(2)
        self.guest = FifoGuest(self.domain)
        self.remote: dict[int, int] = {}
        self.vcpu: dict[int, int] = {}
        self.priority: dict[int, int] = {}
        self.pending: set[int] = set()
        self.masked: set[int] = set()
        self.queues: dict[tuple[int, int], list[int]] = {}

    def queued(self, port: int) -> bool:
        return any(port in queue for queue in self.queues.values())

    def raise_event(self, port: int) -> None:
        self.pending.add(port)
        if port not in self.masked and not self.queued(port):
            self.queues.setdefault((self.vcpu[port], self.priority[port]), []).append(port)

    @rule(target=ports, vcpu=st.integers(0, 1), priority=st.sampled_from([0, 7, 15]))
    def bind(self, vcpu: int, priority: int) -> object:
        if len(self.remote) >= 8:
            return multiple()
        busy = {port for queue in self.queues.values() for port in queue}
        free = min(set(range(1, 100)) - set(self.remote) - busy)
        port = self.domain.events.alloc_unbound(2)
        assert port == free
        self.domain.events.bind_vcpu(port, vcpu)
        self.domain.events.set_priority(port, priority)
        self.remote[port] = self.peer.events.bind_interdomain(1, port)
        self.vcpu[port], self.priority[port] = vcpu, priority
        return port

    @rule(port=consumes(ports))
    def close(self, port: int) -> None:
        """It stays in its queue, to be ignored by the guest."""
        self.domain.events.close(port)
        self.peer.events.close(self.remote.pop(port))
        self.pending.discard(port)

    @rule(port=ports)
    def send(self, port: int) -> None:
        self.peer.events.send(self.remote[port])
        self.raise_event(port)

    @rule(port=ports, vcpu=st.integers(0, 1))
    def move(self, port: int, vcpu: int) -> None:
        self.domain.events.bind_vcpu(port, vcpu)
        self.vcpu[port] = vcpu

    @rule(port=ports, priority=st.sampled_from([0, 7, 15]))
    def set_priority(self, port: int, priority: int) -> None:
        self.domain.events.set_priority(port, priority)
        self.priority[port] = priority

    @rule(port=ports)
    def mask(self, port: int) -> None:
        self.guest.mask(port)
        self.masked.add(port)

    @rule(port=ports)
    def unmask(self, port: int) -> None:
        self.guest.unmask(port)
        self.masked.discard(port)
        if port in self.pending:
            self.raise_event(port)

    @rule(vcpu=st.integers(0, 1))
    def consume_one(self, vcpu: int) -> None:
        got = self.guest.consume_one(vcpu)
        waiting = [q for (v, q), queue in sorted(self.queues.items()) if v == vcpu and queue]
        if not waiting:
            assert got is None
            return
        port = self.queues[vcpu, waiting[0]].pop(0)
        if port in self.pending and port not in self.masked:
            assert got == port
            self.pending.discard(port)
        else:
            assert got == 0

    @invariant()
    @precondition(lambda self: hasattr(self, "guest"))
    def words_are_as_modelled(self) -> None:
        for port in range(1, 12):
            assert self.guest.bit(port, EVTCHN_FIFO_PENDING) == (port in self.pending)
            assert self.guest.bit(port, EVTCHN_FIFO_MASKED) == (port in self.masked)
            assert self.guest.bit(port, EVTCHN_FIFO_LINKED) == self.queued(port)
            assert not self.guest.bit(port, EVTCHN_FIFO_BUSY)

    @invariant()
    @precondition(lambda self: hasattr(self, "guest"))
    def queues_with_events_are_ready(self) -> None:
        for (vcpu, priority), queue in self.queues.items():
            if queue:
                known = self.guest.ready[vcpu] | self.domain.memory.read_u32(
                    self.guest.control[vcpu]
                )
                assert known >> priority & 1

    @invariant()
    @precondition(lambda self: hasattr(self, "guest"))
    def what_is_ready_has_been_announced(self) -> None:
        for vcpu in self.domain.vcpus:
            if self.domain.memory.read_u32(self.guest.control[vcpu.vcpu_id]):
                assert vcpu.upcalls > 0


TestFifoModel = FifoModel.TestCase
