# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices: listed as both ends have written them to the store, plugged and unplugged."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from xenograft.toolstack.config.disk import device_number, parse_disk
from xenograft.toolstack.devices.leaving import DESTROY_SECONDS
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.service import messages
from xenograft.toolstack.service.messages import Failure
from xenograft.toolstack.service.remote import with_disks
from xenograft.toolstack.service.table import on_loop, on_machine

if TYPE_CHECKING:
    from xenograft.toolstack.devices.manager import DeviceStatus
    from xenograft.toolstack.service.host import Guest, Host
    from xenograft.toolstack.service.service import Service

_EVENT_CHANNEL = {"console": "port"}
_RINGS = {"vbd": ("ring-ref",), "vif": ("tx-ring-ref", "rx-ring-ref"), "vkbd": ("page-gref",)}


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() else -1


def _row(host: Host, guest: Guest, status: DeviceStatus) -> messages.DeviceRow:
    store = host.store

    def front(name: str) -> int:
        return _number(store.get(f"{status.frontend}/{name}"))

    nodes = {
        path.removeprefix(f"{status.backend}/"): value
        for path, value in store.tree(status.backend)
        if path != status.backend
    }
    return messages.DeviceRow(
        kind=status.kind,
        devid=status.devid,
        backend_domid=status.backend_domid,
        frontend_domid=guest.domid,
        state=int(status.frontend_state),
        event_channel=front(_EVENT_CHANNEL.get(status.kind, "event-channel")),
        rings=[front(name) for name in _RINGS.get(status.kind, ("ring-ref",))],
        backend=status.backend,
        frontend=status.frontend,
        error=status.error,
        nodes=nodes,
        tty=store.get(f"{status.frontend}/tty") or "",
    )


@on_machine(messages.ListDevices)
def list_devices(host: Host, request: messages.ListDevices) -> list[messages.DeviceRow]:
    guest = host.guest(request.domain)
    return [
        _row(host, guest, status)
        for status in guest.domain.devices.all()
        if status.kind == request.kind and host.store.exists(status.backend)
    ]


@on_loop(messages.AttachDisk)
async def attach_disk(service: Service, request: messages.AttachDisk) -> None:
    host = service.host

    def attach() -> None:
        guest = host.guest(request.domain)
        guest.domain.devices.attach_disk(request.disk)
        config = guest.config
        guest.config = msgspec.structs.replace(config, disk=(*config.disk, request.disk))
        host.changed()

    await with_disks(service, [request.disk], attach)


@on_machine(messages.AttachVif)
def attach_vif(host: Host, request: messages.AttachVif) -> None:
    guest = host.guest(request.domain)
    record = guest.domain.devices.attach_vif(request.vif)
    # Built again, the guest is to find the same interface.
    vif = msgspec.structs.replace(request.vif, devid=record.devid, mac=record.backend["mac"])
    guest.config = msgspec.structs.replace(guest.config, vif=(*guest.config.vif, vif))
    host.changed()


@on_machine(messages.AttachVkb)
def attach_vkb(host: Host, request: messages.AttachVkb) -> None:
    guest = host.guest(request.domain)
    guest.domain.devices.attach_vkb(request.vkb)
    config = guest.config
    guest.config = msgspec.structs.replace(config, vkb=(*config.vkb, request.vkb))
    host.changed()


def find_device(host: Host, guest: Guest, kind: str, which: str) -> int:
    """The number of a device that is named by number, name (xvdb) or MAC address."""
    devices = [status for status in guest.domain.devices.all() if status.kind == kind]
    if kind == "vif" and ":" in which:
        for status in devices:
            if (host.store.get(f"{status.backend}/mac") or "").lower() == which.lower():
                return status.devid
        raise Failure(f"Unknown device {which[:40]}.")
    try:
        devid = device_number(which) if kind == "vbd" else int(which)
    except (UserError, ValueError):
        raise Failure(f"Device {which[:40]} not connected.") from None
    if all(status.devid != devid for status in devices):
        raise Failure(f"Device {which[:40]} not connected.")
    return devid


@on_loop(messages.DetachDevice)
async def detach(service: Service, request: messages.DetachDevice) -> None:
    """Ask the guest, and wait; what it doesn't give back is taken away if that's forced."""
    host, kind = service.host, request.kind
    gone: asyncio.Future[None] = service.loop.create_future()

    def resolve() -> None:
        if not gone.done():
            gone.set_result(None)

    def done() -> None:
        service.thread.tell(resolve)

    def ask() -> tuple[int, int]:
        guest = host.guest(request.domain)
        devid = find_device(host, guest, kind, request.which)
        guest.domain.devices.detach(kind, devid, done)
        return guest.domid, devid

    domid, devid = await service.thread.call(ask)
    if not request.force:
        await asyncio.wait([gone], timeout=DESTROY_SECONDS)
        if not gone.done():
            raise Failure(
                f"Domain {domid}:the guest hasn't released {kind} {devid} in"
                f" {DESTROY_SECONDS} s; it goes when the guest does so, and -f takes it away"
            )

    def forget() -> None:
        guest = host.guests.get(domid)
        if guest is None:
            return
        guest.domain.devices.remove(kind, devid)
        config = guest.config
        if kind == "vbd":
            kept = tuple(disk for disk in config.disk if disk.device_number != devid)
            guest.config = msgspec.structs.replace(config, disk=kept)
        elif kind == "vif":
            vifs = tuple(
                vif
                for index, vif in enumerate(config.vif)
                if (index if vif.devid is None else vif.devid) != devid
            )
            guest.config = msgspec.structs.replace(config, vif=vifs)
        elif kind == "vkbd":
            # Keyboards are numbered in the order of the configuration.
            vkbs = tuple(vkb for index, vkb in enumerate(config.vkb) if index != devid)
            guest.config = msgspec.structs.replace(config, vkb=vkbs)
        host.changed()

    await service.thread.call(forget)


@on_machine(messages.ChangeMedium)
def change_medium(host: Host, request: messages.ChangeMedium) -> None:
    """libxl_cdrom_insert; beyond it, the drives of PV and PVH guests change their medium too."""
    guest = host.guest(request.domain)
    devid = find_device(host, guest, "vbd", request.vdev)
    specification = f"vdev={request.vdev},access=r,devtype=cdrom"
    if request.path:
        specification += f",target={request.path}"
    try:
        disk = parse_disk(specification)
        guest.domain.devices.change_medium(disk)
    except UserError as error:
        raise Failure(f"Domain {guest.domid}:{error}") from None
    disks = tuple(disk if one.device_number == devid else one for one in guest.config.disk)
    guest.config = msgspec.structs.replace(guest.config, disk=disks)
    host.changed()


@on_machine(messages.Screenshot)
def screenshot(host: Host, request: messages.Screenshot) -> bytes:
    guest = host.guest(request.domain)
    try:
        return guest.domain.screen.picture().png()
    except UserError as error:
        raise Failure(str(error)) from None
