# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that comes in while it still runs elsewhere.

Its first BODY comes before its pages, and says how much memory it has: so its domain is made at
once, and the pages are written into it as they come.  When the last BODY is there, little is left
to do, and the guest stands still for that only.
"""

from __future__ import annotations

import uuid as uuids
from typing import TYPE_CHECKING

from xenograft.abi.errno import XenError
from xenograft.engine.protocol import PAGE_SHIFT, PAGE_SIZE, AccessError
from xenograft.hypervisor.memory.runs import RunSet
from xenograft.hypervisor.state.rebuild import complete, prepare
from xenograft.hypervisor.state.records import StateError as RecordError
from xenograft.toolstack.state.file import BODY, HEAD, PAGE, StateError
from xenograft.toolstack.state.guest import (
    Prepared,
    cannot_rebuild,
    read_body,
    read_head,
    rebuild_guest,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenograft.hypervisor.domain import Domain as XenDomain
    from xenograft.toolstack.config.domain import DomainConfig
    from xenograft.toolstack.machine import Machine
    from xenograft.toolstack.state.file import Record
    from xenograft.toolstack.state.guest import Head

MAX_STRAYS = 1 << 14
"""Pages that may have no place yet when they come: the guest has got them meanwhile."""


class Arriving:
    """One guest on its way to a machine; `drop` lets all go of it.  For the machine's thread."""

    def __init__(self, machine: Machine, name: str, config: DomainConfig | None = None) -> None:
        """`name` is what the guest's bytes are called in messages.

        `config`: instead of the one that comes with it.
        """
        self._given = config
        self._machine = machine
        self._name = name
        self._xen: XenDomain | None = None
        self._head: Head | None = None
        self._body = b""
        self._strays: dict[int, bytes] = {}
        self._room = 0
        """How many pages a PV guest has."""

    def take(self, record: Record) -> None:
        """The next record.  Raises StateError, UserError."""
        if record.tag == HEAD:
            self._head = read_head(record.payload, self._name)
            self._machine.check_name(self._config.name)
        elif record.tag == BODY:
            self._body = record.payload
            if self._xen is None:
                self._begin()
        elif record.tag == PAGE:
            self.write(*record.pages())

    @property
    def _config(self) -> DomainConfig:
        if self._head is None:
            raise StateError(f"{self._name} is damaged: records are missing")
        return self._given or self._head.config

    def _begin(self) -> None:
        if self._head is None:
            raise StateError(f"{self._name} is damaged: records are missing")
        head, body = self._head, read_body(self._body, self._name)
        state, config = body.xen, self._config
        if body.pv is not None:
            self._room = sum(count for _, count in body.pv.pages)
        if state is None:
            return
        identity = uuids.UUID(config.uuid or head.uuid).bytes
        incoming = f"{config.name}--incoming"
        try:
            self._xen = prepare(self._machine.hypervisor, state, name=incoming, uuid=identity)
        except (RecordError, XenError) as error:
            raise cannot_rebuild(self._machine, self._name, config.name, error) from None

    def write(self, first: int, data: bytes | memoryview) -> None:
        """Pages that lie side by side, from number `first` on.  Raises StateError."""
        if self._room:
            self._keep(first, data)
            return
        if self._xen is None:
            raise StateError(f"{self._name} is damaged: pages come before all else")
        try:
            self._xen.space.write(first << PAGE_SHIFT, data)
        except AccessError:
            for index in range(len(data) >> PAGE_SHIFT):
                page = bytes(data[index << PAGE_SHIFT : index + 1 << PAGE_SHIFT])
                try:
                    self._xen.space.write(first + index << PAGE_SHIFT, page)
                except AccessError:
                    self._strays[first + index] = page
            if len(self._strays) > MAX_STRAYS:
                raise StateError(f"{self._name} is damaged: too many pages have no place") from None

    def finish(self) -> Prepared:
        """All has come: the guest, but for its devices.  Raises UserError."""
        if self._room and self._head is not None:
            return self._finish_pv(self._head)
        if self._xen is None or self._head is None:
            raise StateError(f"{self._name} is damaged: records are missing")
        head, body, xen = self._head, read_body(self._body, self._name), self._xen
        if body.xen is None:
            raise StateError(f"{self._name} is damaged: it is of two kinds")
        try:
            complete(xen, body.xen, self._found(body.xen.memory.ram), fresh=body.services is None)
        except (RecordError, XenError) as error:
            raise cannot_rebuild(self._machine, self._name, self._config.name, error) from None
        xen.name = xen.sched.name = self._config.name
        return Prepared(self._machine, self._name, head, body, self._config, xen)

    def _keep(self, first: int, data: bytes | memoryview) -> None:
        """Pages of a PV guest, which has suspended itself: it's made when all are there."""
        for index in range(len(data) >> PAGE_SHIFT):
            self._strays[first + index] = bytes(data[index << PAGE_SHIFT : index + 1 << PAGE_SHIFT])
        if len(self._strays) > self._room:
            raise StateError(f"{self._name} is damaged: it has more pages than it says")

    def _finish_pv(self, head: Head) -> Prepared:
        body = read_body(self._body, self._name)
        pages = ((number << PAGE_SHIFT, page) for number, page in sorted(self._strays.items()))
        self._xen = rebuild_guest(self._machine, head, body, pages, self._name, self._config)
        self._strays.clear()
        return Prepared(self._machine, self._name, head, body, self._config, self._xen)

    def _found(self, ram: tuple[tuple[int, int], ...]) -> Iterator[tuple[int, bytes]]:
        """Pages that have got their place meanwhile."""
        there = RunSet(ram)
        for number, page in self._strays.items():
            assert len(page) == PAGE_SIZE
            if number in there:
                yield number << PAGE_SHIFT, page

    def drop(self) -> None:
        """Let all go; a second time, or after it was let go by itself, does nothing."""
        if self._xen is not None and not self._xen.dying:
            self._machine.services.forget(self._xen.domid)
            self._machine.hypervisor.destroy_domain(self._xen)
