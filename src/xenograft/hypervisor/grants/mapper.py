# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a mapped grant appears in the mapping guest: in its physical map, or its page tables.

Facts: xen/arch/x86/hvm/grant_table.c, xen/arch/x86/pv/grant_table.c of Xen 4.17.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from xenograft.abi.errno import XenError
from xenograft.abi.grant_table import (
    GNTMAP_contains_pte,
    GNTMAP_host_map,
    GNTMAP_readonly,
    GNTST_general_error,
)
from xenograft.engine.protocol import PAGE_SHIFT
from xenograft.hypervisor.grants.status import GrantError
from xenograft.hypervisor.memory.p2m_types import GRANT_TYPES, P2mType

if TYPE_CHECKING:
    from xenograft.hypervisor.domain import Domain


class HostMapper(Protocol):
    """Both raise GrantError, with nothing changed."""

    def create(self, addr: int, mfn: int, flags: int, cache_flags: int) -> None:
        """Make the frame appear at `addr`. flags: GNTMAP_*; cache_flags: GTF_PWT, …"""
        ...

    def replace(self, addr: int, mfn: int, new_addr: int, flags: int) -> None:
        """Take the frame away from `addr`; what `new_addr` maps comes there, unless it's 0."""
        ...


class P2mMapper:
    """HVM-type guests: `addr` is guest-physical."""

    __slots__ = ("_domain",)

    def __init__(self, domain: Domain) -> None:
        self._domain = domain

    def create(self, addr: int, mfn: int, flags: int, cache_flags: int) -> None:
        if cache_flags or flags & ~GNTMAP_readonly != GNTMAP_host_map:
            raise GrantError(GNTST_general_error)
        kind = P2mType.grant_map_ro if flags & GNTMAP_readonly else P2mType.grant_map_rw
        try:
            self._domain.p2m.add_page(addr >> PAGE_SHIFT, mfn, kind=kind)
        except XenError:
            raise GrantError(GNTST_general_error) from None

    def replace(self, addr: int, mfn: int, new_addr: int, flags: int) -> None:
        p2m, gfn = self._domain.p2m, addr >> PAGE_SHIFT
        if new_addr or flags & GNTMAP_contains_pte:
            raise GrantError(GNTST_general_error)
        found, kind = p2m.lookup(gfn)
        if kind not in GRANT_TYPES or found != mfn:
            raise GrantError(GNTST_general_error)
        try:
            p2m.remove_page(gfn, mfn)
        except XenError:
            raise GrantError(GNTST_general_error) from None


class NoMapper:
    """PV guests until their page tables are under the hypervisor's eye: mapping is refused."""

    def create(self, addr: int, mfn: int, flags: int, cache_flags: int) -> None:
        raise GrantError(GNTST_general_error)

    def replace(self, addr: int, mfn: int, new_addr: int, flags: int) -> None:
        raise GrantError(GNTST_general_error)


def mapper_for(domain: Domain) -> HostMapper:
    """The mapper for a domain's kind."""
    return P2mMapper(domain) if domain.kind.is_hvm_type else NoMapper()
