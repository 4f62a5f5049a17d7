# SPDX-License-Identifier: GPL-2.0-or-later
"""ARINC 653 schedules of the machine's pools: shown, checked, loaded."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from xenograft.toolstack.errors import UserError
from xenograft.toolstack.sched import arinc653
from xenograft.toolstack.sched.arinc653 import NOBODY, Partition
from xenograft.toolstack.sched.description import schedule_in
from xenograft.toolstack.service import messages
from xenograft.toolstack.service.handlers.scheduling import in_pool
from xenograft.toolstack.service.messages import Failure
from xenograft.toolstack.service.table import on_machine

if TYPE_CHECKING:
    from xenograft.hypervisor.sched.arinc653 import Schedule
    from xenograft.toolstack.sched.control import PoolInfo
    from xenograft.toolstack.service.host import Host

_SCHED = "arinc653"


@on_machine(messages.GetTables)
def get_tables(host: Host, request: messages.GetTables) -> list[messages.TableRow]:
    control = host.machine.scheduling
    pools = control.pools() if request.pool is None else [_named(host, request.pool)]
    return [_row(host, pool, control.get_arinc653(pool)) for pool in pools if pool.sched == _SCHED]


@on_machine(messages.SetTable)
def set_table(host: Host, request: messages.SetTable) -> messages.TableRow:
    table = schedule_in(request.text, request.source, request.pool)
    pool = _target(host, request.pool or table.pool)
    partitions = _partitions(host, pool)
    try:
        schedule = arinc653.resolve(table, partitions)
    except UserError as error:
        raise Failure(f"{request.source}: {error}") from None
    problems = arinc653.uncovered(schedule, partitions)
    if problems and not request.force:
        raise Failure(f"{problems[0]}; -f loads it all the same")
    if not request.dry:
        host.machine.scheduling.set_arinc653(pool, schedule)
    return _row(host, pool, schedule)


def _named(host: Host, name: str) -> PoolInfo:
    pool = host.machine.scheduling.pool(name)
    if pool.sched != _SCHED:
        raise Failure(f"cpupool '{pool.name}' has the scheduler {pool.sched}, not {_SCHED}")
    return pool


def _target(host: Host, name: str | None) -> PoolInfo:
    if name is not None:
        return _named(host, name)
    pools = [pool for pool in host.machine.scheduling.pools() if pool.sched == _SCHED]
    if len(pools) != 1:
        few = "there is none" if not pools else f"there are {len(pools)}: name one with -p"
        raise Failure(f"no cpupool is meant: with the scheduler {_SCHED} {few}")
    return pools[0]


def _partitions(host: Host, pool: PoolInfo) -> list[Partition]:
    return [
        Partition(domain.name, domain.sched.uuid, len(domain.vcpus))
        for domain in in_pool(host, pool)
    ]


def _row(host: Host, pool: PoolInfo, schedule: Schedule) -> messages.TableRow:
    names = {domain.sched.uuid: domain.name for domain in host.domains(()) if not domain.is_host}
    windows: list[messages.WindowRow] = []
    start = 0
    for frame in schedule.frames:
        nobody = frame.uuid == NOBODY
        handle = None if nobody else str(uuid.UUID(bytes=frame.uuid))
        name = None if nobody else names.get(frame.uuid)
        windows.append(messages.WindowRow(name, handle, frame.vcpu, start, frame.runtime_ns))
        start += frame.runtime_ns
    return messages.TableRow(pool.name, schedule.major_frame_ns, windows)
