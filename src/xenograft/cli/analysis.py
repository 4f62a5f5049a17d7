# SPDX-License-Identifier: GPL-2.0-or-later
"""What `xg sched analyze` says, of a file or of the host service's pools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenograft.hypervisor.sched.constants import MICROSECOND
from xenograft.hypervisor.sched.cpumask import mask_of
from xenograft.toolstack.errors import Failure
from xenograft.toolstack.sched.analysis import Reservation, analyze_arinc653, analyze_rtds
from xenograft.toolstack.sched.arinc653 import Span
from xenograft.toolstack.sched.run import Analysis

if TYPE_CHECKING:
    from xenograft.toolstack.service.messages import SchedPool, TableRow, VcpuInfo


def of_service() -> Analysis:
    """Of the RTDS and ARINC 653 pools as they are now. Raises Failure if there are none."""
    from xenograft.cli.xl.base import service
    from xenograft.toolstack.service.messages import GetSched, GetTables, ListPools, ListVcpus

    with service() as client:
        cpus = {pool.name: mask_of(pool.cpus) for pool in client.call(ListPools())}
        reserved = client.call(GetSched("rtds", vcpus=True))
        vcpus = client.call(ListVcpus())
        tables = client.call(GetTables())
    if not reserved and not tables:
        raise Failure("there is nothing to analyze: no cpupool has rtds or arinc653")
    return Analysis(
        {pool.pool: analyze_rtds(_reservations(pool, vcpus), cpus[pool.pool]) for pool in reserved},
        {
            table.pool: (
                table.major_frame_ns,
                analyze_arinc653(table.major_frame_ns, _spans(table)),
            )
            for table in tables
            if table.windows
        },
    )


def _reservations(pool: SchedPool, vcpus: list[VcpuInfo]) -> list[Reservation]:
    hard = {(one.domid, one.vcpu): one.hard for one in vcpus}
    everywhere = -1
    found = []
    for row in pool.rows:
        where = hard.get((row.domid, row.vcpu or 0))
        found.append(
            Reservation(
                f"{row.name} v{row.vcpu}",
                (row.params.budget_us or 0) * MICROSECOND,
                (row.params.period_us or 1) * MICROSECOND,
                everywhere if where is None else mask_of(where),
            )
        )
    return found


def _spans(table: TableRow) -> list[Span]:
    return [
        Span(one.domain or one.uuid, one.vcpu, one.start_ns, one.runtime_ns)
        for one in table.windows
    ]


def lines(analysis: Analysis) -> list[str]:
    """What `xg sched analyze` prints."""
    from xenograft.toolstack.sched.durations import show_ns

    words = {True: "schedulable", False: "NOT schedulable", None: "undecided: no test accepts it"}
    out: list[str] = []
    for name, report in analysis.rtds.items():
        used = float(report.utilization)
        out.append(
            f"pool {name} (rtds, {report.cpus} CPUs): utilization {used:.3f}:"
            f" {words[report.schedulable]}"
        )
        marks = {True: "accepts", False: "rejects", None: "n/a"}
        out += [f"  {v.test:<34} {marks[v.accepts]:<8} {v.detail}" for v in report.verdicts]
        if report.placement is not None and report.cpus > 1:
            for cpu, tasks in report.placement.items():
                load = float(sum(task.utilization for task in tasks))
                names = ", ".join(task.name for task in tasks) or "nobody"
                out.append(f"    CPU {cpu} ({load:.3f}): {names}")
    for name, (major, partitions) in analysis.arinc653.items():
        covered = float(sum(one.share for one in partitions))
        out.append(
            f"pool {name} (arinc653): major frame {show_ns(major)}, {100 * covered:.2f} % given out"
        )
        out.append(
            f"  {'Name':<20} {'VCPU':>4} {'Windows':>7} {'Time':>9} {'Share(%)':>9}"
            f" {'Latency':>9} {'Shortest':>9}"
        )
        out += [
            f"  {one.domain:<20} {one.vcpu:>4} {one.windows:>7} {show_ns(one.served):>9}"
            f" {100 * float(one.share):>9.2f} {show_ns(one.longest_wait):>9}"
            f" {show_ns(one.shortest_window):>9}"
            for one in partitions
        ]
    return out


def as_json(analysis: Analysis) -> dict[str, Any]:
    """The same for programs."""
    return {
        "rtds": {
            name: {
                "cpus": report.cpus,
                "utilization": float(report.utilization),
                "schedulable": report.schedulable,
                "tests": [
                    {"test": v.test, "accepts": v.accepts, "detail": v.detail}
                    for v in report.verdicts
                ],
                "partition": None
                if report.placement is None
                else {
                    str(cpu): [task.name for task in tasks]
                    for cpu, tasks in report.placement.items()
                },
            }
            for name, report in analysis.rtds.items()
        },
        "arinc653": {
            name: {
                "major_frame_ns": major,
                "partitions": [
                    {
                        "domain": one.domain,
                        "vcpu": one.vcpu,
                        "windows": one.windows,
                        "served_ns": one.served,
                        "share": float(one.share),
                        "latency_ns": one.longest_wait,
                        "shortest_window_ns": one.shortest_window,
                    }
                    for one in partitions
                ],
            }
            for name, (major, partitions) in analysis.arinc653.items()
        },
    }
