# SPDX-License-Identifier: GPL-2.0-or-later
"""What each domain has used, for ever: CPU time, memory over time, and what back ends count.

CPU time is exact: that of all domains, of those that are gone and of idleness add up to the time
that has passed, times the physical CPUs.  A domain is known by its UUID, so that what it has
used outlives its domid, a reboot included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.hypervisor import Hypervisor


class Usage(msgspec.Struct, frozen=True):
    """What was used since the machine's start."""

    name: str
    uuid: bytes
    cpu_ns: int = 0
    page_ns: int = 0
    """4 KiB pages times ns, as they were when it was last looked at."""
    counters: dict[str, int] = {}
    """Of back ends, by name: `disk` and `net` in bytes."""

    def plus(self, cpu_ns: int, page_ns: int, counters: dict[str, int]) -> Usage:
        """With more used."""
        names = sorted({*self.counters, *counters})
        return Usage(
            self.name,
            self.uuid,
            self.cpu_ns + cpu_ns,
            self.page_ns + page_ns,
            {name: self.counters.get(name, 0) + counters.get(name, 0) for name in names},
        )


class Reading(msgspec.Struct, frozen=True):
    """All that was used until `time` (ns)."""

    time: int
    elapsed_ns: int
    """The time that has passed on all physical CPUs together."""
    idle_ns: int
    domains: tuple[Usage, ...]

    @property
    def unaccounted_ns(self) -> int:
        """0, or something is wrong."""
        return self.elapsed_ns - self.idle_ns - sum(one.cpu_ns for one in self.domains)


class _Live:
    __slots__ = ("counters", "page_ns", "since")

    def __init__(self, now: int) -> None:
        self.since = now
        self.page_ns = 0
        self.counters: dict[str, int] = {}


class Meter:
    """Keeps the account of one machine."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self._gone: dict[bytes, Usage] = {}
        self._live: dict[int, _Live] = {}
        self._start = hypervisor.clock.now()
        self.sources: dict[str, Callable[[int], int]] = {}
        """What back ends have counted for a domid since they were made, by name."""

    def sample(self, domain: Domain) -> None:
        """Look at a domain now; to be called before its devices go."""
        now = self._hypervisor.clock.now()
        live = self._live.setdefault(domain.domid, _Live(now))
        if not domain.dying:
            live.page_ns += domain.pool.tot_pages * (now - live.since)
        live.since = now
        for name, count in self.sources.items():
            live.counters[name] = max(live.counters.get(name, 0), count(domain.domid))

    def begin(self, domain: Domain) -> None:
        """A domain was made."""
        self._live[domain.domid] = _Live(self._hypervisor.clock.now())

    def retire(self, domain: Domain) -> None:
        """A domain is off all CPUs, for ever: what it has used stays in the account."""
        live = self._live.pop(domain.domid, None)
        if live is not None:
            self._gone[domain.uuid] = self._known(domain).plus(
                domain.sched.run_ns, live.page_ns, live.counters
            )

    def _known(self, domain: Domain) -> Usage:
        before = self._gone.get(domain.uuid)
        return before or Usage(domain.name, domain.uuid)

    def read(self) -> Reading:
        """The account of now, domains by name."""
        hypervisor = self._hypervisor
        core = hypervisor.sched
        usage = dict(self._gone)
        for domid in sorted(self._live):
            domain = hypervisor.domains[domid]
            self.sample(domain)
            live = self._live[domid]
            known = usage.get(domain.uuid) or Usage(domain.name, domain.uuid)
            usage[domain.uuid] = known.plus(
                sum(core.run_ns(unit, self._time(unit.cpu)) for unit in domain.sched.units),
                live.page_ns,
                live.counters,
            )
        cpus = range(core.topology.cpus)
        return Reading(
            hypervisor.clock.now(),
            sum(self._time(cpu) - self._start for cpu in cpus),
            sum(core.total_idle_ns(cpu, self._time(cpu)) for cpu in cpus),
            tuple(sorted(usage.values(), key=lambda one: (one.name, one.uuid))),
        )

    def _time(self, cpu: int) -> int:
        """Where a physical CPU is on the time line: it may be ahead of the clock."""
        return max(self._hypervisor.clock.now(), self._hypervisor.sched.since[cpu])
