# SPDX-License-Identifier: GPL-2.0-or-later
"""Watches: who wants to hear of which paths (docs/misc/xenstore.txt, WATCH).

A watch hears of changes at its path and below.  If something above it was removed, and with
it the watch's own path, it hears of that path.  It hears nothing of nodes that its owner
could not read, neither now nor before, themselves or by their parent.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from xenograft.store import tree
from xenograft.store.path import RELEASE_DOMAIN, Parts, join, split
from xenograft.store.perms import READ, Who
from xenograft.store.tree import Node

if TYPE_CHECKING:
    from xenograft.store.connection import Connection
    from xenograft.store.workspace import Change


_OVERHEAD = 64


class Watch:
    """One watch of one connection.

    Events lose the prefix `base`, or have `shown` in place of `path`; `depth` is how many levels
    below `path` are heard of (None: all).
    """

    __slots__ = ("base", "connection", "depth", "path", "shown", "token")

    def __init__(
        self,
        connection: Connection,
        path: str,
        token: bytes,
        base: str = "",
        depth: int | None = None,
        shown: str | None = None,
    ) -> None:
        self.connection = connection
        self.path = path
        self.token = token
        self.base = base
        self.depth = depth
        self.shown = shown

    @property
    def size(self) -> int:
        """What it counts for in its owner's memory, in bytes."""
        return len(self.path) + len(self.token) + _OVERHEAD

    def event(self, path: str) -> bytes:
        """The payload of an event about `path`."""
        if self.base and path.startswith(self.base):
            path = path[len(self.base) :]
        elif self.shown is not None and path.startswith(self.path):
            path = self.shown + path[len(self.path) :]
        return b"%s\0%s\0" % (path.encode(), self.token)


class Watches:
    """All watches of the store, found by path."""

    def __init__(self) -> None:
        self._by_path: dict[str, list[Watch]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Watch]:
        for watches in self._by_path.values():
            yield from watches

    def add(self, watch: Watch) -> None:
        self._by_path.setdefault(watch.path, []).append(watch)
        self._count += 1

    def discard(self, watch: Watch) -> None:
        """Take a watch out that was added."""
        watches = self._by_path[watch.path]
        watches.remove(watch)
        if not watches:
            del self._by_path[watch.path]
        self._count -= 1

    def fire(self, changes: Iterable[Change], old: Node, new: Node) -> None:
        """Tell of changes that led from one root to another."""
        for change in changes if self._by_path else ():
            self._fire_path(change.parts, old, new)
            if change.whole is not None:
                # There are fewer watches below than nodes, as a rule.
                top = join(change.parts) + "/"
                for path in [path for path in self._by_path if path.startswith(top)]:
                    below = split(path)
                    if tree.lookup(change.whole, below[len(change.parts) :]) is not None:
                        self._fire_exact(below, old, new)

    def fire_special(self, name: str, domid: int, root: Node) -> None:
        """Tell that a domain came or went: `name` is one of `path.SPECIALS`."""
        readable = _Reader((name,), root, root)
        for watch in list(self._by_path.get(name, ())):
            if readable(watch.connection.who):
                told = f"{name}/{domid}" if watch.depth == 1 else name
                watch.connection.send_event(watch, told, distinct=True)
        own = f"{name}/{domid}"
        if name == RELEASE_DOMAIN:
            for watch in list(self._by_path.get(own, ())):
                if readable(watch.connection.who):
                    watch.connection.send_event(watch, own, distinct=True)

    def _fire_path(self, parts: Parts, old: Node, new: Node) -> None:
        readable = _Reader(parts, old, new)
        path = join(parts)
        length = len(parts)
        # Prefixes of the path, from the root down; a special node is below the root too.
        prefix, depth = "/", length
        while True:
            for watch in list(self._by_path.get(prefix, ())):
                near = watch.depth is None or depth <= watch.depth
                if near and readable(watch.connection.who):
                    watch.connection.send_event(watch, path)
            if depth == 0:
                break
            name = parts[length - depth]
            depth -= 1
            prefix = f"{prefix}/{name}" if len(prefix) > 1 else join((name,))

    def _fire_exact(self, parts: Parts, old: Node, new: Node) -> None:
        path = join(parts)
        watches = self._by_path.get(path)
        if watches:
            readable = _Reader(parts, old, new)
            for watch in list(watches):
                if readable(watch.connection.who):
                    watch.connection.send_event(watch, path)


class _Reader:
    """Whether somebody may hear of a path, looked up once per path."""

    __slots__ = ("_nodes", "_of")

    def __init__(self, parts: Parts, old: Node, new: Node) -> None:
        self._of = (parts, old, new)
        self._nodes: list[Node] | None = None

    def __call__(self, who: Who) -> bool:
        if who.privileged:
            return True
        if self._nodes is None:
            parts, old, new = self._of
            roots = (old,) if old is new else (old, new)
            found = [tree.lookup(root, p) for root in roots for p in (parts, parts[:-1])]
            self._nodes = [node for node in found if node is not None]
        return any(node.perms.allow(who, READ) for node in self._nodes)
