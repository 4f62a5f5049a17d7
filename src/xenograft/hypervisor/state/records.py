# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept of a domain: values that mean the same in another process, on another machine.

Pages are named by gfn, never by mfn.  Times are the domain's own system time.  What belongs to
others (who has mapped its grants, who is at the other end of its event channels) isn't kept: they
come back by themselves.

What Xen keeps of an HVM-type guest: docs/specs/libxc-migration-stream.pandoc, public/arch-x86/
hvm/save.h.
"""

from __future__ import annotations

import msgspec

from xenograft.arch.x86.cpuid.policy import PolicyRecord
from xenograft.arch.x86.msr import MsrRecord
from xenograft.arch.x86.platform.lapic import LapicRecord
from xenograft.hypervisor.events.channels import EventsRecord
from xenograft.hypervisor.sched.persist import DomainSchedState

VERSION = 1


class StateError(Exception):
    """A domain can't be taken down, or a record makes no sense: one line."""


class VcpuState(msgspec.Struct, frozen=True):
    """One vCPU.  Times are system time in ns; None where nothing runs."""

    registers: dict[str, int | bytes] | None
    """What `Cpu.save` gives; None for a vCPU that was never brought up."""
    lapic: LapicRecord
    msrs: MsrRecord
    initialised: bool
    down: bool
    blocked: bool
    poll_ports: tuple[int, ...] | None
    poll_until: int | None
    singleshot: int | None
    period_ns: int
    periodic: int | None
    upcall_vector: int
    vcpu_info: tuple[int, int] | None
    """(gfn, offset) where it was registered; None: in shared_info."""
    runstate_area: int
    time_area: int
    tsc: int
    """Its time stamp counter."""
    runstate_times: tuple[int, ...]


class SpecialPage(msgspec.Struct, frozen=True):
    """A page of the hypervisor's that the guest has mapped: which, and where."""

    gfn: int
    kind: str
    """shared_info, grant or status."""
    index: int = 0


class MemoryState(msgspec.Struct, frozen=True):
    """The physical map; contents are apart."""

    ram: tuple[tuple[int, int], ...]
    """(gfn, pages) with memory of the domain's own."""
    readonly: tuple[tuple[int, int], ...]
    """Those of them that the guest may only read."""
    special: tuple[SpecialPage, ...]
    mmio_direct: tuple[tuple[int, int], ...]
    e820: tuple[tuple[int, int, int], ...]
    max_pages: int
    on_demand: tuple[tuple[int, int], ...] = ()
    """Entries that are populated when they're touched."""
    cache: int = 0
    """Pages in reserve for them."""


class GrantState(msgspec.Struct, frozen=True):
    """The grant table: its pages' contents, without the marks of those who use grants now."""

    version: int
    frames: tuple[bytes, ...]
    status: tuple[bytes, ...]
    max_grant_frames: int
    max_maptrack_frames: int
    max_version: int


class DomainState(msgspec.Struct, frozen=True):
    """A whole domain, but for the contents of its memory."""

    kind: str
    bits: int
    name: str
    uuid: bytes
    system_time: int
    tsc_khz: int
    time_offset_seconds: int
    vm_assist: int
    has_pirq: bool
    callback_vector: int
    params: dict[int, int]
    shared_info: bytes
    memory: MemoryState
    grants: GrantState
    events: EventsRecord
    vcpus: tuple[VcpuState, ...]
    policy: PolicyRecord
    watchdogs: tuple[tuple[int, int], ...]
    """(number, system time)."""
    scheduling: DomainSchedState
    shutdown_code: int | None
    """What SCHEDOP_shutdown_code said beforehand, or why it has shut down."""
    version: int = VERSION
