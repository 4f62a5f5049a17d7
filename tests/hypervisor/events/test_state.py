# SPDX-License-Identifier: GPL-2.0-or-later
"""State apart from resources: save, carry as bytes, restore into a fresh table, compare."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hypervisor.events.fifo_guest import CONTROL_GFN, FifoGuest
from tests.hypervisor.events.support import Domain, Machine, connect, errno_of
from xenograft.abi.errno import Errno, XenError
from xenograft.abi.xen import VIRQ_CONSOLE, VIRQ_TIMER
from xenograft.hypervisor.events.channels import EventChannels, EventsRecord


def through_bytes(record: EventsRecord) -> EventsRecord:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=EventsRecord)


def restored(domain: Domain, consumers: dict[int, object] | None = None) -> EventChannels:
    """Replace the domain's table by one restored from its saved state."""
    record = through_bytes(domain.events.save())
    domain.events = EventChannels(domain)
    domain.events.restore(record, consumers)  # type: ignore[arg-type]
    assert domain.events.save() == record
    return domain.events


def test_2_level_bindings_survive() -> None:
    machine = Machine()
    guest, other = machine.domain(1, vcpus=2), machine.domain(2)
    got: list[tuple[int, int]] = []
    port, remote = connect(guest, other)
    timer = guest.events.bind_virq(VIRQ_TIMER, 1)
    console = guest.events.bind_virq(VIRQ_CONSOLE, 0)
    guest.events.bind_vcpu(console, 1)
    guest.events.bind_pirq(5)
    held = guest.events.alloc_unbound_xen(0, 2, lambda v, p: None)
    peer = other.events.bind_interdomain(1, held)
    events = restored(guest, {held: lambda v, p: got.append((v, p))})
    assert events.active == 5
    other.events.send(remote)
    other.events.send(peer)
    events.raise_virq(guest.vcpus[1], VIRQ_TIMER)
    events.raise_global_virq(VIRQ_CONSOLE)
    assert guest.pending_bits() == {port, timer, console}
    assert got == [(0, held)]
    assert errno_of(events.bind_pirq, 5) is Errno.EEXIST
    assert errno_of(events.bind_virq, VIRQ_CONSOLE, 0) is Errno.EEXIST
    assert events.bind_ipi(0) == held + 1


def test_ports_that_xen_holds_need_their_consumer() -> None:
    guest = Machine().domain(1)
    port = guest.events.alloc_unbound_xen(0, 2, lambda v, p: None)
    with pytest.raises(ValueError, match=f"port {port}"):
        restored(guest)


def test_a_reset_under_way_goes_on() -> None:
    guest = Machine().domain(1)
    for _ in range(10):
        guest.events.bind_ipi(0)
    assert not guest.events.reset(budget=4)
    events = restored(guest)
    assert errno_of(events.reset) is Errno.EBUSY
    assert events.reset(resuming=True)


def test_fifo_queues_survive() -> None:
    machine = Machine()
    domain = machine.domain(1, vcpus=2)
    guest = FifoGuest(domain)
    ports = [domain.events.bind_ipi(0) for _ in range(4)]
    domain.events.set_priority(ports[3], 2)
    for port in ports[:2]:
        domain.events.send(port)
    events = restored(domain)
    # The old table was never destroyed, so that each page is now held twice.
    assert {domain.memory.refs(maddr >> 12) for maddr in guest.control + guest.array} == {3}
    events.restore(events.save())
    assert {domain.memory.refs(maddr >> 12) for maddr in guest.control + guest.array} == {3}
    domain.events.send(ports[3])
    domain.events.send(ports[2])  # linked behind a tail from before
    assert guest.consume_all(0) == [ports[3], ports[0], ports[1], ports[2]]


def test_free_ports_of_a_fifo_are_left_out() -> None:
    domain = Machine().domain(1)
    guest = FifoGuest(domain)
    port = domain.events.bind_ipi(0)
    record = domain.events.save()
    assert [channel.port for channel in record.channels] == [0, port]
    domain.events.restore(record)
    other = domain.events.bind_ipi(0)
    domain.events.set_priority(port, 2)
    domain.events.send(other)
    domain.events.send(port)
    assert guest.consume_all(0) == [port, other]


def test_a_page_that_the_guest_has_given_away_meanwhile_is_left_out() -> None:
    domain = Machine().domain(1)
    FifoGuest(domain)
    port = domain.events.bind_ipi(0)
    record = domain.events.save()
    domain.p2m.space.unmap(CONTROL_GFN)
    domain.events.restore(record)
    domain.events.send(port)
    assert not domain.events.is_pending(port)
    assert domain.events.save() == record


def test_host_ports_survive() -> None:
    machine = Machine()
    dom0, guest = machine.domain(0, host=True), machine.domain(1)
    ends = [connect(guest, dom0) for _ in range(3)]
    dom0.events.mask(ends[1][1])
    record = through_bytes(dom0.events.save())
    dom0.events = EventChannels(dom0, host=True)
    dom0.events.restore(record)
    assert dom0.events.save() == record
    got: list[int] = []
    for _, remote in ends:
        dom0.events.attach(remote, got.append)
    assert got == [ends[0][1], ends[2][1]]
    with pytest.raises(ValueError, match="control domain"):
        guest.events.restore(record)


@settings(max_examples=60, deadline=None)
@given(
    script=st.lists(
        st.tuples(
            st.sampled_from(["ipi", "virq", "unbound", "self", "close", "move", "send"]),
            st.integers(1, 20),
            st.integers(0, 3),
        ),
        max_size=30,
    )
)
def test_any_state_survives(script: list[tuple[str, int, int]]) -> None:
    domain = Machine().domain(1, vcpus=3)
    for name, a, b in script:
        events = domain.events
        try:
            match name:
                case "ipi":
                    events.bind_ipi(b)
                case "virq":
                    events.bind_virq(a, b)
                case "unbound":
                    events.alloc_unbound(1)
                case "self":
                    events.bind_interdomain(1, a)
                case "close":
                    events.close(a)
                case "move":
                    events.bind_vcpu(a, b)
                case "send":
                    events.send(a)
        except XenError:
            pass
    before = [domain.events.status(port) for port in range(64)]
    pending = domain.pending_bits()
    events = restored(domain)
    assert [events.status(port) for port in range(64)] == before
    assert domain.pending_bits() == pending
    assert [channel.port for channel in events.bound()] == [
        port for port in range(64) if before[port].status
    ]
    assert events.active == len(events.bound())
