# SPDX-License-Identifier: GPL-2.0-or-later
"""The rules of xenbus, and of each kind of device, as pure checks.

Sources: public/io/xenbus.h for the states, and each device's header in public/io for what has
to be in the store by when.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from xenograft.abi.io.xenbus import XenbusState
from xenograft.backends.xenbus.state import may_follow, parse_state, who_is_next

Names = tuple[str, ...]


class KindRules(NamedTuple):
    """What a kind of device needs: each row names nodes of which one has to be there."""

    rings: tuple[Names, ...] = ()
    """Of the front end, before it writes Initialised or Connected."""
    offer: tuple[Names, ...] = ()
    """Of the back end, before it writes InitWait."""
    properties: tuple[Names, ...] = ()
    """Of the back end, before it writes Connected."""
    front_first: bool = False
    """Whether the front end may write Connected before the back end has."""


def _queued(*names: str) -> Names:
    return (*names, *(f"queue-0/{name}" for name in names))


RULES: dict[str, KindRules] = {
    "vbd": KindRules(
        rings=(_queued("ring-ref", "ring-ref0"), _queued("event-channel")),
        properties=(("sectors",), ("sector-size",), ("info",)),
    ),
    "vif": KindRules(
        rings=(
            _queued("tx-ring-ref"),
            _queued("rx-ring-ref"),
            _queued("event-channel", "event-channel-tx"),
        ),
        offer=(("feature-rx-copy",),),
        front_first=True,
    ),
    "9pfs": KindRules(
        rings=(("version",), ("num-rings",), ("ring-ref0",), ("event-channel-0",)),
        offer=(("versions",), ("max-rings",), ("max-ring-page-order",)),
    ),
    "console": KindRules(rings=(("ring-ref",), ("port",))),
    "vfb": KindRules(rings=(("page-ref", "page-gref"), ("event-channel",)), front_first=True),
    "vkbd": KindRules(rings=(("page-ref", "page-gref"), ("event-channel",)), front_first=True),
}
_ANY = KindRules()

_UP = (XenbusState.Initialised, XenbusState.Connected)


class EndFacts(NamedTuple):
    """What is known of one end."""

    domid: int
    state: XenbusState
    nodes: Mapping[str, str]


def missing(rows: tuple[Names, ...], nodes: Mapping[str, str]) -> list[str]:
    """The first name of each row of which no node is there."""
    return [row[0] for row in rows if not any(name in nodes for name in row)]


def missing_rings(kind: str, nodes: Mapping[str, str]) -> list[str]:
    """What a front end has yet to write."""
    return missing(RULES.get(kind, _ANY).rings, nodes)


def is_ring_node(kind: str, name: str) -> bool:
    """Whether a node of the front end's says where its rings and ports are."""
    word = name.rpartition("/")[2]
    return word.startswith(_RING_NODES) or (kind == "console" and word == "port")


_RING_NODES = ("ring-ref", "tx-ring-ref", "rx-ring-ref", "event-channel", "page-")


def check_state(
    kind: str, backend: bool, old: XenbusState, value: str, by: int, own: EndFacts, other: EndFacts
) -> list[str]:
    """What is wrong with a state that `by` has written over `old`.

    `own` is the end that it's the state of, as it is after the write.
    """
    wrong: list[str] = []
    new = parse_state(value)
    if new is XenbusState.Unknown and value != "0":
        return [f"{value[:20]!r} is no state"]
    if by not in (own.domid, 0):
        wrong.append(f"d{by} wrote the state of d{own.domid}'s end")
    if not may_follow(old, new):
        wrong.append(f"{new.name} can't follow {old.name}")
    rules = RULES.get(kind, _ANY)
    rows: tuple[Names, ...] = ()
    if not backend and new in _UP:
        rows = rules.rings
    elif backend and new is XenbusState.InitWait:
        rows = rules.offer
    elif backend and new is XenbusState.Connected:
        rows = (*rules.offer, *rules.properties)
    if new is not old and (lacking := missing(rows, own.nodes)):
        wrong.append(f"{new.name} without {', '.join(lacking)}")
    if backend and new is XenbusState.Connected and old is not new and other.state not in _UP:
        wrong.append(f"Connected while the front end is {other.state.name}")
    early = not backend and new is XenbusState.Connected and old is not new
    if early and not rules.front_first and other.state is not XenbusState.Connected:
        wrong.append(f"Connected while the back end is {other.state.name}")
    return wrong


def check_node(kind: str, backend: bool, name: str, old: str | None, own: EndFacts) -> list[str]:
    """What is wrong with a node, other than the state, that was written over `old`."""
    if backend or not is_ring_node(kind, name):
        return []
    value = own.nodes.get(name, "")
    wrong = []
    # Linux prints grant references with %d, and gfns are up to 52 bits.
    if not (value.isascii() and value.isdigit() and len(value) < 18):
        wrong.append(f"{name} is {value[:20]!r}, not a number")
    if old is not None and old != value and own.state in _UP:
        wrong.append(f"{name} changed while {own.state.name}: the back end won't look again")
    return wrong


def next_move(
    kind: str, back: EndFacts | None, front: EndFacts | None, backend_exists: bool = True
) -> str:
    """Who has to do what next, for a person who looks at a device."""
    if back is None:
        return "toolstack: make the back end's directory, or remove the front end's"
    if front is None:
        return "toolstack: make the front end's directory, or remove the back end's"
    if not backend_exists:
        return f"toolstack: d{back.domid}, which serves the device, is gone; attach it again"
    online = back.nodes.get("online", "0") == "1"
    waits = back.state is XenbusState.InitWait and back.nodes.get("hotplug-status") == ""
    if waits and front.state in _UP:
        return "hotplug script of the back end's domain: write hotplug-status"
    text = who_is_next(back.state, front.state, online)
    if text.startswith("front end: set up its rings"):
        lacking = missing_rings(kind, front.nodes)
        if lacking:
            text += f" (missing: {', '.join(lacking)})"
    return text
