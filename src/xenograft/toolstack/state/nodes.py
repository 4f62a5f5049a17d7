# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain's part of the store: taken out, and written again under another number."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from xenograft.abi.errno import XenError
from xenograft.store import tree
from xenograft.store.alias import renumbered
from xenograft.store.path import Parts, absolute, join, split
from xenograft.store.perms import Perms
from xenograft.store.tree import Node
from xenograft.toolstack.layout import domain_path

if TYPE_CHECKING:
    from xenograft.store.connection import Connection
    from xenograft.store.service import Xenstore

MAX_NODES = 1 << 16
"""Nodes that a saved domain may have: a guest's quota is far below that."""

_NUMBERS = ("frontend-id", "domid")
"""Nodes whose value is the domain's number."""


Trees = list[tuple[Parts, Node]]
"""A domain's part of the store as the store has it: where each tree's top is, and the top."""


class SavedNode(msgspec.Struct, frozen=True, array_like=True):
    """A node; `perms` as the store has them in words, the owner first (``n0``, ``r3``)."""

    path: str
    value: bytes
    perms: tuple[str, ...]


class Identity(NamedTuple):
    """What a domain's part of the store is told from others by; the UUID is in words."""

    domid: int
    uuid: str


_BACKENDS = split(f"{domain_path(0)}/backend")


def _private(domid: int, uuid: str) -> tuple[Parts, ...]:
    """Where a domain's nodes are, beside those of its back ends in domain 0."""
    return split(domain_path(domid)), split(f"/vm/{uuid}"), split(f"/libxl/{domid}")


def trees_of(store: Xenstore, domid: int, uuid: str) -> Trees:
    """All that the store has of a domain.  Nothing that happens later changes it."""
    root = store.state.root
    backends = tree.lookup(root, _BACKENDS)
    kinds = () if backends is None else backends.children
    tops = *_private(domid, uuid), *((*_BACKENDS, kind, str(domid)) for kind in kinds)
    found = ((top, tree.lookup(root, top)) for top in tops)
    return [(top, node) for top, node in found if node is not None]


def save_nodes(trees: Trees) -> tuple[SavedNode, ...]:
    """All nodes of a domain for a file, parents before children."""
    words = cache(_words)  # a domain's nodes have few different ones
    return tuple(
        SavedNode(join(parts), node.value, words(node.perms))
        for where, top in trees
        for parts, node in tree.walk(top, where)
    )


def _words(perms: Perms) -> tuple[str, ...]:
    return tuple(perms.words())


def saved_trees(nodes: tuple[SavedNode, ...]) -> Trees:
    """The same out of a file, as `check_nodes` has found it good.  Raises XenError(EINVAL)."""
    parse = cache(Perms.parse)
    return tree.planted([(split(node.path), node.value, parse(node.perms)) for node in nodes])


def check_nodes(nodes: tuple[SavedNode, ...], domid: int, uuid: str) -> None:
    """Raises ValueError if they aren't such as `save_nodes` would have found.

    They come out of a file: nothing of anybody else's may be written by them.
    """
    if len(nodes) > MAX_NODES:
        raise ValueError("too many store nodes")
    private = _private(domid, uuid)
    for node in nodes:
        try:
            if not node.path.startswith("/"):
                raise ValueError("a relative path")
            parts = split(absolute(node.path.encode(), 0))
        except (XenError, ValueError):
            raise ValueError(f"store node {node.path[:80]!r} has no good path") from None
        own = any(parts[: len(top)] == top for top in private)
        served = parts[:4] == _BACKENDS and parts[5:6] == (str(domid),)
        if not (own or served):
            raise ValueError(f"store node {node.path[:80]!r} isn't the domain's")
        for word in node.perms:
            if word[:1] not in ("n", "r", "w", "b") or not word[1:].isdigit() or len(word) > 6:
                raise ValueError(f"permission {word[:20]!r} makes no sense")
        if not node.perms:
            raise ValueError(f"store node {node.path[:80]!r} has no owner")


def graft_moved(
    store: Xenstore, connection: Connection, trees: Trees, old: Identity, new: Identity
) -> None:
    """Have a domain's nodes in the store as those of another one, all at once.

    Nobody but domain 0 and the domain itself keeps rights: other numbers mean others here.
    """
    places = list(zip(_private(*old), _private(*new), strict=True))

    def place(parts: Parts) -> Parts:
        for ours, theirs in places:
            if parts[: len(ours)] == ours:
                return theirs + parts[len(ours) :]
        return (*parts[:5], str(new.domid), *parts[6:])

    def path(text: str) -> str:
        if text == (home := f"/vm/{old.uuid}") or text.startswith(home + "/"):
            return f"/vm/{new.uuid}{text[len(home) :]}"
        return renumbered(text, old.domid, new.domid)

    number, uuid = b"%d" % old.domid, old.uuid.encode()

    def altered(name: str, node: Node) -> tuple[bytes, Perms]:
        value = node.value
        if value[:1] == b"/" and value.isascii():
            value = path(value.decode()).encode()
        elif value == number and name in _NUMBERS:
            value = b"%d" % new.domid
        elif value == uuid and name == "uuid":
            value = new.uuid.encode()
        return value, perms(node.perms)

    @cache
    def perms(were: Perms) -> Perms:
        numbers = {0: 0, old.domid: new.domid}
        return Perms(
            numbers.get(were.owner, 0),
            were.other,
            tuple((numbers[domid], may) for domid, may in were.acl if domid in numbers),
        )

    store.graft(connection, [(place(parts), top) for parts, top in trees], altered)
