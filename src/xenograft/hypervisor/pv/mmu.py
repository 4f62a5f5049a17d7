# SPDX-License-Identifier: GPL-2.0-or-later
"""Page tables of PV guests by hypercall, as far as other domains' pages are concerned.

A guest's own pages are the engine's affair (its pv_update.c); here is what needs a look at who
may do it to whom.

Facts: do_mmu_update(), do_mmuext_op(), do_update_va_mapping_otherdomain(), get_pg_owner() in
xen/arch/x86/mm.c of Xen 4.17.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.xen import (
    DOMID_IO,
    DOMID_SELF,
    MMU_MACHPHYS_UPDATE,
    MMU_PT_UPDATE_NO_TRANSLATE,
    MMUEXT_PIN_L1_TABLE,
    MMUEXT_PIN_L4_TABLE,
    MMUEXT_UNPIN_TABLE,
    mmu_update,
    mmuext_op,
)
from xenograft.engine.protocol import PAGE_SHIFT
from xenograft.hypervisor.privilege import Xsm, check
from xenograft.hypervisor.pv.calls import current, native
from xenograft.hypervisor.pv.tables import l1_entry

if TYPE_CHECKING:
    from xenograft.engine.pv import PvPages
    from xenograft.hypervisor.call import Call
    from xenograft.hypervisor.domain import Domain

PTE_P = 1
MMU_UPDATE_PREEMPTED = 0x80000000
_MFN_MASK = 0x000F_FFFF_FFFF_F000


def pages_of(domain: Domain) -> PvPages:
    """The page tables of a PV domain. Raises XenError(EOPNOTSUPP) for another kind."""
    pages: PvPages | None = getattr(domain.arch, "pages", None)
    if pages is None:
        raise XenError(Errno.EOPNOTSUPP)
    return pages


def page_owner(call: Call, domid: int) -> Domain | None:
    """Whose pages a call means (get_pg_owner): None for those of devices.

    Raises XenError(ESRCH) if there's no such domain, or it is the caller under its own number.
    """
    if domid == DOMID_SELF:
        return call.domain
    if domid == DOMID_IO:
        return None
    owner = call.hypervisor.domains.get(domid)
    if owner is None or owner is call.domain:
        raise XenError(Errno.ESRCH)
    return owner


def do_mmu_update(call: Call, ureqs: int, count: int, pdone: int, foreigndom: int) -> int:
    """__HYPERVISOR_mmu_update."""
    result = native(call, "mmu_update", ureqs, count, pdone, foreigndom)
    if result is not None:
        return result
    tables = call.domain
    if pt_dom := foreigndom >> 16:
        found = call.hypervisor.domains.get(pt_dom - 1)
        if found is None:
            raise XenError(Errno.ESRCH)
        tables = found
    owner = page_owner(call, foreigndom & 0xFFFF)
    count &= ~MMU_UPDATE_PREEMPTED
    done = 0
    try:
        for index in range(count):
            update = call.read_array(ureqs, mmu_update, 1, index)[0]
            _update(call, tables, owner, update.ptr, update.val)
            done += 1
    finally:
        call.hypervisor.frames.settle()
        if pdone:
            call.write_ints(pdone, 4, [done])
    return 0


def _update(call: Call, tables: Domain, owner: Domain | None, ptr: int, val: int) -> None:
    """One update for tables, or pages, of other domains. Raises XenError."""
    if owner is not None and owner is not call.domain:
        check(Xsm.TARGET, call.domain, owner)
    if tables is not call.domain:
        check(Xsm.TARGET, call.domain, tables)
    domid = DOMID_IO if owner is None else owner.domid
    command = ptr & 7
    if command == MMU_MACHPHYS_UPDATE:
        if tables is not call.domain:
            raise XenError(Errno.EPERM)
        if owner is not None and owner.p2m.translated:
            raise XenError(Errno.EINVAL)
    elif command <= MMU_PT_UPDATE_NO_TRANSLATE and val & PTE_P:
        val = _translate(owner, command, val)
    result = pages_of(tables).update(ptr, val, domid)
    if result:
        raise XenError(Errno(-result))
    if val & PTE_P and command != MMU_MACHPHYS_UPDATE and owner is not tables:
        mfn = (val & _MFN_MASK) >> PAGE_SHIFT
        tables.space.map(mfn, mfn)


def _translate(owner: Domain | None, command: int, val: int) -> int:
    """A translated domain's frames are named by gfn."""
    if owner is None or not owner.p2m.translated or command == MMU_PT_UPDATE_NO_TRANSLATE:
        return val
    mfn, _ = owner.p2m.lookup((val & _MFN_MASK) >> PAGE_SHIFT)
    if not owner.hypervisor.frames.valid(mfn):
        raise XenError(Errno.EINVAL)
    return val & ~_MFN_MASK | mfn << PAGE_SHIFT


def do_mmuext_op(call: Call, uops: int, count: int, pdone: int, foreigndom: int) -> int:
    """__HYPERVISOR_mmuext_op."""
    result = native(call, "mmuext_op", uops, count, pdone, foreigndom)
    if result is not None:
        return result
    owner = page_owner(call, foreigndom & 0xFFFF)
    if owner is None:
        raise XenError(Errno.EPERM)
    check(Xsm.TARGET, call.domain, owner)
    count &= ~MMU_UPDATE_PREEMPTED
    done = 0
    try:
        for index in range(count):
            op = call.read_array(uops, mmuext_op, 1, index)[0]
            _ext_op(owner, op.cmd, op.arg1.mfn)
            done += 1
    finally:
        call.hypervisor.frames.settle()
        if pdone:
            call.write_ints(pdone, 4, [done])
    return 0


def _ext_op(owner: Domain, cmd: int, mfn: int) -> None:
    """What a control domain does for another: pin and unpin. Raises XenError."""
    if MMUEXT_PIN_L1_TABLE <= cmd <= MMUEXT_PIN_L4_TABLE:
        result = pages_of(owner).pin(mfn, cmd - MMUEXT_PIN_L1_TABLE + 1)
    elif cmd == MMUEXT_UNPIN_TABLE:
        result = pages_of(owner).unpin(mfn)
    else:
        raise XenError(Errno.EPERM)
    if result:
        raise XenError(Errno(-result))


def update_va_mapping(call: Call, va: int, val64: int, flags: int) -> int:
    result = native(call, "update_va_mapping", va, val64, flags)
    assert result is not None
    return result


def update_va_mapping_32(call: Call, va: int, lo: int, hi: int, flags: int) -> int:
    result = native(call, "update_va_mapping", va, lo, hi, flags)
    assert result is not None
    return result


def update_va_mapping_otherdomain(call: Call, va: int, val64: int, flags: int, domid: int) -> int:
    """Map a page of another domain at an address of the caller's."""
    owner = page_owner(call, domid & 0xFFFF)
    if owner is call.domain:
        return update_va_mapping(call, va, val64, flags)
    entry = _l1_entry(call, va)
    _update(call, call.domain, owner, entry, val64)
    if flags & 3:
        current(call).flush_tlb()
    return 0


def update_va_mapping_otherdomain_32(
    call: Call, va: int, lo: int, hi: int, flags: int, domid: int
) -> int:
    return update_va_mapping_otherdomain(call, va, lo | hi << 32, flags, domid)


def _l1_entry(call: Call, va: int) -> int:
    """Machine address of the L1 entry that maps va. Raises XenError(EINVAL)."""
    found = l1_entry(call.current, va)
    if found is None:
        raise XenError(Errno.EINVAL)
    return found
