# SPDX-License-Identifier: GPL-2.0-or-later
"""The account of a machine is exact, whatever happens to domains."""

from __future__ import annotations

import contextlib
import random

import pytest

from tests.hypervisor.support import Bench, Guest, op
from tests.hypervisor.test_loop import Spin
from xenograft.abi.domctl import XEN_SCHEDULER_CREDIT, XEN_SCHEDULER_RTDS
from xenograft.abi.errno import XenError
from xenograft.engine.fake import FakeCpu, halt
from xenograft.hypervisor.domain import Domain
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


def test_memory_that_came_and_went_between_two_readings_counts_exactly() -> None:
    """As a balloon does it; nobody looks while the domain has more, or less."""
    bench = Bench(Spin())
    pages = bench.domain.pool.tot_pages
    bench.run(deadline=3 * MS)
    bench.domain.p2m.populate(1000, 40)
    bench.run(deadline=10 * MS)
    for gfn in range(1010, 1035):
        bench.domain.p2m.guest_remove_page(gfn)
    bench.run(deadline=11 * MS)
    (usage,) = bench.xen.meter.read().domains
    assert usage.page_ns == pages * 11 * MS + 40 * 7 * MS + 15 * MS


def test_a_clone_pays_for_the_memory_that_it_shares() -> None:
    bench = Bench(Spin())
    bench.domain.uuid = b"p" * 16
    bench.run(deadline=4 * MS)
    clone = bench.xen.create_domain(GuestKind.PVH, max_vcpus=1, max_pages=1 << 14, uuid=b"c" * 16)
    bench.domain.p2m.share(clone.p2m)
    bench.run(deadline=9 * MS)
    used = {one.uuid[:1]: one.page_ns for one in bench.xen.meter.read().domains}
    assert clone.pool.tot_pages > 0
    assert used == {
        b"p": bench.domain.pool.tot_pages * 9 * MS,
        b"c": clone.pool.tot_pages * 5 * MS,
    }


def test_counters_of_devices_that_have_gone_are_kept() -> None:
    bench = Bench(Spin())
    meter = bench.xen.meter
    bench.domain.uuid = b"u" * 16
    alive = {"count": 500}
    meter.sources["disk"] = lambda domid: alive["count"] if domid == 1 else 0
    # Unplugged, and another one plugged, that has counted less.
    alive["count"] = 20
    meter.deposit(1, "disk", 500)
    (usage,) = meter.read().domains
    assert usage.counters == {"disk": 520}
    alive["count"] = 0
    meter.deposit(1, "disk", 25)
    bench.xen.destroy_domain(bench.domain)
    # One was busy for longer than its domain lived.
    meter.deposit(1, "disk", 7)
    (usage,) = meter.read().domains
    assert usage.counters == {"disk": 532}


def test_what_was_used_before_a_uuid_was_changed_stays_in_its_account() -> None:
    bench = Bench(Spin())
    bench.domain.uuid = b"u" * 16
    bench.run(deadline=5 * MS)
    bench.xen.meter.settle(bench.domain)
    bench.domain.uuid = b"v" * 16
    bench.run(deadline=7 * MS)
    used = {one.uuid[:1]: one.cpu_ns for one in bench.xen.meter.read().domains}
    assert used == {b"u": 5 * MS, b"v": 2 * MS}
    bench.xen.destroy_domain(bench.domain)
    assert {one.uuid[:1]: one.cpu_ns for one in bench.xen.meter.read().domains} == used
    assert bench.xen.meter.read().unaccounted_ns == 0


@pytest.mark.parametrize("seed", range(6))
def test_the_account_is_exact_whatever_is_done_meanwhile(seed: int) -> None:
    """Pools made and unmade, CPUs and domains moved, pinned and destroyed while guests run."""
    rng = random.Random(f"metering {seed}")
    bench = Bench(Spin(), sleeper, topology=Topology.of(nodes=2, cores=2))
    bench.use_callback()
    bench.domain.events.bind_virq(0, 1)
    xen, pools = bench.xen, bench.xen.pools
    pools.create(XEN_SCHEDULER_RTDS)
    pools.create(XEN_SCHEDULER_CREDIT)
    domains, time = [bench.domain], 0
    for _ in range(60):
        what, pool, cpu = rng.randrange(6), rng.randrange(3), rng.randrange(4)
        with contextlib.suppress(XenError):
            if what == 0:
                pools.add_cpu(pool, None)
            elif what == 1:
                pools.remove_cpu(pool, cpu)
            elif what == 2 and domains:
                pools.move_domain(rng.choice(domains).sched, pool)
            elif what == 3 and domains:
                unit = rng.choice(domains).vcpus[0].unit
                xen.sched.set_affinity(unit, bench.now, hard=1 << cpu)
            elif what == 4 and len(domains) < 5:
                domains.append(started(bench))
            elif what == 5 and len(domains) > 1 and not rng.randrange(3):
                xen.destroy_domain(domains.pop(rng.randrange(len(domains))))
        time += rng.randrange(1, 3 * MS)
        bench.run(until=lambda: False, deadline=time)
        reading = xen.meter.read()
        assert reading.unaccounted_ns == 0
        assert reading.elapsed_ns >= 4 * time
    assert sum(one.cpu_ns for one in xen.meter.read().domains) > 0


def started(bench: Bench) -> Domain:
    """Another domain, that runs."""
    domain = bench.xen.create_domain(GuestKind.PVH, max_vcpus=1, max_pages=256)
    domain.p2m.populate(0, 64)
    bench.start(domain.vcpus[0])
    domain.unpause()
    return domain
