# SPDX-License-Identifier: GPL-2.0-or-later
"""Taking hold of a grant: the checks of an entry, and the flags that its owner sees.

Facts: _set_status_v1(), _set_status_v2(), get_paged_frame() in xen/common/grant_table.c.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.grant_table import (
    GNTST_bad_page,
    GNTST_general_error,
    GTF_permit_access,
    GTF_reading,
    GTF_readonly,
    GTF_sub_page,
    GTF_transitive,
    GTF_type_mask,
    GTF_writing,
)
from xenograft.hypervisor.grants.status import GrantError
from xenograft.hypervisor.memory.p2m_types import P2mType

if TYPE_CHECKING:
    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.grants.table import GrantTable

RETRIES = 5
"""How often a guest may change an entry under our hands before we give up."""


def set_status(
    table: GrantTable, ref: int, pinned: bool, readonly: bool, mapping: bool, domid: int
) -> None:
    """Check that an entry lets `domid` in, and mark it as being read (and written).

    `pinned`: somebody has hold of it already, so that type and domain were checked. `mapping`:
    sub-page and transitive grants won't do. Raises GrantError(GNTST_general_error).
    """
    if table.version == 1:
        _set_status_v1(table, ref, pinned, readonly, mapping, domid)
    else:
        _set_status_v2(table, ref, pinned, readonly, mapping, domid)


def _set_status_v1(
    table: GrantTable, ref: int, pinned: bool, readonly: bool, mapping: bool, domid: int
) -> None:
    memory, at = table.shared.memory, table.shared.maddr(ref)
    mask = GTF_type_mask | GTF_sub_page if mapping else GTF_type_mask
    found = memory.read_u32(at)
    for _ in range(RETRIES):
        flags = found & 0xFFFF
        if not pinned and (flags & mask != GTF_permit_access or found >> 16 != domid):
            raise GrantError(GNTST_general_error, f"bad flags {flags:#x} or domain {found >> 16}")
        if not readonly and flags & GTF_readonly:
            raise GrantError(GNTST_general_error, "a read-only grant can't be written")
        use = GTF_reading if readonly else GTF_reading | GTF_writing
        expected, found = found, memory.compare_exchange_u32(at, found, found | use)
        if found == expected:
            return
    raise GrantError(GNTST_general_error, "the entry is unstable")


def _set_status_v2(
    table: GrantTable, ref: int, pinned: bool, readonly: bool, mapping: bool, domid: int
) -> None:
    shared = table.shared
    mask = GTF_type_mask | GTF_sub_page if mapping else GTF_type_mask

    def fits() -> bool:
        header = shared.header(ref)
        kind = header & mask
        right_kind = kind == GTF_permit_access or (not mapping and kind == GTF_transitive)
        return pinned or (right_kind and header >> 16 == domid)

    def writable() -> bool:
        return readonly or not shared.flags(ref) & GTF_readonly

    if not fits() or not writable():
        raise GrantError(GNTST_general_error, "bad flags or domain")
    use = GTF_reading if readonly else GTF_reading | GTF_writing
    shared.set_use(ref, use)
    # The guest sees the use before we look again: it may have withdrawn the grant meanwhile.
    if not fits() or not writable():
        shared.clear_use(ref, GTF_writing if pinned else use)
        raise GrantError(GNTST_general_error, "the entry is unstable")


def get_paged_frame(domain: Domain, gfn: int) -> int:
    """The frame that a granter means by `gfn`, with a reference taken.

    Only its own memory counts: neither what it has mapped by grant nor foreign pages. Raises
    GrantError(GNTST_bad_page).
    """
    page = domain.p2m.get_page(gfn)
    if page is None:
        raise GrantError(GNTST_bad_page, f"no page at {gfn:#x}")
    mfn, kind = page
    if kind is P2mType.map_foreign:
        domain.hypervisor.frames.put_page(mfn)
        raise GrantError(GNTST_bad_page, f"a foreign page at {gfn:#x}")
    return mfn
