# SPDX-License-Identifier: GPL-2.0-or-later
"""All schedulers, by Xen's number and by the name that users give."""

from __future__ import annotations

from xenograft.abi.errno import Errno, XenError
from xenograft.hypervisor.sched.arinc653 import Arinc653
from xenograft.hypervisor.sched.credit import Credit
from xenograft.hypervisor.sched.credit2 import Credit2
from xenograft.hypervisor.sched.null import Null
from xenograft.hypervisor.sched.rtds import Rtds
from xenograft.hypervisor.sched.scheduler import Host, Scheduler

SCHEDULERS: tuple[type[Scheduler], ...] = (Credit, Credit2, Arinc653, Rtds, Null)

BY_ID: dict[int, type[Scheduler]] = {one.sched_id: one for one in SCHEDULERS}
BY_NAME: dict[str, type[Scheduler]] = {one.opt_name: one for one in SCHEDULERS}


def make_scheduler(sched_id: int, host: Host) -> Scheduler:
    """An instance for a pool. Raises XenError(ENOENT) for an unknown XEN_SCHEDULER_*."""
    kind = BY_ID.get(sched_id)
    if kind is None:
        raise XenError(Errno.ENOENT)
    return kind(host)
