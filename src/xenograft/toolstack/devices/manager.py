# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain's devices, as the toolstack adds and removes them while the domain is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from xenograft.abi.io.xenbus import XenbusState
from xenograft.backends.net.networks import DEFAULT_BRIDGE, NetworkError
from xenograft.backends.xenbus.state import parse_state
from xenograft.toolstack.config.display import Vkb
from xenograft.toolstack.devices.channel import channel_record, check_channel
from xenograft.toolstack.devices.disk import disk_record, hint, open_disk
from xenograft.toolstack.devices.display import vfb_record, vkb_record
from xenograft.toolstack.devices.leaving import Leaving, remove_backend, see_off
from xenograft.toolstack.devices.p9 import check_folder, p9_record
from xenograft.toolstack.devices.record import DeviceRecord
from xenograft.toolstack.devices.vif import DEFAULT_MTU, vif_record
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.layout import remove_nodes, write_nodes

if TYPE_CHECKING:
    from xenograft.backends.net.forward import Forward
    from xenograft.backends.net.vif import VifDevice
    from xenograft.hypervisor.domain import Domain
    from xenograft.toolstack.config.channel import Channel
    from xenograft.toolstack.config.disk import Disk
    from xenograft.toolstack.config.display import Vfb
    from xenograft.toolstack.config.domain import DomainConfig
    from xenograft.toolstack.config.p9 import P9
    from xenograft.toolstack.config.vif import Vif
    from xenograft.toolstack.devices.capture import Capture
    from xenograft.toolstack.devices.standin import VbdWatch
    from xenograft.toolstack.services import Services

REATTACH_NS = 500_000_000
"""How long a device stays away at least before a new one takes its place; twice that the next
time, if it was too short."""

CHECK_NS = 3_000_000_000
MAX_ATTEMPTS = 6

STAND_IN_NS = 10_000_000_000
"""How long the requests of a guest whose driver domain has died are answered with errors."""


class DeviceStatus(NamedTuple):
    """A device as both ends see it."""

    kind: str
    devid: int
    backend_domid: int
    backend: str
    """Path of the back end's directory."""
    frontend: str
    backend_state: XenbusState
    frontend_state: XenbusState
    error: str | None
    """What the back end says went wrong."""


class _Served:
    """A device that goes and is attached again: with the driver domain that serves it, or by us.

    `server` is that domain's name, or "".
    `watch` knows what a disk's back end owes to the guest.
    """

    def __init__(self, server: str, attach: Callable[[], object], watch: VbdWatch | None) -> None:
        self.server = server
        self.attach = attach
        self.watch = watch
        self.removed_at: int | None = None
        """When the device went with its server, in ns of the machine's time."""
        self.attempts = 0
        """How often it was attached again."""


class Devices:
    """The devices of one domain. What they are is in the store alone."""

    def __init__(self, services: Services, domain: Domain) -> None:
        self._services = services
        self._domain = domain
        self._store = services.client
        self._served: dict[tuple[str, int], _Served] = {}
        """Devices that another guest serves."""

    # -- adding ------------------------------------------------------------------------------
    def attach_all(self, config: DomainConfig) -> None:
        """Add all devices of a configuration.  Raises UserError."""
        for disk in config.disk:
            self.attach_disk(disk)
        for vif in config.vif:
            self.attach_vif(vif)
        for p9 in config.p9:
            self.attach_p9(p9)
        for channel in config.channel:
            self.attach_channel(channel)
        for vfb in config.vfb:
            self.attach_vfb(vfb)
        for vkb in config.vkb:
            self.attach_vkb(vkb)
        # As xl does it: a screen comes with a keyboard.
        for _ in range(len(config.vfb) - len(config.vkb)):
            self.attach_vkb(Vkb())

    def attach_disk(self, disk: Disk) -> DeviceRecord:
        """Add a disk or CD drive.  Raises UserError, with nothing changed."""
        backend = self._backend(disk.backend, f"disk {disk.vdev}")
        record = disk_record(disk, self._domain.domid, backend)
        self._check_new(record, f"disk {disk.vdev}")
        if backend == self._services.control.domid:
            image = self._services.opened.pop(disk, None) or open_disk(disk)
            if image is not None:
                self._services.images[record.domid, record.devid] = image
                if (line := hint(disk)) is not None:
                    self._services.hypervisor.log.notice(line)
        self._write(record, disk.backend, lambda: self.attach_disk(disk))
        return record

    def resize_disk(self, devid: int, size: int) -> None:
        """Make a disk that domain 0 serves `size` bytes long, and tell the guest.

        Raises UserError: there's no such disk, it would become smaller, it can't be done.
        """
        from xenograft.backends.block.device import BlockDevice

        device = self._services.buses["vbd"].find(self._domain.domid, devid)
        if not isinstance(device, BlockDevice):
            raise UserError(f"{self._domain.name} has no disk {devid} of domain 0's")
        try:
            device.grow(size)
        except OSError as error:
            raise UserError(f"disk {devid}: {error.strerror or error}") from None

    def change_medium(self, disk: Disk) -> None:
        """Put what `disk` names into the CD drive of that name, or take out what's there.

        The guest sees a drive whose size has changed (io/blkif.h: `sectors` and the state are
        written again).  Raises UserError, with nothing changed.
        """
        status = self.find("vbd", disk.device_number)
        if status is None:
            raise UserError(f"{self._domain.name} has no drive {disk.vdev}")
        if self._store.get(f"{status.backend}/device-type") != "cdrom":
            raise UserError(f"{self._domain.name}: {disk.vdev} is no CD drive")
        if status.backend_domid == self._services.control.domid:
            # The back end opens it by itself; who asked is to hear at once that it can't.
            image = open_disk(disk)
            if image is not None:
                image.close()
        params = disk_record(disk, self._domain.domid).backend["params"]
        self._store.write(f"{status.backend}/params", params)

    def attach_vif(self, vif: Vif) -> DeviceRecord:
        """Add a network interface.  Raises UserError, with nothing changed."""
        devid = vif.devid if vif.devid is not None else self._free_devid("vif")
        backend = self._backend(vif.backend, f"vif {devid}")
        ours, mtu = backend == self._services.control.domid, DEFAULT_MTU
        if ours:
            try:
                mtu = self._services.networks.get(vif.bridge or DEFAULT_BRIDGE).mtu
            except NetworkError as error:
                raise UserError(f"vif {devid}: {error}") from None
        elif vif.forward:
            raise UserError(f"vif {devid}: forward is for interfaces that domain 0 serves")
        record = vif_record(vif, devid, self._domain.uuid, self._domain.domid, backend, mtu)
        self._check_new(record, f"vif {devid}")
        again = msgspec.structs.replace(vif, devid=devid)
        self._write(record, vif.backend, lambda: self.attach_vif(again))
        if ours and (problem := self._vif(devid).error) is not None:
            self.remove("vif", devid)
            # Its number is for those who read the store.
            raise UserError(f"vif {devid}: {problem.partition(' ')[2]}")
        return record

    def replace_vif(self, vif: Vif) -> None:
        """Have an interface go, and another of the same number come once the guest has let go.

        Nothing happens if the guest keeps it.  Raises UserError if there's none.
        """
        key = "vif", vif.devid if vif.devid is not None else 0

        def gone() -> None:
            served = _Served("", lambda: self.attach_vif(vif), None)
            served.removed_at = self._services.hypervisor.clock.now()
            self._served[key] = served
            self._attach_later(key, served)

        self.detach(*key, gone)

    def _vif(self, devid: int) -> VifDevice:
        """An interface that domain 0 serves.  Raises UserError if there's none."""
        from xenograft.backends.net.vif import VifDevice

        device = self._services.buses["vif"].find(self._domain.domid, devid)
        if not isinstance(device, VifDevice):
            raise UserError(f"{self._domain.name} has no network interface {devid}")
        return device

    def forwards(self, devid: int = 0) -> tuple[Forward, ...]:
        """The host's ports that lead to an interface, as they were opened.  Raises UserError."""
        return tuple(self._vif(devid).forwards)

    def capture(self, capture: Capture, devid: int = 0) -> None:
        """Write an interface's packets to a file from now on.  Raises UserError."""
        capture.follow(self._vif(devid))

    def attach_p9(self, p9: P9, devid: int | None = None) -> DeviceRecord:
        """Share a folder.  Raises UserError, with nothing changed."""
        backend = self._backend(p9.backend, f"p9 {p9.tag}")
        if backend == self._services.control.domid:
            check_folder(p9)
        devid = devid if devid is not None else self._free_devid("9pfs")
        record = p9_record(p9, devid, self._domain.domid, backend)
        self._write(record, p9.backend, lambda: self.attach_p9(p9, devid))
        return record

    def attach_channel(self, channel: Channel, devid: int | None = None) -> DeviceRecord:
        """Add a named console.  Raises UserError, with nothing changed."""
        what = f"channel {channel.name}"
        backend = self._backend(channel.backend, what)
        if backend == self._services.control.domid:
            check_channel(channel)
        # The first console is number 0, and isn't on xenbus.
        devid = devid if devid is not None else self._free_devid("console", 1)
        record = channel_record(channel, devid, self._domain.domid, backend)
        self._write(record, channel.backend, lambda: self.attach_channel(channel, devid))
        device = self._services.buses["console"].find(self._domain.domid, devid)
        if device is not None and device.error is not None:
            message = device.error.partition(" ")[2]
            self.remove("console", devid)
            raise UserError(f"{what}: {message}")
        return record

    def attach_vfb(self, vfb: Vfb, devid: int | None = None) -> DeviceRecord:
        """Add a screen.  Raises UserError, with nothing changed."""
        devid = devid if devid is not None else self._free_devid("vfb")
        backend = self._backend(vfb.backend, f"vfb {devid}")
        record = vfb_record(vfb, devid, self._domain.domid, backend)
        self._write(record, vfb.backend, lambda: self.attach_vfb(vfb, devid))
        return record

    def attach_vkb(self, vkb: Vkb, devid: int | None = None) -> DeviceRecord:
        """Add a keyboard and pointer.  Raises UserError, with nothing changed."""
        devid = devid if devid is not None else self._free_devid("vkbd")
        backend = self._backend(vkb.backend, f"vkb {devid}")
        record = vkb_record(vkb, devid, self._domain.domid, backend)
        self._write(record, vkb.backend, lambda: self.attach_vkb(vkb, devid))
        return record

    def _backend(self, name: str, what: str) -> int:
        """The domid of the domain that is to serve a device."""
        domains = self._services.hypervisor.domains
        if not name:
            return self._services.control.domid
        for domain in domains.values():
            if not domain.dying and name in (domain.name, str(domain.domid)):
                if domain is self._domain:
                    raise UserError(f"{what}: a domain can't serve a device to itself")
                return domain.domid
        raise UserError(f"{what}: there is no domain {name!r} to serve it; start it first")

    def _free_devid(self, kind: str, first: int = 0) -> int:
        taken = {status.devid for status in self.all() if status.kind == kind}
        return next(devid for devid in range(first, first + len(taken) + 1) if devid not in taken)

    def _check_new(self, record: DeviceRecord, what: str) -> None:
        if self._store.exists(record.libxl_path):
            raise UserError(f"{what}: {self._domain.name} has such a device already")

    def _write(self, record: DeviceRecord, server: str, attach_again: Callable[[], object]) -> None:
        if record.backend_domid != self._services.control.domid:
            watch = None
            if record.kind == "vbd":
                from xenograft.toolstack.devices.standin import VbdWatch

                watch = VbdWatch(
                    self._services, self._domain, record.backend_domid, record.frontend_path
                )
            self._served[record.kind, record.devid] = _Served(server, attach_again, watch)
        self._store.transact(lambda view: write_nodes(view, record.nodes()))

    # -- driver domains ----------------------------------------------------------------------
    def server_has_gone(self, name: str) -> None:
        """A driver domain was destroyed: its devices go, with errors for what was under way."""
        for key, served in list(self._served.items()):
            if served.server == name and served.removed_at is None:
                self._take_away(key, served)

    def _take_away(self, key: tuple[str, int], served: _Served) -> None:
        """Remove a device that will be attached again; what its back end owes is answered."""
        hypervisor = self._services.hypervisor
        if served.watch is not None:
            stand_in = served.watch.bury()
            served.watch = None
            if stand_in is not None:
                hypervisor.timers.add(hypervisor.clock.now() + STAND_IN_NS, stand_in.close)
        self._remove_nodes(*key)
        served.removed_at = hypervisor.clock.now()

    def server_is_back(self, name: str) -> None:
        """A driver domain was started again: what it served is attached to it anew."""
        self.server_has_gone(name)
        for key, served in list(self._served.items()):
            if served.server == name and served.removed_at is not None:
                self._attach_later(key, served)

    def _attach_later(self, key: tuple[str, int], served: _Served) -> None:
        """Attach a removed device again, once the guest has had the time to miss it."""
        assert served.removed_at is not None  # it is removed
        deadline = served.removed_at + (REATTACH_NS << served.attempts)
        self._services.hypervisor.timers.add(deadline, lambda: self._attach_again(key, served))

    def _attach_again(self, key: tuple[str, int], served: _Served) -> None:
        if self._served.get(key) is not served or self._domain.dying:
            return
        del self._served[key]
        try:
            served.attach()
        except UserError as error:
            self._served[key] = served
            self._services.hypervisor.log.write(f"{self._domain.name}: {error}")
            return
        fresh = self._served.setdefault(key, served)
        fresh.attempts, fresh.removed_at = served.attempts + 1, None
        self._check_later(key, fresh)

    def _check_later(self, key: tuple[str, int], served: _Served) -> None:
        timers, now = self._services.hypervisor.timers, self._services.hypervisor.clock.now()
        timers.add(now + CHECK_NS, lambda: self._check(key, served))

    def _check(self, key: tuple[str, int], served: _Served) -> None:
        """Whether a device that was attached again has come to life.

        Linux's xenbus goes by the path of a device.  If it has not yet missed the old one when
        the new one comes, it keeps the old one; if it's still removing the old one then, it
        closes the new one at the end.  Both show in the states, and both call for another try.
        """
        status = self.find(*key)
        if self._served.get(key) is not served or self._domain.dying or status is None:
            return
        states = status.backend_state, status.frontend_state
        if status.frontend_state is XenbusState.Connected:
            if not served.server:
                del self._served[key]
            return
        lost = states == (XenbusState.InitWait, XenbusState.Initialising)
        if lost or status.frontend_state in (XenbusState.Closing, XenbusState.Closed):
            if served.attempts >= MAX_ATTEMPTS:
                self._services.hypervisor.log.write(
                    f"{self._domain.name}: {key[0]} {key[1]} doesn't connect again"
                )
                return
            self._take_away(key, served)
            self._attach_later(key, served)
        else:
            # The driver domain isn't up yet, or both are at it.
            self._check_later(key, served)

    # -- looking -----------------------------------------------------------------------------
    def all(self) -> list[DeviceStatus]:
        """All devices, by kind and number, but for the first console."""
        root = f"/libxl/{self._domain.domid}/device"
        found = []
        for kind in self._names(root):
            for name in self._names(f"{root}/{kind}"):
                status = self._status(kind, name) if kind != "console" or name != "0" else None
                if status is not None:
                    found.append(status)
        return sorted(found)

    def find(self, kind: str, devid: int) -> DeviceStatus | None:
        return self._status(kind, str(devid))

    def _names(self, path: str) -> list[str]:
        return self._store.ls(path) if self._store.exists(path) else []

    def _status(self, kind: str, name: str) -> DeviceStatus | None:
        path = f"/libxl/{self._domain.domid}/device/{kind}/{name}"
        backend, frontend = (self._store.get(f"{path}/{end}") for end in ("backend", "frontend"))
        if backend is None or frontend is None or not name.isdigit():
            return None
        server = backend.split("/")[3]
        home, _, rest = backend.partition("/backend/")
        return DeviceStatus(
            kind,
            int(name),
            int(server),
            backend,
            frontend,
            parse_state(self._store.get(f"{backend}/state")),
            parse_state(self._store.get(f"{frontend}/state")),
            self._store.get(f"{home}/error/backend/{rest}/error"),
        )

    # -- removing ----------------------------------------------------------------------------
    def detach(self, kind: str, devid: int, done: Callable[[], None] | None = None) -> None:
        """Ask the guest to let a device go; `done` is called once it's gone.

        Raises UserError if there's none.  A guest that doesn't answer keeps it: see `remove`.
        """
        status = self.find(kind, devid)
        if status is None:
            raise UserError(f"{self._domain.name} has no device {kind} {devid}")

        def gone() -> None:
            self.remove(kind, devid)
            if done is not None:
                done()

        leaving = Leaving(self._store, status.backend, gone)
        # A front end that never began has nothing to let go of.
        never = status.frontend_state in (XenbusState.Initialising, XenbusState.Unknown)
        if leaving.pending and never:
            self._store.write(f"{status.backend}/state", int(XenbusState.Closed))

    def remove(self, kind: str, devid: int) -> None:
        """Take a device away, whatever the guest does; no matter if there's none."""
        served = self._served.pop((kind, devid), None)
        if served is not None and served.watch is not None:
            served.watch.close()
        self._remove_nodes(kind, devid)

    def close(self) -> None:
        """The domain is about to be destroyed; other guests that serve it let go of it."""
        for served in self._served.values():
            if served.watch is not None:
                served.watch.close()
        self._served.clear()
        domains = self._services.hypervisor.domains
        for status in self.all():
            server = domains.get(status.backend_domid)
            if server is not None and server is not self._services.control and not server.dying:
                see_off(self._services, status.backend)

    def _remove_nodes(self, kind: str, devid: int) -> None:
        status = self.find(kind, devid)
        if status is None:
            return
        path = f"/libxl/{self._domain.domid}/device/{kind}/{devid}"
        remove_nodes(self._store, [status.frontend, path])
        remove_backend(self._store, status.backend)
