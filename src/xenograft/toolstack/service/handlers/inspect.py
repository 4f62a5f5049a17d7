# SPDX-License-Identifier: GPL-2.0-or-later
"""What domains and their vCPUs are doing (libxl_list_domain, libxl_list_vcpu).

The flags are those of XEN_DOMCTL_getdomaininfo (getdomaininfo() of xen/common/domctl.c).
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING

import msgspec

from xenograft.abi.vcpu import RUNSTATE_running
from xenograft.hypervisor.sched.cpumask import CpuMask, cpus_in
from xenograft.toolstack.service import messages
from xenograft.toolstack.service.handlers.scheduling import pool_name
from xenograft.toolstack.service.table import on_machine

if TYPE_CHECKING:
    from xenograft.hypervisor.domain import Domain
    from xenograft.toolstack.service.host import Host

_KIB_PER_PAGE = 4


def cpu_time_ns(host: Host, domain: Domain) -> int:
    """How long a domain's vCPUs have run."""
    if domain is host.machine.control:
        others = sum(cpu_time_ns(host, guest.domain.xen) for guest in host.guests.values())
        return host.control_ns.advance(time.process_time_ns(), others + host.spent_ns)
    return sum(vcpu.runstate_now()[2][RUNSTATE_running] for vcpu in domain.vcpus)


def domain_info(host: Host, domain: Domain) -> messages.DomainInfo:
    """One domain, as it is now."""
    online = [vcpu for vcpu in domain.vcpus if vcpu.online]
    guest = host.guests.get(domain.domid)
    now = host.hypervisor.clock.now()
    return messages.DomainInfo(
        domid=domain.domid,
        name=domain.name,
        uuid=str(uuid.UUID(bytes=domain.uuid)),
        kind=domain.kind.value,
        running=domain.is_host or any(vcpu.runstate == RUNSTATE_running for vcpu in online),
        blocked=not domain.is_host and all(vcpu.blocked for vcpu in online),
        paused=domain.pause_count > 0,
        shutdown=domain.is_shutting_down,
        dying=domain.dying,
        shutdown_reason=domain.shutdown_reason,
        memory_kib=domain.pool.tot_pages * _KIB_PER_PAGE,
        max_kib=domain.pool.max_pages * _KIB_PER_PAGE,
        shared_kib=0,
        vcpus=len(online),
        max_vcpus=len(domain.vcpus),
        cpu_time_ns=cpu_time_ns(host, domain),
        age_ns=now - (guest.created_ns if guest is not None else 0),
        pool=pool_name(host, domain),
    )


@on_machine(messages.ListDomains)
def list_domains(host: Host, request: messages.ListDomains) -> list[messages.DomainInfo]:
    return [domain_info(host, domain) for domain in host.domains(request.domains)]


@on_machine(messages.GetConfigs)
def get_configs(host: Host, request: messages.GetConfigs) -> list[messages.GuestConfig]:
    """Domain 0 has none, and is left out."""
    found = []
    for domain in host.domains(request.domains):
        guest = host.guests.get(domain.domid)
        if guest is not None:
            identity = str(uuid.UUID(bytes=domain.uuid))
            config = guest.config
            sched = domain.sched.scheduler.opt_name
            if sched in ("credit", "credit2"):
                # What isn't in the configuration has its default.
                params = host.machine.scheduling.get_params(domain.domid, sched)
                config = msgspec.structs.replace(config, cpu_weight=params.weight, cap=params.cap)
            found.append(messages.GuestConfig(domain.domid, identity, config, sched))
    return found


@on_machine(messages.ListVcpus)
def list_vcpus(host: Host, request: messages.ListVcpus) -> list[messages.VcpuInfo]:
    control = host.machine.scheduling
    everything = control.all_cpus

    def affinity(mask: CpuMask) -> list[int] | None:
        return None if mask & everything == everything else list(cpus_in(mask & everything))

    found = []
    for domain in host.domains(request.domains):
        for vcpu in domain.vcpus if not domain.dying else ():
            info = control.vcpu_info(domain.domid, vcpu.vcpu_id)
            found.append(
                messages.VcpuInfo(
                    domid=domain.domid,
                    name=domain.name,
                    vcpu=vcpu.vcpu_id,
                    cpu=info.cpu if info.online else None,
                    online=info.online,
                    running=info.running,
                    blocked=info.blocked,
                    paused=vcpu.paused,
                    time_ns=info.time_ns,
                    hard=affinity(info.hard),
                    soft=affinity(info.soft),
                )
            )
    return found
