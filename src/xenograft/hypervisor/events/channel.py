# SPDX-License-Identifier: GPL-2.0-or-later
"""One event channel port as the hypervisor keeps it (Xen's struct evtchn, xen/sched.h)."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

import msgspec

XenConsumer = Callable[[int, int], None]
"""Called with (vcpu_id, port) in place of an upcall when an event reaches a Xen-held port."""


class ChannelState(IntEnum):
    """What a port is bound to (Xen's ECS_*, in Xen's order)."""

    FREE = 0
    RESERVED = 1
    UNBOUND = 2
    INTERDOMAIN = 3
    PIRQ = 4
    VIRQ = 5
    IPI = 6


class ChannelRecord(msgspec.Struct, frozen=True, array_like=True):
    """The state of one port, without what it refers to."""

    port: int
    state: int
    notify_vcpu_id: int = 0
    remote_domid: int = 0
    remote_port: int = 0
    virq: int = 0
    pirq: int = 0
    xen_held: bool = False
    priority: int = 0
    pending: bool = False
    last_vcpu_id: int = 0
    last_priority: int = 0


class Channel:
    """One port.  Which of the `remote_*`, `virq` and `pirq` fields hold depends on `state`.

    `pending`, `last_vcpu_id` and `last_priority` belong to the FIFO ABI and outlive the
    binding: a port that is still linked in a queue after its close must be found there.
    """

    __slots__ = (
        "consumer",
        "last_priority",
        "last_vcpu_id",
        "notify_vcpu_id",
        "pending",
        "pirq",
        "port",
        "priority",
        "remote_domid",
        "remote_port",
        "state",
        "virq",
    )

    def __init__(self, port: int) -> None:
        self.port = port
        self.state = ChannelState.FREE
        self.notify_vcpu_id = 0
        self.remote_domid = 0
        self.remote_port = 0
        self.virq = 0
        self.pirq = 0
        self.consumer: XenConsumer | None = None
        self.priority = 0
        self.pending = False
        self.last_vcpu_id = 0
        self.last_priority = 0

    @property
    def usable(self) -> bool:
        """Whether it's bound and the guest's own (Xen's evtchn_usable)."""
        return self.consumer is None and self.state > ChannelState.RESERVED

    @property
    def used(self) -> bool:
        """Whether it's bound, or keeps anything of when it was.

        A priority alone is nothing: each port has one, and another when it's bound.
        """
        return bool(
            self.state
            or self.pending
            or self.last_vcpu_id
            or self.last_priority
            or self.remote_port
            or self.remote_domid
            or self.virq
            or self.pirq
        )

    def save(self) -> ChannelRecord:
        """The state apart from the consumer, which is a resource."""
        return ChannelRecord(
            port=self.port,
            state=int(self.state),
            notify_vcpu_id=self.notify_vcpu_id,
            remote_domid=self.remote_domid,
            remote_port=self.remote_port,
            virq=self.virq,
            pirq=self.pirq,
            xen_held=self.consumer is not None,
            priority=self.priority,
            pending=self.pending,
            last_vcpu_id=self.last_vcpu_id,
            last_priority=self.last_priority,
        )

    def restore(self, record: ChannelRecord, consumer: XenConsumer | None) -> None:
        """Become the port that `record` describes; `consumer` is used if Xen held it.

        Raises ValueError if Xen held the port and there is no consumer.
        """
        if record.xen_held and consumer is None:
            raise ValueError(f"port {record.port} needs its consumer in Xen")
        self.state = ChannelState(record.state)
        self.notify_vcpu_id = record.notify_vcpu_id
        self.remote_domid = record.remote_domid
        self.remote_port = record.remote_port
        self.virq = record.virq
        self.pirq = record.pirq
        self.consumer = consumer if record.xen_held else None
        self.priority = record.priority
        self.pending = record.pending
        self.last_vcpu_id = record.last_vcpu_id
        self.last_priority = record.last_priority
