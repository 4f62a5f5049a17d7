# SPDX-License-Identifier: GPL-2.0-or-later
"""Ports of the embedded control domain: callbacks in place of upcalls."""

from __future__ import annotations

import pytest

from tests.hypervisor.events.support import Domain, Machine, connect, errno_of
from xenograft.abi.errno import Errno
from xenograft.abi.xen import VIRQ_CONSOLE
from xenograft.hypervisor.events.channels import EventChannels


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def dom0(machine: Machine) -> Domain:
    return machine.domain(0, host=True)


@pytest.fixture
def guest(machine: Machine) -> Domain:
    return machine.domain(1)


def test_a_callback_gets_its_ports_events(dom0: Domain, guest: Domain) -> None:
    port, remote = connect(guest, dom0)
    got: list[int] = []
    dom0.events.attach(remote, got.append)
    assert got == [remote]  # pending since the bind
    guest.events.send(port)
    guest.events.send(port)
    assert got == [remote] * 3
    assert not dom0.events.is_pending(remote)
    dom0.events.send(remote)
    assert guest.events.is_pending(port)


def test_events_wait_for_a_callback(dom0: Domain, guest: Domain) -> None:
    port, remote = connect(guest, dom0)
    guest.events.send(port)
    assert dom0.events.is_pending(remote)
    got: list[int] = []
    dom0.events.attach(remote, got.append)
    dom0.events.attach(remote, None)
    guest.events.send(port)
    assert got == [remote]
    assert dom0.events.is_pending(remote)


def test_masked_events_wait(dom0: Domain, guest: Domain) -> None:
    port, remote = connect(guest, dom0)
    got: list[int] = []
    dom0.events.attach(remote, got.append)
    dom0.events.mask(remote)
    assert dom0.events.is_masked(remote)
    guest.events.send(port)
    guest.events.send(port)
    assert got == [remote]
    dom0.events.unmask(remote)
    assert got == [remote] * 2


def test_callbacks_do_not_nest(dom0: Domain) -> None:
    """Two host ports that answer each other take turns; none runs inside the other."""
    a, b = connect(dom0, dom0)
    log: list[str] = []
    running = 0

    def answer(own: int, name: str) -> None:
        nonlocal running
        running += 1
        assert running == 1
        log.append(name)
        if len(log) < 7:
            dom0.events.send(own)
        running -= 1

    dom0.events.attach(a, lambda port: answer(a, "a"))
    dom0.events.attach(b, lambda port: answer(b, "b"))
    assert log == ["b", "a", "b", "a", "b", "a", "b"]


def test_events_are_delivered_in_order_of_arrival(machine: Machine, guest: Domain) -> None:
    scheduled: list[bool] = []
    dom0 = machine.domain(0)
    dom0.events = EventChannels(dom0, host=True, schedule=lambda: scheduled.append(True))
    ends = [connect(guest, dom0) for _ in range(3)]
    got: list[int] = []
    for _, remote in ends:
        dom0.events.attach(remote, got.append)
    assert dom0.events.run_callbacks() == 3
    got.clear()
    scheduled.clear()
    for index in (2, 0, 1, 2):
        guest.events.send(ends[index][0])
    assert got == []
    assert scheduled
    assert dom0.events.run_callbacks() == 3
    assert got == [ends[2][1], ends[0][1], ends[1][1]]
    assert dom0.events.run_callbacks() == 0


def test_a_callback_that_closes_another_port_takes_its_event_along(
    machine: Machine, guest: Domain
) -> None:
    dom0 = machine.domain(0)
    dom0.events = EventChannels(dom0, host=True, schedule=lambda: None)
    (_, first), (_, second) = connect(guest, dom0), connect(guest, dom0)
    got: list[int] = []
    dom0.events.attach(first, lambda port: (got.append(port), dom0.events.close(second))[0])
    dom0.events.attach(second, got.append)
    dom0.events.run_callbacks()
    assert got == [first]
    assert dom0.events.active == 1


def test_an_error_in_a_callback_does_not_stop_later_events(dom0: Domain, guest: Domain) -> None:
    port, remote = connect(guest, dom0)
    calls: list[int] = []

    def fail_once(port: int) -> None:
        calls.append(port)
        if len(calls) == 1:
            raise RuntimeError("a bug of ours")

    with pytest.raises(RuntimeError):
        dom0.events.attach(remote, fail_once)
    guest.events.send(port)
    assert calls == [remote, remote]


def test_close_takes_the_callback_along(dom0: Domain, guest: Domain) -> None:
    port, remote = connect(guest, dom0)
    got: list[int] = []
    dom0.events.attach(remote, got.append)
    dom0.events.close(remote)
    assert dom0.events.bind_interdomain(1, guest.events.alloc_unbound(0)) == remote
    assert got == [remote]
    dom0.events.mask(remote)
    dom0.events.close(remote)
    dom0.events.bind_interdomain(1, port)
    assert not dom0.events.is_masked(remote)


def test_global_virqs_reach_a_callback(dom0: Domain) -> None:
    port = dom0.events.bind_virq(VIRQ_CONSOLE, 0)
    got: list[int] = []
    dom0.events.attach(port, got.append)
    dom0.events.raise_global_virq(VIRQ_CONSOLE)
    assert got == [port]


def test_the_host_has_no_fifo_and_no_2_level_limit(dom0: Domain) -> None:
    assert dom0.events.abi_name == "host"
    assert errno_of(dom0.events.init_control, 0, 5, 0) is Errno.ENOSYS
    assert errno_of(dom0.events.set_priority, dom0.events.bind_ipi(0), 0) is Errno.ENOSYS
    assert dom0.events.alloc_unbound(1, port=100_000) == 100_000
    assert dom0.events.reset()
    assert dom0.events.abi_name == "host"


def test_guests_have_no_callbacks(guest: Domain) -> None:
    port = guest.events.alloc_unbound(0)
    with pytest.raises(TypeError):
        guest.events.attach(port, print)
    with pytest.raises(TypeError):
        guest.events.run_callbacks()


def test_attach_wants_a_bound_port(dom0: Domain) -> None:
    assert errno_of(dom0.events.attach, 5, print) is Errno.EINVAL
    assert errno_of(dom0.events.attach, 500, print) is Errno.EINVAL
