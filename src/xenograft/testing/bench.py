# SPDX-License-Identifier: GPL-2.0-or-later
"""What one test works with: its machine, its guests, their limits, and what they have said."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import pytest

from xenograft.testing.boot import boot_guest, make_machine
from xenograft.testing.guest import CommandFailed, Guest
from xenograft.testing.limits import HostLimit, HostTimeout
from xenograft.testing.settings import Settings, of_item
from xenograft.testing.shell import ShellError
from xenograft.testing.templates import Template, Templates
from xenograft.toolstack.config.vif import parse_vif
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.machine import GuestEnded

if TYPE_CHECKING:
    from xenograft.toolstack.machine import Domain, Machine

T = TypeVar("T")

NetworkMaker: TypeAlias = Callable[[int], list[Guest]]

CONSOLE_LINES = 200
"""Lines of a console that are attached to a failed test."""

LOG_LINES = 30

_BRIDGE = "xentest"
_NETWORK = "10.0.0"
_MOST_GUESTS = 64
_TEMPLATES: pytest.StashKey[Templates] = pytest.StashKey()
_GUEST_FIXTURES = ("xen_guest", "xen_network")


class TestBench:
    """The machine and guests of a test, made when they are first asked for.

    A test with guests gets the machine of their template, for itself alone; one without gets a
    machine of its own.
    """

    __test__ = False

    def __init__(self, settings: Settings, templates: Templates, with_guests: bool) -> None:
        self.settings = settings
        self._templates = templates
        self._with_guests = with_guests
        self._template: Template | None = None
        self._machine: Machine | None = None
        self._limit: HostLimit | None = None
        self._domains: list[Domain] = []
        """Those whose consoles are shown if the test fails."""
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        """What the machine's log has got since the test began."""
        self._guest: Guest | None = None
        self._guests: list[Guest] = []

    @classmethod
    def of(cls, item: pytest.Item) -> TestBench:
        """As pytest's configuration and the test's markers say.  Raises UserError."""
        config = item.config
        if _TEMPLATES not in config.stash:
            config.stash[_TEMPLATES] = Templates()
            config.add_cleanup(config.stash[_TEMPLATES].close)
        names = getattr(item, "fixturenames", ())
        with_guests = any(name in names for name in _GUEST_FIXTURES)
        return cls(of_item(item), config.stash[_TEMPLATES], with_guests)

    # -- what fixtures give ------------------------------------------------------------------
    @property
    def machine(self) -> Machine:
        if self._machine is None:
            self._machine = self._or_fail(self._find_machine)
            self._limit = HostLimit(self._machine, self.settings.host_timeout)
            self._limit.__enter__()
            self._machine.hypervisor.log.listeners.append(self._logged)
        return self._machine

    def _logged(self, _time: int, _domid: int, line: str) -> None:
        self._log.append(line)

    def _find_machine(self) -> Machine:
        if self._with_guests:
            self._template = self._templates.find(self.settings, self._domains.append)
            self._domains.clear()
            if self._template is not None:
                return self._template.machine
        return make_machine(self.settings)

    @staticmethod
    def _or_fail(work: Callable[[], T]) -> T:
        """What was written wrongly, or doesn't boot, is told without a traceback."""
        try:
            return work()
        except HostTimeout:
            raise
        except (UserError, TimeoutError, GuestEnded, ShellError, CommandFailed) as error:
            pytest.fail(str(error), pytrace=False)

    def guest(self) -> Guest:
        """The test's guest, the same each time."""
        if self._guest is None:
            self._guest = self._new("guest")
        return self._guest

    def _new(self, name: str) -> Guest:
        machine = self.machine

        def make() -> Guest:
            if self._template is None:
                return boot_guest(machine, self.settings, name=name, created=self._domains.append)
            guest = self._template.lease(name, self.settings.timeout)
            self._domains.append(guest.domain)
            return guest

        guest = self._or_fail(make)
        self._guests.append(guest)
        return guest

    def network(self, guests: int = 2) -> list[Guest]:
        """Guests on a bridge.  Raises UserError for a number that is too high."""
        if not 1 <= guests <= _MOST_GUESTS:
            raise UserError(f"xen_network({guests}): it can be 1 to {_MOST_GUESTS} guests")
        machine = self.machine
        if _BRIDGE not in machine.services.networks.switches:
            machine.add_bridge(_BRIDGE)
        number = len(self._guests)
        made = [self._new(f"guest-{number + one}") for one in range(1, guests + 1)]
        for one, guest in enumerate(made, number + 1):
            mac = f"00:16:3e:00:{one >> 8:02x}:{one & 255:02x}"
            guest.domain.devices.attach_vif(parse_vif(f"bridge={_BRIDGE},mac={mac}"))
        for one, guest in enumerate(made, number + 1):
            guest.await_devices(guest.default_timeout)
            guest.address = f"{_NETWORK}.{one}"
            eth = f"eth{len(self.settings.vif)}"
            guest.check(
                f"ip link set lo up; ip link set {eth} up &&"
                f" ip address add {guest.address}/24 dev {eth}"
            )
        return made

    # -- the end -----------------------------------------------------------------------------
    def close(self) -> None:
        """Everything goes."""
        if self._limit is not None:
            self._limit.__exit__(None, None, None)
        if self._machine is None:
            return
        self._machine.hypervisor.log.listeners.remove(self._logged)
        for guest in self._guests:
            guest.faults.clear()
        if self._template is None:
            self._machine.close()
            return
        try:
            self._template.release()
        except BaseException:
            self._templates.drop(self._template)
            raise

    def sections(self) -> list[tuple[str, str]]:
        """For the report of a failed test: (title, text)."""
        found = []
        for domain in self._domains:
            lines = domain.console.output.replace("\r", "").splitlines()[-CONSOLE_LINES:]
            found.append((f"xen console of {domain.name}", "\n".join(lines)))
            if domain.crash_report is not None:
                found.append((f"xen crash of {domain.name}", domain.crash_report))
        if self._log:
            found.append(("xen log (xl dmesg)", "\n".join(self._log)))
        return found
