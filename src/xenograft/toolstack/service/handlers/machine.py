# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine and the service: what they are, what they say."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import xenograft
from xenograft.abi import sysctl
from xenograft.backends.block.device import BlockDevice
from xenograft.backends.net.vif import VifDevice
from xenograft.engine.protocol import PAGE_SHIFT
from xenograft.hypervisor.sched.registry import BY_ID
from xenograft.toolstack.service import messages
from xenograft.toolstack.service.handlers.inspect import domain_info
from xenograft.toolstack.service.messages import Failure
from xenograft.toolstack.service.table import on_loop, on_machine

if TYPE_CHECKING:
    from xenograft.hypervisor.domain import Domain
    from xenograft.toolstack.service.host import Host
    from xenograft.toolstack.service.service import Service

_MIB_SHIFT = 20 - PAGE_SHIFT
_VIRT_CAPS = {
    sysctl.XEN_SYSCTL_PHYSCAP_pv: "pv",
    sysctl.XEN_SYSCTL_PHYSCAP_hvm: "hvm",
    sysctl.XEN_SYSCTL_PHYSCAP_hap: "hap",
    sysctl.XEN_SYSCTL_PHYSCAP_shadow: "shadow",
    sysctl.XEN_SYSCTL_PHYSCAP_gnttab_v1: "gnttab-v1",
    sysctl.XEN_SYSCTL_PHYSCAP_gnttab_v2: "gnttab-v2",
}
"""As xl names them, in its order."""


def cpu_count(host: Host) -> int:
    """How many physical CPUs the machine has."""
    return host.machine.scheduling.cpus


@on_loop(messages.GetService)
async def get_service(service: Service, request: messages.GetService) -> messages.ServiceInfo:
    guests = await service.thread.call(
        lambda: [guest.name for guest in service.host.guests.values()]
    )
    return messages.ServiceInfo(
        pid=os.getpid(),
        protocol=messages.PROTOCOL,
        version=xenograft.__version__,
        uptime=time.monotonic() - service.started,
        guests=guests,
        socket=str(service.paths.socket),
        xenstore=str(service.paths.xenstore),
        log=str(service.paths.log),
        found=service.found,
    )


@on_loop(messages.StopService)
async def stop_service(service: Service, request: messages.StopService) -> list[str]:
    guests = await service.thread.call(
        lambda: [guest.name for guest in service.host.guests.values()]
    )
    service.log("told to stop")
    service.stopping.set()
    return guests


@on_machine(messages.GetInfo)
def get_info(host: Host, request: messages.GetInfo) -> messages.HostInfo:
    hypervisor, system = host.hypervisor, os.uname()
    version = hypervisor.xen_version
    control = host.machine.scheduling
    info = control.physinfo()
    capabilities = info.capabilities
    return messages.HostInfo(
        host=system.nodename,
        release=system.release,
        version=system.version,
        machine=system.machine,
        nr_cpus=info.nr_cpus,
        max_cpu_id=info.max_cpu_id,
        nr_nodes=info.nr_nodes,
        cores_per_socket=info.cores_per_socket,
        threads_per_core=info.threads_per_core,
        cpu_mhz=info.cpu_khz / 1000,
        hw_caps=list(info.hw_cap),
        virt_caps=[name for flag, name in _VIRT_CAPS.items() if capabilities & flag],
        total_memory_mib=info.total_pages >> _MIB_SHIFT,
        free_memory_mib=info.free_pages >> _MIB_SHIFT,
        free_cpus=len(control.free_cpus()),
        xen_major=version.major,
        xen_minor=version.minor,
        xen_extra=version.extra,
        xen_caps=version.capabilities,
        xen_scheduler=BY_ID[control.default_sched()].opt_name,
        xen_pagesize=1 << PAGE_SHIFT,
        virt_start=version.virt_start,
        xen_changeset=version.changeset,
        xen_commandline=version.commandline,
        cc_compiler=version.compiler,
        cc_compile_by=version.compile_by,
        cc_compile_domain=version.compile_domain,
        cc_compile_date=version.compile_date,
        build_id=version.build_id.hex(),
        now_ns=hypervisor.clock.now(),
        cpus=[messages.CpuRow(one.core, one.socket, one.node) for one in control.topology()],
        nodes=[
            messages.NodeRow(one.memory >> 20, one.free >> 20, list(one.distances))
            for one in control.numa()
        ],
    )


@on_machine(messages.Dmesg)
def dmesg(host: Host, request: messages.Dmesg) -> str:
    log = host.hypervisor.log
    text = log.text()
    if request.clear:
        log.lines.clear()
    return text


@on_machine(messages.GetUsage)
def get_usage(host: Host, request: messages.GetUsage) -> list[messages.Usage]:
    return [_usage(host, domain) for domain in host.domains(())]


def _usage(host: Host, domain: Domain) -> messages.Usage:
    devices = host.machine.services.devices(domain.domid)
    disks = [device.metrics for device in devices if isinstance(device, BlockDevice)]
    ports = [device.port.counters for device in devices if isinstance(device, VifDevice)]
    return messages.Usage(
        domain=domain_info(host, domain),
        networks=sum(device.kind == "vif" for device in devices),
        # The switch receives what the guest sends.
        net_tx=sum(port.rx_bytes for port in ports),
        net_rx=sum(port.tx_bytes for port in ports),
        disks=len(disks),
        disk_busy=sum(disk.oo_req for disk in disks),
        disk_reads=sum(disk.rd_req for disk in disks),
        disk_writes=sum(disk.wr_req for disk in disks),
        sectors_read=sum(disk.rd_sect for disk in disks),
        sectors_written=sum(disk.wr_sect for disk in disks),
    )


@on_machine(messages.SetParameters)
def set_parameters(host: Host, request: messages.SetParameters) -> None:
    """There are none that can be changed at run time: Xen answers EINVAL to those it lacks."""
    raise Failure(f"cannot set parameters: {request.parameters[:80]}: Invalid argument")


@on_machine(messages.GetView)
def get_view(host: Host, request: messages.GetView) -> str:
    """Ask a view of the machine.  Raises Failure for one that isn't there."""
    view = host.views.get(request.name)
    if view is None:
        raise Failure(f"this service has no view {request.name!r} of its machine")
    return view(None if request.domain is None else host.domain(request.domain).domid)
