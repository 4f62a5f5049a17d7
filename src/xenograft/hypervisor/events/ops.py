# SPDX-License-Identifier: GPL-2.0-or-later
"""HYPERVISOR_event_channel_op: the rows of its sub-operations (public/event_channel.h).

All kinds of guest may use all of them.  Naming another domain needs privilege over it, as
Xen's default security hooks (XSM_TARGET) have it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.event_channel import (
    BIND_PIRQ__WILL_SHARE,
    EVTCHN_FIFO_LINK_BITS,
    EVTCHNOP_alloc_unbound,
    EVTCHNOP_bind_interdomain,
    EVTCHNOP_bind_ipi,
    EVTCHNOP_bind_pirq,
    EVTCHNOP_bind_vcpu,
    EVTCHNOP_bind_virq,
    EVTCHNOP_close,
    EVTCHNOP_expand_array,
    EVTCHNOP_init_control,
    EVTCHNOP_reset,
    EVTCHNOP_send,
    EVTCHNOP_set_priority,
    EVTCHNOP_status,
    EVTCHNOP_unmask,
    EVTCHNSTAT_interdomain,
    EVTCHNSTAT_pirq,
    EVTCHNSTAT_unbound,
    EVTCHNSTAT_virq,
    evtchn_alloc_unbound,
    evtchn_bind_interdomain,
    evtchn_bind_ipi,
    evtchn_bind_pirq,
    evtchn_bind_vcpu,
    evtchn_bind_virq,
    evtchn_close,
    evtchn_expand_array,
    evtchn_init_control,
    evtchn_reset,
    evtchn_send,
    evtchn_set_priority,
    evtchn_status,
    evtchn_unmask,
)
from xenograft.abi.xen import DOMID_SELF, __HYPERVISOR_event_channel_op
from xenograft.hypervisor.call import Continuation
from xenograft.hypervisor.ops import Handler, Op, dispatch_family, everyone, family
from xenograft.hypervisor.privilege import Xsm, check

if TYPE_CHECKING:
    from xenograft.abi.struct import Struct
    from xenograft.hypervisor.call import Call

EVTCHNOP_reset_cont = 14
"""How Xen continues a reset; not in the public header, but guests could always call it."""


def _alloc_unbound(call: Call, op: evtchn_alloc_unbound) -> int:
    domain = call.hypervisor.resolve_domid(call, op.dom)
    # Xen looks for the port first: a full or dying domain shows before a lack of privilege.
    domain.events.check_free_port()
    check(Xsm.TARGET, call.domain, domain)
    remote = call.domain.domid if op.remote_dom == DOMID_SELF else op.remote_dom
    op.port = domain.events.alloc_unbound(remote)
    return 0


def _bind_interdomain(call: Call, op: evtchn_bind_interdomain) -> int:
    remote = call.hypervisor.resolve_domid(call, op.remote_dom)
    op.local_port = call.domain.events.bind_interdomain(remote.domid, op.remote_port)
    return 0


def _bind_virq(call: Call, op: evtchn_bind_virq) -> int:
    op.port = call.domain.events.bind_virq(op.virq, op.vcpu)
    return 0


def _bind_ipi(call: Call, op: evtchn_bind_ipi) -> int:
    op.port = call.domain.events.bind_ipi(op.vcpu)
    return 0


def _bind_pirq(call: Call, op: evtchn_bind_pirq) -> int:
    op.port = call.domain.events.bind_pirq(op.pirq, bool(op.flags & BIND_PIRQ__WILL_SHARE))
    return 0


def _close(call: Call, op: evtchn_close) -> int:
    call.domain.events.close(op.port)
    return 0


def _send(call: Call, op: evtchn_send) -> int:
    call.domain.events.send(op.port)
    return 0


def _status(call: Call, op: evtchn_status) -> int:
    domain = call.hypervisor.resolve_domid(call, op.dom)
    status = domain.events.status(op.port)
    check(Xsm.TARGET, call.domain, domain)
    op.status = status.status
    op.vcpu = status.vcpu_id
    if status.status == EVTCHNSTAT_unbound:
        op.u.unbound.dom = status.remote_domid
    elif status.status == EVTCHNSTAT_interdomain:
        op.u.interdomain.dom = status.remote_domid
        op.u.interdomain.port = status.remote_port
    elif status.status == EVTCHNSTAT_pirq:
        op.u.pirq = status.pirq
    elif status.status == EVTCHNSTAT_virq:
        op.u.virq = status.virq
    return 0


def _bind_vcpu(call: Call, op: evtchn_bind_vcpu) -> int:
    call.domain.events.bind_vcpu(op.port, op.vcpu)
    return 0


def _unmask(call: Call, op: evtchn_unmask) -> int:
    call.domain.events.unmask(op.port)
    return 0


def _reset(call: Call, arg: int) -> int:
    return _do_reset(call, arg, resuming=False)


def _reset_cont(call: Call, arg: int) -> int:
    return _do_reset(call, arg, resuming=True)


def _do_reset(call: Call, arg: int, resuming: bool) -> int:
    domain = call.hypervisor.resolve_domid(call, call.read(arg, evtchn_reset).dom)
    check(Xsm.TARGET, call.domain, domain)
    if domain is not call.domain and not domain.pause_count:
        raise XenError(Errno.EINVAL)
    if not domain.events.reset(resuming):
        raise Continuation(__HYPERVISOR_event_channel_op, EVTCHNOP_reset_cont, arg)
    return 0


def _init_control(call: Call, op: evtchn_init_control) -> int:
    call.domain.events.init_control(op.vcpu, op.control_gfn, op.offset)
    op.link_bits = EVTCHN_FIFO_LINK_BITS
    return 0


def _expand_array(call: Call, op: evtchn_expand_array) -> int:
    call.domain.events.expand_array(op.array_gfn)
    return 0


def _set_priority(call: Call, op: evtchn_set_priority) -> int:
    call.domain.events.set_priority(op.port, op.priority)
    return 0


def _row(number: int, handler: Handler, argument: type[Struct] | None, out: bool = False) -> Op:
    return Op(number, f"EVTCHNOP{handler.__name__}", argument, everyone(handler), out)


EVENT_CHANNEL_OPS = family(
    [
        _row(EVTCHNOP_bind_interdomain, _bind_interdomain, evtchn_bind_interdomain, out=True),
        _row(EVTCHNOP_bind_virq, _bind_virq, evtchn_bind_virq, out=True),
        _row(EVTCHNOP_bind_pirq, _bind_pirq, evtchn_bind_pirq, out=True),
        _row(EVTCHNOP_close, _close, evtchn_close),
        _row(EVTCHNOP_send, _send, evtchn_send),
        _row(EVTCHNOP_status, _status, evtchn_status, out=True),
        _row(EVTCHNOP_alloc_unbound, _alloc_unbound, evtchn_alloc_unbound, out=True),
        _row(EVTCHNOP_bind_ipi, _bind_ipi, evtchn_bind_ipi, out=True),
        _row(EVTCHNOP_bind_vcpu, _bind_vcpu, evtchn_bind_vcpu),
        _row(EVTCHNOP_unmask, _unmask, evtchn_unmask),
        _row(EVTCHNOP_reset, _reset, None),
        _row(EVTCHNOP_init_control, _init_control, evtchn_init_control, out=True),
        _row(EVTCHNOP_expand_array, _expand_array, evtchn_expand_array),
        _row(EVTCHNOP_set_priority, _set_priority, evtchn_set_priority),
        _row(EVTCHNOP_reset_cont, _reset_cont, None),
    ]
)
"""event_channel_op by number; all kinds of guest have them all."""


def event_channel_op(call: Call, cmd: int, arg: int) -> int:
    """__HYPERVISOR_event_channel_op."""
    return dispatch_family(EVENT_CHANNEL_OPS, call, cmd, arg)
