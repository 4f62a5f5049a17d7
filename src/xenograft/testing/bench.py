# SPDX-License-Identifier: GPL-2.0-or-later
"""What one test works with: its machine, its guests, their limits, and what they have said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import pytest

from xenograft.testing.boot import boot_guest, make_machine
from xenograft.testing.guest import CommandFailed, Guest
from xenograft.testing.limits import HostLimit, HostTimeout
from xenograft.testing.settings import (
    GUEST_OPTIONS,
    INI_NUMBERS,
    INI_OPTIONS,
    MACHINE_OPTIONS,
    Settings,
    with_options,
)
from xenograft.testing.shell import ShellError
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.machine import GuestEnded

if TYPE_CHECKING:
    from xenograft.toolstack.machine import Domain, Machine

T = TypeVar("T")

NetworkMaker: TypeAlias = Callable[[int], list[Guest]]

CONSOLE_LINES = 200
"""Lines of a console that are attached to a failed test."""

LOG_LINES = 30

_NETWORK = "10.0.0"
_MOST_GUESTS = 64


class TestBench:
    """The machine of a test, made when it is first asked for."""

    __test__ = False

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._domains: list[Domain] = []
        self._limit: HostLimit | None = None
        self._guest: Guest | None = None

    @classmethod
    def of(cls, item: pytest.Item) -> TestBench:
        """As pytest's configuration and the test's markers say.  Raises UserError."""
        return cls(_settings(item))

    @cached_property
    def machine(self) -> Machine:
        machine = self._or_fail(lambda: make_machine(self.settings))
        self._limit = HostLimit(machine, self.settings.host_timeout)
        self._limit.__enter__()
        return machine

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
            machine = self.machine
            self._guest = self._or_fail(
                lambda: boot_guest(machine, self.settings, created=self._domains.append)
            )
        return self._guest

    def network(self, guests: int = 2) -> list[Guest]:
        """Guests on a bridge.  Raises UserError for a number that is too high."""
        if not 1 <= guests <= _MOST_GUESTS:
            raise UserError(f"xen_network({guests}): it can be 1 to {_MOST_GUESTS} guests")
        machine = self.machine
        machine.add_bridge("xentest")
        made = []
        for number in range(1, guests + 1):
            address = f"{_NETWORK}.{number}"
            settings = replace(
                self.settings,
                vif=(*self.settings.vif, "bridge=xentest"),
                cmdline=f"{self.settings.cmdline} xg.net={address}/24",
            )
            guest = boot_guest(
                machine, settings, name=f"guest-{number}", created=self._domains.append
            )
            guest.address = address
            made.append(guest)
        return made

    def close(self) -> None:
        """Everything goes."""
        if self._limit is not None:
            self._limit.__exit__(None, None, None)
            self.machine.close()

    def sections(self) -> list[tuple[str, str]]:
        """For the report of a failed test: (title, text)."""
        found = []
        for domain in self._domains:
            lines = domain.console.output.replace("\r", "").splitlines()[-CONSOLE_LINES:]
            found.append((f"xen console of {domain.name}", "\n".join(lines)))
            if domain.crash_report is not None:
                found.append((f"xen crash of {domain.name}", domain.crash_report))
        if self._domains and (log := self.machine.log.splitlines()[-LOG_LINES:]):
            found.append(("xen log (xl dmesg)", "\n".join(log)))
        return found


def _settings(item: pytest.Item) -> Settings:
    config = item.config
    given: dict[str, object] = {}
    for name in (*INI_OPTIONS, *INI_NUMBERS):
        text = config.getini(f"xen_{name}")
        if text:
            given[name] = _number(name, text) if name in (*INI_NUMBERS, "vcpus") else text
    root = config.rootpath if config.inipath is None else config.inipath.parent
    settings = with_options(Settings(), "pytest's configuration", given, given, root)
    folder = item.path.parent
    for marker, known in (("xen_machine", MACHINE_OPTIONS), ("xen_guest", GUEST_OPTIONS)):
        # The nearest comes first, and has the last word.
        for mark in reversed(list(item.iter_markers(marker))):
            if mark.args:
                raise UserError(f"{marker}: give its options by name, as memory=512")
            settings = with_options(settings, marker, known, mark.kwargs, folder)
    return settings


def _number(name: str, text: str) -> float | int:
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        raise UserError(f"pytest's configuration: xen_{name} is a number, not {text!r}") from None
