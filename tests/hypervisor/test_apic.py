# SPDX-License-Identifier: GPL-2.0-or-later
"""Local APICs in a running machine: interrupts, timers, INIT and start-up."""

from __future__ import annotations

from tests.hypervisor.support import IF, Bench, Guest
from xenograft.abi.sched import SHUTDOWN_poweroff
from xenograft.engine import fake
from xenograft.engine.fake import FakeCpu, halt, msr_read, msr_write
from xenograft.engine.protocol import Exit, ExitReason

MS = 1_000_000
BASE = 0xFEE00000
X2APIC_ENABLE = 0xFEE00000 | 1 << 11 | 1 << 10


def apic_write(offset: int, value: int) -> Exit:
    return fake.mmio_write(BASE + offset, value)


def enable() -> Exit:
    return apic_write(0xF0, 0x1FF)


def test_an_interrupt_is_entered_and_ended() -> None:
    def guest(cpu: FakeCpu) -> Guest:
        cpu.registers["rflags"] |= IF
        cpu.on_interrupt = None
        yield enable()
        yield apic_write(0x300, 0x40000 | 0x81)  # to itself
        yield fake.mmio_read(BASE + 0x140)
        yield apic_write(0xB0, 0)
        yield fake.mmio_read(BASE + 0x140)

    bench = Bench(guest)
    bench.run()
    assert bench.cpu().entered == [0x81]
    reads = [a.values[0] for e, a in bench.cpu().answers if e[0] == ExitReason.MMIO_READ]
    assert reads == [1 << 1, 0]


def test_an_ipi_wakes_a_sleeping_vcpu() -> None:
    def sender(cpu: FakeCpu) -> Guest:
        yield enable()
        yield apic_write(0x310, 2 << 24)  # the id of vCPU 1
        yield apic_write(0x300, 0xE0)

    def sleeper(cpu: FakeCpu) -> Guest:
        cpu.registers["rflags"] |= IF
        yield enable()
        yield halt(True)

    bench = Bench(sender, sleeper)
    # The sleeper goes first, so that it's asleep when the IPI comes.
    bench.domain.vcpus[0].pause()
    bench.run(deadline=1_000_000)
    bench.domain.vcpus[0].unpause()
    bench.run()
    assert bench.cpu(1).entered == [0xE0]
    assert bench.domain.shutdown_reason == SHUTDOWN_poweroff


def test_the_timer_fires_in_its_time() -> None:
    def guest(cpu: FakeCpu) -> Guest:
        cpu.registers["rflags"] |= IF
        yield enable()
        yield apic_write(0x320, 0x42)
        yield apic_write(0x3E0, 0xB)  # divisor 1: 10 ns a tick
        yield apic_write(0x380, 100_000)
        yield halt(True)

    bench = Bench(guest)
    bench.run()
    assert bench.cpu().entered == [0x42]
    assert MS <= bench.now < 2 * MS


def test_the_deadline_timer_follows_the_tsc() -> None:
    def guest(cpu: FakeCpu) -> Guest:
        cpu.registers["rflags"] |= IF
        yield enable()
        yield apic_write(0x320, 2 << 17 | 0x42)
        tsc = yield msr_read(0x10)
        yield msr_write(0x6E0, tsc.values[0] + 3 * MS)
        yield halt(True)

    bench = Bench(guest, tsc_khz=3_000_000)
    bench.run()
    assert bench.cpu().entered == [0x42]
    assert MS <= bench.now < MS + 1000


def test_a_write_of_the_tsc_moves_the_time_record_with_it() -> None:
    def guest(cpu: FakeCpu) -> Guest:
        yield msr_write(0x10, 1 << 40)
        yield msr_read(0x10)

    bench = Bench(guest)
    bench.xen.clock.advance_to(5 * MS)
    bench.run()
    value = bench.cpu().answers[1][1].values[0]
    assert (1 << 40) <= value < (1 << 40) + 100
    data = bench.xen.memory.read(bench.domain.vcpus[0].vcpu_info_maddr + 32, 32)  # type: ignore[operator]
    stamp, system = int.from_bytes(data[8:16], "little"), int.from_bytes(data[16:24], "little")
    assert stamp - system == bench.domain.vcpus[0].tsc.offset


class TestBringUp:
    """INIT and start-up, as kernels do it."""

    def bench(self, second: object, x2apic: bool) -> Bench:
        def first(cpu: FakeCpu) -> Guest:
            if x2apic:
                yield msr_write(0x1B, X2APIC_ENABLE)
                yield msr_write(0x830, 2 << 32 | 0xC500)
                yield msr_write(0x830, 2 << 32 | 0x8500)
                yield msr_write(0x830, 2 << 32 | 0x699)
                yield msr_write(0x830, 2 << 32 | 0x699)
            else:
                yield apic_write(0x310, 2 << 24)
                yield apic_write(0x300, 0xC500)
                yield apic_write(0x300, 0x8500)
                yield apic_write(0x310, 2 << 24)
                yield apic_write(0x300, 0x699)
                yield apic_write(0x300, 0x699)
            yield halt(False)

        bench = Bench(first, vcpus=2)
        bench.engine.scripts[1] = second  # type: ignore[assignment]
        return bench

    def test_it_starts_in_real_mode_at_the_vector(self) -> None:
        for x2apic in (False, True):
            seen: list[dict[str, int]] = []

            def second(cpu: FakeCpu, seen: list[dict[str, int]] = seen) -> Guest:
                seen.append(dict(cpu.registers))
                yield halt(False)

            bench = self.bench(second, x2apic)
            assert bench.domain.vcpus[1].down
            bench.run()
            (registers,) = seen
            assert (registers["cs.sel"], registers["rip"]) == (0x9900, 0)
            assert registers["cr0"] == 0x10

    def test_a_second_start_up_is_ignored_and_init_stops_it(self) -> None:
        bench = self.bench([halt(True)], False)
        bench.run(until=lambda: bench.domain.vcpus[1].blocked, deadline=MS)
        second = bench.domain.vcpus[1]
        assert second.online
        bench.domain.arch.apic_startup(1, 0x55)
        assert bench.cpu(1).registers["cs.sel"] == 0x9900
        bench.domain.arch.apic_init(1)
        assert second.down
        assert not second.initialised
        assert not second.blocked
        bench.domain.arch.apic_startup(1, 0x55)
        assert bench.cpu(1).registers["cs.sel"] == 0x5500
        assert second.online

    def test_an_nmi_wakes(self) -> None:
        bench = Bench([halt(True)])
        bench.run(until=lambda: bench.domain.vcpus[0].blocked, deadline=MS)
        bench.domain.arch.apic_nmi(0)
        assert not bench.domain.vcpus[0].blocked
        bench.run()
        assert 2 in bench.cpu().entered


def test_injections_are_watched() -> None:
    heard: list[tuple[int, str]] = []

    class Listener:
        def injection(self, time: int, domid: int, vcpu: int, vector: int, kind: str) -> None:
            heard.append((vector, kind))

    def guest(cpu: FakeCpu) -> Guest:
        cpu.registers["rflags"] |= IF
        yield enable()
        yield apic_write(0x300, 0x40000 | 0x81)
        yield fake.io_in(1)

    bench = Bench(guest)
    bench.use_callback()
    bench.xen.instruments.add(Listener())
    bench.domain.vcpus[0].mark_events_pending()
    bench.run()
    assert heard == [(0xF3, "upcall"), (0x81, "lapic")]


def test_the_hypercall_page() -> None:
    bench = Bench([msr_write(0x40000000, 5 << 12), msr_write(0x40000000, 1 << 40)])
    bench.run()
    page = bench.domain.space.read(5 << 12, 4096)
    assert page[17 * 32 : 17 * 32 + 9] == bytes.fromhex("b8110000000f01c1c3")
    assert [answer.kind for _, answer in bench.cpu().answers[:2]] == ["complete", "fault"]
