# SPDX-License-Identifier: GPL-2.0-or-later
"""Making a PV domain of what `capture_pv` has kept, with frames of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec

from xenograft.abi.errno import XenError
from xenograft.abi.hvm import params
from xenograft.abi.xen import shared_info
from xenograft.arch.x86.cpuid.policy import CpuPolicy
from xenograft.arch.x86.pvclock import TscClock
from xenograft.arch.x86.registers import is_canonical
from xenograft.engine.protocol import PAGE_SHIFT, PAGE_SIZE
from xenograft.hypervisor.guest_time import update_vcpu_time, update_wallclock
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.pv.calls import least_privilege
from xenograft.hypervisor.pv.context import set_context
from xenograft.hypervisor.pv.platform import PvPlatform, pv_cpu
from xenograft.hypervisor.sched.persist import restore_domain
from xenograft.hypervisor.state import pv
from xenograft.hypervisor.state.capture import DOMID_CONTROL
from xenograft.hypervisor.state.rebuild import whole

if TYPE_CHECKING:
    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.hypervisor import Hypervisor
    from xenograft.hypervisor.vcpu import Vcpu

_XCR0 = (0, 1, 3)


def rebuild_pv(
    hypervisor: Hypervisor,
    state: pv.PvDomainState,
    contents: pv.Contents,
    *,
    name: str | None = None,
    uuid: bytes | None = None,
    pool: int = 0,
) -> Domain:
    """A new domain, paused, that wakes from its suspend on this machine.

    Two event channels are open for the control domain, as HVM_PARAM_STORE_EVTCHN and
    HVM_PARAM_CONSOLE_EVTCHN say.  Raises StateError for a record that makes no sense,
    XenError(ENOMEM) if the machine has too little memory left; nothing remains of the domain then.
    """
    pv.check_record(state)
    domain = hypervisor.create_domain(
        GuestKind.PV,
        name=state.name if name is None else name,
        uuid=state.uuid if uuid is None else uuid,
        max_vcpus=len(state.vcpus),
        max_pages=max(state.max_pages, sum(count for _, count in state.pages)),
        pool=pool,
    )
    with whole(domain, state.name):
        now = hypervisor.clock.now()  # one moment for all clocks
        platform = _platform(domain, state, now)
        mfns = _memory(domain, state)
        _fill(domain, state, contents, mfns)
        _hand_over(domain, state, mfns)
        _pin(platform, state, mfns)
        for vcpu, saved in zip(domain.vcpus, state.vcpus, strict=True):
            if saved is not None:
                vcpu.tsc = TscClock(hypervisor.tsc_khz).with_tsc(now, saved.tsc)
                _vcpu(domain, vcpu, saved, mfns, mfns[state.start_info])
        update_wallclock(domain)
        restore_domain(hypervisor.sched, domain.sched, state.scheduling)
    return domain


def _platform(domain: Domain, state: pv.PvDomainState, now: int) -> PvPlatform:
    platform = cast(PvPlatform, domain.arch)
    if state.bits == 32:
        platform.set_width(32)
    domain.time_shift = state.system_time - now
    domain.time_offset_seconds = state.time_offset_seconds
    domain.vm_assist = state.vm_assist
    platform.assists_changed()
    about = msgspec.structs.replace(platform.policy.hypervisor, limit=state.policy.hypervisor.limit)
    platform.policy = CpuPolicy.restore(msgspec.structs.replace(state.policy, hypervisor=about))
    table = domain.grants
    table.max_grant_frames = state.max_grant_frames
    table.max_maptrack_frames = state.max_maptrack_frames
    table.max_version = state.max_version
    return platform


def _memory(domain: Domain, state: pv.PvDomainState) -> dict[int, int]:
    """Frames for all of its pages: mfn by pfn. Raises XenError(ENOMEM)."""
    mfns: dict[int, int] = {}
    wanted = [[pfn, count] for pfn, count in state.pages]
    pages = sum(count for _, count in wanted)
    for mfn, length in domain.hypervisor.frames.alloc(domain.pool, pages):
        while length:
            run = wanted[0]
            part = min(length, run[1])
            if not mfns.keys().isdisjoint(range(run[0], run[0] + part)):
                raise ValueError("a page is there twice")
            domain.p2m.add_page(run[0], mfn, part, fresh=True)
            mfns.update(zip(range(run[0], run[0] + part), range(mfn, mfn + part), strict=True))
            mfn, length = mfn + part, length - part
            run[0], run[1] = run[0] + part, run[1] - part
            if not run[1]:
                wanted.pop(0)
    domain.p2m.e820 = state.e820
    return mfns


def _fill(
    domain: Domain, state: pv.PvDomainState, contents: pv.Contents, mfns: dict[int, int]
) -> None:
    tables = {table.pfn for table in state.tables}
    memory = domain.memory
    for address, data in contents:
        if address % PAGE_SIZE or len(data) % PAGE_SIZE:
            raise ValueError(f"memory at {address:#x} isn't whole pages")
        for offset in range(0, len(data), PAGE_SIZE):
            pfn = (address + offset) >> PAGE_SHIFT
            page = data[offset : offset + PAGE_SIZE]
            if pfn in tables:
                page = pv.to_mfns(page, mfns)
            memory.write(mfns[pfn] << PAGE_SHIFT, page)


def _hand_over(domain: Domain, state: pv.PvDomainState, mfns: dict[int, int]) -> None:
    """What the guest is told of its new machine: its frames, start info, shared_info."""
    memory, bits = domain.memory, state.bits
    tables = {table.pfn for table in state.tables}
    for index, pfn in enumerate(state.p2m_list):
        if pfn in tables:
            raise ValueError(f"the list of its frames is in a page table ({pfn:#x})")
        at = mfns[pfn] << PAGE_SHIFT
        memory.write(at, pv.frames_of_list(memory.read(at, PAGE_SIZE), index, bits, mfns))
    ports = domain.events.alloc_unbound(DOMID_CONTROL), domain.events.alloc_unbound(DOMID_CONTROL)
    at = mfns[state.start_info] << PAGE_SHIFT
    page, store, console = pv.start_page(
        memory.read(at, PAGE_SIZE), state, mfns, domain.shared_info_maddr, ports
    )
    memory.write(at, page)
    domain.hvm_params.update(
        {
            params.HVM_PARAM_STORE_EVTCHN: ports[0],
            params.HVM_PARAM_STORE_PFN: store,
            params.HVM_PARAM_CONSOLE_EVTCHN: ports[1],
            params.HVM_PARAM_CONSOLE_PFN: console,
        }
    )
    # vcpu_info goes on; no channel of the old machine is pending, and all are masked.  The list
    # of lists names frames of that machine until the guest makes another.
    events, mask = (shared_info.offsetof(name, bits) for name in ("evtchn_pending", "evtchn_mask"))
    behind = shared_info.offsetof("wc_version", bits)
    info = bytearray(state.shared_info)
    info[events:mask] = bytes(mask - events)
    info[mask:behind] = b"\xff" * (behind - mask)
    frames = shared_info.offsetof("arch.pfn_to_mfn_frame_list_list", bits)
    info[frames : frames + bits // 8] = bytes(bits // 8)
    for start in _vcpu_infos(bits):
        info[start] = 0
        word = start + bits // 8
        info[word : word + bits // 8] = bytes(bits // 8)
    memory.write(domain.shared_info_maddr, bytes(info))


def _vcpu_infos(bits: int) -> range:
    """Offsets of the vcpu_info structures in shared_info."""
    end = shared_info.offsetof("evtchn_pending", bits)
    return range(0, end, 64)


def _pin(platform: PvPlatform, state: pv.PvDomainState, mfns: dict[int, int]) -> None:
    """Each table that was pinned is checked, with all that it leads to."""
    for table in state.tables:
        if table.pinned:
            result = platform.pages.pin(mfns[table.pfn], table.level)
            if result:
                raise ValueError(f"the page table {table.pfn:#x} is refused (errno {-result})")


def _vcpu(
    domain: Domain, vcpu: Vcpu, saved: pv.PvVcpuState, mfns: dict[int, int], record: int
) -> None:
    """Give a vCPU its context; `record` is the frame of the start info."""
    bits = domain.bits
    context = pv.narrow_or_wide(bits).unpack(saved.context, bits)
    if vcpu.vcpu_id == 0:
        pv.put_record(context, record)
    for index in range((context.gdt_ents + 511) // 512):
        context.gdt_frames[index] = mfns[context.gdt_frames[index]]
    pv.rename_roots(context, bits, mfns.__getitem__)
    if saved.registers.get("xcr0") not in _XCR0 or saved.registers.get("dead"):
        raise ValueError("a vCPU has registers that it can't have")
    try:
        set_context(vcpu, context, saved.registers)
    except XenError as error:
        raise ValueError(f"the context of vCPU {vcpu.vcpu_id} is refused: {error}") from error
    cpu = pv_cpu(vcpu)
    for name, (address, cs, masks) in (
        ("syscall32", saved.syscall32),
        ("sysenter", saved.sysenter),
    ):
        if bits == 64 and not is_canonical(address):
            raise ValueError(f"the {name} callback of vCPU {vcpu.vcpu_id} is at no address")
        cpu.pv_set(name, address)
        cpu.pv_set(f"{name}_cs", least_privilege(cs & 0xFFFF, bits) if cs else 0)
        cpu.pv_set(f"{name}_masks", int(bool(masks)))
    if len(saved.runstate_times) != len(vcpu.runstate_times):
        raise ValueError("a vCPU has other states than there are")
    vcpu.runstate_times = list(saved.runstate_times)
    if not saved.down:
        vcpu.bring_up()
    update_vcpu_time(vcpu, force=True)
