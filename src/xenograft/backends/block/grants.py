# SPDX-License-Identifier: GPL-2.0-or-later
"""The front end's pages: mapped for a request, or kept (persistent grants).

A front end that offers `feature-persistent` uses the same pages again and again, so they stay
mapped, those least lately used giving way.  Pages that a request under way needs never go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.hypervisor.grants.status import GrantError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xenograft.backends.xenbus.host import BackendHost
    from xenograft.hypervisor.grants.host import GrantMapping

MAX_PERSISTENT = 1056
"""Pages of a queue that stay mapped (blkback's xen_blkif_max_pgrants)."""


class Page:
    """A mapped page: `users` requests need it; `kept` if it stays afterwards."""

    __slots__ = ("kept", "maddr", "mapping", "ref", "used", "users")

    def __init__(self, ref: int, mapping: GrantMapping, kept: bool) -> None:
        self.ref = ref
        self.mapping = mapping
        self.maddr = mapping.maddr
        self.kept = kept
        self.users = 0
        self.used = 0


class GrantPages:
    """The pages of one queue."""

    def __init__(
        self, host: BackendHost, domid: int, persistent: bool, limit: int = MAX_PERSISTENT
    ) -> None:
        self._host = host
        self._domid = domid
        self._persistent = persistent
        self._limit = limit
        self._kept: dict[int, Page] = {}
        self.maddrs: dict[int, int] = {}
        """Machine addresses of the pages that are kept, by reference."""
        self.held = 0
        """Requests under way that need some of the kept pages, whichever."""
        self._passing: dict[Page, None] = {}
        self._tick = 0

    @property
    def kept(self) -> int:
        """Pages that stay mapped."""
        return len(self._kept)

    def acquire(self, refs: Iterable[int], readonly: bool) -> list[Page]:
        """Map pages for a request; `release` gives them back.

        `readonly`: it only reads them (persistent ones are mapped for writing in any case).
        Raises GrantError, with nothing held.
        """
        kept = self._kept
        self._tick += 1
        tick = self._tick
        pages: list[Page] = []
        try:
            for ref in refs:
                page = kept.get(ref)
                if page is None:
                    page = self._map(ref, readonly)
                page.users += 1
                page.used = tick
                pages.append(page)
        except GrantError:
            self.release(pages)
            raise
        return pages

    def _map(self, ref: int, readonly: bool) -> Page:
        keep = self._persistent and (len(self._kept) < self._limit or self._make_room())
        page = Page(ref, self._host.map(self._domid, ref, readonly and not keep), keep)
        if keep:
            self._kept[ref] = page
            self.maddrs[ref] = page.maddr
        else:
            self._passing[page] = None
        return page

    def _make_room(self) -> bool:
        """Unmap the least lately used eighth of the kept pages; False if all are in use."""
        if self.held:
            return False
        idle = sorted((p for p in self._kept.values() if not p.users), key=lambda p: p.used)
        for page in idle[: max(self._limit // 8, 1)]:
            del self._kept[page.ref], self.maddrs[page.ref]
            page.mapping.unmap()
        return bool(idle)

    def release(self, pages: Iterable[Page]) -> None:
        """A request doesn't need its pages any more."""
        for page in pages:
            page.users -= 1
            if not page.kept and not page.users:
                self._passing.pop(page, None)
                page.mapping.unmap()

    def close(self) -> None:
        """Unmap everything, also what requests under way believe to have."""
        for page in [*self._kept.values(), *self._passing]:
            page.mapping.unmap()
        self._kept.clear()
        self.maddrs.clear()
        self._passing.clear()

    def save(self) -> tuple[int, ...]:
        """The references of the pages that are kept."""
        return tuple(self._kept)
