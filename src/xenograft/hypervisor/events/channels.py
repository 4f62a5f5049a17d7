# SPDX-License-Identifier: GPL-2.0-or-later
"""The event channels of one domain: allocation, binding, sending, closing.

Semantics of xen/common/event_channel.c (4.17) and public/event_channel.h.  How a pending port
shows itself to the guest is the business of the port ABIs (`port_abi`); the hypercall's copies
and permission checks are that of `ops`.

Methods raise XenError with the errno that the guest gets.  Nothing here loops over more than
`RESET_BUDGET` ports at a time, nor over anything that the guest controls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.event_channel import (
    EVTCHN_FIFO_PRIORITY_DEFAULT,
    EVTCHNSTAT_closed,
    EVTCHNSTAT_interdomain,
    EVTCHNSTAT_ipi,
    EVTCHNSTAT_pirq,
    EVTCHNSTAT_unbound,
    EVTCHNSTAT_virq,
)
from xenograft.abi.xen import DOMID_XEN, NR_VIRQS
from xenograft.hypervisor.events.channel import (
    Channel,
    ChannelRecord,
    ChannelState,
    XenConsumer,
)
from xenograft.hypervisor.events.fifo import CONTROL_BLOCK_SIZE, PAGE_SIZE, FifoAbi, FifoRecord
from xenograft.hypervisor.events.frames import P2mFrames
from xenograft.hypervisor.events.host import HostAbi, HostAbiRecord, HostCallback
from xenograft.hypervisor.events.pirq import NoPirqs, Pirqs, VirtualPirqs
from xenograft.hypervisor.events.port_abi import PortAbi
from xenograft.hypervisor.events.protocols import EventDomain, EventVcpu, Frames
from xenograft.hypervisor.events.two_level import TwoLevelAbi
from xenograft.hypervisor.events.virq import virq_is_global

PORTS_PER_BUCKET = 64
"""Ports become valid in buckets of this many (EVTCHNS_PER_BUCKET); others give -EINVAL."""

RESET_BUDGET = 64
"""Ports that `reset` and `destroy` close before they ask to be continued."""

MAX_PORT_LIMIT = (1 << 31) - 1
DEFAULT_MAX_PORT = 1023
"""What libxl gives a domain unless its configuration says otherwise (max_event_channels)."""


class ChannelStatus(NamedTuple):
    """What EVTCHNOP_status says: `status` is an EVTCHNSTAT_*; unused fields are 0."""

    status: int
    vcpu_id: int
    remote_domid: int = 0
    remote_port: int = 0
    virq: int = 0
    pirq: int = 0


class EventsRecord(msgspec.Struct, frozen=True):
    """The state of a domain's event channels.  `fifo` and `host` are None for other ABIs."""

    max_port: int
    valid_ports: int
    next_reset: int
    channels: tuple[ChannelRecord, ...]
    fifo: FifoRecord | None = None
    host: HostAbiRecord | None = None


class EventChannels:
    """All ports of a domain.

    `host` makes this the port table of an embedded control domain, whose ports have Python
    callbacks; `schedule` is then passed to `HostAbi`.  `frames` and `pirqs` are how pages and
    physical interrupts are had, by default those of a guest without devices of its own.
    """

    def __init__(
        self,
        domain: EventDomain,
        *,
        max_port: int = DEFAULT_MAX_PORT,
        pirqs: Pirqs | None = None,
        frames: Frames | None = None,
        host: bool = False,
        schedule: Callable[[], None] | None = None,
    ) -> None:
        self._domain = domain
        self._frames: Frames = frames if frames is not None else P2mFrames(domain)
        self.max_port = min(max_port, MAX_PORT_LIMIT)
        if pirqs is None:
            pirqs = VirtualPirqs() if domain.kind.is_hvm_type else NoPirqs()
        self.pirqs: Pirqs = pirqs
        self._virq_ports: dict[tuple[int, int], int] = {}
        self._pirq_ports: dict[int, int] = {}
        self._channels: list[Channel] = []
        self._free = bytearray()  # 1 for each valid port that is FREE
        self._active = 0
        self._xen_active = 0
        self._next_reset = 0
        self._host = HostAbi(domain, schedule) if host else None
        self._fifo: FifoAbi | None = None
        self._abi: PortAbi = self._host or TwoLevelAbi(domain)
        self._grow()
        self._channels[0].state = ChannelState.RESERVED
        self._free[0] = 0

    # -- looking -----------------------------------------------------------------------------
    @property
    def abi_name(self) -> str:
        """ "2-level", "fifo" or "host"."""
        return self._abi.name

    @property
    def valid_ports(self) -> int:
        """Ports below this number are valid, bound or not."""
        return len(self._channels)

    @property
    def active(self) -> int:
        """Number of bound ports, those held by Xen among them."""
        return self._active

    def bound(self) -> list[Channel]:
        """The bound ports, ascending (for reports; not to be changed)."""
        return [c for c in self._channels if c.state > ChannelState.RESERVED]

    def is_pending(self, port: int) -> bool:
        """Whether a bound port has an event; False for others."""
        channel = self._find(port)
        return channel is not None and channel.usable and self._abi.is_pending(channel)

    def is_masked(self, port: int) -> bool:
        """Whether events of `port` are held back; True for ports that aren't the guest's."""
        channel = self._find(port)
        return channel is None or not channel.usable or self._abi.is_masked(channel)

    def status(self, port: int) -> ChannelStatus:
        """EVTCHNOP_status.  Raises EINVAL for an invalid port, EACCES for one that Xen holds."""
        channel = self._valid(port)
        if channel.consumer is not None:
            raise XenError(Errno.EACCES)
        vcpu_id = channel.notify_vcpu_id
        match channel.state:
            case ChannelState.UNBOUND:
                return ChannelStatus(EVTCHNSTAT_unbound, vcpu_id, channel.remote_domid)
            case ChannelState.INTERDOMAIN:
                return ChannelStatus(
                    EVTCHNSTAT_interdomain, vcpu_id, channel.remote_domid, channel.remote_port
                )
            case ChannelState.PIRQ:
                return ChannelStatus(EVTCHNSTAT_pirq, vcpu_id, pirq=channel.pirq)
            case ChannelState.VIRQ:
                return ChannelStatus(EVTCHNSTAT_virq, vcpu_id, virq=channel.virq)
            case ChannelState.IPI:
                return ChannelStatus(EVTCHNSTAT_ipi, vcpu_id)
        return ChannelStatus(EVTCHNSTAT_closed, vcpu_id)

    # -- binding -----------------------------------------------------------------------------
    def check_free_port(self) -> None:
        """Raises what `alloc_unbound` would raise."""
        self._take(0)

    def alloc_unbound(self, remote_domid: int, port: int = 0) -> int:
        """A port that `remote_domid` may bind to; `port` 0 takes the lowest free one.

        Raises ENOSPC (no port left), EBUSY (the one asked for isn't free), EINVAL (dying).
        """
        channel = self._take(port)
        channel.remote_domid = remote_domid
        self._commit(channel, ChannelState.UNBOUND)
        return channel.port

    def bind_interdomain(self, remote_domid: int, remote_port: int, port: int = 0) -> int:
        """Connect to a port that the other domain left unbound for this one.

        The new port starts pending, since notifications sent before the bind were dropped.
        Raises ESRCH (no such domain), EINVAL (remote port isn't waiting for us), as
        `alloc_unbound` otherwise.
        """
        remote_domain = self._domain.hypervisor.domains.get(remote_domid)
        if remote_domain is None:
            raise XenError(Errno.ESRCH)
        channel = self._take(port)
        remote = remote_domain.events._find(remote_port)
        if (
            remote is None
            or remote.state != ChannelState.UNBOUND
            or remote.remote_domid != self._domain.domid
        ):
            raise XenError(Errno.EINVAL)
        channel.remote_domid = remote_domid
        channel.remote_port = remote_port
        self._commit(channel, ChannelState.INTERDOMAIN)
        remote.remote_domid = self._domain.domid
        remote.remote_port = channel.port
        remote.state = ChannelState.INTERDOMAIN
        self._set_pending(channel.notify_vcpu_id, channel)
        return channel.port

    def bind_virq(self, virq: int, vcpu_id: int, port: int = 0) -> int:
        """Raises EINVAL (no such VIRQ, or a global one not on vCPU 0), ENOENT (no such vCPU),
        EEXIST (bound already), as `alloc_unbound` otherwise."""
        if not 0 <= virq < NR_VIRQS or (virq_is_global(virq) and vcpu_id != 0):
            raise XenError(Errno.EINVAL)
        self._check_vcpu(vcpu_id)
        if (vcpu_id, virq) in self._virq_ports:
            raise XenError(Errno.EEXIST)
        channel = self._take(port)
        channel.notify_vcpu_id = vcpu_id
        channel.virq = virq
        self._commit(channel, ChannelState.VIRQ)
        self._virq_ports[vcpu_id, virq] = channel.port
        return channel.port

    def bind_ipi(self, vcpu_id: int) -> int:
        """A port that its own domain sends on.  Raises ENOENT (no such vCPU)."""
        self._check_vcpu(vcpu_id)
        channel = self._take(0)
        channel.notify_vcpu_id = vcpu_id
        self._commit(channel, ChannelState.IPI)
        return channel.port

    def bind_pirq(self, pirq: int, will_share: bool = False) -> int:
        """Raises EINVAL (no such PIRQ), EPERM (not given to this domain), EEXIST (bound)."""
        if not 0 <= pirq < self.pirqs.nr_pirqs:
            raise XenError(Errno.EINVAL)
        self.pirqs.check_access(pirq)
        if pirq in self._pirq_ports:
            raise XenError(Errno.EEXIST)
        channel = self._take(0)
        self.pirqs.bind(0, pirq, will_share)
        channel.pirq = pirq
        self._commit(channel, ChannelState.PIRQ)
        self._pirq_ports[pirq] = channel.port
        return channel.port

    def bind_vcpu(self, port: int, vcpu_id: int) -> None:
        """Move a port's notifications to another vCPU.

        Raises ENOENT (no such vCPU); EINVAL for ports that are invalid, free, IPIs, per-vCPU
        VIRQs or held by Xen.
        """
        self._check_vcpu(vcpu_id)
        channel = self._valid(port)
        if channel.consumer is not None:
            raise XenError(Errno.EINVAL)
        match channel.state:
            case ChannelState.UNBOUND | ChannelState.INTERDOMAIN:
                pass
            case ChannelState.VIRQ if virq_is_global(channel.virq):
                pass
            case ChannelState.PIRQ:
                if channel.notify_vcpu_id != vcpu_id:
                    self.pirqs.set_affinity(channel.pirq, vcpu_id)
            case _:
                raise XenError(Errno.EINVAL)
        channel.notify_vcpu_id = vcpu_id

    def close(self, port: int, guest: bool = True) -> None:
        """Unbind a port; the other end of an interdomain channel becomes unbound, waiting.

        Raises EINVAL for an invalid or free port, and for one that Xen holds if the `guest`
        asks.
        """
        channel = self._valid(port)
        if channel.state <= ChannelState.RESERVED or (guest and channel.consumer is not None):
            raise XenError(Errno.EINVAL)
        match channel.state:
            case ChannelState.PIRQ:
                self.pirqs.unbind(channel.pirq)
                del self._pirq_ports[channel.pirq]
            case ChannelState.VIRQ:
                home = 0 if virq_is_global(channel.virq) else channel.notify_vcpu_id
                del self._virq_ports[home, channel.virq]
            case ChannelState.INTERDOMAIN:
                remote = self._remote(channel)
                if remote is not None:
                    remote.state = ChannelState.UNBOUND
                    remote.remote_domid = self._domain.domid
        self._release(channel)

    # -- sending -----------------------------------------------------------------------------
    def send(self, port: int) -> None:
        """EVTCHNOP_send.  A notification on an unbound port is dropped without an error.

        Raises EINVAL for ports that are invalid, free, VIRQs, PIRQs or held by Xen.
        """
        channel = self._find(port)
        if channel is None or channel.consumer is not None:
            raise XenError(Errno.EINVAL)
        if channel.state == ChannelState.INTERDOMAIN:
            self._notify_remote(channel)
        elif channel.state == ChannelState.IPI:
            self._report(self._domain.domid, port, self._domain.domid, port)
            self._abi.set_pending(channel.notify_vcpu_id, channel)
        elif channel.state != ChannelState.UNBOUND:
            raise XenError(Errno.EINVAL)

    def unmask(self, port: int) -> None:
        """EVTCHNOP_unmask: an event that is pending is delivered now.  EINVAL: invalid port."""
        channel = self._valid(port)
        if channel.usable:
            self._abi.unmask(channel)

    def raise_virq(self, vcpu: EventVcpu, virq: int) -> None:
        """Raise a VIRQ on a vCPU (for a global one: on its domain); dropped if not bound."""
        if virq_is_global(virq):
            self.raise_global_virq(virq)
            return
        self._fire(vcpu.vcpu_id, self._virq_ports.get((vcpu.vcpu_id, virq)))

    def raise_global_virq(self, virq: int) -> None:
        """Raise a global VIRQ of this domain (Xen's send_guest_global_virq)."""
        port = self._virq_ports.get((0, virq))
        if port is not None:
            self._fire(self._channels[port].notify_vcpu_id, port)

    def virq_enabled(self, vcpu: EventVcpu, virq: int) -> bool:
        """Whether the guest has bound `virq` (on this vCPU, for a per-vCPU one)."""
        home = 0 if virq_is_global(virq) else vcpu.vcpu_id
        return (home, virq) in self._virq_ports

    def raise_pirq(self, pirq: int) -> None:
        """An interrupt of a physical line; dropped if not bound (Xen's send_guest_pirq)."""
        port = self._pirq_ports.get(pirq)
        if port is not None:
            self._fire(self._channels[port].notify_vcpu_id, port)

    # -- polling -----------------------------------------------------------------------------
    def poll(self, vcpu: EventVcpu, ports: Iterable[int]) -> bool:
        """SCHEDOP_poll: False if one of `ports` is pending; else the vCPU is to block.

        `vcpu.poll_ports` is set then; the caller blocks the vCPU and starts its time-out.
        Raises EINVAL for a port that isn't the guest's.  `ports` may be a generator that reads
        guest memory and raises EFAULT.
        """
        polled: list[int] = []
        for port in ports:
            channel = self._find(port)
            if channel is None or not channel.usable:
                raise XenError(Errno.EINVAL)
            if self._abi.is_pending(channel):
                return False
            polled.append(port)
        vcpu.poll_ports = tuple(polled)
        return True

    # -- ports that Xen itself holds ---------------------------------------------------------
    def alloc_unbound_xen(self, vcpu_id: int, remote_domid: int, consumer: XenConsumer) -> int:
        """A port whose events go to `consumer`; the guest can neither use nor close it."""
        channel = self._take(0)
        channel.remote_domid = remote_domid
        channel.notify_vcpu_id = vcpu_id
        channel.consumer = consumer
        channel.state = ChannelState.UNBOUND
        self._free[channel.port] = 0
        self._active += 1
        self._xen_active += 1
        return channel.port

    def free_xen(self, port: int) -> None:
        """Close a port of `alloc_unbound_xen`; nothing happens if it has gone."""
        channel = self._find(port)
        if channel is not None and channel.state > ChannelState.RESERVED:
            self.close(port, guest=False)

    def notify_via_xen(self, port: int) -> None:
        """Send from a port that Xen holds; dropped unless it's connected."""
        channel = self._find(port)
        if channel is not None and channel.state == ChannelState.INTERDOMAIN:
            self._notify_remote(channel)

    # -- host callbacks ----------------------------------------------------------------------
    def attach(self, port: int, callback: HostCallback | None) -> None:
        """Give a bound port of the embedded control domain its callback (None: take it away).

        Raises TypeError in other domains, XenError(EINVAL) for a port that isn't bound.
        """
        host = self._require_host()
        if not self._valid(port).usable:
            raise XenError(Errno.EINVAL)
        host.attach(port, callback)

    def mask(self, port: int) -> None:
        """Hold back a host port's callback until `unmask`.  Raises as `attach`."""
        self._require_host().mask(self._valid(port))

    def run_callbacks(self) -> int:
        """Deliver the host ports' events; returns how many (see `HostAbi.run`)."""
        return self._require_host().run()

    # -- FIFO --------------------------------------------------------------------------------
    def init_control(self, vcpu_id: int, control_gfn: int, offset: int) -> None:
        """EVTCHNOP_init_control: the first one switches the domain to the FIFO ABI.

        Raises ENOENT (no such vCPU); EINVAL (offset unaligned or crossing the page, frame not
        writable RAM, or the vCPU has one).
        """
        self._check_vcpu(vcpu_id)
        if offset > PAGE_SIZE - CONTROL_BLOCK_SIZE or offset % 8:
            raise XenError(Errno.EINVAL)
        if self._host is not None:
            raise XenError(Errno.ENOSYS)
        if self._fifo is not None:
            self._fifo.map_control_block(vcpu_id, control_gfn, offset)
            return
        fifo = FifoAbi(self._domain, self._frames)
        fifo.map_control_block(vcpu_id, control_gfn, offset)
        for port in TwoLevelAbi(self._domain).pending_ports():
            # Re-raised when the page with its word is added.
            if 0 < port < len(self._channels):
                self._channels[port].pending = True
        for channel in self._channels:
            channel.priority = EVTCHN_FIFO_PRIORITY_DEFAULT
        self._fifo = self._abi = fifo

    def expand_array(self, array_gfn: int) -> None:
        """EVTCHNOP_expand_array.  Raises EOPNOTSUPP before the first init_control, ENOSPC
        when full, EINVAL for a bad frame."""
        if self._fifo is None:
            raise XenError(Errno.EOPNOTSUPP)
        ports = self._fifo.add_array_page(array_gfn)
        for channel in self._channels[ports.start : ports.stop]:
            if channel.pending:
                self._fifo.set_pending(channel.notify_vcpu_id, channel)

    def set_priority(self, port: int, priority: int) -> None:
        """EVTCHNOP_set_priority.  Raises ENOSYS (2-level), EACCES (not bound), EINVAL."""
        channel = self._valid(port)
        if self._fifo is None:
            raise XenError(Errno.ENOSYS)
        if not channel.usable:
            raise XenError(Errno.EACCES)
        self._fifo.set_priority(channel, priority)

    # -- the end -----------------------------------------------------------------------------
    def reset(self, resuming: bool = False, budget: int = RESET_BUDGET) -> bool:
        """Close all ports of the guest's and go back to the 2-level ABI.

        Returns False when `budget` ports were closed and more are left: the caller comes back
        with `resuming`.  Raises EBUSY if a reset is under way (or `resuming` and none is),
        EAGAIN if ports were bound meanwhile.
        """
        if resuming == (self._next_reset == 0):
            raise XenError(Errno.EBUSY)
        port = self._next_reset if resuming else 1
        while self._active > self._xen_active:
            port = self._free.find(0, port)
            if port < 0:
                break
            if self._channels[port].usable:
                if budget == 0:
                    self._next_reset = port
                    return False
                self.close(port)
                budget -= 1
            port += 1
        self._next_reset = 0
        if self._active > self._xen_active:
            raise XenError(Errno.EAGAIN)
        self._drop_fifo()
        return True

    def destroy(self, budget: int = RESET_BUDGET) -> bool:
        """The domain is dying: close everything, Xen's ports too, and give pages back.

        Returns False when there is more to do.
        """
        while self._active:
            port = self._free.rfind(0)
            if port <= 0:
                break
            if budget == 0:
                return False
            self.close(port, guest=False)
            budget -= 1
        self._drop_fifo()
        return True

    # -- state -------------------------------------------------------------------------------
    def save(self) -> EventsRecord:
        """All state apart from resources (callbacks, consumers, frames)."""
        return EventsRecord(
            max_port=self.max_port,
            valid_ports=len(self._channels),
            next_reset=self._next_reset,
            channels=tuple(channel.save() for channel in self._channels if channel.used),
            fifo=self._fifo.save() if self._fifo is not None else None,
            host=self._host.save() if self._host is not None else None,
        )

    def restore(
        self, record: EventsRecord, consumers: Mapping[int, XenConsumer] | None = None
    ) -> None:
        """Become what `record` says; `consumers` are those of Xen's ports, by port.

        Raises ValueError if a consumer is missing or the record is another kind of domain's.
        """
        if (record.host is None) != (self._host is None):
            raise ValueError("a record of host ports fits the embedded control domain only")
        self._drop_fifo()
        self.max_port = record.max_port
        self._next_reset = record.next_reset
        self._channels = []
        self._free = bytearray()
        while len(self._channels) < record.valid_ports:
            self._grow()
        for saved in record.channels:
            consumer = None if consumers is None else consumers.get(saved.port)
            self._channels[saved.port].restore(saved, consumer)
        self._reindex()
        if record.fifo is not None:
            self._fifo = FifoAbi(self._domain, self._frames)
            self._fifo.restore(record.fifo)
            self._abi = self._fifo
        if self._host is not None and record.host is not None:
            self._host.restore(record.host)

    # -- inside ------------------------------------------------------------------------------
    def _reindex(self) -> None:
        self._virq_ports = {}
        self._pirq_ports = {}
        self._active = self._xen_active = 0
        for channel in self._channels:
            self._free[channel.port] = channel.state == ChannelState.FREE
            if channel.state <= ChannelState.RESERVED:
                continue
            self._active += 1
            self._xen_active += channel.consumer is not None
            if channel.state == ChannelState.VIRQ:
                home = 0 if virq_is_global(channel.virq) else channel.notify_vcpu_id
                self._virq_ports[home, channel.virq] = channel.port
            elif channel.state == ChannelState.PIRQ:
                self._pirq_ports[channel.pirq] = channel.port

    def _drop_fifo(self) -> None:
        if self._fifo is not None:
            self._fifo.destroy()
            self._fifo = None
            self._abi = TwoLevelAbi(self._domain)

    def _grow(self) -> None:
        first = len(self._channels)
        self._channels.extend(map(Channel, range(first, first + PORTS_PER_BUCKET)))
        self._free.extend(b"\1" * PORTS_PER_BUCKET)

    def _find(self, port: int) -> Channel | None:
        return self._channels[port] if 0 <= port < len(self._channels) else None

    def _valid(self, port: int) -> Channel:
        channel = self._find(port)
        if channel is None:
            raise XenError(Errno.EINVAL)
        return channel

    def _check_vcpu(self, vcpu_id: int) -> None:
        if not 0 <= vcpu_id < len(self._domain.vcpus):
            raise XenError(Errno.ENOENT)

    def _take(self, port: int) -> Channel:
        """A free port (the lowest for 0).  It stays free until `_commit`."""
        if port == 0:
            if self._domain.dying:
                raise XenError(Errno.EINVAL)
            port = self._abi.first_idle(self._free)
            if port < 0:
                port = len(self._channels)
            self._check_limit(port)
        else:
            self._check_limit(port)
            channel = self._find(port)
            if channel is not None and (
                channel.state != ChannelState.FREE or self._abi.is_busy(channel)
            ):
                raise XenError(Errno.EBUSY)
        while port >= len(self._channels):
            self._grow()
        return self._channels[port]

    def _check_limit(self, port: int) -> None:
        if port > self.max_port or port >= self._abi.max_channels:
            raise XenError(Errno.ENOSPC)

    def _commit(self, channel: Channel, state: ChannelState) -> None:
        channel.state = state
        self._free[channel.port] = 0
        self._active += 1
        self._abi.bind(channel)

    def _release(self, channel: Channel) -> None:
        # Or the event would show up in whatever the port is bound to next.
        if channel.usable:
            self._abi.clear_pending(channel)
        if channel.consumer is not None:
            self._xen_active -= 1
        self._active -= 1
        channel.state = ChannelState.FREE
        channel.notify_vcpu_id = 0
        channel.consumer = None
        self._free[channel.port] = 1

    def _set_pending(self, vcpu_id: int, channel: Channel) -> None:
        if channel.usable:
            self._abi.set_pending(vcpu_id, channel)

    def _fire(self, vcpu_id: int, port: int | None) -> None:
        """An event that no domain sent: a VIRQ or a PIRQ."""
        if port is not None:
            self._report(DOMID_XEN, 0, self._domain.domid, port)
            self._set_pending(vcpu_id, self._channels[port])

    def _report(self, domid: int, port: int, remote_domid: int, remote_port: int) -> None:
        machine = self._domain.hypervisor
        if (hook := machine.instruments.event_send) is not None:
            hook(machine.clock.now(), domid, port, remote_domid, remote_port)

    def _remote(self, channel: Channel) -> Channel | None:
        domain = self._domain.hypervisor.domains.get(channel.remote_domid)
        return domain.events._find(channel.remote_port) if domain is not None else None

    def _notify_remote(self, channel: Channel) -> None:
        domain = self._domain.hypervisor.domains.get(channel.remote_domid)
        remote = domain.events._find(channel.remote_port) if domain is not None else None
        if domain is None or remote is None:
            return
        here = self._domain
        if (lost := here.hypervisor.faults.event) is not None and lost(
            here.domid, channel.port, domain.domid, remote.port
        ):
            return
        self._report(here.domid, channel.port, domain.domid, remote.port)
        if remote.consumer is not None:
            remote.consumer(remote.notify_vcpu_id, remote.port)
        else:
            domain.events._set_pending(remote.notify_vcpu_id, remote)

    def _require_host(self) -> HostAbi:
        if self._host is None:
            raise TypeError("only ports of an embedded control domain have callbacks")
        return self._host
