# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that is sent while it runs (iterative pre-copy, as xc_sr_save.c does it).

A first round sends all pages, and each one after it those that were written meanwhile, until
few are left or rounds don't help any more.  Then the guest has to stand still for the rest.

A PV guest's pages have the names that it has given them, which are sure when it has suspended
itself: all of them are sent then.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

import msgspec

from xenograft.engine.protocol import PAGE_SHIFT, PAGE_SIZE
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.state.contents import contents
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.state.file import MAX_RUN, Writer
from xenograft.toolstack.state.guest import (
    body_of,
    check_can_save,
    first_body,
    head_of,
    pages_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xenograft.hypervisor.domain import Domain as XenDomain
    from xenograft.toolstack.config.domain import DomainConfig
    from xenograft.toolstack.machine import Domain, SaveMode

FEW_PAGES = 256
"""So many pages are sent while the guest stands still, without another round before."""
MAX_ROUNDS = 8
PIECE = 1 << 20
"""Bytes that are read at a time, while other guests wait."""


class _Pieces:
    """Where a writer writes to, until it's taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        self._parts.append(bytes(data))
        self.size += len(data)

    def take(self) -> bytes:
        data, self._parts, self.size = b"".join(self._parts), [], 0
        return data


class Outgoing:
    """One guest on its way.  For the machine's thread; `close` ends it, however it went.

    Raises UserError if the guest can't be sent, or another one of the machine's is under way.
    """

    def __init__(self, domain: Domain, config: DomainConfig, mode: SaveMode = "auto") -> None:
        check_can_save(domain, mode)
        self._domain = domain
        self._config = config
        self._memory = domain.machine.hypervisor.memory
        services = domain.machine.services
        if services.sending:
            raise UserError("another guest is being sent; one at a time")
        services.sending = True
        self._out = _Pieces()
        self._writer = Writer(self._out)
        self.rounds = 0
        self.pages = 0
        """Pages sent, those that were sent again included."""
        self._memory.set_dirty_logging(True)
        self._late = domain.xen.kind is GuestKind.PV
        self._entries = domain.xen.space.entries()
        """The guest's map, as the last round saw it."""
        self._pieces: Iterator[tuple[int, bytes]] = iter(()) if self._late else contents(domain.xen)
        self._closed = False
        try:
            self._writer.head(msgspec.json.encode(head_of(domain, config)))
            if not self._late:
                # The other end makes room for as much memory as this says.
                self._writer.body(msgspec.msgpack.encode(first_body(domain)))
        except BaseException:
            self.close()
            raise

    def next_piece(self) -> bytes | None:
        """The next bytes of a round; None at its end."""
        while self._out.size < PIECE:
            found = next(self._pieces, None)
            if found is None:
                break
            self._put(*found)
        return self._out.take() or None

    def _put(self, gpa: int, data: bytes) -> None:
        self._writer.pages(gpa >> PAGE_SHIFT, data)
        self.pages += len(data) >> PAGE_SHIFT

    def next_round(self) -> bool:
        """Begin another round; False if the guest has to stand still for the next."""
        self.rounds += 1
        if self._late:
            return False
        left = self._written()
        self._pieces = self._read(left)
        return len(left) > FEW_PAGES and self.rounds < MAX_ROUNDS

    def _written(self) -> dict[int, int]:
        """gfn -> mfn of what was written since the last time, or is another page now."""
        xen, memory = self._domain.xen, self._memory
        special, domid = xen.pool.special, xen.domid
        before, self._entries = self._entries, xen.space.entries()
        # By the map itself: a copy that a store has made of a shared page is in no other list.
        runs = sorted((mfn, count, gfn) for gfn, mfn, count, _ in self._entries)
        starts = [mfn for mfn, _, _ in runs]
        found: dict[int, int] = {}
        for mfn in memory.dirty_frames(True):
            at = bisect_right(starts, mfn) - 1
            if at < 0 or memory.owner(mfn) != domid or mfn in special:
                continue
            first, count, gfn = runs[at]
            if mfn < first + count:
                found[gfn + mfn - first] = mfn
        if self._entries != before:
            # What was there is no more, as far as the other end is concerned.
            sent = _mapping(xen, before)
            now = _mapping(xen, self._entries)
            found |= {gfn: mfn for gfn, mfn in now.items() if sent.get(gfn) != mfn}
        return found

    def _read(self, pages: dict[int, int]) -> Iterator[tuple[int, bytes]]:
        """Pages as they are when it's their turn, zeros too."""
        run: list[int] = []
        for gfn in [*sorted(pages), -1]:
            if run and (gfn < 0 or gfn != run[-1] + 1 or len(run) == MAX_RUN):
                yield run[0] << PAGE_SHIFT, b"".join(self._page(one, pages[one]) for one in run)
                run = []
            run.append(gfn)

    def _page(self, gfn: int, mfn: int) -> bytes:
        """A page; one that isn't there any more is sent when the map is looked at next."""
        here = self._domain.xen.space.lookup(gfn)
        if here is None or here[0] != mfn:
            return bytes(PAGE_SIZE)
        return self._memory.read(mfn << PAGE_SHIFT, PAGE_SIZE)

    def last(self) -> Iterator[bytes]:
        """All that is left, of a guest that stands still.  Raises UserError."""
        # Answers that are still to come may be written into its pages.
        body = body_of(self._domain)
        if self._late:
            # The other end is to know what it gets.
            self._writer.body(msgspec.msgpack.encode(body))
        for gpa, data in pages_of(self._domain.xen) if self._late else self._read(self._left()):
            self._put(gpa, data)
            if self._out.size >= PIECE:
                yield self._out.take()
        if not self._late:
            self._writer.body(msgspec.msgpack.encode(body))
        self._writer.done()
        yield self._out.take()

    def _left(self) -> dict[int, int]:
        """What the round that was begun hadn't sent, and what was written since."""
        rest = [
            (gpa >> PAGE_SHIFT) + index
            for gpa, data in self._pieces
            for index in range(len(data) >> PAGE_SHIFT)
        ]
        left = self._written()
        if rest:
            now = _mapping(self._domain.xen, self._entries)
            left |= {gfn: now[gfn] for gfn in rest if gfn in now}
        return left

    def close(self) -> None:
        """Stop to watch what is written; a second time does nothing."""
        if not self._closed:
            self._closed = True
            self._memory.set_dirty_logging(False)
            self._domain.machine.services.sending = False


def _mapping(xen: XenDomain, entries: list[tuple[int, int, int, int]]) -> dict[int, int]:
    """gfn -> mfn of the guest's own pages."""
    found: dict[int, int] = {}
    special = xen.pool.special
    for gfn, mfn, count, _ in entries:
        found.update(zip(range(gfn, gfn + count), range(mfn, mfn + count), strict=True))
    return {gfn: mfn for gfn, mfn in found.items() if mfn not in special} if special else found
