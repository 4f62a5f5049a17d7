# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a mapped grant appears in the mapping guest: in its physical map, or its page tables.

Facts: xen/arch/x86/hvm/grant_table.c, xen/arch/x86/pv/grant_table.c of Xen 4.17.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from xenograft.abi.errno import XenError
from xenograft.abi.grant_table import (
    GNTMAP_application_map,
    GNTMAP_contains_pte,
    GNTMAP_host_map,
    GNTMAP_readonly,
    GNTST_general_error,
)
from xenograft.engine.protocol import PAGE_SHIFT
from xenograft.hypervisor.grants.status import GrantError
from xenograft.hypervisor.memory.p2m_types import GRANT_TYPES, P2mType
from xenograft.hypervisor.pv.tables import l1_entry

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


class PvMapper:
    """PV guests: `addr` is the linear address whose L1 entry is set, or that entry's own.

    The entry holds the mapping's reference: it is dropped with it, also if the guest clears the
    entry by itself.
    """

    __slots__ = ("_domain", "_shown")

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._shown: dict[int, int] = {}
        """How often each frame of others is mapped."""

    def _entry(self, addr: int, flags: int) -> int:
        """Machine address of the L1 entry that is meant."""
        if flags & GNTMAP_contains_pte:
            if addr & 7:
                raise GrantError(GNTST_general_error, f"bad PTE address {addr:#x}")
            return addr
        vcpu = self._domain.hypervisor.running
        entry = None
        if vcpu is not None and vcpu.domain is self._domain:
            entry = l1_entry(vcpu, addr)
        if entry is None:
            raise GrantError(GNTST_general_error, f"no L1 entry for {addr:#x}")
        return entry

    def _swap(self, maddr: int, entry: int, drop: bool) -> int:
        domain = self._domain
        mfn = maddr >> PAGE_SHIFT
        if not domain.hypervisor.frames.valid(mfn):
            raise GrantError(GNTST_general_error, f"no frame {mfn:#x}")
        # What a PV domain's platform is made of isn't known to grants.
        old: int = domain.arch.pages.swap_l1(maddr, entry, drop)  # type: ignore[union-attr]
        domain.hypervisor.frames.settle()
        if old < 0:
            raise GrantError(GNTST_general_error, f"frame {mfn:#x} is no L1 table")
        return old

    def _flags(self, flags: int) -> int:
        """Flags of the L1 entry (grant_to_pte_flags)."""
        pte = _PTE_P | _PTE_A
        if not flags & GNTMAP_readonly:
            pte |= _PTE_RW | _PTE_D
        if flags & GNTMAP_application_map:
            pte |= _PTE_US
        pte |= (flags >> 16 & 7) << 9
        if self._domain.bits == 64:
            pte |= _PTE_G if pte & _PTE_US else _PTE_US | _PTE_GUEST_KERNEL
        return pte

    def create(self, addr: int, mfn: int, flags: int, cache_flags: int) -> None:
        if cache_flags:
            raise GrantError(GNTST_general_error)
        maddr = self._entry(addr, flags)
        self._swap(maddr, mfn << PAGE_SHIFT | self._flags(flags), True)
        self._shown[mfn] = self._shown.get(mfn, 0) + 1
        if self._domain.memory.owner(mfn) != self._domain.domid:
            self._domain.space.map(mfn, mfn)

    def replace(self, addr: int, mfn: int, new_addr: int, flags: int) -> None:
        if new_addr and flags & GNTMAP_contains_pte:
            raise GrantError(GNTST_general_error)
        domain = self._domain
        maddr = self._entry(addr, flags)
        found = domain.memory.read_u64(maddr)
        rights = _PTE_P | _PTE_RW
        if found >> PAGE_SHIFT & _MFN_BITS != mfn or (found ^ self._flags(flags)) & rights:
            raise GrantError(GNTST_general_error, f"entry {found:#x} isn't the grant's")
        entry = 0
        if new_addr:
            entry = self._swap(self._entry(new_addr, 0), 0, False)
        self._swap(maddr, entry, False)
        left = self._shown.get(mfn, 1) - 1
        if left:
            self._shown[mfn] = left
        else:
            self._shown.pop(mfn, None)
            if domain.memory.owner(mfn) != domain.domid:
                domain.space.unmap(mfn)
        for vcpu in domain.vcpus:
            if vcpu.cpu is not None:
                vcpu.cpu.flush_tlb()


_PTE_P, _PTE_RW, _PTE_US, _PTE_A, _PTE_D, _PTE_G = 1, 2, 4, 32, 64, 256
_PTE_GUEST_KERNEL = 1 << 52
_MFN_BITS = (1 << 40) - 1


def mapper_for(domain: Domain) -> HostMapper:
    """The mapper for a domain's kind."""
    return P2mMapper(domain) if domain.kind.is_hvm_type else PvMapper(domain)
