# SPDX-License-Identifier: GPL-2.0-or-later
"""A virtual switch: what a bridge in domain 0 is to the guests on it.

It learns which port an address is behind from the packets that come from there (IEEE 802.1D),
forgets it after a while without any, and sends what it doesn't know, and what is for many, to
all.  Ports queue what they are given, and bring it on its way when the switch *flushes* them: so
that a burst costs one notification, and no port is ever entered while it's at work.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable

import msgspec

from xenograft.backends.net.headers import ETH_HLEN, is_multicast
from xenograft.backends.net.packet import Packet

AGEING_NS = 300 * 10**9
"""How long an address is remembered without a packet from it (802.1D's default)."""

TABLE_LIMIT = 4096
"""Addresses that a switch remembers; then the oldest go."""

MTU_MAX = 65535

_OVERHEAD = ETH_HLEN + 4
"""What a frame has beside its payload: the header, and a VLAN tag at most."""

_ROUNDS = 256
"""How often ports are flushed in one go; what two of them still have to say comes later."""


class PortCounters(msgspec.Struct):
    """Packets and bytes from (`rx`) and to (`tx`) what is behind a port, seen from the switch."""

    rx_packets: int = 0
    rx_bytes: int = 0
    tx_packets: int = 0
    tx_bytes: int = 0
    tx_dropped: int = 0


class Port(ABC):
    """A socket of a switch.  Subclasses say what `deliver` and `flush` do."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.switch: Switch | None = None
        self.mtu: int | None = None
        """The largest payload of a frame to this port; None: as the switch has it."""
        self.counters = PortCounters()
        self.taps: list[Callable[[Packet], None]] = []
        """Called with each packet that goes through the port, either way."""
        self.lose: Callable[[Packet, bool], bool] | None = None
        """Whether a packet gets lost, a fault that tests inject; with it, whether it is on its
        way to what is behind the port."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    @abstractmethod
    def deliver(self, packet: Packet) -> bool:
        """Take a packet, to go out at the next `flush`; False if there's no room for it."""

    @abstractmethod
    def flush(self) -> None:
        """Bring on its way what was delivered."""

    def wants(self, packet: Packet) -> bool:
        """Whether a packet for many is for this port too."""
        return True

    def send(self, packet: Packet) -> None:
        """A packet from what is behind this port, for the switch to forward."""
        if self.lose is not None and self.lose(packet, False):
            return
        self.counters.rx_packets += 1
        self.counters.rx_bytes += len(packet.data)
        for tap in self.taps:
            tap(packet)
        if self.switch is not None:
            self.switch.forward(self, packet)

    def unplug(self) -> None:
        """Leave the switch; a second time does nothing."""
        if self.switch is not None:
            self.switch.detach(self)


class SwitchState(msgspec.Struct, frozen=True):
    """Addresses that were learned: (MAC, name of the port, time in ns), the oldest first."""

    addresses: tuple[tuple[bytes, str, int], ...]


class Switch:
    """A bridge by name.  `now` is the machine's time in ns.

    `later` is called if there's work left for another time, and somebody has to call `run`.
    """

    def __init__(
        self,
        name: str,
        now: Callable[[], int],
        *,
        mtu: int = 1500,
        later: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        if not 68 <= mtu <= MTU_MAX:
            raise ValueError(f"an MTU of {mtu}; it can be 68 to {MTU_MAX}")
        self.name = name
        self.mtu = mtu
        self.ports: list[Port] = []
        self._now = now
        self._later = later
        self._table: dict[bytes, tuple[Port, int]] = {}
        self._dirty: deque[Port] = deque()
        self._running = False

    def attach(self, port: Port) -> None:
        """Plug a port in.  Raises ValueError if it's plugged in already."""
        if port.switch is not None:
            raise ValueError(f"{port.name} is plugged in already")
        port.switch = self
        self.ports.append(port)

    def detach(self, port: Port) -> None:
        """Pull a port out; what was learned about it is forgotten."""
        if port in self.ports:
            self.ports.remove(port)
            port.switch = None
            self._table = {mac: at for mac, at in self._table.items() if at[0] is not port}
            if port in self._dirty:
                self._dirty.remove(port)

    def lookup(self, address: bytes) -> Port | None:
        """The port that an address is behind, as far as is known."""
        entry = self._table.get(address)
        if entry is None:
            return None
        if self._now() - entry[1] > AGEING_NS:
            del self._table[address]
            return None
        return entry[0]

    @property
    def addresses(self) -> list[tuple[bytes, str]]:
        """The addresses that are known, with the names of their ports."""
        now = self._now()
        return [(m, p.name) for m, (p, t) in self._table.items() if now - t <= AGEING_NS]

    def forward(self, source: Port, packet: Packet) -> None:
        """Send on a packet that has come in by `source`; it's on its way after `run`."""
        if len(packet.data) < ETH_HLEN:
            return
        self._learn(source, packet.source)
        destination = packet.destination
        if not destination[0] & 1:
            port = self.lookup(destination)
            if port is not None:
                if port is not source:
                    self._deliver(port, packet)
                return
            for port in self.ports:
                if port is not source:
                    self._deliver(port, packet)
            return
        for port in self.ports:
            if port is not source and port.wants(packet):
                self._deliver(port, packet)

    def _learn(self, port: Port, address: bytes) -> None:
        if is_multicast(address):
            return
        table = self._table
        # The table is in the order of the last packets: the first entry is the oldest.
        table.pop(address, None)
        if len(table) >= TABLE_LIMIT:
            del table[next(iter(table))]
        table[address] = (port, self._now())

    def _deliver(self, port: Port, packet: Packet) -> None:
        # What stands for several segments is as small as it has to be (as in Linux's bridge).
        if port.lose is not None and port.lose(packet, True):
            return
        fits = len(packet.data) <= (port.mtu or self.mtu) + _OVERHEAD or packet.gso_size
        if not fits or not port.deliver(packet):
            port.counters.tx_dropped += 1
            return
        port.counters.tx_packets += 1
        port.counters.tx_bytes += len(packet.data)
        for tap in port.taps:
            tap(packet)
        if port not in self._dirty:
            self._dirty.append(port)

    def run(self) -> None:
        """Flush the ports that were given packets, and those that these give packets to."""
        if self._running:
            return
        self._running = True
        try:
            for _ in range(_ROUNDS):
                if not self._dirty:
                    return
                self._dirty.popleft().flush()
        finally:
            self._running = False
        if self._dirty and self._later is not None:
            self._later(self.run)

    def save(self) -> SwitchState:
        """What was learned."""
        return SwitchState(tuple((m, p.name, t) for m, (p, t) in self._table.items()))

    def restore(self, state: SwitchState) -> None:
        """Know what was saved, as far as ports of those names are plugged in."""
        ports = {port.name: port for port in self.ports}
        self._table = {m: (ports[p], t) for m, p, t in state.addresses if p in ports}
