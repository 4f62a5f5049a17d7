# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's console, as its user waits for what it says; and how guests end."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING

from xenograft.abi import sched
from xenograft.toolstack.create import attach_console

if TYPE_CHECKING:
    from xenograft.backends.console.console import ConsoleBackend, ConsoleState
    from xenograft.toolstack.machine import Domain


class ShutdownReason(IntEnum):
    """Why a domain has shut down (SHUTDOWN_* of public/sched.h)."""

    poweroff = sched.SHUTDOWN_poweroff
    reboot = sched.SHUTDOWN_reboot
    suspend = sched.SHUTDOWN_suspend
    crash = sched.SHUTDOWN_crash
    watchdog = sched.SHUTDOWN_watchdog
    soft_reset = sched.SHUTDOWN_soft_reset
    unknown = 255
    """A number that Xen gives no meaning."""

    @classmethod
    def of(cls, reason: int) -> ShutdownReason:
        try:
            return cls(reason)
        except ValueError:
            return cls.unknown

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"ShutdownReason.{self.name}"


class GuestEnded(Exception):
    """The guest has shut down before what was waited for came (`reason`)."""

    def __init__(self, domain: Domain, waited_for: str) -> None:
        self.reason = domain.shutdown_reason
        state = "was destroyed" if self.reason is None else f"has shut down ({self.reason})"
        super().__init__(f"{domain.name} {state} before {waited_for}{tail(domain.console)}")


def tail(console: Console) -> str:
    """The last lines of a console, for messages."""
    lines = console.output.rstrip().splitlines()[-5:]
    return "".join(f"\n    | {line}" for line in lines)


class Console:
    """A domain's console, or (with a back end of its own) one of its channels."""

    def __init__(self, domain: Domain, backend: ConsoleBackend | None = None) -> None:
        self._domain = domain
        self._backend = backend or attach_console(domain.machine.control, domain.xen)
        self._seen = 0
        self._backend.listeners.append(self._look_up)

    def _look_up(self, data: bytes) -> None:
        """Somebody may watch, or wait for, what was written."""
        hypervisor = self._domain.machine.hypervisor
        hypervisor.attention = True
        if (hook := hypervisor.instruments.console) is not None:
            hook(hypervisor.clock.now(), self._domain.domid, data)

    @property
    def output(self) -> str:
        """The last of what the guest has written (1 MiB at most)."""
        return self._backend.output.decode("utf-8", "replace")

    @property
    def raw(self) -> bytes:
        """The same as bytes."""
        return self._backend.output

    @property
    def backend(self) -> ConsoleBackend:
        """The back end itself, for those who feed it piece by piece."""
        return self._backend

    def on_output(self, listener: Callable[[bytes], None]) -> None:
        """Call `listener` with each piece of output as it comes."""
        self._backend.listeners.append(listener)

    def send(self, text: str | bytes) -> int:
        """Type at the console; returns how many bytes were taken (all, up to 1 MiB ahead)."""
        data = text.encode() if isinstance(text, str) else text
        return self._backend.send(data)

    def expect(self, pattern: str | re.Pattern[str], timeout: float | None = 60.0) -> re.Match[str]:
        r"""Run the machine until the output matches `pattern`, a regular expression.

        The search begins behind the last match.  `timeout` is in seconds of the machine's
        time. Raises TimeoutError, or GuestEnded if the guest ends first; both show the last
        lines of output.

        >>> from xenograft import Machine
        >>> with Machine(clock="virtual") as machine:
        ...     guest = machine.create_pvh(kernel="vmlinuz", cmdline="console=hvc0")
        ...     cpus = guest.console.expect(r"Allowing (\d+) CPUs", timeout=5)
        >>> cpus.group(1)
        '1'
        """
        compiled = re.compile(pattern) if isinstance(pattern, str) else pattern
        found: re.Match[str] | None = None

        def done() -> bool:
            nonlocal found
            if self._backend.end == searched[0]:
                return self._domain.ended
            searched[0] = self._backend.end
            # latin-1 keeps offsets in text and bytes the same.
            text = self._backend.since(self._seen).decode("latin-1")
            found = compiled.search(text)
            if found is not None:
                self._seen = max(self._seen, self._backend.dropped) + found.end()
            return found is not None or self._domain.ended

        searched = [-1]
        self._domain.machine._wait(done, timeout)
        if found is None:
            what = f"its console showed {compiled.pattern!r}"
            if self._domain.ended:
                raise GuestEnded(self._domain, what)
            raise TimeoutError(f"{timeout} s went by before {what}{tail(self)}")
        return found

    def _drain(self) -> None:
        self._backend.drain()

    def _close(self) -> None:
        self._backend.close()

    def restore(self, state: ConsoleState) -> None:
        """Go on with what another life's console had said; `expect` looks for what comes now."""
        self._backend.restore(state)
        self._seen = self._backend.end
        self._backend.resume()
