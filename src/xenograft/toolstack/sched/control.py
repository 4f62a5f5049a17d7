# SPDX-License-Identifier: GPL-2.0-or-later
"""Scheduling and CPU pools by hypercall, as the embedded toolstack (domain 0) does it.

What libxl's libxl_sched.c and libxl_cpupool.c do: the values that users give are checked with
the limits of public headers and Xen's own answer is turned into a line.  Nothing here reaches
into the hypervisor: domctl and sysctl go through the one table of hypercalls.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from xenograft.abi import domctl, sysctl
from xenograft.abi.domctl_structs import xen_domctl_schedparam_vcpu
from xenograft.abi.errno import Errno, XenError
from xenograft.abi.sysctl_structs import (
    _minor_frame,
    xen_sysctl_arinc653_schedule,
)
from xenograft.hypervisor.call import HostAccess
from xenograft.hypervisor.sched.arinc653 import MinorFrame, Schedule
from xenograft.hypervisor.sched.constants import (
    MAX_WEIGHT,
    MICROSECOND,
    MIN_WEIGHT,
    RTDS_MAX_PERIOD,
    RTDS_MIN_BUDGET,
    RTDS_MIN_PERIOD,
)
from xenograft.hypervisor.sched.cpumask import CpuMask, cpus_in
from xenograft.hypervisor.sched.registry import BY_ID, BY_NAME
from xenograft.hypervisor.sched.scheduler import GlobalParams, Params
from xenograft.toolstack.errors import UserError, unknown
from xenograft.toolstack.sched.calls import HostCalls

if TYPE_CHECKING:
    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.hypervisor import Hypervisor

_ANY = sysctl.XEN_SYSCTL_CPUPOOL_PAR_ANY
_NO_CAP = 0xFFFF

_REASONS = {
    Errno.EBUSY: "it is in use",
    Errno.EADDRNOTAVAIL: "it isn't in that pool",
    Errno.ENODEV: "it isn't free",
    Errno.ENOENT: "there is no such pool, or it has no CPU",
    Errno.ESRCH: "there is no such domain",
    Errno.EEXIST: "it is there already",
    Errno.EPERM: "it is not permitted",
    Errno.EOPNOTSUPP: "a pool of this scheduler has one CPU",
    Errno.EINVAL: "the value is not allowed",
}


def reason(error: XenError) -> str:
    """What Xen's error means here, in words."""
    return _REASONS.get(error.errno, error.errno.name)


class PoolInfo(msgspec.Struct, frozen=True):
    """A row of `xl cpupool-list`."""

    pool_id: int
    name: str
    sched: str
    domains: int
    cpus: tuple[int, ...]


class VcpuInfo(msgspec.Struct, frozen=True):
    """A row of `xl vcpu-list`; masks are cut to the CPUs that there are."""

    domid: int
    name: str
    vcpu: int
    cpu: int
    online: bool
    blocked: bool
    running: bool
    time_ns: int
    hard: CpuMask
    soft: CpuMask


class SchedControl(HostCalls):
    """The toolstack's hand on schedulers and pools.

    `names`: the pools' names by number, which live in the toolstack (/local/pool/N/name).
    """

    def __init__(self, hypervisor: Hypervisor, control: Domain) -> None:
        super().__init__(hypervisor, control)
        self.names: dict[int, str] = {0: "Pool-0"}

    # -- pools -----------------------------------------------------------------------------------
    def _pool_op(self, op: int, memory: HostAccess | None = None, **more: int) -> sysctl.xen_sysctl:
        memory = memory or HostAccess()
        call = sysctl.xen_sysctl(cmd=sysctl.XEN_SYSCTL_cpupool_op)
        call.u.cpupool_op.op = op
        for name, value in more.items():
            setattr(call.u.cpupool_op, name, value)
        call.u.cpupool_op.cpumap = self._bitmap(memory, 0)
        return self._sysctl(call, memory)

    def pools(self) -> list[PoolInfo]:
        """All pools, by number."""
        found: list[PoolInfo] = []
        number = 0
        while True:
            memory = HostAccess()
            try:
                op = self._pool_op(
                    sysctl.XEN_SYSCTL_CPUPOOL_OP_INFO, memory, cpupool_id=number
                ).u.cpupool_op
            except XenError as error:
                if error.errno is not Errno.ENOENT:
                    raise
                return found
            found.append(
                PoolInfo(
                    op.cpupool_id,
                    self.names.get(op.cpupool_id, f"Pool-{op.cpupool_id}"),
                    BY_ID[op.sched_id].opt_name,
                    op.n_dom,
                    tuple(cpus_in(self._mask(memory, op.cpumap))),
                )
            )
            number = op.cpupool_id + 1

    def pool(self, name: str) -> PoolInfo:
        """By name, or by number as digits. Raises UserError."""
        pools = self.pools()
        for pool in pools:
            if pool.name == name or (name.isdecimal() and pool.pool_id == int(name)):
                return pool
        raise UserError(f"unknown cpupool '{name}'")

    def pool_of(self, domid: int) -> PoolInfo:
        """The pool that a domain is in (XEN_DOMCTL_getdomaininfo's cpupool). Raises XenError."""
        domain = self._hypervisor.domains.get(domid)
        if domain is None:
            raise XenError(Errno.ESRCH)
        number = domain.sched.pool_id
        return next(pool for pool in self.pools() if pool.pool_id == number)

    def free_cpus(self) -> tuple[int, ...]:
        """CPUs in no pool."""
        memory = HostAccess()
        op = self._pool_op(sysctl.XEN_SYSCTL_CPUPOOL_OP_FREEINFO, memory).u.cpupool_op
        return tuple(cpus_in(self._mask(memory, op.cpumap)))

    def create_pool(self, name: str, sched: str | None, cpus: Iterable[int]) -> PoolInfo:
        """A pool of free CPUs; undone if one can't be had. Raises UserError."""
        wanted = sorted(set(cpus))
        if any(pool.name == name for pool in self.pools()):
            raise UserError(f"cpupool name '{name}' exists already")
        if sched is not None and sched not in BY_NAME:
            raise UserError(unknown("scheduler", sched, BY_NAME))
        free = self.free_cpus()
        for cpu in wanted:
            if cpu not in free:
                raise UserError(f"cpu {cpu} illegal or not free")
        if not wanted:
            raise UserError("no free cpu found")
        sched_id = self.default_sched() if sched is None else BY_NAME[sched].sched_id
        op = self._pool_op(
            sysctl.XEN_SYSCTL_CPUPOOL_OP_CREATE, cpupool_id=_ANY, sched_id=sched_id
        ).u.cpupool_op
        number = int(op.cpupool_id)
        self.names[number] = name
        try:
            for cpu in wanted:
                self.add_cpu(name, cpu)
        except UserError:
            self.destroy_pool(name)
            raise
        return self.pool(name)

    def destroy_pool(self, name: str) -> None:
        """Its CPUs are free afterwards (libxl_cpupool_destroy). Raises UserError."""
        pool = self.pool(name)
        if pool.domains or pool.pool_id == 0:
            raise UserError(f"Can't destroy cpupool '{pool.name}'")
        for cpu in pool.cpus:
            self._pool_op(sysctl.XEN_SYSCTL_CPUPOOL_OP_RMCPU, cpupool_id=pool.pool_id, cpu=cpu)
        self._pool_op(sysctl.XEN_SYSCTL_CPUPOOL_OP_DESTROY, cpupool_id=pool.pool_id)
        self.names.pop(pool.pool_id, None)

    def rename_pool(self, name: str, new: str) -> None:
        """Raises UserError."""
        pool = self.pool(name)
        if any(other.name == new and other.pool_id != pool.pool_id for other in self.pools()):
            raise UserError(f"Can't rename cpupool '{name}': there is a pool called '{new}'")
        self.names[pool.pool_id] = new

    def add_cpu(self, name: str, cpu: int) -> None:
        """Raises UserError."""
        self._move_cpu(sysctl.XEN_SYSCTL_CPUPOOL_OP_ADDCPU, name, cpu, "adding", "to")

    def remove_cpu(self, name: str, cpu: int) -> None:
        """Raises UserError."""
        self._move_cpu(sysctl.XEN_SYSCTL_CPUPOOL_OP_RMCPU, name, cpu, "removing", "from")

    def _move_cpu(self, op: int, name: str, cpu: int, doing: str, where: str) -> None:
        pool = self.pool(name)
        try:
            self._pool_op(op, cpupool_id=pool.pool_id, cpu=cpu)
        except XenError as error:
            why = reason(error)
            if error.errno is Errno.EINVAL:
                why = (
                    "the boot CPU stays in the first pool"
                    if cpu == 0
                    else f"the machine has CPUs 0 to {self.cpus - 1}"
                )
            elif error.errno is Errno.EBUSY:
                why = "it is the pool's last CPU, and the pool has domains"
            raise UserError(
                f"Error {doing} cpu {cpu} {where} cpupool '{pool.name}': {why}"
            ) from None

    def move_domain(self, domid: int, name: str) -> None:
        """Raises UserError."""
        pool = self.pool(name)
        try:
            self._pool_op(
                sysctl.XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN, cpupool_id=pool.pool_id, domid=domid
            )
        except XenError as error:
            raise UserError(
                f"Error moving domain {domid} to cpupool '{pool.name}': {reason(error)}"
            ) from None

    def numa_split(self) -> list[PoolInfo]:
        """A pool for each NUMA node, Pool-0 keeping the first (xl cpupool-numa-split).

        Raises UserError if there are other pools already.
        """
        pools = self.pools()
        if len(pools) > 1:
            raise UserError("splitting not possible, already cpupools in use")
        nodes = {node: list(cpus_in(mask)) for node, mask in self.node_cpus().items()}
        home = min(nodes, key=lambda node: nodes[node])
        for node, cpus in sorted(nodes.items()):
            if node == home:
                self.names[0] = f"Pool-node{node}"
                continue
            for cpu in cpus:
                self._pool_op(sysctl.XEN_SYSCTL_CPUPOOL_OP_RMCPU, cpupool_id=0, cpu=cpu)
            self.create_pool(f"Pool-node{node}", pools[0].sched, cpus)
        return self.pools()

    # -- parameters of schedulers ----------------------------------------------------------------
    def default_sched(self) -> int:
        """XEN_SCHEDULER_* that pools have unless told."""
        op = sysctl.xen_sysctl(cmd=sysctl.XEN_SYSCTL_sched_id)
        return int(self._sysctl(op, HostAccess()).u.sched_id.sched_id)

    def _global_op(self, pool: PoolInfo, cmd: int) -> sysctl.xen_sysctl:
        op = sysctl.xen_sysctl(cmd=sysctl.XEN_SYSCTL_scheduler_op)
        ask = op.u.scheduler_op
        ask.cpupool_id, ask.sched_id, ask.cmd = pool.pool_id, BY_NAME[pool.sched].sched_id, cmd
        return op

    def get_global(self, pool: PoolInfo) -> GlobalParams:
        """Parameters of a pool's scheduler."""
        op = self._sysctl(
            self._global_op(pool, sysctl.XEN_SYSCTL_SCHEDOP_getinfo), HostAccess()
        ).u.scheduler_op.u
        if pool.sched == "credit":
            credit = op.sched_credit
            return GlobalParams(credit.ratelimit_us, credit.tslice_ms, credit.vcpu_migr_delay_us)
        if pool.sched == "credit2":
            return GlobalParams(ratelimit_us=op.sched_credit2.ratelimit_us)
        return GlobalParams()

    def set_global(self, pool: PoolInfo, params: GlobalParams) -> None:
        """Those that aren't given stay. Raises UserError."""
        now = self.get_global(pool)
        op = self._global_op(pool, sysctl.XEN_SYSCTL_SCHEDOP_putinfo)
        ratelimit = now.ratelimit_us if params.ratelimit_us is None else params.ratelimit_us
        if pool.sched == "credit":
            credit = op.u.scheduler_op.u.sched_credit
            tslice = now.tslice_ms if params.tslice_ms is None else params.tslice_ms
            delay = params.migration_delay_us
            credit.tslice_ms, credit.ratelimit_us = tslice or 0, ratelimit or 0
            credit.vcpu_migr_delay_us = (now.migration_delay_us if delay is None else delay) or 0
        elif pool.sched == "credit2":
            op.u.scheduler_op.u.sched_credit2.ratelimit_us = ratelimit or 0
        try:
            self._sysctl(op, HostAccess())
        except XenError:
            least = sysctl.XEN_SYSCTL_SCHED_RATELIMIT_MIN
            most = sysctl.XEN_SYSCTL_SCHED_RATELIMIT_MAX
            slices = "" if pool.sched != "credit" else " and not over tslice, tslice 1 to 1000 ms"
            raise UserError(
                f"Cpupool {pool.name}: ratelimit is 0 or {least} to {most} us{slices}"
            ) from None

    def get_arinc653(self, pool: PoolInfo) -> Schedule:
        """The table of an ARINC 653 pool."""
        memory = HostAccess()
        size = xen_sysctl_arinc653_schedule.sizeof()
        where = memory.put(bytes(size))
        op = self._global_op(pool, sysctl.XEN_SYSCTL_SCHEDOP_getinfo)
        op.u.scheduler_op.u.sched_arinc653.schedule = where
        self._sysctl(op, memory)
        got = xen_sysctl_arinc653_schedule.unpack(memory.read(where, size))
        frames = got.sched_entries[: got.num_sched_entries]
        return Schedule(
            got.major_frame,
            tuple(MinorFrame(bytes(one.dom_handle), one.vcpu_id, one.runtime) for one in frames),
        )

    def set_arinc653(self, pool: PoolInfo, schedule: Schedule) -> None:
        """Load a table. Raises UserError."""
        memory = HostAccess()
        if pool.sched != "arinc653":
            raise UserError(f"cpupool '{pool.name}' has the scheduler {pool.sched}, not arinc653")
        entries = [_minor_frame() for _ in range(sysctl.ARINC653_MAX_DOMAINS_PER_SCHEDULE)]
        if len(schedule.frames) > len(entries):
            raise UserError(f"{len(schedule.frames)} minor frames; there are at most 64")
        for entry, frame in zip(entries, schedule.frames, strict=False):
            entry.dom_handle, entry.vcpu_id = frame.uuid, frame.vcpu
            entry.runtime = frame.runtime_ns
        table = xen_sysctl_arinc653_schedule(
            major_frame=schedule.major_frame_ns,
            num_sched_entries=len(schedule.frames),
            sched_entries=entries,
        )
        op = self._global_op(pool, sysctl.XEN_SYSCTL_SCHEDOP_putinfo)
        op.u.scheduler_op.u.sched_arinc653.schedule = memory.put(table.pack())
        try:
            self._sysctl(op, memory)
        except XenError:
            raise UserError(
                "the table is refused: windows are longer than 0 and fit into the major frame"
            ) from None

    # -- parameters of domains -------------------------------------------------------------------
    def _sched_op(self, domid: int, sched: str, cmd: int) -> domctl.xen_domctl:
        op = domctl.xen_domctl(cmd=domctl.XEN_DOMCTL_scheduler_op, domain=domid)
        op.u.scheduler_op.sched_id = BY_NAME[sched].sched_id
        op.u.scheduler_op.cmd = cmd
        return op

    def get_params(self, domid: int, sched: str) -> Params:
        """Of credit, credit2 and rtds. Raises XenError(EINVAL) if it has another scheduler."""
        op = self._domctl(
            self._sched_op(domid, sched, domctl.XEN_DOMCTL_SCHEDOP_getinfo), HostAccess()
        ).u.scheduler_op.u
        if sched == "rtds":
            return Params(period_us=op.rtds.period, budget_us=op.rtds.budget)
        return Params(weight=op.credit.weight, cap=op.credit.cap)

    def set_params(self, domid: int, sched: str, params: Params, vcpus: int = 1) -> None:
        """Those that aren't given stay. Raises UserError outside libxl's limits, XenError."""
        op = self._sched_op(domid, sched, domctl.XEN_DOMCTL_SCHEDOP_putinfo)
        if sched == "rtds":
            _check_rtds(domid, params)
            rtds = op.u.scheduler_op.u.rtds
            rtds.period, rtds.budget = params.period_us or 0, params.budget_us or 0
        else:
            if params.weight is not None and not MIN_WEIGHT <= params.weight <= MAX_WEIGHT:
                raise UserError(
                    f"Domain {domid}:Cpu weight out of range, valid values are within range"
                    f" from {MIN_WEIGHT} to {MAX_WEIGHT}"
                )
            if params.cap is not None and not 0 <= params.cap <= vcpus * 100:
                raise UserError(
                    f"Domain {domid}:Cpu cap out of range, valid range is from 0 to {vcpus * 100}"
                    f" for specified number of vcpus"
                )
            credit = op.u.scheduler_op.u.credit
            credit.weight = params.weight or 0
            credit.cap = _NO_CAP if params.cap is None else params.cap
        self._domctl(op, HostAccess())

    def _vcpu_op(
        self, domid: int, cmd: int, records: list[xen_domctl_schedparam_vcpu]
    ) -> list[xen_domctl_schedparam_vcpu]:
        memory = HostAccess()
        size = xen_domctl_schedparam_vcpu.sizeof()
        array = memory.put(b"".join(record.pack() for record in records))
        op = self._sched_op(domid, "rtds", cmd)
        op.u.scheduler_op.u.v.vcpus, op.u.scheduler_op.u.v.nr_vcpus = array, len(records)
        self._domctl(op, memory)
        data = memory.read(array, size * len(records))
        return [
            xen_domctl_schedparam_vcpu.unpack(data[at : at + size])
            for at in range(0, len(data), size)
        ]

    def get_vcpu_params(self, domid: int, vcpus: Iterable[int]) -> list[Params]:
        """Reservations of vCPUs of an RTDS domain. Raises XenError."""
        records = [xen_domctl_schedparam_vcpu(vcpuid=vcpu) for vcpu in vcpus]
        extra = domctl.XEN_DOMCTL_SCHEDRT_extra
        return [
            Params(
                period_us=record.u.rtds.period,
                budget_us=record.u.rtds.budget,
                extratime=bool(record.u.rtds.flags & extra),
            )
            for record in self._vcpu_op(domid, domctl.XEN_DOMCTL_SCHEDOP_getvcpuinfo, records)
        ]

    def set_vcpu_params(self, domid: int, params: dict[int, Params]) -> None:
        """Reservations of vCPUs. Raises UserError for values that Xen refuses, XenError."""
        records = []
        for vcpu, one in params.items():
            _check_rtds(domid, one)
            record = xen_domctl_schedparam_vcpu(vcpuid=vcpu)
            record.u.rtds.period, record.u.rtds.budget = one.period_us or 0, one.budget_us or 0
            record.u.rtds.flags = domctl.XEN_DOMCTL_SCHEDRT_extra if one.extratime else 0
            records.append(record)
        self._vcpu_op(domid, domctl.XEN_DOMCTL_SCHEDOP_putvcpuinfo, records)

    # -- vCPUs -----------------------------------------------------------------------------------
    def set_affinity(
        self,
        domid: int,
        vcpu: int,
        hard: CpuMask | None = None,
        soft: CpuMask | None = None,
        *,
        force: bool = False,
    ) -> None:
        """Pin a vCPU (xl vcpu-pin). Raises UserError."""
        memory = HostAccess()
        everything = self.all_cpus
        op = domctl.xen_domctl(cmd=domctl.XEN_DOMCTL_setvcpuaffinity, domain=domid)
        ask = op.u.vcpuaffinity
        ask.vcpu = vcpu
        for what, mask, flag in (
            ("hard", hard, domctl.XEN_VCPUAFFINITY_HARD),
            ("soft", soft, domctl.XEN_VCPUAFFINITY_SOFT),
        ):
            if mask is None:
                continue
            if not mask & everything:
                raise UserError(f"vcpu {what} affinity map is empty")
            ask.flags |= flag
            setattr(ask, f"cpumap_{what}", self._bitmap(memory, mask))
        if force:
            ask.flags |= domctl.XEN_VCPUAFFINITY_FORCE
        try:
            self._domctl(op, memory)
        except XenError as error:
            why = {
                Errno.EBUSY: "the kernel has pinned it itself (--force undoes that)",
                Errno.EINVAL: "there is no such vCPU, or its pool has none of these CPUs",
            }.get(error.errno, reason(error))
            raise UserError(f"Could not set affinity for vcpu `{vcpu}': {why}") from None

    def vcpu_info(self, domid: int, vcpu: int, name: str = "") -> VcpuInfo:
        """What one vCPU does (XEN_DOMCTL_getvcpuinfo, getvcpuaffinity). Raises XenError."""
        op = domctl.xen_domctl(cmd=domctl.XEN_DOMCTL_getvcpuinfo, domain=domid)
        op.u.getvcpuinfo.vcpu = vcpu
        info = self._domctl(op, HostAccess()).u.getvcpuinfo
        memory = HostAccess()
        op = domctl.xen_domctl(cmd=domctl.XEN_DOMCTL_getvcpuaffinity, domain=domid)
        ask = op.u.vcpuaffinity
        ask.vcpu = vcpu
        ask.flags = domctl.XEN_VCPUAFFINITY_HARD | domctl.XEN_VCPUAFFINITY_SOFT
        hard, soft = self._bitmap(memory, 0), self._bitmap(memory, 0)
        ask.cpumap_hard, ask.cpumap_soft = hard, soft
        self._domctl(op, memory)
        return VcpuInfo(
            domid,
            name,
            vcpu,
            info.cpu,
            bool(info.online),
            bool(info.blocked),
            bool(info.running),
            info.cpu_time,
            self._mask(memory, hard),
            self._mask(memory, soft),
        )


def _check_rtds(domid: int, params: Params) -> None:
    """libxl's and Xen's limits of a reservation. Raises UserError."""
    period, budget = params.period_us, params.budget_us
    least, most = RTDS_MIN_PERIOD // MICROSECOND, RTDS_MAX_PERIOD // MICROSECOND
    if period is None or not least <= period <= most:
        raise UserError(
            f"Domain {domid}:VCPU period is out of range: {period} us, at least {least}"
        )
    least = RTDS_MIN_BUDGET // MICROSECOND
    if budget is None or budget < least:
        raise UserError(
            f"Domain {domid}:VCPU budget is out of range: {budget} us, at least {least}"
        )
    if budget > period:
        raise UserError(
            f"Domain {domid}:VCPU budget must be smaller than or equal to VCPU period,"
            f" but {budget} > {period}"
        )
