# SPDX-License-Identifier: GPL-2.0-or-later
"""Which function answers which request.

Functions in `handlers/` register themselves: `on_machine` for those that run on the machine's
thread (quick: the guests wait), `on_loop` for those that await something.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from xenograft.toolstack.service.host import Host
    from xenograft.toolstack.service.messages import Request
    from xenograft.toolstack.service.service import Service

R = TypeVar("R")
T = TypeVar("T")

MACHINE: dict[type[Any], Callable[[Host, Any], Any]] = {}
LOOP: dict[type[Any], Callable[[Service, Any], Awaitable[Any]]] = {}


def on_machine(
    kind: type[Request[T]],
) -> Callable[[Callable[[Host, R], T]], Callable[[Host, R], T]]:
    """The function answers requests of this kind on the machine's thread."""

    def register(function: Callable[[Host, R], T]) -> Callable[[Host, R], T]:
        assert kind not in MACHINE
        MACHINE[kind] = function
        return function

    return register


def on_loop(
    kind: type[Request[T]],
) -> Callable[
    [Callable[[Service, R], Awaitable[T]]],
    Callable[[Service, R], Awaitable[T]],
]:
    """The function answers requests of this kind on the event loop."""

    def register(
        function: Callable[[Service, R], Awaitable[T]],
    ) -> Callable[[Service, R], Awaitable[T]]:
        assert kind not in LOOP
        LOOP[kind] = function
        return function

    return register
