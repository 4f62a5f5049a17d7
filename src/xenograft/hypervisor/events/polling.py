# SPDX-License-Identifier: GPL-2.0-or-later
"""vCPUs that block in SCHEDOP_poll until an event (public/sched.h)."""

from __future__ import annotations

from xenograft.hypervisor.events.protocols import EventDomain


def check_pollers(domain: EventDomain, port: int) -> None:
    """An event arrived on `port`: wake the vCPUs that poll it, in order (evtchn_check_pollers).

    A vCPU that polls several ports, or none, is woken by any event of its domain: Xen keeps
    one port per vCPU.
    """
    for vcpu in domain.vcpus:
        ports = vcpu.poll_ports
        if ports is not None and (len(ports) != 1 or ports[0] == port):
            vcpu.unblock()
