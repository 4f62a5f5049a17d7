# SPDX-License-Identifier: GPL-2.0-or-later
"""Schedulers, affinities and CPU pools, by the hypercalls of `toolstack.sched.control`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.errno import XenError
from xenograft.hypervisor.sched.cpumask import CpuMask, cpus_in, mask_of
from xenograft.hypervisor.sched.scheduler import GlobalParams, Params
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.sched.apply import scheduling_of
from xenograft.toolstack.sched.control import PoolInfo, reason
from xenograft.toolstack.sched.cpulist import parse_cpu_list
from xenograft.toolstack.service import messages
from xenograft.toolstack.service.messages import Failure, SchedParams, SchedRow
from xenograft.toolstack.service.table import on_machine

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xenograft.hypervisor.domain import Domain
    from xenograft.toolstack.service.host import Guest, Host

_PER_VCPU = ("rtds",)


def _row(pool: PoolInfo) -> messages.PoolRow:
    return messages.PoolRow(pool.pool_id, pool.name, pool.sched, pool.domains, list(pool.cpus))


# -- pools -------------------------------------------------------------------------------------
@on_machine(messages.ListPools)
def list_pools(host: Host, request: messages.ListPools) -> list[messages.PoolRow]:
    return [_row(pool) for pool in host.machine.scheduling.pools()]


@on_machine(messages.CreatePool)
def create_pool(host: Host, request: messages.CreatePool) -> messages.PoolRow:
    control = host.machine.scheduling
    cpus: Iterable[int]
    if request.cpus is not None:
        cpus = request.cpus
    elif request.nodes is not None:
        nodes = control.node_cpus()
        free = mask_of(control.free_cpus())
        cpus = cpus_in(_union(nodes, request.nodes) & free)
    else:
        cpus = control.free_cpus()[:1]
    pool = control.create_pool(request.name, request.sched, cpus)
    _tell_store(host)
    return _row(pool)


def _union(nodes: dict[int, CpuMask], wanted: Iterable[int]) -> CpuMask:
    mask = 0
    for node in wanted:
        mask |= nodes.get(node, 0)
    return mask


def _tell_store(host: Host) -> None:
    """The names of pools are in the store, where libxl keeps them."""
    root = "/local/pool"
    names = {str(pool.pool_id): pool.name for pool in host.machine.scheduling.pools()}
    for number in host.store.ls(root) if host.store.exists(root) else []:
        if number not in names:
            host.store.rm(f"{root}/{number}")
    for number, name in names.items():
        host.store.write(f"{root}/{number}/name", name)


@on_machine(messages.DestroyPool)
def destroy_pool(host: Host, request: messages.DestroyPool) -> None:
    host.machine.scheduling.destroy_pool(request.name)
    _tell_store(host)


@on_machine(messages.RenamePool)
def rename_pool(host: Host, request: messages.RenamePool) -> None:
    host.machine.scheduling.rename_pool(request.name, request.new)
    _tell_store(host)
    for guest in host.guests.values():
        if guest.config.pool is not None:
            _remember(host, guest)


@on_machine(messages.MovePoolCpus)
def move_pool_cpus(host: Host, request: messages.MovePoolCpus) -> None:
    control = host.machine.scheduling
    pool = control.pool(request.name)
    mask = parse_cpu_list(request.cpus, control.all_cpus, control.node_cpus())
    mine = mask_of(pool.cpus)
    # As in xl, CPUs that the machine doesn't have, or that are there already, don't matter.
    wanted = mask & control.all_cpus & (~mine if request.add else mine)
    # As in xl, the others are moved though one can't be.
    failure: UserError | None = None
    for cpu in cpus_in(wanted):
        try:
            (control.add_cpu if request.add else control.remove_cpu)(pool.name, cpu)
        except UserError as error:
            failure = failure or error
    if failure is not None:
        raise failure


@on_machine(messages.MigrateToPool)
def migrate_to_pool(host: Host, request: messages.MigrateToPool) -> None:
    domain = host.lookup(request.domain)
    if domain is None:
        raise Failure(f"unknown domain '{request.domain[:80]}'")
    host.machine.scheduling.move_domain(domain.domid, request.pool)
    if (guest := host.guests.get(domain.domid)) is not None:
        _remember(host, guest)


def _remember(host: Host, guest: Guest) -> None:
    """What was changed is part of what's built again, after a reboot or from a saved file."""
    guest.config = scheduling_of(host.machine.scheduling, guest.domid, guest.config)
    host.changed()


@on_machine(messages.SplitPools)
def split_pools(host: Host, request: messages.SplitPools) -> None:
    host.machine.scheduling.numa_split()
    _tell_store(host)


# -- affinity ----------------------------------------------------------------------------------
@on_machine(messages.PinVcpu)
def pin_vcpu(host: Host, request: messages.PinVcpu) -> None:
    guest = host.guest(request.domain)
    control = host.machine.scheduling
    masks = [
        None if text == "-" else parse_cpu_list(text, control.all_cpus, control.node_cpus())
        for text in (request.hard, request.soft)
    ]
    count = len(guest.domain.xen.vcpus)
    if request.vcpu == "all":
        vcpus = list(range(count))
    elif request.vcpu.isascii() and request.vcpu.isdigit() and len(request.vcpu) < 6:
        vcpus = [int(request.vcpu)]
    else:
        raise Failure("Error: Invalid argument.")
    for vcpu in vcpus:
        if vcpu >= count:
            raise Failure(f"Could not set affinity for vcpu `{vcpu}'.")
        control.set_affinity(guest.domid, vcpu, masks[0], masks[1], force=request.force)
    _remember(host, guest)


# -- parameters --------------------------------------------------------------------------------
def _shown(params: Params | GlobalParams) -> SchedParams:
    names = params.__struct_fields__
    return SchedParams(**{name: getattr(params, name) for name in names})


def _params(params: SchedParams) -> Params:
    return Params(**{name: getattr(params, name) for name in Params.__struct_fields__})


def in_pool(host: Host, pool: PoolInfo) -> list[Domain]:
    """A pool's domains with vCPUs, by number."""
    return [
        domain
        for domain in host.domains(())
        if not domain.is_host and pool_name(host, domain) == pool.name
    ]


def pool_name(host: Host, domain: Domain) -> str:
    """The name of the pool that a domain is in."""
    control = host.machine.scheduling
    scheduler = domain.sched.scheduler
    for pool in host.hypervisor.pools:
        if pool.scheduler is scheduler:
            return control.names.get(pool.pool_id, f"Pool-{pool.pool_id}")
    return control.names.get(0, "Pool-0")


@on_machine(messages.GetSched)
def get_sched(host: Host, request: messages.GetSched) -> list[messages.SchedPool]:
    control = host.machine.scheduling
    pools = [control.pool(request.pool)] if request.pool is not None else control.pools()
    found = []
    for pool in pools:
        if pool.sched != request.sched:
            continue
        rows = [
            row
            for domain in in_pool(host, pool)
            for row in _domain_rows(host, domain, request.sched, ["all"] if request.vcpus else [])
        ]
        found.append(messages.SchedPool(pool.name, _shown(control.get_global(pool)), rows))
    return found


def _domain_rows(host: Host, domain: Domain, sched: str, vcpus: list[str]) -> list[SchedRow]:
    control = host.machine.scheduling
    if not vcpus:
        return [
            SchedRow(domain.domid, domain.name, _shown(control.get_params(domain.domid, sched)))
        ]
    numbers = _vcpu_numbers(domain, vcpus)
    found = control.get_vcpu_params(domain.domid, numbers)
    return [
        SchedRow(domain.domid, domain.name, _shown(params), number)
        for number, params in zip(numbers, found, strict=True)
    ]


def _vcpu_numbers(domain: Domain, words: Iterable[str]) -> list[int]:
    count = len(domain.vcpus)
    numbers: list[int] = []
    for word in words:
        if word == "all":
            return list(range(count))
        if not (word.isascii() and word.isdigit() and len(word) < 6) or int(word) >= count:
            raise Failure(f"VCPU index is out of range, valid values are within 0 to {count - 1}")
        numbers.append(int(word))
    return numbers


def _check_scheduler(domain: Domain, sched: str) -> None:
    name = domain.sched.scheduler.opt_name
    if name != sched:
        raise Failure(f"libxl_domain_sched_params_get returned {name} not {sched}.")


@on_machine(messages.GetDomainSched)
def get_domain_sched(host: Host, request: messages.GetDomainSched) -> list[SchedRow]:
    domain = host.domain(request.domain)
    _check_scheduler(domain, request.sched)
    return _domain_rows(host, domain, request.sched, request.vcpus)


@on_machine(messages.SetDomainSched)
def set_domain_sched(host: Host, request: messages.SetDomainSched) -> None:
    guest = host.guest(request.domain)
    domain = guest.domain.xen
    _check_scheduler(domain, request.sched)
    control = host.machine.scheduling
    try:
        if request.sched in _PER_VCPU:
            params = {
                number: _params(given)
                for word, given in request.vcpus.items()
                for number in _vcpu_numbers(domain, [word])
            }
            control.set_vcpu_params(domain.domid, params)
        else:
            control.set_params(
                domain.domid, request.sched, _params(request.params), len(domain.vcpus)
            )
    except XenError as error:
        raise Failure(f"libxl_domain_sched_params_set failed: {reason(error)}") from None
    _remember(host, guest)


@on_machine(messages.SetPoolSched)
def set_pool_sched(host: Host, request: messages.SetPoolSched) -> None:
    control = host.machine.scheduling
    pool = control.pool(request.pool)
    if pool.sched != request.sched:
        raise Failure(f"cpupool '{pool.name}' has the scheduler {pool.sched}, not {request.sched}")
    given = request.params
    control.set_global(
        pool, GlobalParams(given.ratelimit_us, given.tslice_ms, given.migration_delay_us)
    )
