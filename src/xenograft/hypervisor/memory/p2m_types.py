# SPDX-License-Identifier: GPL-2.0-or-later
"""Types of second-stage entries, with Xen's names and numbers.

Facts: enum p2m_type_t and its masks in xen/arch/x86/include/asm/p2m.h; the permissions of each
type in ept_p2m_type_to_flags() (xen/arch/x86/mm/p2m-ept.c). Types of features that aren't built
into a stock Xen 4.17 (paging, sharing) are left out.
"""

from __future__ import annotations

from enum import IntEnum

from xenograft.engine.protocol import P2M_EXEC, P2M_PRESENT, P2M_RWX, P2M_WRITE


class P2mType(IntEnum):
    """What stands behind a guest frame number."""

    ram_rw = 0
    invalid = 1
    ram_ro = 3
    mmio_dm = 4
    mmio_direct = 5
    populate_on_demand = 6
    grant_map_rw = 7
    grant_map_ro = 8
    map_foreign = 14


RAM_TYPES = frozenset((P2mType.ram_rw, P2mType.ram_ro))
"""The domain's own memory (p2m_is_ram)."""

GRANT_TYPES = frozenset((P2mType.grant_map_rw, P2mType.grant_map_ro))
"""Another domain's frame, mapped by grant (p2m_is_grant)."""

HOLE_TYPES = frozenset((P2mType.mmio_dm, P2mType.invalid))
"""Nothing there: accesses go to the device model (p2m_is_hole)."""

SPECIAL_TYPES = GRANT_TYPES | {P2mType.map_foreign, P2mType.mmio_direct}
"""Set and cleared by their own operations alone (p2m_is_special)."""

DISCARD_WRITE_TYPES = frozenset((P2mType.ram_ro, P2mType.grant_map_ro))
"""Writes by the hypervisor on the guest's behalf are dropped (p2m_is_discard_write)."""

ANY_RAM_TYPES = RAM_TYPES | GRANT_TYPES | {P2mType.map_foreign}
"""Everything that has a frame of memory behind it (p2m_is_any_ram)."""

FLAGS = {
    P2mType.ram_rw: P2M_RWX,
    P2mType.ram_ro: P2M_PRESENT | P2M_EXEC,
    P2mType.mmio_direct: P2M_RWX,
    P2mType.grant_map_rw: P2M_PRESENT | P2M_WRITE,
    P2mType.grant_map_ro: P2M_PRESENT,
    P2mType.map_foreign: P2M_PRESENT | P2M_WRITE,
}
"""Permissions that the engine enforces for each type that has a frame."""
