# SPDX-License-Identifier: GPL-2.0-or-later
"""event_channel_op as a hypercall: copies, permissions, errors, in both layouts."""

from __future__ import annotations

import contextlib
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.hypervisor.events.fifo_guest import CONTROL_GFN
from tests.hypervisor.events.support import Domain, Machine, connect, errno_of
from xenograft.abi import event_channel as ec
from xenograft.abi.errno import Errno, XenError
from xenograft.abi.struct import Struct
from xenograft.abi.xen import DOMID_SELF, VIRQ_TIMER, __HYPERVISOR_event_channel_op
from xenograft.hypervisor.call import Call, Continuation, HostAccess
from xenograft.hypervisor.events.ops import (
    EVENT_CHANNEL_OPS,
    EVTCHNOP_reset_cont,
    event_channel_op,
)
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.ops import Op

BITS = pytest.mark.parametrize("bits", [32, 64])


class Caller:
    """A domain that makes hypercalls from memory of its own."""

    def __init__(self, domain: Domain, bits: int = 64) -> None:
        self.memory = HostAccess()
        machine = cast(Any, domain.hypervisor)
        self.call = Call(machine, cast(Any, domain), None, self.memory, bits)
        self.bits = bits

    def op(self, cmd: int, argument: Struct) -> tuple[int, Any]:
        """(result, the argument as it is afterwards)."""
        addr = self.memory.put(argument.pack(self.bits))
        try:
            result = event_channel_op(self.call, cmd, addr)
        except XenError as error:
            result = -error.errno
        cls = type(argument)
        return result, cls.unpack(self.memory.read(addr, cls.sizeof(self.bits)), self.bits)


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_every_declared_operation_has_a_row_for_every_kind() -> None:
    declared = {number: name for name, number in vars(ec).items() if name.startswith("EVTCHNOP_")}
    declared[EVTCHNOP_reset_cont] = "EVTCHNOP_reset_cont"
    assert {number: op.name for number, op in EVENT_CHANNEL_OPS.items()} == declared
    for op in EVENT_CHANNEL_OPS.values():
        assert isinstance(op, Op)
        assert all(callable(op.decisions[kind]) for kind in GuestKind)


@BITS
def test_a_channel_from_alloc_to_close(machine: Machine, bits: int) -> None:
    front, back = machine.domain(1), machine.domain(2)
    a, b = Caller(front, bits), Caller(back, bits)
    result, alloc = a.op(
        ec.EVTCHNOP_alloc_unbound, ec.evtchn_alloc_unbound(dom=DOMID_SELF, remote_dom=2)
    )
    assert (result, alloc.port) == (0, 1)
    result, bind = b.op(
        ec.EVTCHNOP_bind_interdomain, ec.evtchn_bind_interdomain(remote_dom=1, remote_port=1)
    )
    assert (result, bind.local_port) == (0, 1)
    assert b.op(ec.EVTCHNOP_send, ec.evtchn_send(port=1))[0] == 0
    assert front.pending_bits() == {1}
    result, status = a.op(ec.EVTCHNOP_status, ec.evtchn_status(dom=DOMID_SELF, port=1))
    assert (result, status.status) == (0, ec.EVTCHNSTAT_interdomain)
    assert (status.u.interdomain.dom, status.u.interdomain.port) == (2, 1)
    assert a.op(ec.EVTCHNOP_close, ec.evtchn_close(port=1))[0] == 0
    result, status = b.op(ec.EVTCHNOP_status, ec.evtchn_status(dom=2, port=1))
    assert (result, status.status, status.u.unbound.dom) == (0, ec.EVTCHNSTAT_unbound, 1)


@BITS
def test_bindings_and_their_status(machine: Machine, bits: int) -> None:
    guest = machine.domain(1, vcpus=2)
    caller = Caller(guest, bits)
    _, virq = caller.op(ec.EVTCHNOP_bind_virq, ec.evtchn_bind_virq(virq=VIRQ_TIMER, vcpu=1))
    _, ipi = caller.op(ec.EVTCHNOP_bind_ipi, ec.evtchn_bind_ipi(vcpu=1))
    _, pirq = caller.op(ec.EVTCHNOP_bind_pirq, ec.evtchn_bind_pirq(pirq=7))
    assert (virq.port, ipi.port, pirq.port) == (1, 2, 3)

    def status(port: int) -> Any:
        return caller.op(ec.EVTCHNOP_status, ec.evtchn_status(dom=1, port=port))[1]

    assert (status(1).status, status(1).vcpu) == (ec.EVTCHNSTAT_virq, 1)
    assert status(1).u.virq == VIRQ_TIMER
    assert (status(2).status, status(2).vcpu) == (ec.EVTCHNSTAT_ipi, 1)
    assert (status(3).status, status(3).u.pirq) == (ec.EVTCHNSTAT_pirq, 7)
    assert status(4).status == ec.EVTCHNSTAT_closed
    result, _ = caller.op(ec.EVTCHNOP_bind_vcpu, ec.evtchn_bind_vcpu(port=3, vcpu=1))
    assert (result, status(3).vcpu) == (0, 1)


def test_unmask_delivers(machine: Machine) -> None:
    guest = machine.domain(1)
    port = guest.events.bind_ipi(0)
    guest.set_mask(port)
    guest.events.send(port)
    assert Caller(guest).op(ec.EVTCHNOP_unmask, ec.evtchn_unmask(port=port))[0] == 0
    assert guest.vcpus[0].upcalls == 1


@BITS
def test_the_fifo_operations(machine: Machine, bits: int) -> None:
    guest = machine.domain(1)
    caller = Caller(guest, bits)
    guest.new_page(CONTROL_GFN)
    assert caller.op(ec.EVTCHNOP_expand_array, ec.evtchn_expand_array())[0] == -Errno.EOPNOTSUPP
    failed, control = caller.op(
        ec.EVTCHNOP_init_control, ec.evtchn_init_control(control_gfn=0x999, vcpu=0)
    )
    assert (failed, control.link_bits) == (-Errno.EINVAL, 0)
    result, control = caller.op(
        ec.EVTCHNOP_init_control, ec.evtchn_init_control(control_gfn=CONTROL_GFN, vcpu=0)
    )
    assert (result, control.link_bits) == (0, 17)
    guest.new_page(0x300)
    expand = ec.evtchn_expand_array(array_gfn=0x300)
    assert caller.op(ec.EVTCHNOP_expand_array, expand)[0] == 0
    port = guest.events.bind_ipi(0)
    priority = ec.evtchn_set_priority(port=port, priority=3)
    assert caller.op(ec.EVTCHNOP_set_priority, priority)[0] == 0


def test_other_domains_need_privilege(machine: Machine) -> None:
    guest, other = machine.domain(1), machine.domain(2)
    dom0 = machine.domain(0, is_privileged=True)
    alloc = ec.evtchn_alloc_unbound(dom=1, remote_dom=DOMID_SELF)
    assert Caller(other).op(ec.EVTCHNOP_alloc_unbound, alloc)[0] == -Errno.EPERM
    result, done = Caller(dom0).op(ec.EVTCHNOP_alloc_unbound, alloc)
    assert (result, done.port) == (0, 1)
    assert guest.events.status(1).remote_domid == 0
    status = ec.evtchn_status(dom=1, port=1)
    assert Caller(other).op(ec.EVTCHNOP_status, status)[0] == -Errno.EPERM
    assert Caller(dom0).op(ec.EVTCHNOP_status, status)[0] == 0
    reset = ec.evtchn_reset(dom=1)
    assert Caller(other).op(ec.EVTCHNOP_reset, reset)[0] == -Errno.EPERM
    assert Caller(dom0).op(ec.EVTCHNOP_reset, reset)[0] == -Errno.EINVAL  # not paused
    guest.pause_count = 1
    assert Caller(dom0).op(ec.EVTCHNOP_reset, reset)[0] == 0
    assert guest.events.active == 0


def test_errors_come_in_xens_order(machine: Machine) -> None:
    full = machine.domain(1, max_port=0)
    other = Caller(machine.domain(2))
    alloc = ec.evtchn_alloc_unbound(dom=1, remote_dom=2)
    assert other.op(ec.EVTCHNOP_alloc_unbound, alloc)[0] == -Errno.ENOSPC
    full.dying = True
    assert other.op(ec.EVTCHNOP_alloc_unbound, alloc)[0] == -Errno.EINVAL
    status = ec.evtchn_status(dom=1, port=99)
    assert other.op(ec.EVTCHNOP_status, status)[0] == -Errno.EINVAL
    alloc.dom = 77
    assert other.op(ec.EVTCHNOP_alloc_unbound, alloc)[0] == -Errno.ESRCH
    status.dom = 77
    assert other.op(ec.EVTCHNOP_status, status)[0] == -Errno.ESRCH
    assert other.op(ec.EVTCHNOP_reset, ec.evtchn_reset(dom=77))[0] == -Errno.ESRCH


def test_unknown_operations_and_bad_pointers(machine: Machine) -> None:
    caller = Caller(machine.domain(1))
    assert errno_of(event_channel_op, caller.call, 15, 0) is Errno.ENOSYS
    assert errno_of(event_channel_op, caller.call, -1, 0) is Errno.ENOSYS
    for cmd in EVENT_CHANNEL_OPS:
        assert errno_of(event_channel_op, caller.call, cmd, 0xDEAD0000) is Errno.EFAULT


def test_a_long_reset_is_continued(machine: Machine) -> None:
    guest = machine.domain(1)
    for _ in range(100):
        guest.events.bind_ipi(0)
    caller = Caller(guest)
    addr = caller.memory.put(ec.evtchn_reset(dom=DOMID_SELF).pack())
    with pytest.raises(Continuation) as raised:
        event_channel_op(caller.call, ec.EVTCHNOP_reset, addr)
    assert raised.value.number == __HYPERVISOR_event_channel_op
    assert raised.value.arguments == (EVTCHNOP_reset_cont, addr)
    assert event_channel_op(caller.call, *raised.value.arguments) == 0
    assert guest.events.active == 0


@settings(max_examples=300, deadline=None)
@given(
    calls=st.lists(
        st.tuples(
            st.integers(0, 15),
            st.lists(
                st.one_of(st.integers(0, 20), st.integers(0, 0xFFFFFFFF)), min_size=6, max_size=6
            ),
        ),
        max_size=25,
    ),
    bits=st.sampled_from([32, 64]),
)
def test_random_hypercalls_end_in_a_result_or_an_errno(
    calls: list[tuple[int, list[int]]], bits: int
) -> None:
    machine = Machine()
    guest = machine.domain(1, vcpus=2, bits=bits)
    connect(guest, machine.domain(2))
    guest.new_page(3)
    caller = Caller(guest, bits)
    for cmd, words in calls:
        addr = caller.memory.put(b"".join(word.to_bytes(4, "little") for word in words))
        with contextlib.suppress(XenError, Continuation):
            assert event_channel_op(caller.call, cmd, addr) == 0
    assert len(guest.events.bound()) == guest.events.active
