# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be asked of the host service, and what it answers: declared once, for both ends.

A request names in its base the type of its result: ``class Uptime(Request[list[DomainUptime]])``.
Domains are given as people write them, by name or number; the service looks them up, so that
a command needs one round trip.  What fails is a `Failure` with the line that `xl` would print.
"""

from __future__ import annotations

from typing import Any, ClassVar, Generic, Literal, TypeVar, get_args

import msgspec

from xenograft.hypervisor.metering import Reading
from xenograft.hypervisor.sched.topology import Topology
from xenograft.toolstack.config.disk import Disk
from xenograft.toolstack.config.display import Vkb
from xenograft.toolstack.config.domain import DomainConfig
from xenograft.toolstack.config.vif import Vif
from xenograft.toolstack.errors import Failure as Failure

T = TypeVar("T")
PROTOCOL = 1
"""A service and a command that speak different protocols don't talk to each other."""


class Request(msgspec.Struct, Generic[T], frozen=True, forbid_unknown_fields=True, tag=True):
    """The base of all requests; `result` is the type of the answer."""

    result: ClassVar[Any]
    known: ClassVar[list[type[Request[Any]]]] = []
    streams: ClassVar[bool] = False
    """Whether the connection carries bare bytes after the reply."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        (base,) = cls.__orig_bases__  # type: ignore[attr-defined]
        (cls.result,) = get_args(base)
        Request.known.append(cls)


class MachineOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The machine that a service holds."""

    cpus: int = 4
    memory_mib: int = 16 << 10
    sched: str = "credit2"
    topology: Topology | None = None
    """Where the CPUs are, in place of `cpus`."""
    pools: str | None = None
    """CPUs and pools as text (toolstack.sched.description), in place of all but the memory."""


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer: a result, or an error as one line with the exit status that goes with it."""

    value: msgspec.Raw = msgspec.Raw(b"\xc0")
    error: str | None = None
    status: int = 1


# -- the service itself ---------------------------------------------------------------------------
class ServiceInfo(msgspec.Struct, frozen=True):
    """The service, as `xg service status` shows it."""

    pid: int
    protocol: int
    version: str
    uptime: float
    """Seconds on the host's clock."""
    guests: list[str]
    socket: str
    xenstore: str
    log: str
    found: list[str]
    """Guests of an earlier service that ended without stopping."""


class GetService(Request[ServiceInfo], frozen=True):
    """Who are you?"""


class StopService(Request[list[str]], frozen=True):
    """Stop; answers with the guests that were destroyed with it."""


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

    domains: list[str] = []


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

    domains: list[str] = []


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

    domains: list[str] = []


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


# -- clones and moments --------------------------------------------------------------------------
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


# -- devices --------------------------------------------------------------------------------------
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


# -- the machine ----------------------------------------------------------------------------------
class CpuRow(msgspec.Struct, frozen=True):
    """Where a physical CPU is."""

    core: int
    socket: int
    node: int


class NodeRow(msgspec.Struct, frozen=True):
    """A NUMA node."""

    memory_mib: int
    free_mib: int
    distances: list[int]


class HostInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What `xl info` shows, by its own names where they are fields of a line."""

    host: str
    release: str
    version: str
    machine: str
    nr_cpus: int
    max_cpu_id: int
    nr_nodes: int
    cores_per_socket: int
    threads_per_core: int
    cpu_mhz: float
    hw_caps: list[int]
    virt_caps: list[str]
    total_memory_mib: int
    free_memory_mib: int
    free_cpus: int
    xen_major: int
    xen_minor: int
    xen_extra: str
    xen_caps: str
    xen_scheduler: str
    xen_pagesize: int
    virt_start: int
    xen_changeset: str
    xen_commandline: str
    cc_compiler: str
    cc_compile_by: str
    cc_compile_domain: str
    cc_compile_date: str
    build_id: str
    now_ns: int
    cpus: list[CpuRow] = []
    nodes: list[NodeRow] = []


class GetInfo(Request[HostInfo], frozen=True):
    """The machine."""


class Dmesg(Request[str], frozen=True):
    """The hypervisor's messages; `clear` forgets them."""

    clear: bool = False


class DebugKeys(Request[None], frozen=True):
    """Have the hypervisor print what its debug keys print."""

    keys: str


class SetParameters(Request[None], frozen=True):
    """Change the hypervisor's parameters at run time."""

    parameters: str


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a domain has used, for `xg top`."""

    domain: DomainInfo
    networks: int = 0
    net_tx: int = 0
    net_rx: int = 0
    disks: int = 0
    disk_busy: int = 0
    disk_reads: int = 0
    disk_writes: int = 0
    sectors_read: int = 0
    sectors_written: int = 0


class GetUsage(Request[list[Usage]], frozen=True):
    """What all domains have used."""


# -- schedulers and CPU pools ---------------------------------------------------------------------
class PoolRow(msgspec.Struct, frozen=True):
    """A CPU pool."""

    pool_id: int
    name: str
    sched: str
    domains: int
    cpus: list[int]


class ListPools(Request[list[PoolRow]], frozen=True):
    """All CPU pools."""


class CreatePool(Request[PoolRow], frozen=True):
    """A pool of free CPUs; None: the first that is free."""

    name: str
    sched: str | None = None
    cpus: list[int] | None = None
    nodes: list[int] | None = None


class DestroyPool(Request[None], frozen=True):
    """Its CPUs are free afterwards."""

    name: str


class RenamePool(Request[None], frozen=True):
    """Give a pool another name."""

    name: str
    new: str


class MovePoolCpus(Request[None], frozen=True):
    """Give a pool CPUs, or take them away: "1", "0-3", "node:0"."""

    name: str
    cpus: str
    add: bool


class MigrateToPool(Request[None], frozen=True):
    """Move a domain into a pool."""

    domain: str
    pool: str


class SplitPools(Request[None], frozen=True):
    """One pool for each NUMA node."""


class PinVcpu(Request[None], frozen=True):
    """Affinities of a vCPU ("all": of each); "-" leaves one as it is."""

    domain: str
    vcpu: str
    hard: str = "-"
    soft: str = "-"
    force: bool = False


class SchedParams(msgspec.Struct, frozen=True, omit_defaults=True):
    """Parameters of a domain, a vCPU or a scheduler; None: not given, or without meaning."""

    weight: int | None = None
    cap: int | None = None
    period_us: int | None = None
    budget_us: int | None = None
    extratime: bool | None = None
    ratelimit_us: int | None = None
    tslice_ms: int | None = None
    migration_delay_us: int | None = None


class SchedRow(msgspec.Struct, frozen=True):
    """A domain's parameters, or a vCPU's."""

    domid: int
    name: str
    params: SchedParams
    vcpu: int | None = None


class SchedPool(msgspec.Struct, frozen=True):
    """A pool's scheduler, its parameters, and its domains."""

    pool: str
    params: SchedParams
    rows: list[SchedRow]


class GetSched(Request[list[SchedPool]], frozen=True):
    """The pools of one scheduler: all, or the named one; `vcpus`: a row for each vCPU."""

    sched: str
    pool: str | None = None
    vcpus: bool = False


class GetDomainSched(Request[list[SchedRow]], frozen=True):
    """One domain's parameters, or those of its vCPUs ("all", or their numbers)."""

    domain: str
    sched: str
    vcpus: list[str] = []


class SetDomainSched(Request[None], frozen=True):
    """Change a domain's parameters, or its vCPUs'."""

    domain: str
    sched: str
    params: SchedParams
    vcpus: dict[str, SchedParams] = {}


class SetPoolSched(Request[None], frozen=True):
    """Change parameters of a pool's scheduler."""

    sched: str
    pool: str
    params: SchedParams


class WindowRow(msgspec.Struct, frozen=True):
    """A window of an ARINC 653 schedule; `domain` None: nobody's."""

    domain: str | None
    uuid: str | None
    vcpu: int
    start_ns: int
    runtime_ns: int


class TableRow(msgspec.Struct, frozen=True):
    """The schedule of an ARINC 653 pool."""

    pool: str
    major_frame_ns: int
    windows: list[WindowRow]


class GetTables(Request[list[TableRow]], frozen=True):
    """The schedules of all ARINC 653 pools, or of the named one."""

    pool: str | None = None


class SetTable(Request[TableRow], frozen=True):
    """Check a schedule and load it into a pool (None: the only one with ARINC 653).

    `text`: a schedule, or a system with one (toolstack.sched.description); `source`: its name in
    errors; `force`: though a vCPU of the pool has no window; `dry`: only check it.
    """

    text: str
    source: str
    pool: str | None = None
    force: bool = False
    dry: bool = False


class Schedule(msgspec.Struct, frozen=True):
    """What ran lately: the window of time that ends at `now` (ns)."""

    now: int
    segments: list[tuple[int, int, int, int, int]]
    """CPU, domid, vCPU, from when to when (ns)."""
    names: dict[int, str]
    """Of domains, by number."""


class GetSchedule(Request[Schedule], frozen=True):
    """Record what runs, and answer with the last `span_ns` of it.

    The first time nothing is known; the recording ends when nobody asks for some seconds.
    """

    span_ns: int


# -- accounts -------------------------------------------------------------------------------------
class Period(msgspec.Struct, frozen=True):
    """The account at two moments; `start` None: the machine's start."""

    start: Reading | None
    end: Reading


class GetPeriod(Request[Period], frozen=True):
    """The account between two marks: since the machine's start, until now."""

    since: str | None = None
    until: str | None = None


class MarkMeter(Request[Reading], frozen=True):
    """Keep the account of this moment under a name."""

    name: str


class ListMarks(Request[dict[str, int]], frozen=True):
    """The marks, with the machine's times (ns)."""


class GetView(Request[str], frozen=True):
    """What a view of the machine says (`views`), as JSON: of all domains, or of one."""

    name: str
    domain: str | None = None
