# SPDX-License-Identifier: GPL-2.0-or-later
"""Ports of the embedded control domain: a Python callback takes the place of the upcall.

The services of an embedded domain 0 bind their ports by the same operations as a kernel
would, and then attach a callback, as a program does with /dev/xen/evtchn.  Callbacks run one
after the other in the order in which their ports became pending, never inside one another:
a callback that sends an event on to another host port does not nest.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.event_channel import EVTCHN_FIFO_NR_CHANNELS
from xenograft.hypervisor.events.channel import Channel
from xenograft.hypervisor.events.polling import check_pollers
from xenograft.hypervisor.events.protocols import EventDomain

HostCallback = Callable[[int], None]
"""Called with the port that has an event."""


class HostAbiRecord(msgspec.Struct, frozen=True):
    """Ports pending (in their order) and masked."""

    pending: tuple[int, ...]
    masked: tuple[int, ...]


class HostAbi:
    """Pending and masked ports as plain sets, delivered by `run`.

    Without `schedule`, an event runs its callback before `set_pending` returns, unless a
    callback is already running.  With it, `schedule()` is called when the first event comes
    and whoever owns the loop calls `run` soon after.
    """

    name = "host"
    max_channels = EVTCHN_FIFO_NR_CHANNELS

    def __init__(self, domain: EventDomain, schedule: Callable[[], None] | None = None) -> None:
        self._domain = domain
        self._schedule = schedule
        self._callbacks: dict[int, HostCallback] = {}
        self._pending: dict[int, None] = {}
        self._masked: set[int] = set()
        self._running = False

    def attach(self, port: int, callback: HostCallback | None) -> None:
        """Give `port` its callback (None takes it away); an event already there is delivered."""
        if callback is None:
            self._callbacks.pop(port, None)
            return
        self._callbacks[port] = callback
        if port in self._pending:
            self._kick()

    def run(self) -> int:
        """Deliver what is pending, unmasked and has a callback; returns how many events.

        Events sent by the callbacks themselves wait for the next round of the same call.
        """
        if self._running:
            return 0
        delivered = 0
        self._running = True
        try:
            while ready := [p for p in self._pending if self._deliverable(p)]:
                for port in ready:
                    # An earlier callback of this round may have closed or masked it.
                    if port in self._pending and self._deliverable(port):
                        del self._pending[port]
                        delivered += 1
                        self._callbacks[port](port)
        finally:
            self._running = False
        return delivered

    def bind(self, channel: Channel) -> None:
        self._masked.discard(channel.port)

    def set_pending(self, vcpu_id: int, channel: Channel) -> None:
        port = channel.port
        if port in self._pending:
            return
        self._pending[port] = None
        if self._deliverable(port):
            self._kick()
        check_pollers(self._domain, port)

    def clear_pending(self, channel: Channel) -> None:
        """Only ever called when the port closes, so its callback goes too."""
        self._pending.pop(channel.port, None)
        self._callbacks.pop(channel.port, None)

    def mask(self, channel: Channel) -> None:
        """Keep events of this port pending until `unmask`."""
        self._masked.add(channel.port)

    def unmask(self, channel: Channel) -> None:
        self._masked.discard(channel.port)
        if channel.port in self._pending and self._deliverable(channel.port):
            self._kick()

    def is_pending(self, channel: Channel) -> bool:
        return channel.port in self._pending

    def is_masked(self, channel: Channel) -> bool:
        return channel.port in self._masked

    def set_priority(self, channel: Channel, priority: int) -> None:
        raise XenError(Errno.ENOSYS)

    def is_busy(self, channel: Channel) -> bool:
        return False

    def first_idle(self, free: bytearray) -> int:
        return free.find(1)

    def save(self) -> HostAbiRecord:
        return HostAbiRecord(tuple(self._pending), tuple(sorted(self._masked)))

    def restore(self, record: HostAbiRecord) -> None:
        """Take the record's state; callbacks are attached anew by their owners."""
        self._pending = dict.fromkeys(record.pending)
        self._masked = set(record.masked)

    def _deliverable(self, port: int) -> bool:
        return port not in self._masked and port in self._callbacks

    def _kick(self) -> None:
        if self._running:
            return
        if self._schedule is not None:
            self._schedule()
        else:
            self.run()
