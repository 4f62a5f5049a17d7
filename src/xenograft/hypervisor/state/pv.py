# SPDX-License-Identifier: GPL-2.0-or-later
"""PV guests as plain data: their page tables hold machine frames, which another machine won't have.

A PV guest has to suspend itself first (SCHEDOP_shutdown with SHUTDOWN_suspend): it gives up the
hypervisor's pages, and names the rest by its own page numbers where it can.  What still names
frames is translated: page tables, the list of its frames, start info, root tables and GDTs of its
vCPUs.  A mapping of another domain's page is left out.

Facts: docs/specs/libxc-migration-stream.pandoc; tools/libs/guest/xg_sr_save_x86_pv.c and
xg_sr_restore_x86_pv.c of Xen 4.17 (what is translated, and in which way).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, cast

import msgspec

from xenograft.abi.arch_x86.xen import vcpu_guest_context, vcpu_guest_context_32
from xenograft.abi.sched import SHUTDOWN_suspend
from xenograft.abi.xen import start_info
from xenograft.arch.x86.cpuid.policy import PolicyRecord
from xenograft.arch.x86.pv import cr3_frame, frame_cr3
from xenograft.engine.protocol import PAGE_SHIFT, PAGE_SIZE
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.memory.runs import RunSet
from xenograft.hypervisor.pv.context import Context, get_context
from xenograft.hypervisor.sched.persist import DomainSchedState, save_domain
from xenograft.hypervisor.state.pv_names import LARGEST, MFN_MASK, PTE_P, Names, list_of_frames
from xenograft.hypervisor.state.records import StateError

if TYPE_CHECKING:
    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.pv.platform import PvPlatform
    from xenograft.hypervisor.vcpu import Vcpu

VERSION = 1
XEN_SLOTS = range(256, 272)
PAE_ROOT_ENTRIES = 4


class PvTable(msgspec.Struct, frozen=True):
    """A page table."""

    pfn: int
    level: int
    pinned: bool


class PvVcpuState(msgspec.Struct, frozen=True):
    """One vCPU: its context has page numbers where a live one has frame numbers."""

    context: bytes
    """A packed vcpu_guest_context."""
    registers: dict[str, int | bytes]
    """What `Cpu.save` gives: the FPU is taken of it."""
    syscall32: tuple[int, int, int]
    sysenter: tuple[int, int, int]
    """(address, code selector, whether events are masked) of callbacks beside the context's."""
    tsc: int
    runstate_times: tuple[int, ...]
    down: bool


class PvDomainState(msgspec.Struct, frozen=True):
    """A whole PV domain, but for the contents of its memory."""

    bits: int
    name: str
    uuid: bytes
    system_time: int
    tsc_khz: int
    time_offset_seconds: int
    vm_assist: int
    pages: tuple[tuple[int, int], ...]
    """(pfn, count)."""
    tables: tuple[PvTable, ...]
    p2m_list: tuple[int, ...]
    """pfns of the pages of the guest's list of its frames, in order."""
    start_info: int
    """pfn."""
    shared_info: bytes
    e820: tuple[tuple[int, int, int], ...]
    max_pages: int
    vcpus: tuple[PvVcpuState | None, ...]
    """None for one that was never initialised."""
    policy: PolicyRecord
    scheduling: DomainSchedState
    max_grant_frames: int
    max_maptrack_frames: int
    max_version: int
    kind: str = "pv"
    version: int = VERSION


def capture_pv(domain: Domain) -> PvDomainState:
    """The domain as plain data; the contents of its memory are had by `contents_pv`.

    Raises StateError for a domain that hasn't suspended itself, or can't be taken down.
    """
    if not domain.is_shutting_down or domain.shutdown_code != SHUTDOWN_suspend:
        raise StateError(f"{domain.name} is a PV guest, and has to suspend itself first")
    if domain.grants.maptrack:
        raise StateError(f"{domain.name} has mapped pages of other domains: it serves them devices")
    platform = cast("PvPlatform", domain.arch)
    names = Names(domain)
    first = domain.vcpus[0]
    if first.cpu is None:
        raise StateError(f"{domain.name} has never run")
    tables = [
        PvTable(pfn, names.level(mfn), names.memory.types(mfn)[3])
        for pfn, mfn in sorted(names.mfns.items())
        if names.level(mfn)
    ]
    info = domain.memory.read(domain.shared_info_maddr, PAGE_SIZE)
    # The third argument of its last hypercall.
    record = names.pfn(first.cpu.get("rdx") & (1 << domain.bits) - 1, "its start info")
    now = domain.hypervisor.clock.now()  # one moment for all clocks
    return PvDomainState(
        bits=domain.bits,
        name=domain.name,
        uuid=domain.uuid,
        system_time=now + domain.time_shift,
        tsc_khz=domain.hypervisor.tsc_khz,
        time_offset_seconds=domain.time_offset_seconds,
        vm_assist=domain.vm_assist,
        pages=tuple(RunSet((pfn, 1) for pfn in sorted(names.mfns)).runs()),
        tables=tuple(tables),
        p2m_list=list_of_frames(names, info),
        start_info=record,
        shared_info=info,
        e820=domain.p2m.e820,
        max_pages=domain.pool.max_pages,
        vcpus=tuple(
            _vcpu(names, vcpu, now, record) if vcpu.initialised else None for vcpu in domain.vcpus
        ),
        policy=platform.policy.save(),
        scheduling=save_domain(domain.sched),
        max_grant_frames=domain.grants.max_grant_frames,
        max_maptrack_frames=domain.grants.max_maptrack_frames,
        max_version=domain.grants.max_version,
    )


def _vcpu(names: Names, vcpu: Vcpu, now: int, record: int) -> PvVcpuState:
    from xenograft.hypervisor.pv.platform import pv_cpu

    cpu, bits = pv_cpu(vcpu), names.domain.bits
    context = get_context(vcpu)
    for index in range((context.gdt_ents + 511) // 512):
        context.gdt_frames[index] = names.pfn(context.gdt_frames[index], "a GDT")
    rename_roots(context, bits, lambda mfn: names.pfn(mfn, "a root table"))
    if vcpu.vcpu_id == 0:
        put_record(context, record)
    return PvVcpuState(
        context=context.pack(bits),
        registers=cpu.save(),
        syscall32=_callback(vcpu, "syscall32"),
        sysenter=_callback(vcpu, "sysenter"),
        tsc=vcpu.tsc.tsc_at(now),
        runstate_times=tuple(vcpu.runstate_now()[2]),
        down=vcpu.down,
    )


def _callback(vcpu: Vcpu, name: str) -> tuple[int, int, int]:
    from xenograft.hypervisor.pv.platform import pv_cpu

    cpu = pv_cpu(vcpu)
    return cpu.pv_get(name), cpu.pv_get(f"{name}_cs"), cpu.pv_get(f"{name}_masks")


# -- contents --------------------------------------------------------------------------------------
def contents_pv(domain: Domain) -> Iterator[tuple[int, bytes]]:
    """Its pages as (pfn * 4096, bytes), without those of zeros; entries of tables name pfns."""
    names = Names(domain)
    memory = domain.memory
    zero = bytes(PAGE_SIZE)
    for pfn, mfn in sorted(names.mfns.items()):
        data = memory.read(mfn << PAGE_SHIFT, PAGE_SIZE)
        level = names.level(mfn)
        if level:
            data = _to_pfns(names, data, level, domain.bits)
        if data != zero:
            yield pfn << PAGE_SHIFT, data


def _to_pfns(names: Names, data: bytes, level: int, bits: int) -> bytes:
    entries = list(struct.unpack("<512Q", data))
    for slot, entry in enumerate(entries):
        if not entry & PTE_P:
            continue
        pfn = names.pfns.get((entry & MFN_MASK) >> PAGE_SHIFT)
        if pfn is None or _is_xen_slot(level, slot, bits):
            entries[slot] = 0  # Xen's, or another domain's
        else:
            entries[slot] = entry & ~MFN_MASK | pfn << PAGE_SHIFT
    return struct.pack("<512Q", *entries)


def _is_xen_slot(level: int, slot: int, bits: int) -> bool:
    """Whether an entry isn't the guest's.

    In the last table of level 2 of a 32-bit guest, those of Xen are told by what they name: frames
    that aren't the domain's.
    """
    if bits == 64:
        return level == 4 and slot in XEN_SLOTS
    return level == 3 and slot >= PAE_ROOT_ENTRIES


def to_mfns(data: bytes, mfns: dict[int, int]) -> bytes:
    """The reverse. Raises ValueError for a page that isn't there."""
    entries = list(struct.unpack("<512Q", data))
    for slot, entry in enumerate(entries):
        if entry & PTE_P:
            pfn = (entry & MFN_MASK) >> PAGE_SHIFT
            if pfn not in mfns:
                raise ValueError(f"a page table names page {pfn:#x}, which isn't there")
            entries[slot] = entry & ~MFN_MASK | mfns[pfn] << PAGE_SHIFT
    return struct.pack("<512Q", *entries)


def rename_roots(context: Context, bits: int, other: Callable[[int], int]) -> None:
    """Name the root tables otherwise, in the registers that have them (CR1: the user's).

    As in Xen's streams, bit 0 tells a user's table that is page 0 from none.  Raises what `other`
    raises.
    """
    context.ctrlreg[3] = frame_cr3(other(cr3_frame(context.ctrlreg[3], bits)), bits)
    if bits == 64 and context.ctrlreg[1]:
        context.ctrlreg[1] = frame_cr3(other(cr3_frame(context.ctrlreg[1], bits)), bits) | 1


def put_record(context: Context, number: int) -> None:
    """Put what names the start info where the suspended call of the first vCPU has it."""
    if isinstance(context, vcpu_guest_context):
        context.user_regs.rdx = number
    else:
        context.user_regs.edx = number


def narrow_or_wide(bits: int) -> type[vcpu_guest_context] | type[vcpu_guest_context_32]:
    """The context of a width."""
    return vcpu_guest_context if bits == 64 else vcpu_guest_context_32


def check_record(state: PvDomainState) -> None:
    """Raises StateError for a record that can't be a domain's."""
    pages = sum(count for _, count in state.pages)
    fine = (
        state.kind == GuestKind.PV.value
        and state.bits in (32, 64)
        and state.vcpus
        and state.vcpus[0] is not None
        and len(state.shared_info) == PAGE_SIZE
        and 0 <= state.system_time < 1 << 63
        and all(pfn >= 0 and count > 0 and pfn + count <= LARGEST for pfn, count in state.pages)
        and 0 < pages <= LARGEST
    )
    if not fine:
        raise StateError("the record makes no sense: no such PV domain can be")


def start_page(
    page: bytes, state: PvDomainState, mfns: dict[int, int], shared: int, ports: tuple[int, int]
) -> tuple[bytes, int, int]:
    """The start info page for the new machine, and the frames of xenstore and console rings.

    `shared` is the machine address of shared_info, `ports` those of xenstore and console.  Raises
    KeyError if the page names pages that aren't there.
    """
    info = start_info.unpack(page, state.bits)
    store, console = mfns[info.store_mfn], mfns[info.console.domU.mfn]
    info.nr_pages = sum(count for _, count in state.pages)
    info.shared_info = shared
    info.flags = 0
    info.store_mfn, info.store_evtchn = store, ports[0]
    info.console.domU.mfn, info.console.domU.evtchn = console, ports[1]
    packed = info.pack(state.bits)
    return packed + page[len(packed) :], store, console


def frames_of_list(page: bytes, index: int, bits: int, mfns: dict[int, int]) -> bytes:
    """A page of the guest's list of its frames, with those that it has now."""
    code, per_page = ("Q", 512) if bits == 64 else ("I", 1024)
    old = struct.unpack(f"<{per_page}{code}", page)
    first = index * per_page
    new = [mfns.get(first + i, entry) for i, entry in enumerate(old)]
    return struct.pack(f"<{per_page}{code}", *new)


Contents = Iterable[tuple[int, bytes]]
