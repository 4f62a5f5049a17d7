# SPDX-License-Identifier: GPL-2.0-or-later
"""What each domain has used, for ever: CPU time, memory over time, and what back ends count.

All of it is exact.  CPU time: that of all domains, of those that are gone and of idleness add up
to the time that has passed, times the physical CPUs.  Memory: each frame of the reservation
counts from when it came to when it went, by a balloon say.  A domain is known by its UUID, so
that what it has used outlives its domid, a reboot included.
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
    """4 KiB pages times ns."""
    counters: dict[str, int] = {}
    """Of back ends, by name: `disk` and `net` in bytes."""

    def __add__(self, other: Usage) -> Usage:
        """With what another has used, who gives the name."""
        names = sorted({*self.counters, *other.counters})
        return Usage(
            other.name,
            other.uuid,
            self.cpu_ns + other.cpu_ns,
            self.page_ns + other.page_ns,
            {name: self.counters.get(name, 0) + other.counters.get(name, 0) for name in names},
        )

    def __sub__(self, other: Usage) -> Usage:
        """What was used since another reading of the same account."""
        counters = {
            name: count - other.counters.get(name, 0) for name, count in self.counters.items()
        }
        return Usage(
            self.name,
            self.uuid,
            self.cpu_ns - other.cpu_ns,
            self.page_ns - other.page_ns,
            counters,
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


class Meter:
    """Keeps the account of one machine."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self._closed: dict[bytes, Usage] = {}
        """What was used by domains that are gone, and by what was told to `settle`."""
        self._uuids: dict[int, bytes] = {}
        """The account of each domid, of domains that are gone too."""
        self._settled: dict[int, Usage] = {}
        """Of live domains: what of their use is in a closed account."""
        self._deposits: dict[int, dict[str, int]] = {}
        """Of live domains: what devices that are gone have counted."""
        self._start = hypervisor.clock.now()
        self.sources: dict[str, Callable[[int], int]] = {}
        """What the back ends of a domid's devices have counted, by name."""

    def begin(self, domain: Domain) -> None:
        """A domain was made."""
        self._deposits[domain.domid] = {}
        self._uuids.pop(domain.domid, None)

    def deposit(self, domid: int, name: str, count: int) -> None:
        """A device goes, and its source doesn't count it any more."""
        mine = self._deposits.get(domid)
        if mine is not None:
            mine[name] = mine.get(name, 0) + count
        elif (uuid := self._uuids.get(domid)) is not None:
            # It was busy for longer than its domain lived.
            known = self._closed[uuid]
            self._closed[uuid] = known + Usage(known.name, uuid, counters={name: count})

    def retire(self, domain: Domain) -> None:
        """A domain is off all CPUs, for ever: what it has used stays in the account."""
        if domain.domid in self._deposits:
            self.settle(domain)
            del self._deposits[domain.domid], self._settled[domain.domid]
            self._uuids[domain.domid] = domain.uuid

    def settle(self, domain: Domain) -> None:
        """Leave what it has used so far in the account of its UUID, which it may change now."""
        used = self._used(domain, self._hypervisor.clock.now())
        before = self._settled.get(domain.domid)
        self._close(used if before is None else used - before)
        self._settled[domain.domid] = used

    def _close(self, usage: Usage) -> None:
        known = self._closed.get(usage.uuid)
        self._closed[usage.uuid] = usage if known is None else known + usage

    def _used(self, domain: Domain, now: int) -> Usage:
        """What a live domain has used from when it was made until now."""
        core, counters = self._hypervisor.sched, dict(self._deposits[domain.domid])
        for name, count in self.sources.items():
            counters[name] = counters.get(name, 0) + count(domain.domid)
        return Usage(
            domain.name,
            domain.uuid,
            # Of a domain that goes no unit is left, and all of its time is in run_ns.
            sum(core.run_ns(unit, self._time(unit.cpu, now)) for unit in domain.sched.units)
            if domain.sched.units
            else domain.sched.run_ns,
            domain.pool.page_time(now),
            counters,
        )

    def read(self) -> Reading:
        """The account of now, domains by name."""
        hypervisor = self._hypervisor
        core = hypervisor.sched
        # Once: a real clock goes on meanwhile.
        now = hypervisor.clock.now()
        usage = dict(self._closed)
        for domid in sorted(self._deposits):
            used = self._used(hypervisor.domains[domid], now)
            if domid in self._settled:
                used -= self._settled[domid]
            known = usage.get(used.uuid)
            usage[used.uuid] = used if known is None else known + used
        cpus = range(core.topology.cpus)
        return Reading(
            now,
            sum(self._time(cpu, now) - self._start for cpu in cpus),
            sum(core.total_idle_ns(cpu, self._time(cpu, now)) for cpu in cpus),
            tuple(sorted(usage.values(), key=lambda one: (one.name, one.uuid))),
        )

    def _time(self, cpu: int, now: int) -> int:
        """Where a physical CPU is on the time line: it may be ahead of the clock."""
        return max(now, self._hypervisor.sched.since[cpu])
