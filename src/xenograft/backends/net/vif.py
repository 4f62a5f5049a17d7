# SPDX-License-Identifier: GPL-2.0-or-later
"""The network back end's device: from the store's nodes to rings that carry packets.

Nodes as Linux's netback and the hotplug script write them (seen in a real store), and
public/io/netif.h for what they mean.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from xenograft.abi.errno import Errno
from xenograft.abi.io.netif import (
    XEN_NETIF_GSO_TYPE_TCPV4,
    XEN_NETIF_GSO_TYPE_TCPV6,
    xen_netif_ctrl_request,
)
from xenograft.abi.io.ring import ring_size
from xenograft.backends.net.control import (
    CTRL_ENTRY_SIZE,
    MAX_HASH_KEY_SIZE,
    MAX_HASH_MAPPING_SIZE,
    Control,
    Hashing,
)
from xenograft.backends.net.forward import Forward, ForwardError, parse_forwards
from xenograft.backends.net.headers import BROADCAST, is_multicast, locate, parse_mac
from xenograft.backends.net.networks import DEFAULT_BRIDGE, NetworkError, Networks
from xenograft.backends.net.packet import BadPacket, Packet, complete, segment
from xenograft.backends.net.rings import (
    HEADROOM_MAX,
    RX_ENTRY_SIZE,
    TX_ENTRY_SIZE,
    Put,
    RxFeatures,
    RxRing,
    TxRing,
)
from xenograft.backends.net.show import RxResponses, TxRequests, rx_request, tx_response
from xenograft.backends.net.switch import Port
from xenograft.backends.ring import BackRing
from xenograft.backends.tap import RingTap
from xenograft.backends.xenbus.device import DeviceError, XenbusDevice
from xenograft.hypervisor.grants.host import GrantCopier

if TYPE_CHECKING:
    from xenograft.backends.xenbus.host import BackendHost, EventChannel, MappedPages
    from xenograft.hypervisor.timers import Timer

MAX_QUEUES = 8
MULTICAST_MAX = 64
"""Multicast addresses that a front end may ask for."""

TX_DELAY_NS = 100_000
"""How long a packet waits for others to go with, while guests run."""

_POLL_NS = 30_000_000
"""How often a front end that doesn't announce receive buffers is looked at."""

_COMPLAINTS = 10
"""Lines of the log that one connection may cost."""

FEATURES: dict[str, str | int] = {
    "feature-sg": 1,
    "feature-gso-tcpv4": 1,
    "feature-gso-tcpv6": 1,
    "feature-ipv6-csum-offload": 1,
    "feature-rx-copy": 1,
    "feature-xdp-headroom": 1,
    "feature-rx-flip": 0,
    "feature-multicast-control": 1,
    "feature-dynamic-multicast-control": 1,
    "feature-split-event-channels": 1,
    "feature-ctrl-ring": 1,
    "multi-queue-max-queues": MAX_QUEUES,
}


class _Queue:
    """The rings of one queue, and their event channels."""

    def __init__(self) -> None:
        self.pages: list[MappedPages] = []
        self.channels: list[EventChannel] = []
        self.tx: TxRing | None = None
        self.rx: RxRing | None = None
        self.soon = False
        """The transmit ring is about to be served."""

    def close(self) -> None:
        for channel in self.channels:
            channel.close()
        if self.rx is not None:
            self.rx.clear()
        self.tx = self.rx = None
        for pages in self.pages:
            pages.unmap()


class VifPort(Port):
    """The interface's socket of the switch."""

    def __init__(self, device: VifDevice) -> None:
        super().__init__(f"vif{device.domid}.{device.devid}")
        self._device = device

    def deliver(self, packet: Packet) -> bool:
        return self._device.deliver(packet)

    def flush(self) -> None:
        self._device.flush()

    def wants(self, packet: Packet) -> bool:
        return self._device.wants(packet)


class VifState(msgspec.Struct, frozen=True):
    """What a front end has told by its rings: how to hash, and whose packets it wants."""

    hashing: Hashing
    multicast: tuple[bytes, ...]


def _native(pages: MappedPages) -> Put | None:
    """What puts packets into a receive ring of the native core's memory; None for another one."""
    from xenograft.engine import _core

    memory = pages.memory
    if not isinstance(memory, _core.Memory):
        return None
    return partial(_core.netif_put, memory, pages.packed, ring_size(pages.size, RX_ENTRY_SIZE))


class VifDevice(XenbusDevice):
    """A network interface of a guest."""

    kind = "vif"
    saved = VifState

    def __init__(
        self, networks: Networks, host: BackendHost, path: str, domid: int, devid: int
    ) -> None:
        super().__init__(host, path, domid, devid)
        self.networks = networks
        self.port = VifPort(self)
        self.hashing = Hashing()
        self.forwards: list[Forward] = []
        """Ports of the host that lead to the guest, as they were opened."""
        self.on_release: list[Callable[[], None]] = []
        """Called when the device goes for good: for what was made with it."""
        self.complaints = 0
        """How often the front end was wrong, since it connected."""
        self._queues: list[_Queue] = []
        self._control: tuple[BackRing, MappedPages, EventChannel, Control] | None = None
        self._features = RxFeatures()
        self._multicast: dict[bytes, None] = {}
        self._filters = False
        self._polls = False
        self._poll_timer: Timer | None = None
        self._credit: tuple[int, int] | None = None
        self._left = 0
        self._window = 0
        """When the present interval of the rate began."""
        self._refill: Timer | None = None
        self._watched = False

    @property
    def queues(self) -> int:
        """How many queues are connected."""
        return len(self._queues)

    # -- xenbus --------------------------------------------------------------------------------
    def offer(self) -> None:
        try:
            self.networks.get(self.bridge)
            self._open_forwards()
        except (NetworkError, ForwardError, ValueError) as error:
            raise DeviceError(Errno.ENODEV, str(error)) from None
        self.port.mtu = self._read_mtu()
        self.publish({**FEATURES, "hotplug-status": "connected"})

    def _open_forwards(self) -> None:
        """Open the host's ports that lead to the guest, unless they're open already."""
        forwards = parse_forwards(self.read("forward") or "")
        if not forwards or self.forwards:
            return
        network = self.networks.user_network(self.bridge)
        if network is None:
            raise NetworkError(f"forward: bridge {self.bridge} has no user network (bridge=user)")
        mac = parse_mac(self.read("mac") or "")
        address = ipaddress.IPv4Address(ip) if (ip := self.read("ip")) else None
        for forward in forwards:
            self.forwards.append(network.open_forward(forward, mac, address))

    def _read_mtu(self) -> int | None:
        value = self.read("mtu") or ""
        return int(value) if value.isdigit() and len(value) <= 5 else None

    @property
    def bridge(self) -> str:
        """The name of the bridge that its nodes name."""
        return self.read("bridge") or DEFAULT_BRIDGE

    def connect(self) -> None:
        if not self.frontend_number("request-rx-copy", 0):
            raise DeviceError(Errno.EOPNOTSUPP, "the front end can't have its packets copied")
        count = self.frontend_number("multi-queue-num-queues", 1)
        if not 1 <= count <= MAX_QUEUES:
            raise DeviceError(Errno.EINVAL, f"{count} queues; there can be 1 to {MAX_QUEUES}")
        self._features = self._read_features()
        self._polls = not self.frontend_number("feature-rx-notify", 0)
        self._credit = self._read_rate()
        self._left = self._credit[0] if self._credit is not None else 0
        self._window = self.host.now()
        self.complaints = 0
        self.hashing = Hashing()
        self._multicast.clear()
        self._connect_control(count)
        for index in range(count):
            queue = _Queue()
            self._queues.append(queue)
            self._connect_queue(queue, "" if count == 1 else f"queue-{index}/")
        if not self._watched:
            # Watched once, for as long as the device is there; what the node says now counts too.
            self._watched = True
            name = f"{self.frontend}/request-multicast-control"
            self.watch(name, lambda _path: self._read_filters())
        self._read_filters()
        try:
            self.networks.get(self.bridge).attach(self.port)
        except NetworkError as error:
            raise DeviceError(Errno.ENODEV, str(error)) from None

    def reconfigure(self) -> None:
        """The front end wants other headroom for its XDP programs, or none."""
        headroom = self._read_features().headroom
        self._features = self._features._replace(headroom=headroom)
        for queue in self._queues:
            if queue.rx is not None:
                queue.rx.features = self._features

    def _read_filters(self) -> None:
        self._filters = bool(self.frontend_number("request-multicast-control", 0))

    def _read_features(self) -> RxFeatures:
        number = self.frontend_number
        sg = bool(number("feature-sg", 0))
        types = ((XEN_NETIF_GSO_TYPE_TCPV4, "tcpv4"), (XEN_NETIF_GSO_TYPE_TCPV6, "tcpv6"))
        gso = frozenset(t for t, name in types if sg and number(f"feature-gso-{name}", 0))
        prefix = frozenset(t for t, name in types if sg and number(f"feature-gso-{name}-prefix", 0))
        csum_v4 = not number("feature-no-csum-offload", 0)
        csum_v6 = bool(number("feature-ipv6-csum-offload", 0))
        # What stands for several segments has no checksum that could be computed for it.
        unsummed = {XEN_NETIF_GSO_TYPE_TCPV4: csum_v4, XEN_NETIF_GSO_TYPE_TCPV6: csum_v6}
        return RxFeatures(
            sg=sg,
            csum_v4=csum_v4,
            csum_v6=csum_v6,
            gso_types=frozenset(t for t in gso | prefix if unsummed[t]),
            gso_prefix_types=prefix - gso,
            headroom=min(number("xdp-headroom", 0), HEADROOM_MAX),
        )

    def _read_rate(self) -> tuple[int, int] | None:
        """(bytes, ns): how much may be sent in how long; None: no limit."""
        words = (self.read("rate") or "").split(",")
        if len(words) != 2 or not all(word.isdigit() for word in words):
            return None
        amount, interval_us = int(words[0]), int(words[1])
        if not interval_us:
            return None
        return max(amount, 1), interval_us * 1000

    def _connect_control(self, queues: int) -> None:
        ref = self.read_frontend("ctrl-ring-ref")
        if ref is None:
            return
        pages = self.host.map_pages(self.domid, [self.frontend_number("ctrl-ring-ref")])
        try:
            ring = BackRing(pages, CTRL_ENTRY_SIZE)
            port = self.frontend_number("event-channel-ctrl")
            channel = self.host.bind(self.domid, port, lambda: self.guard(self._serve_control))
        except BaseException:
            pages.unmap()
            raise
        grants = GrantCopier(self.host.domain.grants, self.domid)
        control = Control(self.hashing, queues, lambda ref, size: grants.copy_from(ref, 0, size))
        self._control = ring, pages, channel, control

    def _connect_queue(self, queue: _Queue, prefix: str) -> None:
        number = self.frontend_number
        rings = []
        for which, size in (("tx", TX_ENTRY_SIZE), ("rx", RX_ENTRY_SIZE)):
            ref = number(f"{prefix}{which}-ring-ref")
            pages = self.host.map_pages(self.domid, [ref])
            queue.pages.append(pages)
            rings.append(BackRing(pages, size))
        rings[0].tap = RingTap(self, f"{prefix}tx", TxRequests(), tx_response)
        rings[1].tap = RingTap(self, f"{prefix}rx", rx_request, RxResponses())

        def tx_event() -> None:
            self._serve_soon(queue)

        def rx_event() -> None:
            self.guard(lambda: self._flush_rx(queue))

        def both() -> None:
            tx_event()
            rx_event()

        if self.read_frontend(f"{prefix}event-channel-tx") is not None:
            tx_channel = self._bind(queue, number(f"{prefix}event-channel-tx"), tx_event)
            rx_channel = self._bind(queue, number(f"{prefix}event-channel-rx"), rx_event)
        else:
            tx_channel = self._bind(queue, number(f"{prefix}event-channel"), both)
            rx_channel = tx_channel
        grants = GrantCopier(self.host.domain.grants, self.domid)
        queue.tx = TxRing(
            rings[0],
            grants,
            send=self.port.send,
            multicast=self._change_multicast,
            complain=self._complain,
            notify=tx_channel.notify,
        )
        queue.rx = RxRing(
            rings[1],
            grants,
            self._features,
            complain=self._complain,
            notify=rx_channel.notify,
            put=_native(queue.pages[-1]),
        )

    def _bind(self, queue: _Queue, port: int, callback: Callable[[], None]) -> EventChannel:
        channel = self.host.bind(self.domid, port, callback)
        queue.channels.append(channel)
        return channel

    def channels(self) -> list[EventChannel]:
        return [channel for queue in self._queues for channel in queue.channels]

    def disconnect(self) -> None:
        self.port.unplug()
        timers = self.host.hypervisor.timers
        timers.cancel(self._poll_timer)
        timers.cancel(self._refill)
        self._poll_timer = self._refill = None
        for queue in self._queues:
            queue.close()
        self._queues.clear()
        control, self._control = self._control, None
        if control is not None:
            control[2].close()
            control[1].unmap()

    def lend(self) -> None:
        self._close_forwards()

    def take_back(self) -> None:
        try:
            self._open_forwards()
        except (NetworkError, ForwardError, ValueError) as error:
            raise DeviceError(Errno.ENODEV, str(error)) from None

    def _close_forwards(self) -> None:
        forwards, self.forwards = self.forwards, []
        network = self.networks.user_network(self.bridge) if forwards else None
        if network is not None:
            for forward in forwards:
                network.close_forward(forward)

    def release(self) -> None:
        self._close_forwards()
        callbacks, self.on_release = self.on_release, []
        for callback in callbacks:
            callback()

    def _complain(self, what: str) -> None:
        """The front end is wrong; the log of the machine isn't its to fill."""
        self.complaints += 1
        if self.complaints <= _COMPLAINTS:
            self.host.log(f"{self.path}: {what}")

    # -- from the guest ------------------------------------------------------------------------
    def _serve_soon(self, queue: _Queue) -> None:
        """Serve a transmit ring a moment later, or as soon as nobody runs.

        A guest that goes on sending fills the ring meanwhile, without telling us of each packet;
        and its TCP makes larger ones.
        """
        if not queue.soon:
            queue.soon = True

            def serve() -> None:
                queue.soon = False
                # The front end may have gone meanwhile.
                if queue in self._queues:
                    self.guard(lambda: self._serve_tx(queue))

            self.host.soon(serve, TX_DELAY_NS)

    def _serve_tx(self, queue: _Queue) -> None:
        tx = queue.tx
        while tx is not None and queue.tx is tx:
            if self._credit is not None:
                if self._left <= 0 and not self._refilled():
                    break
                # In small portions, so that a burst goes only a little over the limit.
                self._left -= tx.serve(64)
            else:
                tx.serve()
            if not tx.ring.final_check():
                break
        switch = self.port.switch
        if switch is not None:
            switch.run()

    def _refilled(self) -> bool:
        """Whether there's something to spend again; if not, the queues are served later."""
        assert self._credit is not None  # there is a limit
        amount, interval = self._credit
        now = self.host.now()
        if now - self._window >= interval:
            # What was sent too much counts against the next interval.
            self._left = min(self._left, 0) + amount
            self._window = now
        if self._left <= 0 and self._refill is None:
            deadline = self._window + interval
            self._refill = self.host.hypervisor.timers.add(deadline, self._on_credit)
        return self._left > 0

    def _on_credit(self) -> None:
        self._refill = None
        for queue in list(self._queues):
            self.guard(lambda queue=queue: self._serve_tx(queue))  # type: ignore[misc]

    def _change_multicast(self, address: bytes, add: bool) -> bool:
        if not add:
            self._multicast.pop(address, None)
            return True
        if address not in self._multicast and len(self._multicast) >= MULTICAST_MAX:
            return False
        self._multicast[address] = None
        return True

    # -- to the guest --------------------------------------------------------------------------
    def wants(self, packet: Packet) -> bool:
        """Whether a multicast packet is for the guest."""
        destination = packet.destination
        if not self._filters or destination == BROADCAST or not is_multicast(destination):
            return True
        return destination in self._multicast

    def deliver(self, packet: Packet) -> bool:
        """Queue a packet for the guest, in a form that its front end can take."""
        if self.delay_ns:
            hypervisor = self.host.hypervisor
            deadline = hypervisor.clock.now() + self.delay_ns
            hypervisor.timers.add(deadline, lambda: self._deliver_late(packet))
            return True
        return self._deliver(packet)

    def _deliver_late(self, packet: Packet) -> None:
        """A packet that a test has held up goes on its way."""
        if self._deliver(packet):
            self.flush()

    def _deliver(self, packet: Packet) -> bool:
        if not self._queues:
            return False
        headers = locate(packet.data) if packet.csum_blank or len(self._queues) > 1 else None
        features = self._features
        packets = [packet]
        if packet.gso_size and packet.gso_type not in features.gso_types:
            try:
                packets = segment(packet)
            except BadPacket:
                return False
        blank = features.csum_v4
        if headers is not None and headers.version == 6:
            blank = features.csum_v6
        if not blank:
            packets = [one if one.gso_size else complete(one) for one in packets]
        hashed = self.hashing.hash(packet.data, headers)
        number = self.hashing.queue(packet.data, hashed, len(self._queues))
        rx = self._queues[number].rx
        # The first that's dropped decides: the rest of its stream would be sent again anyway.
        return rx is not None and all(rx.queue(one, hashed) for one in packets)

    def flush(self) -> None:
        """Put what was queued into the rings."""
        for queue in list(self._queues):
            self.guard(lambda queue=queue: self._flush_rx(queue))  # type: ignore[misc]

    def _flush_rx(self, queue: _Queue) -> None:
        rx = queue.rx
        if rx is None:
            return
        rx.flush()
        if self._polls and len(rx) and self._poll_timer is None:
            deadline = self.host.now() + _POLL_NS
            self._poll_timer = self.host.hypervisor.timers.add(deadline, self._on_poll)

    def _on_poll(self) -> None:
        self._poll_timer = None
        self.flush()

    # -- persistence ---------------------------------------------------------------------------
    def save(self) -> VifState:
        """Packets that wait for room in the rings aren't kept: networks lose some."""
        return VifState(self.hashing, tuple(self._multicast))

    def restore(self, state: VifState) -> None:
        hashing = state.hashing
        if (
            len(hashing.mapping) > MAX_HASH_MAPPING_SIZE
            or any(not 0 <= one < len(self._queues) for one in hashing.mapping)
            or len(hashing.key) > MAX_HASH_KEY_SIZE
            or len(state.multicast) > MULTICAST_MAX
        ):
            raise DeviceError(Errno.EINVAL, "hashing was set up as it can't be")
        for field in Hashing.__struct_fields__:
            # The control ring's end has hold of the one that is there.
            setattr(self.hashing, field, getattr(hashing, field))
        self._multicast = dict.fromkeys(state.multicast)

    # -- control ring --------------------------------------------------------------------------
    def _serve_control(self) -> None:
        if self._control is None:
            return
        ring, _, channel, control = self._control
        more = True
        while more:
            for slot in ring.take(size=xen_netif_ctrl_request.sizeof()):
                ring.respond(control.answer(xen_netif_ctrl_request.unpack(slot)).pack())
            if ring.push():
                channel.notify()
            more = ring.final_check()
