# SPDX-License-Identifier: GPL-2.0-or-later
"""`DomainConfig`: all that a domain is made from, whatever the way it was written down."""

from __future__ import annotations

import re
from typing import Literal, get_args

import msgspec

from xenograft.toolstack.config.channel import Channel
from xenograft.toolstack.config.disk import Disk
from xenograft.toolstack.config.display import Vfb, Vkb
from xenograft.toolstack.config.p9 import P9
from xenograft.toolstack.config.values import one_of
from xenograft.toolstack.config.vif import Vif
from xenograft.toolstack.errors import UserError

Kind = Literal["pvh", "pv", "hvm"]
Action = Literal[
    "destroy",
    "restart",
    "rename-restart",
    "preserve",
    "coredump-destroy",
    "coredump-restart",
    "soft-reset",
]
TscMode = Literal["default", "always_emulate", "native"]
"""The fourth mode of former times, native_paravirt, was removed from Xen."""
TimerMode = Literal[
    "delay_for_missed_ticks",
    "no_delay_for_missed_ticks",
    "no_missed_ticks_pending",
    "one_missed_tick_pending",
]

MAX_VCPUS = 32
MAX_MEMORY_MIB = 8192

_NAME = re.compile(r"[^\s/\x00-\x1f]{1,64}\Z")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")


def is_name(text: str) -> bool:
    """Whether it can be a domain's name."""
    return _NAME.match(text) is not None


class DomainConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A domain's configuration, with xl.cfg's names. Making one checks it (UserError)."""

    name: str = "guest"
    type: Kind = "pvh"
    kernel: str | None = None
    """Path of the kernel."""
    ramdisk: str | None = None
    """Path of the ramdisk (the kernel's first module)."""
    cmdline: str = ""
    memory: int = 256
    """MiB that the guest starts with."""
    maxmem: int | None = None
    """MiB that it can have at most, None: as `memory`."""
    vcpus: int = 1
    """How many vCPUs are online at first."""
    maxvcpus: int | None = None
    """How many it has, None: as `vcpus`."""
    cpuid: str | tuple[str, ...] | None = None
    """libxl's ("host,tm=0") or xend's (a string per leaf) way to change the CPUID policy."""
    pool: str | None = None
    """CPU pool, by name or number; None: the first."""
    cpus: str | tuple[str, ...] | None = None
    """Physical CPUs where vCPUs may run ("0-3,^1"), for all of them or one by one."""
    cpus_soft: str | tuple[str, ...] | None = None
    """Where they would rather run."""
    cpu_weight: int | None = None
    """Its share, in relation to others' (credit, credit2)."""
    cap: int | None = None
    """How much CPU time it may use at most, in per cent of one CPU; 0: no limit."""
    period: int | None = None
    """Of its vCPUs' reservations, in us (RTDS)."""
    slice: int | None = None
    """Budget of its vCPUs in each period, in us (RTDS)."""
    extratime: bool | None = None
    """Whether they may use time that's left over (RTDS)."""
    uuid: str | None = None
    on_poweroff: Action = "destroy"
    on_reboot: Action = "restart"
    on_watchdog: Action = "destroy"
    on_crash: Action = "destroy"
    on_soft_reset: Action = "soft-reset"
    tsc_mode: TscMode = "default"
    timer_mode: TimerMode = "no_delay_for_missed_ticks"
    disk: tuple[Disk, ...] = ()
    vif: tuple[Vif, ...] = ()
    p9: tuple[P9, ...] = ()
    channel: tuple[Channel, ...] = ()
    vfb: tuple[Vfb, ...] = ()
    vkb: tuple[Vkb, ...] = ()
    nomigrate: bool = False
    max_grant_frames: int = 64
    max_maptrack_frames: int = 1024
    max_grant_version: int = 2
    max_event_channels: int = 1023

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise UserError(
                f"name: {self.name[:80]!r} can't be a domain's name (1 to 64 characters,"
                " no blanks, no /)"
            )
        for what, known in _WORDS.items():
            one_of(getattr(self, what), known, what)
        if self.uuid is not None and not _UUID.match(self.uuid):
            raise UserError(f"uuid: {self.uuid[:80]!r} isn't a UUID (8-4-4-4-12 digits)")
        if not 1 <= self.vcpus <= MAX_VCPUS:
            raise UserError(f"vcpus: {self.vcpus} vCPUs; a guest has 1 to {MAX_VCPUS}")
        if not self.vcpus <= self.max_vcpus <= MAX_VCPUS:
            raise UserError(
                f"maxvcpus: {self.max_vcpus} with vcpus={self.vcpus};"
                f" it has to be from vcpus to {MAX_VCPUS}"
            )
        if not 1 <= self.memory <= MAX_MEMORY_MIB:
            raise UserError(f"memory: {self.memory} MiB; a guest has 1 to {MAX_MEMORY_MIB} (8 GiB)")
        if self.maxmem is not None and self.maxmem < self.memory:
            raise UserError(f"maxmem: {self.maxmem} MiB are less than memory={self.memory}")
        for what, low, high in _RANGES:
            value = getattr(self, what)
            if value is not None and not low <= value <= high:
                raise UserError(f"{what}: {value} is out of range ({low} to {high})")
        vdevs: dict[int, str] = {}
        for disk in self.disk:
            number = disk.device_number
            if number in vdevs:
                same = f"{vdevs[number]} and {disk.vdev}"
                raise UserError(f"disk: two disks have the same vdev ({same})")
            vdevs[number] = disk.vdev
        for what, names in (
            ("p9: two folders have the same tag", [p9.tag for p9 in self.p9]),
            ("channel: two channels have the same name", [one.name for one in self.channel]),
        ):
            if len(set(names)) != len(names):
                raise UserError(what)

    @property
    def max_vcpus(self) -> int:
        """How many vCPUs there are, online or not."""
        return self.vcpus if self.maxvcpus is None else self.maxvcpus


_ACTIONS: tuple[str, ...] = get_args(Action)
_WORDS: dict[str, tuple[str, ...]] = {
    "type": get_args(Kind),
    "on_poweroff": _ACTIONS,
    "on_reboot": _ACTIONS,
    "on_watchdog": _ACTIONS,
    "on_crash": _ACTIONS,
    "on_soft_reset": _ACTIONS,
    "tsc_mode": get_args(TscMode),
    "timer_mode": get_args(TimerMode),
}
_RANGES = (
    ("max_grant_frames", 1, 1 << 16),
    ("max_maptrack_frames", 0, 1 << 20),
    ("max_grant_version", 1, 2),
    ("max_event_channels", 1, (1 << 17) - 1),
    ("cpu_weight", 1, 65535),
    ("cap", 0, 100 * MAX_VCPUS),
    ("period", 10, 0xFFFFFFFF),
    ("slice", 10, 0xFFFFFFFF),
)
