# SPDX-License-Identifier: GPL-2.0-or-later
"""The pools that a machine has from its start, as a file describes them.

The file is one of `xg sched`: [machine] and [[pool]] are used, its domains aren't.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.hypervisor.sched.cpumask import cpus_in
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.sched.arinc653 import resolve

if TYPE_CHECKING:
    from typing import Any

    from xenograft.toolstack.machine import Machine
    from xenograft.toolstack.sched.control import SchedControl
    from xenograft.toolstack.sched.description import System


def make_pools(control: SchedControl, system: System) -> None:
    """On a machine of the same CPUs that has but Pool-0, with the first pool's scheduler.

    An ARINC 653 table is loaded if its windows name UUIDs; one with names waits for
    `xg sched-arinc653`, since no domain is there yet.  Raises UserError.
    """
    system.check_pools()
    cpus = system.pool_cpus
    first = system.pool[0]
    for cpu in control.pool("0").cpus:
        if not cpus[first.name] >> cpu & 1:
            control.remove_cpu("0", cpu)
    control.rename_pool("0", first.name)
    for pool in system.pool:
        if pool is not first:
            control.create_pool(pool.name, pool.sched, cpus_in(cpus[pool.name]))
        info = control.pool(pool.name)
        if pool.ratelimit_us is not None or pool.tslice_ms is not None:
            control.set_global(info, system.global_params(pool))
        if pool.window and all(one.idle or one.uuid is not None for one in pool.window):
            control.set_arinc653(info, resolve(system.table(pool), ()))


def machine_of(system: System, **more: Any) -> Machine:
    """A machine with the CPUs and pools of a description; `more` as for Machine.

    Raises UserError.
    """
    from xenograft.toolstack.machine import Machine

    machine = Machine(
        cpus=system.topology,
        sched=system.pool[0].sched,
        credit2_runqueue=system.machine.credit2_runqueue,
        **more,
    )
    try:
        make_pools(machine.scheduling, system)
    except UserError:
        machine.close()
        raise
    return machine
