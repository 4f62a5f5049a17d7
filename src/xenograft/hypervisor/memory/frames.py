# SPDX-License-Identifier: GPL-2.0-or-later
"""The frame table: who owns a frame, who still refers to it, and where it is mapped (m2p).

A frame that belongs to a domain has one reference for being allocated to it (Xen's
PGC_allocated), and one for every use: a grant mapping, a foreign mapping, a registered area.
It's freed when the last of them goes, so that no frame changes hands while anybody can still
reach it, and a domain that was destroyed stays until then.

*Special* frames (shared info, grant and status frames; Xen's is_special_page) are the
hypervisor's own, shared with the domain: they aren't counted in its reservation, and outlive
their place in its physical map.

Facts: xen/arch/x86/include/asm/mm.h (struct page_info), get_page(), put_page(),
put_page_alloc_ref() in xen/arch/x86/mm.c; assign_pages(), domain_set_outstanding_pages() and
free_domheap_pages() in xen/common/page_alloc.c.
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from xenograft.abi.errno import Errno, XenError
from xenograft.engine.protocol import PAGE_SHIFT, AddressSpace, MachineMemory
from xenograft.hypervisor.memory.runs import RunSet

if TYPE_CHECKING:
    from xenograft.engine.pv import PvMemory

INVALID_MFN = (1 << 64) - 1
INVALID_GFN = (1 << 64) - 1

BATCH = 512
"""Frames that are freed at once when a domain's memory is taken away."""


class PagePoolState(msgspec.Struct, frozen=True):
    """What `PagePool.save` keeps: owned frames as (mfn, count) runs, the claim, dying."""

    pages: tuple[tuple[int, int], ...]
    claimed: int
    dying: bool


class PagePool:
    """The frames of one domain, and its right to more.

    `pages` are those counted in its reservation. `max_pages` limits them. `claimed` is what it
    has reserved of the machine's free frames (XENMEM_claim_pages).
    """

    __slots__ = (
        "_counted",
        "_weighted",
        "claimed",
        "domid",
        "dying",
        "max_pages",
        "on_empty",
        "pages",
        "shared",
        "special",
        "view",
    )

    def __init__(self, domid: int, max_pages: int) -> None:
        self.domid = domid
        self.max_pages = max_pages
        self.pages = RunSet()
        self.special: set[int] = set()
        self.shared: RunSet | None = None
        """gfns whose frames were shared with a clone; those written since have frames of their
        own, which are in `pages` once somebody has looked (see `P2m.lookup`)."""
        self.claimed = 0
        self.dying = False
        self.view: AddressSpace | None = None
        """Where the frames show themselves under their own numbers (a PV domain's space)."""
        self.on_empty: Callable[[], None] | None = None
        """Called when a dying domain's last frame has gone."""
        self._counted = 0
        """`tot_pages` as it was last looked at."""
        self._weighted = 0
        """The sum of all changes of `tot_pages`, each times when it came (ns)."""

    def gain(self, mfn: int, count: int, now: int) -> None:
        """Frames join the reservation."""
        self.pages.add(mfn, count)
        self.recount(now)

    def lose(self, mfn: int, count: int, now: int) -> None:
        """Frames leave the reservation, those of them that are in it."""
        self.pages.discard(mfn, count)
        self.recount(now)

    def recount(self, now: int) -> None:
        """To be called whenever `tot_pages` has changed: the account of memory over time."""
        total = self.tot_pages
        self._weighted += (total - self._counted) * now
        self._counted = total

    def page_time(self, now: int) -> int:
        """Frames of the reservation times the time that each was in it until now (ns), exactly."""
        self.recount(now)
        return self._counted * now - self._weighted

    @property
    def tot_pages(self) -> int:
        """Frames counted in the reservation (XENMEM_current_reservation)."""
        return len(self.pages) + (0 if self.shared is None else len(self.shared))

    @property
    def empty(self) -> bool:
        """Whether no frame belongs to the domain any more."""
        return not self.pages and not self.special

    def save(self) -> PagePoolState:
        """The pool as plain data."""
        return PagePoolState(tuple(self.pages.runs()), self.claimed, self.dying)


class FrameTable:
    """All frames of the machine."""

    def __init__(self, memory: MachineMemory, now: Callable[[], int] = lambda: 0) -> None:
        """`now`: the machine's time (ns), for the account of who had how much for how long."""
        self.memory = memory
        self.now = now
        self.pools: dict[int, PagePool] = {}
        self.outstanding_claims = 0
        self.shown: PvMemory | None = None
        """The memory that keeps a copy of the machine-to-physical table for PV guests."""
        self._released: set[int] = set()
        """Frames that lost the reference of their allocation, and are still referred to."""
        # gfn + 1 of each mfn, 0 for none. Anonymous memory: only what is touched is resident.
        self._m2p = memoryview(mmap.mmap(-1, memory.frames * 8)).cast("Q")

    def add_pool(self, domid: int, max_pages: int) -> PagePool:
        """Begin the accounts of a new domain. Raises ValueError if there are some already."""
        if domid in self.pools:
            raise ValueError(f"domain {domid} has frames already")
        pool = self.pools[domid] = PagePool(domid, max_pages)
        return pool

    def drop_pool(self, pool: PagePool) -> None:
        """End the accounts. Raises ValueError while frames are left."""
        if not pool.empty:
            raise ValueError(f"domain {pool.domid} has {pool.tot_pages} frames left")
        self.unclaim(pool)
        del self.pools[pool.domid]

    def restore_pool(self, pool: PagePool, state: PagePoolState) -> None:
        """Take over what `PagePool.save` kept; the frames are there, with their owner."""
        pool.lose(0, self.memory.frames, now := self.now())
        for mfn, count in state.pages:
            pool.gain(mfn, count, now)
        pool.claimed, pool.dying = state.claimed, state.dying
        self.outstanding_claims += state.claimed

    # -- m2p -------------------------------------------------------------------------------
    def valid(self, mfn: int) -> bool:
        """Whether there's such a frame (Xen's mfn_valid)."""
        return 0 <= mfn < self.memory.frames

    def gfn_of(self, mfn: int) -> int:
        """Where the frame's owner has it mapped, or INVALID_GFN."""
        found: int = self._m2p[mfn]
        return found - 1 if found else INVALID_GFN

    def set_gfn(self, mfn: int, gfn: int, count: int = 1) -> None:
        """Note that mfn … is mapped at gfn … (INVALID_GFN: nowhere)."""
        if self.shown is not None:
            self.shown.set_m2p(mfn, gfn, count)
        if gfn == INVALID_GFN:
            self._m2p[mfn : mfn + count] = memoryview(bytes(8 * count)).cast("Q")
        elif count == 1:
            self._m2p[mfn] = gfn + 1
        else:
            self._m2p[mfn : mfn + count] = array("Q", range(gfn + 1, gfn + 1 + count))

    # -- frames of the reservation ------------------------------------------------------------
    def alloc(
        self,
        pool: PagePool,
        count: int = 1,
        contiguous: bool = False,
        bits: int | None = None,
    ) -> list[tuple[int, int]]:
        """Give zeroed frames to a domain: extents (mfn, length).

        `bits`: their addresses are to fit this width. Raises XenError: EINVAL for a dying
        domain, E2BIG beyond max_pages, ENOMEM when the machine has too few that are free, not
        claimed by others, `contiguous` and low enough if asked for.
        """
        if pool.dying:
            raise XenError(Errno.EINVAL)
        if count > pool.max_pages - pool.tot_pages:
            raise XenError(Errno.E2BIG)
        extents = self._take(pool, count, contiguous, bits)
        now = self.now()
        for mfn, length in extents:
            pool.gain(mfn, length, now)
        self._spend_claim(pool, count)
        return extents

    def _take(
        self, pool: PagePool, count: int, contiguous: bool = False, bits: int | None = None
    ) -> list[tuple[int, int]]:
        # Claimed frames are there for a domain whose claim covers the whole request, and for
        # nobody else (Xen's alloc_heap_pages).
        reserved = 0 if pool.claimed >= count else self.outstanding_claims
        if reserved + count > self.memory.free_frames():
            raise XenError(Errno.ENOMEM)
        extents = self.memory.alloc(pool.domid, count)
        limit = self.memory.frames if bits is None else 1 << (bits - PAGE_SHIFT)
        too_high = any(mfn + length > limit for mfn, length in extents)
        if too_high or (contiguous and len(extents) > 1):
            for mfn, length in extents:
                self.memory.free(mfn, length)
            raise XenError(Errno.ENOMEM)
        for mfn, length in extents:
            self._appear(pool, mfn, length)
            if self.shown is not None:
                self.shown.set_m2p(mfn, INVALID_GFN, length)
        return extents

    @staticmethod
    def _appear(pool: PagePool, mfn: int, count: int = 1) -> None:
        if pool.view is not None:
            pool.view.map(mfn, mfn, count)

    @staticmethod
    def _disappear(pool: PagePool | None, mfn: int, count: int = 1) -> None:
        if pool is not None and pool.view is not None:
            pool.view.unmap(mfn, count)

    def steal(self, pool: PagePool, mfn: int) -> None:
        """Take a frame away from a domain that alone refers to it (Xen's steal_page).

        The frame keeps its contents and one reference; it's in nobody's reservation until
        `assign`. Raises XenError(EINVAL) for a frame that isn't the domain's or is in use.
        """
        if mfn not in pool.pages or mfn in self._released or self.memory.refs(mfn) != 1:
            raise XenError(Errno.EINVAL)
        pool.lose(mfn, 1, self.now())
        self._disappear(pool, mfn)

    def assign(self, pool: PagePool, mfn: int) -> None:
        """Give a stolen frame to a domain.

        Raises XenError: EINVAL if the domain is dying, E2BIG if it has no room.
        """
        if pool.dying:
            raise XenError(Errno.EINVAL)
        if pool.tot_pages >= pool.max_pages:
            raise XenError(Errno.E2BIG)
        self.memory.set_owner(mfn, pool.domid)
        pool.gain(mfn, 1, self.now())
        self._appear(pool, mfn)
        self._spend_claim(pool, 1)

    def free_stolen(self, mfn: int) -> None:
        """Give a stolen frame back to the machine."""
        self.set_gfn(mfn, INVALID_GFN)
        self.memory.free(mfn)

    # -- references ------------------------------------------------------------------------------
    def get_page(self, mfn: int, domid: int) -> bool:
        """Add a reference if the frame is in use and belongs to domid (Xen's get_page)."""
        if not self.valid(mfn) or self.memory.owner(mfn) != domid or not self.memory.refs(mfn):
            return False
        pool = self.pools.get(domid)
        if pool is None or (mfn not in pool.pages and not self._live_special(pool, mfn)):
            return False
        self.memory.get_ref(mfn)
        return True

    def _live_special(self, pool: PagePool, mfn: int) -> bool:
        return mfn in pool.special and mfn not in self._released

    def owner_and_reference(self, mfn: int) -> int | None:
        """Add a reference, whoever owns the frame; the owner's domid, or None if it's free.

        Xen's page_get_owner_and_reference().
        """
        if not self.valid(mfn) or not self.memory.refs(mfn):
            return None
        owner = self.memory.owner(mfn)
        return owner if self.get_page(mfn, owner) else None

    def put_page(self, mfn: int) -> None:
        """Drop a reference; the last one frees the frame."""
        owner = self.memory.owner(mfn)
        if self.memory.refs(mfn) == 1:
            self.set_gfn(mfn, INVALID_GFN)
            self._released.discard(mfn)
            self._disappear(self.pools.get(owner), mfn)
        if self.memory.put_ref(mfn) == 0:
            self._forget(owner, mfn)

    def _forget(self, owner: int, mfn: int) -> None:
        pool = self.pools.get(owner)
        if pool is None:
            return
        pool.lose(mfn, 1, self.now())
        pool.special.discard(mfn)
        self._check_empty(pool)

    @staticmethod
    def _check_empty(pool: PagePool) -> None:
        if pool.dying and pool.empty and pool.on_empty is not None:
            pool.on_empty()

    def show(self, memory: PvMemory) -> None:
        """From now on keep a copy of the machine-to-physical table for PV guests.

        Frames of translated domains have their names from when they are next mapped: no PV
        guest has a use for them.
        """
        self.shown = memory
        for pool in self.pools.values():
            for mfn in pool.special:
                memory.set_m2p(mfn, INVALID_GFN, 1)

    def settle(self) -> None:
        """Free the frames whose last reference a PV guest's page tables have dropped."""
        if self.shown is not None:
            for mfn in self.shown.take_zombies():
                self.put_page(mfn)

    def put_alloc_ref(self, mfn: int) -> None:
        """Drop the reference of the allocation, once (Xen's put_page_alloc_ref)."""
        if mfn in self._released:
            return
        self._released.add(mfn)
        if not self.is_special(mfn):
            self.put_page(mfn)

    def get_writable(self, mfn: int) -> bool:
        """Count a writable use of the frame (PGT_writable_page).

        False for a frame that is something else, a PV guest's page table say: see Xen's
        get_page_type().
        """
        return self.memory.get_writable(mfn)

    def put_writable(self, mfn: int) -> None:
        """End a writable use."""
        self.memory.put_writable(mfn)

    # -- special frames ------------------------------------------------------------------------
    def alloc_special(self, pool: PagePool) -> int:
        """A zeroed frame of the hypervisor's, shared with the domain. Raises XenError(ENOMEM)."""
        ((mfn, _),) = self._take(pool, 1)
        pool.special.add(mfn)
        # For ever something to write to: a PV guest can't make a page table of it.
        self.memory.get_writable(mfn)
        return mfn

    def is_special(self, mfn: int) -> bool:
        """Whether the frame is the hypervisor's own (Xen's is_special_page)."""
        pool = self.pools.get(self.memory.owner(mfn))
        return pool is not None and mfn in pool.special

    def special_busy(self, mfn: int) -> bool:
        """Whether somebody besides the hypervisor refers to a special frame."""
        return self.memory.refs(mfn) != 1

    def free_special(self, mfn: int) -> None:
        """Drop the hypervisor's reference to a special frame."""
        self._released.add(mfn)
        self.put_page(mfn)

    # -- the end of a domain ---------------------------------------------------------------------
    def relinquish(self, pool: PagePool, budget: int) -> bool:
        """Drop the allocation of a dying domain's frames, `budget` of them at most.

        True when none is left to drop; those that others still refer to stay until then.
        """
        pool.dying = True
        for start, length in pool.pages.runs():
            end = start + length
            while start < end:
                if not budget:
                    return False
                count = min(end - start, budget, BATCH)
                if self._unused(start, count):
                    self._free_run(pool, start, count)
                else:
                    for mfn in range(start, start + count):
                        self.put_alloc_ref(mfn)
                start += count
                budget -= count
        return True

    def _unused(self, mfn: int, count: int) -> bool:
        refs = self.memory.refs
        return all(refs(i) == 1 and i not in self._released for i in range(mfn, mfn + count))

    def _free_run(self, pool: PagePool, mfn: int, count: int) -> None:
        """Free frames that nobody refers to any more, all at once."""
        self.set_gfn(mfn, INVALID_GFN, count)
        self._disappear(pool, mfn, count)
        self.memory.free(mfn, count)
        pool.lose(mfn, count, self.now())
        self._check_empty(pool)

    # -- claims --------------------------------------------------------------------------------
    def claim(self, pool: PagePool, pages: int) -> None:
        """Stake a claim to a reservation of `pages` in all; 0 withdraws it.

        Raises XenError: EINVAL for a second claim, or one that isn't above what the domain has
        and within max_pages; ENOMEM if the machine can't keep it.
        """
        if pages == 0:
            self.unclaim(pool)
            return
        if pool.claimed or pages <= pool.tot_pages or pages > pool.max_pages:
            raise XenError(Errno.EINVAL)
        wanted = pages - pool.tot_pages
        if wanted > self.memory.free_frames() - self.outstanding_claims:
            raise XenError(Errno.ENOMEM)
        pool.claimed = wanted
        self.outstanding_claims += wanted

    def unclaim(self, pool: PagePool) -> None:
        """Withdraw the claim."""
        self.outstanding_claims -= pool.claimed
        pool.claimed = 0

    def _spend_claim(self, pool: PagePool, count: int) -> None:
        spent = min(pool.claimed, count)
        pool.claimed -= spent
        self.outstanding_claims -= spent
