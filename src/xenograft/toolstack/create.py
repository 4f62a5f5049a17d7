# SPDX-License-Identifier: GPL-2.0-or-later
"""From a built guest to a domain that can run: memory, parameters, first vCPU, console.

What libxl and xenconsoled do at a domain's creation (libxl__build_pre(), libxl__build_hvm(),
xc_dom_boot_image()).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, get_args

from xenograft.abi.arch_x86.xen import FLAT_KERNEL_SS, FLAT_RING1_SS, XEN_LEGACY_MAX_VCPUS
from xenograft.abi.errno import Errno, XenError
from xenograft.abi.grant_table import GNTTAB_RESERVED_CONSOLE
from xenograft.abi.hvm import params
from xenograft.abi.hvm.e820 import E820_RAM
from xenograft.abi.xen import shared_info, vcpu_info
from xenograft.arch.x86.pv import kernel_state
from xenograft.arch.x86.pvh import pvh_entry
from xenograft.backends.console.console import ConsoleBackend
from xenograft.engine.protocol import PAGE_SHIFT, PAGE_SIZE
from xenograft.hypervisor.grants.host import map_grant
from xenograft.hypervisor.grants.status import GrantError
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.pv.platform import PvPlatform
from xenograft.toolstack.config.domain import TimerMode
from xenograft.toolstack.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from xenograft.arch.x86.cpuid.policy import Edit
    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.hypervisor import Hypervisor
    from xenograft.toolstack.build.guest import BuiltGuest
    from xenograft.toolstack.build.pv import PvPlan
    from xenograft.toolstack.config.domain import DomainConfig

MAXMEM_CONSTANT_PAGES = 256
"""Pages that a domain may have beyond its build (LIBXL_MAXMEM_CONSTANT: 1 MiB)."""


SPECIAL_PAGES_ROOM = 64
"""Pages that a guest may have beyond its target, for special pages and ACPI tables."""


def create_control_domain(hypervisor: Hypervisor) -> Domain:
    """Domain 0, whose services run in this process."""
    domain = hypervisor.create_domain(
        GuestKind.PVH,
        domid=0,
        name="Domain-0",
        max_vcpus=0,
        is_privileged=True,
        host=True,
        max_event_channels=1 << 17,
    )
    domain.unpause()
    return domain


class _Options(NamedTuple):
    """What is the same for domains of all kinds."""

    name: str
    uuid: bytes
    max_event_channels: int
    pages: int
    """Of its build."""


@contextmanager
def _new_domain(
    hypervisor: Hypervisor, kind: GuestKind, vcpus: int, options: _Options
) -> Iterator[Domain]:
    """A paused domain without memory, to be filled; it's destroyed if that fails."""
    name, uuid, channels, pages = options
    domain = hypervisor.create_domain(
        kind,
        name=name,
        uuid=uuid,
        max_vcpus=vcpus,
        max_pages=pages + MAXMEM_CONSTANT_PAGES,
        max_event_channels=channels,
    )
    try:
        yield domain
    except BaseException:
        hypervisor.destroy_domain(domain)
        raise


def create_pvh_domain(
    hypervisor: Hypervisor,
    built: BuiltGuest,
    *,
    name: str,
    uuid: bytes = bytes(16),
    cpuid: Iterable[Edit] = (),
    max_event_channels: int = 1023,
    pages: int | None = None,
) -> Domain:
    """A paused domain with the guest in its memory and its first vCPU at the entry point.

    `pages`: what it may have of the memory that it was built for; if that's less, the rest is
    populated on demand.  Raises UserError if the machine has too little memory left.
    """
    pages = built.pages if pages is None else min(pages + SPECIAL_PAGES_ROOM, built.pages)
    options = _Options(name, uuid, max_event_channels, pages)
    with _new_domain(hypervisor, GuestKind(built.kind), built.vcpus, options) as domain:
        domain.arch.set_cpuid(cpuid)
        _fill_memory(domain, built, pages)
        domain.hvm_params.update(built.special.hvm_params())
        domain.hvm_params[params.HVM_PARAM_STORE_EVTCHN] = domain.events.alloc_unbound(0)
        domain.hvm_params[params.HVM_PARAM_TIMER_MODE] = params.HVMPTM_no_delay_for_missed_ticks
        vcpu = domain.vcpus[0]
        domain.arch.start(vcpu, pvh_entry(built.entry, built.start_info))
        vcpu.bring_up()
    return domain


def create_pv_domain(
    hypervisor: Hypervisor,
    plan: PvPlan,
    *,
    name: str,
    uuid: bytes = bytes(16),
    cpuid: Iterable[Edit] = (),
    max_event_channels: int = 1023,
    pages: int | None = None,
) -> Domain:
    """A paused PV domain with the guest in its memory and its first vCPU at the entry point.

    `pages` is for other kinds: a PV guest has all the memory that it was built for.  Raises
    UserError if the machine has too little memory left.
    """
    options = _Options(name, uuid, max_event_channels, plan.pages)
    with _new_domain(hypervisor, GuestKind.PV, plan.vcpus, options) as domain:
        platform = domain.arch
        assert isinstance(platform, PvPlatform)
        platform.set_cpuid(cpuid)
        if plan.bits == 32:
            platform.set_width(32)
        mfns = _populate_pv(domain, plan)
        # All of the memory that it may ever have, in one piece (xc_domain_set_memmap_limit).
        domain.p2m.e820 = ((0, plan.maxmem, int(E820_RAM)),)
        _fill_pv(domain, plan, mfns)
        _start_pv(domain, platform, plan, mfns)
    return domain


def _populate_pv(domain: Domain, plan: PvPlan) -> list[int]:
    """The machine frames of a PV domain's pages, by pfn."""
    mfns: list[int] = []
    frames, pool = domain.hypervisor.frames, domain.pool
    with _enough_memory(domain, plan.pages):
        for mfn, length in frames.alloc(pool, plan.pages):
            domain.p2m.add_page(len(mfns), mfn, length, fresh=True)
            mfns.extend(range(mfn, mfn + length))
    return mfns


def _fill_pv(domain: Domain, plan: PvPlan, mfns: list[int]) -> None:
    store, console = domain.events.alloc_unbound(0), domain.events.alloc_unbound(0)
    domain.hvm_params.update(
        {
            params.HVM_PARAM_STORE_EVTCHN: store,
            params.HVM_PARAM_STORE_PFN: mfns[plan.xenstore],
            params.HVM_PARAM_CONSOLE_EVTCHN: console,
            params.HVM_PARAM_CONSOLE_PFN: mfns[plan.console],
        }
    )
    contents = plan.contents(
        mfns,
        shared_info=domain.shared_info_maddr,
        store_evtchn=store,
        console_evtchn=console,
    )
    memory = domain.memory
    for gpa, data in contents:
        view = memoryview(data)
        at = 0
        while at < len(view):
            pfn, offset = gpa + at >> PAGE_SHIFT, gpa + at & PAGE_SIZE - 1
            size = min(PAGE_SIZE - offset, len(view) - at)
            memory.write((mfns[pfn] << PAGE_SHIFT) + offset, view[at : at + size])
            at += size
    for vcpu_id in range(XEN_LEGACY_MAX_VCPUS):
        mask = shared_info.offsetof("vcpu_info", domain.bits) + vcpu_id * vcpu_info.sizeof(64) + 1
        memory.write(domain.shared_info_maddr + mask, b"\1")


def _start_pv(domain: Domain, platform: PvPlatform, plan: PvPlan, mfns: list[int]) -> None:
    """Pin the root table, and set the first vCPU to the kernel's entry."""
    root, vcpu = mfns[plan.root], domain.vcpus[0]
    result = platform.pages.pin(root, 4 if plan.bits == 64 else 3)
    cpu = platform.make_cpu(vcpu)
    result = result or cpu.pv_new_table(root, False)
    if result:
        raise UserError(
            f"{plan.kernel.name}: its page tables were refused (errno {-result});"
            " the file is damaged"
        )
    stack = plan.address(plan.stack + 1)
    cpu.pv_set("kernel_ss", FLAT_KERNEL_SS if plan.bits == 64 else FLAT_RING1_SS)
    cpu.pv_set("kernel_sp", stack)
    state = kernel_state(
        0, plan.bits, entry=plan.entry, stack=stack, start_info=plan.address(plan.start_info)
    )
    platform.start(vcpu, state)
    vcpu.bring_up()


def apply_limits(domain: Domain, config: DomainConfig) -> None:
    """What a configuration sets of a domain that hasn't run yet: grant tables, timers."""
    grants = domain.grants
    grants.max_grant_frames = config.max_grant_frames
    grants.max_maptrack_frames = config.max_maptrack_frames
    grants.max_version = config.max_grant_version
    if domain.kind.is_hvm_type:
        # The names stand in the order of HVMPTM_*.
        domain.hvm_params[params.HVM_PARAM_TIMER_MODE] = get_args(TimerMode).index(
            config.timer_mode
        )


def _fill_memory(domain: Domain, built: BuiltGuest, pages: int) -> None:
    p2m = domain.p2m
    with _enough_memory(domain, pages):
        for gfn, count in built.extra:
            p2m.populate(gfn, count)
        if pages < built.pages:
            for gfn, count in built.ram:
                p2m.populate_on_demand(gfn, count)
            if p2m.pod is not None:
                p2m.pod.set_target(pages)
        else:
            for gfn, count in built.ram:
                p2m.populate(gfn, count)
    for gpa, data in built.pieces():
        if p2m.pod is not None:
            for gfn in range(gpa >> PAGE_SHIFT, (gpa + len(data) - 1 >> PAGE_SHIFT) + 1):
                p2m.touch(gfn)
        domain.space.write(gpa, data)
    domain.p2m.e820 = tuple((entry.addr, entry.size, int(entry.type)) for entry in built.e820)


@contextmanager
def _enough_memory(domain: Domain, pages: int) -> Iterator[None]:
    """Say in words that the machine has too few frames left for `pages`."""
    try:
        yield
    except XenError as error:
        if error.errno is not Errno.ENOMEM:
            raise
        free = domain.memory.free_frames() >> 20 - PAGE_SHIFT
        raise UserError(
            f"the machine has {free} MiB of memory left, and the guest needs"
            f" {pages >> 20 - PAGE_SHIFT} MiB; give it less (--memory)"
        ) from None


def attach_console(control: Domain, domain: Domain) -> ConsoleBackend:
    """The console back end of `control` for the domain: ring page, event channel, parameters.

    The page is granted and mapped, so that it stays where it is whatever the guest does with it.
    """
    gfn = domain.hvm_params[params.HVM_PARAM_CONSOLE_PFN]
    domain.grants.seed(GNTTAB_RESERVED_CONSOLE, control.domid, gfn)
    try:
        page = map_grant(control.grants, domain.domid, GNTTAB_RESERVED_CONSOLE)
    except GrantError as error:
        raise ValueError(f"the console page {gfn:#x} isn't populated") from error
    # A PV guest's start info page tells the port, and a guest that was saved knows it.
    port = domain.hvm_params.get(params.HVM_PARAM_CONSOLE_EVTCHN, 0)
    if not port:
        port = domain.events.alloc_unbound(control.domid)
        domain.hvm_params[params.HVM_PARAM_CONSOLE_EVTCHN] = port
    return ConsoleBackend(domain.memory, page.maddr, control.events, domain.domid, port, page.unmap)
