# SPDX-License-Identifier: GPL-2.0-or-later
"""Domains: made, paused, asked to end, ended, renamed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.hvm.params import HVM_PARAM_CALLBACK_IRQ
from xenograft.hypervisor.kinds import GuestKind
from xenograft.toolstack.service import messages
from xenograft.toolstack.service.messages import Failure
from xenograft.toolstack.service.table import on_loop, on_machine

if TYPE_CHECKING:
    from xenograft.hypervisor.domain import Domain
    from xenograft.toolstack.service.host import Host
    from xenograft.toolstack.service.service import Service


@on_loop(messages.CreateDomain)
async def create(service: Service, request: messages.CreateDomain) -> messages.Created:
    return await service.create(request.config, request.paused)


@on_machine(messages.UpdateConfig)
def update_config(host: Host, request: messages.UpdateConfig) -> None:
    """The name and UUID stay what they are: they are the domain's, not the file's."""
    import msgspec

    guest = host.guest(request.domain)
    guest.config = msgspec.structs.replace(
        request.config, name=guest.config.name, uuid=guest.config.uuid
    )
    host.changed()


@on_machine(messages.Pause)
def pause(host: Host, request: messages.Pause) -> None:
    host.guest(request.domain).domain.pause()


@on_machine(messages.Unpause)
def unpause(host: Host, request: messages.Unpause) -> None:
    guest = host.guest(request.domain)
    try:
        guest.domain.unpause()
    except XenError as error:
        if error.errno is not Errno.EINVAL:
            raise
        # xl complains, and ends with status 0 all the same.
        raise Failure(f"Domain {guest.domid}:Unpausing domain: Invalid argument", 0) from None


@on_machine(messages.Destroy)
def destroy(host: Host, request: messages.Destroy) -> None:
    host.destroy(host.guest(request.domain))


def pv_control(domain: Domain) -> bool:
    """Whether the guest listens to its control directory (libxl__domain_pvcontrol_available)."""
    if domain.kind is GuestKind.PV:
        return True
    callback = domain.hvm_params.get(HVM_PARAM_CALLBACK_IRQ, 0)
    return bool(callback) or any(vcpu.upcall_vector for vcpu in domain.vcpus)


@on_machine(messages.Shutdown)
def shutdown(host: Host, request: messages.Shutdown) -> int:
    """Write control/shutdown (libxl_domain_shutdown, libxl_domain_reboot)."""
    guest = host.guest(request.domain)
    xen = guest.domain.xen
    if xen.is_shutting_down:
        raise Failure(f"domain {guest.domid} has shut down already")
    if not pv_control(xen):
        if request.acpi and xen.kind is GuestKind.HVM:
            raise Failure("there is no emulated ACPI power button to press")
        what, event = ("reboot", "reset") if request.reboot else ("shutdown", "power")
        raise Failure(
            f"PV control interface not available: external graceful {what} not possible;"
            f" the guest has no Xen drivers (yet), and no ACPI {event} event"
        )
    word = "reboot" if request.reboot else "poweroff"
    host.store.write(f"/local/domain/{guest.domid}/control/shutdown", word)
    return guest.domid


@on_loop(messages.WaitEnd)
async def wait_end(service: Service, request: messages.WaitEnd) -> messages.Ended:
    host = service.host
    domid = await service.thread.call(lambda: host.guest(request.domain).domid)
    return await service.wait_end(domid, request.gone, request.timeout)


@on_machine(messages.Rename)
def rename(host: Host, request: messages.Rename) -> None:
    host.rename(host.guest(request.domain), request.name)
