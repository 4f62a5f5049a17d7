# SPDX-License-Identifier: GPL-2.0-or-later
"""Mapping and unmapping grants.

Facts: map_grant_ref(), unmap_common(), unmap_common_complete(), gnttab_release_mappings() in
xen/common/grant_table.c of Xen 4.17. No domain has an IOMMU: device mappings only count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from xenograft.abi.grant_table import (
    GTF_PAT,
    GTF_PCD,
    GTF_PWT,
    GNTMAP_application_map,
    GNTMAP_contains_pte,
    GNTMAP_device_map,
    GNTMAP_host_map,
    GNTMAP_readonly,
    GNTST_bad_dev_addr,
    GNTST_bad_domain,
    GNTST_bad_gntref,
    GNTST_bad_handle,
    GNTST_general_error,
    GNTST_no_space,
    GNTST_okay,
)
from xenograft.engine.protocol import PAGE_SHIFT
from xenograft.hypervisor.grants.pinning import get_paged_frame, set_status
from xenograft.hypervisor.grants.status import GrantError
from xenograft.hypervisor.grants.table import (
    PIN_DEVICE_READ,
    PIN_DEVICE_WRITE,
    PIN_HOST_READ,
    PIN_HOST_WRITE,
    PIN_WRITERS,
    ActiveEntry,
    GrantTable,
    MapTrack,
)

if TYPE_CHECKING:
    from xenograft.hypervisor.domain import Domain

ANY_MAP = GNTMAP_device_map | GNTMAP_host_map
CACHE_FLAGS = GTF_PAT | GTF_PWT | GTF_PCD


class Mapped(NamedTuple):
    """A mapping that was made."""

    handle: int
    mfn: int


def report(table: GrantTable, operation: str, remote: int, ref: int, status: int) -> None:
    """Tell the instruments about a grant operation of the table's domain."""
    hypervisor = table.domain.hypervisor
    if (hook := hypervisor.instruments.grant_op) is not None:
        hook(hypervisor.clock.now(), table.domain.domid, operation, remote, ref, status)


def pin_increment(flags: int) -> int:
    """What a mapping with these GNTMAP_* flags adds to an entry's counters."""
    readonly = flags & GNTMAP_readonly
    increment = 0
    if flags & GNTMAP_device_map:
        increment += PIN_DEVICE_READ if readonly else PIN_DEVICE_WRITE
    if flags & GNTMAP_host_map:
        increment += PIN_HOST_READ if readonly else PIN_HOST_WRITE
    return increment


def _holds_type(flags: int, mapper: Domain, granter: Domain) -> bool:
    """Whether a host mapping counts as a writable use of the granter's frame."""
    external = granter.kind.is_hvm_type
    return not flags & GNTMAP_readonly and (mapper is granter or not external)


def map_grant_ref(
    table: GrantTable, domid: int, ref: int, flags: int, host_addr: int, hosted: bool = False
) -> Mapped:
    """Map a grant of domain `domid` for the table's domain.

    `hosted`: for a back end in the host, which needs no place in the domain's memory. Raises
    GrantError.
    """
    mapper = table.domain
    increment = pin_increment(flags)
    if not increment:
        raise GrantError(GNTST_bad_gntref, f"bad flags {flags:#x}")
    external = mapper.kind.is_hvm_type and not hosted
    if external and flags & (GNTMAP_device_map | GNTMAP_application_map | GNTMAP_contains_pte):
        raise GrantError(GNTST_general_error, "no such mapping in an HVM-type domain")
    granter = mapper.hypervisor.domains.get(domid)
    if granter is None:
        raise GrantError(GNTST_bad_domain, f"no domain {domid}")
    if (fault := mapper.hypervisor.faults.grant_map) is not None:
        status = fault(mapper.domid, domid, ref)
        if status:
            raise GrantError(status, "a fault that a test asked for")
    handle = table.get_handle(MapTrack(domid, ref, 0, hosted))
    if handle is None:
        raise GrantError(GNTST_no_space, "too many mappings")
    try:
        mfn, held = _pin(granter.grants, ref, mapper.domid, flags, increment)
        try:
            _take(table, granter, mfn, held, flags, host_addr, hosted, ref)
        except GrantError:
            _unpin(granter.grants, ref, increment, flags)
            raise
    except GrantError:
        table.put_handle(handle)
        raise
    table.maptrack[handle].flags = flags
    return Mapped(handle, mfn)


def _pin(granted: GrantTable, ref: int, domid: int, flags: int, increment: int) -> tuple[int, bool]:
    """Count a use of an entry: the frame, and whether a reference to it was taken."""
    if ref >= len(granted.shared):
        raise GrantError(GNTST_bad_gntref, f"bad ref {ref:#x}")
    readonly = bool(flags & GNTMAP_readonly)
    entry = granted.active.get(ref)
    if entry is not None and (
        entry.domid != domid or entry.would_overflow(increment) or entry.is_sub_page
    ):
        raise GrantError(GNTST_general_error, "in use by another, too often, or in part")
    held = False
    if entry is None or (not readonly and not entry.pin & PIN_WRITERS):
        set_status(granted, ref, entry is not None, readonly, True, domid)
        if entry is None:
            try:
                gfn = granted.shared.page(ref).gfn
                mfn = get_paged_frame(granted.domain, gfn)
            except GrantError:
                granted.reduce_status(ref, readonly)
                raise
            held = True
            owner = granted.domain.domid
            entry = ActiveEntry(domid, mfn, gfn, 0, 1 << PAGE_SHIFT, False, owner, ref)
            granted.active[ref] = entry
    entry.pin += increment
    return entry.mfn, held


def _unpin(granted: GrantTable, ref: int, increment: int, flags: int) -> None:
    granted.active[ref].pin -= increment
    granted.reduce_status(ref, bool(flags & GNTMAP_readonly))


def _take(
    table: GrantTable,
    granter: Domain,
    mfn: int,
    held: bool,
    flags: int,
    host_addr: int,
    hosted: bool,
    ref: int,
) -> None:
    """References and types for a mapping, and the mapping itself; all or nothing."""
    frames = table.domain.hypervisor.frames
    references, types = int(held), 0
    try:
        if not held:
            owner = frames.owner_and_reference(mfn)
            references += owner is not None
        else:
            owner = frames.memory.owner(mfn)
        if owner != granter.domid:
            raise GrantError(GNTST_general_error, f"could not pin frame {mfn:#x}")
        if flags & GNTMAP_device_map and not flags & GNTMAP_readonly:
            types += _get_type(table, mfn)
        if flags & GNTMAP_host_map:
            if flags & GNTMAP_device_map:
                if not frames.get_page(mfn, granter.domid):
                    raise GrantError(GNTST_general_error, f"could not pin frame {mfn:#x}")
                references += 1
            if _holds_type(flags, table.domain, granter):
                types += _get_type(table, mfn)
            if not hosted:
                # Cache attributes count for device memory alone, as in Xen.
                table.host_mapper.create(host_addr, mfn, flags, 0)
    except GrantError:
        for _ in range(types):
            frames.put_writable(mfn)
        for _ in range(references):
            frames.put_page(mfn)
        raise


def _get_type(table: GrantTable, mfn: int) -> int:
    if not table.domain.hypervisor.frames.get_writable(mfn):
        raise GrantError(GNTST_general_error, f"frame {mfn:#x} can't be written")
    return 1


# -- unmapping ----------------------------------------------------------------------------------
def unmap_grant(
    table: GrantTable, handle: int, host_addr: int, dev_bus_addr: int = 0, new_addr: int = 0
) -> None:
    """Undo a mapping, or the part of it that the addresses (non-zero) name. Raises GrantError."""
    track = table.maptrack.get(handle)
    if track is None or not track.flags:
        raise GrantError(GNTST_bad_handle, f"no mapping {handle:#x}")
    granter = table.domain.hypervisor.domains.get(track.domid)
    if granter is None:
        table.domain.crash(f"grant of domain {track.domid} outlived it")
        raise GrantError(GNTST_bad_domain, f"no domain {track.domid}")
    entry = granter.grants.active.get(track.ref)
    if entry is None:
        raise GrantError(GNTST_bad_handle, f"mapping {handle:#x} is of nothing")
    flags, done = track.flags, 0
    if dev_bus_addr and flags & GNTMAP_device_map and dev_bus_addr != entry.mfn << PAGE_SHIFT:
        raise GrantError(GNTST_bad_dev_addr, "that's not the frame's address")
    if flags & GNTMAP_host_map and (track.hosted or host_addr):
        if not track.hosted:
            table.host_mapper.replace(host_addr, entry.mfn, new_addr, flags)
        done |= GNTMAP_host_map
    if flags & GNTMAP_device_map and dev_bus_addr:
        done |= GNTMAP_device_map
    track.flags &= ~done
    if not track.flags & ANY_MAP:
        table.put_handle(handle)
    if done:
        _release(table, granter, track.ref, entry, done | flags & GNTMAP_readonly)


def _release(
    table: GrantTable,
    granter: Domain,
    ref: int,
    entry: ActiveEntry,
    done: int,
    held_by_entry: bool = False,
) -> None:
    """Drop the references, types and pins of a mapping that is gone.

    `held_by_entry`: a page-table entry of a dying PV domain holds them, and drops them itself.
    """
    frames = table.domain.hypervisor.frames
    mfn, writable = entry.mfn, not done & GNTMAP_readonly
    entry.pin -= pin_increment(done)
    granter.grants.reduce_status(ref, not writable)
    if done & GNTMAP_device_map:
        if writable:
            frames.put_writable(mfn)
        frames.put_page(mfn)
    if done & GNTMAP_host_map and not held_by_entry:
        if _holds_type(done, table.domain, granter):
            frames.put_writable(mfn)
        frames.put_page(mfn)


def release_mappings(table: GrantTable, budget: int) -> bool:
    """Undo all that a dying domain has mapped, `budget` mappings at most; True when all is done."""
    table.domain.p2m.drop_grants()
    for handle in sorted(table.maptrack, reverse=True):
        if not budget:
            return False
        budget -= 1
        track = table.maptrack[handle]
        table.put_handle(handle)
        granter = table.domain.hypervisor.domains.get(track.domid)
        entry = granter.grants.active.get(track.ref) if granter is not None else None
        if granter is not None and entry is not None:
            done = track.flags & (ANY_MAP | GNTMAP_readonly)
            in_tables = not track.hosted and not table.domain.kind.is_hvm_type
            _release(table, granter, track.ref, entry, done, held_by_entry=in_tables)
        report(table, "release", track.domid, track.ref, GNTST_okay)
    return True
