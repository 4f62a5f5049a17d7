# SPDX-License-Identifier: GPL-2.0-or-later
"""Bridges: what an administrator of a real domain 0 makes with ip(8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.backends.net.bridge import PREDEFINED
from xenograft.backends.net.networks import NetworkError
from xenograft.backends.net.vif import VifDevice
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.service import messages
from xenograft.toolstack.service.messages import Failure
from xenograft.toolstack.service.table import on_machine

if TYPE_CHECKING:
    from xenograft.backends.net.networks import Networks
    from xenograft.toolstack.service.host import Host


def _networks(host: Host) -> Networks:
    return host.machine.services.networks


def _interfaces(host: Host, name: str) -> list[str]:
    """The guests' interfaces that are for a bridge, connected or not."""
    vifs = host.machine.services.buses["vif"].devices.values()
    return [vif.port.name for vif in vifs if isinstance(vif, VifDevice) and vif.bridge == name]


@on_machine(messages.ListBridges)
def list_bridges(host: Host, _request: messages.ListBridges) -> list[messages.BridgeRow]:
    """Bridges by name, those that come when they're asked for included."""
    networks = _networks(host)
    return [
        messages.BridgeRow(
            name=name,
            mtu=bridge.mtu,
            uplink=f"{bridge.uplink}:{bridge.tap}" if bridge.tap else bridge.uplink,
            restricted=bridge.restricted,
            interfaces=_interfaces(host, name),
        )
        for name, bridge in sorted(networks.bridges.items())
    ]


@on_machine(messages.AddBridge)
def add_bridge(host: Host, request: messages.AddBridge) -> None:
    try:
        host.machine.add_bridge(request.spec)
    except UserError as error:
        raise Failure(str(error)) from None


@on_machine(messages.RemoveBridge)
def remove_bridge(host: Host, request: messages.RemoveBridge) -> None:
    """Only one that nobody is plugged into: guests don't lose their link by accident."""
    networks, name = _networks(host), request.name
    if name in PREDEFINED:
        raise Failure(f"bridge {name} is always there")
    try:
        networks.get(name)
    except NetworkError as error:
        raise Failure(str(error)) from None
    if interfaces := _interfaces(host, name):
        raise Failure(f"bridge {name} is in use by {', '.join(interfaces)}")
    networks.remove(name)
