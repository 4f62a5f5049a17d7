# SPDX-License-Identifier: GPL-2.0-or-later
"""A configuration as `xl list -l` and `xl create -n` print it: libxl's JSON of a domain.

Names and nesting are those of libxl_domain_config in Xen 4.17; what has its default isn't
printed, as in libxl.
"""

from __future__ import annotations

import json
import re
from typing import Any

from xenograft.toolstack.config.disk import Disk
from xenograft.toolstack.config.domain import DomainConfig
from xenograft.toolstack.config.vif import Vif

INVALID_DOMID = 0xFFFF_FFFF
"""libxl's "the next free one"."""


def _without(values: dict[str, Any], *unset: Any) -> dict[str, Any]:
    """What isn't None or one of `unset`."""
    return {key: value for key, value in values.items() if value is not None and value not in unset}


def _disk(disk: Disk) -> dict[str, Any]:
    return _without(
        {
            "backend_domname": disk.backend or None,
            "pdev_path": disk.target or None,
            "vdev": disk.vdev,
            "format": disk.format,
            "script": disk.script or None,
            "removable": 1 if disk.cdrom else None,
            "readwrite": None if disk.readonly else 1,
            "is_cdrom": 1 if disk.cdrom else None,
            "direct_io_safe": True if disk.direct_io_safe else None,
            "discard_enable": None if disk.discard else "False",
            "colo_restore_enable": "False",
        }
    )


def _nic(vif: Vif, index: int) -> dict[str, Any]:
    return _without(
        {
            "backend_domname": vif.backend or None,
            "devid": index if vif.devid is None else vif.devid,
            "mtu": vif.mtu,
            "model": vif.model or None,
            "mac": vif.mac or None,
            "ip": vif.ip or None,
            "bridge": vif.bridge or None,
            "ifname": vif.vifname or None,
            "script": vif.script or None,
            "nictype": vif.type or "vif",
            "rate_bytes_per_interval": vif.rate_bytes or None,
            "rate_interval_usecs": vif.rate_interval_us if vif.rate_bytes else None,
            "gatewaydev": vif.gatewaydev or None,
        }
    )


def _actions(config: DomainConfig) -> dict[str, str]:
    names = ("on_poweroff", "on_reboot", "on_watchdog", "on_crash", "on_soft_reset")
    values = {name: str(getattr(config, name)) for name in names}
    return {name: value.replace("-", "_") for name, value in values.items() if value != "destroy"}


def _sched_params(config: DomainConfig, sched: str) -> dict[str, Any]:
    """libxl_domain_sched_params of a domain under that scheduler."""
    if sched in ("credit", "credit2"):
        weight = 256 if config.cpu_weight is None else config.cpu_weight
        return {"sched": sched, "weight": weight, "cap": config.cap or 0}
    times = {"period": config.period, "extratime": config.extratime, "budget": config.slice}
    return {"sched": sched} | (_without(times) if sched == "rtds" else {})


def domain_json(
    config: DomainConfig, domid: int | None, identity: str | None, sched: str = "credit2"
) -> dict[str, Any]:
    """The configuration of domain `domid` (None: of one that isn't made yet).

    `sched`: the scheduler of its pool.
    """
    most = config.memory if config.maxmem is None else max(config.maxmem, config.memory)
    build = {
        "max_vcpus": config.max_vcpus,
        "avail_vcpus": list(range(config.vcpus)),
        "max_memkb": most << 10,
        "target_memkb": config.memory << 10,
        "video_memkb": 0,
        "sched_params": _sched_params(config, sched),
        "claim_mode": "True",
        "kernel": config.kernel,
        "cmdline": config.cmdline or None,
        "ramdisk": config.ramdisk,
        f"type.{config.type}": {},
        "arch_arm": {},
        "arch_x86": {"msr_relaxed": "False"},
    }
    record: dict[str, Any] = {
        "c_info": _without(
            {
                "type": config.type,
                "name": config.name,
                "domid": INVALID_DOMID,
                "uuid": identity,
                "pool_name": config.pool,
                "run_hotplug_scripts": "True",
            }
        ),
        "b_info": _without(build),
    }
    if config.disk:
        record["disks"] = [_disk(disk) for disk in config.disk]
    if config.vif:
        record["nics"] = [_nic(vif, index) for index, vif in enumerate(config.vif)]
    record |= _actions(config)
    return record if domid is None else {"domid": domid, "config": record}


def control_domain_json(name: str, domid: int, max_kib: int, kib: int) -> dict[str, Any]:
    """Domain 0, of which libxl knows little."""
    return {
        "domid": domid,
        "config": {
            "c_info": {"type": "pvh", "name": name},
            "b_info": {
                "max_memkb": max_kib,
                "target_memkb": kib,
                "sched_params": {"sched": "credit2", "weight": 256, "cap": 0},
                "type.pvh": {},
                "arch_arm": {},
                "arch_x86": {},
            },
        },
    }


_EMPTY = re.compile(r"^( *)(.*)\{\}(,?)$", re.MULTILINE)


def dump(value: Any) -> str:
    """JSON laid out as yajl lays it out: four blanks, and an empty line inside an empty map."""
    text = json.dumps(value, indent=4, ensure_ascii=False)
    return _EMPTY.sub(r"\1\2{\n\n\1}\3", text) + "\n"
