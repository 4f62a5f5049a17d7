# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that goes on as another domain, whose memory, grants and ports are copies."""

from __future__ import annotations

import struct

import msgspec

from tests.backends.scene import PAGES, Guest, Scene
from xenograft.abi.errno import XenError
from xenograft.abi.grant_table import GNTTAB_RESERVED_XENSTORE
from xenograft.toolstack.state.services import (
    ServicesState,
    capture_services,
    check_services,
    revive_services,
    settle,
)

STORE_GFN = PAGES - 1


def introduce(guest: Guest) -> None:
    """Make the guest known to the store, with a ring page."""
    guest.xen.space.write(STORE_GFN << 12, bytes(4096))
    guest.xen.grants.seed(GNTTAB_RESERVED_XENSTORE, 0, STORE_GFN)
    guest.scene.client.introduce(guest.domid, STORE_GFN, guest.port())
    guest.scene.run()


def carried(scene: Scene, guest: Guest) -> ServicesState:
    """The guest's services as bytes would carry them."""
    settle(scene.services, guest.domid)
    state = capture_services(scene.services, guest.xen)
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=ServicesState)
    check_services(state)
    return state


def moved(scene: Scene, guest: Guest, *, other: Scene | None = None) -> Guest:
    """Save a guest, let it go, and revive it as the next domain (of another machine).

    The same front end, `guest`, plays it from then on.
    """
    state = carried(scene, guest)
    pages = [guest.xen.space.read(gfn << 12, 4096) for gfn in range(PAGES)]
    shared = guest.xen.grants.shared
    entries = [guest.xen.memory.read(shared.maddr(ref), 8) for ref in range(len(shared))]
    ports = [port for port in range(1, 200) if _is_open(guest, port)]
    guest.store.close()
    scene.services.forget(guest.domid)
    scene.xen.destroy_domain(guest.xen)
    scene = scene if other is None else other
    # Numbers go on: the twin has another one.
    spares = [scene.guest()]
    while (twin := scene.guest()).domid == guest.domid:
        spares.append(twin)
    for gfn, data in enumerate(pages):
        twin.xen.space.write(gfn << 12, data)
    for ref, entry in enumerate(entries):
        flags, domid, gfn = struct.unpack("<HHI", entry)
        if flags & 3:
            # Nobody has it mapped there.
            twin.xen.grants.shared.write_v1(ref, flags & ~0x18, domid, gfn)
    for port in ports:
        twin.xen.events.alloc_unbound(0, port)
    scene.client.rm(f"/local/domain/{twin.domid}")
    for spare in spares:
        spare.store.close()
        scene.xen.destroy_domain(spare.xen)
    guest.scene, guest.xen, guest.domid = scene, twin.xen, twin.domid
    guest.store = twin.store
    guest.devices = twin.devices
    revive_services(scene.services, twin.xen, state)
    scene.run()
    return guest


def _is_open(guest: Guest, port: int) -> bool:
    try:
        return guest.xen.events.status(port).status != 0
    except XenError:
        return False
