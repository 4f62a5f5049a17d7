# SPDX-License-Identifier: GPL-2.0-or-later
"""Grants for back ends that live in this process: the same checks and counts as for a guest.

A back end maps through the grant table of the domain that it acts for (domain 0)::

    with map_grant(dom0.grants, frontend_domid, ref) as page:
        data = page.read(0, 64)
        page.write(64, b"answer")
"""

from __future__ import annotations

import struct
from types import TracebackType
from typing import TYPE_CHECKING, Self

from xenograft.abi.grant_table import (
    GNTMAP_host_map,
    GNTMAP_readonly,
    GNTST_bad_domain,
    GNTST_okay,
    GTF_permit_access,
    GTF_readonly,
    GTF_type_mask,
)
from xenograft.engine.protocol import PAGE_SHIFT, PAGE_SIZE, Granted
from xenograft.hypervisor.grants.copying import acquire_grant, release_grant
from xenograft.hypervisor.grants.mapping import map_grant_ref, report, unmap_grant
from xenograft.hypervisor.grants.status import GrantError

if TYPE_CHECKING:
    from xenograft.hypervisor.grants.table import GrantTable


class GrantMapping:
    """A mapped grant: a frame that stays where it is until `unmap`.

    `mfn` and `maddr` name the frame in machine memory. Reads and writes stay within the page.
    """

    __slots__ = ("_table", "domid", "handle", "maddr", "mfn", "readonly", "ref")

    def __init__(
        self, table: GrantTable, domid: int, ref: int, readonly: bool, handle: int, mfn: int
    ) -> None:
        self._table: GrantTable | None = table
        self.domid = domid
        self.ref = ref
        self.readonly = readonly
        self.handle = handle
        self.mfn = mfn
        self.maddr = mfn << PAGE_SHIFT

    def _at(self, offset: int, size: int) -> int:
        if self._table is None:
            raise ValueError("the grant is unmapped")
        if offset < 0 or size < 0 or offset + size > PAGE_SIZE:
            raise IndexError(f"bytes {offset} (+{size}) are outside the page")
        return self.maddr + offset

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of the page. Raises IndexError beyond it, ValueError once unmapped."""
        at = self._at(offset, size)
        assert self._table is not None  # _at has checked it
        return self._table.shared.memory.read(at, size)

    def write(self, offset: int, data: bytes) -> None:
        """Change the page. Raises as `read` does, and ValueError if it's mapped read-only."""
        at = self._at(offset, len(data))
        if self.readonly:
            raise ValueError("the grant is mapped read-only")
        assert self._table is not None  # _at has checked it
        self._table.shared.memory.write(at, data)

    def unmap(self) -> None:
        """Let go of the page; a second time does nothing."""
        table, self._table = self._table, None
        if table is not None and self.handle in table.maptrack:
            unmap_grant(table, self.handle, 0)
            report(table, "unmap", self.domid, self.ref, GNTST_okay)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.unmap()


def map_grant(table: GrantTable, domid: int, ref: int, readonly: bool = False) -> GrantMapping:
    """Map a grant of domain `domid` for a back end of the table's domain. Raises GrantError."""
    flags = GNTMAP_host_map | (GNTMAP_readonly if readonly else 0)
    try:
        mapped = map_grant_ref(table, domid, ref, flags, 0, hosted=True)
    except GrantError as error:
        report(table, "map", domid, ref, error.status)
        raise
    report(table, "map", domid, ref, GNTST_okay)
    return GrantMapping(table, domid, ref, readonly, mapped.handle, mapped.mfn)


def copy_from_grant(table: GrantTable, domid: int, ref: int, offset: int, size: int) -> bytes:
    """Read from a grant without mapping it. Raises GrantError; IndexError outside it."""
    return _copy(table, domid, ref, offset, size, None)


def copy_to_grant(table: GrantTable, domid: int, ref: int, offset: int, data: bytes) -> None:
    """Write to a grant without mapping it. Raises GrantError; IndexError outside it."""
    _copy(table, domid, ref, offset, len(data), data)


class GrantCopier:
    """Copies to and from the grants of one domain, with all that can be looked up once.

    What a guest grants for a packet is used once, and is an ordinary page of its own, which
    nobody has hold of: then its entry is checked, the bytes are copied, and since no guest runs
    meanwhile, nobody could have seen the flags and counts that a longer use needs.  Everything
    else goes the way of `copy_from_grant` and `copy_to_grant`.
    """

    __slots__ = ("_domid", "_frames", "_granter", "_memory", "_packed", "_table")

    def __init__(self, table: GrantTable, domid: int) -> None:
        self._table = table
        self._domid = domid
        self._memory = table.shared.memory
        self._granter: GrantTable | None = None
        self._frames: list[int] = []
        self._packed = b""

    def _find(self, ref: int, offset: int, size: int, write: bool) -> int | None:
        """The machine address of bytes in a grant that is as described above, else None."""
        granter = self._granter
        if granter is None:
            granter = self._granter = _granter(self._table, self._domid)
        table, shared = self._table, granter.shared
        hypervisor = table.domain.hypervisor
        watched = hypervisor.instruments.grant_op is not None
        watched = watched or hypervisor.faults.grant_copy is not None
        if shared.version != 1 or ref >= len(shared) or ref in granter.active or watched:
            return None
        entry = self._memory.read_u64(shared.maddr(ref))
        mask = GTF_type_mask | (GTF_readonly if write else 0)
        mine = entry & mask == GTF_permit_access and entry >> 16 & 0xFFFF == table.domain.domid
        if not mine or granter.domain.dying or not 0 <= offset <= offset + size <= PAGE_SIZE:
            return None
        mfn = granter.domain.p2m.own_ram(entry >> 32, write)
        return None if mfn is None else mfn << PAGE_SHIFT | offset

    def describe(self) -> Granted | None:
        """What the native core needs to do the same for many; None where it may not.

        Raises GrantError if there is no such domain.
        """
        granter = self._granter
        if granter is None:
            granter = self._granter = _granter(self._table, self._domid)
        domain, shared = granter.domain, granter.shared
        hypervisor = domain.hypervisor
        faults = hypervisor.faults
        watched = hypervisor.instruments.grant_op is not None
        watched = watched or faults.grant_copy is not None or faults.grant_map is not None
        if shared.version != 1 or domain.dying or watched:
            return None
        described = domain.p2m.describe()
        if described is None:
            return None
        space, types = described
        if shared.frames != self._frames:
            self._frames = list(shared.frames)
            self._packed = struct.pack(f"={len(self._frames)}Q", *self._frames)
        owner, peer = domain.domid, self._table.domain.domid
        return Granted(space, self._packed, granter.active, types, owner, peer)

    def copy_all_from(self, parts: bytes) -> bytes | None:
        """Read from plain grants at once; None: copy them one by one.

        Parts are as `MachineMemory.exchange` has them.  Raises GrantError.
        """
        granted = self.describe()
        return None if granted is None else self._memory.exchange(granted, parts)

    def copy_all_to(self, parts: bytes, data: bytes) -> bool:
        """Write to plain grants at once; False: copy to them one by one.  Raises GrantError."""
        granted = self.describe()
        return granted is not None and self._memory.exchange(granted, parts, data) is not None

    def copy_from(self, ref: int, offset: int, size: int) -> bytes:
        """Read from a grant.  Raises GrantError; IndexError outside it."""
        at = self._find(ref, offset, size, False)
        if at is None:
            return copy_from_grant(self._table, self._domid, ref, offset, size)
        return self._memory.read(at, size)

    def copy_to(self, ref: int, offset: int, data: bytes) -> None:
        """Write to a grant.  Raises GrantError; IndexError outside it."""
        at = self._find(ref, offset, len(data), True)
        if at is None:
            copy_to_grant(self._table, self._domid, ref, offset, data)
        else:
            self._memory.write(at, data)


def _copy(
    table: GrantTable, domid: int, ref: int, offset: int, size: int, data: bytes | None
) -> bytes:
    granter = _granter(table, domid)
    readonly = data is None
    try:
        page = acquire_grant(granter, ref, table.domain.domid, readonly)
    except GrantError as error:
        report(table, "copy", domid, ref, error.status)
        raise
    try:
        if offset < page.start or size < 0 or offset + size > page.start + page.length:
            raise IndexError(f"bytes {offset} (+{size}) are outside the grant")
        at = page.mfn << PAGE_SHIFT | offset
        if data is not None:
            table.shared.memory.write(at, data)
            return b""
        return table.shared.memory.read(at, size)
    finally:
        release_grant(granter, ref, readonly)
        table.domain.hypervisor.frames.put_page(page.mfn)
        report(table, "copy", domid, ref, GNTST_okay)


def _granter(table: GrantTable, domid: int) -> GrantTable:
    granter = table.domain.hypervisor.domains.get(domid)
    if granter is None:
        raise GrantError(GNTST_bad_domain, f"no domain {domid}")
    granted: GrantTable = granter.grants
    return granted
