# SPDX-License-Identifier: GPL-2.0-or-later
"""HYPERVISOR_grant_table_op: the table of its operations, and the way in.

An operation comes with an array of `count` structures; each gets a status of its own. Long
arrays are worked off in steps: the call continues with what is left of the array.

Facts: do_grant_table_op(), compat_grant_table_op() in xen/common/, and hvm_grant_table_op() in
xen/arch/x86/hvm/hypercall.c of Xen 4.17, which lets HVM-type guests at eight operations alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from xenograft.abi import grant_table as abi
from xenograft.abi.errno import Errno, XenError
from xenograft.abi.grant_table import (
    GNTTAB_CACHE_CLEAN,
    GNTTAB_CACHE_INVAL,
    GNTST_bad_domain,
    GNTST_bad_gntref,
    GNTST_bad_virt_addr,
    GNTST_eagain,
    GNTST_general_error,
    GNTST_okay,
    GNTST_permission_denied,
)
from xenograft.abi.xen import __HYPERVISOR_grant_table_op as HYPERVISOR_grant_table_op
from xenograft.engine.protocol import PAGE_SHIFT, PAGE_SIZE
from xenograft.hypervisor.call import Continuation
from xenograft.hypervisor.grants.copying import copy_one
from xenograft.hypervisor.grants.mapping import map_grant_ref, report, unmap_grant
from xenograft.hypervisor.grants.status import GrantError
from xenograft.hypervisor.grants.transfer import transfer_one
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.memory.limits import copy_member
from xenograft.hypervisor.ops import Decisions, Op, everyone, family, pv_only
from xenograft.hypervisor.privilege import Xsm, allowed, check

if TYPE_CHECKING:
    from xenograft.abi.struct import Struct
    from xenograft.hypervisor.call import Call
    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.grants.table import GrantTable

CONTINUATION_SHIFT = 12
CMD_MASK = (1 << CONTINUATION_SHIFT) - 1

BUDGET = 32
"""Structures of an array that are worked off per call."""

COMPAT_XLAT_SIZE = 2 * PAGE_SIZE
"""Room that Xen has for translating a 32-bit caller's lists of frames."""


class Batch(NamedTuple):
    """An operation's array: where it is, and how long."""

    addr: int
    nr: int


def _grants(domain: Domain) -> GrantTable:
    table: GrantTable = domain.grants
    return table


# -- set-up and queries ---------------------------------------------------------------------------
def _one(batch: Batch) -> int:
    if batch.nr != 1:
        raise XenError(Errno.EINVAL)
    return batch.addr


def _status_domain(call: Call, domid: int) -> Domain:
    """The domain whose table is meant. Raises GrantError."""
    try:
        domain = call.hypervisor.resolve_domid(call, domid)
    except XenError:
        raise GrantError(GNTST_bad_domain) from None
    if not allowed(Xsm.TARGET, call.domain, domain):
        raise GrantError(GNTST_permission_denied)
    return domain


def _frame_limit(call: Call, structure: type[Struct]) -> int:
    if call.bits == 64:
        return 0xFFFFFFFF
    return (COMPAT_XLAT_SIZE - structure.sizeof(64)) // 8


def setup_table(call: Call, batch: Batch) -> int:
    """Grow the table, and list where its frames are."""
    addr = _one(batch)
    op = call.read(addr, abi.gnttab_setup_table)
    try:
        op.status = _setup_table(call, op)
    except GrantError as error:
        op.status = error.status
    copy_member(call, addr, op, "status")
    return 0


def _setup_table(call: Call, op: abi.gnttab_setup_table) -> int:
    domain = _status_domain(call, op.dom)
    table = _grants(domain)
    if op.nr_frames > min(table.max_grant_frames, _frame_limit(call, abi.gnttab_setup_table)):
        return GNTST_general_error
    try:
        table.grow(op.nr_frames)
    except XenError:
        return GNTST_general_error
    gfns = [domain.p2m.gfn_of(mfn) for mfn in table.shared.frames[: op.nr_frames]]
    try:
        call.write_ulongs(op.frame_list, gfns)
    except XenError:
        return GNTST_bad_virt_addr
    return GNTST_okay


def get_status_frames(call: Call, batch: Batch) -> int:
    """List where the status frames are."""
    addr = _one(batch)
    op = call.read(addr, abi.gnttab_get_status_frames)
    try:
        op.status = _get_status_frames(call, op)
    except GrantError as error:
        op.status = error.status
    copy_member(call, addr, op, "status")
    return 0


def _get_status_frames(call: Call, op: abi.gnttab_get_status_frames) -> int:
    domain = _status_domain(call, op.dom)
    status = _grants(domain).shared.status
    if op.nr_frames > min(len(status), _frame_limit(call, abi.gnttab_get_status_frames)):
        return GNTST_general_error
    try:
        gfns = [domain.p2m.gfn_of(mfn) for mfn in status[: op.nr_frames]]
        call.write_ints(op.frame_list, 8, gfns)
    except XenError:
        return GNTST_bad_virt_addr
    return GNTST_okay


def query_size(call: Call, batch: Batch) -> int:
    """How large the table is, and may be."""
    addr = _one(batch)
    op = call.read(addr, abi.gnttab_query_size)
    try:
        table = _grants(_status_domain(call, op.dom))
        op.nr_frames, op.max_nr_frames = table.nr_frames, table.max_grant_frames
        op.status = GNTST_okay
    except GrantError as error:
        op.status = error.status
    call.write(addr, op)
    return 0


def set_version(call: Call, batch: Batch) -> int:
    """Change the table's version; tells the one in force, whatever happened."""
    op = call.read(batch.addr, abi.gnttab_set_version)
    table = _grants(call.domain)
    try:
        table.set_version(op.version)
    finally:
        op.version = table.version
        call.write(batch.addr, op)
    return 0


def get_version(call: Call, batch: Batch) -> int:
    """The version of a domain's table."""
    op = call.read(batch.addr, abi.gnttab_get_version)
    domain = call.hypervisor.resolve_domid(call, op.dom)
    check(Xsm.TARGET, call.domain, domain)
    op.version = _grants(domain).version
    copy_member(call, batch.addr, op, "version")
    return 0


# -- arrays ---------------------------------------------------------------------------------------
Single = Callable[["Call", Any], tuple[int, int]]
"""Does one structure, raising GrantError; returns (remote domid, ref) for the instruments."""


def _array(name: str, structure: type[Struct], single: Single, whole: bool = False) -> Any:
    """A handler that does the structures of an array one by one.

    `whole`: all of the structure is copied back, not only its status.
    """
    command = getattr(abi, f"GNTTABOP_{name}")

    def handler(call: Call, batch: Batch) -> int:
        size = structure.sizeof(call.bits)
        for i in range(batch.nr):
            addr = (batch.addr + i * size) & (1 << call.bits) - 1
            if i == BUDGET:
                raise Continuation(HYPERVISOR_grant_table_op, command, addr, batch.nr - i)
            op: Any = call.read(addr, structure)
            remote, ref = -1, -1
            try:
                remote, ref = single(call, op)
                op.status = GNTST_okay
            except GrantError as error:
                op.status = error.status
            if whole:
                call.write(addr, op)
            else:
                copy_member(call, addr, op, "status")
            report(_grants(call.domain), name, remote, ref, op.status)
        return 0

    handler.__name__ = handler.__qualname__ = name
    handler.__doc__ = structure.__doc__
    return handler


def _map(call: Call, op: abi.gnttab_map_grant_ref) -> tuple[int, int]:
    mapped = map_grant_ref(_grants(call.domain), op.dom, op.ref, op.flags, op.host_addr)
    op.handle, op.dev_bus_addr = mapped.handle, mapped.mfn << PAGE_SHIFT
    return op.dom, op.ref


def _tracked(call: Call, handle: int) -> tuple[int, int]:
    track = _grants(call.domain).maptrack.get(handle)
    return (-1, -1) if track is None else (track.domid, track.ref)


def _unmap(call: Call, op: abi.gnttab_unmap_grant_ref) -> tuple[int, int]:
    what = _tracked(call, op.handle)
    unmap_grant(_grants(call.domain), op.handle, op.host_addr, op.dev_bus_addr)
    return what


def _unmap_and_replace(call: Call, op: abi.gnttab_unmap_and_replace) -> tuple[int, int]:
    what = _tracked(call, op.handle)
    unmap_grant(_grants(call.domain), op.handle, op.host_addr, new_addr=op.new_addr)
    return what


def _copy(call: Call, op: abi.gnttab_copy) -> tuple[int, int]:
    copy_one(call, op)
    if op.flags & abi.GNTCOPY_source_gref:
        return op.source.domid, op.source.u.ref
    if op.flags & abi.GNTCOPY_dest_gref:
        return op.dest.domid, op.dest.u.ref
    return call.domain.domid, -1


def _transfer(call: Call, op: abi.gnttab_transfer) -> tuple[int, int]:
    transfer_one(call, op)
    return op.domid, op.ref


def _swap(call: Call, op: abi.gnttab_swap_grant_ref) -> tuple[int, int]:
    table = _grants(call.domain)
    a, b = op.ref_a, op.ref_b
    if a >= len(table.shared) or b >= len(table.shared):
        raise GrantError(GNTST_bad_gntref)
    if a != b:
        if any(ref in table.active for ref in (a, b)):
            raise GrantError(GNTST_eagain)
        table.shared.swap(a, b)
    return call.domain.domid, a


def cache_flush(call: Call, batch: Batch) -> int:
    """Clean or invalidate caches: there are none to speak of, so only the arguments count."""
    size = abi.gnttab_cache_flush.sizeof(call.bits)
    for i in range(batch.nr):
        addr = (batch.addr + i * size) & (1 << call.bits) - 1
        if i == BUDGET:
            raise Continuation(
                HYPERVISOR_grant_table_op, abi.GNTTABOP_cache_flush, addr, batch.nr - i
            )
        _cache_flush(call, call.read(addr, abi.gnttab_cache_flush))
    return 0


def _cache_flush(call: Call, op: abi.gnttab_cache_flush) -> None:
    known = GNTTAB_CACHE_INVAL | GNTTAB_CACHE_CLEAN
    if op.offset >= PAGE_SIZE or op.offset + op.length > PAGE_SIZE or op.op & ~known:
        raise XenError(Errno.EINVAL)
    if not op.length or not op.op:
        return
    frames, mfn = call.hypervisor.frames, op.a.dev_bus_addr >> PAGE_SHIFT
    if not frames.valid(mfn):
        raise XenError(Errno.EINVAL)
    owner = frames.owner_and_reference(mfn)
    if owner is None:
        raise XenError(Errno.EPERM)
    frames.put_page(mfn)
    if owner != call.domain.domid:
        granter = call.hypervisor.domains.get(owner)
        used = granter is not None and any(
            entry.mfn == mfn and entry.domid == call.domain.domid
            for entry in _grants(granter).active.values()
        )
        if not used:
            raise XenError(Errno.EINVAL)
    if op.op == GNTTAB_CACHE_INVAL:
        # x86 can't drop cache lines without writing them back.
        raise XenError(Errno.EOPNOTSUPP)


# -- the table ----------------------------------------------------------------------------------
def _op(name: str, argument: type[Struct], decisions: Decisions) -> Op:
    return Op(getattr(abi, f"GNTTABOP_{name}"), f"GNTTABOP_{name}", argument, decisions, raw=True)


def _array_op(
    name: str, argument: type[Struct], single: Single, kinds: Callable[[Any], Decisions]
) -> Op:
    whole = name == "map_grant_ref"
    return _op(name, argument, kinds(_array(name, argument, single, whole)))


GNTTABOPS: dict[int, Op] = family(
    (
        _array_op("map_grant_ref", abi.gnttab_map_grant_ref, _map, everyone),
        _array_op("unmap_grant_ref", abi.gnttab_unmap_grant_ref, _unmap, everyone),
        _op("setup_table", abi.gnttab_setup_table, everyone(setup_table)),
        # Xen has given up this one: no kind can reach anything.
        _op("dump_table", abi.gnttab_dump_table, everyone(Errno.ENOSYS)),
        _array_op("transfer", abi.gnttab_transfer, _transfer, pv_only),
        _array_op("copy", abi.gnttab_copy, _copy, everyone),
        _op("query_size", abi.gnttab_query_size, everyone(query_size)),
        _array_op("unmap_and_replace", abi.gnttab_unmap_and_replace, _unmap_and_replace, pv_only),
        _op("set_version", abi.gnttab_set_version, everyone(set_version)),
        _op("get_status_frames", abi.gnttab_get_status_frames, pv_only(get_status_frames)),
        _op("get_version", abi.gnttab_get_version, everyone(get_version)),
        _array_op("swap_grant_ref", abi.gnttab_swap_grant_ref, _swap, everyone),
        _op("cache_flush", abi.gnttab_cache_flush, pv_only(cache_flush)),
    )
)
"""Handlers take (call, Batch)."""


def grant_table_op(call: Call, cmd: int, uop: int, count: int) -> int:
    """The hypercall. Raises XenError, and Continuation with what is left of the array."""
    cmd &= 0xFFFFFFFF
    count &= 0xFFFFFFFF
    row = GNTTABOPS.get(cmd & CMD_MASK)
    opaque = cmd & ~CMD_MASK
    kind: GuestKind = call.domain.kind
    if kind.is_hvm_type and (row is None or opaque or isinstance(row.decisions[kind], Errno)):
        raise XenError(Errno.ENOSYS)
    if count >> 31 or (opaque and cmd & CMD_MASK != abi.GNTTABOP_cache_flush):
        raise XenError(Errno.EINVAL)
    decision = Errno.ENOSYS if row is None else row.decisions[kind]
    if isinstance(decision, Errno):
        raise XenError(decision)
    return decision(call, Batch(uop, count))
