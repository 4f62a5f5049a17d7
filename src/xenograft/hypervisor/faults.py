# SPDX-License-Identifier: GPL-2.0-or-later
"""The seam through which a test makes things go wrong: grants that fail, events that get lost.

Instruments only watch; what is asked here changes the run.  Each point holds None, or one
callable that decides, so that a place where a fault may strike costs one attribute test while
nobody injects any::

    if (fault := hypervisor.faults.event) is not None and fault(domid, port, other, other_port):
        return
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

GrantFault: TypeAlias = Callable[[int, int, int], int]
"""(who maps or copies, who granted, reference): GNTST_okay to let it be, or another GNTST_*."""

EventFault: TypeAlias = Callable[[int, int, int, int], bool]
"""(sender, its port, receiver, its port): whether the event gets lost on the way."""


class FaultPoints:
    """Who decides at each point: the first that wants a fault; all are asked until then.

    >>> points = FaultPoints()
    >>> def third(mapper, granter, ref):
    ...     return -1 if ref == 3 else 0
    >>> points.add_grant_map(third)
    >>> points.grant_map(0, 1, 3), points.grant_map(0, 1, 4)
    (-1, 0)
    >>> points.remove(third)
    >>> points.grant_map is None
    True
    """

    __slots__ = ("_copies", "_events", "_maps", "event", "grant_copy", "grant_map")

    def __init__(self) -> None:
        self._maps: list[GrantFault] = []
        self._copies: list[GrantFault] = []
        self._events: list[EventFault] = []
        self.grant_map: GrantFault | None = None
        """Asked before a grant is mapped, by a guest or a back end in this process."""
        self.grant_copy: GrantFault | None = None
        """Asked before bytes are copied from or to a grant."""
        self.event: EventFault | None = None
        """Asked before an event of an interdomain channel is delivered."""

    def add_grant_map(self, fault: GrantFault) -> None:
        self._maps.append(fault)
        self._rebuild()

    def add_grant_copy(self, fault: GrantFault) -> None:
        self._copies.append(fault)
        self._rebuild()

    def add_event(self, fault: EventFault) -> None:
        self._events.append(fault)
        self._rebuild()

    def remove(self, fault: GrantFault | EventFault) -> None:
        """Undo any of the above; no matter if it isn't there."""
        self._maps = [one for one in self._maps if one != fault]
        self._copies = [one for one in self._copies if one != fault]
        self._events = [one for one in self._events if one != fault]
        self._rebuild()

    def _rebuild(self) -> None:
        self.grant_map = _first(self._maps)
        self.grant_copy = _first(self._copies)
        events = self._events
        self.event = (lambda *what: any(one(*what) for one in events)) if events else None


def _first(faults: list[GrantFault]) -> GrantFault | None:
    if not faults:
        return None

    def ask(caller: int, granter: int, ref: int) -> int:
        return next((status for one in faults if (status := one(caller, granter, ref))), 0)

    return ask
