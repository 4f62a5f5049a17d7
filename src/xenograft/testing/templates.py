# SPDX-License-Identifier: GPL-2.0-or-later
"""Booted guests that tests get clones of, so that each begins in milliseconds.

The first test that wants some kind of guest has it booted, on a machine of its own; what it was
at its first prompt is kept until the session ends, and each test gets a clone of that: its
memory, its disks and its time are as they were then.  Where a guest can't be cloned (PV guests),
each test boots its own.
"""

from __future__ import annotations

import uuid as uuids
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from xenograft.testing.boot import boot_guest, make_machine
from xenograft.testing.guest import Guest
from xenograft.testing.settings import Settings
from xenograft.toolstack.errors import UserError

if TYPE_CHECKING:
    from xenograft.toolstack.machine import Domain, Machine
    from xenograft.toolstack.state.fork import Moment

MOST = 4
"""Templates that are kept; the one that wasn't used for longest goes."""

_UUIDS = uuids.UUID("5a6c1f1e-3f0e-5c55-8f7e-0d6f6b1a2c41")
"""Name space of the clones' UUIDs: the same name, the same UUID, so that runs can be repeated."""

_RECONNECT_SECONDS = 10.0


class Template:
    """A machine with a guest that has booted; `lease` gives clones of it.

    `machine` belongs to one test at a time.
    """

    def __init__(self, settings: Settings, machine: Machine, guest: Guest) -> None:
        """Raises UserError if such a guest can't be cloned; the guest is destroyed otherwise."""
        self.settings = settings
        self.machine = machine
        if not guest.shell.installed:
            guest.shell.install(settings.boot_timeout)
        self._scripts = guest.shell.count
        self._moment: Moment = guest.domain.snapshot()
        self._epoch_ns = machine.hypervisor.clock.epoch_ns
        guest.domain.destroy()

    def lease(self, name: str, timeout: float) -> Guest:
        """A clone, which runs when the machine does; `timeout`: of its commands, in seconds."""
        clock = self.machine.hypervisor.clock
        if clock.virtual and not self.machine.domains:
            # For the test no time has gone by since: on the wall, too.
            clock.epoch_ns = self._epoch_ns - (clock.now() - self._moment.taken_ns)
        uuid = str(uuids.uuid5(_UUIDS, name))
        domain = self._moment.fork(name, uuid=uuid)
        guest = Guest(domain, timeout=timeout)
        guest.shell.adopt(self._scripts)
        if self.settings.vif:
            guest.await_devices(_RECONNECT_SECONDS)
        return guest

    def release(self) -> None:
        """A test is over: its guests go."""
        for domain in self.machine.domains:
            domain.destroy()

    def close(self) -> None:
        self._moment.close()
        self.machine.close()


class Templates:
    """Those of a session."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Settings, Template] = OrderedDict()
        self._cannot: set[Settings] = set()
        """Guests that are booted each time."""

    def find(self, settings: Settings, created: Callable[[Domain], None]) -> Template | None:
        """The template for guests like that, which is booted if need be; None: there can't be any.

        Raises what `boot_guest` raises.
        """
        # Tests that differ in their limits alone share a template.
        settings = replace(settings, host_timeout=1.0, timeout=1.0)
        if settings in self._cannot:
            return None
        if settings in self._kept:
            self._kept.move_to_end(settings)
            return self._kept[settings]
        machine = make_machine(settings)
        try:
            guest = boot_guest(machine, settings, created=created)
            try:
                template = Template(settings, machine, guest)
            except UserError:
                self._cannot.add(settings)
                machine.close()
                return None
        except BaseException:
            machine.close()
            raise
        self._kept[settings] = template
        while len(self._kept) > MOST:
            self._kept.popitem(last=False)[1].close()
        return template

    def drop(self, template: Template) -> None:
        """It isn't what it was: the next test has another one booted."""
        self._kept.pop(template.settings, None)
        template.close()

    def close(self) -> None:
        while self._kept:
            self._kept.popitem()[1].close()
