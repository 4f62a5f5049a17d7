# SPDX-License-Identifier: GPL-2.0-or-later
"""Live lines, on a machine whose guest is a script."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from tests.hypervisor.support import ARG, Bench, Guest
from xenograft.abi.event_channel import EVTCHNOP_send, EVTCHNOP_status, evtchn_send, evtchn_status
from xenograft.abi.io.xs_wire import XS_READ
from xenograft.abi.sched import SCHEDOP_shutdown, SHUTDOWN_poweroff, sched_shutdown
from xenograft.engine.fake import FakeCpu, hypercall, io_out, make_exit
from xenograft.engine.protocol import ExitReason
from xenograft.hypervisor.instruments import Instruments
from xenograft.observe.log import SUBJECTS, Subject, exit_arguments, exit_name, listeners
from xenograft.toolstack.errors import UserError

SCHED, EVENTS = 29, 32


def guest(cpu: FakeCpu) -> Guest:
    """Sends an event on a port that isn't there, prints to port 0x80, powers off."""
    cpu.space.write(ARG, evtchn_send(port=3).pack())
    yield hypercall(EVENTS, EVTCHNOP_send, ARG)
    yield io_out(0x80, 7)
    cpu.space.write(ARG, sched_shutdown(reason=SHUTDOWN_poweroff).pack())
    yield hypercall(SCHED, SCHEDOP_shutdown, ARG)


def logged(*options: str) -> list[str]:
    """Lines of a run of `guest`, without their times."""
    bench = Bench(guest)
    lines: list[str] = []
    for listener in listeners(bench.xen, map(Subject.parse, options), lines.append):
        bench.xen.instruments.add(listener)
    bench.run()
    assert all(line[:3].strip().isdigit() and line[3] == "." for line in lines)
    return [line[11:] for line in lines]


def test_hypercalls() -> None:
    assert logged("hypercalls") == [
        "d1v0 event_channel_op(EVTCHNOP_send, {port=3}) = -EINVAL",
        "d1v0 sched_op(SCHEDOP_shutdown, {reason=SHUTDOWN_poweroff}) = 0",
    ]


@pytest.mark.parametrize(
    "pattern", ["sched_op", "SCHEDOP_*", "sched_op.SCHEDOP_shutdown", "*shutdown"]
)
def test_filters(pattern: str) -> None:
    assert [line.partition("(")[0] for line in logged(f"hypercalls={pattern}")] == ["d1v0 sched_op"]


def test_filters_add_up() -> None:
    assert len(logged("hypercalls=sched_op", "hypercalls=event_channel_op")) == 2
    assert logged("hypercalls=nothing") == []


def test_exits() -> None:
    lines = logged("exits=IO_*")
    assert lines == ["d1v0 exit IO_OUT port=0x80 size=1 value=0x7"]
    assert len(logged("exits")) > 2


def test_states() -> None:
    assert logged("domains") == ["d1 domain shutdown poweroff"]
    assert "d1v0 vcpu running" in logged("vcpus=running")


def test_unknown_subject_is_one_clear_line() -> None:
    with pytest.raises(UserError, match="can't log 'frob'") as caught:
        Subject.parse("frob=x")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="filter is empty"):
        Subject.parse("exits=")


def instruments(options: Iterable[str]) -> tuple[Instruments, list[str]]:
    """The seam alone, with listeners of a log."""
    lines: list[str] = []
    seam = Instruments()
    for listener in listeners(Bench().xen, map(Subject.parse, options), lines.append):
        seam.add(listener)
    return seam, lines


def test_only_what_was_asked_for_is_heard() -> None:
    seam, _ = instruments(["exits"])
    assert seam.exit is not None
    assert seam.hypercall_enter is None
    assert seam.hypercall_exit is None
    assert seam.event_send is None
    seam, _ = instruments(["hypercalls"])
    assert seam.exit is None


def test_the_other_subjects() -> None:
    seam, lines = instruments([name for name in SUBJECTS if name != "hypercalls"])
    assert seam.injection is not None
    seam.injection(1_000, 1, 0, 0xF3, "lapic")
    assert seam.event_send is not None
    seam.event_send(2_000, 1, 3, 0, 7)
    seam.event_send(2_000, 0x7FF2, 0, 1, 4)
    assert seam.grant_op is not None
    seam.grant_op(3_000, 1, "map", 2, 9, -2)
    assert seam.xenstore_request is not None
    seam.xenstore_request(4_000, 1, XS_READ, b"name\0", b"guest")
    assert seam.domain_state is not None
    seam.domain_state(5_000, 1, "paused")
    assert seam.vcpu_state is not None
    seam.vcpu_state(6_000, 1, 0, 2)
    assert seam.log is not None
    seam.log(7_000, 1, "hello")
    assert lines == [
        "  0.000001 d1v0 injection 0xf3 (lapic)",
        "  0.000002 d1 event d1:3 -> d0:7",
        "  0.000002 xen event xen -> d1:4",
        "  0.000003 d1 grant map d2:9 = -ENOENT",
        '  0.000004 d1 XS_READ("name") = "guest"',
        "  0.000005 d1 domain paused",
        "  0.000006 d1v0 vcpu blocked",
        "  0.000007 d1 hello",
    ]


def test_filters_of_the_other_subjects() -> None:
    seam, lines = instruments(["injections=0xf3", "events=d1:3", "vcpus=running"])
    assert seam.injection is not None
    seam.injection(0, 1, 0, 0xF4, "lapic")
    seam.injection(0, 1, 0, 0xF3, "lapic")
    assert seam.event_send is not None
    seam.event_send(0, 2, 1, 1, 3)
    seam.event_send(0, 2, 1, 1, 30)
    assert seam.vcpu_state is not None
    seam.vcpu_state(0, 1, 0, 2)
    assert len(lines) == 2


def test_out_values_are_shown() -> None:
    """Structures are read when the call has ended."""

    def asks(cpu: FakeCpu) -> Guest:
        cpu.space.write(ARG, evtchn_status(dom=0x7FF0, port=0).pack())
        yield hypercall(EVENTS, EVTCHNOP_status, ARG)

    bench = Bench(asks)
    lines: list[str] = []
    for listener in listeners(bench.xen, [Subject("hypercalls")], lines.append):
        bench.xen.instruments.add(listener)
    bench.run()
    assert "EVTCHNOP_status, {dom=DOMID_SELF, port=0, " in lines[0]


def test_exit_words() -> None:
    exit_ = make_exit(ExitReason.MSR_WRITE, 0x1B, 0xFEE00900)
    assert exit_name(exit_) == "MSR_WRITE"
    assert exit_arguments(exit_) == [("msr", "0x1b"), ("value", "0xfee00900")]
    assert exit_name((99, 0, 0, 0, 0, 0, 0, 0)) == "exit_99"
    assert exit_arguments((99, 0, 0, 0, 0, 0, 0, 0)) == []
