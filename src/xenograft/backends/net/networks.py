# SPDX-License-Identifier: GPL-2.0-or-later
"""The networks of a machine: a switch per bridge name, with what else is plugged into it."""

from __future__ import annotations

from collections.abc import Callable

from xenograft.backends.net.switch import Port, Switch

DEFAULT_BRIDGE = "xenbr0"
"""The bridge that there always is, named as the toolstack's manuals do."""


class NetworkError(Exception):
    """A network can't be had: one line."""


class Networks:
    """Switches by name.

    `now` is the machine's time in ns; `later` has a function called at a later time.
    """

    def __init__(
        self, now: Callable[[], int], later: Callable[[Callable[[], None]], None] | None = None
    ) -> None:
        self._now = now
        self._later = later
        self.switches: dict[str, Switch] = {}
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
        self._uplinks[name] = []
        return switch

    def get(self, name: str) -> Switch:
        """The switch of a name.  Raises NetworkError, which names those that there are."""
        switch = self.switches.get(name)
        if switch is None:
            known = ", ".join(sorted(self.switches))
            raise NetworkError(f"there's no bridge {name!r}; there is {known}")
        return switch

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
        for _, close in self._uplinks.pop(name):
            close()
        for port in list(switch.ports):
            port.unplug()

    def close(self) -> None:
        """Take all away."""
        for name in list(self.switches):
            self.remove(name)
