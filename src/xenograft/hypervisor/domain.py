# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain: its memory, vCPUs, event channels, grants and parameters.

Facts: Xen's struct domain (xen/include/xen/sched.h), domain_shutdown(), domain_kill().
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xenograft.hypervisor.kinds import Dying, GuestKind
from xenograft.hypervisor.vcpu import Vcpu

if TYPE_CHECKING:
    from xenograft.engine.protocol import AddressSpace, MachineMemory
    from xenograft.hypervisor.events.channels import EventChannels
    from xenograft.hypervisor.hypervisor import Hypervisor

__all__ = ["Domain", "Dying", "GuestKind"]


class Domain:
    """One domain. Made by `Hypervisor.create_domain`, which fills in the parts.

    `bits` is the layout of its shared structures (64, or 32 once a 32-bit guest has shown
    itself: Xen's has_32bit_shinfo).  `shutdown_reason` is None or a SHUTDOWN_*.
    """

    space: AddressSpace
    events: EventChannels
    grants: Any
    p2m: Any
    shared_info_maddr: int

    def __init__(
        self,
        hypervisor: Hypervisor,
        domid: int,
        kind: GuestKind,
        *,
        is_privileged: bool = False,
        uuid: bytes = bytes(16),
        max_pages: int = 0,
        max_vcpus: int = 1,
    ) -> None:
        self.hypervisor = hypervisor
        self.domid = domid
        self.kind = kind
        self.is_privileged = is_privileged
        self.uuid = uuid
        self.max_pages = max_pages
        self.bits = 64
        self.hvm_params: dict[int, int] = {}
        self.vm_assist = 0
        self.dying_state = Dying.ALIVE
        self.shutdown_reason: int | None = None
        self.shutdown_code: int | None = None
        self.pause_count = 1
        """A new domain is paused once, until its builder unpauses it."""
        self.vcpus: list[Vcpu] = [Vcpu(self, index) for index in range(max_vcpus)]

    def __repr__(self) -> str:
        return f"<Domain {self.domid} {self.kind.value}>"

    @property
    def dying(self) -> bool:
        """Whether its destruction has begun."""
        return self.dying_state is not Dying.ALIVE

    @property
    def memory(self) -> MachineMemory:
        """The machine's memory."""
        return self.hypervisor.memory

    def assert_upcall(self, vcpu: Vcpu) -> None:
        """Tell the vCPU that evtchn_upcall_pending is set (Xen's hvm_assert_evtchn_irq)."""
        if vcpu.upcall_vector and vcpu.lapic is not None:
            vcpu.lapic.set_irq(vcpu.upcall_vector)
        elif vcpu.cpu is not None:
            vcpu.cpu.poke_line()
        vcpu.unblock()
