# SPDX-License-Identifier: GPL-2.0-or-later
"""What event channels need from the domain and the vCPUs they belong to.

`hypervisor.domain.Domain` and `hypervisor.vcpu.Vcpu` satisfy these; tests use small stand-ins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from xenograft.engine.protocol import MachineMemory
    from xenograft.hypervisor.events.channels import EventChannels
    from xenograft.hypervisor.faults import FaultPoints
    from xenograft.hypervisor.instruments import Instruments
    from xenograft.hypervisor.kinds import GuestKind
    from xenograft.hypervisor.memory.p2m import P2m
    from xenograft.hypervisor.time import Clock


class EventVcpu(Protocol):
    """The part of a vCPU that event delivery touches."""

    poll_ports: tuple[int, ...] | None
    """The ports that SCHEDOP_poll waits for; None when it doesn't poll."""
    vcpu_info_maddr: int | None
    """Machine address of its vcpu_info; None while it has none (vCPUs from 32 up)."""

    @property
    def vcpu_id(self) -> int: ...

    def mark_events_pending(self) -> None:
        """Set evtchn_upcall_pending and, if it was clear, raise the upcall."""
        ...

    def unblock(self) -> None:
        """End SCHEDOP_block or SCHEDOP_poll, `poll_ports` included (Xen's vcpu_unblock)."""
        ...


class EventMachine(Protocol):
    """The part of `hypervisor.hypervisor.Hypervisor` that event delivery touches."""

    @property
    def clock(self) -> Clock: ...

    @property
    def instruments(self) -> Instruments: ...

    @property
    def faults(self) -> FaultPoints: ...

    @property
    def domains(self) -> Mapping[int, EventDomain]: ...


class EventDomain(Protocol):
    """The part of a domain that event channels touch."""

    @property
    def domid(self) -> int: ...

    @property
    def kind(self) -> GuestKind: ...

    @property
    def hypervisor(self) -> EventMachine: ...

    @property
    def vcpus(self) -> Sequence[EventVcpu]: ...

    @property
    def events(self) -> EventChannels: ...

    @property
    def memory(self) -> MachineMemory: ...

    @property
    def p2m(self) -> P2m: ...

    @property
    def shared_info_maddr(self) -> int:
        """Machine address of the shared_info frame (it exists whether or not it is mapped)."""
        ...

    @property
    def bits(self) -> int:
        """64, or 32 for a domain whose shared_info has the 32-bit layout."""
        ...

    @property
    def dying(self) -> bool: ...


class Frames(Protocol):
    """How Xen gets hold of a guest's page that it writes to until the guest's end."""

    def get_writable(self, gfn: int) -> int:
        """The mfn behind `gfn`, which must be writable RAM, with a reference taken.

        Raises XenError(EINVAL) for anything else (Xen's get_page_from_gfn with P2M_ALLOC and
        get_page_type with PGT_writable_page).
        """
        ...

    def put(self, mfn: int) -> None:
        """Drop the reference that `get_writable` took."""
        ...
