# SPDX-License-Identifier: GPL-2.0-or-later
"""From standard input to a guest's console, the end of input included.

A console has no end of file: what a person does at the end is Ctrl-D, which the guest's
terminal turns into one, if it's in line mode just then.  A shell that is about to switch its
terminal to editing loses it.  So after the end of input Ctrl-D is typed again, like by a person
who leans on the key, whenever the guest has read everything and sleeps.  These moments are
counted in the machine's time, so that runs on the virtual clock repeat.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xenograft.cli.terminal import Terminal
    from xenograft.hypervisor.timers import Timer
    from xenograft.toolstack.machine import Domain, Machine

CTRL_D = b"\x04"
ENOUGH = 64 << 10
"""Bytes that may wait for the guest before no more is read from the host."""

READ_AHEAD = 0.5
"""Seconds of silence after which a pipe counts as silent, on the virtual clock."""

FIRST_NS = 100_000_000
LONGEST_NS = 3_000_000_000
"""Between two looks at a silent guest after the end of input: twice as long each time, at most
this."""

TRIES = 1000
"""A guest that never reads isn't looked at for ever: on the virtual clock that would be a spin."""


class Feeder:
    """Feeds one console from a terminal; `stop` is called when the user leaves."""

    def __init__(self, machine: Machine, terminal: Terminal) -> None:
        self._machine = machine
        self._terminal = terminal
        self._domain: Domain | None = None
        self._watched = False
        self._pollable = True
        self._timer: Timer | None = None
        self._pause = FIRST_NS
        self._tries = TRIES
        self._virtual = machine.hypervisor.clock.virtual

    def attach(self, domain: Domain) -> None:
        """Feed this domain's console from now on (after a reboot, the new one's)."""
        self._domain = domain
        domain.console.backend.served.append(self._pump)
        domain.console.on_output(self._wrote)
        if not self._terminal.interactive and self._virtual:
            self._read_ahead()
        self._pump()

    def detach(self) -> None:
        """Stop feeding: the domain goes."""
        self._unwatch()
        self._domain = None
        self._machine.hypervisor.timers.cancel(self._timer)
        self._timer = None

    # -- reading -------------------------------------------------------------------------
    def _read_ahead(self) -> None:
        """Read what a pipe holds or will soon hold, before the guest runs.

        What arrives while it runs arrives at another virtual time in another run.  A pipe that
        stays silent is no reason to wait for ever.
        """
        while not self._terminal.input_ended and not self._full():
            if not select.select([self._terminal.input_fd], [], [], READ_AHEAD)[0]:
                return
            self._read()

    def _pump(self) -> None:
        """Go on reading, or stop, as the guest's appetite says."""
        domain, terminal = self._domain, self._terminal
        if domain is None or terminal.left:
            self._unwatch()
        elif terminal.input_ended:
            self._unwatch()
            if self._timer is None:
                self._look_later()
        elif domain.console.backend.waiting >= ENOUGH:
            self._unwatch()
        else:
            self._watch()

    def _watch(self) -> None:
        if self._watched:
            return
        if self._pollable:
            try:
                self._machine.hypervisor.door.watch(self._terminal.input_fd, self._ready)
                self._watched = True
                return
            except (OSError, ValueError):
                # Files can't be waited for: they're always ready.
                self._pollable = False
        while not self._full() and not self._terminal.input_ended:
            self._read()
        if self._terminal.input_ended and self._timer is None:
            self._look_later()

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._machine.hypervisor.door.unwatch(self._terminal.input_fd)

    def _full(self) -> bool:
        return self._domain is None or self._domain.console.backend.waiting >= ENOUGH

    def _ready(self) -> None:
        self._read()
        self._pump()

    def _read(self) -> None:
        data = self._terminal.read()
        if data and self._domain is not None:
            self._domain.console.send(data)
        if self._terminal.left or (self._terminal.input_ended and self._terminal.interactive):
            # A terminal that has gone is a user who has left.
            self._terminal.left = True
            self._machine.stop()

    # -- the end of input ----------------------------------------------------------------
    def _wrote(self, _data: bytes) -> None:
        """The guest does something: the moment when it waits for input may be near."""
        if self._timer is not None:
            self._machine.hypervisor.timers.cancel(self._timer)
            self._pause, self._tries = FIRST_NS, TRIES
            self._look_later()

    def _look_later(self) -> None:
        hypervisor = self._machine.hypervisor
        if self._tries:
            self._tries -= 1
            self._timer = hypervisor.timers.add(hypervisor.clock.now() + self._pause, self._look)
            self._pause = min(2 * self._pause, LONGEST_NS)

    def _look(self) -> None:
        self._timer = None
        domain = self._domain
        if domain is None or domain.ended:
            return
        asleep = not any(vcpu.runnable for vcpu in domain.xen.vcpus)
        if asleep and not domain.console.backend.unread:
            domain.console.send(CTRL_D)
        self._look_later()
