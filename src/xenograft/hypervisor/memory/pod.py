# SPDX-License-Identifier: GPL-2.0-or-later
"""Populate on demand: a guest that may grow starts with less memory than its map shows.

Each gfn of such a guest is an *entry* until it's touched; then a frame of the *cache* comes
there.  The cache is part of the domain's reservation, so that the domain never has more than its
target.  There are more entries than frames until its balloon driver has given up the difference.
When the cache is empty and an entry is touched, pages that hold nothing but zeroes become
entries again; if there are none, the domain crashes.

Facts: xen/arch/x86/mm/p2m-pod.c of Xen 4.17 (p2m_pod_set_mem_target, p2m_pod_demand_populate,
p2m_pod_decrease_reservation, p2m_pod_emergency_sweep, guest_physmap_mark_populate_on_demand).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.engine.protocol import PAGE_SHIFT, PAGE_SIZE
from xenograft.hypervisor.memory.frames import INVALID_GFN
from xenograft.hypervisor.memory.p2m_types import RAM_TYPES, P2mType
from xenograft.hypervisor.memory.runs import RunSet

if TYPE_CHECKING:
    from xenograft.hypervisor.memory.p2m import P2m

BATCH = 16
"""Pages that come at once: touching all memory page by page would cost an exit for each."""

SWEEP_LIMIT = 1024
"""Pages that are looked at before the guest is given up or goes on (POD_SWEEP_LIMIT)."""

_ZERO_PAGE = bytes(PAGE_SIZE)


class PopulateOnDemand:
    """What a physical map keeps of it.

    `entries`: gfns without a frame that get one when they're touched. `cache`: frames of the
    domain's that are mapped nowhere, and zero.
    """

    __slots__ = ("_p2m", "_swept", "cache", "entries")

    def __init__(self, p2m: P2m) -> None:
        self._p2m = p2m
        self._swept = 0
        self.entries = RunSet()
        self.cache = RunSet()

    def mark(self, gfn: int, count: int) -> None:
        """Make holes entries.  Raises XenError: EINVAL out of range, EBUSY where there's a frame.

        What is an entry already stays one.
        """
        p2m = self._p2m
        if gfn < 0 or gfn + count > p2m.gfn_limit:
            raise XenError(Errno.EINVAL)
        if gfn <= p2m.max_mapped and any(
            p2m.lookup(one)[1] not in (P2mType.mmio_dm, P2mType.populate_on_demand)
            for one in range(gfn, gfn + count)
        ):
            raise XenError(Errno.EBUSY)
        self.entries.add(gfn, count)
        p2m.max_mapped = max(p2m.max_mapped, gfn + count - 1)

    # -- the cache ---------------------------------------------------------------------------
    def set_target(self, pages: int) -> None:
        """Let the domain have `pages` in all, as far as there are entries for them.

        A target below what it has changes nothing: the balloon driver gives back what is too
        much.  Raises XenError: E2BIG, ENOMEM (see `FrameTable.alloc`).
        """
        pool = self._p2m.pool
        if not self.entries or pool.dying or pages < pool.tot_pages:
            return
        populated = pool.tot_pages - len(self.cache)
        wanted = pages - populated
        if populated > 0:
            wanted = min(wanted, len(self.entries))
        self._resize(wanted)

    def _resize(self, wanted: int) -> None:
        frames = self._p2m.frames
        if wanted > len(self.cache):
            for mfn, length in frames.alloc(self._p2m.pool, wanted - len(self.cache)):
                self.cache.add(mfn, length)
        while len(self.cache) > wanted and (run := self.cache.first_run()) is not None:
            mfn, length = run
            count = min(length, len(self.cache) - wanted)
            self.cache.discard(mfn, count)
            for one in range(mfn, mfn + count):
                frames.put_alloc_ref(one)

    # -- entries -----------------------------------------------------------------------------
    def demand(self, gfn: int) -> bool:
        """An entry was touched: put a frame there, and in some entries around it.

        False if there's no frame left; then the domain has crashed.
        """
        p2m = self._p2m
        run = self.entries.run_of(gfn)
        assert run is not None  # the caller has asked whether it's an entry
        if not self.cache:
            self._sweep()
        cached = self.cache.first_run()
        if cached is None:
            p2m.crash(
                f"out of populate-on-demand memory: tot={p2m.pool.tot_pages}"
                f" entries={len(self.entries)}; its balloon driver didn't give back enough"
            )
            return False
        first = max(run[0], gfn - gfn % BATCH)
        last = min(run[0] + run[1], gfn - gfn % BATCH + BATCH)
        count = min(last - first, cached[1])
        start = min(gfn, last - count)
        self.cache.discard(cached[0], count)
        p2m.add_page(start, cached[0], count, fresh=True)
        return True

    def give_up(self, gfn: int) -> None:
        """The guest gives an entry back: it needs no frame any more."""
        self.entries.discard(gfn)
        if len(self.cache) > len(self.entries):
            self._resize(len(self.entries))

    def keep(self, mfn: int) -> bool:
        """Take over a frame that the guest gives back, if there are entries that want it.

        The frame is unmapped, and nobody but the caller has a reference to it beside that of
        its allocation.
        """
        frames = self._p2m.frames
        if len(self.entries) <= len(self.cache) or frames.memory.refs(mfn) != 2:
            return False
        frames.memory.write(mfn << PAGE_SHIFT, _ZERO_PAGE)
        self.cache.add(mfn)
        return True

    def _sweep(self) -> None:
        """Make entries again of pages that are all zero, from the last place on."""
        p2m = self._p2m
        frames, memory = p2m.frames, p2m.frames.memory
        budget = p2m.max_mapped + 1
        while budget > 0 and not self.cache:
            for _ in range(min(SWEEP_LIMIT, budget)):
                gfn, self._swept = self._swept, (self._swept + 1) % (p2m.max_mapped + 1)
                if p2m.pool.shared is not None and gfn in p2m.pool.shared:
                    continue  # its frame can't be had by looking
                mfn, kind = p2m.lookup(gfn)
                if (
                    kind in RAM_TYPES
                    and memory.owner(mfn) == p2m.pool.domid
                    and memory.refs(mfn) == 1
                    and not frames.is_special(mfn)
                    and memory.read(mfn << PAGE_SHIFT, PAGE_SIZE) == _ZERO_PAGE
                ):
                    p2m.space.unmap(gfn)
                    frames.set_gfn(mfn, INVALID_GFN)
                    self.entries.add(gfn)
                    self.cache.add(mfn)
            budget -= SWEEP_LIMIT
