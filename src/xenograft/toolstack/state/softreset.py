# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest whose memory and processors go on, while all that it has of Xen begins anew.

A kernel that is about to jump into another one (kexec) calls SCHEDOP_shutdown with
SHUTDOWN_soft_reset.  It comes back from it with its memory as it was, and without what the next
kernel couldn't know about: event channels, grants, watches, connected devices and registered
pages (XEN_DOMCTL_soft_reset in public/domctl.h; xl.cfg(5), on_soft_reset).

Xen empties the same domain; here another one takes its place, as after a reboot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.errno import XenError
from xenograft.abi.hvm.params import HVM_PARAM_CONSOLE_PFN, HVM_PARAM_STORE_PFN
from xenograft.engine.protocol import PAGE_SHIFT, PAGE_SIZE
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.state.capture import capture
from xenograft.hypervisor.state.rebuild import clone
from xenograft.hypervisor.state.records import StateError
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.state.guest import renewed
from xenograft.toolstack.state.services import settle

if TYPE_CHECKING:
    from collections.abc import Callable

    from xenograft.hypervisor.domain import Domain as XenDomain
    from xenograft.toolstack.machine import Domain


def soft_reset(domain: Domain, end: Callable[[], None] | None = None) -> Domain:
    """The guest in a new domain, paused; `end` destroys the old one (default: `Domain.destroy`).

    As with xl the guest may have shut down for any reason.  Raises UserError: it hasn't, or can't
    have it (PV guests can't, as in Xen, and one that serves others devices can't here), and is as
    it was then; or its devices can't be attached again, and nothing is left of it.
    """
    machine, xen = domain.machine, domain.xen
    if not xen.is_shutting_down:
        raise UserError(f"{domain.name} runs: it has to ask for a soft reset itself")
    if xen.kind is not GuestKind.PVH:
        raise UserError(f"{domain.name} is no PVH guest: it can't have a soft reset")
    settle(machine.services, domain.domid)
    domain.console._drain()
    console = domain.console.backend.save()
    try:
        fresh = clone(xen, capture(xen), name=domain.name, uuid=xen.uuid, fresh=True)
    except StateError as error:
        raise UserError(f"{domain.name} can't have a soft reset: {error}") from None
    except XenError as error:
        raise UserError(f"{domain.name} can't have a soft reset ({error.errno.name})") from None
    for parameter in (HVM_PARAM_STORE_PFN, HVM_PARAM_CONSOLE_PFN):
        _clear(fresh, fresh.hvm_params.get(parameter, 0))
    (domain.destroy if end is None else end)()
    renewal = renewed(machine, fresh, domain.config, ())
    renewal.console.restore(console)
    machine.announce(renewal.name)
    return renewal


def _clear(xen: XenDomain, gfn: int) -> None:
    """Nobody has written to a ring yet."""
    if gfn and xen.space.lookup(gfn) is not None:
        xen.space.write(gfn << PAGE_SHIFT, bytes(PAGE_SIZE))
