# SPDX-License-Identifier: GPL-2.0-or-later
"""public/event_channel.h: event channel operations, 2-level and FIFO ABIs."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.struct import (
    Struct,
    Union,
    array,
    domid_t,
    evtchn_port_t,
    named,
    octets,
    selects,
    u8,
    u32,
    x64,
)
from xenograft.abi.xen import VIRQ_NAMES

# event_channel_op.
EVTCHNOP_bind_interdomain = 0
EVTCHNOP_bind_virq = 1
EVTCHNOP_bind_pirq = 2
EVTCHNOP_close = 3
EVTCHNOP_send = 4
EVTCHNOP_status = 5
EVTCHNOP_alloc_unbound = 6
EVTCHNOP_bind_ipi = 7
EVTCHNOP_bind_vcpu = 8
EVTCHNOP_unmask = 9
EVTCHNOP_reset = 10
EVTCHNOP_init_control = 11
EVTCHNOP_expand_array = 12
EVTCHNOP_set_priority = 13

# evtchn_bind_pirq.flags.
BIND_PIRQ__WILL_SHARE = 1

# evtchn_status.status.
EVTCHNSTAT_closed = 0
EVTCHNSTAT_unbound = 1
EVTCHNSTAT_interdomain = 2
EVTCHNSTAT_pirq = 3
EVTCHNSTAT_virq = 4
EVTCHNSTAT_ipi = 5

# Ports of the 2-level ABI: a square of words.
EVTCHN_2L_NR_CHANNELS = 4096
EVTCHN_2L_NR_CHANNELS_32 = 1024

# The FIFO ABI: priorities 0 (highest) to 15, and bit numbers of an event word.
EVTCHN_FIFO_PRIORITY_MAX = 0
EVTCHN_FIFO_PRIORITY_DEFAULT = 7
EVTCHN_FIFO_PRIORITY_MIN = 15
EVTCHN_FIFO_MAX_QUEUES = 16
EVTCHN_FIFO_PENDING = 31
EVTCHN_FIFO_MASKED = 30
EVTCHN_FIFO_LINKED = 29
EVTCHN_FIFO_BUSY = 28
EVTCHN_FIFO_LINK_BITS = 17
EVTCHN_FIFO_LINK_MASK = 0x1FFFF
EVTCHN_FIFO_NR_CHANNELS = 0x20000

_STATUS_NAMES = {
    EVTCHNSTAT_closed: "EVTCHNSTAT_closed",
    EVTCHNSTAT_unbound: "EVTCHNSTAT_unbound",
    EVTCHNSTAT_interdomain: "EVTCHNSTAT_interdomain",
    EVTCHNSTAT_pirq: "EVTCHNSTAT_pirq",
    EVTCHNSTAT_virq: "EVTCHNSTAT_virq",
    EVTCHNSTAT_ipi: "EVTCHNSTAT_ipi",
}


class evtchn_alloc_unbound(Struct):
    """A port of `dom` that `remote_dom` may bind to. OUT: port."""

    dom: domid_t
    remote_dom: domid_t
    port: evtchn_port_t


class evtchn_bind_interdomain(Struct):
    """Connect to an unbound port of another domain. OUT: local_port."""

    remote_dom: domid_t
    remote_port: evtchn_port_t
    local_port: evtchn_port_t


class evtchn_bind_virq(Struct):
    """Bind a virtual interrupt of a vCPU. OUT: port."""

    virq: Annotated[int, named(u32, VIRQ_NAMES)]
    vcpu: u32
    port: evtchn_port_t


class evtchn_bind_pirq(Struct):
    """Bind a physical interrupt. OUT: port."""

    pirq: u32
    flags: u32
    port: evtchn_port_t


class evtchn_bind_ipi(Struct):
    """A port by which vCPUs of the domain notify `vcpu`. OUT: port."""

    vcpu: u32
    port: evtchn_port_t


class evtchn_close(Struct):
    """Close a port."""

    port: evtchn_port_t


class evtchn_send(Struct):
    """Notify the other end of a port."""

    port: evtchn_port_t


class _status_unbound(Struct):
    dom: domid_t


class _status_interdomain(Struct):
    dom: domid_t
    port: evtchn_port_t


class _status_u(Union):
    unbound: _status_unbound
    interdomain: _status_interdomain
    pirq: u32
    virq: Annotated[int, named(u32, VIRQ_NAMES)]


class evtchn_status(Struct):
    """What a port is. OUT: status, vcpu, u."""

    _selects_ = selects(
        u=(
            "status",
            {
                EVTCHNSTAT_unbound: "unbound",
                EVTCHNSTAT_interdomain: "interdomain",
                EVTCHNSTAT_pirq: "pirq",
                EVTCHNSTAT_virq: "virq",
            },
        )
    )

    dom: domid_t
    port: evtchn_port_t
    status: Annotated[int, named(u32, _STATUS_NAMES)]
    vcpu: u32
    u: _status_u


class evtchn_bind_vcpu(Struct):
    """Say which vCPU a port notifies."""

    port: evtchn_port_t
    vcpu: u32


class evtchn_unmask(Struct):
    """Unmask a port and deliver what is pending."""

    port: evtchn_port_t


class evtchn_reset(Struct):
    """Close all ports of a domain."""

    dom: domid_t


class evtchn_init_control(Struct):
    """Place a vCPU's FIFO control block. OUT: link_bits."""

    control_gfn: x64
    offset: u32
    vcpu: u32
    link_bits: u8
    _pad: Annotated[bytes, octets(7)]


class evtchn_expand_array(Struct):
    """Add a page to the FIFO event array."""

    array_gfn: x64


class evtchn_set_priority(Struct):
    """Set a port's FIFO priority."""

    port: evtchn_port_t
    priority: u32


class _evtchn_op_u(Union):
    alloc_unbound: evtchn_alloc_unbound
    bind_interdomain: evtchn_bind_interdomain
    bind_virq: evtchn_bind_virq
    bind_pirq: evtchn_bind_pirq
    bind_ipi: evtchn_bind_ipi
    close: evtchn_close
    send: evtchn_send
    status: evtchn_status
    bind_vcpu: evtchn_bind_vcpu
    unmask: evtchn_unmask


class evtchn_op(Struct):
    """Argument of the superseded event_channel_op_compat: command and operand in one."""

    _selects_ = selects(
        u=(
            "cmd",
            {
                EVTCHNOP_bind_interdomain: "bind_interdomain",
                EVTCHNOP_bind_virq: "bind_virq",
                EVTCHNOP_bind_pirq: "bind_pirq",
                EVTCHNOP_close: "close",
                EVTCHNOP_send: "send",
                EVTCHNOP_status: "status",
                EVTCHNOP_alloc_unbound: "alloc_unbound",
                EVTCHNOP_bind_ipi: "bind_ipi",
                EVTCHNOP_bind_vcpu: "bind_vcpu",
                EVTCHNOP_unmask: "unmask",
            },
        )
    )

    cmd: u32
    u: _evtchn_op_u


class evtchn_fifo_control_block(Struct):
    """A vCPU's FIFO queues: `ready` has a bit per non-empty one, `head` their first ports."""

    ready: u32
    _rsvd: u32
    head: Annotated[list[int], array(u32, EVTCHN_FIFO_MAX_QUEUES)]
