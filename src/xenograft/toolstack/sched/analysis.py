# SPDX-License-Identifier: GPL-2.0-or-later
"""Will all deadlines be met?  Schedulability tests for RTDS reservations and ARINC 653 tables.

A reservation of C in each period T is a task with a deadline at the period's end; RTDS runs
earliest deadline first.  u = C / T.  All arithmetic is exact.

- **LL73**, one CPU: the sum of u is at most 1.  C. L. Liu, J. W. Layland: Scheduling Algorithms
  for Multiprogramming in a Hard-Real-Time Environment. Journal of the ACM 20(1), 1973.
- **GFB03**, m CPUs: sum of u <= m - (m - 1) max u.  J. Goossens, S. Funk, S. Baruah:
  Priority-Driven Scheduling of Periodic Task Systems on Multiprocessors. Real-Time Systems 25,
  2003.
- **BCL05**, m CPUs: for each task, the interference of others in its period leaves it time.
  M. Bertogna, M. Cirinei, G. Lipari: Improved Schedulability Analysis of EDF on Multiprocessor
  Platforms. ECRTS 2005, theorem 7.
- **FFD**, partitioned: vCPUs are put on CPUs, the largest u first, each on the first where LL73
  still holds.  J. M. Lopez, J. L. Diaz, D. F. Garcia: Utilization Bounds for EDF Scheduling on
  Real-Time Multiprocessor Systems. Real-Time Systems 28, 2004.

LL73, GFB03 and FFD promise its budget to each vCPU that has work when its period begins, if all
others have as well (or have none in that period).  RTDS's budgets are deferrable: a vCPU that
wakes late in its period may use all of its budget then, which these tests don't know of.  BCL05
bounds what others can use by what fits into their periods, wherever in them it's used, so that
it holds for any pattern of wake-ups; the promise is to the vCPU that has work from the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import msgspec

from xenograft.hypervisor.sched.cpumask import CpuMask, cpus_in
from xenograft.toolstack.sched.arinc653 import Span


class Reservation(msgspec.Struct, frozen=True):
    """Budget and period (ns) of a vCPU, and where it may run."""

    name: str
    budget: int
    period: int
    cpus: CpuMask

    @property
    def utilization(self) -> Fraction:
        return Fraction(self.budget, self.period)


class Verdict(msgspec.Struct, frozen=True):
    """What one test says: True accepted, False not, None: it doesn't apply."""

    test: str
    accepts: bool | None
    detail: str


def total_utilization(tasks: Sequence[Reservation]) -> Fraction:
    """The sum of budgets over periods."""
    return sum((task.utilization for task in tasks), Fraction(0))


def liu_layland(tasks: Sequence[Reservation]) -> bool:
    """LL73: one CPU."""
    return total_utilization(tasks) <= 1


def goossens_funk_baruah(tasks: Sequence[Reservation], cpus: int) -> bool:
    """GFB03: `cpus` CPUs, each of which each task may use."""
    if not tasks:
        return True
    largest = max(task.utilization for task in tasks)
    return largest <= 1 and total_utilization(tasks) <= cpus - (cpus - 1) * largest


def bertogna_cirinei_lipari(tasks: Sequence[Reservation], cpus: int) -> list[Reservation]:
    """BCL05: the tasks that may miss a deadline, as far as this test can tell (none: accepted)."""
    return [task for task in tasks if not _bcl_holds(task, tasks, cpus)]


def _bcl_holds(task: Reservation, tasks: Sequence[Reservation], cpus: int) -> bool:
    slack = 1 - task.utilization
    if slack < 0:
        return False
    length = task.period
    interference = Fraction(0)
    bounded = False
    for other in tasks:
        if other is task:
            continue
        # Whole periods of the other fit into this one's, and a part of one more.
        whole, rest = divmod(length, other.period)
        load = Fraction(whole * other.budget + min(other.budget, rest), length)
        interference += min(load, slack)
        bounded = bounded or 0 < load <= slack
    if interference < cpus * slack:
        return True
    return interference == cpus * slack and (bounded or (cpus == 1 and interference == 0))


def first_fit_decreasing(
    tasks: Sequence[Reservation], cpus: CpuMask
) -> dict[int, list[Reservation]] | None:
    """FFD: who runs on which CPU, or None if some task fits nowhere."""
    placed: dict[int, list[Reservation]] = {cpu: [] for cpu in cpus_in(cpus)}
    room = dict.fromkeys(placed, Fraction(1))
    for task in sorted(tasks, key=lambda one: (-one.utilization, one.name)):
        for cpu in placed:
            if task.cpus >> cpu & 1 and task.utilization <= room[cpu]:
                placed[cpu].append(task)
                room[cpu] -= task.utilization
                break
        else:
            return None
    return placed


class PoolReport(msgspec.Struct, frozen=True):
    """What is known of an RTDS pool. `schedulable` None: no test decides."""

    utilization: Fraction
    cpus: int
    schedulable: bool | None
    verdicts: tuple[Verdict, ...]
    placement: dict[int, list[Reservation]] | None
    """A partition that would do, if there is one."""


def analyze_rtds(tasks: Sequence[Reservation], cpus: CpuMask) -> PoolReport:
    """All tests, for the vCPUs of a pool on its CPUs."""
    count = cpus.bit_count()
    used = total_utilization(tasks)
    verdicts: list[Verdict] = []
    pinned = all((task.cpus & cpus).bit_count() == 1 for task in tasks)
    everywhere = all(task.cpus & cpus == cpus for task in tasks)
    overloaded = used > count or any(task.utilization > 1 for task in tasks)
    accepted = False
    if count == 1 or pinned:
        overfull = [
            cpu
            for cpu in cpus_in(cpus)
            if not liu_layland([task for task in tasks if task.cpus >> cpu & 1])
        ]
        accepted = not overfull
        overloaded = overloaded or bool(overfull)
        detail = "the sum of utilizations is at most 1 on each CPU"
        if overfull:
            detail = f"CPU {overfull[0]} is overloaded"
        verdicts.append(Verdict("LL73 (EDF on each CPU)", accepted, detail))
    if count > 1:
        if everywhere:
            largest = max((task.utilization for task in tasks), default=Fraction(0))
            bound = count - (count - 1) * largest
            fits = goossens_funk_baruah(tasks, count)
            verdicts.append(
                Verdict("GFB03 (global EDF)", fits, f"{_f(used)} of at most {_f(bound)}")
            )
            late = bertogna_cirinei_lipari(tasks, count)
            names = ", ".join(task.name for task in late[:4])
            detail = f"not guaranteed: {names}" if late else "each has time left in its period"
            verdicts.append(Verdict("BCL05 (global EDF, any wake-ups)", not late, detail))
            accepted = accepted or fits or not late
        elif not pinned:
            detail = "affinities differ: tests of global EDF don't apply"
            verdicts.append(Verdict("GFB03 and BCL05 (global EDF)", None, detail))
    placement = first_fit_decreasing(tasks, cpus)
    if count > 1 and not pinned:
        verdicts.append(
            Verdict(
                "FFD (partitioned EDF)",
                placement is not None,
                "would do if pinned so" if placement is not None else "found no partition",
            )
        )
    decided = True if accepted else False if overloaded else None
    return PoolReport(used, count, decided, tuple(verdicts), placement)


def _f(value: Fraction) -> str:
    return f"{float(value):.3f}"


# -- ARINC 653 -------------------------------------------------------------------------------------
class PartitionReport(msgspec.Struct, frozen=True):
    """What a table gives a vCPU (times in ns)."""

    domain: str
    vcpu: int
    windows: int
    served: int
    """Time in each major frame."""
    share: Fraction
    longest_wait: int
    """The longest time from a request until its window: its latency at worst."""
    shortest_window: int


def analyze_arinc653(major: int, windows: Sequence[Span]) -> list[PartitionReport]:
    """Latency and coverage of each vCPU that has a window."""
    found: dict[tuple[str, int], list[Span]] = {}
    for window in windows:
        if window.domain is not None:
            found.setdefault((window.domain, window.vcpu), []).append(window)
    reports: list[PartitionReport] = []
    for (domain, vcpu), own in sorted(found.items()):
        ends = [window.start + window.length for window in own]
        starts = [window.start for window in own[1:]] + [own[0].start + major]
        waits = [start - end for end, start in zip(ends, starts, strict=True)]
        served = sum(window.length for window in own)
        reports.append(
            PartitionReport(
                domain,
                vcpu,
                len(own),
                served,
                Fraction(served, major),
                max(waits),
                min(window.length for window in own),
            )
        )
    return reports


def least_supply(major: int, windows: Sequence[Span], who: tuple[str, int], length: int) -> int:
    """The least time that a vCPU gets in any interval of `length` ns, wherever it begins."""
    own = [(w.start, w.start + w.length) for w in windows if (w.domain, w.vcpu) == who]

    def until(time: int) -> int:
        frames, rest = divmod(time, major)
        total = frames * sum(end - start for start, end in own)
        return total + sum(min(max(rest - start, 0), end - start) for start, end in own)

    # The worst interval begins where a window ends (or ends where one begins).
    begins = [end for _, end in own] + [(start - length) % major for start, _ in own]
    return min((until(begin + length) - until(begin) for begin in begins), default=0)
