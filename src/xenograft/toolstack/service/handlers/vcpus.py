# SPDX-License-Identifier: GPL-2.0-or-later
"""How many of a guest's vCPUs are online (libxl_set_vcpuonline)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from xenograft.toolstack.service import messages
from xenograft.toolstack.service.handlers.machine import cpu_count
from xenograft.toolstack.service.messages import Failure
from xenograft.toolstack.service.table import on_machine

if TYPE_CHECKING:
    from xenograft.toolstack.service.host import Host


@on_machine(messages.SetVcpus)
def set_vcpus(host: Host, request: messages.SetVcpus) -> None:
    """Write cpu/N/availability; the guest brings its CPUs up and down itself."""
    guest = host.guest(request.domain)
    cpus, most = cpu_count(host), len(guest.domain.xen.vcpus)
    if request.count > cpus and not request.ignore_host:
        raise Failure(
            f"You are overcommmitting! You have {cpus} physical CPUs and want"
            f" {request.count} vCPUs! Aborting, use --ignore-host to continue"
        )
    if not 1 <= request.count <= most:
        raise Failure(f"Domain {guest.domid}:Requested {request.count} VCPUs, maxcpus is {most}")
    home = f"/local/domain/{guest.domid}/cpu"
    for index in range(most):
        availability = "online" if index < request.count else "offline"
        host.store.write(f"{home}/{index}/availability", availability)
    guest.config = msgspec.structs.replace(guest.config, vcpus=request.count, maxvcpus=most)
    host.changed()
