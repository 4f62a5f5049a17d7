# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain's nodes under another number: what changes, and what stays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xenograft.store.client import StoreClient
from xenograft.store.service import Xenstore
from xenograft.toolstack.layout import domain_path
from xenograft.toolstack.state.nodes import (
    Identity,
    SavedNode,
    check_nodes,
    graft_moved,
    save_nodes,
    saved_trees,
    trees_of,
)

UUIDS = ("11111111-0000-0000-0000-000000000000", "22222222-0000-0000-0000-000000000000")
MOVED = Identity(9, UUIDS[1])

HOMES = {
    "/local/domain/3": "/local/domain/9",
    "/local/domain/0/backend/vbd/3": "/local/domain/0/backend/vbd/9",
    "/libxl/3": "/libxl/9",
    f"/vm/{UUIDS[0]}": f"/vm/{UUIDS[1]}",
}
"""Where a domain's nodes are, and where they come."""

VALUES = {
    "/local/domain/3/backend/vbd/5/1": "/local/domain/9/backend/vbd/5/1",
    "/local/domain/5/backend/vbd/3/1": "/local/domain/5/backend/vbd/9/1",
    "/local/domain/33/name": "/local/domain/33/name",
    **HOMES,
}
"""Paths that nodes hold, and what becomes of them."""

RESTS = st.lists(st.sampled_from(("a", "3", "backend", "vbd", "domid")), min_size=1, max_size=4)
PATHS = st.tuples(st.sampled_from(sorted(HOMES)), RESTS.map("/".join))


@given(paths=st.sets(PATHS, max_size=20), value=st.sampled_from(sorted(VALUES)))
def test_numbers_change_where_they_are_the_domains(paths: set[tuple[str, str]], value: str) -> None:
    nodes = tuple(
        SavedNode(f"{home}/{rest}", value.encode(), ("n3", "r0", "r5"))
        for home, rest in sorted(paths)
    )
    check_nodes(nodes, 3, UUIDS[0])
    store = Xenstore()
    client = StoreClient(store)
    graft_moved(store, client.connection, saved_trees(nodes), Identity(3, UUIDS[0]), MOVED)
    there = {node.path: node for node in save_nodes(trees_of(store, *MOVED))}
    for home, rest in paths:
        node = there[f"{HOMES[home]}/{rest}"]
        assert (node.value.decode(), node.perms) == (VALUES[value], ("n9", "r0"))
    assert trees_of(store, 3, UUIDS[0]) == []


def test_the_number_and_the_uuid_are_told_anew() -> None:
    told = {"domid": b"3", "frontend-id": b"3", "uuid": UUIDS[0].encode(), "other": b"3"}
    nodes = tuple(SavedNode(f"/libxl/3/{name}", told[name], ("n0",)) for name in told)
    store = Xenstore()
    connection = StoreClient(store).connection
    graft_moved(store, connection, saved_trees(nodes), Identity(3, UUIDS[0]), MOVED)
    assert {node.path: node.value for node in save_nodes(trees_of(store, *MOVED))} == {
        "/libxl/9": b"",
        "/libxl/9/domid": b"9",
        "/libxl/9/frontend-id": b"9",
        "/libxl/9/uuid": UUIDS[1].encode(),
        "/libxl/9/other": b"3",
    }


@given(
    names=st.dictionaries(
        st.lists(st.text("abc", min_size=1, max_size=2), min_size=1, max_size=4).map(tuple),
        st.binary(max_size=5),
        max_size=60,
    )
)
def test_what_was_saved_is_there_again_elsewhere(names: dict[tuple[str, ...], bytes]) -> None:
    store = Xenstore()
    client = StoreClient(store)
    for parts, value in sorted(names.items()):
        client.write("/".join((domain_path(3), *parts)), value)
    saved = save_nodes(trees_of(store, 3, UUIDS[0]))
    graft_moved(store, client.connection, saved_trees(saved), Identity(3, UUIDS[0]), MOVED)
    again = save_nodes(trees_of(store, *MOVED))
    assert [(one.path.replace("/9", "/3", 1), one.value) for one in again] == [
        (one.path, one.value) for one in saved
    ]
