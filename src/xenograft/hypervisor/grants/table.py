# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain's grant table: its frames and version, who uses its grants, and what it has mapped.

The *active* entries are those in use by others: each has counters of readers and writers
(pins), and the frame that it meant when the first of them came.  The *maptrack* lists the
domain's own mappings of other domains' grants; their numbers are the handles that it gets.

Facts: xen/common/grant_table.c of Xen 4.17 (struct active_grant_entry, struct grant_mapping,
gnttab_grow_table(), gnttab_set_version(), gnttab_map_frame_begin(), gnttab_release_mappings()),
docs/misc/grant-tables.txt.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.grant_table import (
    GNTTAB_NR_RESERVED_ENTRIES,
    GNTTAB_RESERVED_CONSOLE,
    GNTTAB_RESERVED_XENSTORE,
    GTF_invalid,
    GTF_permit_access,
    GTF_reading,
    GTF_transitive,
    GTF_type_mask,
    GTF_writing,
)
from xenograft.abi.memory import (
    XENMAPIDX_grant_table_status,
    XENMEM_resource_grant_table_id_shared,
    XENMEM_resource_grant_table_id_status,
)
from xenograft.engine.protocol import PAGE_SHIFT, PAGE_SIZE
from xenograft.hypervisor.grants.mapper import HostMapper, mapper_for
from xenograft.hypervisor.grants.shared import (
    SharedEntries,
    grant_frames_for,
    status_frames_for,
)
from xenograft.hypervisor.memory.frames import INVALID_GFN

if TYPE_CHECKING:
    from xenograft.hypervisor.domain import Domain

INITIAL_NR_GRANT_FRAMES = 1
DEFAULT_MAX_GRANT_FRAMES = 64
DEFAULT_MAX_MAPTRACK_FRAMES = 1024
MAPTRACK_PER_PAGE = 256
WARN_GRANT_MAX = 10

# Counters of an active entry, eight bits each, in one number (GNTPIN_*).
PIN_HOST_WRITE = 1
PIN_HOST_READ = 1 << 8
PIN_DEVICE_WRITE = 1 << 16
PIN_DEVICE_READ = 1 << 24
PIN_WRITERS = 0xFF | 0xFF << 16


@dataclass(slots=True)
class ActiveEntry:
    """A grant in use: by whom, how often, and what it was when that began."""

    domid: int
    mfn: int
    gfn: int
    start: int
    length: int
    is_sub_page: bool
    trans_domid: int
    trans_ref: int
    pin: int = 0

    def would_overflow(self, increment: int) -> bool:
        """Whether a counter named by `increment` is too full for more."""
        return bool(self.pin & increment << 7)


@dataclass(slots=True)
class MapTrack:
    """A mapping of another domain's grant. `flags`: GNTMAP_*; `hosted`: by a host's back end."""

    domid: int
    ref: int
    flags: int
    hosted: bool = False


class GrantTableState(msgspec.Struct, frozen=True):
    """What `GrantTable.save` keeps."""

    version: int
    frames: tuple[int, ...]
    status: tuple[int, ...]
    active: tuple[tuple[int, int, int, int, int, int, bool, int, int, int], ...]
    maptrack: tuple[tuple[int, int, int, int, bool], ...]
    free_handles: tuple[int, ...]
    next_handle: int
    v2_ops: int


@dataclass(frozen=True, slots=True)
class ActiveGrant:
    """A line of the report of grants still in use."""

    ref: int
    domid: int
    gfn: int
    mfn: int
    pin: int


class GrantTable:
    """The grant table of one domain. Raises XenError (EINVAL, ENOMEM) when it can't be made."""

    __slots__ = (
        "_free_handles",
        "_next_handle",
        "active",
        "domain",
        "host_mapper",
        "maptrack",
        "max_grant_frames",
        "max_maptrack_frames",
        "max_version",
        "shared",
        "v2_ops",
    )

    def __init__(
        self,
        domain: Domain,
        *,
        max_grant_frames: int = DEFAULT_MAX_GRANT_FRAMES,
        max_maptrack_frames: int = DEFAULT_MAX_MAPTRACK_FRAMES,
        max_version: int = 2,
    ) -> None:
        """The limits are those of a configuration file (`max_grant_frames` …)."""
        if max_grant_frames < INITIAL_NR_GRANT_FRAMES or max_maptrack_frames < 0:
            raise XenError(Errno.EINVAL, "bad grant table sizes")
        if max_version not in (1, 2):
            raise XenError(Errno.EINVAL, "bad grant table version")
        self.domain = domain
        self.max_grant_frames = max_grant_frames
        self.max_maptrack_frames = max_maptrack_frames
        self.max_version = max_version
        self.shared = SharedEntries(domain.hypervisor.memory)
        self.active: dict[int, ActiveEntry] = {}
        self.maptrack: dict[int, MapTrack] = {}
        self.v2_ops = 0
        """Uses of sub-page and transitive grants: version 1 can't express them."""
        self.host_mapper: HostMapper = mapper_for(domain)
        """Puts mapped frames where the guest wants them."""
        self._free_handles: deque[int] = deque()
        self._next_handle = 0
        self.grow(INITIAL_NR_GRANT_FRAMES)

    # -- frames ----------------------------------------------------------------------------------
    @property
    def version(self) -> int:
        return self.shared.version

    @property
    def nr_frames(self) -> int:
        """Grant frames in use."""
        return len(self.shared.frames)

    def grow(self, nr_frames: int) -> None:
        """Have at least so many grant frames, and status frames with them.

        Raises XenError(ENOMEM), with nothing changed.
        """
        nr_frames = max(nr_frames, self.nr_frames)
        nr_status = status_frames_for(nr_frames) if self.version == 2 else 0
        more = self._special_frames(
            nr_frames - self.nr_frames + max(0, nr_status - len(self.shared.status))
        )
        added = nr_frames - self.nr_frames
        self.shared.frames += more[:added]
        self.shared.status += more[added:]

    def _special_frames(self, count: int) -> list[int]:
        frames, pool = self.domain.hypervisor.frames, self.domain.p2m.pool
        taken: list[int] = []
        try:
            while len(taken) < count:
                taken.append(frames.alloc_special(pool))
        except XenError:
            for mfn in taken:
                frames.free_special(mfn)
            raise
        return taken

    def _shared_frame(self, idx: int) -> int:
        """The mfn of a grant frame, which the table grows for. Raises XenError(EINVAL)."""
        if self.nr_frames <= idx < self.max_grant_frames:
            self._try_grow(idx + 1)
        if idx >= self.nr_frames:
            raise XenError(Errno.EINVAL)
        return self.shared.frames[idx]

    def _status_frame(self, idx: int) -> int:
        """The mfn of a status frame, which the table grows for. Raises XenError(EINVAL)."""
        if idx >= len(self.shared.status):
            nr_grant = grant_frames_for(idx + 1)
            if nr_grant <= self.max_grant_frames:
                self._try_grow(nr_grant)
        if idx >= len(self.shared.status):
            raise XenError(Errno.EINVAL)
        return self.shared.status[idx]

    def _try_grow(self, nr_frames: int) -> None:
        """Grow as far as memory allows: the caller looks at what came of it."""
        try:
            self.grow(nr_frames)
        except XenError as error:
            if error.errno is not Errno.ENOMEM:
                raise

    def frame_for_map(self, idx: int) -> int:
        """The mfn that XENMAPSPACE_grant_table's `idx` means. Raises XenError(EINVAL)."""
        if self.version == 2 and idx & XENMAPIDX_grant_table_status:
            return self._status_frame((idx & ~XENMAPIDX_grant_table_status) & 0xFFFFFFFF)
        return self._shared_frame(idx & 0xFFFFFFFF)

    def resource_max_frames(self, ident: int) -> int:
        """How many frames XENMEM_resource_grant_table has; 0 for an unknown id."""
        if ident == XENMEM_resource_grant_table_id_shared:
            return self.max_grant_frames
        if ident == XENMEM_resource_grant_table_id_status:
            return status_frames_for(self.max_grant_frames)
        return 0

    def acquire_resource(self, ident: int, frame: int, count: int) -> list[int]:
        """mfns of `count` frames from `frame` on. Raises XenError(EINVAL)."""
        if ident == XENMEM_resource_grant_table_id_shared:
            self._shared_frame(frame + count - 1)
            return self.shared.frames[frame : frame + count]
        if ident == XENMEM_resource_grant_table_id_status and self.version == 2:
            self._status_frame(frame + count - 1)
            return self.shared.status[frame : frame + count]
        raise XenError(Errno.EINVAL)

    # -- entries of the toolstack -------------------------------------------------------------
    def seed(self, ref: int, domid: int, gfn: int) -> None:
        """Grant a page on the guest's behalf, before it runs (libxenguest's gnttab seeding)."""
        self.shared.write_v1(ref, GTF_permit_access, domid, gfn)

    def seed_reserved(
        self, console: tuple[int, int] | None, xenstore: tuple[int, int] | None
    ) -> None:
        """Grant the console and xenstore rings, each (domid, gfn), where their back ends look."""
        for ref, target in (
            (GNTTAB_RESERVED_CONSOLE, console),
            (GNTTAB_RESERVED_XENSTORE, xenstore),
        ):
            if target is not None:
                self.seed(ref, *target)

    # -- versions --------------------------------------------------------------------------------
    def set_version(self, version: int) -> None:
        """Change the format of the table; all but the reserved entries are lost.

        Raises XenError: EINVAL, ENOSYS for versions that it can't have, EBUSY while grants are
        in use, EAGAIN, ERANGE while there is what version 1 can't express, ENOMEM.
        """
        if version not in (1, 2):
            raise XenError(Errno.EINVAL)
        if version == 2 and self.max_version == 1:
            raise XenError(Errno.ENOSYS)
        if version == self.version:
            return
        if any(
            entry.pin for ref, entry in self.active.items() if ref >= GNTTAB_NR_RESERVED_ENTRIES
        ):
            raise XenError(Errno.EBUSY)
        if version == 1:
            self._check_fits_v1()
        kept = [self._as_v1(ref) for ref in range(GNTTAB_NR_RESERVED_ENTRIES)]
        if version == 1:
            self._drop_status_frames()
        else:
            self.shared.status += self._special_frames(status_frames_for(self.nr_frames))
        for mfn in self.shared.frames:
            self.shared.memory.write(mfn << PAGE_SHIFT, bytes(PAGE_SIZE))
        self.shared.version = version
        for ref, (flags, domid, frame) in enumerate(kept):
            self.shared.write_v1(ref, flags, domid, frame)

    def _check_fits_v1(self) -> None:
        if self.v2_ops:
            raise XenError(Errno.EAGAIN)
        for ref in range(GNTTAB_NR_RESERVED_ENTRIES):
            kind = self.shared.flags(ref) & GTF_type_mask
            wide = kind == GTF_permit_access and self.shared.page(ref).gfn >> 32
            if wide or kind == GTF_transitive:
                raise XenError(Errno.ERANGE)

    def _as_v1(self, ref: int) -> tuple[int, int, int]:
        """A reserved entry as (flags, domid, frame)."""
        header = self.shared.header(ref)
        flags, domid = header & 0xFFFF, header >> 16
        if self.version == 2:
            if flags & GTF_type_mask != GTF_permit_access:
                return GTF_invalid, 0, 0
            flags |= self.shared.status_flags(ref)
        return flags, domid, self.shared.page(ref).gfn

    def _drop_status_frames(self) -> None:
        """Take the status frames back. Raises XenError(EBUSY) while somebody else has one."""
        frames, p2m = self.domain.hypervisor.frames, self.domain.p2m
        for mfn in self.shared.status:
            gfn = frames.gfn_of(mfn)
            if p2m.translated and gfn != INVALID_GFN:
                p2m.remove_page(gfn, mfn)
            if frames.special_busy(mfn):
                if p2m.translated:
                    self.domain.crash(f"status frame {mfn:#x} is in use")
                raise XenError(Errno.EBUSY)
        for mfn in self.shared.status:
            frames.free_special(mfn)
        self.shared.status.clear()

    # -- use -------------------------------------------------------------------------------------
    def reduce_status(self, ref: int, readonly: bool) -> None:
        """Clear the flags of use that no pin stands for any more (reduce_status_for_pin)."""
        entry = self.active.get(ref)
        pin = entry.pin if entry is not None else 0
        flags = 0 if pin else GTF_reading
        if not readonly and not pin & PIN_WRITERS:
            flags |= GTF_writing
        if entry is not None and not pin:
            del self.active[ref]
        if flags and ref < len(self.shared):
            self.shared.clear_use(ref, flags)

    def get_handle(self, track: MapTrack) -> int | None:
        """A number for a new mapping, or None when there are too many."""
        if self._free_handles:
            handle = self._free_handles.popleft()
        elif self._next_handle < self.max_maptrack_frames * MAPTRACK_PER_PAGE:
            handle = self._next_handle
            self._next_handle += 1
        else:
            return None
        self.maptrack[handle] = track
        return handle

    def put_handle(self, handle: int) -> None:
        """Forget a mapping."""
        del self.maptrack[handle]
        self._free_handles.append(handle)

    # -- reports -----------------------------------------------------------------------------
    def active_grants(self) -> list[ActiveGrant]:
        """The domain's grants that others use, by reference."""
        return [
            ActiveGrant(ref, entry.domid, entry.gfn, entry.mfn, entry.pin)
            for ref, entry in sorted(self.active.items())
        ]

    def warn_active_grants(self) -> list[str]:
        """The lines that Xen logs about grants still in use at a domain's death."""
        active, domid = self.active_grants(), self.domain.domid
        lines = [
            f"d{domid} has active grant {one.ref:x} (GFN {one.gfn:x}, MFN: {one.mfn:#x})"
            for one in active[:WARN_GRANT_MAX]
        ]
        if len(active) > WARN_GRANT_MAX:
            lines.append(f"d{domid} has too many ({len(active)}) active grants to report")
        return lines

    # -- the end, and elsewhere ----------------------------------------------------------------
    def destroy(self) -> None:
        """The end of the domain: undo its mappings, and give the table's frames back.

        Who still uses the domain's own grants can go on, and let go of them, later.
        """
        from xenograft.hypervisor.grants.mapping import release_mappings

        while not release_mappings(self, MAPTRACK_PER_PAGE):
            continue
        for line in self.warn_active_grants():
            self.domain.hypervisor.log.write(line)
        self.free_frames()

    def free_frames(self) -> None:
        """Give the table's frames back."""
        frames = self.domain.hypervisor.frames
        for mfn in self.shared.frames + self.shared.status:
            frames.free_special(mfn)
        self.shared.frames.clear()
        self.shared.status.clear()

    def save(self) -> GrantTableState:
        """The table as plain data; the entries themselves are in machine memory."""
        return GrantTableState(
            self.version,
            tuple(self.shared.frames),
            tuple(self.shared.status),
            tuple(
                (
                    ref,
                    e.domid,
                    e.mfn,
                    e.gfn,
                    e.start,
                    e.length,
                    e.is_sub_page,
                    e.trans_domid,
                    e.trans_ref,
                    e.pin,
                )
                for ref, e in sorted(self.active.items())
            ),
            tuple(
                (handle, t.domid, t.ref, t.flags, t.hosted)
                for handle, t in sorted(self.maptrack.items())
            ),
            tuple(self._free_handles),
            self._next_handle,
            self.v2_ops,
        )

    def restore(self, state: GrantTableState) -> None:
        """Take over a saved table, in place of the frames it was made with."""
        if tuple(self.shared.frames) != state.frames:
            self.free_frames()
        self.shared.version = state.version
        self.shared.frames = list(state.frames)
        self.shared.status = list(state.status)
        self.domain.p2m.pool.special.update(state.frames + state.status)
        self.active = {row[0]: ActiveEntry(*row[1:]) for row in state.active}
        self.maptrack = {row[0]: MapTrack(*row[1:]) for row in state.maptrack}
        self._free_handles = deque(state.free_handles)
        self._next_handle = state.next_handle
        self.v2_ops = state.v2_ops
