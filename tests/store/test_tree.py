# SPDX-License-Identifier: GPL-2.0-or-later
"""Whole trees: planted from a list of nodes, copied, and grafted to another place."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xenograft.store import tree
from xenograft.store.children import Children
from xenograft.store.path import Parts
from xenograft.store.perms import Perms
from xenograft.store.quota import Quota
from xenograft.store.tree import Node
from xenograft.store.workspace import Workspace, initial_state

PLACES = st.lists(st.text("abc", min_size=1, max_size=2), min_size=1, max_size=5).map(tuple)
NODES = st.dictionaries(PLACES, st.tuples(st.binary(max_size=3), st.integers(0, 3)), max_size=60)
Nodes = dict[tuple[str, ...], tuple[bytes, int]]


def planted(nodes: Nodes) -> list[tuple[Parts, Node]]:
    return tree.planted([(p, value, Perms(owner)) for p, (value, owner) in sorted(nodes.items())])


def seen(tops: list[tuple[Parts, Node]]) -> Nodes:
    return {
        parts: (node.value, node.perms.owner)
        for place, top in tops
        for parts, node in tree.walk(top, place)
    }


@given(nodes=NODES)
def test_trees_hold_what_was_listed(nodes: Nodes) -> None:
    tops = planted(nodes)
    assert seen(tops) == nodes
    assert [place for place, _ in tops] == [
        parts for parts in sorted(nodes) if parts[:-1] not in nodes
    ]


@given(nodes=NODES)
def test_a_copy_is_made_node_by_node(nodes: Nodes) -> None:
    names: list[str] = []

    def make(name: str, node: Node, children: Children) -> Node:
        names.append(name)
        return Node(node.value + name.encode(), node.perms, children, 7)

    tops = planted(nodes)
    copies = [(place, tree.copied(place[-1], top, make)) for place, top in tops]
    assert seen(copies) == {
        parts: (value + parts[-1].encode(), owner) for parts, (value, owner) in nodes.items()
    }
    assert sorted(names) == sorted(parts[-1] for parts in nodes)
    assert {node.generation for _, top in copies for _, node in tree.walk(top)} <= {7}
    assert seen(tops) == nodes


def test_a_deep_tree_can_be_copied() -> None:
    top = Node(b"end", Perms(0))
    for _ in range(3000):
        top = Node(b"", Perms(0), Children.of({"a": top}))
    copy = tree.copied("a", top, lambda _name, node, below: Node(node.value, Perms(1), below))
    *_, (parts, last) = tree.walk(copy)
    assert (len(parts), last.value, last.perms) == (3000, b"end", Perms(1))


@given(nodes=NODES, before=NODES)
def test_grafts_replace_what_was_there_and_are_counted(nodes: Nodes, before: Nodes) -> None:
    workspace = Workspace(initial_state(), Quota())
    workspace.graft(planted(before), lambda _name, node: (node.value, node.perms))
    workspace.graft(planted(nodes), lambda _name, node: (node.value, Perms(node.perms.owner + 1)))
    state = workspace.state
    root = state.root
    for place, _ in planted(nodes):
        top = tree.lookup(root, place)
        assert top is not None
        below = {p: (value, by + 1) for p, (value, by) in nodes.items() if p[: len(place)] == place}
        assert below.items() <= seen([(place, top)]).items()
    owners = [node.perms.owner for _, node in tree.walk(root)]
    assert state.owned == {owner: owners.count(owner) for owner in owners}
    generations = [node.generation for _, node in tree.walk(root)]
    assert max(generations) <= state.generation


def test_a_value_is_replaced_where_there_is_one() -> None:
    ((_, top),) = planted({("a",): (b"1", 0), ("a", "b"): (b"2", 3)})
    changed = tree.with_value(top, ("b",), lambda value: value + b"!")
    assert seen([(("a",), changed)]) == {("a",): (b"1", 0), ("a", "b"): (b"2!", 3)}
    assert tree.with_value(top, ("c",), lambda value: value) is top
