# SPDX-License-Identifier: GPL-2.0-or-later
"""How a domain is told of events: HVM_PARAM_CALLBACK_IRQ (Xen's hvm_set_callback_via).

A *vector* is entered directly whenever evtchn_upcall_pending is set, on each vCPU, without the
local APIC: the engine watches that byte (`Cpu.set_line`).  GSIs and PCI lines need interrupt
controllers, which a PVH guest hasn't: Xen ignores such a request of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.hvm.params import HVM_PARAM_CALLBACK_TYPE_VECTOR
from xenograft.hypervisor.kinds import GuestKind

if TYPE_CHECKING:
    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.vcpu import Vcpu


def set_callback_via(domain: Domain, via: int) -> None:
    """Deliver the domain's events as `via` (a value of HVM_PARAM_CALLBACK_IRQ) says."""
    type_ = via >> 56
    if type_ != HVM_PARAM_CALLBACK_TYPE_VECTOR and domain.kind is GuestKind.PVH:
        return
    domain.callback_vector = via & 0xFF if type_ == HVM_PARAM_CALLBACK_TYPE_VECTOR else -1
    for vcpu in domain.vcpus:
        set_upcall_line(vcpu)
        if vcpu.online and vcpu.upcall_pending:
            domain.assert_upcall(vcpu)


def set_upcall_line(vcpu: Vcpu) -> None:
    """Have the vCPU's engine watch evtchn_upcall_pending, wherever that is now."""
    if vcpu.cpu is None:
        return
    if vcpu.vcpu_info_maddr is None:
        vcpu.cpu.set_line(0, -1)
    else:
        vcpu.cpu.set_line(vcpu.vcpu_info_maddr, vcpu.domain.callback_vector)
        vcpu.cpu.poke_line()
