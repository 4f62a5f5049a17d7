# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain's watchdogs: if one isn't renewed in time, the domain is shut down.

Facts: SCHEDOP_watchdog in public/sched.h; Xen's domain_watchdog() (two timers a domain).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.sched import SHUTDOWN_watchdog

if TYPE_CHECKING:
    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.timers import Timer

NR_DOMAIN_WATCHDOG_TIMERS = 2


class Watchdogs:
    """The two watchdogs of one domain, numbered 1 and 2."""

    __slots__ = ("_domain", "_timers")

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._timers: dict[int, Timer] = {}

    def set(self, ident: int, timeout: int) -> int:
        """Start a free one (ident 0; returns its number), renew one, or stop it (timeout 0).

        `timeout` is in seconds. Raises XenError: EINVAL for a number that isn't in use, ENOSPC
        when both are.
        """
        if ident > NR_DOMAIN_WATCHDOG_TIMERS:
            raise XenError(Errno.EINVAL)
        timers = self._domain.hypervisor.timers
        if ident == 0:
            for free in range(1, NR_DOMAIN_WATCHDOG_TIMERS + 1):
                if free not in self._timers:
                    self._start(free, timeout)
                    return free
            raise XenError(Errno.ENOSPC)
        if ident not in self._timers:
            raise XenError(Errno.EINVAL)
        timers.cancel(self._timers.pop(ident))
        if timeout:
            self._start(ident, timeout)
        return 0

    def _start(self, ident: int, timeout: int) -> None:
        hypervisor = self._domain.hypervisor
        deadline = hypervisor.clock.now() + timeout * 1_000_000_000
        self._timers[ident] = hypervisor.timers.add(deadline, self._bite)

    def _bite(self) -> None:
        domain = self._domain
        if not domain.is_shutting_down:
            domain.log.message(f"Watchdog timer fired for domain {domain.domid}")
            domain.shutdown(SHUTDOWN_watchdog)

    def stop(self) -> None:
        """Stop them all (the domain is being destroyed)."""
        for timer in self._timers.values():
            self._domain.hypervisor.timers.cancel(timer)
        self._timers.clear()

    def save(self) -> tuple[tuple[int, int], ...]:
        """(number, deadline in ns) of those in use."""
        return tuple((ident, timer.deadline) for ident, timer in sorted(self._timers.items()))

    def restore(self, record: tuple[tuple[int, int], ...]) -> None:
        """Start the saved ones again."""
        self.stop()
        timers = self._domain.hypervisor.timers
        for ident, deadline in record:
            self._timers[ident] = timers.add(deadline, self._bite)
