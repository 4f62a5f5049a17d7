# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain's nodes under another number: what changes, and what stays."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xenograft.store.client import StoreClient
from xenograft.store.service import Xenstore
from xenograft.toolstack.layout import domain_path
from xenograft.toolstack.state.nodes import SavedNode, graft_saved, moved_nodes, save_nodes

UUIDS = ("11111111-0000-0000-0000-000000000000", "22222222-0000-0000-0000-000000000000")

TOPS = st.sampled_from(
    (
        "/local/domain/3",
        "/local/domain/3/backend/vbd/3/1",
        "/local/domain/3/backend/vbd/5/1",
        "/local/domain/33/name",
        "/local/domain/0/backend/vbd/3/51712",
        "/libxl/3/device",
        f"/vm/{UUIDS[0]}",
    )
)
PATHS = st.builds(
    lambda top, rest: "/".join((top, *rest)), TOPS, st.lists(st.text("ab3", min_size=1), max_size=3)
)


def by_parts(path: str) -> str:
    """What a path becomes, part by part."""
    parts = path.split("/")[1:]
    if parts[0] == "vm" and parts[1] == UUIDS[0]:
        parts[1] = UUIDS[1]
    elif parts[0] == "libxl" and parts[1] == "3":
        parts[1] = "9"
    elif parts[:2] == ["local", "domain"]:
        backend = len(parts) > 5 and parts[3] == "backend" and parts[5] == "3"
        where = 5 if backend else 2
        if parts[where] == "3":
            parts[where] = "9"
    return "/" + "/".join(parts)


@given(paths=st.lists(PATHS, max_size=20), value=PATHS)
def test_numbers_change_where_they_are_the_domains(paths: list[str], value: str) -> None:
    nodes = tuple(SavedNode(path, value.encode(), ("n3", "r0", "r5")) for path in paths)
    moved = moved_nodes(nodes, 3, 9, UUIDS)
    assert [node.path for node in moved] == [by_parts(path) for path in paths]
    assert {node.value.decode() for node in moved} <= {by_parts(value)}
    assert {node.perms for node in moved} <= {("n9", "r0")}


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
    saved = save_nodes(store, 3, UUIDS[0])
    graft_saved(store, client.connection, moved_nodes(saved, 3, 9))
    again = save_nodes(store, 9, UUIDS[0])
    assert [(one.path.replace("/9", "/3", 1), one.value) for one in again] == [
        (one.path, one.value) for one in saved
    ]
