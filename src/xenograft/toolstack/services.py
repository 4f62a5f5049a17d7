# SPDX-License-Identifier: GPL-2.0-or-later
"""The services of the embedded control domain: the store, host I/O, and the back ends.

What xenstored, the hotplug scripts and the kernel's back end drivers are to a real domain 0.
They run on the machine's thread; only host I/O has threads of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.grant_table import GNTTAB_RESERVED_XENSTORE
from xenograft.backends.net.networks import Networks
from xenograft.backends.net.uplink import uplinks
from xenograft.backends.xen_9pfs.locks import LockTable
from xenograft.backends.xenbus.bus import DeviceFactory, XenbusBackend
from xenograft.backends.xenbus.host import BackendHost
from xenograft.backends.xenbus.work import WorkPool
from xenograft.hypervisor.grants.host import GrantMapping, map_grant
from xenograft.hypervisor.grants.status import GrantError
from xenograft.store.client import StoreClient
from xenograft.store.ring import RingTransport
from xenograft.store.service import Xenstore
from xenograft.toolstack.layout import (
    DomainFacts,
    domain_nodes,
    forget_domain,
    machine_nodes,
    write_nodes,
)

if TYPE_CHECKING:
    from xenograft.backends.block.images.image import Image
    from xenograft.backends.xenbus.device import XenbusDevice
    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.hypervisor import Hypervisor
    from xenograft.store.connection import Connection
    from xenograft.toolstack.config.disk import Disk
    from xenograft.toolstack.devices.standin import StandIn


def _libslirp() -> Sequence[Path]:
    # Few machines need it, and it stands on the whole image cache.
    from xenograft.toolstack.images.libraries import libslirp_files

    return libslirp_files()


class StoreRing:
    """A guest's way to the store: its page, mapped by its grant, and its event channel."""

    def __init__(
        self,
        control: Domain,
        store: Xenstore,
        connection: Connection,
        port: int,
    ) -> None:
        """Raises XenError if the page isn't granted or the port isn't left for us."""
        self._control = control
        self._domid = connection.domid
        self._page: GrantMapping | None = None
        self._port: int | None = None
        page = self._open(port)
        self._queued = False
        self.transport = RingTransport(
            store, connection, page, self._notify, self._rebound, self._close, self._defer
        )
        # What the guest has written before we were there waits for an event no more.
        self._defer()

    def _open(self, port: int) -> GrantMapping:
        events = self._control.events
        self._port = events.bind_interdomain(self._domid, port)
        try:
            self._page = map_grant(self._control.grants, self._domid, GNTTAB_RESERVED_XENSTORE)
        except GrantError:
            self._close()
            raise XenError(Errno.EINVAL) from None
        events.attach(self._port, lambda _port: self.transport.handle())
        return self._page

    def _rebound(self, _gfn: int, port: int) -> GrantMapping:
        self._close()
        return self._open(port)

    def _notify(self) -> None:
        if self._port is not None:
            self._control.events.send(self._port)

    def _defer(self) -> None:
        """Look again when others have had their turn."""
        if not self._queued:
            self._queued = True
            hypervisor = self._control.hypervisor
            hypervisor.timers.add(hypervisor.clock.now(), self._again)

    def _again(self) -> None:
        self._queued = False
        if self._page is not None:
            self.transport.handle()

    def _close(self) -> None:
        if self._port is not None:
            self._control.events.close(self._port)
            self._port = None
        if self._page is not None:
            self._page.unmap()
            self._page = None


class Services:
    """The services of a machine; they begin and end with it."""

    def __init__(self, hypervisor: Hypervisor, control: Domain) -> None:
        self.hypervisor = hypervisor
        self.control = control
        clock = hypervisor.clock
        self.store = Xenstore(
            connector=self._connect,
            now=clock.now,
            timers=hypervisor.timers,
            log=lambda line: hypervisor.log.write(f"xenstore: {line}"),
        )
        self.client = StoreClient(self.store)
        """The toolstack's own connection."""
        self.work = WorkPool(hypervisor)
        self.host = BackendHost(hypervisor, control, StoreClient(self.store), self.work)
        self.networks = Networks(clock.now, self._later, uplinks(hypervisor, _libslirp))
        self.locks = LockTable()
        """Locks of guests that share folders."""
        self.sending = False
        """Whether a guest is being sent elsewhere: the machine has one log of written pages."""
        self.images: dict[tuple[int, int], Image] = {}
        """Images that were opened for block devices which are about to be made."""
        self.opened: dict[Disk, Image] = {}
        """Images that were opened beside the machine, for disks which are about to be attached."""
        self.stand_ins: dict[int, StandIn] = {}
        """Who answers for driver domains that have died, by their number."""
        self.buses: dict[str, XenbusBackend] = {}
        """The back ends of domain 0, by the kind of their devices."""
        memory = hypervisor.memory.frames << 2
        self.client.transact(lambda view: write_nodes(view, machine_nodes(memory)))
        self.serve("vbd", self._make_vbd)
        self.serve("vif", self._make_vif)
        self.serve("9pfs", self._make_9pfs)
        # The first console has no states: the toolstack serves it.
        self.serve("console", _make_console, lowest=1)
        self.serve("vfb", _make_vfb)
        self.serve("vkbd", _make_vkbd)
        hypervisor.instruments.on_change(self._listen)

    def _later(self, function: Callable[[], None]) -> None:
        self.hypervisor.timers.add(self.hypervisor.clock.now(), function)

    # -- back ends ---------------------------------------------------------------------------
    def serve(self, kind: str, factory: DeviceFactory, lowest: int = 0) -> None:
        """Serve devices of one kind from now on, those with numbers from `lowest` on."""
        self.buses[kind] = XenbusBackend(self.host, kind, factory, lowest)

    def _make_vbd(self, host: BackendHost, path: str, domid: int, devid: int) -> XenbusDevice:
        from xenograft.backends.block.device import BlockDevice

        device = BlockDevice(host, path, domid, devid)
        device.provided = self.images.pop((domid, devid), None)
        return device

    def _make_vif(self, host: BackendHost, path: str, domid: int, devid: int) -> XenbusDevice:
        from xenograft.backends.net.vif import VifDevice

        return VifDevice(self.networks, host, path, domid, devid)

    def _make_9pfs(self, host: BackendHost, path: str, domid: int, devid: int) -> XenbusDevice:
        from xenograft.backends.xen_9pfs.device import P9Device

        return P9Device(self.locks, host, path, domid, devid)

    def devices(self, domid: int) -> list[XenbusDevice]:
        """The devices that domain 0 serves to a domain, by kind and number."""
        return [
            device for kind in sorted(self.buses) for device in self.buses[kind].of_domain(domid)
        ]

    # -- the store ---------------------------------------------------------------------------
    def _connect(self, connection: Connection, _gfn: int, port: int) -> RingTransport:
        """The store's way to a domain that is introduced.  Raises XenError."""
        if connection.domid not in self.hypervisor.domains:
            raise XenError(Errno.ENOENT)
        return StoreRing(self.control, self.store, connection, port).transport

    def _listen(self) -> None:
        """Let the store tell of its requests, as long as somebody wants to hear of them."""
        hook = self.hypervisor.instruments.xenstore_request
        if hook is None:
            self.store.on_request = None
            return
        now = self.hypervisor.clock.now

        def report(
            domid: int,
            operation: int,
            tx_id: int,
            request: bytes,
            reply_type: int,
            reply: bytes,
            connection: int,
        ) -> None:
            hook(now(), domid, operation, request, reply, tx_id, reply_type, connection)

        self.store.on_request = report

    def introduce(self, domain: Domain, facts: DomainFacts) -> None:
        """Tell the store of a new domain: its nodes, and the way to talk to it."""
        domain.grants.seed(GNTTAB_RESERVED_XENSTORE, self.control.domid, facts.store_gfn)
        self.client.transact(lambda view: write_nodes(view, domain_nodes(facts)))
        self.client.introduce(domain.domid, facts.store_gfn, facts.store_port)
        domain.on_shutdown.append(lambda _domain: self.store.shut_down(domain.domid))

    def forget(self, domid: int) -> None:
        """A domain is destroyed: its devices and nodes go."""
        for device in self.devices(domid):
            device.remove()
        if self.store.is_introduced(domid):
            self.client.release(domid)
        forget_domain(self.client, domid)

    def close(self) -> None:
        """End all services; what is under way on the host is finished first."""
        for bus in self.buses.values():
            bus.close()
        self.work.close()
        self.host.close()
        self.networks.close()
        for image in self.images.values():
            image.close()
        self.images.clear()


def _make_console(host: BackendHost, path: str, domid: int, devid: int) -> XenbusDevice:
    from xenograft.backends.console.device import ConsoleDevice

    return ConsoleDevice(host, path, domid, devid)


def _make_vfb(host: BackendHost, path: str, domid: int, devid: int) -> XenbusDevice:
    from xenograft.backends.display.framebuffer import FramebufferDevice

    return FramebufferDevice(host, path, domid, devid)


def _make_vkbd(host: BackendHost, path: str, domid: int, devid: int) -> XenbusDevice:
    from xenograft.backends.display.keyboard import KeyboardDevice

    return KeyboardDevice(host, path, domid, devid)
