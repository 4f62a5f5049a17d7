# SPDX-License-Identifier: GPL-2.0-or-later
"""`vif=`: a configured network interface as nodes of the store (libxl's device_nic_add)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from xenograft.backends.net.networks import DEFAULT_BRIDGE
from xenograft.toolstack.devices.record import DeviceRecord

if TYPE_CHECKING:
    from xenograft.toolstack.config.vif import Vif

DEFAULT_MTU = 1500


def default_mac(uuid: bytes, devid: int) -> str:
    """An address for an interface that was given none: always the same for a domain's UUID.

    The first three bytes are those that belong to Xen.
    """
    last = hashlib.blake2b(uuid + devid.to_bytes(2, "little"), digest_size=3).digest()
    return f"00:16:3e:{last[0]:02x}:{last[1]:02x}:{last[2]:02x}"


def vif_record(
    vif: Vif,
    devid: int,
    uuid: bytes,
    domid: int,
    backend_domid: int = 0,
    bridge_mtu: int = DEFAULT_MTU,
) -> DeviceRecord:
    """The nodes of an interface for domain `domid`, whose UUID is `uuid`.

    `bridge_mtu` is the guest's MTU unless the interface has one of its own (the hotplug script
    would have written it).
    """
    mac = vif.mac or default_mac(uuid, devid)
    backend = {
        "script": vif.script or "/etc/xen/scripts/vif-bridge",
        "mac": mac,
        "bridge": vif.bridge or DEFAULT_BRIDGE,
        "handle": str(devid),
        "type": "vif",
        "hotplug-status": "",
    }
    if vif.rate_bytes:
        backend["rate"] = f"{vif.rate_bytes},{vif.rate_interval_us}"
    for name in ("ip", "vifname", "gatewaydev"):
        if value := getattr(vif, name):
            backend[name] = value
    if vif.mtu is not None:
        backend["mtu"] = str(vif.mtu)
    if vif.forward:
        backend["forward"] = " ".join(map(str, vif.forward))
    return DeviceRecord(
        kind="vif",
        devid=devid,
        domid=domid,
        backend_domid=backend_domid,
        backend=backend,
        frontend={
            "handle": str(devid),
            "mac": mac,
            "trusted": "1" if vif.trusted else "0",
        },
        readonly={"mtu": str(vif.mtu if vif.mtu is not None else bridge_mtu)},
    )
