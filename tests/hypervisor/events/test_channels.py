# SPDX-License-Identifier: GPL-2.0-or-later
"""Allocation, binding, closing and sending, with Xen's errno for each wrong argument."""

from __future__ import annotations

import pytest

from tests.hypervisor.events.support import Domain, Machine, connect, errno_of
from xenograft.abi.errno import Errno, XenError
from xenograft.abi.event_channel import (
    EVTCHNSTAT_closed,
    EVTCHNSTAT_interdomain,
    EVTCHNSTAT_ipi,
    EVTCHNSTAT_pirq,
    EVTCHNSTAT_unbound,
    EVTCHNSTAT_virq,
)
from xenograft.abi.xen import NR_VIRQS, VIRQ_ARCH_0, VIRQ_CONSOLE, VIRQ_DEBUG, VIRQ_TIMER
from xenograft.hypervisor.events.channels import ChannelStatus, EventChannels
from xenograft.hypervisor.events.pirq import VirtualPirqs
from xenograft.hypervisor.instruments import Instrument
from xenograft.hypervisor.kinds import GuestKind


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def guest(machine: Machine) -> Domain:
    return machine.domain(1, vcpus=3)


@pytest.fixture
def other(machine: Machine) -> Domain:
    return machine.domain(2, vcpus=2)


# -- allocation ------------------------------------------------------------
def test_ports_are_handed_out_lowest_first_and_port_0_never(guest: Domain) -> None:
    assert [guest.events.alloc_unbound(2) for _ in range(3)] == [1, 2, 3]
    guest.events.close(2)
    assert guest.events.alloc_unbound(2) == 2
    assert guest.events.alloc_unbound(2) == 4
    assert guest.events.active == 4


def test_valid_ports_grow_by_buckets_of_64(guest: Domain) -> None:
    assert guest.events.valid_ports == 64
    assert guest.events.status(63) == ChannelStatus(EVTCHNSTAT_closed, 0)
    assert errno_of(guest.events.status, 64) is Errno.EINVAL
    for _ in range(64):
        guest.events.alloc_unbound(2)
    assert guest.events.valid_ports == 128
    assert guest.events.status(127).status == EVTCHNSTAT_closed


@pytest.mark.parametrize(("bits", "limit"), [(64, 4096), (32, 1024)])
def test_2_level_limit_follows_the_layout(machine: Machine, bits: int, limit: int) -> None:
    guest = machine.domain(1, bits=bits)
    for expected in range(1, limit):
        assert guest.events.alloc_unbound(2) == expected
    assert errno_of(guest.events.alloc_unbound, 2) is Errno.ENOSPC
    guest.events.close(700)
    assert guest.events.alloc_unbound(2) == 700


def test_max_port_is_the_last_port(machine: Machine) -> None:
    guest = machine.domain(1, max_port=5)
    assert [guest.events.alloc_unbound(2) for _ in range(5)] == [1, 2, 3, 4, 5]
    assert errno_of(guest.events.alloc_unbound, 2) is Errno.ENOSPC
    assert errno_of(guest.events.bind_ipi, 0) is Errno.ENOSPC


def test_max_port_is_clamped_to_int_max(machine: Machine) -> None:
    assert EventChannels(machine.domain(1), max_port=0xFFFFFFFF).max_port == 0x7FFFFFFF


def test_a_given_port(guest: Domain) -> None:
    assert guest.events.alloc_unbound(2, port=200) == 200
    assert guest.events.valid_ports == 256
    assert errno_of(guest.events.alloc_unbound, 2, 200) is Errno.EBUSY
    assert errno_of(guest.events.alloc_unbound, 2, 4096) is Errno.ENOSPC
    assert guest.events.alloc_unbound(2) == 1


def test_a_dying_domain_gets_no_port(guest: Domain) -> None:
    guest.dying = True
    assert errno_of(guest.events.alloc_unbound, 2) is Errno.EINVAL
    assert errno_of(guest.events.bind_ipi, 0) is Errno.EINVAL
    assert errno_of(guest.events.bind_virq, VIRQ_TIMER, 0) is Errno.EINVAL


# -- interdomain ------------------------------------------------------------
def test_bind_interdomain_connects_both_ends(guest: Domain, other: Domain) -> None:
    port, remote = connect(guest, other)
    assert guest.events.status(port) == ChannelStatus(EVTCHNSTAT_interdomain, 0, 2, remote)
    assert other.events.status(remote) == ChannelStatus(EVTCHNSTAT_interdomain, 0, 1, port)


def test_the_binding_end_starts_pending(guest: Domain, other: Domain) -> None:
    port, remote = connect(guest, other)
    assert other.pending_bits() == {remote}
    assert other.vcpus[0].upcalls == 1
    assert guest.pending_bits() == set()
    assert not guest.events.is_pending(port)


def test_send_on_an_unbound_port_is_dropped_silently(guest: Domain) -> None:
    port = guest.events.alloc_unbound(2)
    guest.events.send(port)
    assert guest.pending_bits() == set()


def test_send_reaches_the_other_end_only(guest: Domain, other: Domain) -> None:
    port, remote = connect(guest, other)
    other.clear_pending(remote)
    guest.events.send(port)
    assert other.events.is_pending(remote)
    assert not guest.events.is_pending(port)
    other.events.send(remote)
    assert guest.events.is_pending(port)


def test_bind_interdomain_refuses(guest: Domain, other: Domain) -> None:
    third = guest.hypervisor.domain(3)
    port = guest.events.alloc_unbound(other.domid)
    ipi = guest.events.bind_ipi(0)
    bind = other.events.bind_interdomain
    assert errno_of(bind, 9, port) is Errno.ESRCH
    assert errno_of(bind, 1, 0) is Errno.EINVAL  # reserved
    assert errno_of(bind, 1, ipi) is Errno.EINVAL
    assert errno_of(bind, 1, 50) is Errno.EINVAL  # free
    assert errno_of(bind, 1, 1 << 31) is Errno.EINVAL  # invalid
    assert errno_of(third.events.bind_interdomain, 1, port) is Errno.EINVAL  # not for us
    assert other.events.active == 0
    bind(1, port)
    assert errno_of(bind, 1, port) is Errno.EINVAL  # bound already
    assert other.events.active == 1


def test_a_full_domain_shows_before_a_bad_remote_port(machine: Machine) -> None:
    guest = machine.domain(1, max_port=1)
    guest.events.alloc_unbound(1)
    assert errno_of(guest.events.bind_interdomain, 1, 77) is Errno.ENOSPC


def test_a_channel_within_one_domain(guest: Domain) -> None:
    port = guest.events.alloc_unbound(1)
    remote = guest.events.bind_interdomain(1, port)
    guest.clear_pending(remote)
    guest.events.send(remote)
    assert guest.pending_bits() == {port}
    guest.events.close(port)
    assert guest.events.status(remote) == ChannelStatus(EVTCHNSTAT_unbound, 0, 1)
    guest.events.close(remote)
    assert guest.events.active == 0


def test_close_leaves_the_other_end_waiting_for_us(guest: Domain, other: Domain) -> None:
    port, remote = connect(guest, other)
    guest.events.close(port)
    assert guest.events.status(port).status == EVTCHNSTAT_closed
    assert other.events.status(remote) == ChannelStatus(EVTCHNSTAT_unbound, 0, 1)
    other.events.send(remote)  # dropped
    again = guest.events.bind_interdomain(2, remote)
    other.clear_pending(remote)
    guest.events.send(again)
    assert other.events.is_pending(remote)


def test_close_clears_pending_and_moves_back_to_vcpu_0(guest: Domain, other: Domain) -> None:
    port, remote = connect(guest, other)
    guest.events.bind_vcpu(port, 2)
    other.events.send(remote)
    assert guest.pending_bits() == {port}
    guest.events.close(port)
    assert guest.pending_bits() == set()
    assert guest.events.alloc_unbound(2) == port
    assert guest.events.status(port).vcpu_id == 0


@pytest.mark.parametrize("port", [0, 7, 64, 1 << 31, 0xFFFFFFFF])
def test_close_and_send_refuse_what_is_not_bound(guest: Domain, port: int) -> None:
    assert errno_of(guest.events.close, port) is Errno.EINVAL
    assert errno_of(guest.events.send, port) is Errno.EINVAL


# -- VIRQs, IPIs, PIRQs -----------------------------------------------------------------------
def test_per_vcpu_virqs_are_bound_once_on_each(guest: Domain) -> None:
    ports = [guest.events.bind_virq(VIRQ_TIMER, v) for v in range(3)]
    assert ports == [1, 2, 3]
    assert errno_of(guest.events.bind_virq, VIRQ_TIMER, 1) is Errno.EEXIST
    guest.events.raise_virq(guest.vcpus[1], VIRQ_TIMER)
    assert guest.pending_bits() == {2}
    assert [v.upcalls for v in guest.vcpus] == [0, 1, 0]
    assert guest.events.status(2) == ChannelStatus(EVTCHNSTAT_virq, 1, virq=VIRQ_TIMER)


def test_global_virqs_start_on_vcpu_0_and_can_move(guest: Domain) -> None:
    assert errno_of(guest.events.bind_virq, VIRQ_CONSOLE, 1) is Errno.EINVAL
    port = guest.events.bind_virq(VIRQ_CONSOLE, 0)
    assert errno_of(guest.events.bind_virq, VIRQ_CONSOLE, 0) is Errno.EEXIST
    guest.events.bind_vcpu(port, 2)
    assert errno_of(guest.events.bind_virq, VIRQ_CONSOLE, 0) is Errno.EEXIST
    guest.events.raise_global_virq(VIRQ_CONSOLE)
    assert [v.upcalls for v in guest.vcpus] == [0, 0, 1]
    guest.events.close(port)
    assert guest.events.bind_virq(VIRQ_CONSOLE, 0) == port


def test_raise_virq_of_a_global_one_goes_to_the_domain(guest: Domain) -> None:
    guest.events.bind_virq(VIRQ_ARCH_0, 0)
    guest.events.raise_virq(guest.vcpus[2], VIRQ_ARCH_0)
    assert [v.upcalls for v in guest.vcpus] == [1, 0, 0]
    assert guest.events.virq_enabled(guest.vcpus[2], VIRQ_ARCH_0)


def test_unbound_virqs_are_dropped(guest: Domain) -> None:
    guest.events.raise_virq(guest.vcpus[0], VIRQ_TIMER)
    guest.events.raise_global_virq(VIRQ_CONSOLE)
    assert guest.pending_bits() == set()
    assert not guest.events.virq_enabled(guest.vcpus[0], VIRQ_TIMER)


def test_bind_virq_refuses(guest: Domain) -> None:
    bind = guest.events.bind_virq
    assert errno_of(bind, NR_VIRQS, 0) is Errno.EINVAL
    assert errno_of(bind, 0xFFFFFFFF, 0) is Errno.EINVAL
    assert errno_of(bind, VIRQ_DEBUG, 3) is Errno.ENOENT
    assert errno_of(bind, VIRQ_DEBUG, 0xFFFFFFFF) is Errno.ENOENT
    # The order of Xen's checks: a global one off vCPU 0 before the vCPU's existence.
    assert errno_of(bind, VIRQ_CONSOLE, 99) is Errno.EINVAL


def test_closing_a_moved_per_vcpu_virq_frees_its_own_slot(guest: Domain) -> None:
    port = guest.events.bind_virq(VIRQ_TIMER, 2)
    assert errno_of(guest.events.bind_vcpu, port, 0) is Errno.EINVAL
    guest.events.close(port)
    assert not guest.events.virq_enabled(guest.vcpus[2], VIRQ_TIMER)
    assert guest.events.bind_virq(VIRQ_TIMER, 2) == port


def test_virqs_cannot_be_sent(guest: Domain) -> None:
    assert errno_of(guest.events.send, guest.events.bind_virq(VIRQ_TIMER, 0)) is Errno.EINVAL
    assert errno_of(guest.events.send, guest.events.bind_pirq(4)) is Errno.EINVAL


def test_ipis_notify_their_own_vcpu(guest: Domain) -> None:
    port = guest.events.bind_ipi(2)
    assert guest.events.status(port) == ChannelStatus(EVTCHNSTAT_ipi, 2)
    guest.events.send(port)
    assert guest.pending_bits() == {port}
    assert [v.upcalls for v in guest.vcpus] == [0, 0, 1]
    assert errno_of(guest.events.bind_vcpu, port, 0) is Errno.EINVAL
    assert errno_of(guest.events.bind_ipi, 3) is Errno.ENOENT


class RecordingPirqs(VirtualPirqs):
    def __init__(self) -> None:
        super().__init__(nr_pirqs=32)
        self.log: list[tuple[object, ...]] = []

    def check_access(self, pirq: int) -> None:
        if pirq == 9:
            raise XenError(Errno.EPERM)

    def bind(self, vcpu_id: int, pirq: int, will_share: bool) -> None:
        if pirq == 8:
            raise XenError(Errno.EBUSY)
        self.log.append(("bind", vcpu_id, pirq, will_share))

    def unbind(self, pirq: int) -> None:
        self.log.append(("unbind", pirq))

    def set_affinity(self, pirq: int, vcpu_id: int) -> None:
        self.log.append(("affinity", pirq, vcpu_id))


def test_pirqs_take_and_release_their_line(machine: Machine) -> None:
    lines = RecordingPirqs()
    guest = machine.domain(1, vcpus=2, pirqs=lines)
    port = guest.events.bind_pirq(5, will_share=True)
    assert errno_of(guest.events.bind_pirq, 5) is Errno.EEXIST
    assert errno_of(guest.events.bind_pirq, 32) is Errno.EINVAL
    assert errno_of(guest.events.bind_pirq, 9) is Errno.EPERM
    assert errno_of(guest.events.bind_pirq, 8) is Errno.EBUSY
    assert guest.events.active == 1
    guest.events.bind_vcpu(port, 1)
    guest.events.bind_vcpu(port, 1)
    guest.events.raise_pirq(5)
    guest.events.raise_pirq(6)  # not bound: dropped
    assert guest.pending_bits() == {port}
    assert [v.upcalls for v in guest.vcpus] == [0, 1]
    assert guest.events.status(port) == ChannelStatus(EVTCHNSTAT_pirq, 1, pirq=5)
    guest.events.close(port)
    assert lines.log == [("bind", 0, 5, True), ("affinity", 5, 1), ("unbind", 5)]
    assert guest.events.bind_pirq(5) == port


def test_a_pv_domain_without_pirqs(machine: Machine) -> None:
    guest = machine.domain(1, kind=GuestKind.PV)
    assert errno_of(guest.events.bind_pirq, 4) is Errno.EPERM
    assert errno_of(guest.events.bind_pirq, 4096) is Errno.EINVAL


# -- bind_vcpu, unmask --------------------------------------------------------------------------
def test_bind_vcpu_moves_unbound_and_interdomain_ports(guest: Domain, other: Domain) -> None:
    port = guest.events.alloc_unbound(2)
    guest.events.bind_vcpu(port, 1)
    remote = other.events.bind_interdomain(1, port)
    other.events.send(remote)
    assert [v.upcalls for v in guest.vcpus] == [0, 1, 0]
    guest.events.bind_vcpu(port, 2)
    guest.clear_pending(port)
    other.events.send(remote)
    assert [v.upcalls for v in guest.vcpus] == [0, 1, 1]


def test_bind_vcpu_refuses(guest: Domain) -> None:
    port = guest.events.alloc_unbound(2)
    bind = guest.events.bind_vcpu
    assert errno_of(bind, port, 3) is Errno.ENOENT
    assert errno_of(bind, 0, 0) is Errno.EINVAL
    assert errno_of(bind, 9, 0) is Errno.EINVAL
    assert errno_of(bind, 9999, 0) is Errno.EINVAL
    assert errno_of(bind, 9999, 99) is Errno.ENOENT


def test_unmask_wants_a_valid_port_only(guest: Domain) -> None:
    guest.events.unmask(0)
    guest.events.unmask(63)
    assert errno_of(guest.events.unmask, 64) is Errno.EINVAL


# -- ports held by Xen ----------------------------------------------------------------------------
def test_xen_held_ports_are_out_of_the_guests_reach(guest: Domain, other: Domain) -> None:
    got: list[tuple[int, int]] = []
    port = guest.events.alloc_unbound_xen(1, 2, lambda v, p: got.append((v, p)))
    events = guest.events
    assert errno_of(events.close, port) is Errno.EINVAL
    assert errno_of(events.send, port) is Errno.EINVAL
    assert errno_of(events.status, port) is Errno.EACCES
    assert errno_of(events.bind_vcpu, port, 0) is Errno.EINVAL
    assert errno_of(events.poll, guest.vcpus[0], [port]) is Errno.EINVAL
    assert events.is_masked(port)
    events.notify_via_xen(port)  # not connected: dropped
    remote = other.events.bind_interdomain(1, port)
    other.clear_pending(remote)
    other.events.send(remote)
    assert got == [(1, port)]
    assert guest.pending_bits() == set()
    events.notify_via_xen(port)
    assert other.events.is_pending(remote)
    events.free_xen(port)
    events.free_xen(port)
    assert events.active == 0
    assert other.events.status(remote).status == EVTCHNSTAT_unbound
    assert errno_of(events.status, port) is None


# -- reset and destroy ------------------------------------------------------------
def test_reset_closes_the_guests_ports_and_keeps_xens(guest: Domain, other: Domain) -> None:
    held = guest.events.alloc_unbound_xen(0, 2, lambda v, p: None)
    port, remote = connect(guest, other)
    guest.events.bind_virq(VIRQ_TIMER, 0)
    assert guest.events.reset()
    assert guest.events.active == 1
    assert guest.events.status(port).status == EVTCHNSTAT_closed
    assert other.events.status(remote).status == EVTCHNSTAT_unbound
    assert not guest.events.virq_enabled(guest.vcpus[0], VIRQ_TIMER)
    assert errno_of(guest.events.status, held) is Errno.EACCES


def test_reset_works_to_a_budget(guest: Domain) -> None:
    for _ in range(150):
        guest.events.bind_ipi(0)
    assert not guest.events.reset(budget=64)
    assert guest.events.active == 86
    assert errno_of(guest.events.reset) is Errno.EBUSY
    assert not guest.events.reset(resuming=True, budget=64)
    assert guest.events.reset(resuming=True, budget=64)
    assert guest.events.active == 0
    assert guest.events.reset()


def test_reset_cont_without_a_reset_under_way(guest: Domain) -> None:
    assert errno_of(guest.events.reset, True) is Errno.EBUSY


def test_ports_bound_during_a_reset_make_it_fail(guest: Domain) -> None:
    for _ in range(70):
        guest.events.bind_ipi(0)
    assert not guest.events.reset(budget=64)
    assert guest.events.bind_ipi(0) == 1
    assert errno_of(guest.events.reset, True) is Errno.EAGAIN
    assert guest.events.active == 1
    assert guest.events.reset()


def test_destroy_closes_everything_to_a_budget(guest: Domain, other: Domain) -> None:
    _, remote = connect(guest, other)
    guest.events.alloc_unbound_xen(0, 2, lambda v, p: None)
    for _ in range(100):
        guest.events.bind_ipi(1)
    guest.dying = True
    rounds = 1
    while not guest.events.destroy(budget=10):
        rounds += 1
    assert rounds == 11
    assert guest.events.active == 0
    assert other.events.status(remote).status == EVTCHNSTAT_unbound
    other.events.send(remote)
    assert guest.events.destroy()


def test_a_vanished_remote_domain_is_tolerated(guest: Domain, other: Domain) -> None:
    port, _ = connect(guest, other)
    del guest.hypervisor.domains[2]
    guest.events.send(port)
    guest.events.close(port)
    assert guest.events.active == 0


# -- polling ------------------------------------------------------------
def test_poll_of_a_pending_port_does_not_block(guest: Domain) -> None:
    port, quiet = guest.events.bind_ipi(0), guest.events.bind_ipi(0)
    guest.events.send(port)
    assert not guest.events.poll(guest.vcpus[0], [quiet, port])
    assert guest.vcpus[0].poll_ports is None


def test_poll_of_one_port_ends_with_that_port(guest: Domain) -> None:
    port, noise = guest.events.bind_ipi(0), guest.events.bind_ipi(0)
    guest.set_mask(port)
    guest.set_mask(noise)
    assert guest.events.poll(guest.vcpus[1], [port])
    guest.events.send(noise)
    assert guest.vcpus[1].unblocked == 0
    guest.events.send(port)
    assert guest.vcpus[1].unblocked == 1
    assert guest.vcpus[0].upcalls == 0  # it's masked: polling is the only way to see it
    guest.clear_pending(port)
    guest.events.send(port)
    assert guest.vcpus[1].unblocked == 1


@pytest.mark.parametrize("several", [True, False])
def test_poll_of_several_or_no_ports_ends_with_any(guest: Domain, several: bool) -> None:
    ports = [guest.events.bind_ipi(0) for _ in range(3)]
    assert guest.events.poll(guest.vcpus[2], ports[:2] if several else [])
    guest.events.send(ports[2])
    assert guest.vcpus[2].unblocked == 1


def test_poll_refuses_ports_that_are_not_bound(guest: Domain) -> None:
    assert errno_of(guest.events.poll, guest.vcpus[0], [3]) is Errno.EINVAL
    assert errno_of(guest.events.poll, guest.vcpus[0], [1 << 30]) is Errno.EINVAL


def test_poll_lets_a_bad_pointer_through(guest: Domain) -> None:
    def ports():  # type: ignore[no-untyped-def]
        yield guest.events.bind_ipi(0)
        raise XenError(Errno.EFAULT)

    assert errno_of(guest.events.poll, guest.vcpus[0], ports()) is Errno.EFAULT
    assert guest.vcpus[0].poll_ports is None


# -- watching ------------------------------------------------------------
def test_events_pass_the_instruments(guest: Domain, other: Domain) -> None:
    seen: list[tuple[int, ...]] = []

    class Watch(Instrument):
        def event_send(self, time: int, domid: int, port: int, remote: int, rport: int) -> None:
            seen.append((domid, port, remote, rport))

    port, remote = connect(guest, other)
    ipi = guest.events.bind_ipi(0)
    timer = guest.events.bind_virq(VIRQ_TIMER, 0)
    with guest.hypervisor.instruments.listening(Watch()):
        guest.events.send(port)
        guest.events.send(ipi)
        guest.events.raise_virq(guest.vcpus[0], VIRQ_TIMER)
    guest.events.send(port)
    assert seen == [(1, port, 2, remote), (1, ipi, 1, ipi), (0x7FF2, 0, 1, timer)]


def test_an_event_that_a_fault_takes_is_lost(guest: Domain, other: Domain) -> None:
    port, remote = connect(guest, other)
    asked: list[tuple[int, ...]] = []

    def lose(*what: int) -> bool:
        asked.append(what)
        return len(asked) == 1

    guest.hypervisor.faults.add_event(lose)
    other.events.send(remote)
    assert not guest.events.is_pending(port)
    other.events.send(remote)
    assert guest.events.is_pending(port)
    guest.events.send(port)
    assert asked == [(2, remote, 1, port), (2, remote, 1, port), (1, port, 2, remote)]
