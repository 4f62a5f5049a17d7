# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables look like those that xl of Xen 4.17 printed."""

from __future__ import annotations

from xenograft.hypervisor.sched.scheduler import GlobalParams, Params
from xenograft.toolstack.sched import show
from xenograft.toolstack.sched.control import PoolInfo, VcpuInfo


def test_cpupool_list() -> None:
    pools = [
        PoolInfo(0, "Pool-0", "credit2", 2, (0,)),
        PoolInfo(1, "pool-credit", "credit", 0, (1, 3)),
    ]
    assert show.cpupool_list(pools) == [
        "Name               CPUs   Sched     Active   Domain count",
        "Pool-0               1   credit2       y          2",
        "pool-credit          2    credit       y          0",
    ]
    assert show.cpupool_list(pools, cpus=True) == [
        "Name               CPU list",
        "Pool-0             0",
        "pool-credit        1,3",
    ]


def test_vcpu_list() -> None:
    def vcpu(domid: int, name: str, number: int, time: float, **more: object) -> VcpuInfo:
        facts = {
            "cpu": 1,
            "online": True,
            "blocked": False,
            "running": False,
            "hard": 0b1111,
            "soft": 0b1111,
        }
        facts.update(more)  # type: ignore[arg-type]
        return VcpuInfo(domid, name, number, time_ns=round(time * 1e9), **facts)  # type: ignore[arg-type]

    rows = [
        vcpu(0, "Domain-0", 0, 205.9, cpu=2, running=True),
        vcpu(1, "ref-pv", 0, 28.8, blocked=True, hard=2, soft=2),
        vcpu(1, "ref-pv", 1, 3.9, online=False),
    ]
    assert show.vcpu_list(rows, 0b1111) == [
        "Name                                ID  VCPU   CPU State   Time(s) Affinity (Hard / Soft)",
        "Domain-0                             0     0    2   r--     205.9  all / all",
        "ref-pv                               1     0    1   -b-      28.8  1 / 1",
        "ref-pv                               1     1    -   --p       3.9  all / all",
    ]


def test_sched_credit() -> None:
    credit = GlobalParams(ratelimit_us=1000, tslice_ms=30, migration_delay_us=0)
    assert (
        show.sched_credit_pool("pool-credit", credit)
        == "Cpupool pool-credit: tslice=30ms ratelimit=1000us migration-delay=0us"
    )
    assert (
        show.sched_credit2_pool("Pool-0", GlobalParams(ratelimit_us=1000))
        == "Cpupool Pool-0: ratelimit=1000us"
    )
    assert show.sched_credit([("ref-pv", 1, Params(weight=512, cap=50))]) == [
        "Name                                ID Weight  Cap",
        "ref-pv                               1    512   50",
    ]


def test_sched_rtds() -> None:
    assert show.sched_rtds([])[0] == (
        "Name                                ID    Period    Budget  Extratime"
    )
    rows = show.sched_rtds_vcpus([("rt", 3, 0, Params(period_us=10000, budget_us=4000))])
    assert rows == [
        "Name                                ID VCPU    Period    Budget  Extratime",
        "rt                                   3    0     10000      4000         no",
    ]


def test_sched_arinc653() -> None:
    assert show.sched_arinc653("p", 10_000_000, [("nav", 0, 2_500_000, 1_000_500)]) == [
        "Cpupool p: major frame=10000us",
        "Name                              VCPU    Start(us)  Runtime(us)",
        "nav                                  0         2500       1000.5",
    ]
