# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices of domains, and the bridges that interfaces are plugged into."""

from __future__ import annotations

import msgspec

from xenograft.toolstack.config.disk import Disk
from xenograft.toolstack.config.display import Vkb
from xenograft.toolstack.config.vif import Vif
from xenograft.toolstack.service.messages.base import Request


class DeviceRow(msgspec.Struct, frozen=True, kw_only=True):
    """A device as `xl block-list` and its like show it. Numbers that aren't known are -1."""

    kind: str
    devid: int
    backend_domid: int
    frontend_domid: int
    state: int
    """The front end's."""
    event_channel: int
    rings: list[int]
    backend: str
    frontend: str
    error: str | None
    nodes: dict[str, str]
    """The back end's nodes."""
    tty: str = ""
    """Of a console: the pty that it is."""


class ListDevices(Request[list[DeviceRow]], frozen=True):
    """The devices of one kind that a domain has."""

    domain: str
    kind: str


class AttachDisk(Request[None], frozen=True):
    """Hot-plug a disk. Its path is absolute."""

    domain: str
    disk: Disk


class AttachVif(Request[None], frozen=True):
    """Hot-plug a network interface."""

    domain: str
    vif: Vif


class AttachVkb(Request[None], frozen=True):
    """Hot-plug a keyboard and pointer."""

    domain: str
    vkb: Vkb


class DetachDevice(Request[None], frozen=True):
    """Take a device away: once the guest has let go of it, or at once.

    `which`: a number, a name such as xvdb, or a MAC address.
    """

    domain: str
    kind: str
    which: str
    force: bool = False


class BridgeRow(msgspec.Struct, frozen=True, kw_only=True):
    """A bridge of the machine."""

    name: str
    mtu: int
    uplink: str
    """none, user, or tap:INTERFACE."""
    restricted: bool
    interfaces: list[str]
    """Guests' interfaces that are plugged in, as vif<domid>.<number>."""


class ListBridges(Request[list[BridgeRow]], frozen=True):
    """All bridges."""


class AddBridge(Request[None], frozen=True):
    """Make a bridge, from a line as `xg run --bridge` takes it."""

    spec: str


class RemoveBridge(Request[None], frozen=True):
    """Take a bridge away that nobody is plugged into."""

    name: str


class ChangeMedium(Request[None], frozen=True):
    """Put another medium into a CD drive; "" takes it out."""

    domain: str
    vdev: str
    path: str = ""


class Screenshot(Request[bytes], frozen=True):
    """What a domain's screen shows, as a PNG file."""

    domain: str
