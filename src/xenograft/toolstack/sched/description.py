# SPDX-License-Identifier: GPL-2.0-or-later
"""A machine's scheduling in a file (TOML): CPUs, pools, domains with reservations and workloads.

`xg sched` simulates, analyzes, draws and checks it; docs/scheduling.md has two such files.
"""

from __future__ import annotations

import tomllib
from functools import cached_property
from pathlib import Path
from typing import Literal

import msgspec

from xenograft.hypervisor.sched.constants import (
    MAX_WEIGHT,
    MIN_WEIGHT,
    RTDS_MAX_PERIOD,
    RTDS_MIN_BUDGET,
    RTDS_MIN_PERIOD,
)
from xenograft.hypervisor.sched.cpumask import CpuMask, cpus_in
from xenograft.hypervisor.sched.registry import BY_NAME
from xenograft.hypervisor.sched.scheduler import GlobalParams, Params
from xenograft.hypervisor.sched.topology import Topology
from xenograft.toolstack.errors import UserError, unknown
from xenograft.toolstack.sched import arinc653
from xenograft.toolstack.sched.cpulist import parse_cpu_list
from xenograft.toolstack.sched.durations import parse_ns
from xenograft.toolstack.sched.loads import Blocking, Busy, Load, Periodic


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`cpus`, or a topology; how long to simulate."""

    cpus: int | None = None
    nodes: int = 1
    sockets: int = 1
    cores: int = 1
    threads: int = 1
    credit2_runqueue: Literal["cpu", "core", "socket", "node", "all"] = "socket"
    """Which CPUs share a run queue of credit2."""
    duration: str = "1s"

    def topology(self) -> Topology:
        """Raises UserError."""
        try:
            if self.cpus is not None:
                return Topology.of(cores=self.cpus)
            return Topology.of(
                nodes=self.nodes, sockets=self.sockets, cores=self.cores, threads=self.threads
            )
        except ValueError as error:
            raise UserError(f"machine: {error}") from None


class Pool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A CPU pool; the first one is Pool-0."""

    name: str
    sched: str = "credit2"
    cpus: str | None = None
    """As in xl.cfg ("0-3,^1"); None: all that other pools don't have."""
    ratelimit_us: int | None = None
    tslice_ms: int | None = None
    major_frame: str | None = None
    window: tuple[arinc653.Window, ...] = ()


class Work(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a vCPU does in a simulation."""

    kind: Literal["busy", "blocking", "periodic"] = "busy"
    compute: str | None = None
    wait: str | None = None
    period: str | None = None
    deadline: str | None = None
    offset: str = "0ms"
    seed: int | None = None

    def make(self, what: str) -> Load:
        """Raises UserError."""

        def time(name: str) -> int:
            text = getattr(self, name)
            if text is None:
                raise UserError(f"{what}: a {self.kind} load needs {name}")
            value = parse_ns(text, f"{what}: {name}")
            if value <= 0:
                raise UserError(f"{what}: {name} {text}; it has to be longer than 0")
            return value

        offset = parse_ns(self.offset, f"{what}: offset")
        if offset < 0:
            raise UserError(f"{what}: offset {self.offset}; it can't be negative")
        if self.kind == "busy":
            return Busy(offset)
        if self.kind == "blocking":
            return Blocking(time("compute"), time("wait"), offset, self.seed)
        deadline = None if self.deadline is None else time("deadline")
        return Periodic(time("period"), time("compute"), offset, deadline)


class Vcpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A vCPU: its reservation (RTDS), its affinity, its work."""

    period: str | None = None
    budget: str | None = None
    extratime: bool = False
    cpus: str | None = None
    cpus_soft: str | None = None
    load: Work = Work()


class Domain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A domain; without `vcpu` it has one."""

    name: str
    pool: str | None = None
    weight: int | None = None
    cap: int | None = None
    vcpu: tuple[Vcpu, ...] = (Vcpu(),)


class System(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """The whole file. What follows from it is worked out once: there may be thousands of vCPUs."""

    machine: Machine = Machine()
    pool: tuple[Pool, ...] = (Pool("Pool-0"),)
    domain: tuple[Domain, ...] = ()

    # -- what follows from it --------------------------------------------------------------------
    @cached_property
    def topology(self) -> Topology:
        """Raises UserError."""
        return self.machine.topology()

    @cached_property
    def _nodes(self) -> dict[int, CpuMask]:
        topology = self.topology
        return {node: topology.node_cpus(node) for node in range(topology.nodes)}

    @cached_property
    def _pools(self) -> dict[str, Pool]:
        return {pool.name: pool for pool in self.pool}

    @cached_property
    def pool_cpus(self) -> dict[str, CpuMask]:
        """The CPUs of each pool. Raises UserError: a CPU in two pools, a pool without one …"""
        topology, nodes = self.topology, self._nodes
        everything = topology.all_cpus
        found: dict[str, CpuMask] = {}
        taken = 0
        for pool in self.pool:
            _check_name("pool", pool.name)
            if pool.name in found:
                raise UserError(f"pool {pool.name!r} is there twice")
            if pool.sched not in BY_NAME:
                raise UserError(f"pool {pool.name!r}: {unknown('scheduler', pool.sched, BY_NAME)}")
            if pool.cpus is None:
                found[pool.name] = 0
                continue
            mask = parse_cpu_list(pool.cpus, everything, nodes)
            if absent := mask & ~everything:
                raise UserError(
                    f"pool {pool.name!r}: the machine has no CPU {next(cpus_in(absent))}, only"
                    f" {topology.cpus}"
                )
            if mask & taken:
                raise UserError(
                    f"pool {pool.name!r}: CPU {next(cpus_in(mask & taken))} is in another pool"
                )
            taken |= mask
            found[pool.name] = mask
        for pool in self.pool:
            if pool.cpus is None:
                found[pool.name] = everything & ~taken
                taken = everything
            if not found[pool.name]:
                raise UserError(f"pool {pool.name!r} has no CPU")
        if not found[self.pool[0].name] & 1:
            raise UserError(f"CPU 0 belongs into the first pool, {self.pool[0].name!r}")
        return found

    def pool_of(self, domain: Domain) -> Pool:
        """Raises UserError."""
        if domain.pool is None:
            return self.pool[0]
        pool = self._pools.get(domain.pool)
        if pool is None:
            why = unknown("pool", domain.pool, self._pools)
            raise UserError(f"domain {domain.name!r}: {why}")
        return pool

    def affinity(self, domain: Domain, vcpu: Vcpu, *, soft: bool = False) -> CpuMask | None:
        """Hard or soft affinity of a vCPU (None: none). Raises UserError outside its pool."""
        text = vcpu.cpus_soft if soft else vcpu.cpus
        if text is None:
            return None
        mask = parse_cpu_list(text, self.topology.all_cpus, self._nodes)
        pool = self.pool_of(domain)
        if not soft and not mask & self.pool_cpus[pool.name]:
            raise UserError(
                f"domain {domain.name!r}: cpus {text!r} has no CPU of its pool {pool.name!r}"
            )
        return mask

    def params(self, domain: Domain) -> Params | None:
        """Weight and cap, if it has any."""
        if domain.weight is None and domain.cap is None:
            return None
        if domain.weight is not None and not MIN_WEIGHT <= domain.weight <= MAX_WEIGHT:
            raise UserError(
                f"domain {domain.name!r}: weight {domain.weight}; it is {MIN_WEIGHT} to"
                f" {MAX_WEIGHT}"
            )
        most = 100 * len(domain.vcpu)
        if domain.cap is not None and not 0 <= domain.cap <= most:
            raise UserError(f"domain {domain.name!r}: cap {domain.cap}; it is 0 to {most}")
        return Params(weight=domain.weight, cap=domain.cap)

    def reservation(self, domain: Domain, index: int) -> Params | None:
        """Period and budget of a vCPU, if it has any. Raises UserError outside Xen's limits."""
        vcpu = domain.vcpu[index]
        what = f"domain {domain.name!r} vCPU {index}"
        if vcpu.period is None and vcpu.budget is None:
            return None
        if vcpu.period is None or vcpu.budget is None:
            raise UserError(f"{what}: a reservation has a period and a budget")
        period = parse_ns(vcpu.period, f"{what}: period")
        budget = parse_ns(vcpu.budget, f"{what}: budget")
        if period % 1000 or budget % 1000:
            raise UserError(f"{what}: Xen counts periods and budgets in microseconds")
        if not RTDS_MIN_PERIOD <= period <= RTDS_MAX_PERIOD:
            raise UserError(f"{what}: period {vcpu.period}; it is at least 10us")
        if budget < RTDS_MIN_BUDGET:
            raise UserError(f"{what}: budget {vcpu.budget}; it is at least 10us")
        if budget > period:
            raise UserError(
                f"{what}: the budget of {vcpu.budget} is over the period of {vcpu.period}"
            )
        return Params(period_us=period // 1000, budget_us=budget // 1000, extratime=vcpu.extratime)

    def table(self, pool: Pool) -> arinc653.Table:
        """The ARINC 653 schedule of a pool. Raises UserError if it has none."""
        if pool.major_frame is None:
            raise UserError(f"pool {pool.name!r}: arinc653 needs major_frame and windows")
        return arinc653.Table(pool.major_frame, pool.window, pool.name)

    def partitions(self, pool: Pool) -> list[arinc653.Partition]:
        """The domains of a pool as its schedule sees them."""
        return [
            arinc653.Partition(domain.name, number.to_bytes(16, "big"), len(domain.vcpu))
            for number, domain in enumerate(self.domain, 1)
            if self.pool_of(domain) is pool
        ]

    def global_params(self, pool: Pool) -> GlobalParams:
        return GlobalParams(ratelimit_us=pool.ratelimit_us, tslice_ms=pool.tslice_ms)

    def check(self) -> list[str]:
        """All that is wrong with it, a line each; none: nothing."""
        try:
            self._check()
        except UserError as error:
            return [str(error)]
        problems: list[str] = []
        for pool in self.pool:
            if pool.sched == "arinc653":
                partitions = self.partitions(pool)
                problems += [
                    f"pool {pool.name!r}: {line}"
                    for line in arinc653.check(self.table(pool), partitions)
                ]
        return problems

    def check_pools(self) -> None:
        """Raises UserError for pools that can't be; domains aren't looked at."""
        cpus = self.pool_cpus
        for pool in self.pool:
            if pool.sched == "arinc653" and cpus[pool.name].bit_count() > 1:
                raise UserError(f"pool {pool.name!r}: an arinc653 pool has one CPU")
            given = (pool.ratelimit_us, pool.tslice_ms) != (None, None)
            if given and pool.sched not in ("credit", "credit2"):
                raise UserError(f"pool {pool.name!r}: {pool.sched} has no ratelimit and tslice")

    def _check(self) -> None:
        self.check_pools()
        if parse_ns(self.machine.duration, "machine: duration") <= 0:
            raise UserError(f"machine: duration {self.machine.duration}; it is longer than 0")
        names: set[str] = set()
        for domain in self.domain:
            _check_name("domain", domain.name)
            if domain.name in names:
                raise UserError(f"domain {domain.name!r} is there twice")
            names.add(domain.name)
            if not domain.vcpu:
                raise UserError(f"domain {domain.name!r} has no vCPU")
            pool = self.pool_of(domain)
            params = self.params(domain)
            if params is not None and pool.sched not in ("credit", "credit2"):
                raise UserError(f"domain {domain.name!r}: {pool.sched} has no weights and caps")
            for index, vcpu in enumerate(domain.vcpu):
                if self.reservation(domain, index) is not None and pool.sched != "rtds":
                    raise UserError(
                        f"domain {domain.name!r}: {pool.sched} has no periods and budgets"
                    )
                self.affinity(domain, vcpu)
                self.affinity(domain, vcpu, soft=True)
                vcpu.load.make(f"domain {domain.name!r} vCPU {index}")


def _check_name(what: str, name: str) -> None:
    """Names are shown on terminals, and in pictures. Raises UserError."""
    if not name.isprintable() or not 1 <= len(name) <= 128:
        raise UserError(f"{what} {name[:40]!r}: a name is 1 to 128 printable characters")


def read_text(file: str) -> str:
    """The text of a file. Raises UserError."""
    try:
        return Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: it isn't text in UTF-8") from None


def read_pools(file: str) -> tuple[str, System]:
    """The text of a file, and what it means; its pools are right, its domains not looked at.

    Raises UserError.
    """
    text = read_text(file)
    system = load(text, file)
    try:
        system.check_pools()
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    return text, system


def schedule_in(text: str, source: str, pool: str | None) -> arinc653.Table:
    """The ARINC 653 schedule in a file: the file itself, or that of a pool it describes.

    Raises UserError.
    """
    try:
        alone = "major_frame" in tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{source}: {error}") from None
    if alone:
        return arinc653.load(text, source)
    system = load(text, source)
    pools = [one for one in system.pool if one.sched == "arinc653" and pool in (None, one.name)]
    if len(pools) != 1:
        many = f"{len(pools)} of its pools have one: name it" if pools else "no pool of it has one"
        raise UserError(f"{source}: which schedule is meant? {many}")
    return system.table(pools[0])


def load(text: str, source: str) -> System:
    """Read a file's text. Raises UserError, one line, with the place at fault."""
    try:
        return msgspec.convert(tomllib.loads(text), System)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{source}: {error}") from None
    except msgspec.ValidationError as error:
        raise UserError(f"{source}: {error}") from None
