# SPDX-License-Identifier: GPL-2.0-or-later
"""The networks of a machine: a switch per bridge name, with what else is plugged into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from xenograft.backends.net.bridge import PREDEFINED, Bridge
from xenograft.backends.net.switch import Port, Switch

if TYPE_CHECKING:
    from xenograft.backends.net.user import UserNetwork

DEFAULT_BRIDGE = "xenbr0"
"""The bridge that there always is, named as the toolstack's manuals do."""


class NetworkError(Exception):
    """A network can't be had: one line."""


class Uplink(Protocol):
    """Opens the way to the outside that a bridge is to have: a port, and how to close it.

    Raises NetworkError.
    """

    def __call__(self, bridge: Bridge, /) -> tuple[Port, Callable[[], None]]: ...


class Networks:
    """Switches by name.

    `now` is the machine's time in ns; `later` has a function called at a later time; `uplink`
    opens ways to the outside (None: there are none).
    """

    def __init__(
        self,
        now: Callable[[], int],
        later: Callable[[Callable[[], None]], None] | None = None,
        uplink: Uplink | None = None,
    ) -> None:
        self._now = now
        self._later = later
        self._uplink = uplink
        self.switches: dict[str, Switch] = {}
        self.bridges: dict[str, Bridge] = dict(PREDEFINED)
        """As what they were defined, those included that are made when they're asked for."""
        self._uplinks: dict[str, list[tuple[Port, Callable[[], None]]]] = {}
        self.add(DEFAULT_BRIDGE)

    def add(self, name: str, mtu: int = 1500) -> Switch:
        """Make a switch.  Raises NetworkError if there's one of that name."""
        if name in self.switches:
            raise NetworkError(f"there is a bridge {name} already")
        try:
            switch = Switch(name, self._now, mtu=mtu, later=self._later)
        except ValueError as error:
            raise NetworkError(f"bridge {name}: {error}") from None
        self.switches[name] = switch
        self.bridges[name] = Bridge(name, mtu)
        self._uplinks[name] = []
        return switch

    def define(self, bridge: Bridge) -> Switch:
        """Make a bridge with its way to the outside.  Raises NetworkError."""
        switch = self.add(bridge.name, bridge.mtu)
        if bridge.uplink != "none":
            try:
                if self._uplink is None:
                    raise NetworkError(f"bridge {bridge.name}: there's no way to the outside here")
                self.plug(bridge.name, *self._uplink(bridge))
            except NetworkError:
                self.remove(bridge.name)
                raise
        self.bridges[bridge.name] = bridge
        return switch

    def get(self, name: str) -> Switch:
        """The switch of a name; those that are predefined are made when they're asked for.

        Raises NetworkError, which names those that there are.
        """
        switch = self.switches.get(name)
        if switch is not None:
            return switch
        if self._uplink is not None and name in PREDEFINED:
            return self.define(PREDEFINED[name])
        can_be = set(self.switches) | (set(PREDEFINED) if self._uplink is not None else set())
        raise NetworkError(f"there's no bridge {name[:40]!r}; there is {', '.join(sorted(can_be))}")

    def user_network(self, name: str) -> UserNetwork | None:
        """The user network that a bridge is plugged into, if it is."""
        from xenograft.backends.net.user import UserNetwork

        return next((one for one in self.uplinks(name) if isinstance(one, UserNetwork)), None)

    def plug(self, name: str, port: Port, close: Callable[[], None]) -> None:
        """Plug in a way to the outside; `close` is called when the switch goes."""
        self.get(name).attach(port)
        self._uplinks[name].append((port, close))

    def uplinks(self, name: str) -> list[Port]:
        """The ways to the outside of a switch."""
        return [port for port, _ in self._uplinks.get(name, ())]

    def remove(self, name: str) -> None:
        """Take a switch away; whoever is plugged in loses his link."""
        switch = self.switches.pop(name, None)
        if switch is None:
            return
        del self.bridges[name]
        if name in PREDEFINED:
            self.bridges[name] = PREDEFINED[name]
        for _, close in self._uplinks.pop(name):
            close()
        for port in list(switch.ports):
            port.unplug()

    def close(self) -> None:
        """Take all away."""
        for name in list(self.switches):
            self.remove(name)
