# SPDX-License-Identifier: GPL-2.0-or-later
"""Two domains and their grants: the part of each guest is played by the test."""

from __future__ import annotations

import struct

from tests.hypervisor.memory.world import Caller, Dom, World
from xenograft.abi.grant_table import (
    GNTMAP_host_map,
    GNTTABOP_map_grant_ref,
    GNTTABOP_unmap_grant_ref,
    GTF_permit_access,
    GTF_sub_page,
    GTF_transitive,
    gnttab_map_grant_ref,
    gnttab_unmap_grant_ref,
)
from xenograft.engine.protocol import PAGE_SHIFT


def entry_maddr(dom: Dom, ref: int) -> int:
    return dom.grants.shared.maddr(ref)


def grant(dom: Dom, ref: int, to: int, gfn: int, flags: int = 0) -> None:
    """What the granting guest writes into its table."""
    memory, at = dom.hypervisor.memory, entry_maddr(dom, ref)
    flags |= GTF_permit_access
    if dom.grants.version == 1:
        memory.write(at, struct.pack("<HHI", flags, to, gfn))
    else:
        memory.write(at, struct.pack("<HHIQ", flags, to, 0, gfn))


def grant_part(dom: Dom, ref: int, to: int, gfn: int, start: int, length: int) -> None:
    """A sub-page grant of version 2."""
    flags = GTF_permit_access | GTF_sub_page
    data = struct.pack("<HHHHQ", flags, to, start, length, gfn)
    dom.hypervisor.memory.write(entry_maddr(dom, ref), data)


def grant_transitive(dom: Dom, ref: int, to: int, domid: int, gref: int) -> None:
    """A grant of version 2 that stands for another domain's."""
    data = struct.pack("<HHHHII", GTF_transitive, to, domid, 0, gref, 0)
    dom.hypervisor.memory.write(entry_maddr(dom, ref), data)


def revoke(dom: Dom, ref: int) -> None:
    dom.hypervisor.memory.write(entry_maddr(dom, ref), bytes(4))


def flags_of(dom: Dom, ref: int) -> int:
    return dom.grants.shared.flags(ref)


def use_of(dom: Dom, ref: int) -> int:
    """GTF_reading and GTF_writing, wherever the version keeps them."""
    return dom.grants.shared.status_flags(ref) & 0x18


def map_ref(
    caller: Caller,
    dom: Dom,
    ref: int,
    gfn: int,
    flags: int = GNTMAP_host_map,
    domid: int | None = None,
) -> gnttab_map_grant_ref:
    """GNTTABOP_map_grant_ref with a single operation; the structure that came back."""
    op = gnttab_map_grant_ref(
        host_addr=gfn << PAGE_SHIFT,
        flags=flags,
        ref=ref,
        dom=dom.domid if domid is None else domid,
        status=99,
    )
    assert caller.grant_op(GNTTABOP_map_grant_ref, op) == 0
    return op


def unmap_ref(caller: Caller, handle: int, gfn: int, dev_bus_addr: int = 0) -> int:
    """GNTTABOP_unmap_grant_ref with a single operation; its status."""
    op = gnttab_unmap_grant_ref(
        host_addr=gfn << PAGE_SHIFT, dev_bus_addr=dev_bus_addr, handle=handle, status=99
    )
    assert caller.grant_op(GNTTABOP_unmap_grant_ref, op) == 0
    return op.status


def mfn(dom: Dom, gfn: int) -> int:
    return dom.p2m.lookup(gfn)[0]


def assert_unused(world: World, dom: Dom, ref: int, gfn: int) -> None:
    """Nobody uses the grant, nor the page behind it."""
    assert ref not in dom.grants.active
    assert use_of(dom, ref) == 0
    assert world.memory.refs(mfn(dom, gfn)) == 1
