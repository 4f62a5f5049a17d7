# SPDX-License-Identifier: GPL-2.0-or-later
"""The bus: back ends appear and go as the toolstack writes and removes their directories.

Whoever may write to the store can make a device, be it our own toolstack, a real one, or a
person with xenstore-write: the nodes below ``backend/<kind>/<domid>/<devid>`` are all there is
to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from xenograft.abi.errno import Errno
from xenograft.abi.io.xenbus import XenbusState
from xenograft.backends.xenbus.device import XenbusDevice
from xenograft.backends.xenbus.state import parse_state

if TYPE_CHECKING:
    from xenograft.backends.xenbus.host import BackendHost

DeviceFactory = Callable[["BackendHost", str, int, int], XenbusDevice]
"""(host, path, front end's domid, device number); it may not raise."""

_NEEDED = ("frontend", "frontend-id", "state")


class XenbusBackend:
    """All devices of one kind (``vbd``) that a domain serves."""

    def __init__(
        self, host: BackendHost, kind: str, factory: DeviceFactory, lowest: int = 0
    ) -> None:
        """Devices with a number below `lowest` are somebody else's."""
        self.host = host
        self.kind = kind
        self.root = f"/local/domain/{host.domid}/backend/{kind}"
        self.devices: dict[tuple[int, int], XenbusDevice] = {}
        """By (front end's domid, device number)."""
        self.on_gone: Callable[[XenbusDevice], None] | None = None
        """Called with each device that has gone for good."""
        self._factory = factory
        self._lowest = lowest
        self._token: str | None = host.store.watch(self.root, self._changed)

    def find(self, domid: int, devid: int) -> XenbusDevice | None:
        return self.devices.get((domid, devid))

    def of_domain(self, domid: int) -> list[XenbusDevice]:
        """The devices of one front end, by number."""
        return [device for key, device in sorted(self.devices.items()) if key[0] == domid]

    def close(self) -> None:
        """Let all devices go."""
        if self._token is not None:
            self.host.store.unwatch(self.root, self._token)
            self._token = None
        for device in list(self.devices.values()):
            device.remove()

    def adopt(self, domid: int, devid: int, saved: bytes | None) -> XenbusDevice:
        """Make the device of a front end that is connected already (`XenbusDevice.adopt`).

        `saved` is what the device's `save` said, as msgpack.  Whether it worked is in its
        `error`.
        """
        device = self._factory(self.host, f"{self.root}/{domid}/{devid}", domid, devid)
        device.on_removed = self._removed
        self.devices[domid, devid] = device
        try:
            state = None
            if saved is not None and device.saved is not None:
                state = msgspec.msgpack.decode(saved, type=device.saved)
        except msgspec.MsgspecError as error:
            device.fail(Errno.EINVAL, f"its saved state makes no sense: {error}")
            return device
        device.adopt(state)
        return device

    def _changed(self, path: str, _token: str) -> None:
        names = path[len(self.root) :].strip("/").split("/")
        if len(names) >= 2:
            # What happens to a node of a device that is there is that device's own affair.
            if len(names) == 2 or names[2] in _NEEDED:
                self._look_at(names[0], names[1])
            return
        store = self.host.store
        domids = [names[0]] if names[0] else self._list(self.root)
        for domid in domids:
            for devid in self._list(f"{self.root}/{domid}"):
                self._look_at(domid, devid)
        for key in list(self.devices):
            if not store.exists(f"{self.root}/{key[0]}/{key[1]}"):
                self._look_at(str(key[0]), str(key[1]))

    def _list(self, path: str) -> list[str]:
        return self.host.store.ls(path) if self.host.store.exists(path) else []

    def _look_at(self, domid_name: str, devid_name: str) -> None:
        """Make the device of a directory that has come, or let that of a directory gone go."""
        if any(not name.isdigit() or name != str(int(name)) for name in (domid_name, devid_name)):
            return
        domid, devid = int(domid_name), int(devid_name)
        if devid < self._lowest:
            return
        path = f"{self.root}/{domid_name}/{devid_name}"
        store, device = self.host.store, self.devices.get((domid, devid))
        if not store.exists(path):
            if device is not None:
                device.remove()
            return
        # Any other state is that of a device that has ended: it isn't ours to wake.
        fresh = parse_state(store.get(f"{path}/state")) is XenbusState.Initialising
        if device is None and fresh and all(store.exists(f"{path}/{name}") for name in _NEEDED):
            device = self._factory(self.host, path, domid, devid)
            device.on_removed = self._removed
            self.devices[domid, devid] = device
            device.start()

    def _removed(self, device: XenbusDevice) -> None:
        self.devices.pop((device.domid, device.devid), None)
        if self.on_gone is not None:
            self.on_gone(device)
        # Another one of that number may wait for its place.
        if self._token is not None:
            self._look_at(str(device.domid), str(device.devid))
