# SPDX-License-Identifier: GPL-2.0-or-later
"""multicall, continuations, and how a guest's hypercalls are entered."""

from __future__ import annotations

import pytest

from tests.hypervisor.support import ARG, MASK64, NUMBERS, Bench, errno, op, returned
from xenograft.abi import sched
from xenograft.abi.errno import Errno
from xenograft.abi.xen import multicall_entry
from xenograft.engine.fake import halt, hypercall
from xenograft.engine.protocol import ExitReason
from xenograft.hypervisor.call import Call, Continuation, HostAccess
from xenograft.hypervisor.hypercalls.multicall import BUDGET

LIST = 0x10000


def put_list(bench: Bench, calls: list[tuple[str, tuple[int, ...]]], bits: int = 64) -> None:
    size = multicall_entry.sizeof(bits)
    for index, (name, args) in enumerate(calls):
        entry = multicall_entry(op=NUMBERS[name], args=[*args, *[0] * (6 - len(args))])
        bench.domain.space.write(LIST + index * size, entry.pack(bits))


def results(bench: Bench, count: int, bits: int = 64) -> list[int]:
    size = multicall_entry.sizeof(bits)
    data = bench.domain.space.read(LIST, count * size)
    values = [
        multicall_entry.unpack(data[at : at + size], bits).result
        for at in range(0, count * size, size)
    ]
    return [value - (1 << bits) if value >> (bits - 1) else value for value in values]


@pytest.mark.parametrize("bits", [32, 64])
def test_each_entry_gets_its_result(bits: int) -> None:
    bench = Bench()
    put_list(bench, [("xen_version", (0, 0)), ("mmu_update", ()), ("xen_version", (7, 0))], bits)
    assert bench.do("multicall", LIST, 3, bits=bits) == 0
    assert results(bench, 3, bits) == [0x40011, -Errno.ENOSYS, 4096]


def test_an_empty_list_is_fine() -> None:
    assert Bench().do("multicall", LIST, 0) == 0


def test_inside_another_it_is_refused() -> None:
    bench = Bench()
    put_list(bench, [("multicall", (LIST, 1))])
    assert bench.do("multicall", LIST, 1) == 0
    assert results(bench, 1) == [-Errno.EINVAL]


def test_a_list_that_is_not_there() -> None:
    bench = Bench()
    assert errno(bench.do("multicall", 1 << 46, 1)) is Errno.EFAULT
    # It ends at the first entry that cannot be read; those before it are done.
    last = 64 * 4096 - multicall_entry.sizeof()
    entry = multicall_entry(op=NUMBERS["xen_version"], args=[0] * 6)
    bench.domain.space.write(last, entry.pack())
    assert errno(bench.do("multicall", last, 2)) is Errno.EFAULT
    assert multicall_entry.unpack(bench.domain.space.read(last, 64)).result == 0x40011


def test_a_long_list_is_continued() -> None:
    count = 3 * BUDGET + 1
    bench = Bench([op("multicall", LIST, count)])
    put_list(bench, [("xen_version", (0, 0))] * count)
    bench.run()
    assert results(bench, count) == [0x40011] * count
    # The guest sees one call with one result.
    assert returned(bench.cpu()) == [0]
    assert sum(exit_[0] == ExitReason.HYPERCALL for exit_, _ in bench.cpu().answers) == 1


def test_a_continued_entry_goes_on_where_it_stopped() -> None:
    bench = Bench([op("multicall", LIST, 2)])
    heard: list[bytes] = []
    bench.domain.console_listeners.append(heard.append)
    bench.domain.space.write(0x20000, b"z" * 10_000)
    put_list(bench, [("console_io", (0, 10_000, 0x20000)), ("xen_version", (0, 0))])
    bench.run()
    assert b"".join(heard) == b"z" * 10_000
    assert results(bench, 2) == [0, 0x40011]
    assert returned(bench.cpu()) == [0]


def test_a_vcpu_that_blocks_does_the_rest_later() -> None:
    bench = Bench([op("multicall", LIST, 2)])
    bench.put(sched.sched_poll(ports=0, nr_ports=0, timeout=5_000_000))
    put_list(bench, [("sched_op", (sched.SCHEDOP_poll, ARG)), ("xen_version", (0, 0))])
    bench.run()
    assert bench.now >= 5_000_000
    assert results(bench, 2) == [0, 0x40011]


class TestEntry:
    def test_from_user_code_it_is_refused(self) -> None:
        for cpl in (1, 2, 3):
            bench = Bench([hypercall(NUMBERS["xen_version"], 0, flags=3 << 2 | cpl)])
            bench.run()
            assert returned(bench.cpu()) == [-Errno.EPERM]

    @pytest.mark.parametrize("mode", [0, 1, 2])
    def test_32_bit_and_real_mode_results_have_32_bits(self, mode: int) -> None:
        bench = Bench(
            [
                hypercall(NUMBERS["xen_version"], 0, flags=mode << 2),
                hypercall(NUMBERS["mmu_update"], 0, flags=mode << 2),
            ]
        )
        bench.run()
        values = [answer.values[0] for exit_, answer in bench.cpu().answers if exit_[0] == 2]
        assert values == [0x40011, -Errno.ENOSYS & 0xFFFFFFFF]

    def test_a_continuation_leaves_its_arguments_in_the_registers(self) -> None:
        bench = Bench([op("console_io", 0, 5000, 0x10000), halt(False)])
        seen: list[tuple[int, ...]] = []
        cpu = bench.cpu()
        retry = cpu.retry

        def spy() -> None:
            seen.append(tuple(cpu.get(name) for name in ("rax", "rdi", "rsi", "rdx")))
            retry()

        cpu.retry = spy  # type: ignore[method-assign]
        bench.run()
        assert seen == [(NUMBERS["console_io"], 0, 904, 0x10000 + 4096)]

    def test_hypercalls_are_watched(self) -> None:
        heard: list[tuple[object, ...]] = []

        class Listener:
            def hypercall_enter(self, *args: object) -> None:
                heard.append(("enter", *args[1:5]))

            def hypercall_exit(self, *args: object) -> None:
                heard.append(("exit", args[1], args[2], args[3], args[5]))

        bench = Bench()
        bench.xen.instruments.add(Listener())
        bench.do("xen_version", 0, 0)
        bench.do("mmu_update", 0, 0)
        number = NUMBERS["xen_version"]
        assert heard == [
            ("enter", 1, 0, 64, number),
            ("exit", 1, 0, number, 0x40011),
            ("enter", 1, 0, 64, NUMBERS["mmu_update"]),
            ("exit", 1, 0, NUMBERS["mmu_update"], -Errno.ENOSYS),
        ]


class TestHostCalls:
    def test_the_embedded_toolstack_uses_the_same_table(self) -> None:
        bench = Bench()
        control = bench.add_domain(privileged=True)
        memory = HostAccess()
        arg = sched.sched_remote_shutdown(domain_id=bench.domain.domid, reason=1)
        addr = memory.put(arg.pack())
        number = NUMBERS["sched_op"]
        result = bench.xen.host_call(
            control, number, sched.SCHEDOP_remote_shutdown, addr, memory=memory
        )
        assert result == 0
        assert bench.domain.shutdown_reason == 1

    def test_what_needs_a_vcpu_is_refused(self) -> None:
        bench = Bench()
        memory = HostAccess()
        number = NUMBERS["sched_op"]
        result = bench.xen.host_call(bench.domain, number, sched.SCHEDOP_yield, 0, memory=memory)
        assert errno(result) is Errno.EINVAL

    def test_buffers_are_checked(self) -> None:
        memory = HostAccess()
        first, second = memory.put(b"abc"), memory.put(b"defg")
        assert memory.read(second + 1, 2) == b"ef"
        memory.write(first, b"XY")
        assert memory.read(first, 3) == b"XYc"
        for addr, size in ((first, 4), (first - 1, 1), (0, 1), (second + 4, 1)):
            with pytest.raises(Exception, match="EFAULT"):
                memory.read(addr, size)


class TestAccessors:
    def test_addresses_beyond_the_callers_width_are_faults(self) -> None:
        bench = Bench()
        call = bench.call(bits=32)
        for addr in (1 << 32, MASK64, -1):
            with pytest.raises(Exception, match="EFAULT"):
                call.read_bytes(addr, 4)
        assert bench.call(bits=64).read_bytes(0, 4) == b"\0" * 4

    def test_nobody_reads_a_gigabyte(self) -> None:
        call = Bench().call()
        with pytest.raises(Exception, match="E2BIG"):
            call.read_bytes(0, 1 << 30)
        with pytest.raises(Exception, match="E2BIG"):
            call.read_ints(0, 8, 1 << 40)

    def test_ints_and_ulongs(self) -> None:
        bench = Bench()
        call = bench.call()
        call.write_ints(ARG, 2, [1, 2, 3])
        assert call.read_ints(ARG, 2, 2, first=1) == [2, 3]
        call.write_ulongs(ARG, [5, 1 << 40])
        assert call.read_ulongs(ARG, 1, first=1) == [1 << 40]
        narrow = bench.call(bits=32)
        narrow.write_ulongs(ARG, [5, 1 << 40 | 7])
        assert narrow.read_ulongs(ARG, 2) == [5, 7]

    def test_arrays_of_structures(self) -> None:
        bench = Bench()
        call: Call = bench.call()
        bench.put(sched.sched_watchdog(id=1, timeout=2))
        bench.put(sched.sched_watchdog(id=3, timeout=4), at=ARG + 8)
        assert [one.id for one in call.read_array(ARG, sched.sched_watchdog, 2)] == [1, 3]
        assert call.read_array(ARG, sched.sched_watchdog, 1, first=1)[0].timeout == 4
        assert call.read_array(ARG, sched.sched_watchdog, 0) == []

    def test_a_continuation_names_its_call(self) -> None:
        rest = Continuation(13, 1, 2)
        assert (rest.number, rest.arguments, str(rest)) == (13, (1, 2), "hypercall 13 continues")
