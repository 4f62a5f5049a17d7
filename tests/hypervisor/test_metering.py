# SPDX-License-Identifier: GPL-2.0-or-later
"""The account of a machine is exact, whatever happens to domains."""

from __future__ import annotations

import pytest

from tests.hypervisor.support import Bench, Guest, op
from tests.hypervisor.test_loop import Spin
from xenograft.engine.fake import FakeCpu, halt
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.sched.topology import Topology

MS = 1_000_000
IF = 1 << 9


def sleeper(cpu: FakeCpu) -> Guest:
    cpu.registers["rflags"] |= IF
    while True:
        yield op("set_timer_op", cpu.instructions() + 777_777)
        yield halt(True)


@pytest.mark.parametrize("cpus", [1, 3])
def test_all_domains_and_idleness_add_up_to_the_time_that_passed(cpus: int) -> None:
    bench = Bench(Spin(), sleeper, topology=Topology.of(cores=cpus))
    bench.use_callback()
    bench.domain.events.bind_virq(0, 1)
    for at in (3 * MS + 1, 7 * MS + 13, 20 * MS + 77):
        bench.run(until=lambda: False, deadline=at)
        reading = bench.xen.meter.read()
        assert reading.unaccounted_ns == 0
        assert reading.elapsed_ns >= at * cpus
    bench.xen.destroy_domain(bench.domain)
    after = bench.xen.meter.read()
    assert after.unaccounted_ns == 0
    assert after.domains[0].cpu_ns == reading.domains[0].cpu_ns > 0


def test_what_was_used_outlives_a_reboot() -> None:
    bench = Bench(Spin())
    bench.domain.uuid = b"u" * 16
    bench.run(deadline=5 * MS)
    bench.xen.destroy_domain(bench.domain)
    again = bench.xen.create_domain(GuestKind.PVH, max_vcpus=1, max_pages=256, uuid=b"u" * 16)
    again.p2m.populate(0, 64)
    bench.start(again.vcpus[0])
    again.unpause()
    bench.run(until=lambda: False, deadline=8 * MS)
    (usage,) = bench.xen.meter.read().domains
    assert usage.cpu_ns == 8 * MS
    assert bench.xen.meter.read().unaccounted_ns == 0


def test_memory_counts_over_time() -> None:
    bench = Bench(Spin())
    bench.run(deadline=4 * MS)
    (usage,) = bench.xen.meter.read().domains
    assert usage.page_ns == bench.domain.pool.tot_pages * 4 * MS


def test_counters_of_back_ends_are_kept_when_they_go() -> None:
    bench = Bench(Spin())
    bench.xen.meter.sources["disk"] = lambda domid: 500 if domid == 1 else 0
    bench.xen.meter.sample(bench.domain)
    bench.xen.meter.sources["disk"] = lambda domid: 0
    bench.xen.destroy_domain(bench.domain)
    (usage,) = bench.xen.meter.read().domains
    assert usage.counters == {"disk": 500}
