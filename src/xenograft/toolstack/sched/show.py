# SPDX-License-Identifier: GPL-2.0-or-later
"""Tables of schedulers, pools and vCPUs in the form of `xl` (Xen 4.17)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from xenograft.hypervisor.sched.cpumask import CpuMask, show
from xenograft.hypervisor.sched.scheduler import GlobalParams, Params
from xenograft.toolstack.sched.control import PoolInfo, VcpuInfo


def cpupool_list(pools: Iterable[PoolInfo], *, cpus: bool = False) -> list[str]:
    """`xl cpupool-list`, and with `cpus` its -c."""
    if cpus:
        lines = [f"{'Name':<19}CPU list"]
        return lines + [f"{pool.name:<19}{','.join(map(str, pool.cpus))}" for pool in pools]
    lines = [f"{'Name':<19}CPUs   Sched     Active   Domain count"]
    return lines + [
        f"{pool.name:<19}{len(pool.cpus):>3} {pool.sched:>9}       y       {pool.domains:>4}"
        for pool in pools
    ]


def vcpu_list(vcpus: Iterable[VcpuInfo], all_cpus: CpuMask) -> list[str]:
    """`xl vcpu-list`."""
    head = f"{'Name':<32} {'ID':>5} {'VCPU':>5} {'CPU':>5} State   Time(s)"
    lines = [f"{head} Affinity (Hard / Soft)"]
    for one in vcpus:
        if one.online:
            cpu = f"{one.cpu:>4}"
            state = ("r" if one.running else "-") + ("b" if one.blocked else "-") + "-"
        else:
            cpu, state = "   -", "--p"
        lines.append(
            f"{one.name:<32} {one.domid:>5} {one.vcpu:>5} {cpu}   {state} {one.time_ns / 1e9:>9.1f}"
            f"  {show(one.hard, all_cpus)} / {show(one.soft, all_cpus)}"
        )
    return lines


def sched_credit_pool(name: str, params: GlobalParams) -> str:
    """The line that `xl sched-credit` shows for a pool."""
    return (
        f"Cpupool {name}: tslice={params.tslice_ms}ms ratelimit={params.ratelimit_us}us"
        f" migration-delay={params.migration_delay_us}us"
    )


def sched_credit2_pool(name: str, params: GlobalParams) -> str:
    """The line that `xl sched-credit2` shows for a pool."""
    return f"Cpupool {name}: ratelimit={params.ratelimit_us}us"


def sched_credit(domains: Iterable[tuple[str, int, Params]]) -> list[str]:
    """The domains of `xl sched-credit` and `xl sched-credit2`: name, domid, parameters."""
    lines = [f"{'Name':<33} {'ID':>4} {'Weight':>6} {'Cap':>4}"]
    return lines + [
        f"{name:<33} {domid:>4} {params.weight:>6} {params.cap:>4}"
        for name, domid, params in domains
    ]


def sched_rtds(domains: Iterable[tuple[str, int, Params]]) -> list[str]:
    """The domains of `xl sched-rtds`: the defaults of each."""
    lines = [f"{'Name':<33} {'ID':>4} {'Period':>9} {'Budget':>9} {'Extratime':>10}"]
    return lines + [
        f"{name:<33} {domid:>4} {params.period_us:>9} {params.budget_us:>9}"
        f" {'yes' if params.extratime else 'no':>10}"
        for name, domid, params in domains
    ]


def sched_rtds_vcpus(rows: Sequence[tuple[str, int, int, Params]]) -> list[str]:
    """`xl sched-rtds -v`: name, domid, vCPU, reservation."""
    lines = [f"{'Name':<33} {'ID':>4} {'VCPU':>4} {'Period':>9} {'Budget':>9} {'Extratime':>10}"]
    return lines + [
        f"{name:<33} {domid:>4} {vcpu:>4} {params.period_us:>9} {params.budget_us:>9}"
        f" {'yes' if params.extratime else 'no':>10}"
        for name, domid, vcpu, params in rows
    ]


def sched_arinc653(
    pool: str, major_frame_ns: int, windows: Sequence[tuple[str, int, int, int]]
) -> list[str]:
    """`xg sched-arinc653`: domain, vCPU, start and length (ns) of each window."""
    lines = [f"Cpupool {pool}: major frame={major_frame_ns / 1000:g}us"]
    lines.append(f"{'Name':<33} {'VCPU':>4} {'Start(us)':>12} {'Runtime(us)':>12}")
    return lines + [
        f"{name:<33} {vcpu:>4} {start / 1000:>12g} {length / 1000:>12g}"
        for name, vcpu, start, length in windows
    ]
