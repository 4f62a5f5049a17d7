# SPDX-License-Identifier: GPL-2.0-or-later
"""Scheduling is saved and restored, and saves the same again."""

from __future__ import annotations

import msgspec
import pytest

from tests.toolstack.sched.support import MS, SECOND, Checked
from xenograft.hypervisor.sched.arinc653 import Arinc653, MinorFrame, Schedule
from xenograft.hypervisor.sched.persist import (
    DomainSchedState,
    PoolState,
    restore_domain,
    restore_pools,
    save_domain,
    save_pools,
)
from xenograft.hypervisor.sched.registry import BY_NAME
from xenograft.hypervisor.sched.scheduler import GlobalParams, Params
from xenograft.toolstack.sched.loads import Busy


def machine() -> Checked:
    sim = Checked("credit2", cpus=5)
    for number, (name, cpu) in enumerate((("credit", 2), ("rtds", 3), ("arinc653", 4)), 1):
        sim.pools.create(BY_NAME[name].sched_id)
        sim.pools.remove_cpu(0, cpu)
        sim.pools.add_cpu(number, cpu)
    sim.pools.get(1).scheduler.set_global(GlobalParams(ratelimit_us=500, tslice_ms=10))
    arinc = sim.pools.get(3).scheduler
    assert isinstance(arinc, Arinc653)
    arinc.set_schedule(Schedule(10 * MS, (MinorFrame((3).to_bytes(16, "big"), 0, MS),)), 0)
    return sim


def populate(sim: Checked, restored: list[DomainSchedState] | None = None) -> None:
    for pool in range(4):
        params = Params(weight=100 + pool, cap=30) if pool < 2 else None
        domain = sim.add_domain(
            f"d{pool}", [Busy(), Busy()], None if restored else params, pool=pool
        )
        if restored is not None:
            restore_domain(sim.core, domain, restored[pool])
        elif pool == 0:
            sim.core.set_affinity(domain.units[1], 0, 0b10, 0b01)
        elif pool == 1:
            domain.nodes = 0b10
        elif pool == 2:
            reserve = Params(period_us=5_000, budget_us=1_000, extratime=False)
            domain.scheduler.set_unit_params(domain.units[0], reserve, 0)


def test_round_trip() -> None:
    sim = machine()
    populate(sim)
    sim.pools.remove_cpu(0, 1)
    pools, domains = save_pools(sim.pools), [save_domain(domain) for domain in sim.domains]
    data = msgspec.json.encode((pools, domains))
    pools, domains = msgspec.json.decode(
        data, type=tuple[tuple[PoolState, ...], list[DomainSchedState]]
    )
    again = Checked("credit2", cpus=5)
    restore_pools(again.pools, pools)
    assert save_pools(again.pools) == pools
    assert again.pools.free == 0b10
    populate(again, domains)
    # The pin to the CPU that has gone was let go when it went.
    assert [save_domain(domain) for domain in again.domains] == domains
    again.run(SECOND)
    assert again.exact()


def test_parameters_of_another_scheduler_are_left_out() -> None:
    sim = machine()
    populate(sim)
    state = save_domain(sim.domains[2])
    other = Checked("credit2")
    domain = other.add_domain("d", [Busy(), Busy()])
    restore_domain(other.core, domain, state)
    assert domain.scheduler.get_params(domain) == Params(weight=256, cap=0)


def test_another_number_of_vcpus_is_an_error() -> None:
    sim = machine()
    populate(sim)
    other = Checked("credit2")
    with pytest.raises(ValueError, match="argument 2 is longer"):
        restore_domain(other.core, other.add_domain("d", [Busy()]), save_domain(sim.domains[0]))
