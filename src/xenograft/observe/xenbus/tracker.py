# SPDX-License-Identifier: GPL-2.0-or-later
"""Follows all devices by the requests that pass the store: states, what led to them, violations.

A tracker is a listener of the machine's instruments; what was there before it began to listen
is read by `scan`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import msgspec

from xenograft.abi.io import xs_wire
from xenograft.abi.io.xenbus import XenbusState
from xenograft.backends.xenbus.state import parse_state
from xenograft.observe.xenbus.paths import Place, absolute, error_of, locate
from xenograft.observe.xenbus.rules import EndFacts, check_node, check_state, next_move

if TYPE_CHECKING:
    from xenograft.store.client import StoreView

MAX_CHANGES = 10_000
MAX_VIOLATIONS = 1000
MAX_WRITES = 64
"""Writes that are kept for one change of state; the first of them."""
MAX_ENDS = 1 << 14
MAX_OPEN = 1024
"""Transactions under way."""
MAX_STEPS = 4096
"""Writes in one."""


class End(msgspec.Struct, frozen=True):
    """One end of a device. Times are the machine's, in ns."""

    domid: int
    path: str
    state: str
    since: int | None
    """None: since before anybody looked."""
    error: str | None


class Device(msgspec.Struct, frozen=True):
    """A device; an end is None if its directory isn't there."""

    name: str
    """As ``vbd/51712``."""
    domid: int
    """The domain that uses it."""
    front: End | None
    back: End | None
    next: str
    """Who has to do what next."""


class Change(msgspec.Struct, frozen=True):
    """A change of state, and what was written in the same end's directory since its last one."""

    time: int
    device: str
    domid: int
    """The domain that uses the device."""
    end: str
    """"front" or "back"."""
    old: str
    new: str
    """A state's name, or "removed"."""
    by: int
    """Who wrote it."""
    writes: tuple[tuple[str, str, int], ...]
    """(node in the end's directory, value, who wrote it)."""


class Violation(msgspec.Struct, frozen=True):
    """The protocol was broken."""

    time: int
    device: str
    domid: int
    end: str
    by: int
    text: str


class View(msgspec.Struct, frozen=True):
    """All that a tracker knows at a time: plain data, for other processes as well."""

    now: int
    devices: tuple[Device, ...]
    changes: tuple[Change, ...]
    violations: tuple[Violation, ...]


class _End:
    """What is known of one end's directory."""

    __slots__ = ("error", "nodes", "place", "since", "state", "writes")

    def __init__(self, place: Place) -> None:
        self.place = place
        self.state = XenbusState.Unknown
        self.since: int | None = None
        self.error: str | None = None
        self.nodes: dict[str, str] = {}
        self.writes: list[tuple[str, str, int]] = []

    @property
    def facts(self) -> EndFacts:
        return EndFacts(self.place.domid, self.state, self.nodes)

    def record(self) -> End:
        place = self.place
        return End(place.domid, place.directory, self.state.name, self.since, self.error)


_Operation = tuple[int, str, str]
"""(XS_*, path, value)."""

_NOBODY = EndFacts(-1, XenbusState.Unknown, {})


class XenbusTracker:
    """All devices of a machine.

    `on_change` and `on_violation` are called as it happens.  `exists` says whether a domain is
    there.
    """

    def __init__(self, exists: Callable[[int], bool] | None = None) -> None:
        self.changes: deque[Change] = deque(maxlen=MAX_CHANGES)
        self.violations: deque[Violation] = deque(maxlen=MAX_VIOLATIONS)
        self.on_change: Callable[[Change], None] | None = None
        self.on_violation: Callable[[Violation], None] | None = None
        self._exists = exists
        self._ends: dict[str, _End] = {}
        self._peers: dict[str, str] = {}
        """The back end's directory by the front end's."""
        self._open: dict[tuple[int, int], list[_Operation]] = {}

    # -- listening -------------------------------------------------------------------------------
    def xenstore_request(
        self,
        time: int,
        domid: int,
        operation: int,
        request: bytes,
        reply: bytes,
        tx_id: int = 0,
        reply_type: int = 0,
        connection: int = 0,
    ) -> None:
        """Hook of the instruments."""
        if reply_type == xs_wire.XS_ERROR:
            if operation == xs_wire.XS_TRANSACTION_END:
                self._open.pop((connection, tx_id), None)
            return
        if operation == xs_wire.XS_TRANSACTION_END:
            done = self._open.pop((connection, tx_id), [])
            if request.startswith(b"T"):
                self._apply(time, domid, done)
            return
        if operation not in (xs_wire.XS_WRITE, xs_wire.XS_RM):
            return
        name, _, value = request.partition(b"\0")
        path = absolute(name.decode("ascii", "replace"), domid)
        step = (operation, path, value.decode("utf-8", "replace"))
        if tx_id:
            done = self._open.setdefault((connection, tx_id), [])
            if len(done) < MAX_STEPS:
                done.append(step)
            while len(self._open) > MAX_OPEN:
                # Left open by clients that have gone.
                del self._open[next(iter(self._open))]
        else:
            self._apply(time, domid, [step])

    def scan(self, store: StoreView) -> None:
        """Read the devices that are there already."""
        steps: list[_Operation] = []
        if not store.exists("/local/domain"):
            return
        for domid in store.ls("/local/domain"):
            for part in ("device", "backend", "error"):
                root = f"/local/domain/{domid}/{part}"
                if store.exists(root):
                    steps += [(xs_wire.XS_WRITE, path, value) for path, value in store.tree(root)]
        for _, path, value in steps:
            self._learn(path, value)

    def _learn(self, path: str, value: str) -> None:
        """Something that was there before we looked."""
        if (directory := error_of(path)) is not None:
            if (end := self._ends.get(directory)) is not None:
                end.error = value
            return
        place = locate(path)
        if place is not None and (end := self._end(place)) is not None and place.name:
            self._set(end, place.name, value)
            if place.name == "state":
                end.state = parse_state(value)

    # -- what was written ------------------------------------------------------------------------
    def _end(self, place: Place) -> _End | None:
        end = self._ends.get(place.directory)
        # The first console has no states.
        if end is None and len(self._ends) < MAX_ENDS and not _is_first_console(place):
            end = self._ends[place.directory] = _End(place)
        return end

    def _set(self, end: _End, name: str, value: str) -> None:
        end.nodes[name] = value
        if end.place.backend and name == "frontend":
            self._peers[value] = end.place.directory

    def _apply(self, time: int, by: int, steps: Iterable[_Operation]) -> None:
        """What took effect together: the states last, whatever their place among the rest."""
        states: list[tuple[_End, str]] = []
        for operation, path, value in steps:
            if operation == xs_wire.XS_RM:
                self._remove(time, by, path)
                continue
            if (directory := error_of(path)) is not None:
                if (end := self._ends.get(directory)) is not None:
                    end.error = value or None
                continue
            place = locate(path)
            end = None if place is None or not place.name else self._end(place)
            if place is None or end is None:
                continue
            if place.name == "state":
                states.append((end, value))
                continue
            old = end.nodes.get(place.name)
            self._set(end, place.name, value)
            if len(end.writes) < MAX_WRITES:
                end.writes.append((place.name, value, by))
            for text in check_node(place.kind, place.backend, place.name, old, end.facts):
                self._violation(time, by, end, text)
        for end, value in states:
            self._state(time, by, end, value)

    def _state(self, time: int, by: int, end: _End, value: str) -> None:
        place, old = end.place, end.state
        end.state = parse_state(value)
        end.nodes["state"] = value
        peer = self._peer(end)
        other = _NOBODY if peer is None else peer.facts
        for text in check_state(place.kind, place.backend, old, value, by, end.facts, other):
            self._violation(time, by, end, text)
        if end.state is old:
            return
        end.since = time
        if end.state not in (XenbusState.Closing, XenbusState.Closed):
            end.error = None
        self._change(time, by, end, old.name, end.state.name)

    def _remove(self, time: int, by: int, path: str) -> None:
        below = f"{path}/"
        for directory, end in list(self._ends.items()):
            if directory == path or directory.startswith(below):
                self._change(time, by, end, end.state.name, "removed")
                del self._ends[directory]
                if self._peers.get(end.nodes.get("frontend", "")) == directory:
                    del self._peers[end.nodes["frontend"]]
            elif path.startswith(f"{directory}/"):
                name = path[len(directory) + 1 :]
                for node in list(end.nodes):
                    if node == name or node.startswith(f"{name}/"):
                        del end.nodes[node]

    def _change(self, time: int, by: int, end: _End, old: str, new: str) -> None:
        change = Change(
            time, self._name(end), self._user(end), _side(end), old, new, by, tuple(end.writes)
        )
        end.writes.clear()
        self.changes.append(change)
        if self.on_change is not None:
            self.on_change(change)

    def _violation(self, time: int, by: int, end: _End, text: str) -> None:
        violation = Violation(time, self._name(end), self._user(end), _side(end), by, text)
        self.violations.append(violation)
        if self.on_violation is not None:
            self.on_violation(violation)

    # -- devices ---------------------------------------------------------------------------------
    def view(self, now: int, domid: int | None = None) -> View:
        """Everything at machine time `now` (ns), or what one domain's devices are about."""
        return View(
            now,
            tuple(self.devices(domid)),
            tuple(one for one in self.changes if domid in (None, one.domid)),
            tuple(one for one in self.violations if domid in (None, one.domid)),
        )

    def _peer(self, end: _End) -> _End | None:
        if end.place.backend:
            return self._ends.get(end.nodes.get("frontend", ""))
        return self._ends.get(self._peers.get(end.place.directory, ""))

    def _front_place(self, end: _End) -> Place:
        """The front end's place: it names the device."""
        if end.place.backend and (front := locate(end.nodes.get("frontend", ""))) is not None:
            return front
        return end.place

    def _name(self, end: _End) -> str:
        place = self._front_place(end)
        return f"{place.kind}/{place.devid}"

    def _user(self, end: _End) -> int:
        place = self._front_place(end)
        return int(place.directory.split("/")[-2]) if place.backend else place.domid

    def devices(self, domid: int | None = None) -> list[Device]:
        """All devices that are there, or those that one domain uses."""
        found = []
        for end in self._ends.values():
            peer = self._peer(end)
            if not end.place.backend and peer is not None:
                continue  # its back end stands for it
            back, front = (end, peer) if end.place.backend else (None, end)
            if domid is not None and self._user(end) != domid:
                continue
            exists = self._exists is None or back is None or self._exists(back.place.domid)
            found.append(
                Device(
                    self._name(end),
                    self._user(end),
                    None if front is None else front.record(),
                    None if back is None else back.record(),
                    next_move(
                        self._front_place(end).kind,
                        None if back is None else back.facts,
                        None if front is None else front.facts,
                        exists,
                    ),
                )
            )
        return sorted(found, key=lambda device: (device.domid, _sort_key(device.name)))


def _is_first_console(place: Place) -> bool:
    return place.kind == "console" and place.devid == 0


def _side(end: _End) -> str:
    return "back" if end.place.backend else "front"


def _sort_key(name: str) -> tuple[str, int]:
    kind, _, devid = name.partition("/")
    return kind, int(devid)
