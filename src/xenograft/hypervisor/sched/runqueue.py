# SPDX-License-Identifier: GPL-2.0-or-later
"""A queue of waiting units, ordered by a key, that answers for each CPU who is first there.

One heap for each hard affinity that is in use: a CPU looks at the heads of those that allow it.
Units leave in any order; what they leave behind in a heap is thrown away when it gets to the
top, or when it makes up the most of the heap.  All operations take O(log n) amortized, times the
number of different affinities.
"""

from __future__ import annotations

import heapq

from xenograft.hypervisor.sched.cpumask import CpuMask
from xenograft.hypervisor.sched.unit import SchedUnit


class Queued:
    """Base of the records of units that can wait in a `RunQueue`."""

    __slots__ = ("ticket", "unit")

    def __init__(self, unit: SchedUnit) -> None:
        self.unit = unit
        self.ticket = 0
        """What its valid entry in a queue is marked with; 0 while it waits in none."""


Entry = tuple[int, int, Queued]
"""(key, ticket, record): the lowest key is first, then who came first."""


class RunQueue:
    """Waiting units of a pool, or of some of its CPUs."""

    __slots__ = ("_by_cpu", "_heaps", "_next", "cpus", "waiting")

    def __init__(self, cpus: CpuMask = 0) -> None:
        self.cpus = cpus
        self._heaps: dict[CpuMask, list[Entry]] = {}
        self._by_cpu: dict[int, list[list[Entry]]] = {}
        self._next = 1
        self.waiting = 0
        """How many wait."""

    def set_cpus(self, cpus: CpuMask) -> None:
        """Change which CPUs it serves."""
        entries = sorted(
            entry for heap in self._heaps.values() for entry in heap if entry[1] == entry[2].ticket
        )
        self.cpus = cpus
        self._heaps.clear()
        self._by_cpu.clear()
        for entry in entries:
            heapq.heappush(self._heap(entry[2]), entry)

    def _heap(self, record: Queued) -> list[Entry]:
        mask = record.unit.hard & self.cpus
        heap = self._heaps.get(mask)
        if heap is None:
            heap = self._heaps[mask] = []
            self._by_cpu.clear()
        return heap

    def push(self, record: Queued, key: int) -> None:
        """A unit begins to wait. Its hard affinity must not change before it leaves."""
        mask = record.unit.hard & self.cpus
        heap = self._heaps.get(mask)
        if heap is None:
            heap = self._heap(record)
        ticket = record.ticket = self._next
        self._next = ticket + 1
        self.waiting += 1
        heapq.heappush(heap, (key, ticket, record))
        if len(heap) > 64 and len(heap) > 3 * self.waiting:
            heap[:] = [entry for entry in heap if entry[1] == entry[2].ticket]
            heapq.heapify(heap)

    def remove(self, record: Queued) -> None:
        """A unit that waits leaves."""
        record.ticket = 0
        self.waiting -= 1

    def best(self, cpu: int) -> Entry | None:
        """The first of those that may run on `cpu`; it stays."""
        heaps = self._by_cpu.get(cpu)
        if heaps is None:
            heaps = [heap for mask, heap in self._heaps.items() if mask >> cpu & 1]
            self._by_cpu[cpu] = heaps
        found: Entry | None = None
        for heap in heaps:
            while heap and heap[0][1] != heap[0][2].ticket:
                heapq.heappop(heap)
            if heap and (found is None or heap[0] < found):
                found = heap[0]
        return found

    def records(self) -> list[Queued]:
        """All that wait, in order."""
        return [
            entry[2]
            for entry in sorted(
                entry
                for heap in self._heaps.values()
                for entry in heap
                if entry[1] == entry[2].ticket
            )
        ]
