# SPDX-License-Identifier: GPL-2.0-or-later
"""Clones of a running guest, and moments that it can be taken back to.

A clone shares its parent's memory and disks until one of both writes (hypervisor/state,
backends/block/images/snapshot).  It has a number, a UUID and a name of its own.  Its devices
are where the parent's are, and it notices nothing, but for its network interfaces: two with
one address can't be on a bridge, so each is unplugged, and one with an address of its own is
plugged in instead.
"""

from __future__ import annotations

import gc
import uuid as uuids
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from xenograft.abi.errno import Errno, XenError
from xenograft.backends.block.device import BlockDevice
from xenograft.backends.block.images.snapshot import Origin, Overlay, Snapshot
from xenograft.backends.net.vif import VifDevice
from xenograft.hypervisor.state.capture import capture
from xenograft.hypervisor.state.rebuild import clone, freeze
from xenograft.hypervisor.state.records import DomainState, StateError
from xenograft.store import tree
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.state.guest import adopted, check_can_save
from xenograft.toolstack.state.nodes import Trees, trees_of
from xenograft.toolstack.state.services import capture_services, settle
from xenograft.toolstack.state.suspend import is_suspended

if TYPE_CHECKING:
    from xenograft.backends.console.console import ConsoleState
    from xenograft.hypervisor.domain import Domain as XenDomain
    from xenograft.store.path import Parts
    from xenograft.store.tree import Node
    from xenograft.toolstack.config.domain import DomainConfig
    from xenograft.toolstack.machine import Domain, Machine

Disks = dict[int, Snapshot]
"""Contents of writable disks, by device number."""


def fork(domain: Domain, name: str, paused: bool = False) -> Domain:
    """A clone that runs as soon as the machine does.  Raises UserError; nothing remains then."""
    domain.machine.check_name(name)
    with _no_garbage(), Moment(domain, keep_memory=False) as moment:
        return moment.fork(name, paused)


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Python doesn't look for garbage: all the objects that a clone is made of stay in use.

    There are thousands of them, and a tenth of the time went into looking at them.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


class Moment:
    """What a guest was at one moment, and what can come of it again.  A context manager.

    Raises UserError for a guest whose state can't be had.  With `keep_memory` a paused domain
    that nobody sees keeps it; without, it's good as long as the guest stands still.
    """

    def __init__(self, domain: Domain, keep_memory: bool = True) -> None:
        check_can_save(domain, "snapshot")
        if is_suspended(domain.xen):
            raise UserError(f"{domain.name} has suspended itself; resume it first")
        self._machine = domain.machine
        self._config = domain.config
        self._xen = domain.xen
        self._own = False
        self.taken_ns = domain.machine.hypervisor.clock.now()
        """When it was, in ns of the machine's time."""
        self.name = domain.name
        self._domain = domain
        domain.pause()
        self._disks: Disks = {}
        try:
            services = self._machine.services
            settle(services, domain.domid)
            domain.console._drain()
            self._services = capture_services(services, domain.xen, nodes=False)
            self._trees = trees_of(services.store, domain.domid, self._services.uuid)
            self._console: ConsoleState = domain.console.backend.save()
            self._state = _capture(domain.xen)
            self._disks = _disks(self._machine, domain.domid)
            if keep_memory:
                self._xen = self._clone(f"{domain.name} as it was", domain.xen.uuid)
                freeze(self._xen)
                self._own = True
                domain.unpause()
        except OSError as error:
            self._let_go(domain)
            raise UserError(f"{domain.name}: {error.strerror or error}") from None
        except BaseException:
            self._let_go(domain)
            raise

    def __enter__(self) -> Moment:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _let_go(self, domain: Domain) -> None:
        domain.unpause()
        self._drop_disks()

    def _clone(self, name: str, uuid: bytes) -> XenDomain:
        try:
            return clone(self._xen, self._state, name=name, uuid=uuid)
        except StateError as error:
            raise UserError(str(error)) from None
        except XenError as error:
            if error.errno is not Errno.ENOMEM:
                raise UserError(f"{self.name} can't be cloned ({error.errno.name})") from None
            raise UserError("the machine has too little memory left for another guest") from None

    def fork(self, name: str, paused: bool = False, *, uuid: str | None = None) -> Domain:
        """A guest that goes on from here, with disks of its own.  Raises UserError."""
        self._machine.check_name(name)
        config = msgspec.structs.replace(
            self._config,
            name=name,
            uuid=uuid or str(uuids.uuid4()),
            vif=tuple(msgspec.structs.replace(vif, mac="", forward=()) for vif in self._config.vif),
            # Its disks are nowhere but here: it can't be built again.
            on_reboot="destroy",
            on_crash="destroy",
            on_watchdog="destroy",
            on_soft_reset="destroy",
        )
        images = {devid: Overlay(disk.share()) for devid, disk in self._disks.items()}
        domain = self._adopt(config, _own_trees(self._trees, name), images)
        _renew_interfaces(domain)
        if not paused:
            domain.unpause()
        self._machine.announce(name)
        return domain

    def rewind(
        self, end: Callable[[Domain], None] | None = None, *, paused: bool = False
    ) -> Domain:
        """The guest as it was, its disks too, in place of what has become of it.

        The domain has another number.  `end` destroys what there is of the guest now.  Raises
        UserError.
        """
        machine, identity = self._machine, self._state.uuid
        for other in machine.domains:
            if other.name == self.name and other.xen.uuid != identity:
                raise UserError(f"there is another guest {self.name} by now; rename it first")
        for other in machine.domains:
            if other.xen.uuid == identity:
                (other.destroy if end is None else partial(end, other))()
        images: dict[int, Origin] = {}
        try:
            for devid, disk in self._disks.items():
                disk.revert()
                images[devid] = disk.origin.reopen()
        except OSError as error:
            raise UserError(f"{self.name}: {error.strerror or error}") from None
        domain = self._adopt(self._config, self._trees, images)
        if not paused:
            domain.unpause()
        machine.announce(self.name)
        return domain

    def _adopt(
        self,
        config: DomainConfig,
        trees: Trees,
        images: dict[int, Overlay] | dict[int, Origin],
    ) -> Domain:
        machine = self._machine
        xen = self._clone(config.name, uuids.UUID(config.uuid or self._services.uuid).bytes)
        for devid, image in images.items():
            machine.services.images[xen.domid, devid] = image
        try:
            domain = adopted(machine, xen, config, self._services, trees)
        except BaseException:
            for devid in images:
                left = machine.services.images.pop((xen.domid, devid), None)
                if left is not None:
                    left.close()
            if not xen.dying:
                machine.services.forget(xen.domid)
                machine.hypervisor.destroy_domain(xen)
            raise
        domain.console.restore(self._console)
        return domain

    def close(self) -> None:
        """Forget it: what nobody else shares of its memory and disks is given back."""
        if self._own:
            self._own = False
            self._machine.hypervisor.destroy_domain(self._xen)
        elif not self._domain.destroyed:
            self._domain.unpause()
        self._drop_disks()

    def _drop_disks(self) -> None:
        disks, self._disks = self._disks, {}
        for disk in disks.values():
            disk.close()


def _capture(xen: XenDomain) -> DomainState:
    try:
        return capture(xen, ram=False)
    except StateError as error:
        raise UserError(str(error)) from None


def _disks(machine: Machine, domid: int) -> Disks:
    """What is in the guest's writable disks now.  Raises OSError."""
    found: Disks = {}
    try:
        for device in machine.services.buses["vbd"].of_domain(domid):
            if not isinstance(device, BlockDevice) or device.image is None or device.readonly:
                continue
            if not isinstance(device.image, Origin):
                device.image = Origin(device.image)
            found[device.devid] = device.image.snapshot()
    except BaseException:
        for disk in found.values():
            disk.close()
        raise
    return found


def _own_trees(trees: Trees, name: str) -> Trees:
    """A clone's part of the store: without what can be there but once on the host."""
    return [(place, _own_tree(place, top, name.encode())) for place, top in trees]


def _own_tree(place: Parts, top: Node, name: bytes) -> Node:
    match place[-2]:
        case "domain" | "vm":
            return tree.with_value(top, ("name",), lambda _: name)
        case "vif":
            for devid, device in top.children.items():
                if device.children.get("forward") is not None:
                    top = tree.remove(top, (devid, "forward"), device.generation)
        case "console":
            for devid in top.children:
                top = tree.with_value(top, (devid, "path"), lambda path: path + b"." + name)
    return top


def _renew_interfaces(domain: Domain) -> None:
    """Have a clone's interfaces go, and others come in their place."""
    vifs = {}
    for index, vif in enumerate(domain.config.vif):
        devid = index if vif.devid is None else vif.devid
        vifs[devid] = msgspec.structs.replace(vif, devid=devid)
    for device in domain.machine.services.buses["vif"].of_domain(domain.domid):
        if isinstance(device, VifDevice):
            # Until the guest lets go of it, it would speak with its parent's address.
            device.port.unplug()
        if (found := vifs.get(device.devid)) is not None:
            domain.devices.replace_vif(found)
