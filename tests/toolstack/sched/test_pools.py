# SPDX-License-Identifier: GPL-2.0-or-later
"""CPU pools, affinity and hot changes, with the rules checked at each decision."""

from __future__ import annotations

import random

import pytest

from tests.toolstack.sched.support import MS, SECOND, Checked
from xenograft.abi.errno import Errno, XenError
from xenograft.hypervisor.sched.registry import BY_NAME
from xenograft.hypervisor.sched.scheduler import Params
from xenograft.toolstack.sched.loads import Blocking, Busy, Periodic

SCHEDULERS = sorted(BY_NAME)


def split(sim: Checked, scheduler: str, cpus: list[int]) -> int:
    """A new pool with CPUs of Pool-0."""
    pool = sim.pools.create(BY_NAME[scheduler].sched_id)
    for cpu in cpus:
        sim.pools.remove_cpu(0, cpu)
        sim.pools.add_cpu(pool.pool_id, cpu)
    return pool.pool_id


def test_a_hog_in_one_pool_does_not_delay_the_other() -> None:
    sim = Checked("credit2", cpus=2)
    for i in range(5):
        sim.add_domain(f"hog{i}", [Busy()])
    pool = split(sim, "rtds", [1])
    task = Periodic(5 * MS, 2 * MS)
    sim.add_domain("task", [task], Params(period_us=5_000, budget_us=2_000), pool=pool)
    sim.run(10 * SECOND)
    assert not task.missed
    assert {job.end - job.release for job in task.jobs} == {2 * MS}
    assert sim.exact()


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_domains_move_between_pools_while_they_run(scheduler: str) -> None:
    sim = Checked("credit2", cpus=3)
    domain = sim.add_domain("d", [Busy(), Blocking(MS, 2 * MS)])
    pool = split(sim, scheduler, [2] if scheduler == "arinc653" else [2, 1])
    sim.run(SECOND)
    sim.pools.move_domain(domain, pool)
    sim.run(2 * SECOND)
    assert len(sim.pools.get(0).domains) == 0
    assert sim.core.total_idle_ns(0, sim.time) > 0.99 * SECOND
    sim.pools.move_domain(domain, 0)
    before = sim.cpu_time(domain)
    sim.run(3 * SECOND)
    assert sim.cpu_time(domain) - before > 0.99 * SECOND
    assert sim.exact()


def test_a_pool_of_arinc653_has_one_cpu() -> None:
    sim = Checked("credit2", cpus=3)
    pool = split(sim, "arinc653", [2])
    sim.pools.remove_cpu(0, 1)
    with pytest.raises(XenError, match="EOPNOTSUPP"):
        sim.pools.add_cpu(pool, 1)
    with pytest.raises(XenError, match="EOPNOTSUPP"):
        sim.pools.add_cpu(pool, None)
    assert sim.pools.free == 0b010
    sim.pools.remove_cpu(pool, 2)
    sim.pools.add_cpu(pool, 1)
    assert sim.pools.get(pool).cpus == 0b010


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_anything_may_change_at_any_time(scheduler: str) -> None:
    """A long random history of pools, CPUs, pins, domains: no rule is ever broken."""
    rng = random.Random(f"pools {scheduler}")
    sim = Checked("credit2", sockets=2, cores=3)
    sim.add_domain("stays", [Busy()])
    pool = split(sim, scheduler, [5])
    refused = 0
    for step in range(400):
        sim.run(sim.time + rng.randrange(5 * MS))
        domain = rng.choice(sim.domains)
        try:
            match rng.randrange(8):
                case 0 if len(sim.domains) < 12:
                    load = rng.choice([Busy(), Blocking(MS, MS, sim.time, seed=step)])
                    sim.add_domain(f"d{step}", [load, Busy()], pool=rng.choice([0, pool]))
                case 1 if len(sim.domains) > 1:
                    sim.remove_domain(domain)
                case 2:
                    sim.pools.move_domain(domain, rng.choice([0, pool]))
                case 3:
                    source, target = rng.sample([0, pool], 2)
                    sim.pools.add_cpu(target, sim.pools.remove_cpu(source, rng.randrange(6)))
                case 4 | 5:
                    unit = rng.choice(domain.units)
                    soft = rng.choice([None, rng.randrange(1, 64)])
                    sim.core.set_affinity(unit, sim.time, rng.randrange(64), soft)
                case 6:
                    unit = rng.choice(domain.units)
                    sim.core.pin_override(unit, rng.randrange(-1, 6), sim.time)
                case 7 if domain.scheduler.opt_name in ("credit", "credit2"):
                    sim.set_params(domain, Params(weight=rng.randrange(1, 999), cap=step % 3 * 40))
        except XenError:
            refused += 1
    assert 0 < refused < 300
    sim.run(sim.time + SECOND)
    for pool_ in sim.pools:
        assert pool_.cpus == pool_.scheduler.cpus
    everywhere = [pool_.cpus for pool_ in sim.pools] + [sim.pools.free]
    assert sum(everywhere) == sim.core.topology.all_cpus


class TestErrors:
    def test_pools(self) -> None:
        sim = Checked("credit2", cpus=3)
        pools = sim.pools
        credit = BY_NAME["credit"].sched_id

        def error(call: object, *args: object) -> Errno:
            assert callable(call)
            with pytest.raises(XenError) as caught:
                call(*args)
            return caught.value.errno

        assert error(pools.create, 99) is Errno.ENOENT
        assert pools.create(credit).pool_id == 1
        assert error(pools.create, credit, 1) is Errno.EEXIST
        assert error(pools.add_cpu, 7, 1) is Errno.ENOENT
        assert error(pools.add_cpu, 1, 99) is Errno.EINVAL
        assert error(pools.add_cpu, 1, 1) is Errno.ENODEV
        assert error(pools.add_cpu, 1, None) is Errno.ENODEV
        assert error(pools.remove_cpu, 0, 0) is Errno.EINVAL
        assert error(pools.remove_cpu, 0, 99) is Errno.EINVAL
        assert error(pools.remove_cpu, 1, 2) is Errno.EADDRNOTAVAIL
        domain = sim.add_domain("d", [Busy()])
        assert error(pools.move_domain, domain, 1) is Errno.ENOENT
        assert error(pools.move_domain, domain, 8) is Errno.ENOENT
        assert pools.remove_cpu(0, None) == 2
        assert pools.add_cpu(1, None) == 2
        pools.move_domain(domain, 1)
        assert error(pools.remove_cpu, 1, 2) is Errno.EBUSY
        assert error(pools.destroy, 1) is Errno.EBUSY
        pools.move_domain(domain, 0)
        assert error(pools.destroy, 1) is Errno.EBUSY
        pools.remove_cpu(1, 2)
        pools.destroy(1)
        assert error(pools.get, 1) is Errno.ENOENT

    def test_affinity(self) -> None:
        sim = Checked("credit2", cpus=3)
        split(sim, "credit2", [2])
        domain = sim.add_domain("d", [Busy()])
        unit = domain.units[0]
        for mask in (0, 0b100):
            with pytest.raises(XenError, match="EINVAL"):
                sim.core.set_affinity(unit, 0, mask)
        sim.core.set_affinity(unit, 0, 0b110)
        sim.run(SECOND)
        assert unit.cpu == 1
        sim.core.pin_override(unit, 0, sim.time)
        with pytest.raises(XenError, match="EBUSY"):
            sim.core.set_affinity(unit, sim.time, 1)
        sim.run(2 * SECOND)
        assert unit.cpu == 0
        sim.core.pin_override(unit, -1, sim.time)
        sim.run(3 * SECOND)
        assert unit.cpu == 1

    def test_a_vcpu_whose_last_cpu_goes_loses_its_pin(self) -> None:
        sim = Checked("credit2", cpus=2)
        domain = sim.add_domain("d", [Busy()], hard=0b10)
        sim.run(SECOND)
        sim.pools.remove_cpu(0, 1)
        sim.run(2 * SECOND)
        assert domain.units[0].cpu == 0
        assert sim.cpu_time(domain) == 2 * SECOND
