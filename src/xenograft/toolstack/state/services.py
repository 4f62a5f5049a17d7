# SPDX-License-Identifier: GPL-2.0-or-later
"""What domain 0's services know of a guest: its store, its devices, its console.

A guest that doesn't know that it's being saved has its front ends connected, and goes on with
them: `revive` makes back ends that begin where the old ones have stopped.  They need little for
that, since an idle back end's ring is described by the ring (BACK_RING_ATTACH, public/io/ring.h).
"""

from __future__ import annotations

import uuid as uuids
from typing import TYPE_CHECKING

import msgspec

from xenograft.abi.errno import XenError
from xenograft.abi.io.xenbus import XenbusState
from xenograft.backends.xenbus.state import parse_state
from xenograft.store import tree
from xenograft.store.path import split
from xenograft.store.persist import DomainRecord, moved, restore_domain, save_domain
from xenograft.store.ring import RingRecord, RingTransport
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.layout import domain_path
from xenograft.toolstack.state.nodes import (
    Identity,
    SavedNode,
    Trees,
    check_nodes,
    graft_moved,
    save_nodes,
    saved_trees,
    trees_of,
)

if TYPE_CHECKING:
    from xenograft.hypervisor.domain import Domain
    from xenograft.toolstack.services import Services


class SavedDevice(msgspec.Struct, frozen=True):
    """A device that domain 0 serves; `state` is its own part as msgpack, if it has one."""

    kind: str
    devid: int
    state: bytes | None


class ServicesState(msgspec.Struct, frozen=True):
    """All of it, by the domid that the guest had."""

    domid: int
    uuid: str
    nodes: tuple[SavedNode, ...]
    connection: DomainRecord
    ring: RingRecord
    devices: tuple[SavedDevice, ...]


def uuid_text(domain: Domain) -> str:
    return str(uuids.UUID(bytes=domain.uuid))


def served_elsewhere(services: Services, domid: int) -> list[str]:
    """Devices of a guest whose back ends are in other domains, as ``vbd 51712``."""
    own = f"{domain_path(0)}/backend/".encode()
    listed = tree.lookup(services.store.state.root, split(f"/libxl/{domid}/device"))
    found = []
    for kind, devices in () if listed is None else listed.children.items():
        for name, device in devices.children.items():
            backend = device.children.get("backend")
            if backend is None or not backend.value.startswith(own):
                found.append(f"{kind} {name}")
    return found


def check_served_here(services: Services, domain: Domain) -> None:
    """Raises UserError if other domains serve some of a guest's devices."""
    if elsewhere := served_elsewhere(services, domain.domid):
        raise UserError(
            f"{domain.name} can't be saved without its help: another domain serves its"
            f" {', '.join(elsewhere)}"
        )


def settle(services: Services, domid: int) -> None:
    """Have all answered that the guest's back ends have under way; the guest must stand still."""
    services.host.drain()
    for device in services.devices(domid):
        device.quiesce()


def capture_services(services: Services, domain: Domain, *, nodes: bool = True) -> ServicesState:
    """The state of a paused guest's services, after `check_served_here` and `settle`.

    Without `nodes` it has none: who stays on this machine keeps the trees themselves.  Raises
    UserError.
    """
    domid, store = domain.domid, services.store
    known = store.domains.get(domid)
    if known is None or not isinstance(known.transport, RingTransport):
        raise UserError(f"{domain.name} isn't known to the store")
    devices = []
    for device in services.devices(domid):
        try:
            state = device.save()
        except ValueError as error:
            raise UserError(str(error)) from None
        packed = None if state is None else msgspec.msgpack.encode(state)
        devices.append(SavedDevice(device.kind, device.devid, packed))
    uuid = uuid_text(domain)
    return ServicesState(
        domid=domid,
        uuid=uuid,
        nodes=save_nodes(trees_of(store, domid, uuid)) if nodes else (),
        connection=save_domain(store, domid),
        ring=known.transport.save(),
        devices=tuple(devices),
    )


def check_services(state: ServicesState) -> None:
    """Raises ValueError if a state that comes out of a file makes no sense."""
    check_nodes(state.nodes, state.domid, state.uuid)
    if state.connection.domid != state.domid:
        raise ValueError("the store's connection is another domain's")
    if len(state.devices) > 1 << 10:
        raise ValueError("too many devices")


def revive_services(
    services: Services, domain: Domain, state: ServicesState, trees: Trees | None = None
) -> None:
    """Serve a domain that was rebuilt from a saved one, and is paused yet.

    Its grants and its ports are there again, its number may be another.  `trees`: its part of
    the store, if that isn't in `state`.  Raises UserError; the caller then lets all go as for any
    domain (`Services.forget`).
    """
    domid = domain.domid
    old, new = Identity(state.domid, state.uuid), Identity(domid, uuid_text(domain))
    try:
        trees = saved_trees(state.nodes) if trees is None else trees
        graft_moved(services.store, services.client.connection, trees, old, new)
        services.client.introduce(domid, state.connection.gfn, state.connection.port)
        restore_domain(services.store, moved(state.connection, domid))
    except XenError as error:
        raise UserError(f"its part of the store can't be restored ({error.errno.name})") from None
    transport = services.store.domains[domid].transport
    assert isinstance(transport, RingTransport)  # the services' connector has made it
    transport.restore(state.ring)
    domain.on_shutdown.append(lambda _domain: services.store.shut_down(domid))
    for saved in state.devices:
        _revive(services, domid, saved)


def _revive(services: Services, domid: int, saved: SavedDevice) -> None:
    bus = services.buses.get(saved.kind)
    what = f"{saved.kind} {saved.devid}"
    if bus is not None and bus.find(domid, saved.devid) is not None:
        # Nobody had begun with it: to the bus it was a new one.
        return
    if bus is None:
        raise UserError(f"{what}: there is no such device to restore")
    path = f"{bus.root}/{domid}/{saved.devid}"
    if parse_state(services.client.get(f"{path}/state")) is XenbusState.Unknown:
        raise UserError(f"{what}: its nodes are missing")
    device = bus.adopt(domid, saved.devid, saved.state)
    if device.error is not None:
        # Its number is for those who read the store.
        raise UserError(f"{what}: {device.error.partition(' ')[2]}")
