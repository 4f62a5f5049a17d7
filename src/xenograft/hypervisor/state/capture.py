# SPDX-License-Identifier: GPL-2.0-or-later
"""Taking a domain down as plain data.  It has to stand still: paused, and between two slices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec

from xenograft.abi.grant_table import GTF_reading, GTF_writing
from xenograft.engine.protocol import PAGE_SHIFT, PAGE_SIZE
from xenograft.hypervisor.events.channel import ChannelState
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.memory.p2m_types import GRANT_TYPES, P2mType
from xenograft.hypervisor.memory.runs import RunSet
from xenograft.hypervisor.sched.persist import save_domain
from xenograft.hypervisor.state.records import (
    DomainState,
    GrantState,
    MemoryState,
    SpecialPage,
    StateError,
    VcpuState,
)

if TYPE_CHECKING:
    from xenograft.arch.x86.platform.lapic import LapicRecord
    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.events.channels import EventsRecord
    from xenograft.hypervisor.hvm.platform import HvmPlatform
    from xenograft.hypervisor.timers import Timer
    from xenograft.hypervisor.vcpu import Vcpu


DOMID_CONTROL = 0
"""Whose services go on with a domain that was saved."""


def capture(domain: Domain, *, ram: bool = True) -> DomainState:
    """The domain as plain data; the contents of its memory are had by `contents`.

    Without `ram` it isn't said where there is memory: `clone` needs no list of it.

    Raises StateError for a domain that can't be taken down: it is dying or running, has pages of
    other domains in its memory, or is of a kind that isn't supported.
    """
    if domain.dying:
        raise StateError(f"{domain.name} is being destroyed")
    if domain.kind is not GuestKind.PVH:
        raise StateError(
            f"{domain.name} is a {domain.kind.value.upper()} guest;"
            " only PVH guests can be taken as they are"
        )
    if not domain.pause_count and not domain.is_shutting_down:
        raise StateError(f"{domain.name} runs; pause it first")
    if domain.grants.maptrack:
        raise StateError(f"{domain.name} has mapped pages of other domains: it serves them devices")
    platform: HvmPlatform = domain.arch  # type: ignore[assignment]  # PVH, as was checked
    # One moment for all: a guest compares its TSC with its system time.
    now = domain.hypervisor.clock.now()
    return DomainState(
        kind=domain.kind.value,
        bits=domain.bits,
        name=domain.name,
        uuid=domain.uuid,
        system_time=now + domain.time_shift,
        tsc_khz=domain.hypervisor.tsc_khz,
        time_offset_seconds=domain.time_offset_seconds,
        vm_assist=domain.vm_assist,
        has_pirq=domain.has_pirq,
        callback_vector=domain.callback_vector,
        params=dict(domain.hvm_params),
        shared_info=domain.memory.read(domain.shared_info_maddr, PAGE_SIZE),
        memory=_memory(domain, ram),
        grants=_grants(domain),
        events=_events(domain),
        vcpus=tuple(_vcpu(platform, vcpu, now) for vcpu in domain.vcpus),
        policy=platform.policy.save(),
        watchdogs=tuple(
            (number, deadline + domain.time_shift) for number, deadline in domain.watchdogs.save()
        ),
        scheduling=save_domain(domain.sched),
        shutdown_code=domain.shutdown_code,
    )


# -- memory --------------------------------------------------------------------------------------
def _memory(domain: Domain, with_ram: bool) -> MemoryState:
    p2m, pool = domain.p2m, domain.pool
    types = p2m.odd_types()
    foreign = [gfn for gfn, kind in types.items() if kind in GRANT_TYPES]
    foreign += [gfn for gfn, kind in types.items() if kind is P2mType.map_foreign]
    if foreign:
        raise StateError(f"{domain.name} has pages of other domains at gfn {foreign[0]:#x}")
    ram = RunSet([(run[0], run[2]) for run in domain.space.entries()] if with_ram else ())
    special = sorted(_special_pages(domain), key=lambda page: page.gfn)
    for page in special:
        ram.discard(page.gfn)
    pod = p2m.pod
    return MemoryState(
        ram=tuple(ram.runs()),
        readonly=_runs(gfn for gfn, kind in types.items() if kind is P2mType.ram_ro),
        special=tuple(special),
        mmio_direct=_runs(gfn for gfn, kind in types.items() if kind is P2mType.mmio_direct),
        e820=p2m.e820,
        max_pages=pool.max_pages,
        on_demand=() if pod is None else tuple(pod.entries.runs()),
        cache=0 if pod is None else len(pod.cache),
    )


def _runs(gfns: Iterable[int]) -> tuple[tuple[int, int], ...]:
    return tuple(RunSet((gfn, 1) for gfn in gfns).runs())


def _special_pages(domain: Domain) -> Iterator[SpecialPage]:
    """Where the guest has mapped frames of the hypervisor's: each has one place at most."""
    table = domain.grants.shared
    places = {
        "shared_info": [domain.shared_info_maddr >> PAGE_SHIFT],
        "grant": table.frames,
        "status": table.status,
    }
    for kind, mfns in places.items():
        for index, mfn in enumerate(mfns):
            gfn = domain.p2m.gfn_of(mfn)
            found = domain.space.lookup(gfn)
            if found is not None and found[0] == mfn:
                yield SpecialPage(gfn, kind, index)


# -- grants and events ---------------------------------------------------------------------------
def _grants(domain: Domain) -> GrantState:
    table, memory = domain.grants, domain.memory
    shared = table.shared
    frames = [bytearray(memory.read(mfn << PAGE_SHIFT, PAGE_SIZE)) for mfn in shared.frames]
    status = [bytearray(memory.read(mfn << PAGE_SHIFT, PAGE_SIZE)) for mfn in shared.status]
    homes = dict(zip(shared.frames, frames, strict=True))
    homes |= dict(zip(shared.status, status, strict=True))
    for ref in table.active:
        # Who uses it now won't be there; who comes instead marks it again.
        at = shared.status_maddr(ref)
        homes[at >> PAGE_SHIFT][at & PAGE_SIZE - 1] &= ~(GTF_reading | GTF_writing)
    return GrantState(
        version=table.version,
        frames=tuple(map(bytes, frames)),
        status=tuple(map(bytes, status)),
        max_grant_frames=table.max_grant_frames,
        max_maptrack_frames=table.max_maptrack_frames,
        max_version=table.max_version,
    )


def _events(domain: Domain) -> EventsRecord:
    """Ports; those with another end are left open for it."""
    record = domain.events.save()
    channels = []
    for channel in record.channels:
        if channel.xen_held:
            raise StateError(f"{domain.name}: port {channel.port} belongs to an emulated device")
        if channel.state == ChannelState.INTERDOMAIN:
            # The control domain's services come back; other domains don't.
            unbound = channel.remote_domid == DOMID_CONTROL
            channel = msgspec.structs.replace(
                channel,
                state=int(ChannelState.UNBOUND if unbound else ChannelState.FREE),
                remote_port=0,
            )
        channels.append(channel)
    return msgspec.structs.replace(record, channels=tuple(channels))


# -- vCPUs ---------------------------------------------------------------------------------------
def _vcpu(platform: HvmPlatform, vcpu: Vcpu, now: int) -> VcpuState:
    domain = vcpu.domain
    shift = domain.time_shift
    assert vcpu.lapic is not None  # of an HVM-type guest

    def due(timer: Timer | None) -> int | None:
        return None if timer is None or not timer.active else timer.deadline + shift

    info = None
    if vcpu.vcpu_info_mfn is not None and vcpu.vcpu_info_maddr is not None:
        gfn = domain.p2m.gfn_of(vcpu.vcpu_info_mfn)
        info = gfn, vcpu.vcpu_info_maddr & PAGE_SIZE - 1
    return VcpuState(
        registers=None if vcpu.cpu is None else vcpu.cpu.save(),
        lapic=shifted(vcpu.lapic.save(), shift),
        msrs=platform.msrs[vcpu.vcpu_id].save(),
        initialised=vcpu.initialised,
        down=vcpu.down,
        blocked=vcpu.blocked,
        poll_ports=vcpu.poll_ports,
        poll_until=due(vcpu.poll_timer),
        singleshot=due(vcpu.singleshot_timer),
        period_ns=vcpu.period_ns,
        periodic=due(vcpu.periodic_timer),
        upcall_vector=vcpu.upcall_vector,
        vcpu_info=info,
        runstate_area=vcpu.runstate_area,
        time_area=vcpu.time_area,
        tsc=vcpu.tsc.tsc_at(now),
        runstate_times=tuple(vcpu.runstate_now()[2]),
    )


def shifted(lapic: LapicRecord, shift: int) -> LapicRecord:
    """A local APIC as it is on a clock that is ahead by `shift` ns."""
    start, deadline = lapic.timer_start, lapic.timer_deadline
    return msgspec.structs.replace(
        lapic,
        timer_start=start if start < 0 else start + shift,
        timer_deadline=deadline if deadline < 0 else deadline + shift,
    )
