# SPDX-License-Identifier: GPL-2.0-or-later
"""`--trace`: a Perfetto trace of a run (https://perfetto.dev), for ui.perfetto.dev.

Domains are processes, vCPUs threads.  On a vCPU's track hypercalls are slices, by name, with
their decoded arguments and result; exits and injections are instants.  Below it lies a track
with the vCPU's runstate.  Events are instants with a flow from the sender to the receiver.

The file is a sequence of TracePackets (perfetto/trace/trace.proto), written as they come, so
that a long run needs no memory for it and a run that's killed leaves a valid trace.  Names are
interned.  Time is the machine's: on the virtual clock hypercalls take none of it.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from xenograft.abi.io.xs_wire import (
    XS_DIRECTORY,
    XS_DIRECTORY_PART,
    XS_ERROR,
    XS_GET_PERMS,
    XS_MKDIR,
    XS_NAMES,
    XS_READ,
    XS_RM,
    XS_SET_PERMS,
    XS_UNWATCH,
    XS_WATCH,
    XS_WRITE,
)
from xenograft.abi.vcpu import RUNSTATE_NAMES
from xenograft.abi.xen import DOMID_XEN
from xenograft.engine.protocol import Exit, ExitReason
from xenograft.observe import show
from xenograft.observe.decode import CallTracker, Decoder, OpenCall
from xenograft.observe.log import exit_arguments, exit_name
from xenograft.toolstack.errors import UserError

if TYPE_CHECKING:
    from xenograft.hypervisor.hypervisor import Hypervisor

SEQUENCE = 1
_CLEARED = 1  # SEQ_INCREMENTAL_STATE_CLEARED
_NEEDS = 2  # SEQ_NEEDS_INCREMENTAL_STATE
_BUFFER = 1 << 16

_WITH_PATH = frozenset(
    (
        *(XS_DIRECTORY, XS_DIRECTORY_PART, XS_GET_PERMS, XS_MKDIR, XS_READ, XS_RM, XS_SET_PERMS),
        *(XS_UNWATCH, XS_WATCH, XS_WRITE),
    )
)
"""Requests that begin with a path."""

_DOM0_PID = 0x8000
"""Process id of domain 0: 0 is the idle task for Perfetto. Others have their domid."""
_XEN_PID = DOMID_XEN


def _pid(domid: int) -> int:
    return domid or _DOM0_PID


class Trace(CallTracker):
    """A listener that writes packets to a binary stream."""

    def __init__(
        self, hypervisor: Hypervisor | None, out: BinaryIO, path: Path | None = None
    ) -> None:
        super().__init__()
        self._path = path
        # Here and not above: the module has a megabyte of descriptors.
        from perfetto.protos.perfetto.trace import (  # type: ignore[import-untyped]
            perfetto_trace_pb2 as proto,
        )

        self._proto: Any = proto
        self._type: Any = proto.TrackEvent
        self._hypervisor = hypervisor
        self._decoder = Decoder(hypervisor)
        self._out = out
        self._pending = bytearray()
        self._tracks: dict[tuple[str, int, int], int] = {}
        self._names: dict[str, int] = {}
        self._keys: dict[str, int] = {}
        self._fresh_names: list[tuple[int, str]] = []
        self._fresh_keys: list[tuple[int, str]] = []
        self._states: set[int] = set()
        self._flows = 0
        self._slices: dict[tuple[int, int], int] = {}
        self._time = 0
        self._closed = False
        self.error: OSError | None = None
        """Why nothing more is written."""
        first = self._packet()
        first.sequence_flags = _CLEARED
        first.trace_packet_defaults.timestamp_clock_id = 6  # BUILTIN_CLOCK_BOOTTIME
        self._emit(first)

    @classmethod
    def to_file(cls, hypervisor: Hypervisor | None, path: Path) -> Trace:
        """A trace in a new file. Raises UserError if it can't be made."""
        try:
            out = path.open("wb")
        except OSError as error:
            raise UserError(f"--trace {path}: {error.strerror or error}") from None
        return cls(hypervisor, out, path)

    def close(self, now: int | None = None) -> None:
        """End what is under way at machine time `now`, and close the stream.

        A file in which nothing was recorded, since no guest came to be, is removed.
        """
        if self._closed:
            return
        self._closed = True
        now = self._time if now is None else max(now, self._time)
        for (domid, vcpu), depth in sorted(self._slices.items()):
            for _ in range(depth):
                self._event(now, self._vcpu(domid, vcpu), self._type.TYPE_SLICE_END)
        for track in sorted(self._states):
            self._event(now, track, self._type.TYPE_SLICE_END)
        self._flush()
        with suppress(OSError):
            # What a full disk has left in the file's buffer is tried again, in vain.
            self._out.close()
        # A device that was named isn't ours to remove.
        if self._path is not None and not self._tracks and self._path.is_file():
            self._path.unlink(missing_ok=True)

    # -- packets ---------------------------------------------------------------------------------
    def _packet(self) -> Any:
        packet = self._proto.TracePacket()
        packet.trusted_packet_sequence_id = SEQUENCE
        return packet

    def _emit(self, packet: Any) -> None:
        if self.error is not None:
            return
        data = packet.SerializeToString()
        # Field 1 of Trace, length-delimited: what a Trace of this one packet would serialise to.
        self._pending += b"\x0a" + _varint(len(data)) + data
        if len(self._pending) >= _BUFFER:
            self._flush()

    def _flush(self) -> None:
        if self.error is None:
            try:
                self._out.write(self._pending)
                self._out.flush()
            except OSError as error:
                # The guest goes on; a trace isn't worth its life.
                self._give_up(error)
        self._pending.clear()

    def _give_up(self, error: OSError) -> None:
        self.error = error
        if self._hypervisor is not None:
            where = "the trace" if self._path is None else f"--trace {self._path}"
            self._hypervisor.log.notice(f"{where} ends here: {error.strerror or error}")

    def _event(
        self,
        time: int,
        track: int,
        kind: int,
        name: str | None = None,
        arguments: list[tuple[str, str | int]] | None = None,
        flow: int | None = None,
        ends_flow: int | None = None,
        category: str | None = None,
    ) -> None:
        self._time = max(self._time, time)
        packet = self._packet()
        packet.timestamp = time
        packet.sequence_flags = _NEEDS
        event = packet.track_event
        event.type = kind
        event.track_uuid = track
        if name is not None:
            event.name_iid = self._name(name)
        if category is not None:
            event.categories.append(category)
        for key, value in arguments or ():
            annotation = event.debug_annotations.add()
            annotation.name_iid = self._key(key)
            if isinstance(value, int):
                annotation.int_value = value
            else:
                annotation.string_value = value
        if flow is not None:
            event.flow_ids.append(flow)
        if ends_flow is not None:
            event.terminating_flow_ids.append(ends_flow)
        # The names that this event uses for the first time travel with it.
        for iid, text in self._fresh_names:
            entry = packet.interned_data.event_names.add()
            entry.iid, entry.name = iid, text
        for iid, text in self._fresh_keys:
            entry = packet.interned_data.debug_annotation_names.add()
            entry.iid, entry.name = iid, text
        self._fresh_names.clear()
        self._fresh_keys.clear()
        self._emit(packet)

    def _name(self, text: str) -> int:
        iid = self._names.get(text)
        if iid is None:
            iid = self._names[text] = len(self._names) + 1
            self._fresh_names.append((iid, text))
        return iid

    def _key(self, text: str) -> int:
        iid = self._keys.get(text)
        if iid is None:
            iid = self._keys[text] = len(self._keys) + 1
            self._fresh_keys.append((iid, text))
        return iid

    # -- tracks ----------------------------------------------------------------------------------
    def _track(self, kind: str, domid: int, vcpu: int = -1) -> tuple[int, bool]:
        """(uuid, whether it is new)."""
        key = (kind, domid, vcpu)
        uuid = self._tracks.get(key)
        if uuid is not None:
            return uuid, False
        uuid = self._tracks[key] = len(self._tracks) + 1
        return uuid, True

    def _domain(self, domid: int) -> int:
        uuid, new = self._track("domain", domid)
        if new:
            packet = self._packet()
            packet.track_descriptor.uuid = uuid
            process = packet.track_descriptor.process
            process.pid = _pid(domid)
            process.process_name = self._domain_name(domid)
            self._emit(packet)
        return uuid

    def _domain_name(self, domid: int) -> str:
        if domid == DOMID_XEN:
            return "Xen"
        domain = None if self._hypervisor is None else self._hypervisor.domains.get(domid)
        return f"Domain-{domid}" if domain is None else domain.name

    def _vcpu(self, domid: int, vcpu: int) -> int:
        """A vCPU's track; that of the domain for callers in the host."""
        if vcpu < 0:
            return self._child(domid, "calls")
        uuid, new = self._track("vcpu", domid, vcpu)
        if new:
            self._domain(domid)
            packet = self._packet()
            packet.track_descriptor.uuid = uuid
            thread = packet.track_descriptor.thread
            thread.pid = _pid(domid)
            # Thread ids are the machine's, not the process's.
            thread.tid = _pid(domid) * 256 + vcpu + 1
            thread.thread_name = show.who(domid, vcpu)
            self._emit(packet)
        return uuid

    def _child(self, domid: int, name: str, vcpu: int = -1) -> int:
        """A named track below a vCPU's or a domain's."""
        uuid, new = self._track(name, domid, vcpu)
        if new:
            parent = self._domain(domid) if vcpu < 0 else self._vcpu(domid, vcpu)
            packet = self._packet()
            packet.track_descriptor.uuid = uuid
            packet.track_descriptor.parent_uuid = parent
            packet.track_descriptor.name = name if vcpu < 0 else f"{show.who(domid, vcpu)} {name}"
            self._emit(packet)
        return uuid

    # -- hooks: hypercalls -------------------------------------------------------------------------
    def call_begins(self, time: int, domid: int, vcpu: int, call: OpenCall) -> None:
        # Names are interned for good: a guest must not be able to invent them.
        name = self._decoder.full_name(call.number, call.args).replace(".", " ")
        begin = self._type.TYPE_SLICE_BEGIN
        self._event(time, self._vcpu(domid, vcpu), begin, name, category="hypercall")
        self._slices[domid, vcpu] = self._slices.get((domid, vcpu), 0) + 1

    def call_continued(self, time: int, domid: int, vcpu: int, call: OpenCall) -> None:
        self._end_call(time, domid, vcpu, [("continued", 1)])

    def call_ends(self, time: int, domid: int, vcpu: int, call: OpenCall, result: int) -> None:
        read = self._decoder.reader(domid, vcpu)
        decoded = self._decoder.decode(call.number, call.args, call.bits, read)
        arguments: list[tuple[str, str | int]] = []
        if decoded.op is not None:
            arguments.append(("op", decoded.op))
        arguments += decoded.arguments
        for index, struct in enumerate(decoded.structs):
            prefix = "" if len(decoded.structs) == 1 else f"{index}."
            arguments += [(f"arg.{prefix}{name}", text) for name, text in show.members(struct)]
        arguments.append(("result", show.result(result)))
        self._end_call(time, domid, vcpu, arguments)

    def _end_call(
        self, time: int, domid: int, vcpu: int, arguments: list[tuple[str, str | int]]
    ) -> None:
        depth = self._slices.get((domid, vcpu), 0)
        if not depth:
            return
        self._slices[domid, vcpu] = depth - 1
        self._event(time, self._vcpu(domid, vcpu), self._type.TYPE_SLICE_END, arguments=arguments)

    # -- hooks: the rest ---------------------------------------------------------------------------
    def _instant(
        self,
        time: int,
        track: int,
        name: str,
        category: str,
        arguments: list[tuple[str, str | int]] | None = None,
        **flows: int,
    ) -> None:
        kind = self._type.TYPE_INSTANT
        self._event(time, track, kind, name, arguments, category=category, **flows)

    def exit(self, time: int, domid: int, vcpu: int, exit: Exit) -> None:
        if exit[0] != ExitReason.HYPERCALL:
            arguments: list[tuple[str, str | int]] = [*exit_arguments(exit)]
            self._instant(time, self._vcpu(domid, vcpu), exit_name(exit), "exit", arguments)

    def injection(self, time: int, domid: int, vcpu: int, vector: int, kind: str) -> None:
        arguments: list[tuple[str, str | int]] = [("vector", vector), ("kind", kind)]
        name = f"inject {vector:#x}"
        self._instant(time, self._vcpu(domid, vcpu), name, "injection", arguments)

    def event_send(
        self, time: int, domid: int, port: int, remote_domid: int, remote_port: int
    ) -> None:
        self._flows += 1
        vcpu = self._sender(domid)
        source = self._child(domid, "events") if vcpu < 0 else self._vcpu(domid, vcpu)
        sent: list[tuple[str, str | int]] = [
            ("port", port),
            ("remote_domid", remote_domid),
            ("remote_port", remote_port),
        ]
        name = "VIRQ" if domid == DOMID_XEN else f"send port {port}"
        self._instant(time, source, name, "event", sent, flow=self._flows)
        came: list[tuple[str, str | int]] = [("port", remote_port), ("from", show.who(domid))]
        target = self._child(remote_domid, "events")
        self._instant(
            time, target, f"port {remote_port} pending", "event", came, ends_flow=self._flows
        )

    def _sender(self, domid: int) -> int:
        """The vCPU of a domain that is in a hypercall now, or -1."""
        for (candidate, vcpu), depth in self._slices.items():
            if candidate == domid and depth and vcpu >= 0:
                return vcpu
        return -1

    def vcpu_state(self, time: int, domid: int, vcpu: int, state: int) -> None:
        track = self._child(domid, "runstate", vcpu)
        if track in self._states:
            self._event(time, track, self._type.TYPE_SLICE_END)
        self._states.add(track)
        name = RUNSTATE_NAMES.get(state, str(state)).removeprefix("RUNSTATE_")
        self._event(time, track, self._type.TYPE_SLICE_BEGIN, name, category="runstate")

    def domain_state(self, time: int, domid: int, state: str) -> None:
        self._instant(time, self._child(domid, "state"), state, "domain")

    def grant_op(
        self, time: int, domid: int, operation: str, remote_domid: int, ref: int, result: int
    ) -> None:
        arguments: list[tuple[str, str | int]] = [
            ("remote_domid", remote_domid),
            ("ref", ref),
            ("result", show.result(result)),
        ]
        self._instant(time, self._child(domid, "grants"), operation, "grant", arguments)

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
        arguments: list[tuple[str, str | int]] = []
        if operation in _WITH_PATH:
            path, _, rest = request.partition(b"\0")
            arguments.append(("path", _text(path)))
            if rest.rstrip(b"\0"):
                arguments.append(("value", _text(rest)))
        else:
            arguments.append(("request", _text(request)))
        if tx_id:
            arguments.append(("transaction", tx_id))
        arguments.append(("error" if reply_type == XS_ERROR else "reply", _text(reply)))
        name = XS_NAMES.get(operation, "XS_?")
        self._instant(time, self._child(domid, "xenstore"), name, "xenstore", arguments)

    def ring(self, time: int, domid: int, device: str, text: str) -> None:
        # The device's name is the toolstack's; what the guest says stays out of the names.
        name = "request" if text.startswith(">") else "response"
        content: list[tuple[str, str | int]] = [("text", text[2:])]
        self._instant(time, self._child(domid, device), name, "ring", content)

    def log(self, time: int, domid: int, message: str) -> None:
        text: list[tuple[str, str | int]] = [("message", message)]
        self._instant(time, self._child(domid, "log"), "message", "log", text)


def _varint(value: int) -> bytes:
    """Protobuf's base-128 integers."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _text(data: bytes) -> str:
    """The beginning of a payload: its strings."""
    parts = data[:256].rstrip(b"\0").split(b"\0")
    return ", ".join(part.decode("ascii", "backslashreplace") for part in parts)
