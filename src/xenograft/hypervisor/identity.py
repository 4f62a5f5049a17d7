# SPDX-License-Identifier: GPL-2.0-or-later
"""What CPUID tells a domain: the default policy of its kind, with a configuration's edits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.arch.x86.cpuid.leaves import HypervisorInfo
from xenograft.arch.x86.cpuid.policy import CpuPolicy, Edit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xenograft.hypervisor.domain import Domain


def cpu_policy(domain: Domain, edits: Iterable[Edit] = ()) -> CpuPolicy:
    """The domain's policy; `edits` are what its configuration asks for."""
    hypervisor = domain.hypervisor
    hvm = domain.kind.is_hvm_type
    info = HypervisorInfo(
        domid=domain.domid,
        hvm=hvm,
        version=(hypervisor.xen_version.major, hypervisor.xen_version.minor),
        tsc_khz=hypervisor.tsc_khz,
        host_khz=hypervisor.tsc_khz,
    )
    return CpuPolicy.make(hvm=hvm, vcpus=len(domain.vcpus), edits=edits, hypervisor=info)
