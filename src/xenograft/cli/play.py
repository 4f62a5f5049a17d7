# SPDX-License-Identifier: GPL-2.0-or-later
"""What `xg run` and `xg demo` do once their options are read: one guest, from start to end."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xenograft.cli.feed import Feeder
from xenograft.cli.status import CRASHED, FAULT, OK, REBOOTED, TIMED_OUT, USAGE
from xenograft.cli.terminal import Terminal
from xenograft.observe.session import Observation
from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.config.xlcfg import load_config
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.machine import Domain, Machine, ShutdownReason
from xenograft.toolstack.sched.boot import machine_of
from xenograft.toolstack.sched.cpulist import parse_topology

if TYPE_CHECKING:
    from xenograft.hypervisor.sched.topology import Topology
    from xenograft.toolstack.config.domain import DomainConfig
    from xenograft.toolstack.devices.capture import Capture
    from xenograft.toolstack.sched.description import System

DEFAULT_CMDLINE = "console=hvc0"
"""For a kernel named without a command line: Linux finds Xen's console only if it's told."""


@dataclass(frozen=True)
class Session:
    """How a guest is run: everything that isn't the guest's own configuration."""

    clock: Literal["real", "virtual"] = "real"
    cpus: int | Topology | None = None
    pools: System | None = None
    """CPUs and pools, in place of `cpus`."""
    schedule: Path | None = None
    timeout: float | None = None
    restart: bool = False
    trace: Path | None = None
    log: tuple[str, ...] = ()
    stats: bool = False
    bridges: tuple[str, ...] = ()
    pcap: tuple[str, ...] = ()
    """Captures, as [N=]FILE."""
    screenshot: Path | None = None
    xenbus: bool = False


def _pools(file: str, cpus: str | None) -> System:
    from xenograft.toolstack.sched.description import read_pools

    if cpus is not None:
        raise UserError("--pools: the file says which CPUs there are")
    return read_pools(file)[1]


def say(line: str) -> None:
    """One line to the user; the guest's output has standard output for itself."""
    print(f"xg: {line}", file=sys.stderr, flush=True)


def _notice(line: str) -> None:
    """A line of the machine's; what a guest has put into it doesn't steer the terminal."""
    say(line if line.isprintable() else repr(line)[1:-1])


def start(config_file: Path | None, options: Mapping[str, Any]) -> int:
    """Run the guest that a file and options describe; returns the exit status."""
    cpus, pools = options["cpus"], options["pools"]
    session = Session(
        clock=options["clock"],
        cpus=None if cpus is None else parse_topology(cpus, "--cpus"),
        pools=None if pools is None else _pools(pools, cpus),
        schedule=options["schedule"],
        timeout=options["timeout"],
        restart=options["on_reboot"] == "restart",
        trace=options["trace"],
        log=options["log"],
        stats=options["stats"],
        bridges=options["bridge"],
        pcap=options["pcap"],
        screenshot=options["screenshot"],
        xenbus=options["xenbus"],
    )
    return play(configure(config_file, options), session)


def configure(config_file: Path | None, options: Mapping[str, Any]) -> DomainConfig:
    """The guest's configuration: the file's, with the options laid over it."""
    base = None
    if config_file is not None:
        base, warnings = load_config(config_file)
        for warning in warnings:
            say(f"warning: {warning}")
    kernel, ramdisk, cmdline = options["kernel"], options["ramdisk"], options["cmdline"]
    if kernel is not None:
        kernel = _file(kernel)
    elif base is None or base.kernel is None:
        from xenograft.toolstack.images.cache import ImageCache, default_kernel

        kernel = str(default_kernel(ImageCache()))
    if ramdisk is not None:
        ramdisk = _file(ramdisk)
    if cmdline is None and base is None:
        cmdline = DEFAULT_CMDLINE
    return from_options(
        base,
        name=options["name"],
        type=options["kind"],
        kernel=kernel,
        ramdisk=ramdisk,
        cmdline=cmdline,
        memory=options["memory"],
        vcpus=options["vcpus"],
        cpuid=options["cpuid"],
        disk=options["disk"],
        vif=options["vif"],
        p9=options["p9"],
        channel=options["channel"],
        vfb=options["vfb"],
    )


def _file(text: str) -> str:
    """The file that an option means: a path, or else the name of an image."""
    if "/" in text or Path(text).exists():
        return text
    from xenograft.toolstack.images.cache import ImageCache, kernel_or_image

    return str(kernel_or_image(text, ImageCache()))


class Run:
    """One guest on one machine, with its console on a terminal, through its restarts."""

    def __init__(self, config: DomainConfig, session: Session, terminal: Terminal) -> None:
        self._config = config
        self._session = session
        self._terminal = terminal
        self._timed_out = False

    def run(self) -> int:
        """Run until the guest ends for good, the user leaves, or time is up; the exit status."""
        with ExitStack() as stack:
            session = self._session
            machine = stack.enter_context(
                Machine(clock=session.clock, cpus=session.cpus, bridges=session.bridges)
                if session.pools is None
                else machine_of(session.pools, clock=session.clock, bridges=session.bridges)
            )
            stack.enter_context(self._observers(machine))
            if not any(text.partition("=")[0] == "xen" for text in session.log):
                machine.hypervisor.log.notices.append(_notice)
            if session.schedule is not None:
                from xenograft.observe.schedule import ScheduleFile

                stack.enter_context(ScheduleFile(machine.hypervisor, session.schedule))
            captures = stack.enter_context(_Captures(session.pcap, machine))
            domain = machine.create(self._config, paused=True)
            captures.follow(domain)
            stack.enter_context(self._terminal)
            stack.enter_context(self._watchdog(machine))
            feeder = Feeder(machine, self._terminal)
            while True:
                self._play(machine, domain, feeder)
                taken = self._take_screenshot(domain)
                if (status := self._verdict(domain)) is not None:
                    return status if taken or status != OK else USAGE
                if domain.shutdown_reason is ShutdownReason.soft_reset:
                    domain = domain.soft_reset()
                else:
                    domain.destroy()
                    domain = machine.create(self._config, paused=True)
                captures.follow(domain)

    def _observers(self, machine: Machine) -> Observation:
        """Who listens, from before the guest is made until the terminal is the user's again."""
        kernel, session = self._config.kernel, self._session
        return Observation(
            machine.hypervisor,
            trace=session.trace,
            log=session.log,
            stats=session.stats,
            xenbus=session.xenbus,
            kernel=None if kernel is None else Path(kernel),
        )

    def _play(self, machine: Machine, domain: Domain, feeder: Feeder) -> None:
        domain.console.on_output(self._output(machine))
        if self._session.screenshot is not None:
            # A guest that powers off lets its screen go first.
            domain.screen.framebuffer.keeps_last = True
        feeder.attach(domain)
        domain.unpause()
        try:
            if not self._over:
                machine.run(until=lambda: domain.ended or self._over)
        finally:
            feeder.detach()

    def _take_screenshot(self, domain: Domain) -> bool:
        """Write the picture that was asked for; False if there's none."""
        if self._session.screenshot is None:
            return True
        try:
            domain.screenshot(self._session.screenshot)
        except UserError as error:
            say(str(error))
            return False
        return True

    @property
    def _over(self) -> bool:
        return self._timed_out or self._terminal.left or self._terminal.output_closed

    def _output(self, machine: Machine) -> Any:
        def write(data: bytes) -> None:
            self._terminal.write(data)
            if self._terminal.output_closed:
                machine.stop()

        return write

    def _watchdog(self, machine: Machine) -> _Timeout:
        def expire() -> None:
            self._timed_out = True
            machine.stop()

        return _Timeout(self._session.timeout, expire)

    def _verdict(self, domain: Domain) -> int | None:
        """What the end means as an exit status; None: the guest is to be started again."""
        if domain.crash_report:
            print(domain.crash_report.rstrip("\n"), file=sys.stderr)
        if self._terminal.output_closed:
            return FAULT
        match domain.shutdown_reason:
            case ShutdownReason.poweroff:
                return OK
            case ShutdownReason.soft_reset:
                say("the guest goes on after a soft reset")
                return None
            case ShutdownReason.reboot:
                if self._session.restart:
                    say("the guest reboots")
                    return None
                say("the guest asked for a reboot (--on-reboot restart starts it again)")
                return REBOOTED
            case ShutdownReason.suspend:
                say("the guest suspended itself, and nobody is there to resume it")
                return OK
            case None:
                return self._unfinished()
            case reason:
                say(f"the guest crashed ({reason})")
                return CRASHED

    def _unfinished(self) -> int:
        if self._terminal.left:
            return OK
        if self._timed_out:
            say(f"the guest was still running after {self._session.timeout:g} s")
            return TIMED_OUT
        say("the guest sleeps for ever: it waits for nothing that could still come")
        return CRASHED


class _Captures:
    """The files of --pcap, open from one life of the guest to the next."""

    def __init__(self, specs: Sequence[str], machine: Machine) -> None:
        self._specs = [_capture_spec(spec) for spec in specs]
        paths = [path.absolute() for _devid, path in self._specs]
        for path in paths:
            if paths.count(path) > 1:
                raise UserError(f"--pcap {path}: one file holds the packets of one interface")
        self._machine = machine
        self._captures: list[tuple[int, Capture]] = []

    def __enter__(self) -> _Captures:
        if self._specs:
            from xenograft.toolstack.devices.capture import Capture

            clock = self._machine.hypervisor.clock
            try:
                for devid, path in self._specs:
                    self._captures.append((devid, Capture(path, clock)))
            except UserError:
                self.__exit__()
                raise
        return self

    def follow(self, domain: Domain) -> None:
        for devid, capture in self._captures:
            domain.devices.capture(capture, devid)

    def __exit__(self, *_: object) -> None:
        for _devid, capture in self._captures:
            capture.close()
            if capture.error is not None:
                say(capture.error)


def _capture_spec(text: str) -> tuple[int, Path]:
    """[N=]FILE; a file whose name looks like that is given as ./N=FILE."""
    number, equals, path = text.partition("=")
    if equals and number.isascii() and number.isdigit() and len(number) <= 5:
        return int(number), Path(path)
    return 0, Path(text)


class _Timeout:
    """Calls `expire` after some seconds of the host's time, unless it's left before."""

    def __init__(self, seconds: float | None, expire: Any) -> None:
        self._timer = None if seconds is None else threading.Timer(seconds, expire)

    def __enter__(self) -> None:
        if self._timer is not None:
            self._timer.daemon = True
            self._timer.start()

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()


def play(config: DomainConfig, session: Session) -> int:
    """Run one guest with its console on the terminal; returns the exit status."""
    return Run(config, session, Terminal()).run()
