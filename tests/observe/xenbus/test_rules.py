# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules, one by one."""

from __future__ import annotations

import pytest

from xenograft.abi.io.xenbus import XenbusState as S
from xenograft.observe.xenbus.paths import absolute, error_of, locate
from xenograft.observe.xenbus.rules import EndFacts, check_node, check_state, next_move

RINGS = {"ring-ref": "8", "event-channel": "3"}
PROPERTIES = {"sectors": "8", "sector-size": "512", "info": "0"}


def front(state: S, **nodes: str) -> EndFacts:
    return EndFacts(3, state, {key.replace("_", "-"): value for key, value in nodes.items()})


def back(state: S, **nodes: str) -> EndFacts:
    return EndFacts(0, state, {key.replace("_", "-"): value for key, value in nodes.items()})


def test_a_front_end_in_order() -> None:
    own = EndFacts(3, S.Initialised, RINGS)
    assert check_state("vbd", False, S.Initialising, "3", 3, own, back(S.InitWait)) == []
    own = EndFacts(3, S.Connected, RINGS)
    assert check_state("vbd", False, S.Initialised, "4", 3, own, back(S.Connected)) == []


@pytest.mark.parametrize(
    ("old", "value", "nodes", "peer", "text"),
    [
        (S.Initialising, "3", {}, S.InitWait, "Initialised without ring-ref, event-channel"),
        (S.Initialising, "3", {"ring-ref": "1"}, S.InitWait, "Initialised without event-channel"),
        (S.Initialised, "4", RINGS, S.InitWait, "Connected while the back end is InitWait"),
        (S.Closed, "4", RINGS, S.Connected, "Connected can't follow Closed"),
        (S.Initialising, "9", RINGS, S.InitWait, "'9' is no state"),
        (S.Initialising, "", RINGS, S.InitWait, "'' is no state"),
    ],
)
def test_a_front_end_out_of_order(
    old: S, value: str, nodes: dict[str, str], peer: S, text: str
) -> None:
    own = EndFacts(3, S(int(value)) if value in "34" and value else S.Unknown, nodes)
    assert check_state("vbd", False, old, value, 3, own, back(peer)) == [text]


def test_queues_and_several_rings_are_rings_too() -> None:
    nodes = {"queue-0/ring-ref0": "1", "queue-0/event-channel": "2"}
    own = EndFacts(3, S.Initialised, nodes)
    assert check_state("vbd", False, S.Initialising, "3", 3, own, back(S.InitWait)) == []


def test_a_network_front_end_may_come_first() -> None:
    nodes = {"tx-ring-ref": "1", "rx-ring-ref": "2", "event-channel-tx": "3"}
    own = EndFacts(3, S.Connected, nodes)
    assert check_state("vif", False, S.Initialising, "4", 3, own, back(S.InitWait)) == []


def test_a_back_end_out_of_order() -> None:
    def check(old: S, new: S, nodes: dict[str, str], peer: S, by: int = 0) -> list[str]:
        own = EndFacts(0, new, nodes)
        return check_state("vbd", True, old, str(int(new)), by, own, front(peer))

    assert check(S.InitWait, S.Connected, PROPERTIES, S.Initialised) == []
    assert check(S.InitWait, S.Connected, {"sectors": "1"}, S.Initialised) == [
        "Connected without sector-size, info"
    ]
    assert check(S.InitWait, S.Connected, PROPERTIES, S.Initialising) == [
        "Connected while the front end is Initialising"
    ]
    assert check(S.Closing, S.Connected, PROPERTIES, S.Initialised) == [
        "Connected can't follow Closing"
    ]
    assert check(S.InitWait, S.Closing, {}, S.Closing, by=3) == ["d3 wrote the state of d0's end"]


def test_ring_nodes() -> None:
    def check(name: str, value: str, old: str | None, state: S) -> list[str]:
        return check_node("vbd", False, name, old, EndFacts(3, state, {name: value}))

    assert check("ring-ref", "8", None, S.Initialising) == []
    assert check("ring-ref", "0x8", None, S.Initialising) == ["ring-ref is '0x8', not a number"]
    assert check("event-channel", "", None, S.Initialising) == ["event-channel is '', not a number"]
    assert check("ring-ref", "9", "8", S.Connected) == [
        "ring-ref changed while Connected: the back end won't look again"
    ]
    assert check("ring-ref", "9", "8", S.Initialising) == []
    assert check("protocol", "any", "x", S.Connected) == []


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((None, front(S.Initialising)), "toolstack: make the back end's directory"),
        ((back(S.InitWait), None), "toolstack: make the front end's directory"),
        ((back(S.InitWait), front(S.Initialising)), "(missing: ring-ref, event-channel)"),
        ((back(S.InitWait), EndFacts(3, S.Initialised, RINGS)), "back end: connect to the rings"),
        (
            (back(S.InitWait, hotplug_status=""), EndFacts(3, S.Initialised, RINGS)),
            "hotplug script of the back end's domain",
        ),
        ((back(S.Connected, online="1"), front(S.Connected)), "nobody: connected"),
    ],
)
def test_who_is_next(ends: tuple[EndFacts | None, EndFacts | None], text: str) -> None:
    assert text in next_move("vbd", *ends)


def test_a_dead_server() -> None:
    text = next_move("vbd", back(S.Connected), front(S.Connected), backend_exists=False)
    assert text == "toolstack: d0, which serves the device, is gone; attach it again"


def test_paths() -> None:
    place = locate("/local/domain/3/device/vbd/51712/queue-0/ring-ref")
    assert place is not None
    assert (place.domid, place.kind, place.devid, place.name) == (
        3,
        "vbd",
        51712,
        "queue-0/ring-ref",
    )
    place = locate("/local/domain/2/backend/vif/3/0/state")
    assert place is not None
    assert (place.backend, place.domid, place.devid) == (True, 2, 0)
    assert locate("/local/domain/3/device/suspend/event-channel") is None
    assert locate("/local/domain/3/data/x") is None
    assert (
        error_of("/local/domain/0/error/backend/vbd/3/1/error") == "/local/domain/0/backend/vbd/3/1"
    )
    assert error_of("/local/domain/0/error/x") is None
    assert absolute("device/vbd/1/state", 3) == "/local/domain/3/device/vbd/1/state"
    assert absolute("/a", 3) == "/a"
