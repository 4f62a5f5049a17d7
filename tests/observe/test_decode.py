# SPDX-License-Identifier: GPL-2.0-or-later
"""Decoding of hypercalls, and pairing of their begins and ends."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenograft.abi import event_channel, grant_table, memory, sched, xen
from xenograft.abi.arch_x86.xen import xen_arch_domainconfig
from xenograft.abi.domctl import XEN_DOMCTL_createdomain, xen_domctl
from xenograft.abi.domctl_structs import xen_domctl_createdomain
from xenograft.abi.struct import Struct
from xenograft.observe import show
from xenograft.observe.decode import CallTracker, Decoded, Decoder, OpenCall, Read, nothing

NUMBERS = {name: number for number, name in xen.HYPERCALLS.items()}


def memory_of(*items: tuple[int, bytes]) -> Read:
    """Guest memory with some bytes in it."""

    def read(address: int, size: int) -> bytes | None:
        for start, data in items:
            if start <= address and address + size <= start + len(data):
                return data[address - start : address - start + size]
        return None

    return read


def decode(name: str, *args: int, bits: int = 64, read: Read = nothing) -> Decoded:
    padded = (*args, 0, 0, 0, 0, 0, 0)[:6]
    return Decoder().decode(NUMBERS[name], padded, bits, read)


def at(value: Struct, bits: int = 64, address: int = 0x1000) -> Read:
    return memory_of((address, value.pack(bits)))


def test_the_issues_own_example() -> None:
    found = decode("event_channel_op", 4, 0x1000, read=at(event_channel.evtchn_send(port=3)))
    assert found.text() == "event_channel_op(EVTCHNOP_send, {port=3})"
    assert found.full_name == "event_channel_op.EVTCHNOP_send"
    assert found.structs == [event_channel.evtchn_send(port=3)]


def test_32_bit_layout() -> None:
    poll = sched.sched_poll(ports=0x2000, nr_ports=1, timeout=7)
    found = decode("sched_op", 3, 0x1000, bits=32, read=at(poll, 32))
    assert found.text() == "sched_op(SCHEDOP_poll, {ports=0x2000, nr_ports=1, timeout=7})"


def test_bad_pointer_shows_the_address() -> None:
    assert decode("event_channel_op", 4, 0x1000).text() == (
        "event_channel_op(EVTCHNOP_send, 0x1000)"
    )
    assert decode("event_channel_op", 4, 0).text() == "event_channel_op(EVTCHNOP_send, NULL)"


def test_operations_without_argument() -> None:
    assert decode("sched_op", 0, 0xDEAD).text() == "sched_op(SCHEDOP_yield)"
    assert decode("xen_version", 0).text() == "xen_version(XENVER_version)"


def test_unknown_operation() -> None:
    assert decode("sched_op", 99, 5).text() == "sched_op(99, 0x5)"
    assert decode("event_channel_op", 0xFFFFFFFF, 0).text() == "event_channel_op(0xffffffff, NULL)"


def test_unknown_hypercall() -> None:
    found = Decoder().decode(60, (1, 2, 0x5000, 0, 0, 0), 64, nothing)
    assert found.text() == "hypercall_60(1, 2, 0x5000, 0, 0)"


def test_vcpu_op_has_its_argument_behind_the_vcpu() -> None:
    from xenograft.abi.vcpu import vcpu_register_vcpu_info

    info = vcpu_register_vcpu_info(mfn=0x10, offset=64)
    found = decode("vcpu_op", 10, 1, 0x1000, read=at(info))
    assert found.text() == "vcpu_op(VCPUOP_register_vcpu_info, 1, {mfn=0x10, offset=64})"


def test_memory_op_ignores_the_start_extent() -> None:
    reservation = memory.xen_memory_reservation(nr_extents=4, domid=0x7FF0)
    found = decode("memory_op", 6 | 3 << 6, 0x1000, read=at(reservation))
    assert found.op == "XENMEM_populate_physmap"
    assert "domid=DOMID_SELF" in found.text()


def test_grant_arrays_are_cut() -> None:
    ops = [grant_table.gnttab_unmap_grant_ref(handle=i) for i in range(10)]
    read = memory_of((0x1000, b"".join(op.pack() for op in ops)))
    text = decode("grant_table_op", 1, 0x1000, 10, read=read).text()
    assert text.startswith("grant_table_op(GNTTABOP_unmap_grant_ref, [{host_addr=0x0")
    assert text.endswith("... 10], 10)")
    assert text.count("handle=") == 4
    assert decode("grant_table_op", 1, 0x1000, 0, read=read).text() == (
        "grant_table_op(GNTTABOP_unmap_grant_ref, [], 0)"
    )


def test_an_array_that_is_there_in_part_shows_its_address() -> None:
    one = grant_table.gnttab_unmap_grant_ref(handle=1)
    text = decode("grant_table_op", 1, 0x1000, 2, read=at(one)).text()
    assert text == "grant_table_op(GNTTABOP_unmap_grant_ref, 0x1000, 2)"


def test_domctl_is_named_by_the_structure() -> None:
    op = xen_domctl(cmd=XEN_DOMCTL_createdomain, interface_version=0x15, domain=5)
    op.u.createdomain = xen_domctl_createdomain(
        max_vcpus=2, arch=xen_arch_domainconfig(emulation_flags=1)
    )
    found = decode("domctl", 0x1000, read=at(op))
    assert found.op == "XEN_DOMCTL_createdomain"
    assert found.text().startswith("domctl(XEN_DOMCTL_createdomain, {cmd=1, ")
    assert "u={createdomain={" in found.text()
    assert "arch={emulation_flags=0x1, misc_flags=0x0}" in found.text()
    assert decode("domctl", 0x1000).op is None


def test_console_io_shows_the_text() -> None:
    read = memory_of((0x1000, b'hello "x"\n' + bytes(100)))
    assert decode("console_io", 0, 10, 0x1000, read=read).text() == (
        'console_io(CONSOLEIO_write, 10, "hello \\"x\\"\\n")'
    )
    assert decode("console_io", 0, 100, 0x1000, read=read).text().endswith('"...)')
    assert decode("console_io", 1, 10, 0x1000, read=read).text() == (
        "console_io(CONSOLEIO_read, 10, 0x1000)"
    )
    assert decode("console_io", 0, 10, 0x9000, read=read).text().endswith("0x9000)")


def test_timer_arguments_differ_by_width() -> None:
    assert decode("set_timer_op", 5).text() == "set_timer_op(5)"
    assert decode("set_timer_op", 5, 6, bits=32).text() == "set_timer_op(5, 6)"


@given(
    st.integers(0, 64),
    st.tuples(*[st.integers(0, (1 << 64) - 1)] * 6),
    st.sampled_from([32, 64]),
    st.binary(min_size=8, max_size=8),
)
def test_nothing_that_a_guest_says_raises(
    number: int, args: tuple[int, ...], bits: int, noise: bytes
) -> None:
    def read(address: int, size: int) -> bytes | None:
        return (noise * (size // 8 + 1))[:size]

    decoder = Decoder()
    assert decoder.decode(number, args, bits, read).text()
    assert decoder.full_name(number, args)


def test_names_are_finitely_many() -> None:
    decoder = Decoder()
    names = {
        decoder.full_name(number, (cmd, 0, 0, 0, 0, 0))
        for number in (29, 32, 1000, 1001)
        for cmd in range(100, 1000)
    }
    assert names == {"sched_op.?", "event_channel_op.?", "?"}


# -- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (-22, "-EINVAL"),
        (7, "7"),
        (0x40011, "0x40011"),
        (-5000, "-0x1388"),
        (-2, "-ENOENT"),
    ],
)
def test_results(number: int, text: str) -> None:
    assert show.result(number) == text


@pytest.mark.parametrize(
    ("kind", "number", "text"),
    [
        ("int", 0xFFFFFFFF, "-1"),
        ("int", 1 << 32 | 5, "5"),
        ("uint", 0xFFFFFFFF, "0xffffffff"),
        ("uint", 1 << 32 | 5, "5"),
        ("handle", 0, "NULL"),
        ("handle", 0x10, "0x10"),
        ("ulong", 1 << 40, "0x10000000000"),
    ],
)
def test_words(kind: str, number: int, text: str) -> None:
    assert show.word(kind, number) == text


def test_times_and_places() -> None:
    assert show.seconds(1_234_567_890) == "  1.234567"
    assert show.who(1, 0) == "d1v0"
    assert show.who(1) == "d1"
    assert show.who(xen.DOMID_XEN) == "xen"
    assert show.address(0x1000) == "0x00001000"
    assert show.address(1 << 40) == "0x0000010000000000"


# -- pairing --------------------------------------------------------------------------------------


class Recorder(CallTracker):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Any, ...]] = []

    def call_begins(self, time: int, domid: int, vcpu: int, call: OpenCall) -> None:
        self.seen.append(("begin", call.number))

    def call_continued(self, time: int, domid: int, vcpu: int, call: OpenCall) -> None:
        self.seen.append(("continued", call.number))

    def call_ends(self, time: int, domid: int, vcpu: int, call: OpenCall, result: int) -> None:
        self.seen.append(("end", call.number, call.time, result))


ARGS = (0,) * 6


def test_a_call_begins_and_ends() -> None:
    calls = Recorder()
    calls.hypercall_enter(5, 1, 0, 64, 29, ARGS)
    calls.hypercall_exit(6, 1, 0, 29, ARGS, 3)
    assert calls.seen == [("begin", 29), ("end", 29, 5, 3)]


def test_vcpus_do_not_mix() -> None:
    calls = Recorder()
    calls.hypercall_enter(1, 1, 0, 64, 29, ARGS)
    calls.hypercall_enter(2, 1, 1, 64, 32, ARGS)
    calls.hypercall_exit(3, 1, 0, 29, ARGS, 0)
    calls.hypercall_exit(4, 1, 1, 32, ARGS, 0)
    assert calls.seen[2:] == [("end", 29, 1, 0), ("end", 32, 2, 0)]


def test_multicall_nests() -> None:
    calls = Recorder()
    calls.hypercall_enter(1, 1, 0, 64, 13, ARGS)
    for _ in range(2):
        calls.hypercall_enter(2, 1, 0, 64, 32, ARGS)
        calls.hypercall_exit(2, 1, 0, 32, ARGS, 0)
    calls.hypercall_exit(3, 1, 0, 13, ARGS, 0)
    assert [entry[:2] for entry in calls.seen] == [
        ("begin", 13),
        ("begin", 32),
        ("end", 32),
        ("begin", 32),
        ("end", 32),
        ("end", 13),
    ]


def test_continued_calls_are_closed() -> None:
    calls = Recorder()
    calls.hypercall_enter(1, 1, 0, 64, 12, ARGS)
    calls.hypercall_enter(2, 1, 0, 64, 12, ARGS)
    calls.hypercall_exit(3, 1, 0, 12, ARGS, 0)
    assert calls.seen == [("begin", 12), ("continued", 12), ("begin", 12), ("end", 12, 2, 0)]


def test_a_multicall_that_continues_with_its_entry() -> None:
    calls = Recorder()
    calls.hypercall_enter(1, 1, 0, 64, 13, ARGS)
    calls.hypercall_enter(1, 1, 0, 64, 12, ARGS)
    calls.hypercall_enter(2, 1, 0, 64, 13, ARGS)
    calls.hypercall_exit(3, 1, 0, 13, ARGS, 0)
    assert calls.seen == [
        ("begin", 13),
        ("begin", 12),
        ("continued", 12),
        ("continued", 13),
        ("begin", 13),
        ("end", 13, 2, 0),
    ]


def test_an_end_without_a_begin() -> None:
    calls = Recorder()
    calls.hypercall_exit(3, 1, 0, 29, ARGS, -1)
    assert calls.seen == [("end", 29, 3, -1)]
