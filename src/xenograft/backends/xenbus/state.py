# SPDX-License-Identifier: GPL-2.0-or-later
"""How front and back end meet: pure decisions on the two `state` nodes (public/io/xenbus.h).

The back end's part, as Linux's back ends play it::

    front end           back end
    Initialising        Initialising -> InitWait     offers its features
    Initialised         -> Connected                 maps rings, binds ports
    Connected
    Closing             -> Closing                   stops
    Closed              -> Closed                    lets go; goes away unless `online`
    Initialising        -> InitWait                  again
"""

from __future__ import annotations

from enum import Enum, auto

from xenograft.abi.io.xenbus import XenbusState


class Step(Enum):
    """What a back end has to do next."""

    NOTHING = auto()
    OFFER = auto()
    """Publish what it can do, and wait for the front end (InitWait)."""
    CONNECT = auto()
    """Read what the front end has set up, and connect to it (Connected)."""
    STOP = auto()
    """Say that the end is coming (Closing)."""
    CLOSE = auto()
    """Let go of everything of the front end's (Closed)."""
    REMOVE = auto()
    """The same, and go away."""
    RECONFIGURE = auto()
    """Take over what the front end wants changed while it runs (Reconfigured)."""


def parse_state(value: str | None) -> XenbusState:
    """The value of a `state` node; what is no state counts as Unknown."""
    try:
        return XenbusState(int(value)) if value is not None else XenbusState.Unknown
    except ValueError:
        return XenbusState.Unknown


def next_step(own: XenbusState, frontend: XenbusState, online: bool) -> Step:
    """What a back end in state `own` does about the front end's state."""
    match frontend:
        case XenbusState.Initialising:
            fresh = own in (XenbusState.Initialising, XenbusState.Closed)
            return Step.OFFER if fresh else Step.NOTHING
        case XenbusState.Initialised | XenbusState.Connected:
            if own in (XenbusState.InitWait, XenbusState.Initialised):
                return Step.CONNECT
            return Step.NOTHING
        case XenbusState.Reconfiguring:
            running = own in (XenbusState.Connected, XenbusState.Reconfigured)
            return Step.RECONFIGURE if running else Step.NOTHING
        case XenbusState.Closing:
            ended = own in (XenbusState.Closing, XenbusState.Closed)
            return Step.NOTHING if ended else Step.STOP
        case XenbusState.Closed:
            if not online:
                return Step.REMOVE
            return Step.NOTHING if own is XenbusState.Closed else Step.CLOSE
        case XenbusState.Unknown:
            return Step.REMOVE
    return Step.NOTHING


def who_is_next(backend: XenbusState, frontend: XenbusState, online: bool = True) -> str:
    """Who has to write next, and what: one line for people who look at a device.

    >>> who_is_next(XenbusState.InitWait, XenbusState.Initialising)
    'front end: set up its rings, then write Initialised'
    """
    if (backend, frontend) == (XenbusState.Reconfigured, XenbusState.Reconfiguring):
        return "front end: write Connected"
    match next_step(backend, frontend, online):
        case Step.OFFER:
            return "back end: publish its features, then write InitWait"
        case Step.CONNECT:
            return "back end: connect to the rings, then write Connected"
        case Step.STOP:
            return "back end: stop, then write Closing"
        case Step.CLOSE:
            return "back end: let go of the rings, then write Closed"
        case Step.REMOVE:
            if backend is XenbusState.Closed:
                return "toolstack: remove the device"
            return "back end: let go of the rings, write Closed and go"
        case Step.RECONFIGURE:
            return "back end: take over the changes, then write Reconfigured"
    match backend, frontend:
        case ((XenbusState.Connected | XenbusState.Reconfigured), XenbusState.Connected):
            return "nobody: connected"
        case ((XenbusState.Initialising | XenbusState.InitWait), XenbusState.Initialising):
            return "front end: set up its rings, then write Initialised"
        case XenbusState.Connected, (XenbusState.Initialised | XenbusState.Initialising):
            return "front end: read the device's properties, then write Connected"
        case XenbusState.Closing, (XenbusState.Closing):
            return "front end: let go of its rings, then write Closed"
        case XenbusState.Closing, _:
            return "front end: stop, then write Closing or Closed"
        case XenbusState.Closed, XenbusState.Closed:
            return "front end: write Initialising to start again"
        case XenbusState.Closed, _:
            return "front end: write Closed"
    return "nobody knows: these states don't belong together"


_FRONTEND_MOVES: dict[XenbusState, frozenset[XenbusState]] = {
    XenbusState.Unknown: frozenset({XenbusState.Initialising}),
    XenbusState.Initialising: frozenset(
        {
            XenbusState.InitWait,
            XenbusState.Initialised,
            XenbusState.Connected,
            XenbusState.Closing,
            XenbusState.Closed,
        }
    ),
    XenbusState.InitWait: frozenset(
        {XenbusState.Initialised, XenbusState.Connected, XenbusState.Closing, XenbusState.Closed}
    ),
    XenbusState.Initialised: frozenset(
        {
            XenbusState.Connected,
            XenbusState.Initialising,
            XenbusState.Closing,
            XenbusState.Closed,
        }
    ),
    XenbusState.Connected: frozenset(
        {
            XenbusState.Reconfiguring,
            XenbusState.Initialising,
            XenbusState.Closing,
            XenbusState.Closed,
        }
    ),
    XenbusState.Closing: frozenset({XenbusState.Closed, XenbusState.Initialising}),
    XenbusState.Closed: frozenset({XenbusState.Initialising, XenbusState.InitWait}),
    XenbusState.Reconfiguring: frozenset({XenbusState.Reconfigured, XenbusState.Closing}),
    XenbusState.Reconfigured: frozenset({XenbusState.Connected, XenbusState.Closing}),
}


def may_follow(old: XenbusState, new: XenbusState) -> bool:
    """Whether one end may go from one state to the other by itself (either end)."""
    return new is old or new is XenbusState.Unknown or new in _FRONTEND_MOVES[old]
