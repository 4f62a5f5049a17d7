# SPDX-License-Identifier: GPL-2.0-or-later
"""GNTTABOP_copy: the hypervisor copies bytes between pages, with no mapping at all.

Both ends may be grants, of parts of pages too; and a grant of version 2 may stand for a grant
that a third domain has made to its owner ("transitive", one step deep).

Facts: acquire_grant_for_copy(), release_grant_for_copy(), gnttab_copy_one() in
xen/common/grant_table.c of Xen 4.17.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from xenograft.abi.errno import XenError
from xenograft.abi.grant_table import (
    GNTCOPY_dest_gref,
    GNTCOPY_source_gref,
    GNTST_bad_copy_arg,
    GNTST_bad_domain,
    GNTST_bad_gntref,
    GNTST_general_error,
    GNTST_permission_denied,
    gnttab_copy,
    gnttab_copy_ptr,
)
from xenograft.abi.xen import DOMID_SELF
from xenograft.engine.protocol import PAGE_SHIFT, PAGE_SIZE
from xenograft.hypervisor.grants.pinning import get_paged_frame, set_status
from xenograft.hypervisor.grants.status import GrantError
from xenograft.hypervisor.grants.table import (
    PIN_HOST_READ,
    PIN_HOST_WRITE,
    PIN_WRITERS,
    ActiveEntry,
    GrantTable,
)

if TYPE_CHECKING:
    from xenograft.hypervisor.call import Call
    from xenograft.hypervisor.domain import Domain


@dataclass(slots=True)
class Acquired:
    """A frame held for copying: bytes start … start+length of it may be touched."""

    mfn: int
    start: int = 0
    length: int = PAGE_SIZE


def acquire_grant(
    granted: GrantTable, ref: int, domid: int, readonly: bool, transitive: bool = True
) -> Acquired:
    """Take hold of a grant to `domid`, with a reference to its frame. Raises GrantError."""
    if ref >= len(granted.shared):
        raise GrantError(GNTST_bad_gntref, f"bad ref {ref:#x}")
    if (fault := granted.domain.hypervisor.faults.grant_copy) is not None:
        status = fault(domid, granted.domain.domid, ref)
        if status:
            raise GrantError(status, "a fault that a test asked for")
    increment = PIN_HOST_READ if readonly else PIN_HOST_WRITE
    entry = granted.active.get(ref)
    if entry is not None and (entry.domid != domid or entry.would_overflow(increment)):
        raise GrantError(GNTST_general_error, "in use by another, or too often")
    first_writer = not readonly and (entry is None or not entry.pin & PIN_WRITERS)
    if entry is None or first_writer:
        set_status(granted, ref, entry is not None, readonly, False, domid)
        fresh = True
    else:
        fresh = False
    try:
        if granted.shared.is_transitive(ref):
            entry = _acquire_transitive(granted, ref, domid, readonly, transitive, entry)
        elif fresh:
            entry = _acquire_page(granted, ref, domid, entry)
        else:
            assert entry is not None  # a use that isn't fresh follows an earlier one
            _hold_again(granted, entry)
    except GrantError:
        granted.reduce_status(ref, readonly)
        raise
    entry.pin += increment
    return Acquired(entry.mfn, entry.start, entry.length)


def _acquire_transitive(
    granted: GrantTable,
    ref: int,
    domid: int,
    readonly: bool,
    allowed: bool,
    entry: ActiveEntry | None,
) -> ActiveEntry:
    """Take hold of the grant that this one stands for."""
    owner = granted.domain
    if not allowed:
        raise GrantError(GNTST_general_error, "transitive grants go one step")
    trans_domid, trans_ref = granted.shared.transitive(ref)
    if trans_domid == owner.domid:
        raise GrantError(GNTST_general_error, "a transitive grant can't mean itself")
    third = owner.hypervisor.domains.get(trans_domid)
    if third is None:
        raise GrantError(GNTST_general_error, f"no domain {trans_domid}")
    got = acquire_grant(third.grants, trans_ref, owner.domid, readonly, False)
    # A part of a page, whatever it is: that keeps it from being mapped.
    new = ActiveEntry(domid, got.mfn, -1, got.start, got.length, True, trans_domid, trans_ref)
    if entry is None:
        granted.v2_ops += 1
        granted.active[ref] = new
        return new
    new.pin = entry.pin
    if new != entry:
        release_grant(third.grants, trans_ref, readonly)
        owner.hypervisor.frames.put_page(got.mfn)
        raise GrantError(GNTST_general_error, "the grant changed while in use")
    return entry


def _acquire_page(
    granted: GrantTable, ref: int, domid: int, entry: ActiveEntry | None
) -> ActiveEntry:
    owner = granted.domain
    page = granted.shared.page(ref)
    mfn = get_paged_frame(owner, page.gfn)
    if entry is None:
        entry = ActiveEntry(
            domid, mfn, page.gfn, page.start, page.length, page.is_sub_page, owner.domid, ref
        )
        granted.active[ref] = entry
        granted.v2_ops += page.is_sub_page
        return entry
    same_part = page.is_sub_page and (entry.start, entry.length) == (page.start, page.length)
    if (entry.mfn, entry.trans_domid, entry.trans_ref) != (mfn, owner.domid, ref) or (
        entry.is_sub_page and not same_part
    ):
        owner.hypervisor.frames.put_page(mfn)
        raise GrantError(GNTST_general_error, "the grant changed while in use")
    return entry


def _hold_again(granted: GrantTable, entry: ActiveEntry) -> None:
    """One more reference to a frame that is in use already."""
    owner, frames = granted.domain, granted.domain.hypervisor.frames
    holder = frames.owner_and_reference(entry.mfn)
    if holder != owner.domid or owner.dying:
        if holder is not None:
            frames.put_page(entry.mfn)
        raise GrantError(GNTST_bad_domain, "the granter is dying")


def release_grant(granted: GrantTable, ref: int, readonly: bool) -> None:
    """Undo `acquire_grant`, but for the frame's reference."""
    entry = granted.active[ref]
    entry.pin -= PIN_HOST_READ if readonly else PIN_HOST_WRITE
    if not entry.pin and entry.is_sub_page:
        granted.v2_ops -= 1
    granted.reduce_status(ref, readonly)
    if entry.trans_domid != granted.domain.domid:
        third = granted.domain.hypervisor.domains[entry.trans_domid]
        release_grant(third.grants, entry.trans_ref, readonly)


# -- the operation ------------------------------------------------------------------------------
@dataclass(slots=True)
class _End:
    """One end of a copy, claimed."""

    domain: Domain
    page: Acquired
    ref: int | None
    readonly: bool
    typed: bool = False

    def release(self) -> None:
        frames = self.domain.hypervisor.frames
        if self.ref is not None:
            release_grant(self.domain.grants, self.ref, self.readonly)
        if self.typed:
            frames.put_writable(self.page.mfn)
        frames.put_page(self.page.mfn)


def _resolve(call: Call, domid: int, is_ref: bool) -> Domain:
    if domid != DOMID_SELF and not is_ref:
        raise GrantError(GNTST_permission_denied, "frames are named by their owner alone")
    try:
        return call.hypervisor.resolve_domid(call, domid)
    except XenError:
        raise GrantError(GNTST_bad_domain, f"no domain {domid}") from None


def _claim(
    call: Call, domain: Domain, pointer: gnttab_copy_ptr, is_ref: bool, readonly: bool
) -> _End:
    if is_ref:
        ref = pointer.u.ref
        end = _End(
            domain, acquire_grant(domain.grants, ref, call.domain.domid, readonly), ref, readonly
        )
    else:
        end = _End(domain, Acquired(get_paged_frame(domain, pointer.u.gmfn)), None, readonly)
    if not readonly:
        if not domain.hypervisor.frames.get_writable(end.page.mfn):
            end.release()
            raise GrantError(GNTST_general_error, "the frame can't be written")
        end.typed = True
    return end


def _check_bounds(page: Acquired, offset: int, length: int) -> None:
    if offset < page.start or offset + length > page.start + page.length:
        raise GrantError(GNTST_general_error, "outside the granted part")


def copy_one(call: Call, op: gnttab_copy) -> None:
    """One copy. Raises GrantError."""
    by_ref = bool(op.flags & GNTCOPY_source_gref), bool(op.flags & GNTCOPY_dest_gref)
    source_domain = _resolve(call, op.source.domid, by_ref[0])
    dest_domain = _resolve(call, op.dest.domid, by_ref[1])
    source = _claim(call, source_domain, op.source, by_ref[0], True)
    try:
        dest = _claim(call, dest_domain, op.dest, by_ref[1], False)
        try:
            _copy(call, op, source.page, dest.page)
        finally:
            dest.release()
    finally:
        source.release()


def _copy(call: Call, op: gnttab_copy, source: Acquired, dest: Acquired) -> None:
    if op.source.offset + op.len > PAGE_SIZE or op.dest.offset + op.len > PAGE_SIZE:
        raise GrantError(GNTST_bad_copy_arg, "beyond the page")
    _check_bounds(source, op.source.offset, op.len)
    _check_bounds(dest, op.dest.offset, op.len)
    memory = call.hypervisor.memory
    data = memory.read(source.mfn << PAGE_SHIFT | op.source.offset, op.len)
    memory.write(dest.mfn << PAGE_SHIFT | op.dest.offset, data)
