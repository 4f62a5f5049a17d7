# SPDX-License-Identifier: GPL-2.0-or-later
"""Domains: made, listed, changed, saved, cloned, ended; their vCPUs and memory."""

from __future__ import annotations

from typing import Literal

import msgspec

from xenograft.toolstack.config.domain import DomainConfig
from xenograft.toolstack.service.messages.base import Request


# -- domains --------------------------------------------------------------------------------------
class DomainInfo(msgspec.Struct, frozen=True, kw_only=True):
    """libxl_dominfo: one domain at one moment. Sizes are in KiB, times in ns."""

    domid: int
    name: str
    uuid: str
    kind: str
    running: bool
    blocked: bool
    paused: bool
    shutdown: bool
    dying: bool
    shutdown_reason: int | None
    memory_kib: int
    max_kib: int
    shared_kib: int
    vcpus: int
    """How many are online."""
    max_vcpus: int
    cpu_time_ns: int
    age_ns: int
    """How long it has been there."""
    pool: str

    @property
    def state(self) -> str:
        """The six letters of `xl list`: running, blocked, paused, shutdown, crashed, dying."""
        crashed = self.shutdown and self.shutdown_reason == 3
        flags = (self.running, self.blocked, self.paused, self.shutdown, crashed, self.dying)
        return "".join(letter if on else "-" for letter, on in zip("rbpscd", flags, strict=True))


class ListDomains(Request[list[DomainInfo]], frozen=True):
    """All domains by number, or those that are named."""

    domains: list[str] = msgspec.field(default_factory=list)


class Created(msgspec.Struct, frozen=True):
    """A domain that was made."""

    domid: int
    name: str


class CreateDomain(Request[Created], frozen=True):
    """Build and start a domain. The paths in `config` are absolute."""

    config: DomainConfig
    paused: bool = False


class GuestConfig(msgspec.Struct, frozen=True):
    """The configuration that a domain would be built from again, with what was attached since."""

    domid: int
    uuid: str
    config: DomainConfig
    sched: str = "credit2"
    """The scheduler of its pool."""


class GetConfigs(Request[list[GuestConfig]], frozen=True):
    """The configurations of all domains, or of those that are named."""

    domains: list[str] = msgspec.field(default_factory=list)


class UpdateConfig(Request[None], frozen=True):
    """Build the domain from another configuration when it is next built again."""

    domain: str
    config: DomainConfig


class Pause(Request[None], frozen=True):
    """Stop a domain's vCPUs."""

    domain: str


class Unpause(Request[None], frozen=True):
    """Let them run again."""

    domain: str


class Destroy(Request[None], frozen=True):
    """End a domain at once."""

    domain: str


class Shutdown(Request[int], frozen=True):
    """Ask a guest to power off or reboot, by xenstore; answers with its domid.

    `acpi`: press the power button where the guest has no PV drivers.
    """

    domain: str
    reboot: bool = False
    acpi: bool = False


class Ended(msgspec.Struct, frozen=True):
    """How a domain ended: `reason` is a SHUTDOWN_*, or None if it was destroyed while it ran."""

    domid: int
    reason: int | None


class WaitEnd(Request[Ended], frozen=True):
    """Wait until a domain has shut down or was destroyed, at most `timeout` seconds.

    With `gone` until it's destroyed, and isn't built again.
    """

    domain: str
    timeout: float | None = None
    gone: bool = False


class Rename(Request[None], frozen=True):
    """Give a domain another name."""

    domain: str
    name: str


class Trigger(Request[None], frozen=True):
    """XEN_DOMCTL_sendtrigger."""

    domain: str
    trigger: str
    vcpu: int = 0


class Sysrq(Request[None], frozen=True):
    """Send a magic SysRq key, by xenstore."""

    domain: str
    key: str


class DumpCore(Request[None], frozen=True):
    """Write a core dump of a domain to a file (an absolute path)."""

    domain: str
    path: str


class Saved(msgspec.Struct, frozen=True):
    """A guest that was saved."""

    domid: int
    name: str
    size: int
    """Bytes of the file."""
    suspended: bool
    """Whether it has suspended itself; else it's a snapshot."""


class SaveDomain(Request[Saved], frozen=True):
    """Write a domain's whole state to a file (an absolute path).

    `mode` and `after` as for `Domain.save`.  `config`: saved with it instead of its own.
    """

    domain: str
    path: str
    mode: Literal["auto", "suspend", "snapshot"] = "auto"
    after: Literal["destroy", "run", "pause"] = "destroy"
    config: DomainConfig | None = None


class Restored(msgspec.Struct, frozen=True):
    """A guest that was restored, and what xl tells of it."""

    domid: int
    name: str
    kind: str
    xen: str
    store_gfn: int
    store_port: int
    console_gfn: int
    console_port: int


class RestoreDomain(Request[Restored], frozen=True):
    """A domain from a saved state (an absolute path); `config`: instead of the saved one."""

    path: str
    config: DomainConfig | None = None
    paused: bool = False


class OpenStream(Request[None], frozen=True):
    """The connection becomes the stream of a guest that is sent or received, by that name.

    What follows the reply are a saved guest's bytes, and lines (`handlers/migration.py`).
    """

    streams = True
    name: str


class Migrated(msgspec.Struct, frozen=True):
    """A guest that was sent. Times are the source's."""

    domid: int
    name: str
    suspended: bool
    down_ns: int
    """How long it stood still."""
    total_ns: int
    rounds: int
    pages: int
    sent: int
    """Bytes."""


class SendDomain(Request[Migrated], frozen=True):
    """Send a running domain by a stream; it's destroyed once it runs elsewhere."""

    domain: str
    stream: str
    mode: Literal["auto", "suspend", "snapshot"] = "auto"
    config: DomainConfig | None = None


class ReceiveDomain(Request[Restored], frozen=True):
    """Take in a domain that comes by a stream."""

    stream: str
    paused: bool = False


class SuspendDomain(Request[int], frozen=True):
    """Have a guest suspend itself, and leave it so; answers with its domid."""

    domain: str


class ResumeDomain(Request[None], frozen=True):
    """Let a guest go on that has suspended itself."""

    domain: str


class AttachConsole(Request[int], frozen=True):
    """Become a viewer of a domain's console: what it kept of the output comes first.

    `follow`: stay through the domain's restarts.
    """

    streams = True
    domain: str
    kind: str = "pv"
    number: int = 0
    follow: bool = False


# -- vCPUs and memory -----------------------------------------------------------------------------
class VcpuInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `xl vcpu-list`."""

    domid: int
    name: str
    vcpu: int
    cpu: int | None
    online: bool
    running: bool
    blocked: bool
    paused: bool
    time_ns: int
    hard: list[int] | None
    """Affinity: physical CPUs, None for all."""
    soft: list[int] | None


class ListVcpus(Request[list[VcpuInfo]], frozen=True):
    """The vCPUs of all domains, or of those that are named."""

    domains: list[str] = msgspec.field(default_factory=list)


class SetVcpus(Request[None], frozen=True):
    """Tell a guest how many of its vCPUs are to be online (cpu/N/availability)."""

    domain: str
    count: int
    ignore_host: bool = False


class SetMemory(Request[None], frozen=True):
    """Set a guest's memory target (memory/target), for its balloon driver."""

    domain: str
    kib: int


class SetMaxMemory(Request[None], frozen=True):
    """Set how much memory a domain may have."""

    domain: str
    kib: int


# -- clones and moments ---------------------------------------------------------------------------
class ForkDomain(Request[list[Created]], frozen=True):
    """Clone a domain; `name`: of the one clone, or what their names begin with."""

    domain: str
    count: int | None = None
    name: str | None = None
    paused: bool = False


class SnapshotRow(msgspec.Struct, frozen=True):
    """A moment that a domain can be taken back to."""

    name: str
    age_ns: int


class TakeSnapshot(Request[str], frozen=True):
    """Remember a domain as it is now; returns the name."""

    domain: str
    name: str | None = None


class ListSnapshots(Request[list[SnapshotRow]], frozen=True):
    """The moments that a domain can be taken back to, the oldest first."""

    domain: str


class DropSnapshot(Request[None], frozen=True):
    """Forget a moment."""

    domain: str
    name: str


class RewindDomain(Request[Created], frozen=True):
    """Take a domain back to a moment: the one of that name, or the latest."""

    domain: str
    name: str | None = None
    paused: bool = False
