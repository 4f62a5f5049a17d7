# SPDX-License-Identifier: GPL-2.0-or-later
"""The children of a node: an immutable map from names, kept in order of name.

Names and nodes are held in sorted chunks of a bounded size, so that adding a name to a
directory of 10,000 copies one chunk and a short table of chunks, not the directory.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xenograft.store.tree import Node

CHUNK = 64
"""A chunk is split in two when it grows beyond twice this."""

_Chunk = tuple[tuple[str, ...], tuple["Node", ...]]


class Children:
    """An immutable sorted map from child names to nodes."""

    __slots__ = ("_chunks", "_firsts", "_listing", "_size")

    def __init__(self, chunks: tuple[_Chunk, ...] = (), size: int = 0) -> None:
        self._chunks = chunks
        self._firsts = [names[0] for names, _ in chunks] if len(chunks) > 1 else None
        self._size = size
        self._listing: bytes | None = None

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[str]:
        for names, _ in self._chunks:
            yield from names

    def items(self) -> Iterator[tuple[str, Node]]:
        """(name, node) in order of name."""
        for names, nodes in self._chunks:
            yield from zip(names, nodes, strict=True)

    def listing(self) -> bytes:
        """All names, each with a NUL behind it: the reply to DIRECTORY.  Made once."""
        found = self._listing
        if found is None:
            found = self._listing = b"".join(name.encode() + b"\0" for name in self)
        return found

    def get(self, name: str) -> Node | None:
        """The child called `name`, or None."""
        firsts = self._firsts
        if firsts is not None:
            names, nodes = self._chunks[max(bisect_right(firsts, name) - 1, 0)]
        elif self._chunks:
            names, nodes = self._chunks[0]
        else:
            return None
        at = bisect_left(names, name)
        return nodes[at] if at < len(names) and names[at] == name else None

    def set(self, name: str, node: Node) -> Children:
        """A map with `name` added, or replaced."""
        if not self._chunks:
            return Children((((name,), (node,)),), 1)
        where = self._chunk_of(name)
        names, nodes = self._chunks[where]
        at = bisect_left(names, name)
        if at < len(names) and names[at] == name:
            replaced = (names, (*nodes[:at], node, *nodes[at + 1 :]))
            return Children(self._splice(where, replaced), self._size)
        names = (*names[:at], name, *names[at:])
        nodes = (*nodes[:at], node, *nodes[at:])
        if len(names) <= 2 * CHUNK:
            return Children(self._splice(where, (names, nodes)), self._size + 1)
        halves = (names[:CHUNK], nodes[:CHUNK]), (names[CHUNK:], nodes[CHUNK:])
        return Children(self._splice(where, *halves), self._size + 1)

    def without(self, name: str) -> Children:
        """A map with `name` taken out.  Raises KeyError if it isn't there."""
        if self._chunks:
            where = self._chunk_of(name)
            names, nodes = self._chunks[where]
            at = bisect_left(names, name)
            if at < len(names) and names[at] == name:
                if len(names) == 1:
                    return Children(self._splice(where), self._size - 1)
                rest = (names[:at] + names[at + 1 :], nodes[:at] + nodes[at + 1 :])
                return Children(self._splice(where, rest), self._size - 1)
        raise KeyError(name)

    def _chunk_of(self, name: str) -> int:
        return 0 if self._firsts is None else max(bisect_right(self._firsts, name) - 1, 0)

    def _splice(self, where: int, *chunks: _Chunk) -> tuple[_Chunk, ...]:
        return (*self._chunks[:where], *chunks, *self._chunks[where + 1 :])


EMPTY = Children()
