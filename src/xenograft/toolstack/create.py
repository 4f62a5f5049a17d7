# SPDX-License-Identifier: GPL-2.0-or-later
"""From a built guest to a domain that can run: memory, parameters, first vCPU, console.

What libxl and xenconsoled do at a domain's creation (libxl__build_pre(), libxl__build_hvm(),
xc_dom_boot_image()).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.grant_table import GNTTAB_RESERVED_CONSOLE
from xenograft.abi.hvm import params
from xenograft.arch.x86.pvh import pvh_entry
from xenograft.backends.console.console import ConsoleBackend
from xenograft.engine.protocol import PAGE_SHIFT
from xenograft.hypervisor.grants.host import map_grant
from xenograft.hypervisor.grants.status import GrantError
from xenograft.hypervisor.kinds import GuestKind
from xenograft.toolstack.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xenograft.arch.x86.cpuid.policy import Edit
    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.hypervisor import Hypervisor
    from xenograft.toolstack.build.guest import BuiltGuest

MAXMEM_CONSTANT_PAGES = 256
"""Pages that a domain may have beyond its build (LIBXL_MAXMEM_CONSTANT: 1 MiB)."""


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


def create_pvh_domain(
    hypervisor: Hypervisor,
    built: BuiltGuest,
    *,
    name: str,
    uuid: bytes = bytes(16),
    cpuid: Iterable[Edit] = (),
    max_event_channels: int = 1023,
    max_pages: int | None = None,
) -> Domain:
    """A paused domain with the guest in its memory and its first vCPU at the entry point.

    Raises UserError if the machine has too little memory left.
    """
    pages = built.pages if max_pages is None else max(max_pages, built.pages)
    domain = hypervisor.create_domain(
        GuestKind.PVH,
        name=name,
        uuid=uuid,
        max_vcpus=built.vcpus,
        max_pages=pages + MAXMEM_CONSTANT_PAGES,
        max_event_channels=max_event_channels,
    )
    try:
        domain.arch.set_cpuid(cpuid)
        _fill_memory(domain, built)
        domain.hvm_params.update(built.special.hvm_params())
        domain.hvm_params[params.HVM_PARAM_STORE_EVTCHN] = domain.events.alloc_unbound(0)
        domain.hvm_params[params.HVM_PARAM_TIMER_MODE] = params.HVMPTM_no_delay_for_missed_ticks
        vcpu = domain.vcpus[0]
        domain.arch.start(vcpu, pvh_entry(built.entry, built.start_info))
        vcpu.bring_up()
    except BaseException:
        hypervisor.destroy_domain(domain)
        raise
    return domain


def _fill_memory(domain: Domain, built: BuiltGuest) -> None:
    try:
        for gfn, count in (*built.ram, *built.extra):
            domain.p2m.populate(gfn, count)
    except XenError as error:
        if error.errno is not Errno.ENOMEM:
            raise
        free = domain.memory.free_frames() >> 20 - PAGE_SHIFT
        raise UserError(
            f"the machine has {free} MiB of memory left, and the guest needs"
            f" {built.pages >> 20 - PAGE_SHIFT} MiB; give it less (--memory)"
        ) from None
    for gpa, data in built.pieces():
        domain.space.write(gpa, data)
    domain.p2m.e820 = tuple((entry.addr, entry.size, int(entry.type)) for entry in built.e820)


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
    port = domain.events.alloc_unbound(control.domid)
    domain.hvm_params[params.HVM_PARAM_CONSOLE_EVTCHN] = port
    return ConsoleBackend(domain.memory, page.maddr, control.events, domain.domid, port, page.unmap)
