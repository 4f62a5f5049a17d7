# SPDX-License-Identifier: GPL-2.0-or-later
"""Making a domain of what `capture` has kept, on this machine or another."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from xenograft.abi.hvm import params
from xenograft.arch.x86.cpuid.policy import CpuPolicy
from xenograft.arch.x86.pvclock import TscClock
from xenograft.engine.protocol import PAGE_SHIFT, PAGE_SIZE, AccessError
from xenograft.hypervisor.grants.shared import status_frames_for
from xenograft.hypervisor.guest_time import update_vcpu_time, update_wallclock
from xenograft.hypervisor.hvm.callback import set_upcall_line
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.memory.runs import RunSet
from xenograft.hypervisor.sched.persist import restore_domain
from xenograft.hypervisor.state.capture import DOMID_CONTROL, shifted
from xenograft.hypervisor.state.records import DomainState, StateError, VcpuState

if TYPE_CHECKING:
    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.hvm.platform import HvmPlatform
    from xenograft.hypervisor.hypervisor import Hypervisor
    from xenograft.hypervisor.vcpu import Vcpu

Contents = Iterable[tuple[int, bytes]]
"""Pieces of memory as (guest-physical address, bytes), all of them whole pages."""

LARGEST = 1 << 24
"""Pages that a record may ask for (64 GiB): more than any machine here has."""

_NONSENSE = (
    *(ValueError, IndexError, KeyError, TypeError, OverflowError, AccessError),
    struct.error,
)
"""What a damaged record can lead to."""


def rebuild(
    hypervisor: Hypervisor,
    state: DomainState,
    contents: Contents,
    *,
    name: str | None = None,
    uuid: bytes | None = None,
    fresh: bool = False,
    pool: int = 0,
) -> Domain:
    """A new domain, paused, that goes on where the one was that `state` tells of.

    Its system time and its TSC go on from where they were; its wall clock is right.  The control
    domain's services find its event channels open for them.

    `fresh`: the guest has suspended itself, and sets up its shared pages, event channels and
    grants anew (SCHEDOP_shutdown with SHUTDOWN_suspend; it returns 0 there).  Two channels are
    open for the control domain then, as HVM_PARAM_STORE_EVTCHN and HVM_PARAM_CONSOLE_EVTCHN say.

    Raises StateError for a record that makes no sense, XenError(ENOMEM) if the machine has too
    little memory left; nothing remains of the domain then.
    """

    def fill(domain: Domain) -> None:
        for gfn, count in state.memory.ram:
            domain.p2m.populate(gfn, count)
        for gpa, data in contents:
            if gpa % PAGE_SIZE or len(data) % PAGE_SIZE:
                raise ValueError(f"memory at {gpa:#x} isn't whole pages")
            domain.space.write(gpa, data)

    return _make(hypervisor, state, fill, name, uuid, fresh, pool)


def clone(
    domain: Domain, state: DomainState, *, name: str, uuid: bytes, fresh: bool = False
) -> Domain:
    """Another domain, paused, that goes on where `state` was captured.

    `domain` has the memory of that moment: the one that it was captured from, which has stood
    still since, or a clone that was frozen then.  The two share it, and each gets a copy of a
    page that it or the other one writes.  Pages that back ends have mapped are copied at once.
    `fresh`: the guest sets up its shared pages, event channels and grants anew (see `rebuild`).
    Raises StateError, XenError(ENOMEM).
    """

    def fill(child: Domain) -> None:
        memory, special = domain.memory, domain.pool.special
        for gfn, mfn, count, _ in domain.p2m.share(child.p2m):
            for i in range(count):
                if mfn + i not in special:
                    ((copy, _),) = child.p2m.populate(gfn + i)
                    page = memory.read(mfn + i << PAGE_SHIFT, PAGE_SIZE)
                    memory.write(copy << PAGE_SHIFT, page)

    if domain.dying:
        raise StateError(f"{domain.name} is being destroyed")
    pool = domain.sched.pool_id
    return _make(domain.hypervisor, state, fill, name, uuid, fresh, pool)


def freeze(domain: Domain) -> None:
    """Have nothing happen to a paused domain any more: it's kept for its memory alone."""
    domain.is_hidden = True
    domain.watchdogs.stop()
    domain.arch.close()
    for vcpu in domain.vcpus:
        vcpu.stop_timers()


def _make(
    hypervisor: Hypervisor,
    state: DomainState,
    fill: Callable[[Domain], None],
    name: str | None,
    uuid: bytes | None,
    fresh: bool,
    pool: int,
) -> Domain:
    """The new domain; `fill` gives it its memory."""
    domain = _create(hypervisor, state, name, uuid, pool)
    with whole(domain, state.name):
        fill(domain)
        _finish(domain, state, fresh)
    return domain


def prepare(
    hypervisor: Hypervisor, state: DomainState, *, name: str, uuid: bytes, pool: int = 0
) -> Domain:
    """A new domain, paused, with as much memory as `state` tells of, and nothing in it.

    For a guest that is still running elsewhere: its pages are written into it as they come, and
    `complete` makes it a domain that can run.  Raises as `rebuild`.
    """
    domain = _create(hypervisor, state, name, uuid, pool)
    with whole(domain, state.name):
        for gfn, count in state.memory.ram:
            domain.p2m.populate(gfn, count)
    return domain


def complete(domain: Domain, state: DomainState, contents: Contents, *, fresh: bool) -> None:
    """A domain that was prepared goes on where the one was that `state` tells of.

    `contents` are pages that didn't find their place before.  Raises as `rebuild`; nothing
    remains of the domain then.
    """
    _check(state)
    with whole(domain, state.name):
        if len(domain.vcpus) != len(state.vcpus):
            raise ValueError("it has another number of vCPUs")
        wanted, there = RunSet(state.memory.ram), RunSet()
        for gfn, _, count, _ in domain.space.entries():
            there.add(gfn, count)
        if list(there.runs()) != list(wanted.runs()):
            # It has given back memory meanwhile, or got some.
            for gfn in [one for one in _each(there) if one not in wanted]:
                domain.p2m.guest_remove_page(gfn)
            for gfn in [one for one in _each(wanted) if one not in there]:
                domain.p2m.populate(gfn)
        for gpa, data in contents:
            domain.space.write(gpa, data)
        _finish(domain, state, fresh)


def _each(runs: RunSet) -> Iterator[int]:
    for first, count in runs.runs():
        yield from range(first, first + count)


def _create(
    hypervisor: Hypervisor, state: DomainState, name: str | None, uuid: bytes | None, pool: int
) -> Domain:
    _check(state)
    return hypervisor.create_domain(
        GuestKind(state.kind),
        name=state.name if name is None else name,
        uuid=state.uuid if uuid is None else uuid,
        max_vcpus=len(state.vcpus),
        max_pages=state.memory.max_pages,
        max_event_channels=state.events.max_port,
        pool=pool,
    )


@contextmanager
def whole(domain: Domain, name: str) -> Iterator[None]:
    """All of it works, or nothing remains of the domain."""
    try:
        yield
    except _NONSENSE as error:
        domain.hypervisor.destroy_domain(domain)
        raise StateError(f"the record of {name[:40]} makes no sense: {error}") from error
    except BaseException:
        domain.hypervisor.destroy_domain(domain)
        raise


def _finish(domain: Domain, state: DomainState, fresh: bool) -> None:
    """Everything but the guest's own memory."""
    _platform(domain, state)
    _memory(domain, state, fresh)
    _vcpus(domain, state, fresh)
    if fresh:
        _open_channels(domain)
    else:
        domain.events.restore(state.events)
        _timers(domain, state)
    restore_domain(domain.hypervisor.sched, domain.sched, state.scheduling)


def _check(state: DomainState) -> None:
    memory = state.memory
    pages = sum(count for _, count in (*memory.ram, *memory.on_demand, *memory.mmio_direct))
    runs = (*memory.ram, *memory.readonly, *memory.on_demand, *memory.mmio_direct)
    if state.kind != GuestKind.PVH.value:
        raise StateError(f"a {state.kind[:10]} guest can't be restored, only PVH guests can")
    if state.bits not in (32, 64) or not state.vcpus or len(state.shared_info) != PAGE_SIZE:
        raise StateError("the record makes no sense: no such domain can be")
    if not 0 <= state.system_time < 1 << 63:
        raise StateError("the record makes no sense: its time is of no clock")
    if pages > LARGEST or any(gfn < 0 or count <= 0 for gfn, count in runs):
        raise StateError("the record makes no sense: its memory is of no possible size")
    if any(len(page) != PAGE_SIZE for page in (*state.grants.frames, *state.grants.status)):
        raise StateError("the record makes no sense: its grant table isn't made of pages")


def _platform(domain: Domain, state: DomainState) -> None:
    """What isn't memory or vCPUs."""
    platform: HvmPlatform = domain.arch  # type: ignore[assignment]  # PVH, as was checked
    domain.bits = state.bits
    domain.time_shift = state.system_time - domain.hypervisor.clock.now()
    domain.time_offset_seconds = state.time_offset_seconds
    domain.vm_assist = state.vm_assist
    domain.has_pirq = state.has_pirq
    domain.hvm_params.update(state.params)
    about = msgspec.structs.replace(platform.policy.hypervisor, limit=state.policy.hypervisor.limit)
    platform.policy = CpuPolicy.restore(msgspec.structs.replace(state.policy, hypervisor=about))
    for msrs in platform.msrs:
        msrs.policy = platform.policy


# -- memory --------------------------------------------------------------------------------------
def _memory(domain: Domain, state: DomainState, fresh: bool) -> None:
    """The rest of the physical map, and the pages of the hypervisor's that the guest sees."""
    p2m, memory, saved = domain.p2m, domain.memory, state.memory
    for gfn, count in saved.on_demand:
        p2m.populate_on_demand(gfn, count)
    if p2m.pod is not None:
        p2m.pod.set_target(domain.pool.tot_pages + saved.cache)
    for gfn, count in saved.readonly:
        p2m.set_read_only(gfn, count)
    for gfn, count in saved.mmio_direct:
        p2m.set_mmio_direct(gfn, count)
    p2m.e820 = saved.e820
    table, grants = domain.grants, state.grants
    table.max_grant_frames = grants.max_grant_frames
    table.max_maptrack_frames = grants.max_maptrack_frames
    table.max_version = grants.max_version
    if fresh:
        return
    memory.write(domain.shared_info_maddr, state.shared_info)
    if grants.version not in (1, 2) or not 1 <= len(grants.frames) <= grants.max_grant_frames:
        raise ValueError("a grant table of no possible size")
    if len(grants.status) != (status_frames_for(len(grants.frames)) if grants.version == 2 else 0):
        raise ValueError("a grant table with too many status pages, or too few")
    table.shared.version = grants.version
    table.grow(len(grants.frames))
    for mfn, page in zip(table.shared.frames, grants.frames, strict=True):
        memory.write(mfn << PAGE_SHIFT, page)
    for mfn, page in zip(table.shared.status, grants.status, strict=True):
        memory.write(mfn << PAGE_SHIFT, page)
    special = {
        "shared_info": [domain.shared_info_maddr >> PAGE_SHIFT],
        "grant": table.shared.frames,
        "status": table.shared.status,
    }
    for mapped in saved.special:
        p2m.add_page(mapped.gfn, special[mapped.kind][mapped.index])


# -- vCPUs ---------------------------------------------------------------------------------------
def _vcpus(domain: Domain, state: DomainState, fresh: bool) -> None:
    platform: HvmPlatform = domain.arch  # type: ignore[assignment]  # PVH, as was checked
    # The TSC was read at the same moment as the system time.
    now = domain.machine_time(state.system_time)
    domain.callback_vector = -1 if fresh else state.callback_vector
    for vcpu, saved in zip(domain.vcpus, state.vcpus, strict=True):
        # A TSC that ran at another rate goes on from its value, at this machine's rate.
        vcpu.tsc = TscClock(domain.hypervisor.tsc_khz).with_tsc(now, saved.tsc)
        if saved.registers is not None:
            platform.make_cpu(vcpu)
            assert vcpu.cpu is not None
            vcpu.cpu.restore(saved.registers)
        platform.msrs[vcpu.vcpu_id].restore(saved.msrs)
        assert vcpu.lapic is not None  # of an HVM-type guest
        vcpu.lapic.restore(shifted(saved.lapic, -domain.time_shift))
        vcpu.irq_dirty = True
        vcpu.initialised = saved.initialised
        if len(saved.runstate_times) != len(vcpu.runstate_times):
            raise ValueError("a vCPU has other states than there are")
        vcpu.runstate_times = list(saved.runstate_times)
        vcpu.blocked = saved.blocked
        if not fresh:
            _places(vcpu, saved)
        set_upcall_line(vcpu)
        if not saved.down:
            if vcpu.cpu is None or not saved.initialised:
                raise ValueError("a vCPU is up and has no registers")
            vcpu.bring_up()
        update_vcpu_time(vcpu, force=True)
    update_wallclock(domain)


def _places(vcpu: Vcpu, saved: VcpuState) -> None:
    """Where the guest has registered what."""
    domain = vcpu.domain
    vcpu.upcall_vector = saved.upcall_vector
    vcpu.runstate_area, vcpu.time_area = saved.runstate_area, saved.time_area
    if saved.vcpu_info is not None:
        gfn, offset = saved.vcpu_info
        if not 0 <= offset <= PAGE_SIZE - 64:
            raise ValueError(f"vcpu_info at offset {offset} of a page")
        mfn = domain.get_writable_frame(gfn)
        vcpu.vcpu_info_mfn, vcpu.vcpu_info_maddr = mfn, mfn << PAGE_SHIFT | offset


def _timers(domain: Domain, state: DomainState) -> None:
    for vcpu, saved in zip(domain.vcpus, state.vcpus, strict=True):
        if saved.singleshot is not None:
            vcpu.set_singleshot_timer(domain.machine_time(saved.singleshot))
        if saved.periodic is not None and saved.period_ns > 0:
            vcpu.go_on_periodically(saved.period_ns, domain.machine_time(saved.periodic))
        if saved.poll_ports is not None:
            vcpu.go_on_polling(saved.poll_ports, saved.poll_until)
    domain.watchdogs.restore(
        tuple((number, domain.machine_time(deadline)) for number, deadline in state.watchdogs)
    )


def _open_channels(domain: Domain) -> None:
    for parameter in (params.HVM_PARAM_STORE_EVTCHN, params.HVM_PARAM_CONSOLE_EVTCHN):
        domain.hvm_params[parameter] = domain.events.alloc_unbound(DOMID_CONTROL)
