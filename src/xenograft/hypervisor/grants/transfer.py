# SPDX-License-Identifier: GPL-2.0-or-later
"""GNTTABOP_transfer: give a page away, to a domain that has asked for one by a grant.

For PV domains alone: HVM-type ones may not call it, and their pages can't be stolen. From the
moment that the page is taken it is lost to the caller, also if the rest fails.

Facts: gnttab_transfer(), gnttab_prepare_for_transfer() in xen/common/grant_table.c of Xen 4.17.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.errno import XenError
from xenograft.abi.grant_table import (
    GNTST_bad_domain,
    GNTST_bad_page,
    GNTST_general_error,
    GTF_accept_transfer,
    GTF_transfer_committed,
    GTF_transfer_completed,
    gnttab_transfer,
)
from xenograft.hypervisor.grants.pinning import RETRIES
from xenograft.hypervisor.grants.status import GrantError
from xenograft.hypervisor.memory.frames import INVALID_GFN

if TYPE_CHECKING:
    from xenograft.hypervisor.call import Call
    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.grants.table import GrantTable


def transfer_one(call: Call, op: gnttab_transfer) -> None:
    """Transfer one page. Raises GrantError."""
    giver, frames = call.domain, call.hypervisor.frames
    mfn, _ = giver.p2m.lookup(op.mfn)
    if not frames.valid(mfn):
        raise GrantError(GNTST_bad_page, f"no page {op.mfn:#x}")
    if giver.p2m.translated:
        raise GrantError(GNTST_general_error, "a translated domain's pages can't be stolen")
    try:
        frames.steal(giver.p2m.pool, mfn)
    except XenError:
        raise GrantError(GNTST_bad_page, f"page {op.mfn:#x} is in use") from None
    try:
        taker = call.hypervisor.domains.get(op.domid)
        if taker is None:
            raise GrantError(GNTST_bad_domain, f"no domain {op.domid}")
        if taker.dying or taker.p2m.pool.tot_pages >= taker.p2m.pool.max_pages:
            raise GrantError(GNTST_general_error, "it has no room")
        _commit(taker.grants, giver.domid, op.ref)
        frames.set_gfn(mfn, INVALID_GFN)
        frames.assign(taker.p2m.pool, mfn)
    except (GrantError, XenError) as error:
        frames.free_stolen(mfn)
        if isinstance(error, XenError):
            raise GrantError(GNTST_general_error, str(error)) from None
        raise
    _complete(taker, op.ref, mfn)


def _commit(table: GrantTable, giver: int, ref: int) -> None:
    """Lock an entry that waits for a page from `giver`."""
    if ref >= len(table.shared):
        raise GrantError(GNTST_general_error, f"bad ref {ref:#x}")
    memory, at = table.shared.memory, table.shared.maddr(ref)
    found = memory.read_u32(at)
    for _ in range(RETRIES):
        if found & 0xFFFF != GTF_accept_transfer or found >> 16 != giver:
            raise GrantError(GNTST_general_error, "the entry doesn't wait for this page")
        expected = found
        found = memory.compare_exchange_u32(at, expected, expected | GTF_transfer_committed)
        if found == expected:
            return
    raise GrantError(GNTST_general_error, "the entry is unstable")


def _complete(taker: Domain, ref: int, mfn: int) -> None:
    """Map the page for its new owner, and tell it."""
    shared = taker.grants.shared
    failed = False
    try:
        taker.p2m.add_page(shared.page(ref).gfn, mfn)
    except XenError:
        failed = True
    if not taker.p2m.translated:
        shared.set_frame(ref, mfn)
    bit = GTF_transfer_completed.bit_length() - 1
    shared.memory.test_and_set_bit(shared.maddr(ref), bit)
    if failed:
        raise GrantError(GNTST_general_error, "the page can't be mapped there")
