# SPDX-License-Identifier: GPL-2.0-or-later
"""The tree: immutable nodes; a change makes a new root that shares all that didn't change.

Nothing here knows of permissions or quotas.  No function recurses: a guest may make its tree
a thousand levels deep.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from xenograft.store.children import EMPTY, Children
from xenograft.store.path import Parts
from xenograft.store.perms import Perms


class Node:
    """A node; never changed once it is in a tree.

    `generation` is a number that no earlier state of the node had (DIRECTORY_PART's gencnt).
    """

    __slots__ = ("children", "generation", "perms", "value")

    def __init__(
        self, value: bytes, perms: Perms, children: Children = EMPTY, generation: int = 0
    ) -> None:
        self.value = value
        self.perms = perms
        self.children = children
        self.generation = generation

    def with_children(self, children: Children) -> Node:
        return Node(self.value, self.perms, children, self.generation)


def lookup(root: Node, parts: Parts) -> Node | None:
    """The node at `parts`, or None."""
    node: Node | None = root
    for name in parts:
        node = node.children.get(name)  # type: ignore[union-attr]
        if node is None:
            return None
    return node


def deepest(root: Node, parts: Parts) -> tuple[Node, int]:
    """The last existing node on the way to `parts`, and how many parts lead to it."""
    node = root
    for depth, name in enumerate(parts):
        child = node.children.get(name)
        if child is None:
            return node, depth
        node = child
    return node, len(parts)


def _spine(root: Node, parts: Parts) -> list[Node]:
    """The nodes from the root to `parts`.  Raises KeyError if one isn't there."""
    nodes = [root]
    for name in parts:
        child = nodes[-1].children.get(name)
        if child is None:
            raise KeyError(name)
        nodes.append(child)
    return nodes


def put(root: Node, parts: Parts, node: Node) -> Node:
    """A root with `node` at `parts`, in place of what was there.

    Raises KeyError if the parent isn't there.
    """
    if not parts:
        return node
    spine = _spine(root, parts[:-1])
    for parent, name in zip(reversed(spine), reversed(parts), strict=True):
        node = parent.with_children(parent.children.set(name, node))
    return node


def remove(root: Node, parts: Parts, generation: int) -> Node:
    """A root without the node at `parts` (not the root) and all below it.

    The parent gets `generation`.  Raises KeyError if it isn't there.
    """
    *above, name = parts
    parent = _spine(root, tuple(above))[-1]
    children = parent.children.without(name)
    return put(root, tuple(above), Node(parent.value, parent.perms, children, generation))


def with_value(root: Node, parts: Parts, change: Callable[[bytes], bytes]) -> Node:
    """A root with the value at `parts` replaced by `change` of it; the same if nothing is there."""
    node = lookup(root, parts)
    if node is None:
        return root
    return put(root, parts, Node(change(node.value), node.perms, node.children, node.generation))


def walk(node: Node, parts: Parts = ()) -> Iterator[tuple[Parts, Node]]:
    """All nodes of a tree whose top is at `parts`, a node before its children."""
    stack = [(parts, node)]
    while stack:
        where, found = stack.pop()
        yield where, found
        below = [((*where, name), child) for name, child in found.children.items()]
        stack.extend(reversed(below))


def planted(nodes: Sequence[tuple[Parts, bytes, Perms]]) -> list[tuple[Parts, Node]]:
    """Trees of nodes that are listed each behind the one above it: (where its top is, the top)."""
    listed = {parts for parts, _, _ in nodes}
    below: dict[Parts, dict[str, Node]] = {}
    tops: list[tuple[Parts, Node]] = []
    for parts, value, perms in reversed(nodes):
        children = below.pop(parts, None)
        node = Node(value, perms, Children.of(children) if children else EMPTY)
        if (above := parts[:-1]) in listed:
            below.setdefault(above, {})[parts[-1]] = node
        else:
            tops.append((parts, node))
    tops.reverse()
    return tops


def copied(name: str, top: Node, make: Callable[[str, Node, Children], Node]) -> Node:
    """A copy of a tree; `make` gives that of each node, of its name, the node and its children."""
    order = [(name, top)]
    for _, node in order:
        if node.children is not EMPTY:
            order.extend(node.children.items())
    # Level by level, so that from the end on a node finds its children's copies in front.
    done: deque[Node] = deque()
    for name, node in reversed(order):
        children = node.children
        if children is not EMPTY:
            below = [done.popleft() for _ in range(len(children))]
            children = children.replaced(reversed(below))
        done.append(make(name, node, children))
    return done.pop()


def rewrite(root: Node, change: Callable[[Perms], Perms]) -> Node:
    """A root with the permissions of every node replaced by `change` of them.

    Nodes whose tree has nothing changed are shared.
    """
    order = list(walk(root))
    done: dict[Parts, Node] = {}
    for parts, node in reversed(order):
        children = node.children
        for name, child in node.children.items():
            new = done.pop((*parts, name))
            if new is not child:
                children = children.set(name, new)
        perms = change(node.perms)
        if perms is not node.perms or children is not node.children:
            node = Node(node.value, perms, children, node.generation)
        done[parts] = node
    return done[()]
