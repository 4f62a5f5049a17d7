# SPDX-License-Identifier: GPL-2.0-or-later
"""The children of a node: an immutable map from names, kept in order of name.

Names and nodes are held in sorted chunks of a bounded size, so that adding a name to a
directory of 10,000 copies one chunk and a short table of chunks, not the directory.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xenograft.store.tree import Node

CHUNK = 64
"""A chunk is split in two when it grows beyond twice this."""


class _Chunk:
    """A run of names in order, with their nodes."""

    __slots__ = ("_listing", "names", "nodes")

    def __init__(
        self, names: tuple[str, ...], nodes: tuple[Node, ...], listing: bytes | None = None
    ) -> None:
        self.names = names
        self.nodes = nodes
        self._listing = listing

    def listing(self) -> bytes:
        if self._listing is None:
            self._listing = "\0".join((*self.names, "")).encode()
        return self._listing

    def find(self, name: str) -> tuple[int, bool]:
        """(where the name is or belongs, whether it's there)."""
        at = bisect_left(self.names, name)
        return at, at < len(self.names) and self.names[at] == name

    def replace(self, at: int, node: Node) -> _Chunk:
        return _Chunk(self.names, (*self.nodes[:at], node, *self.nodes[at + 1 :]), self._listing)

    def insert(self, at: int, name: str, node: Node) -> tuple[_Chunk, ...]:
        """The chunk with one more name, or the two that it's split into."""
        names = (*self.names[:at], name, *self.names[at:])
        nodes = (*self.nodes[:at], node, *self.nodes[at:])
        if len(names) <= 2 * CHUNK:
            return (_Chunk(names, nodes),)
        return _Chunk(names[:CHUNK], nodes[:CHUNK]), _Chunk(names[CHUNK:], nodes[CHUNK:])

    def delete(self, at: int) -> tuple[_Chunk, ...]:
        """The chunk with one name less, or nothing if it was the last one."""
        if len(self.names) == 1:
            return ()
        names = self.names[:at] + self.names[at + 1 :]
        return (_Chunk(names, self.nodes[:at] + self.nodes[at + 1 :]),)


class Children:
    """An immutable sorted map from child names to nodes."""

    __slots__ = ("_chunks", "_firsts", "_listing", "_size")

    def __init__(
        self, chunks: tuple[_Chunk, ...] = (), size: int = 0, listing: bytes | None = None
    ) -> None:
        self._chunks = chunks
        self._firsts = [chunk.names[0] for chunk in chunks] if len(chunks) > 1 else None
        self._size = size
        self._listing = listing

    @staticmethod
    def of(nodes: Mapping[str, Node]) -> Children:
        """A map of many at once."""
        names = sorted(nodes)
        cuts = [tuple(names[at : at + CHUNK]) for at in range(0, len(names), CHUNK)]
        chunks = [_Chunk(cut, tuple([nodes[name] for name in cut])) for cut in cuts]
        return Children(tuple(chunks), len(names))

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[str]:
        for chunk in self._chunks:
            yield from chunk.names

    def items(self) -> Iterator[tuple[str, Node]]:
        """(name, node) in order of name."""
        for chunk in self._chunks:
            yield from zip(chunk.names, chunk.nodes, strict=True)

    def listing(self) -> bytes:
        """All names, each with a NUL behind it: the reply to DIRECTORY.  Made once."""
        found = self._listing
        if found is None:
            found = self._listing = b"".join([chunk.listing() for chunk in self._chunks])
        return found

    def get(self, name: str) -> Node | None:
        """The child called `name`, or None."""
        # Each part of each path comes by here.
        firsts = self._firsts
        if firsts is not None:
            chunk = self._chunks[max(bisect_right(firsts, name) - 1, 0)]
        elif self._chunks:
            chunk = self._chunks[0]
        else:
            return None
        names = chunk.names
        at = bisect_left(names, name)
        return chunk.nodes[at] if at < len(names) and names[at] == name else None

    def set(self, name: str, node: Node) -> Children:
        """A map with `name` added, or replaced."""
        if not self._chunks:
            return Children((_Chunk((name,), (node,)),), 1)
        where = self._chunk_of(name)
        chunk = self._chunks[where]
        at, found = chunk.find(name)
        if found:
            return Children(
                self._splice(where, (chunk.replace(at, node),)), self._size, self._listing
            )
        return Children(self._splice(where, chunk.insert(at, name, node)), self._size + 1)

    def without(self, name: str) -> Children:
        """A map with `name` taken out.  Raises KeyError if it isn't there."""
        if self._chunks:
            where = self._chunk_of(name)
            chunk = self._chunks[where]
            at, found = chunk.find(name)
            if found:
                return Children(self._splice(where, chunk.delete(at)), self._size - 1)
        raise KeyError(name)

    def replaced(self, nodes: Iterable[Node]) -> Children:
        """The same names with other nodes, which are in order of name."""
        left = iter(nodes)
        chunks = [
            _Chunk(chunk.names, tuple(islice(left, len(chunk.names))), chunk._listing)
            for chunk in self._chunks
        ]
        return Children(tuple(chunks), self._size, self._listing)

    def _chunk_of(self, name: str) -> int:
        firsts = self._firsts
        return 0 if firsts is None else max(bisect_right(firsts, name) - 1, 0)

    def _splice(self, where: int, chunks: tuple[_Chunk, ...]) -> tuple[_Chunk, ...]:
        return (*self._chunks[:where], *chunks, *self._chunks[where + 1 :])


EMPTY = Children()
