# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest suspends itself when it's asked by the store, and goes on in another life or this one.

libxl's dom_suspend code and Linux's drivers/xen/manage.c: the toolstack writes "suspend" to
control/shutdown, the guest takes it away, stops its devices, and calls SCHEDOP_shutdown with
SHUTDOWN_suspend.  What that call returns tells it where it is: 0, in a new domain whose event
channels, grants and store connection are fresh; 1, in the same one, where all is as it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi import sched
from xenograft.abi.hvm.params import HVM_PARAM_CALLBACK_IRQ
from xenograft.hypervisor.kinds import GuestKind
from xenograft.toolstack.layout import domain_path

if TYPE_CHECKING:
    from xenograft.hypervisor.domain import Domain
    from xenograft.store.client import StoreView
    from xenograft.toolstack.services import Services

ANSWER_SECONDS = 10.0
"""How long a guest has to begin with it."""

SUSPEND_SECONDS = 50.0
"""How long it may take from there on."""


def listens(domain: Domain) -> bool:
    """Whether the guest has its PV drivers up (libxl__domain_pvcontrol_available)."""
    if domain.kind is GuestKind.PV:
        return True
    callback = domain.hvm_params.get(HVM_PARAM_CALLBACK_IRQ, 0)
    return bool(callback) or any(vcpu.upcall_vector for vcpu in domain.vcpus)


def can_suspend(services: Services, domain: Domain) -> bool:
    """Whether the guest says that it can (xenstore-paths.pandoc, control/feature-suspend)."""
    feature = f"{domain_path(domain.domid)}/control/feature-suspend"
    return listens(domain) and not domain.is_shutting_down and services.client.get(feature) == "1"


def ask(services: Services, domain: Domain) -> None:
    """Ask the guest to suspend itself."""
    services.client.write(f"{domain_path(domain.domid)}/control/shutdown", "suspend")


def answered(services: Services, domain: Domain) -> bool:
    """Whether it has taken the request away."""
    return services.client.get(f"{domain_path(domain.domid)}/control/shutdown") != "suspend"


def withdraw(services: Services, domain: Domain) -> bool:
    """Take the request back; False if the guest has begun already."""
    path = f"{domain_path(domain.domid)}/control/shutdown"

    def work(view: StoreView) -> bool:
        if view.get(path) != "suspend":
            return False
        view.write(path, "")
        return True

    return services.client.transact(work)


def is_suspended(domain: Domain) -> bool:
    return domain.shutdown_reason == sched.SHUTDOWN_suspend


def resume(services: Services, domain: Domain) -> None:
    """Let a guest that has suspended itself go on in the same domain (xc_domain_resume, fast)."""
    cpu = domain.vcpus[0].cpu
    assert cpu is not None  # it has made the call that returns now
    cpu.set("rax", 1)
    domain.resume()
    if services.store.is_introduced(domain.domid):
        services.client.resume(domain.domid)
