# SPDX-License-Identifier: GPL-2.0-or-later
"""From the options of `xg run` (or keyword arguments in Python) to a `DomainConfig`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from xenograft.toolstack.config.channel import parse_channel
from xenograft.toolstack.config.disk import parse_disk
from xenograft.toolstack.config.display import parse_vfb, parse_vkb
from xenograft.toolstack.config.domain import DomainConfig
from xenograft.toolstack.config.p9 import parse_p9
from xenograft.toolstack.config.values import size_mib
from xenograft.toolstack.config.vif import parse_vif


def from_options(
    base: DomainConfig | None = None,
    *,
    name: str | None = None,
    type: str | None = None,
    kernel: str | None = None,
    ramdisk: str | None = None,
    cmdline: str | None = None,
    memory: str | int | None = None,
    vcpus: int | None = None,
    maxvcpus: int | None = None,
    cpuid: str | Sequence[str] | None = None,
    disk: Sequence[str] = (),
    vif: Sequence[str] = (),
    p9: Sequence[str] = (),
    channel: Sequence[str] = (),
    vfb: Sequence[str] = (),
    vkb: Sequence[str] = (),
    on_poweroff: str | None = None,
    on_reboot: str | None = None,
    on_crash: str | None = None,
    on_watchdog: str | None = None,
    tsc_mode: str | None = None,
) -> DomainConfig:
    """A configuration from options; what isn't given (None) comes from `base`, if there is one.

    `memory`: "256M", "1G" or MiB.  `disk`, `vif` and the other devices are specifications as
    in xl.cfg, added to the base's.  Without a base: a PVH guest, and one that reboots is
    destroyed, since a single run ends there.  Raises UserError.
    """
    given: dict[str, Any] = {
        "name": name,
        "type": type,
        "kernel": kernel,
        "ramdisk": ramdisk,
        "cmdline": cmdline,
        "memory": None if memory is None else size_mib(memory),
        "vcpus": vcpus,
        "maxvcpus": maxvcpus,
        "cpuid": cpuid if cpuid is None or isinstance(cpuid, str) else tuple(cpuid),
        "on_poweroff": on_poweroff,
        "on_reboot": on_reboot,
        "on_crash": on_crash,
        "on_watchdog": on_watchdog,
        "tsc_mode": tsc_mode,
    }
    changes = {field: value for field, value in given.items() if value is not None}
    # A base's limits move with what they limit.
    if base is not None and vcpus is not None and maxvcpus is None:
        changes["maxvcpus"] = None
    if base is not None and memory is not None:
        changes["maxmem"] = None
    if base is None:
        base = DomainConfig(on_reboot="destroy")
    if disk:
        changes["disk"] = (*base.disk, *(parse_disk(spec) for spec in disk))
    if vif:
        changes["vif"] = (*base.vif, *(parse_vif(spec) for spec in vif))
    if p9:
        changes["p9"] = (*base.p9, *(parse_p9(spec) for spec in p9))
    if channel:
        changes["channel"] = (*base.channel, *(parse_channel(spec) for spec in channel))
    if vfb:
        changes["vfb"] = (*base.vfb, *(parse_vfb(spec) for spec in vfb))
    if vkb:
        changes["vkb"] = (*base.vkb, *(parse_vkb(spec) for spec in vkb))
    return msgspec.structs.replace(base, **changes)
