# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading and changing a state of the store with somebody's rights.

A `State` is immutable.  A `Workspace` holds the one that is being worked on: the store's own,
for a single request, or a transaction's.  It notes each change, for the watches to see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from xenograft.abi.errno import Errno, XenError
from xenograft.store import tree
from xenograft.store.children import EMPTY, Children
from xenograft.store.path import SPECIALS, Parts
from xenograft.store.perms import READ, WRITE, Perms, Who
from xenograft.store.quota import Quota
from xenograft.store.tree import Node

NODE_HEADER = 24
"""Bytes of a node's record beside what is in it (struct xs_tdb_record_hdr of Xen 4.17)."""

_CONTROL = Who(0)


class State(NamedTuple):
    """A version of the whole store.

    `owned` counts the nodes of each owner; `generation` is the last one given to a node.
    """

    root: Node
    owned: Mapping[int, int]
    generation: int


class Change(NamedTuple):
    """A path whose node was changed; `whole`: the top of what has gone, or come, all at once."""

    parts: Parts
    whole: Node | None = None


Alter = Callable[[str, Node], tuple[bytes, Perms]]
"""Of a node's name and the node: the value and the permissions of its copy."""


def initial_state() -> State:
    """An empty store: the root and the special nodes, all of domain 0's."""
    perms = Perms(0)
    root = Node(b"", perms)
    for name in SPECIALS:
        root = tree.put(root, (name,), Node(b"", perms))
    return State(root, {0: 1 + len(SPECIALS)}, 0)


class Workspace:
    """A state being worked on.  Methods raise XenError as the wire protocol has it."""

    __slots__ = ("changes", "quota", "state")

    def __init__(self, state: State, quota: Quota) -> None:
        self.state = state
        self.quota = quota
        self.changes: list[Change] = []

    # -- looking ----------------------------------------------------------------------------
    def node(self, who: Who, parts: Parts, access: int) -> Node:
        """The node, if `who` has `access` to it.

        Raises EACCES or ENOENT; the latter only if `who` has `access` to the nearest node
        above, or the answer would tell what is there.
        """
        node = tree.lookup(self.state.root, parts)
        if node is None:
            above, _ = tree.deepest(self.state.root, parts)
            raise XenError(Errno.ENOENT if above.perms.allow(who, access) else Errno.EACCES)
        if not (who.privileged or node.perms.allow(who, access)):
            raise XenError(Errno.EACCES)
        return node

    def read(self, who: Who, parts: Parts) -> bytes:
        return self.node(who, parts, READ).value

    # -- changing ---------------------------------------------------------------------------
    def write(self, who: Who, parts: Parts, value: bytes) -> None:
        """Set a value, creating the node and those above it where they are missing.

        Raises EACCES, ENOSPC (value too long, too many nodes or levels).
        """
        node = self._writable(who, parts)
        if node is None:
            self._create(who, parts, value)
        else:
            self.check_size(who, value, node.perms, node.children)
            generation = self.state.generation + 1
            new = Node(value, node.perms, node.children, generation)
            self.state = self.state._replace(
                root=tree.put(self.state.root, parts, new), generation=generation
            )
        self.changes.append(Change(parts))

    def check_size(self, who: Who, value: bytes, perms: Perms, children: Children) -> None:
        """Raise ENOSPC if a node would be too large for who isn't privileged.

        As write_node_raw() of xenstored_core.c counts (Xen 4.17): a header, 8 bytes for each
        permission, the value, and the children's names, each with a NUL.
        """
        if who.privileged:
            return
        room = self.quota.node_size - NODE_HEADER - 8 * (1 + len(perms.acl)) - len(value)
        # A long list isn't added up to be refused.
        if room <= 2 * len(children) or room <= sum(len(name) + 1 for name in children):
            raise XenError(Errno.ENOSPC)

    def mkdir(self, who: Who, parts: Parts) -> None:
        """Create a node unless it's there.  Raises as `write`."""
        if self._writable(who, parts) is None:
            self._create(who, parts, b"")
            self.changes.append(Change(parts))

    def remove(self, who: Who, parts: Parts) -> None:
        """Remove a node and all below it.

        A node that isn't there is no error, if its parent is.  Raises EACCES, ENOENT (no
        parent), EINVAL (the root).
        """
        node = self._writable(who, parts)
        if node is None:
            if tree.lookup(self.state.root, parts[:-1]) is None:
                raise XenError(Errno.ENOENT)
            return
        if not parts:
            raise XenError(Errno.EINVAL)
        self.discard(parts, node)

    def discard(self, parts: Parts, node: Node) -> None:
        """Remove the node that is known to be at `parts`, whoever may."""
        owned = dict(self.state.owned)
        for _, gone in tree.walk(node):
            _count(owned, gone.perms.owner, -1)
        generation = self.state.generation + 1
        root = tree.remove(self.state.root, parts, generation)
        self.state = State(root, owned, generation)
        self.changes.append(Change(parts, node))

    def set_perms(self, who: Who, parts: Parts, perms: Perms) -> None:
        """Replace a node's permissions; only domain 0 may change the owner.

        Raises EACCES, ENOENT, EPERM (another owner), ENOSPC (too many entries).
        """
        if not who.privileged and len(perms.acl) + 1 > self.quota.permissions:
            raise XenError(Errno.ENOSPC)
        node = self.node(who, parts, WRITE)
        if not node.perms.owned_by(who):
            raise XenError(Errno.EACCES)
        owned = self.state.owned
        if perms.owner != node.perms.owner:
            if not who.privileged:
                raise XenError(Errno.EPERM)
            owned = dict(owned)
            _count(owned, node.perms.owner, -1)
            _count(owned, perms.owner, 1)
        self.check_size(who, node.value, perms, node.children)
        generation = self.state.generation + 1
        new = Node(node.value, perms, node.children, generation)
        self.state = State(tree.put(self.state.root, parts, new), owned, generation)
        self.changes.append(Change(parts))

    def graft(self, trees: Sequence[tuple[Parts, Node]], alter: Alter) -> list[tuple[Parts, Node]]:
        """Have copies of trees, whose tops come to the places named, whoever may.

        `alter` gives what a node's copy has.  What was at those places goes.  Returns the copies.
        """
        generation = self.state.generation + 1
        copies: list[tuple[Parts, Node]] = []
        owned: dict[int, int] = {}

        def make(name: str, node: Node, children: Children) -> Node:
            value, perms = alter(name, node)
            owned[perms.owner] = owned.get(perms.owner, 0) + 1
            return Node(value, perms, children, generation)

        for parts, top in trees:
            node = tree.copied(parts[-1], top, make)
            there = tree.lookup(self.state.root, parts)
            if there is not None:
                self.discard(parts, there)
            elif tree.lookup(self.state.root, parts[:-1]) is None:
                self.mkdir(_CONTROL, parts[:-1])
            root = tree.put(self.state.root, parts, node)
            self.state = self.state._replace(
                root=root, generation=max(generation, self.state.generation)
            )
            self.changes.append(Change(parts, node))
            copies.append((parts, node))
        total = dict(self.state.owned)
        for owner, count in owned.items():
            _count(total, owner, count)
        self.state = self.state._replace(owned=total)
        return copies

    def forget_domain(self, domid: int) -> None:
        """A domain has ended: its nodes go, with all below them, and its name in permissions."""
        tops: list[tuple[Parts, Node]] = []
        for parts, node in tree.walk(self.state.root):
            inside = tops and parts[: len(tops[-1][0])] == tops[-1][0]
            if node.perms.owner == domid and parts and not inside:
                tops.append((parts, node))
        for parts, node in tops:
            self.discard(parts, node)
        root = tree.rewrite(self.state.root, lambda perms: perms.without(domid))
        if root is not self.state.root:
            self.state = self.state._replace(root=root)

    # -- inside -----------------------------------------------------------------------------
    def _writable(self, who: Who, parts: Parts) -> Node | None:
        """The node, or None if it's missing but `who` may create it.  Raises EACCES."""
        try:
            return self.node(who, parts, WRITE)
        except XenError as error:
            if error.errno is Errno.ENOENT:
                return None
            raise

    def _create(self, who: Who, parts: Parts, value: bytes) -> None:
        """Make the missing nodes on the way to `parts`; they inherit the lowest one's rights."""
        root, owned, generation = self.state
        above, depth = tree.deepest(root, parts)
        perms = above.perms.inherited_by(who)
        missing = len(parts) - depth
        total = owned.get(perms.owner, 0) + missing
        if not who.privileged and (total > self.quota.nodes or len(parts) > self.quota.depth):
            raise XenError(Errno.ENOSPC)
        generation += 1
        node = Node(value, perms, generation=generation)
        for name in reversed(parts[depth + 1 :]):
            node = Node(b"", perms, EMPTY.set(name, node), generation)
        children = above.children.set(parts[depth], node)
        self.check_size(who, value, perms, EMPTY)
        self.check_size(who, above.value, above.perms, children)
        grown = Node(above.value, above.perms, children, generation)
        self.state = State(
            tree.put(root, parts[:depth], grown), {**owned, perms.owner: total}, generation
        )


def _count(owned: dict[int, int], owner: int, by: int) -> None:
    """Change a count; owners without nodes have no entry."""
    left = owned.get(owner, 0) + by
    if left:
        owned[owner] = left
    else:
        owned.pop(owner, None)
