# SPDX-License-Identifier: GPL-2.0-or-later
"""The seam through which everything that happens in the hypervisor can be watched.

A *listener* is any object with methods named like the hooks of `Instrument`; it implements
those that it wants.  `Instruments` holds, for each hook, either None or one callable, so that
a place that reports costs a single attribute test when nobody listens::

    if (hook := instruments.exit) is not None:
        hook(clock.now(), domid, vcpu_id, exit)

All values are flat (integers, bytes, strings, tuples of them): a listener can keep them, and a
recorder can write them.  `time` is the machine's time in ns since its start; `vcpu` is -1
where no vCPU is concerned.  Listeners never change the run: they get no live objects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xenograft.engine.protocol import Exit

__all__ = ["HOOKS", "Instrument", "Instruments"]


class Instrument:
    """A listener that ignores everything: derive from it and override what you want."""

    def run_enter(self, time: int, domid: int, vcpu: int) -> None:
        """A vCPU is about to run guest code."""

    def exit(self, time: int, domid: int, vcpu: int, exit: Exit) -> None:
        """Guest code stopped: the engine's exit record."""

    def hypercall_enter(
        self, time: int, domid: int, vcpu: int, bits: int, number: int, args: tuple[int, ...]
    ) -> None:
        """A hypercall begins. `bits` is 32 or 64 (which structure layouts apply)."""

    def hypercall_exit(
        self, time: int, domid: int, vcpu: int, number: int, args: tuple[int, ...], result: int
    ) -> None:
        """A hypercall ended with `result` (negative: -errno)."""

    def injection(self, time: int, domid: int, vcpu: int, vector: int, kind: str) -> None:
        """An interrupt entered the guest; kind: "upcall", "lapic", "nmi" or "exception"."""

    def event_send(
        self, time: int, domid: int, port: int, remote_domid: int, remote_port: int
    ) -> None:
        """An event channel fired: from (domid, port), made pending at (remote_domid, remote_port).

        For a virtual interrupt or one that Xen itself raises, domid is DOMID_XEN (0x7ff2).
        """

    def vcpu_state(self, time: int, domid: int, vcpu: int, state: int) -> None:
        """A vCPU changed its RUNSTATE_* (public/vcpu.h)."""

    def sched_decision(self, time: int, pcpu: int, domid: int, vcpu: int) -> None:
        """A physical CPU runs another vCPU from now on (domid DOMID_IDLE, 0x7fff: none)."""

    def domain_state(self, time: int, domid: int, state: str) -> None:
        """A domain was "created", "paused", "unpaused", "shutdown", "dying" or "destroyed"."""

    def grant_op(
        self, time: int, domid: int, operation: str, remote_domid: int, ref: int, result: int
    ) -> None:
        """A grant was mapped, unmapped, copied or transferred."""

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
        """A request to the store was answered (operation: XS_* of io/xs_wire.h).

        `tx_id`: its transaction, 0 for none; `reply_type`: XS_ERROR, or the operation again;
        `connection`: a number of the client's, which tells its transactions from others'.
        """

    def ring(self, time: int, domid: int, device: str, text: str) -> None:
        """A back end took a request from a ring, or answered it: `device` as "vbd/51712"."""

    def console(self, time: int, domid: int, data: bytes) -> None:
        """A guest wrote to its console (the ring, or console_io)."""

    def log(self, time: int, domid: int, message: str) -> None:
        """A line for the hypervisor's own log (`xl dmesg`)."""


HOOKS: tuple[str, ...] = tuple(
    name for name, value in vars(Instrument).items() if callable(value) and name[0] != "_"
)
"""The names of all hooks."""

_Hook = Callable[..., None]


class Instruments:
    """What is called at each hook: None when nobody listens.

    >>> class Count(Instrument):
    ...     n = 0
    ...     def log(self, time, domid, message):
    ...         self.n += 1
    >>> seam, count = Instruments(), Count()
    >>> with seam.listening(count):
    ...     seam.log(0, 0, "hello")
    >>> count.n, seam.log is None
    (1, True)
    """

    __slots__ = ("_changed", "_listeners", *HOOKS)

    run_enter: Callable[[int, int, int], None] | None
    exit: Callable[[int, int, int, Exit], None] | None
    hypercall_enter: Callable[[int, int, int, int, int, tuple[int, ...]], None] | None
    hypercall_exit: Callable[[int, int, int, int, tuple[int, ...], int], None] | None
    injection: Callable[[int, int, int, int, str], None] | None
    event_send: Callable[[int, int, int, int, int], None] | None
    vcpu_state: Callable[[int, int, int, int], None] | None
    sched_decision: Callable[[int, int, int, int], None] | None
    domain_state: Callable[[int, int, str], None] | None
    grant_op: Callable[[int, int, str, int, int, int], None] | None
    xenstore_request: Callable[[int, int, int, bytes, bytes, int, int, int], None] | None
    ring: Callable[[int, int, str, str], None] | None
    console: Callable[[int, int, bytes], None] | None
    log: Callable[[int, int, str], None] | None

    def __init__(self) -> None:
        self._listeners: list[Any] = []
        self._changed: list[Callable[[], None]] = []
        self._rebuild()

    def on_change(self, function: Callable[[], None]) -> None:
        """Call `function` now, and whenever listeners have come or gone.

        For parts that have a seam of their own, and connect it only while somebody listens.
        """
        self._changed.append(function)
        function()

    def add(self, listener: Any) -> None:
        """Let `listener` hear the hooks that it implements, after those added before it."""
        self._listeners.append(listener)
        self._rebuild()

    def remove(self, listener: Any) -> None:
        """Undo `add`. Raises ValueError if it doesn't listen."""
        self._listeners.remove(listener)
        self._rebuild()

    def listening(self, listener: Any) -> _Listening:
        """A context manager: `listener` hears what happens inside."""
        return _Listening(self, listener)

    def _rebuild(self) -> None:
        for name in HOOKS:
            hooks = [hook for one in self._listeners if (hook := _own_hook(one, name)) is not None]
            setattr(self, name, _fan_out(hooks))
        for function in self._changed:
            function()


class _Listening:
    def __init__(self, instruments: Instruments, listener: Any) -> None:
        self._instruments, self._listener = instruments, listener

    def __enter__(self) -> Instruments:
        self._instruments.add(self._listener)
        return self._instruments

    def __exit__(self, *_: object) -> None:
        self._instruments.remove(self._listener)


def _own_hook(listener: Any, name: str) -> _Hook | None:
    """The listener's hook, unless it's the empty one of `Instrument`."""
    hook: _Hook | None = getattr(listener, name, None)
    if hook is None or getattr(hook, "__func__", None) is vars(Instrument)[name]:
        return None
    return hook


def _fan_out(hooks: list[_Hook]) -> _Hook | None:
    if not hooks:
        return None
    if len(hooks) == 1:
        return hooks[0]

    def call_all(*args: Any) -> None:
        for hook in hooks:
            hook(*args)

    return call_all
