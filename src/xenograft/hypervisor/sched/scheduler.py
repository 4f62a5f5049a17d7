# SPDX-License-Identifier: GPL-2.0-or-later
"""The interface of a scheduler: one module each, one instance per CPU pool.

Facts: Xen's struct scheduler (xen/common/sched/private.h) and what core.c promises it.  A
scheduler gets the time with every call, and holds no clock; it asks its `Host` for decisions to
be made (`tickle`) and for timers.  It never touches guests.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Protocol

import msgspec

from xenograft.abi.errno import Errno, XenError

if TYPE_CHECKING:
    from xenograft.hypervisor.sched.cpumask import CpuMask
    from xenograft.hypervisor.sched.topology import Topology
    from xenograft.hypervisor.sched.unit import SchedDomain, SchedUnit
    from xenograft.hypervisor.timers import TimerQueue

Decision = tuple["SchedUnit | None", int]
"""Whom a CPU runs (None: it idles), and for how long at most (ns)."""


class Params(msgspec.Struct, frozen=True):
    """Parameters of a domain or a vCPU: of each scheduler those that it knows."""

    weight: int | None = None
    cap: int | None = None
    period_us: int | None = None
    budget_us: int | None = None
    extratime: bool | None = None


class GlobalParams(msgspec.Struct, frozen=True):
    """Parameters of a scheduler itself."""

    ratelimit_us: int | None = None
    tslice_ms: int | None = None
    migration_delay_us: int | None = None


class Host(Protocol):
    """What a scheduler needs of the machine."""

    topology: Topology
    timers: TimerQueue
    current: list[SchedUnit | None]
    """Whom each CPU runs."""
    idle: CpuMask
    """CPUs that run nothing."""
    resched: CpuMask
    """CPUs that are to decide soon."""
    credit2_runqueue: str
    """Which CPUs share a run queue of credit2: one of CREDIT2_RUNQUEUES."""

    def tickle(self, cpu: int) -> None:
        """Have a decision made for `cpu` soon (Xen's cpu_raise_softirq(SCHEDULE_SOFTIRQ))."""
        ...

    def decide_by(self, cpu: int, time: int) -> None:
        """Have a decision made for `cpu` at `time`, unless its slice ends before."""
        ...

    def now(self) -> int:
        """For timers' callbacks: machine time in ns."""
        ...


class Scheduler(ABC):
    """Base of all schedulers."""

    name: ClassVar[str]
    opt_name: ClassVar[str]
    sched_id: ClassVar[int]
    """XEN_SCHEDULER_*."""
    adjustable: ClassVar[bool] = True
    """Whether domains have parameters; where not, setting and getting them does nothing."""
    one_cpu: ClassVar[bool] = False
    """Whether a pool of this scheduler has one CPU and no more."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.cpus: CpuMask = 0
        """The CPUs of its pool."""

    # -- CPUs ------------------------------------------------------------------------------------
    def add_cpu(self, cpu: int) -> None:
        """A CPU, idle, joins the pool."""
        self.cpus |= 1 << cpu

    def remove_cpu(self, cpu: int) -> None:
        """A CPU, idle, leaves the pool; no unit is placed on it any more."""
        self.cpus &= ~(1 << cpu)

    def close(self) -> None:  # noqa: B027
        """The pool goes: stop all timers."""

    # -- domains and units -----------------------------------------------------------------------
    def add_domain(self, domain: SchedDomain) -> None:  # noqa: B027
        """A domain joins the pool; its units are inserted later."""

    def remove_domain(self, domain: SchedDomain) -> None:  # noqa: B027
        """A domain without units leaves the pool."""

    @abstractmethod
    def insert(self, unit: SchedUnit, now: int) -> None:
        """A unit joins; it is not runnable yet, and has a CPU of the pool in `unit.cpu`."""

    @abstractmethod
    def remove(self, unit: SchedUnit, now: int) -> None:
        """A unit that is not runnable and doesn't run leaves."""

    @abstractmethod
    def pick(self, unit: SchedUnit, now: int) -> int:
        """The best CPU of the pool for a unit, by its affinity (Xen's pick_resource)."""

    def migrate(self, unit: SchedUnit, cpu: int, now: int) -> None:
        """A unit that is on no queue is now placed on `cpu`."""
        unit.cpu = cpu

    def affinity_changed(self, unit: SchedUnit, now: int) -> None:  # noqa: B027
        """`unit.hard` or `unit.soft` has changed."""

    # -- what units do ---------------------------------------------------------------------------
    @abstractmethod
    def wake(self, unit: SchedUnit, now: int) -> None:
        """The unit has become runnable."""

    @abstractmethod
    def sleep(self, unit: SchedUnit, now: int) -> None:
        """The unit is no longer runnable; if it runs, its CPU is to decide anew."""

    def yield_(self, unit: SchedUnit, now: int) -> None:  # noqa: B027
        """The running unit lets others go first; a decision for its CPU follows."""

    # -- decisions -------------------------------------------------------------------------------
    @abstractmethod
    def schedule(self, cpu: int, now: int, prev: SchedUnit | None) -> Decision:
        """Whom `cpu` runs from now on; `prev` is whom it has run."""

    def account(self, unit: SchedUnit, now: int) -> None:  # noqa: B027
        """Charge a unit, which runs, for its time until now; it stops without a decision."""

    def switched_out(self, unit: SchedUnit, now: int) -> None:  # noqa: B027
        """`unit` is off its CPU, which runs another now (Xen's context_saved)."""

    def waits(self, cpu: int) -> bool:
        """Whether anybody waits who might run on `cpu` if its unit let him."""
        return False

    # -- parameters ------------------------------------------------------------------------------
    def get_params(self, domain: SchedDomain) -> Params:
        """XEN_DOMCTL_SCHEDOP_getinfo. Schedulers without parameters answer empty ones."""
        return Params()

    def set_params(self, domain: SchedDomain, params: Params, now: int) -> None:  # noqa: B027
        """XEN_DOMCTL_SCHEDOP_putinfo. Raises XenError(EINVAL)."""

    def get_unit_params(self, unit: SchedUnit) -> Params:
        """XEN_DOMCTL_SCHEDOP_getvcpuinfo. Raises XenError(EINVAL) where vCPUs have none."""
        raise XenError(Errno.EINVAL)

    def set_unit_params(self, unit: SchedUnit, params: Params, now: int) -> None:
        """XEN_DOMCTL_SCHEDOP_putvcpuinfo. Raises XenError(EINVAL)."""
        raise XenError(Errno.EINVAL)

    def get_global(self) -> GlobalParams:
        """XEN_SYSCTL_SCHEDOP_getinfo."""
        return GlobalParams()

    def set_global(self, params: GlobalParams) -> None:  # noqa: B027
        """XEN_SYSCTL_SCHEDOP_putinfo. Raises XenError(EINVAL)."""


def check_ratelimit(ratelimit_us: int) -> None:
    """0 switches it off; else it is in Xen's limits. Raises XenError(EINVAL)."""
    from xenograft.abi.sysctl import XEN_SYSCTL_SCHED_RATELIMIT_MAX, XEN_SYSCTL_SCHED_RATELIMIT_MIN

    least, most = XEN_SYSCTL_SCHED_RATELIMIT_MIN, XEN_SYSCTL_SCHED_RATELIMIT_MAX
    if ratelimit_us and not least <= ratelimit_us <= most:
        raise XenError(Errno.EINVAL)
