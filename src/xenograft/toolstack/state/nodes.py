# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain's part of the store: taken out, and written again under another number."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import msgspec

from xenograft.abi.errno import XenError
from xenograft.store import tree
from xenograft.store.alias import renumbered
from xenograft.store.path import absolute, join, split
from xenograft.store.perms import Perms
from xenograft.toolstack.layout import domain_path

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xenograft.store.connection import Connection
    from xenograft.store.service import Xenstore

MAX_NODES = 1 << 16
"""Nodes that a saved domain may have: a guest's quota is far below that."""

_NUMBERS = ("frontend-id", "domid")
"""Nodes whose value is the domain's number."""


class SavedNode(msgspec.Struct, frozen=True, array_like=True):
    """A node; `perms` as the store has them in words, the owner first (``n0``, ``r3``)."""

    path: str
    value: bytes
    perms: tuple[str, ...]


def roots(domid: int, uuid: str, kinds: Iterable[str]) -> list[str]:
    """Where a domain's nodes are; `kinds` are those of domain 0's back ends."""
    backends = f"{domain_path(0)}/backend"
    return [
        domain_path(domid),
        f"/vm/{uuid}",
        f"/libxl/{domid}",
        *(f"{backends}/{kind}/{domid}" for kind in kinds),
    ]


def save_nodes(store: Xenstore, domid: int, uuid: str) -> tuple[SavedNode, ...]:
    """All nodes of a domain, parents before children."""
    root = store.state.root
    backends = tree.lookup(root, split(f"{domain_path(0)}/backend"))
    kinds = [] if backends is None else [name for name, _ in backends.children.items()]
    found: list[SavedNode] = []
    words = cache(_words)  # a domain's nodes have few different ones
    for top in roots(domid, uuid, kinds):
        node = tree.lookup(root, split(top))
        if node is not None:
            for parts, one in tree.walk(node, split(top)):
                found.append(SavedNode(join(parts), one.value, words(one.perms)))
    return tuple(found)


def _words(perms: Perms) -> tuple[str, ...]:
    return tuple(perms.words())


def check_nodes(nodes: tuple[SavedNode, ...], domid: int, uuid: str) -> None:
    """Raises ValueError if they aren't such as `save_nodes` would have found.

    They come out of a file: nothing of anybody else's may be written by them.
    """
    if len(nodes) > MAX_NODES:
        raise ValueError("too many store nodes")
    private = [split(path) for path in roots(domid, uuid, ())]
    backend = split(f"{domain_path(0)}/backend")
    for node in nodes:
        try:
            if not node.path.startswith("/"):
                raise ValueError("a relative path")
            parts = split(absolute(node.path.encode(), 0))
        except (XenError, ValueError):
            raise ValueError(f"store node {node.path[:80]!r} has no good path") from None
        own = any(parts[: len(top)] == top for top in private)
        served = parts[:4] == backend and parts[5:6] == (str(domid),)
        if not (own or served):
            raise ValueError(f"store node {node.path[:80]!r} isn't the domain's")
        for word in node.perms:
            if word[:1] not in ("n", "r", "w", "b") or not word[1:].isdigit() or len(word) > 6:
                raise ValueError(f"permission {word[:20]!r} makes no sense")
        if not node.perms:
            raise ValueError(f"store node {node.path[:80]!r} has no owner")


def moved_nodes(
    nodes: tuple[SavedNode, ...], old: int, new: int, uuids: tuple[str, str] | None = None
) -> list[SavedNode]:
    """The same nodes for the domain's new number, and (old, new) of its UUID if that changes.

    Nobody but domain 0 and the domain itself keeps rights: other numbers mean others here.
    """

    def path(text: str) -> str:
        if uuids is not None and (text == f"/vm/{uuids[0]}" or text.startswith(f"/vm/{uuids[0]}/")):
            text = f"/vm/{uuids[1]}{text[len(uuids[0]) + 4 :]}"
        return renumbered(text, old, new)

    def value(node: SavedNode) -> bytes:
        name = node.path.rpartition("/")[2]
        if name in _NUMBERS and node.value == b"%d" % old:
            return b"%d" % new
        if uuids is not None and name == "uuid" and node.value == uuids[0].encode():
            return uuids[1].encode()
        if node.value[:1] == b"/" and node.value.isascii():
            return path(node.value.decode()).encode()
        return node.value

    @cache
    def perms(words: tuple[str, ...]) -> tuple[str, ...]:
        kept = []
        for index, word in enumerate(words):
            number = int(word[1:])
            if number == old:
                kept.append(f"{word[0]}{new}")
            elif number == 0:
                kept.append(word)
            elif index == 0:
                kept.append(f"{word[0]}0")
        return tuple(kept)

    return [SavedNode(path(node.path), value(node), perms(node.perms)) for node in nodes]


def graft_saved(store: Xenstore, connection: Connection, nodes: Iterable[SavedNode]) -> None:
    """Have nodes with their permissions in the store, all at once.  Raises XenError."""
    parse = cache(Perms.parse)  # a domain's nodes have few different ones
    store.graft(connection, [(split(node.path), node.value, parse(node.perms)) for node in nodes])
