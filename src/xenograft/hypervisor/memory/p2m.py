# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain's physical map: which frame, of which type, stands behind each gfn.

The engine's `AddressSpace` holds frames and permissions; this part knows what they mean, keeps
the machine-to-physical table in step, and takes and drops references.  RAM is the rule, so only
entries of another type are listed one by one.

A PV domain isn't translated: its frame numbers are the machine's own, and only m2p is kept.

Facts: xen/arch/x86/mm/p2m.c (p2m_add_page, p2m_remove_entry, set_typed_p2m_entry,
p2m_get_page_from_gfn), xen/arch/x86/mm/physmap.c, guest_remove_page() in xen/common/memory.c,
hvm_hap_nested_page_fault() in xen/arch/x86/hvm/hvm.c.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

import msgspec

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.xen import DOMID_COW
from xenograft.engine.protocol import P2M_COW, P2M_WRITE, AddressSpace
from xenograft.hypervisor.memory.frames import INVALID_GFN, INVALID_MFN, FrameTable, PagePool
from xenograft.hypervisor.memory.p2m_types import (
    ANY_RAM_TYPES,
    DISCARD_WRITE_TYPES,
    FLAGS,
    GRANT_TYPES,
    HOLE_TYPES,
    RAM_TYPES,
    SPECIAL_TYPES,
    P2mType,
)
from xenograft.hypervisor.memory.pod import PopulateOnDemand
from xenograft.hypervisor.memory.runs import RunSet

GFN_BITS = 36
"""Guest-physical addresses have at most 48 bits."""

PV_GFN_LIMIT = 1 << 52
"""Names that PV guests give to their frames are kept up to here."""

ACCESS_WRITE = 1
ACCESS_FETCH = 2


class FaultAction(Enum):
    """What to do about an access that the second stage stopped."""

    RETRY = auto()
    """The entry allows it by now: run the instruction again."""
    MMIO = auto()
    """Nothing there: a device model's access."""
    DISCARD = auto()
    """A write to read-only memory: skip it."""
    GP = auto()
    """A write through a read-only grant mapping: #GP."""
    CRASH = auto()
    """Code in a frame of another domain: Xen crashes the guest."""


class P2mState(msgspec.Struct, frozen=True):
    """What `P2m.save` keeps; frames by mfn, as the machine's memory is kept."""

    entries: tuple[tuple[int, int, int, int], ...]
    types: tuple[tuple[int, int], ...]
    max_mapped: int
    e820: tuple[tuple[int, int, int], ...]


class P2m:
    """The physical map of one domain.

    `translated`: guest frame numbers are the domain's own (PVH, HVM). `crash` is called with a
    reason where Xen crashes the domain. `e820` is what XENMEM_set_memory_map stored: (address,
    size, type) entries.
    """

    __slots__ = (
        "_types",
        "crash",
        "e820",
        "frames",
        "gfn_limit",
        "max_mapped",
        "pod",
        "pool",
        "space",
        "translated",
    )

    def __init__(
        self,
        frames: FrameTable,
        pool: PagePool,
        space: AddressSpace,
        *,
        translated: bool = True,
        crash: Callable[[str], None] | None = None,
        gfn_bits: int = GFN_BITS,
    ) -> None:
        self.frames = frames
        self.pool = pool
        self.space = space
        self.translated = translated
        self.crash: Callable[[str], None] = crash or _ignore
        self.gfn_limit = 1 << gfn_bits
        self.max_mapped = -1
        """The highest gfn that was ever mapped (Xen's max_mapped_pfn), -1 before the first."""
        self.e820: tuple[tuple[int, int, int], ...] = ()
        self.pod: PopulateOnDemand | None = None
        """Pages that come when they're touched; None for a domain that has never had any."""
        self._types: dict[int, P2mType] = {}

    # -- looking -----------------------------------------------------------------------------
    def lookup(self, gfn: int) -> tuple[int, P2mType]:
        """(mfn, type) behind a gfn; INVALID_MFN where there's no frame.

        A frame that is shared with a clone is copied: whoever asks may hold on to it.  Raises
        XenError(ENOMEM) if the machine has no frame left for that.
        """
        if not self.translated:
            return (gfn, P2mType.ram_rw) if self.frames.valid(gfn) else _NOTHING
        if self.pool.shared is not None and gfn in self.pool.shared:
            self._unshare(gfn)
        entry = self.space.lookup(gfn)
        if entry is None:
            if self.pod is not None and gfn in self.pod.entries:
                return INVALID_MFN, P2mType.populate_on_demand
            return INVALID_MFN, self._types.get(gfn, P2mType.mmio_dm)
        return entry[0], self._types.get(gfn, P2mType.ram_rw)

    def get_page(self, gfn: int) -> tuple[int, P2mType] | None:
        """(mfn, type) with a reference taken, or None (Xen's get_page_from_gfn).

        None too for a grant mapping: what is mapped by grant can't be passed on.
        """
        self.touch(gfn)
        mfn, kind = self.lookup(gfn)
        if kind not in ANY_RAM_TYPES:
            return None
        if kind is P2mType.map_foreign:
            held = self.frames.owner_and_reference(mfn) is not None
        else:
            held = self.frames.get_page(mfn, self.pool.domid)
        return (mfn, kind) if held else None

    def odd_types(self) -> dict[int, P2mType]:
        """The types of gfns that aren't ordinary RAM or nothing."""
        return dict(self._types)

    def own_ram(self, gfn: int, write: bool) -> int | None:
        """The frame of the domain's own behind an ordinary page, without a reference.

        For uses that are over before a guest runs again.  None says nothing: ask `get_page`.
        """
        if not self.translated or gfn in self._types:
            return None
        entry = self.space.lookup(gfn)
        if entry is None or (write and entry[1] & (P2M_WRITE | P2M_COW) != P2M_WRITE):
            return None
        return entry[0] if self.frames.memory.owner(entry[0]) == self.pool.domid else None

    def describe(self) -> tuple[AddressSpace, dict[int, P2mType]] | None:
        """What `own_ram` looks at, for the native core; None for a domain that isn't translated."""
        return (self.space, self._types) if self.translated else None

    def gfn_of(self, mfn: int) -> int:
        """The domain's name for one of its frames, or INVALID_GFN (Xen's mfn_to_gfn)."""
        return self.frames.gfn_of(mfn) if self.translated else mfn

    def fault(self, gfn: int, access: int) -> FaultAction:
        """What to do about an access (0 read, 1 write, 2 fetch) that the engine stopped."""
        if self.touch(gfn):
            return FaultAction.RETRY
        try:
            _, kind = self.lookup(gfn)
        except XenError:
            self.crash(f"no memory left for a copy of the page at gfn {gfn:#x}")
            return FaultAction.RETRY
        if kind not in ANY_RAM_TYPES:
            return FaultAction.MMIO
        if access == ACCESS_WRITE and kind in DISCARD_WRITE_TYPES:
            return FaultAction.GP if kind in GRANT_TYPES else FaultAction.DISCARD
        if access == ACCESS_FETCH and kind in SPECIAL_TYPES:
            return FaultAction.CRASH
        return FaultAction.RETRY

    # -- sharing with clones -------------------------------------------------------------------
    def share(self, child: P2m) -> list[tuple[int, int, int, int]]:
        """Let an empty map show the same memory, copied page by page when one of both writes.

        Returns the runs (gfn, mfn, count, flags) that weren't shared, since others refer to
        their frames by number: those of the hypervisor's, and those that back ends have mapped.
        """
        special = list(self.pool.special)
        for mfn in special:
            self.frames.memory.get_ref(mfn)
        fresh, left = self.space.share(child.space, self.pool.domid, child.pool.domid, DOMID_COW)
        for mfn in special:
            self.frames.memory.put_ref(mfn)
        if self.pool.shared is None:
            self.pool.shared = RunSet()
        for gfn, mfn, count, _ in fresh:
            self.pool.shared.add(gfn, count)
            self.pool.pages.discard(mfn, count)
            self.frames.set_gfn(mfn, INVALID_GFN, count)
        child.pool.shared = self.pool.shared.copy()
        for pool in (self.pool, child.pool):
            pool.recount(self.frames.now())
        child.max_mapped = max(child.max_mapped, self.max_mapped)
        return left

    def _unshare(self, gfn: int) -> None:
        """Have a frame of the domain's own behind a gfn that was shared."""
        assert self.pool.shared is not None  # the caller has looked
        if not self.space.unshare(gfn):
            raise XenError(Errno.ENOMEM)
        entry = self.space.lookup(gfn)
        self.pool.shared.discard(gfn)
        if entry is not None:
            self.pool.pages.add(entry[0])
            self.frames.set_gfn(entry[0], gfn)

    def _drop_shared(self) -> None:
        """The end of sharing: what was written is the domain's own, the rest is let go."""
        shared, self.pool.shared = self.pool.shared, None
        for gfn, count in () if shared is None else shared.runs():
            for _, mfn, length, _ in self.space.private(gfn, count):
                self.pool.pages.add(mfn, length)
            self.space.drop_shared(gfn, count)

    # -- entries -------------------------------------------------------------------------------
    def _set(self, gfn: int, mfn: int, count: int, kind: P2mType) -> None:
        try:
            self.space.map(gfn, mfn, count, FLAGS[kind])
        except IndexError:
            raise XenError(Errno.EINVAL) from None
        if self.pod is not None:
            self.pod.entries.discard(gfn, count)
        if kind is not P2mType.ram_rw:
            for i in range(count):
                self._types[gfn + i] = kind
        elif self._types:
            for i in range(count):
                self._types.pop(gfn + i, None)
        self.max_mapped = max(self.max_mapped, gfn + count - 1)

    def _clear(self, gfn: int) -> None:
        mfn, kind = self.lookup(gfn)
        self.space.unmap(gfn)
        self._types.pop(gfn, None)
        if kind is P2mType.map_foreign:
            self.frames.put_page(mfn)

    def _forget_old(self, gfn: int, mfn: int, kind: P2mType) -> None:
        """Prepare a gfn for another frame: p2m_add_page's first step."""
        old, old_kind = self.lookup(gfn)
        if old_kind in SPECIAL_TYPES:
            self.crash(f"GFN {gfn:#x} ({old:#x},{old_kind:d}) -> ({mfn:#x},{kind:d}) not permitted")
            raise XenError(Errno.EPERM)
        if old_kind in RAM_TYPES:
            self.frames.set_gfn(old, INVALID_GFN)

    def _unalias(self, gfn: int, mfn: int) -> None:
        """A frame of one's own has one place at a time: take it from its old one."""
        if self.frames.memory.owner(mfn) != self.pool.domid:
            return
        old_gfn = self.frames.gfn_of(mfn)
        if old_gfn in (INVALID_GFN, gfn):
            return
        found, kind = self.lookup(old_gfn)
        if kind in RAM_TYPES and found == mfn:
            self.remove_page(old_gfn, mfn)

    def add_page(
        self,
        gfn: int,
        mfn: int,
        count: int = 1,
        kind: P2mType = P2mType.ram_rw,
        fresh: bool = False,
    ) -> None:
        """Map frames; what was there loses its place, but isn't freed (Xen's p2m_add_page).

        `fresh`: the frames were just allocated, so they're mapped nowhere. Raises XenError:
        EINVAL for a gfn out of range, EPERM (and the domain crashes) over a grant, foreign or
        device mapping.
        """
        if not self.translated:
            self.frames.set_gfn(mfn, gfn if gfn < PV_GFN_LIMIT else INVALID_GFN, count)
            return
        if gfn < 0 or gfn + count > self.gfn_limit:
            raise XenError(Errno.EINVAL)
        if gfn <= self.max_mapped:
            for i in range(count):
                self._forget_old(gfn + i, mfn + i, kind)
        if not fresh:
            for i in range(count):
                self._unalias(gfn + i, mfn + i)
        self._set(gfn, mfn, count, kind)
        if kind not in GRANT_TYPES:
            self.frames.set_gfn(mfn, gfn, count)

    def remove_page(self, gfn: int, mfn: int) -> None:
        """Unmap a frame, without freeing it (Xen's p2m_remove_page).

        Raises XenError(EILSEQ) if another frame is there.
        """
        if not self.translated:
            return
        found, kind = self.lookup(gfn)
        passing = kind in GRANT_TYPES or kind is P2mType.map_foreign or kind is P2mType.invalid
        if not passing and (
            not self.frames.valid(mfn) or kind is P2mType.mmio_direct or found != mfn
        ):
            raise XenError(Errno.EILSEQ)
        if self.frames.valid(mfn) and kind not in SPECIAL_TYPES:
            self.frames.set_gfn(mfn, INVALID_GFN)
        self._clear(gfn)

    # -- pages ------------------------------------------------------------------------------------
    def populate(self, gfn: int, count: int = 1, bits: int | None = None) -> list[tuple[int, int]]:
        """Allocate frames and map them at gfn …; returns their extents (mfn, length).

        Frames of a domain that isn't translated are contiguous. Raises XenError: EINVAL, E2BIG,
        ENOMEM (see `FrameTable.alloc`); EINVAL, EPERM (see `add_page`), after which the frames
        stay allocated and unmapped, as in Xen.
        """
        extents = self.frames.alloc(self.pool, count, not self.translated, bits)
        at = gfn
        for mfn, length in extents:
            self.add_page(at, mfn, length, fresh=True)
            at += length
        return extents

    def populate_on_demand(self, gfn: int, count: int) -> None:
        """Let frames come to gfn … when they're touched.

        They come from what `PopulateOnDemand.set_target` provides. Raises XenError: EINVAL,
        EBUSY (see `PopulateOnDemand.mark`).
        """
        if self.pod is None:
            self.pod = PopulateOnDemand(self)
        self.pod.mark(gfn, count)

    def touch(self, gfn: int) -> bool:
        """Have a frame where one comes when it's touched.

        False if nothing was to be done; True too if there's no frame left, and the domain has
        crashed.
        """
        if self.pod is None or gfn not in self.pod.entries:
            return False
        self.pod.demand(gfn)
        return True

    def guest_remove_page(self, gfn: int) -> None:
        """Unmap a page of the domain's own and give up its allocation.

        Raises XenError: ENOENT for a hole, EPERM for device memory, EINVAL for no frame, ENXIO
        for a frame that isn't the domain's (Xen's guest_remove_page).
        """
        mfn, kind = self.lookup(gfn)
        if kind is P2mType.populate_on_demand and self.pod is not None:
            self.pod.give_up(gfn)
            return
        if self.translated and kind in HOLE_TYPES:
            raise XenError(Errno.ENOENT)
        if kind is P2mType.mmio_direct:
            raise XenError(Errno.EPERM)
        if not self.frames.valid(mfn):
            raise XenError(Errno.EINVAL)
        if not self.frames.get_page(mfn, self.pool.domid):
            raise XenError(Errno.ENXIO)
        try:
            self.remove_page(gfn, mfn)
            if self.pod is None or not self.pod.keep(mfn):
                self.frames.put_alloc_ref(mfn)
        finally:
            self.frames.put_page(mfn)

    def set_foreign(self, gfn: int, mfn: int) -> None:
        """Map another domain's frame, with a reference of its own (set_foreign_p2m_entry).

        Raises XenError: EINVAL for a gfn or frame out of range, EPERM (and the domain crashes)
        over a grant, foreign or device mapping of something else.
        """
        if gfn < 0 or gfn >= self.gfn_limit:
            raise XenError(Errno.EINVAL)
        old, old_kind = self.lookup(gfn)
        if old_kind in SPECIAL_TYPES:
            if (old, old_kind) == (mfn, P2mType.map_foreign):
                return
            self.crash(f"GFN {gfn:#x} ({old:#x},{old_kind:d}) -> ({mfn:#x},14) not permitted")
            raise XenError(Errno.EPERM)
        if self.frames.owner_and_reference(mfn) is None:
            raise XenError(Errno.EINVAL)
        if old_kind in RAM_TYPES:
            self.frames.set_gfn(old, INVALID_GFN)
        try:
            self._set(gfn, mfn, 1, P2mType.map_foreign)
        except XenError:
            self.frames.put_page(mfn)
            raise

    def set_mmio_direct(self, gfn: int, count: int = 1) -> None:
        """Reserve gfns for a device: no frame, and no operation of the guest changes them."""
        for i in range(gfn, gfn + count):
            self.space.unmap(i)
            self._types[i] = P2mType.mmio_direct
        self.max_mapped = max(self.max_mapped, gfn + count - 1)

    def set_read_only(self, gfn: int, count: int = 1) -> None:
        """Make RAM read-only to the guest (ROMs). Raises XenError(EINVAL) for anything else."""
        for i in range(gfn, gfn + count):
            mfn, kind = self.lookup(i)
            if kind not in RAM_TYPES:
                raise XenError(Errno.EINVAL)
            self._set(i, mfn, 1, P2mType.ram_ro)

    def drop_grants(self) -> None:
        """Unmap all that is mapped by grant, when the domain dies."""
        for gfn in [gfn for gfn, kind in self._types.items() if kind in GRANT_TYPES]:
            self._clear(gfn)

    # -- the end, and elsewhere -----------------------------------------------------------------
    def relinquish(self, budget: int) -> bool:
        """Take a dying domain's memory away, in steps of `budget` frames.

        True when all is done. Frames that other domains still map stay until they let go;
        `pool.on_empty` tells when the last one has gone. Its own grant mappings are to be
        released before (`GrantTable.release_mappings`).
        """
        self.pool.dying = True
        self._drop_shared()
        for gfn in [gfn for gfn, kind in self._types.items() if kind is P2mType.map_foreign]:
            self._clear(gfn)
        for gfn, _, count, _ in self.space.entries():
            self.space.unmap(gfn, count)
        self._types.clear()
        self.pod = None
        return self.frames.relinquish(self.pool, budget)

    def save(self) -> P2mState:
        """The map as plain data."""
        return P2mState(
            tuple(self.space.entries()),
            tuple(sorted((gfn, int(kind)) for gfn, kind in self._types.items())),
            self.max_mapped,
            self.e820,
        )

    def restore(self, state: P2mState) -> None:
        """Take over a saved map. The frames are there already, with owner and references."""
        self._types = {gfn: P2mType(kind) for gfn, kind in state.types}
        for gfn, mfn, count, flags in state.entries:
            self.space.map(gfn, mfn, count, flags)
            for i in range(count):
                if self._types.get(gfn + i, P2mType.ram_rw) in RAM_TYPES:
                    self.frames.set_gfn(mfn + i, gfn + i)
        self.max_mapped = state.max_mapped
        self.e820 = state.e820


_NOTHING = (INVALID_MFN, P2mType.invalid)


def _ignore(_reason: str) -> None:
    pass
