# SPDX-License-Identifier: GPL-2.0-or-later
r"""The public face: a machine, its domains, their consoles.

>>> from xenograft import Machine
>>> with Machine(clock="virtual") as machine:
...     guest = machine.create_pvh(kernel="vmlinuz", ramdisk="initrd", cmdline="console=hvc0")
...     release = guest.console.expect(r"Linux version (\S+)").group(1)
...     shell = guest.console.expect("guest:~#")
...     sent = guest.console.send("cat /sys/hypervisor/type; exit\n")
...     guest.wait(timeout=60)
ShutdownReason.poweroff
>>> "\r\nxen\r\n" in guest.console.output
True

Everything runs in the thread that waits: `Domain.wait`, `Console.expect` and `Machine.run` run
the machine until what they wait for has happened; between them its time stands still on the
virtual clock, and goes on unused on the real one.
"""

from __future__ import annotations

import itertools
import uuid as uuids
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from xenograft.abi.hvm import params
from xenograft.hypervisor.hypervisor import Hypervisor
from xenograft.hypervisor.loop import HOST_SLICE, WINDOW_NS, Loop, Stop, signals_stop
from xenograft.hypervisor.sched.constants import CREDIT2_RUNQUEUES
from xenograft.hypervisor.sched.registry import BY_NAME
from xenograft.hypervisor.sched.topology import Topology
from xenograft.hypervisor.team import host_cpus
from xenograft.hypervisor.time import DEFAULT_EPOCH_NS, RealClock, VirtualClock
from xenograft.toolstack import meter
from xenograft.toolstack.console import Console, GuestEnded, ShutdownReason, tail
from xenograft.toolstack.create import (
    apply_limits,
    create_control_domain,
    create_pv_domain,
    create_pvh_domain,
)
from xenograft.toolstack.devices.manager import Devices
from xenograft.toolstack.errors import UserError, unknown
from xenograft.toolstack.layout import DomainFacts
from xenograft.toolstack.sched.apply import apply_scheduling
from xenograft.toolstack.sched.control import SchedControl
from xenograft.toolstack.screen import Screen
from xenograft.toolstack.services import Services
from xenograft.toolstack.state.suspend import ANSWER_SECONDS

if TYPE_CHECKING:
    from xenograft.backends.console.console import ConsoleBackend
    from xenograft.engine.protocol import Engine
    from xenograft.hypervisor import domain as hypervisor_domain
    from xenograft.hypervisor.instruments import Instruments
    from xenograft.toolstack.build.guest import BuiltGuest
    from xenograft.toolstack.build.pv import PvPlan
    from xenograft.toolstack.config.domain import DomainConfig
    from xenograft.toolstack.state.fork import Moment

SaveMode = Literal["auto", "suspend", "snapshot"]
After = Literal["destroy", "run", "pause"]

__all__ = ["Console", "Domain", "GuestEnded", "Machine", "ShutdownReason"]

MACHINE_MEMORY_MIB = 16 << 10
"""Memory of a machine unless told: nothing is used before a guest touches it."""


class Domain:
    """A guest of a `Machine`."""

    def __init__(
        self,
        machine: Machine,
        xen: hypervisor_domain.Domain,
        config: DomainConfig,
        console: ConsoleBackend | None = None,
    ) -> None:
        self.machine = machine
        self.config = config
        """What it was built from."""
        self.xen = xen
        """The hypervisor's own record of it."""
        self.console = Console(self, console)
        self.devices = Devices(machine.services, xen)
        """Its disks, network interfaces and the like."""
        self.screen = Screen(self)
        """What its `vfb=` shows, and its keyboard and pointer."""
        xen.on_shutdown.append(lambda _xen: self.console._drain())
        self._destroyed = False

    def __repr__(self) -> str:
        return f"<Domain {self.domid} {self.name!r}>"

    def __enter__(self) -> Domain:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.destroy()

    @property
    def domid(self) -> int:
        return self.xen.domid

    @property
    def name(self) -> str:
        return self.xen.name

    @property
    def vcpus(self) -> int:
        """How many vCPUs are online."""
        return sum(vcpu.online for vcpu in self.xen.vcpus)

    @property
    def shutdown_reason(self) -> ShutdownReason | None:
        """Why it has shut down; None while it runs."""
        reason = self.xen.shutdown_reason
        return None if reason is None else ShutdownReason.of(reason)

    @property
    def crash_report(self) -> str | None:
        """What is known about a crash or triple fault."""
        return self.xen.crash_report

    def channel(self, name: str, timeout: float | None = 60.0) -> Console:
        """The channel of that name; the machine runs until the guest has connected it.

        Raises UserError if there's none, TimeoutError and GuestEnded as `Console.expect`.
        """
        from xenograft.backends.console.device import ConsoleDevice

        devices = self.machine.services.buses["console"].of_domain(self.domid)
        found = [one for one in devices if isinstance(one, ConsoleDevice) and one.name == name]
        if not found:
            raise UserError(f"{self.name} has no channel {name!r}")
        device, hypervisor = found[0], self.machine.hypervisor

        def look_up(_backend: ConsoleBackend) -> None:
            hypervisor.attention = True

        device.on_connected.append(look_up)
        try:
            self.machine._wait(lambda: device.backend is not None or self.ended, timeout)
        finally:
            device.on_connected.remove(look_up)
        if device.backend is None:
            if self.ended:
                raise GuestEnded(self, f"it connected channel {name}")
            raise TimeoutError(f"{timeout} s went by before {self.name} connected channel {name}")
        return Console(self, device.backend)

    def screenshot(self, path: str | Path) -> None:
        """Write what the guest's screen shows to a PNG file.  Raises UserError."""
        self.screen.screenshot(path)

    @property
    def ended(self) -> bool:
        """Whether it has shut down or was destroyed."""
        return self._destroyed or self.xen.is_shutting_down

    @property
    def cpu_time_ns(self) -> int:
        """How long its vCPUs have run, in ns of the machine's time."""
        return sum(vcpu.runstate_now()[2][0] for vcpu in self.xen.vcpus)

    def wait(self, timeout: float | None = None) -> ShutdownReason:
        """Run the machine until the guest has shut down; returns why.

        `timeout` is in seconds of the machine's time; raises TimeoutError.
        """
        self.machine._wait(lambda: self.ended, timeout)
        if self.shutdown_reason is None:
            if self._destroyed:
                raise GuestEnded(self, "it shut down by itself")
            what = "any more" if timeout is None else f"in {timeout} s"
            raise TimeoutError(f"{self.name} hasn't shut down {what}{tail(self.console)}")
        return self.shutdown_reason

    def pause(self) -> None:
        """Stop its vCPUs."""
        self.xen.pause()

    def unpause(self) -> None:
        """Let its vCPUs run again."""
        self.xen.unpause()

    def suspend(self, timeout: float = ANSWER_SECONDS) -> bool:
        """Have the guest suspend itself; False if it can't, or doesn't begin within `timeout` s.

        `resume` lets it go on here; `save` saves it as it is.  Runs the machine.
        """
        from xenograft.toolstack.state import suspend

        services, xen = self.machine.services, self.xen
        if not suspend.can_suspend(services, xen):
            return False
        suspend.ask(services, xen)
        self.machine._wait(lambda: self.ended or suspend.answered(services, xen), timeout)
        if not self.ended and suspend.withdraw(services, xen):
            return False
        self.machine._wait(lambda: self.ended, suspend.SUSPEND_SECONDS)
        return suspend.is_suspended(xen)

    def resume(self) -> None:
        """Let a guest go on that has suspended itself.  Raises UserError if it hasn't."""
        from xenograft.toolstack.state import suspend

        if not suspend.is_suspended(self.xen):
            raise UserError(f"{self.name} isn't suspended")
        suspend.resume(self.machine.services, self.xen)

    def save(self, path: str | Path, *, mode: SaveMode = "auto", after: After = "destroy") -> None:
        """Write the guest's whole state to a file, for `Machine.restore`.

        `mode`: the guest's help is asked for ("suspend"), or not ("snapshot"), or as far as it
        gives it ("auto").  `after`: what becomes of the guest then: "destroy", "run" or "pause".
        Raises UserError; the guest goes on, and no file is left then.
        """
        from xenograft.toolstack.state.save import save_guest

        save_guest(self, Path(path), mode, after)

    def fork(self, name: str | None = None, *, paused: bool = False) -> Domain:
        """A clone, which runs as soon as the machine does (docs/fork.md).

        It's called `name`, or NAME-1, NAME-2 … after this guest.  Raises UserError.
        """
        from xenograft.toolstack.state.fork import fork

        if name is None:
            taken = {domain.name for domain in self.machine.domains}
            names = (f"{self.name}-{number}" for number in itertools.count(1))
            name = next(one for one in names if one not in taken)
        return fork(self, name, paused)

    def snapshot(self) -> Moment:
        """This moment, to `rewind` to or to `fork` from later.  Raises UserError."""
        from xenograft.toolstack.state.fork import Moment

        return Moment(self)

    def soft_reset(self) -> Domain:
        """The guest in a new domain, paused, after it has shut down.

        Its memory and its processors are as they were, all that it has of Xen begins anew
        (on_soft_reset).  Raises UserError.
        """
        from xenograft.toolstack.state.softreset import soft_reset

        return soft_reset(self)

    @property
    def destroyed(self) -> bool:
        """Whether it's gone."""
        return self._destroyed

    def destroy(self) -> None:
        """End it at once, and give its memory back. Its console's output stays readable."""
        if self._destroyed:
            return
        self._destroyed = True
        self.console._drain()
        self.console._close()
        self.devices.close()
        self.machine.services.forget(self.domid)
        self.machine.hypervisor.destroy_domain(self.xen)
        self.machine._forget(self)
        for other in self.machine.domains:
            other.devices.server_has_gone(self.name)


class Machine:
    """A machine that runs Xen, in this process. A context manager: at its end all guests go.

    `clock`: "real", or "virtual", where time is the guests' progress and a run depends on its
    inputs alone.  `engine`: "unicorn", or an engine object.  `memory`: MiB of the machine.
    `epoch_ns`: the wall-clock time of the machine's start (default: the host's, or a fixed one
    on the virtual clock).  `cpus`: physical CPUs, or their topology (default: as many as the host
    has; one on the virtual clock, where a run is the same on any host).  `sched`: the scheduler of
    Pool-0; `credit2_runqueue`: which CPUs share a run queue of credit2 ("cpu", "core", "socket",
    "node", "all"); `window_us`: how far one CPU may be ahead of another on the virtual clock.
    `bridges`: as for `add_bridge`.

    >>> with Machine() as machine, machine.create_pvh(kernel="vmlinuz", memory="512M") as guest:
    ...     machine.run(timeout=0.01)
    ...     guest.vcpus, guest.ended
    <Stop.TIMEOUT: 2>
    (1, False)
    """

    def __init__(
        self,
        *,
        clock: Literal["real", "virtual"] = "real",
        engine: str | Engine = "unicorn",
        memory: int = MACHINE_MEMORY_MIB,
        tsc_khz: int = 1_000_000,
        epoch_ns: int | None = None,
        cpus: int | Topology | None = None,
        sched: str = "credit2",
        credit2_runqueue: str = "socket",
        window_us: int = WINDOW_NS // 1000,
        host_slice: int = HOST_SLICE,
        bridges: Iterable[str] = (),
    ) -> None:
        if clock not in ("real", "virtual"):
            raise UserError(f"clock {clock!r}: there are 'real' and 'virtual'")
        if cpus is None:
            cpus = host_cpus() if clock == "real" else 1
        self.hypervisor = Hypervisor(
            _engine(engine) if isinstance(engine, str) else engine,
            frames=memory << 8,
            clock=RealClock(epoch_ns=epoch_ns)
            if clock == "real"
            else VirtualClock(epoch_ns=DEFAULT_EPOCH_NS if epoch_ns is None else epoch_ns),
            tsc_khz=tsc_khz,
            topology=_topology(cpus),
            sched_id=_sched_id(sched),
            credit2_runqueue=_runqueue(credit2_runqueue),
        )
        self.loop = Loop(self.hypervisor, window_ns=window_us * 1000, host_slice=host_slice)
        self.control = create_control_domain(self.hypervisor)
        """Domain 0: its services run in this process."""
        self.scheduling = SchedControl(self.hypervisor, self.control)
        """Schedulers, CPU pools and affinity."""
        self.services = Services(self.hypervisor, self.control)
        meter.attach(self.services)
        self._domains: list[Domain] = []
        self._closed = False
        try:
            for bridge in bridges:
                self.add_bridge(bridge)
        except UserError:
            self.close()
            raise

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- networks ---------------------------------------------------------------------------------
    def add_bridge(self, spec: str) -> None:
        """A bridge for guests: ``lan,mtu=9000``, ``nat,uplink=user`` (docs/network.md).

        Raises UserError.
        """
        from xenograft.backends.net.bridge import BridgeError, parse_bridge
        from xenograft.backends.net.networks import NetworkError

        try:
            self.services.networks.define(parse_bridge(spec))
        except (BridgeError, NetworkError) as error:
            raise UserError(str(error)) from None

    # -- guests -----------------------------------------------------------------------------------
    def create_pvh(
        self,
        *,
        kernel: str | Path,
        ramdisk: str | Path | None = None,
        cmdline: str = "",
        memory: int | str = 256,
        vcpus: int = 1,
        name: str = "guest",
        cpuid: str | None = None,
        paused: bool = False,
    ) -> Domain:
        """A PVH guest from a kernel file; it starts to run when the machine runs next.

        `memory`: MiB, or text such as "512M". Raises UserError, one line, for bad input.
        """
        from xenograft.toolstack.config.options import from_options

        config = from_options(
            None,
            name=name,
            type="pvh",
            kernel=str(kernel),
            ramdisk=None if ramdisk is None else str(ramdisk),
            cmdline=cmdline,
            memory=str(memory),
            vcpus=vcpus,
            cpuid=cpuid,
        )
        return self.create(config, paused=paused)

    def create(self, config: DomainConfig, *, paused: bool = False) -> Domain:
        """A guest as a configuration describes it. Raises UserError."""
        from xenograft.toolstack.build.domain import build_domain

        return self.create_built(build_domain(config), config, paused=paused)

    def create_built(
        self, built: BuiltGuest | PvPlan, config: DomainConfig, *, paused: bool = False
    ) -> Domain:
        """A guest that was built already; of `config` its name, UUID, CPUID, limits
        and scheduling count."""
        from xenograft.arch.x86.cpuid.parse import CpuidSyntaxError, parse

        try:
            edits = parse(config.cpuid) if config.cpuid is not None else ()
        except CpuidSyntaxError as error:
            raise UserError(str(error)) from None
        self.check_name(config.name)
        identity = uuids.UUID(config.uuid) if config.uuid else uuids.uuid5(_UUIDS, config.name)
        create: Any = create_pv_domain if built.kind == "pv" else create_pvh_domain
        xen = create(
            self.hypervisor,
            built,
            name=config.name,
            uuid=identity.bytes,
            cpuid=edits,
            max_event_channels=config.max_event_channels,
            pages=config.memory << 8,
        )
        apply_limits(xen, config)
        domain = Domain(self, xen, config)
        self.admit(domain)
        try:
            others = [(one.domid, len(one.xen.vcpus)) for one in self._domains if one is not domain]
            apply_scheduling(self.scheduling, xen.domid, config, len(xen.vcpus), others)
            self.introduce(domain)
            domain.devices.attach_all(config)
        except BaseException:
            domain.destroy()
            raise
        if not paused:
            domain.unpause()
        self.announce(config.name)
        return domain

    def restore(
        self, path: str | Path, *, config: DomainConfig | None = None, paused: bool = False
    ) -> Domain:
        """A guest that `Domain.save` has written, from this machine or another one.

        `config`: instead of the one that was saved with it.  Raises UserError, one line; then
        nothing has changed.
        """
        from xenograft.toolstack.state.guest import revive
        from xenograft.toolstack.state.pages import FileGuest

        with FileGuest(path) as saved:
            return revive(self, saved, str(path), config=config, paused=paused)

    # -- for who makes domains of this machine's ---------------------------------------------
    def check_name(self, name: str) -> None:
        """Raises UserError if a domain has that name."""
        if any(domain.name == name for domain in self._domains):
            raise UserError(f"name: there is a domain {name!r} already; give another name")

    def admit(self, domain: Domain) -> None:
        """A domain was made: it's one of the machine's until it's destroyed."""
        self._domains.append(domain)

    def introduce(self, domain: Domain) -> None:
        """Tell the store of a new domain."""
        xen = domain.xen
        uuid = str(uuids.UUID(bytes=xen.uuid))
        self.services.introduce(xen, self._facts(xen, domain.config, uuid))

    def announce(self, name: str) -> None:
        """A domain of that name is there: others may have waited for it to serve them."""
        for other in self._domains:
            other.devices.server_is_back(name)

    def _facts(self, xen: hypervisor_domain.Domain, config: DomainConfig, uuid: str) -> DomainFacts:
        values, clock = xen.hvm_params, self.hypervisor.clock
        memory = config.memory << 10
        return DomainFacts(
            domid=xen.domid,
            name=config.name,
            uuid=uuid,
            kind=config.type,
            memory=memory,
            maxmem=memory if config.maxmem is None else config.maxmem << 10,
            vcpus=config.max_vcpus,
            online=config.vcpus,
            start_time=(clock.epoch_ns + clock.now()) / 1e9,
            store_gfn=values[params.HVM_PARAM_STORE_PFN],
            store_port=values[params.HVM_PARAM_STORE_EVTCHN],
            console_gfn=values[params.HVM_PARAM_CONSOLE_PFN],
            console_port=values[params.HVM_PARAM_CONSOLE_EVTCHN],
            kernel=config.kernel or "",
            ramdisk=config.ramdisk or "",
            cmdline=config.cmdline,
        )

    @property
    def domains(self) -> list[Domain]:
        """The guests that are there, in the order of their creation."""
        return list(self._domains)

    def _forget(self, domain: Domain) -> None:
        self._domains.remove(domain)

    # -- running ----------------------------------------------------------------------------------
    @property
    def now(self) -> float:
        """Seconds since the machine's start, on its own clock."""
        return self.hypervisor.clock.now() / 1e9

    @property
    def instruments(self) -> Instruments:
        """Where listeners are added that want to see hypercalls, exits and the rest."""
        return self.hypervisor.instruments

    @property
    def log(self) -> str:
        """The last of the hypervisor's own messages (`xl dmesg`)."""
        return self.hypervisor.log.text()

    def run(self, timeout: float | None = None, until: Callable[[], bool] | None = None) -> Stop:
        """Run until `until()` (default: no guest runs any more), at most `timeout` seconds.

        Returns why it stopped. `until` is asked when a guest has written to its console or
        shut down, and after what was `post`ed.
        """
        return self._wait(until or self._all_ended, timeout)

    def _all_ended(self) -> bool:
        return all(domain.ended for domain in self._domains)

    def _wait(self, done: Callable[[], bool], timeout: float | None) -> Stop:
        deadline = None
        if timeout is not None:
            deadline = self.hypervisor.clock.now() + round(timeout * 1e9)
        with signals_stop(self.loop) as caught:
            stop = self.loop.run(done, deadline)
        if caught:
            import signal

            if caught[0] == signal.SIGINT:
                raise KeyboardInterrupt
            raise SystemExit(128 + caught[0])
        return stop

    def stop(self) -> None:
        """Make whoever runs the machine return soon. May be called from any thread."""
        self.loop.stop()

    def kick(self) -> None:
        """End the slice under way, so that the machine looks up. May be called from any thread."""
        self.hypervisor.door.wake()

    def post(self, function: Callable[[], None]) -> None:
        """Have the thread that runs the machine call `function`. May be called from any thread."""

        def call() -> None:
            function()
            self.hypervisor.attention = True

        self.hypervisor.door.post(call)

    def close(self) -> None:
        """Destroy all guests and give back what the machine holds."""
        if self._closed:
            return
        self._closed = True
        for domain in self.domains:
            domain.destroy()
        self.services.close()
        self.hypervisor.close()
        self.loop.close()


_UUIDS = uuids.UUID("8d0a5c4e-6f0b-5d8e-9c53-1c2a7b3f4e60")
"""Name space of the UUIDs of domains that were given none: the same name, the same UUID."""


def _runqueue(name: str) -> str:
    if name not in CREDIT2_RUNQUEUES:
        raise UserError(f"credit2_runqueue: {unknown('way', name, CREDIT2_RUNQUEUES)}")
    return name


def _topology(cpus: int | Topology) -> Topology:
    if isinstance(cpus, Topology):
        return cpus
    try:
        return Topology.of(cores=cpus)
    except ValueError as error:
        raise UserError(f"cpus: {error}") from None


def _sched_id(name: str) -> int:
    if name not in BY_NAME:
        raise UserError(unknown("scheduler", name, BY_NAME))
    return BY_NAME[name].sched_id


def _engine(name: str) -> Engine:
    if name != "unicorn":
        raise UserError(f"engine {name!r}: there is 'unicorn'")
    from xenograft.engine.unicorn import UnicornEngine

    try:
        return UnicornEngine()
    except ImportError as error:
        raise UserError(str(error)) from None
