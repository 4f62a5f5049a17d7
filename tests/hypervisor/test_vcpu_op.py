# SPDX-License-Identifier: GPL-2.0-or-later
"""vcpu_op: vCPUs up and down, timers, shared areas."""

from __future__ import annotations

import pytest

from tests.hypervisor.support import ARG, IF, Bench, Guest, errno, op, returned
from xenograft.abi import vcpu as abi
from xenograft.abi.errno import Errno
from xenograft.abi.hvm.hvm_vcpu import VCPU_HVM_MODE_64B, vcpu_hvm_context
from xenograft.abi.sched import SHUTDOWN_poweroff
from xenograft.abi.xen import VIRQ_TIMER, vcpu_info, vcpu_time_info
from xenograft.engine.fake import FakeCpu, halt
from xenograft.hypervisor.vcpu import UPCALL_PENDING

MS = 1_000_000


def context(rip: int = 0x2000) -> vcpu_hvm_context:
    arg = vcpu_hvm_context(mode=VCPU_HVM_MODE_64B)
    regs = arg.cpu_regs.x86_64
    regs.rip, regs.cr0, regs.cr4, regs.efer = rip, 0x80000001, 0x20, 0x100
    return arg


class TestUpAndDown:
    def test_an_absent_vcpu_is_enoent(self) -> None:
        bench = Bench(vcpus=2)
        assert errno(bench.do("vcpu_op", abi.VCPUOP_is_up, 2, 0)) is Errno.ENOENT
        assert errno(bench.do("vcpu_op", abi.VCPUOP_is_up, 1 << 31, 0)) is Errno.ENOENT

    def test_initialise_up_and_down(self) -> None:
        bench = Bench(vcpus=2)
        assert bench.do("vcpu_op", abi.VCPUOP_is_up, 0, 0) == 1
        assert bench.do("vcpu_op", abi.VCPUOP_is_up, 1, 0) == 0
        assert errno(bench.do("vcpu_op", abi.VCPUOP_up, 1, 0)) is Errno.EINVAL
        assert bench.do("vcpu_op", abi.VCPUOP_initialise, 1, context()) == 0
        assert bench.cpu(1).registers["rip"] == 0x2000
        assert bench.do("vcpu_op", abi.VCPUOP_is_up, 1, 0) == 0
        assert errno(bench.do("vcpu_op", abi.VCPUOP_initialise, 1, context())) is Errno.EEXIST
        assert bench.do("vcpu_op", abi.VCPUOP_up, 1, 0) == 0
        assert bench.do("vcpu_op", abi.VCPUOP_is_up, 1, 0) == 1
        assert bench.do("vcpu_op", abi.VCPUOP_down, 1, 0) == 0
        assert bench.do("vcpu_op", abi.VCPUOP_is_up, 1, 0) == 0
        assert bench.do("vcpu_op", abi.VCPUOP_up, 1, 0) == 0

    def test_a_bad_context_changes_nothing(self) -> None:
        bench = Bench(vcpus=2)
        bad = context()
        bad.pad = 1
        assert errno(bench.do("vcpu_op", abi.VCPUOP_initialise, 1, bad)) is Errno.EINVAL
        assert errno(bench.do("vcpu_op", abi.VCPUOP_initialise, 1, 1 << 45)) is Errno.EFAULT
        assert not bench.domain.vcpus[1].initialised

    def test_a_vcpu_that_was_brought_up_runs(self) -> None:
        seen: list[int] = []

        def second(cpu: FakeCpu) -> Guest:
            seen.append(cpu.registers["rip"])
            yield halt(False)

        bench = Bench(
            [
                op("vcpu_op", abi.VCPUOP_initialise, 1, ARG),
                op("vcpu_op", abi.VCPUOP_up, 1, 0),
            ],
            vcpus=2,
        )
        bench.engine.scripts[1] = second
        bench.put(context(0x3000))
        bench.run()
        assert seen == [0x3000]
        assert returned(bench.cpu(0)) == [0, 0]

    def test_the_last_one_down_is_a_power_off(self) -> None:
        bench = Bench([op("vcpu_op", abi.VCPUOP_down, 0, 0)], vcpus=2)
        bench.run()
        assert bench.domain.shutdown_reason == SHUTDOWN_poweroff

    def test_vcpus_above_32_need_a_vcpu_info_first(self) -> None:
        bench = Bench(vcpus=34)
        result = bench.do("vcpu_op", abi.VCPUOP_initialise, 33, context())
        assert errno(result) is Errno.EINVAL
        info = abi.vcpu_register_vcpu_info(mfn=5, offset=0)
        assert bench.do("vcpu_op", abi.VCPUOP_register_vcpu_info, 33, info) == 0
        assert bench.do("vcpu_op", abi.VCPUOP_initialise, 33, context()) == 0


class TestRunstate:
    def test_the_times_add_up(self) -> None:
        bench = Bench(vcpus=2)
        bench.xen.clock.advance_to(5 * MS)
        assert bench.do("vcpu_op", abi.VCPUOP_get_runstate_info, 1, ARG) == 0
        info = bench.got(abi.vcpu_runstate_info)
        assert info.state == abi.RUNSTATE_offline
        assert sum(info.time) == 5 * MS
        assert errno(bench.do("vcpu_op", abi.VCPUOP_get_runstate_info, 1, 1 << 46)) is Errno.EFAULT

    def test_32_bit_guests_have_their_layout(self) -> None:
        bench = Bench()
        bench.xen.clock.advance_to(7)
        bench.do("vcpu_op", abi.VCPUOP_get_runstate_info, 0, ARG, bits=32)
        info = bench.got(abi.vcpu_runstate_info, bits=32)
        assert sum(info.time) == 7

    def test_a_registered_area_follows_the_state(self) -> None:
        area = 0x9000

        def guest(cpu: FakeCpu) -> Guest:
            yield op("vcpu_op", abi.VCPUOP_register_runstate_memory_area, 0, ARG)
            states.append(abi.vcpu_runstate_info.unpack(cpu.space.read(area, 48)))
            cpu.registers["rflags"] |= IF
            yield op("vcpu_op", abi.VCPUOP_set_singleshot_timer, 0, ARG + 64)
            yield halt(True)
            states.append(abi.vcpu_runstate_info.unpack(cpu.space.read(area, 48)))

        states: list[abi.vcpu_runstate_info] = []
        bench = Bench(guest)
        bench.use_callback()
        bench.domain.events.bind_virq(VIRQ_TIMER, 0)
        register = abi.vcpu_register_runstate_memory_area()
        register.addr.v = area
        bench.put(register)
        timer = abi.vcpu_set_singleshot_timer(timeout_abs_ns=10 * MS)
        bench.put(timer, at=ARG + 64)
        bench.run()
        first, second = states
        assert first.state == abi.RUNSTATE_running
        assert second.state == abi.RUNSTATE_running
        assert second.time[abi.RUNSTATE_blocked] > 9 * MS
        assert second.state_entry_time == 10 * MS

    def test_the_update_flag_is_set_while_an_area_is_written(self) -> None:
        bench = Bench()
        bench.do("vm_assist", 0, 5)
        seen: list[int] = []
        cpu = bench.cpu()
        write = cpu.write

        def spy(gva: int, data: bytes) -> None:
            write(gva, data)
            info = abi.vcpu_runstate_info.unpack(cpu.space.read(0x9000, 48))
            seen.append(info.state_entry_time >> 63)

        cpu.write = spy  # type: ignore[method-assign]
        register = abi.vcpu_register_runstate_memory_area()
        register.addr.v = 0x9000
        bench.do("vcpu_op", abi.VCPUOP_register_runstate_memory_area, 0, register)
        assert seen == [1, 1, 0]

    def test_an_area_that_goes_away_is_left_alone(self) -> None:
        bench = Bench()
        register = abi.vcpu_register_runstate_memory_area()
        register.addr.v = 1 << 40
        assert bench.do("vcpu_op", abi.VCPUOP_register_runstate_memory_area, 0, register) == 0
        bench.run()


class TestTimers:
    def bind(self, bench: Bench) -> int:
        bench.use_callback()
        return bench.domain.events.bind_virq(VIRQ_TIMER, 0)

    def test_a_time_in_the_past_fires_at_once(self) -> None:
        bench = Bench()
        port = self.bind(bench)
        bench.xen.clock.advance_to(10 * MS)
        arg = abi.vcpu_set_singleshot_timer(timeout_abs_ns=MS, flags=abi.VCPU_SSHOTTMR_future)
        assert bench.do("vcpu_op", abi.VCPUOP_set_singleshot_timer, 0, arg) == 0
        assert bench.domain.events.is_pending(port)

    def test_a_time_in_the_future_fires_then(self) -> None:
        bench = Bench()
        port = self.bind(bench)
        arg = abi.vcpu_set_singleshot_timer(timeout_abs_ns=3 * MS)
        bench.do("vcpu_op", abi.VCPUOP_set_singleshot_timer, 0, arg)
        assert bench.xen.timers.next_deadline() == 3 * MS
        bench.xen.timers.run_due(3 * MS - 1)
        assert not bench.domain.events.is_pending(port)
        bench.xen.timers.run_due(3 * MS)
        assert bench.domain.events.is_pending(port)

    def test_stop(self) -> None:
        bench = Bench()
        arg = abi.vcpu_set_singleshot_timer(timeout_abs_ns=3 * MS)
        bench.do("vcpu_op", abi.VCPUOP_set_singleshot_timer, 0, arg)
        assert bench.do("vcpu_op", abi.VCPUOP_stop_singleshot_timer, 0, 0) == 0
        assert bench.xen.timers.next_deadline() is None

    def test_only_the_calling_vcpus_singleshot(self) -> None:
        bench = Bench(vcpus=2)
        arg = abi.vcpu_set_singleshot_timer(timeout_abs_ns=3 * MS)
        set_timer = abi.VCPUOP_set_singleshot_timer
        assert errno(bench.do("vcpu_op", set_timer, 1, arg)) is Errno.EINVAL
        stop_timer = abi.VCPUOP_stop_singleshot_timer
        assert errno(bench.do("vcpu_op", stop_timer, 1, 0)) is Errno.EINVAL

    def test_a_time_beyond_the_sign_is_past(self) -> None:
        bench = Bench()
        bench.domain.events.bind_virq(VIRQ_TIMER, 0)
        arg = abi.vcpu_set_singleshot_timer(timeout_abs_ns=1 << 63)
        assert bench.do("vcpu_op", abi.VCPUOP_set_singleshot_timer, 0, arg) == 0
        assert bench.domain.events.is_pending(1)
        assert bench.xen.timers.next_deadline() is None

    def test_the_longest_period(self) -> None:
        arg = abi.vcpu_set_periodic_timer(period_ns=(1 << 62) - 1)
        assert Bench().do("vcpu_op", abi.VCPUOP_set_periodic_timer, 0, arg) == 0

    def test_a_bad_runstate_area_of_another_vcpu_is_taken(self) -> None:
        bench = Bench(vcpus=2)
        register = abi.vcpu_register_runstate_memory_area()
        register.addr.v = 1 << 45
        for vcpu in (0, 1):
            number = abi.VCPUOP_register_runstate_memory_area
            assert bench.do("vcpu_op", number, vcpu, register) == 0

    @pytest.mark.parametrize("period", [0, MS - 1, 1 << 62])
    def test_bad_periods(self, period: int) -> None:
        bench = Bench()
        arg = abi.vcpu_set_periodic_timer(period_ns=period)
        assert errno(bench.do("vcpu_op", abi.VCPUOP_set_periodic_timer, 0, arg)) is Errno.EINVAL

    def test_a_periodic_timer_comes_again(self) -> None:
        bench = Bench()
        self.bind(bench)
        fired: list[int] = []
        vcpu = bench.domain.vcpus[0]
        vcpu.domain.events.raise_virq = lambda *_: fired.append(bench.now)  # type: ignore[method-assign]
        arg = abi.vcpu_set_periodic_timer(period_ns=2 * MS)
        bench.do("vcpu_op", abi.VCPUOP_set_periodic_timer, 0, arg)
        for now in (2 * MS, 4 * MS, 9 * MS, 10 * MS):
            bench.xen.clock.advance_to(now)
            bench.xen.timers.run_due(now)
        assert fired == [2 * MS, 4 * MS, 9 * MS, 10 * MS]
        bench.do("vcpu_op", abi.VCPUOP_stop_periodic_timer, 0, 0)
        assert bench.xen.timers.next_deadline() is None

    def test_set_timer_op(self) -> None:
        bench = Bench()
        self.bind(bench)
        bench.xen.clock.advance_to(MS)
        assert bench.do("set_timer_op", 5 * MS) == 0
        assert bench.xen.timers.next_deadline() == 5 * MS
        assert bench.do("set_timer_op", 0) == 0
        assert bench.xen.timers.next_deadline() is None
        # Mistakes of the guest: 100 ms are taken.
        for wrong in (1 << 63, (1 << 50) + 2 * MS):
            bench.do("set_timer_op", wrong)
            assert bench.xen.timers.next_deadline() == 101 * MS
        # 32-bit callers pass two registers.
        bench.do("set_timer_op", 7, 1, bits=32)
        assert bench.xen.timers.next_deadline() == (1 << 32) + 7


class TestVcpuInfo:
    def register(self, bench: Bench, vcpu: int, mfn: int, offset: int) -> Errno | int:
        info = abi.vcpu_register_vcpu_info(mfn=mfn, offset=offset)
        return errno(bench.do("vcpu_op", abi.VCPUOP_register_vcpu_info, vcpu, info))

    def test_it_moves_with_its_contents_and_everything_pending(self) -> None:
        bench = Bench()
        bench.use_callback()
        vcpu = bench.domain.vcpus[0]
        assert vcpu.vcpu_info_maddr == bench.domain.shared_info_maddr
        bench.domain.memory.write(vcpu.vcpu_info_maddr + 16, b"arch")
        assert self.register(bench, 0, 5, 128) == 0
        info = vcpu_info.unpack(bench.domain.space.read(5 * 4096 + 128, 64))
        assert info.evtchn_upcall_pending == 1
        assert info.evtchn_pending_sel == (1 << 64) - 1
        assert bench.domain.space.read(5 * 4096 + 128 + 16, 4) == b"arch"
        assert info.time.tsc_to_system_mul == 1 << 31
        # The engine watches the new place.
        assert ("set_line", (vcpu.vcpu_info_maddr, 0xF3)) in bench.cpu().calls

    def test_only_once_and_only_where_it_fits(self) -> None:
        bench = Bench(vcpus=2)
        assert self.register(bench, 0, 5, 4096 - 63) is Errno.ENXIO
        assert self.register(bench, 0, 5, 4) is Errno.ENXIO
        assert self.register(bench, 0, 5, 0xFFFFFFC0) is Errno.ENXIO
        assert self.register(bench, 0, 1 << 30, 0) is Errno.EINVAL
        assert self.register(bench, 0, 5, 0) == 0
        assert self.register(bench, 0, 6, 0) is Errno.EINVAL

    def test_another_vcpu_must_be_down(self) -> None:
        bench = Bench([halt()], [halt()])
        assert self.register(bench, 1, 5, 0) is Errno.EINVAL
        bench.domain.vcpus[1].take_down()
        assert self.register(bench, 1, 5, 0) == 0

    def test_a_refused_place_keeps_no_reference(self) -> None:
        bench = Bench()
        refs = [bench.xen.memory.refs(bench.domain.space.lookup(5)[0]) for _ in (0,)]  # type: ignore[index]
        self.register(bench, 0, 5, 4)
        mfn = bench.domain.space.lookup(5)[0]  # type: ignore[index]
        assert [bench.xen.memory.refs(mfn)] == refs


def test_send_nmi() -> None:
    bench = Bench([halt()], [halt()])
    bench.run(until=lambda: bench.domain.vcpus[1].blocked, deadline=1000)
    assert errno(bench.do("vcpu_op", abi.VCPUOP_send_nmi, 1, 1)) is Errno.EINVAL
    assert bench.do("vcpu_op", abi.VCPUOP_send_nmi, 1, 0) == 0
    assert ("set_nmi", ()) in bench.cpu(1).calls
    assert not bench.domain.vcpus[1].blocked


def test_get_physid_is_for_pinned_hardware_domains() -> None:
    assert errno(Bench().do("vcpu_op", abi.VCPUOP_get_physid, 0, ARG)) is Errno.EINVAL


def test_a_registered_time_area_gets_the_record() -> None:
    bench = Bench()
    bench.xen.clock.advance_to(40 * MS)
    register = abi.vcpu_register_time_memory_area()
    register.addr.v = 0x9100
    assert bench.do("vcpu_op", abi.VCPUOP_register_vcpu_time_memory_area, 0, register) == 0
    info = vcpu_time_info.unpack(bench.domain.space.read(0x9100, 32))
    assert info.version % 2 == 0
    assert (info.system_time, info.tsc_timestamp) == (40 * MS, 40 * MS)


def test_upcall_pending_is_the_first_byte() -> None:
    assert vcpu_info.offsetof("evtchn_upcall_pending") == UPCALL_PENDING
