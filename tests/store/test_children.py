# SPDX-License-Identifier: GPL-2.0-or-later
"""The sorted map behaves as a dict, and never changes once made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenograft.store.children import CHUNK, EMPTY, Children
from xenograft.store.perms import Perms
from xenograft.store.tree import Node

NAMES = st.text("abc-_@0", min_size=1, max_size=3)
STEPS = st.lists(st.tuples(st.booleans(), NAMES), max_size=400)


def node(value: int) -> Node:
    return Node(str(value).encode(), Perms(0))


def contents(children: Children) -> dict[str, Node]:
    return dict(children.items())


@given(steps=STEPS)
def test_agrees_with_a_dict(steps: list[tuple[bool, str]]) -> None:
    model: dict[str, Node] = {}
    children = EMPTY
    versions: list[tuple[Children, dict[str, Node]]] = []
    for number, (add, name) in enumerate(steps):
        if add:
            model[name] = node(number)
            children = children.set(name, model[name])
        elif name in model:
            del model[name]
            children = children.without(name)
        else:
            with pytest.raises(KeyError):
                children.without(name)
        versions.append((children, dict(model)))
    for version, expected in versions[-5:] + versions[:5]:
        assert contents(version) == expected
        assert list(version) == sorted(expected)
        assert len(version) == len(expected)
        assert version.listing() == b"".join(n.encode() + b"\0" for n in sorted(expected))
        assert all(version.get(name) is expected.get(name) for name in [*expected, "zz", "", "a"])


@given(names=st.sets(st.text("abcdefgh", min_size=1, max_size=4), max_size=400), steps=STEPS)
def test_many_at_once_are_the_same_as_one_by_one(
    names: set[str], steps: list[tuple[bool, str]]
) -> None:
    model = {name: node(number) for number, name in enumerate(names)}
    children = Children.of(model)
    assert contents(children) == model
    assert list(children) == sorted(model)
    for number, (add, name) in enumerate(steps):
        if add:
            model[name] = node(number)
            children = children.set(name, model[name])
        elif name in model:
            del model[name]
            children = children.without(name)
    assert list(contents(children).items()) == sorted(model.items())


def test_large_directories_split_and_shrink() -> None:
    children = EMPTY
    names = [f"e{i * 7919 % 5000:04}" for i in range(5000)]
    for i, name in enumerate(names):
        children = children.set(name, node(i))
    assert list(children) == sorted(names)
    assert all(children.get(name) is not None for name in names)
    assert children.get("e") is None
    assert children.get("e9999") is None
    for name in names[:4990]:
        children = children.without(name)
    assert list(children) == sorted(names[4990:])
    for name in names[4990:]:
        children = children.without(name)
    assert len(children) == 0
    assert children.listing() == b""


def test_a_change_shares_all_other_chunks() -> None:
    children = EMPTY
    for i in range(CHUNK * 20):
        children = children.set(f"{i:05}", node(i))
    changed = children.set("00003", node(0))
    shared = set(map(id, children._chunks)) & set(map(id, changed._chunks))
    assert len(shared) == len(children._chunks) - 1


def test_a_replaced_node_keeps_the_listing() -> None:
    children = EMPTY.set("a", node(1)).set("b", node(2))
    listing = children.listing()
    assert children.set("a", node(3)).listing() is listing
    assert children.set("c", node(3)).listing() == b"a\0b\0c\0"
