# SPDX-License-Identifier: GPL-2.0-or-later
"""`--log`: what happens in the machine, one line each, as it happens.

::

      1.234567 d1v0 event_channel_op(EVTCHNOP_send, {port=3}) = 0
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from xenograft.abi.io.xs_wire import XS_ERROR, XS_NAMES
from xenograft.abi.vcpu import RUNSTATE_NAMES
from xenograft.engine.protocol import Exit, ExitReason
from xenograft.observe import show
from xenograft.observe.decode import CallTracker, Decoder, OpenCall
from xenograft.toolstack.errors import UserError

if TYPE_CHECKING:
    from xenograft.hypervisor.hypervisor import Hypervisor
    from xenograft.observe.xenbus.tracker import XenbusTracker

SUBJECTS: dict[str, str] = {
    "hypercalls": "name or sub-operation, as event_channel_op or EVTCHNOP_*",
    "exits": "reason, as IO_OUT",
    "injections": "kind or vector, as lapic or 0xf3",
    "events": "one of the ends, as d1:3",
    "grants": "operation, as map",
    "xenstore": "operation, as XS_READ, or path",
    "xenbus": "device, as vbd/51712, or domain, as d1",
    "rings": "device, as vbd/51712",
    "domains": "state, as shutdown*",
    "vcpus": "state, as blocked",
    "xen": "text of the message",
}
"""What can be logged, and what its filter is matched with."""


class Subject(NamedTuple):
    """One ``--log`` option: what, and which of it."""

    name: str
    pattern: str = "*"

    @classmethod
    def parse(cls, text: str) -> Subject:
        """``hypercalls`` or ``hypercalls=pattern``. Raises UserError."""
        name, found, pattern = text.partition("=")
        if name not in SUBJECTS:
            raise UserError(f"--log {text}: can't log {name!r}; there are {', '.join(SUBJECTS)}")
        if found and not pattern:
            raise UserError(f"--log {text}: the filter is empty; give {SUBJECTS[name]}")
        return cls(name, pattern or "*")


_EXIT_ARGUMENTS: dict[int, tuple[str, ...]] = {
    ExitReason.HYPERCALL: ("nr", "arg1", "arg2", "arg3", "arg4", "arg5"),
    ExitReason.IO_IN: ("port", "size"),
    ExitReason.IO_OUT: ("port", "size", "value"),
    ExitReason.MMIO_READ: ("gpa", "size"),
    ExitReason.MMIO_WRITE: ("gpa", "size", "value"),
    ExitReason.CPUID: ("leaf", "subleaf"),
    ExitReason.MSR_READ: ("msr",),
    ExitReason.MSR_WRITE: ("msr", "value"),
    ExitReason.HALT: ("interrupts",),
    ExitReason.SHUTDOWN: ("vector",),
    ExitReason.STAGE2: ("gpa", "access", "gva"),
    ExitReason.DEBUG: ("rip",),
    ExitReason.ERROR: ("error", "rip"),
}
_DECIMAL = frozenset({"nr", "size", "interrupts", "vector", "access", "error"})
REASONS: dict[int, str] = {int(reason): reason.name for reason in ExitReason}
"""Why the engine came back, by name."""


def exit_name(exit_: Exit) -> str:
    """The reason of an engine's exit, by name."""
    return REASONS.get(exit_[0], f"exit_{exit_[0]}")


def exit_arguments(exit_: Exit) -> list[tuple[str, str]]:
    """(name, text) of what an exit carries."""
    names = _EXIT_ARGUMENTS.get(exit_[0], ())
    return [
        (name, str(word) if name in _DECIMAL else hex(word))
        for name, word in zip(names, exit_[2:], strict=False)
    ]


class _Lines:
    """What the listeners share: the filters of one subject, and how lines look."""

    def __init__(self, patterns: list[str], write: Callable[[str], object]) -> None:
        self._patterns = patterns
        self._write = write

    def wanted(self, *names: str) -> bool:
        """Whether one of the names passes one of the filters."""
        return any(fnmatchcase(name, pattern) for pattern in self._patterns for name in names)

    def line(self, time: int, domid: int, vcpu: int, text: str) -> None:
        """Print."""
        self._write(f"{show.seconds(time)} {show.who(domid, vcpu)} {text}")


_TAGGED = frozenset({"domctl", "sysctl", "platform_op", "xsm_op"})
"""Their sub-operation stands in memory."""


class _Hypercalls(CallTracker):
    def __init__(self, lines: _Lines, decoder: Decoder) -> None:
        super().__init__()
        self._lines = lines
        self._decoder = decoder

    def call_ends(self, time: int, domid: int, vcpu: int, call: OpenCall, result: int) -> None:
        self._call(time, domid, vcpu, call, show.result(result))

    def call_continued(self, time: int, domid: int, vcpu: int, call: OpenCall) -> None:
        self._call(time, domid, vcpu, call, "? (continues)")

    def _wanted(self, name: str, op: str | None) -> bool:
        return self._lines.wanted(name) or (
            op is not None and self._lines.wanted(op, f"{name}.{op}")
        )

    def _call(self, time: int, domid: int, vcpu: int, call: OpenCall, result: str) -> None:
        name, op = self._decoder.names(call.number, call.args)
        tagged = name in _TAGGED
        if not tagged and not self._wanted(name, op):
            return
        read = self._decoder.reader(domid, vcpu)
        decoded = self._decoder.decode(call.number, call.args, call.bits, read)
        if tagged and not self._wanted(name, decoded.op):
            return
        self._lines.line(time, domid, vcpu, f"{decoded.text()} = {result}")


class _Exits(_Lines):
    def exit(self, time: int, domid: int, vcpu: int, exit: Exit) -> None:
        name = exit_name(exit)
        if self.wanted(name):
            words = "".join(f" {key}={text}" for key, text in exit_arguments(exit))
            self.line(time, domid, vcpu, f"exit {name}{words}")


class _Injections(_Lines):
    def injection(self, time: int, domid: int, vcpu: int, vector: int, kind: str) -> None:
        if self.wanted(kind, hex(vector)):
            self.line(time, domid, vcpu, f"injection {vector:#x} ({kind})")


class _Events(_Lines):
    def event_send(
        self, time: int, domid: int, port: int, remote_domid: int, remote_port: int
    ) -> None:
        sender, receiver = _end(domid, port), _end(remote_domid, remote_port)
        if self.wanted(sender, receiver):
            self.line(time, domid, -1, f"event {sender} -> {receiver}")


class _Grants(_Lines):
    def grant_op(
        self, time: int, domid: int, operation: str, remote_domid: int, ref: int, result: int
    ) -> None:
        if self.wanted(operation):
            text = f"grant {operation} d{remote_domid}:{ref} = {show.result(result)}"
            self.line(time, domid, -1, text)


class _Xenstore(_Lines):
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
        name = XS_NAMES.get(operation, f"XS_{operation}")
        path = request.partition(b"\0")[0].decode("ascii", "backslashreplace")
        if self.wanted(name, path):
            transaction = f" in transaction {tx_id}" if tx_id else ""
            answer = _strings(reply) if reply_type != XS_ERROR else _plain(reply)
            self.line(time, domid, -1, f"{name}({_strings(request)}){transaction} = {answer}")


class _Rings(_Lines):
    def ring(self, time: int, domid: int, device: str, text: str) -> None:
        if self.wanted(device, device.partition(" ")[0]):
            self.line(time, domid, -1, f"{device} {text}")


def _xenbus(lines: _Lines, hypervisor: Hypervisor) -> XenbusTracker:
    """A tracker that prints what happens as it does."""
    from xenograft.observe.xenbus.report import change_text, violation_text
    from xenograft.observe.xenbus.tracker import Change, Violation, XenbusTracker

    def changed(change: Change) -> None:
        if lines.wanted(change.device, f"d{change.domid}"):
            lines.line(change.time, change.by, -1, change_text(change))

    def violated(violation: Violation) -> None:
        if lines.wanted(violation.device, f"d{violation.domid}"):
            lines.line(violation.time, violation.by, -1, violation_text(violation))

    tracker = XenbusTracker(lambda domid: domid in hypervisor.domains)
    tracker.on_change, tracker.on_violation = changed, violated
    return tracker


class _Domains(_Lines):
    def domain_state(self, time: int, domid: int, state: str) -> None:
        if self.wanted(state):
            self.line(time, domid, -1, f"domain {state}")


class _Vcpus(_Lines):
    def vcpu_state(self, time: int, domid: int, vcpu: int, state: int) -> None:
        name = RUNSTATE_NAMES.get(state, str(state)).removeprefix("RUNSTATE_")
        if self.wanted(name):
            self.line(time, domid, vcpu, f"vcpu {name}")


class _Xen(_Lines):
    def log(self, time: int, domid: int, message: str) -> None:
        if self.wanted(message):
            self.line(time, domid, -1, message)


_LISTENERS: dict[str, type[_Lines]] = {
    "exits": _Exits,
    "injections": _Injections,
    "events": _Events,
    "grants": _Grants,
    "xenstore": _Xenstore,
    "rings": _Rings,
    "domains": _Domains,
    "vcpus": _Vcpus,
    "xen": _Xen,
}


def listeners(
    hypervisor: Hypervisor, subjects: Iterable[Subject], write: Callable[[str], object]
) -> list[Any]:
    """One listener per subject that is asked for; `write` gets lines without an end."""
    patterns: dict[str, list[str]] = {}
    for subject in subjects:
        patterns.setdefault(subject.name, []).append(subject.pattern)
    made: list[Any] = []
    for name, wanted in patterns.items():
        if name == "hypercalls":
            made.append(_Hypercalls(_Lines(wanted, write), Decoder(hypervisor)))
        elif name == "xenbus":
            made.append(_xenbus(_Lines(wanted, write), hypervisor))
        else:
            made.append(_LISTENERS[name](wanted, write))
    return made


def _end(domid: int, port: int) -> str:
    return "xen" if domid == 0x7FF2 else f"d{domid}:{port}"


def _strings(data: bytes) -> str:
    """A xenstore payload: its NUL-separated strings."""
    parts = data.rstrip(b"\0").split(b"\0")
    return ", ".join('"' + part[:128].decode("ascii", "backslashreplace") + '"' for part in parts)


def _plain(data: bytes) -> str:
    """An error's name."""
    return data.rstrip(b"\0").decode("ascii", "backslashreplace")
