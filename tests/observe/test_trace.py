# SPDX-License-Identifier: GPL-2.0-or-later
"""The Perfetto trace, parsed back with the protocol's own definitions."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest

from tests.hypervisor.support import Bench
from tests.observe.test_log import guest
from xenograft.abi.io.xs_wire import XS_ERROR, XS_READ, XS_TRANSACTION_END, XS_WRITE
from xenograft.abi.vcpu import RUNSTATE_blocked, RUNSTATE_running
from xenograft.engine.fake import make_exit
from xenograft.engine.protocol import ExitReason
from xenograft.observe.trace import Trace
from xenograft.toolstack.errors import UserError

ARGS = (4, 0, 0, 0, 0, 0)


class Kept(io.BytesIO):
    """A stream whose bytes stay readable."""

    data = b""

    def close(self) -> None:
        self.data = self.getvalue()
        super().close()


class Read:
    """A trace read back: its events with names and annotations resolved, as a viewer does."""

    def __init__(self, data: bytes) -> None:
        from perfetto.protos.perfetto.trace import (  # type: ignore[import-untyped]
            perfetto_trace_pb2 as proto,
        )

        trace = proto.Trace()
        trace.ParseFromString(data)
        self.packets = list(trace.packet)
        self.tracks: dict[int, Any] = {}
        self.events: list[dict[str, Any]] = []
        names: dict[int, str] = {}
        keys: dict[int, str] = {}
        kinds = {value: name for name, value in proto.TrackEvent.Type.items()}
        for packet in self.packets:
            assert packet.trusted_packet_sequence_id == 1
            for entry in packet.interned_data.event_names:
                assert entry.iid not in names
                names[entry.iid] = entry.name
            for entry in packet.interned_data.debug_annotation_names:
                assert entry.iid not in keys
                keys[entry.iid] = entry.name
            if packet.HasField("track_descriptor"):
                # Every track is described once, after its parent.
                assert packet.track_descriptor.uuid not in self.tracks
                parent = packet.track_descriptor.parent_uuid
                assert not parent or parent in self.tracks
                self.tracks[packet.track_descriptor.uuid] = packet.track_descriptor
            if packet.HasField("track_event"):
                event = packet.track_event
                assert event.track_uuid in self.tracks
                arguments = {}
                for note in event.debug_annotations:
                    which = note.WhichOneof("value")
                    arguments[keys[note.name_iid]] = getattr(note, which)
                self.events.append(
                    {
                        "time": packet.timestamp,
                        "track": event.track_uuid,
                        "kind": kinds[event.type].removeprefix("TYPE_"),
                        "name": names[event.name_iid] if event.name_iid else "",
                        "arguments": arguments,
                        "flows": list(event.flow_ids),
                        "ends": list(event.terminating_flow_ids),
                        "categories": list(event.categories),
                    }
                )

    def named(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["name"] == name]

    def check_slices(self) -> None:
        """Slices nest on every track, and all of them end."""
        open_: dict[int, int] = {}
        last: dict[int, int] = {}
        for event in self.events:
            track = event["track"]
            assert event["time"] >= last.get(track, 0)
            last[track] = event["time"]
            if event["kind"] == "SLICE_BEGIN":
                open_[track] = open_.get(track, 0) + 1
            elif event["kind"] == "SLICE_END":
                assert open_[track] > 0
                open_[track] -= 1
        assert not any(open_.values())


def traced() -> tuple[Trace, Kept]:
    out = Kept()
    return Trace(None, out), out


def read(trace: Trace, out: Kept, now: int | None = None) -> Read:
    trace.close(now)
    result = Read(out.data)
    result.check_slices()
    return result


def test_a_hypercall_is_a_slice() -> None:
    trace, out = traced()
    trace.hypercall_enter(1_000, 1, 0, 64, 32, ARGS)
    trace.hypercall_exit(2_000, 1, 0, 32, ARGS, -22)
    found = read(trace, out)
    begin, end = found.events
    assert (begin["kind"], begin["name"], begin["time"]) == (
        "SLICE_BEGIN",
        "event_channel_op EVTCHNOP_send",
        1_000,
    )
    assert begin["categories"] == ["hypercall"]
    assert (end["kind"], end["time"]) == ("SLICE_END", 2_000)
    assert end["arguments"]["op"] == "EVTCHNOP_send"
    assert end["arguments"]["result"] == "-EINVAL"


def test_domains_are_processes_and_vcpus_threads() -> None:
    trace, out = traced()
    for domid, vcpu in ((1, 0), (1, 1), (2, 0)):
        trace.exit(0, domid, vcpu, make_exit(ExitReason.IO_IN, 0x60, 1))
    found = read(trace, out)
    processes = [t for t in found.tracks.values() if t.HasField("process")]
    threads = [t for t in found.tracks.values() if t.HasField("thread")]
    assert [t.process.pid for t in processes] == [1, 2]
    assert [t.thread.thread_name for t in threads] == ["d1v0", "d1v1", "d2v0"]
    assert [t.thread.pid for t in threads] == [1, 1, 2]
    assert len({t.thread.tid for t in threads}) == 3


def test_domain_0_has_a_process_of_its_own() -> None:
    trace, out = traced()
    trace.hypercall_enter(0, 0, -1, 64, 36, ARGS)
    trace.hypercall_exit(0, 0, -1, 36, ARGS, 0)
    found = read(trace, out)
    (process,) = [t for t in found.tracks.values() if t.HasField("process")]
    assert process.process.pid != 0
    assert process.process.process_name == "Domain-0"


def test_exits_and_injections_are_instants() -> None:
    trace, out = traced()
    trace.exit(5, 1, 0, make_exit(ExitReason.IO_OUT, 0x80, 1, 7))
    trace.exit(5, 1, 0, make_exit(ExitReason.HYPERCALL, 32))
    trace.injection(6, 1, 0, 0xF3, "lapic")
    found = read(trace, out)
    assert [event["name"] for event in found.events] == ["IO_OUT", "inject 0xf3"]
    assert {event["kind"] for event in found.events} == {"INSTANT"}
    assert found.events[0]["arguments"] == {"port": "0x80", "size": "1", "value": "0x7"}
    assert found.events[1]["arguments"] == {"vector": 0xF3, "kind": "lapic"}


def test_events_are_flows_from_sender_to_receiver() -> None:
    trace, out = traced()
    trace.hypercall_enter(0, 1, 1, 64, 32, ARGS)
    trace.event_send(1, 1, 3, 2, 7)
    trace.hypercall_exit(2, 1, 1, 32, ARGS, 0)
    trace.event_send(3, 0x7FF2, 0, 2, 8)
    found = read(trace, out)
    (sent,) = found.named("send port 3")
    (came,) = found.named("port 7 pending")
    assert sent["flows"] == came["ends"] != []
    # The sender is the vCPU that is in the hypercall; the receiver another process.
    assert found.tracks[sent["track"]].thread.thread_name == "d1v1"
    assert found.tracks[came["track"]].name == "events"
    (virq,) = found.named("VIRQ")
    (pending,) = found.named("port 8 pending")
    assert virq["flows"] == pending["ends"] != sent["flows"]


def test_runstates_have_a_track() -> None:
    trace, out = traced()
    trace.vcpu_state(0, 1, 0, RUNSTATE_running)
    trace.vcpu_state(5, 1, 0, RUNSTATE_blocked)
    found = read(trace, out, now=9)
    assert [(e["kind"], e["name"], e["time"]) for e in found.events] == [
        ("SLICE_BEGIN", "running", 0),
        ("SLICE_END", "", 5),
        ("SLICE_BEGIN", "blocked", 5),
        ("SLICE_END", "", 9),
    ]


def test_the_other_hooks() -> None:
    trace, out = traced()
    trace.domain_state(1, 1, "created")
    trace.grant_op(2, 1, "map", 2, 9, 0)
    trace.xenstore_request(3, 1, XS_READ, b"name\0", b"guest")
    trace.log(4, 1, "hello")
    found = read(trace, out)
    assert [event["name"] for event in found.events] == ["created", "map", "XS_READ", "message"]
    assert found.events[3]["arguments"] == {"message": "hello"}
    assert found.events[2]["arguments"]["reply"] == "guest"


def test_xenstore_requests_are_decoded() -> None:
    trace, out = traced()
    trace.xenstore_request(1, 1, XS_WRITE, b"device/vbd/1/state\x003", b"OK\0", 7, XS_WRITE, 2)
    trace.xenstore_request(2, 1, XS_READ, b"none\0", b"ENOENT\0", 0, XS_ERROR, 2)
    trace.xenstore_request(3, 1, XS_TRANSACTION_END, b"T\0", b"OK\0", 7, XS_TRANSACTION_END, 2)
    write, read_, end = (event["arguments"] for event in read(trace, out).events)
    path = "device/vbd/1/state"
    assert write == {"path": path, "value": "3", "transaction": 7, "reply": "OK"}
    assert read_ == {"path": "none", "error": "ENOENT"}
    assert end["request"] == "T"


def test_ring_traffic_has_a_track_for_each_device() -> None:
    trace, out = traced()
    trace.ring(1, 1, "vbd/51712", "> READ id=0x0 sector=8 segments=[1:0-7]")
    trace.ring(2, 1, "vbd/51712", "< READ id=0x0 OKAY")
    found = read(trace, out)
    assert [event["name"] for event in found.events] == ["request", "response"]
    assert found.events[0]["arguments"] == {"text": "READ id=0x0 sector=8 segments=[1:0-7]"}
    assert found.tracks[found.events[0]["track"]].name == "vbd/51712"


def test_calls_under_way_are_ended() -> None:
    trace, out = traced()
    trace.hypercall_enter(0, 1, 0, 64, 13, ARGS)
    trace.hypercall_enter(1, 1, 0, 64, 32, ARGS)
    found = read(trace, out, now=10)
    assert [event["kind"] for event in found.events] == [
        "SLICE_BEGIN",
        "SLICE_BEGIN",
        "SLICE_END",
        "SLICE_END",
    ]


def test_continued_calls_end_too() -> None:
    trace, out = traced()
    trace.hypercall_enter(0, 1, 0, 64, 12, ARGS)
    trace.hypercall_enter(1, 1, 0, 64, 12, ARGS)
    trace.hypercall_exit(2, 1, 0, 12, ARGS, 0)
    found = read(trace, out)
    assert found.events[1]["arguments"] == {"continued": 1}


def test_an_end_whose_begin_was_missed_is_left_out() -> None:
    trace, out = traced()
    trace.hypercall_exit(2, 1, 0, 12, ARGS, 0)
    assert read(trace, out).events == []


def test_guests_cannot_make_the_trace_remember_names() -> None:
    trace, _ = traced()
    for number in range(100, 400):
        trace.hypercall_enter(0, 1, 0, 64, number, (number,) * 6)
        trace.hypercall_exit(0, 1, 0, number, (number,) * 6, -38)
        trace.hypercall_enter(0, 1, 0, 64, 29, (number,) * 6)
        trace.hypercall_exit(0, 1, 0, 29, (number,) * 6, -38)
    assert len(trace._names) < 5
    assert len(trace._keys) < 20


def test_closing_twice_is_harmless() -> None:
    trace, out = traced()
    trace.close()
    trace.close()
    assert out.data


def test_a_file_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--trace"):
        Trace.to_file(None, tmp_path / "missing" / "trace")


def test_a_file_without_a_guest_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    trace = Trace.to_file(None, path)
    assert path.exists()
    trace.close()
    assert not path.exists()
    device = tmp_path / "device"
    os.mkfifo(device)
    reader = os.open(device, os.O_RDONLY | os.O_NONBLOCK)
    Trace.to_file(None, device).close()
    os.close(reader)
    assert device.exists()


def test_on_a_machine(tmp_path: Path) -> None:
    bench = Bench(guest)
    path = tmp_path / "run.perfetto"
    trace = Trace.to_file(bench.xen, path)
    bench.xen.instruments.add(trace)
    bench.run()
    bench.xen.instruments.remove(trace)
    trace.close(bench.now)
    found = Read(path.read_bytes())
    found.check_slices()
    (send,) = found.named("event_channel_op EVTCHNOP_send")
    end = found.events[found.events.index(send) + 1]
    assert end["arguments"]["arg.port"] == "3"
    (shutdown,) = found.named("sched_op SCHEDOP_shutdown")
    assert found.tracks[shutdown["track"]].thread.thread_name == "d1v0"
    (process,) = [t for t in found.tracks.values() if t.HasField("process")]
    assert process.process.process_name == bench.domain.name


@pytest.mark.parametrize("closing", [False, True])
def test_a_full_disk_ends_the_trace_alone(closing: bool) -> None:
    bench = Bench(guest)
    told: list[str] = []
    bench.xen.log.notices.append(told.append)
    trace = Trace.to_file(bench.xen, Path("/dev/full"))
    for time in range(1 if closing else 5000):
        trace.exit(time, 1, 0, make_exit(ExitReason.MMIO_WRITE, 0xFEE00000, 4, time))
    assert bool(told) is not closing
    trace.close()
    assert told == ["--trace /dev/full ends here: No space left on device"]


def test_packets_written_by_hand_are_a_trace() -> None:
    """The file is what a Trace message of all packets serialises to."""
    trace, out = traced()
    for time in range(300):
        trace.exit(time, 1, 0, make_exit(ExitReason.MMIO_WRITE, 0xFEE00000 + time, 4, time))
    found = read(trace, out)
    assert len(found.events) == 300
    from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as proto

    whole = proto.Trace()
    whole.packet.extend(found.packets)
    assert whole.SerializeToString() == out.data
