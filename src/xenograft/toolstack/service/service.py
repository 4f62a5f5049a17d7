# SPDX-License-Identifier: GPL-2.0-or-later
"""The service: guests from their creation to their end, and who waits for what.

Everything here runs on the event loop, but for `_make` and what is handed to `call`, which run
on the machine's thread.
"""

from __future__ import annotations

import asyncio
import time
import traceback
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from xenograft.toolstack.errors import UserError
from xenograft.toolstack.service.consoles import ConsoleHub
from xenograft.toolstack.service.host import Guest, Host
from xenograft.toolstack.service.lifecycle import (
    Fate,
    Plan,
    decide,
    preserved_name,
    restart_delay_ns,
)
from xenograft.toolstack.service.messages import Created, Ended, Failure
from xenograft.toolstack.service.record import RunningGuest, write_record
from xenograft.toolstack.service.remote import with_disks
from xenograft.toolstack.service.streams import Streams
from xenograft.toolstack.service.thread import MachineThread

if TYPE_CHECKING:
    from xenograft.toolstack.build.guest import BuiltGuest
    from xenograft.toolstack.build.pv import PvPlan
    from xenograft.toolstack.config.domain import DomainConfig
    from xenograft.toolstack.machine import Domain, Machine
    from xenograft.toolstack.service.paths import ServicePaths

Log = Callable[[str], None]


class _End(NamedTuple):
    """What is known of a domain that has shut down."""

    guest: Guest
    reason: int | None
    config: DomainConfig
    age_ns: int
    report: str | None


class Line:
    """A guest through its restarts: a domain, then the one built after it, and so on."""

    def __init__(self, loop: asyncio.AbstractEventLoop, hub: ConsoleHub) -> None:
        self.hub = hub
        """The console of the domain that there is now."""
        self.shut_down: asyncio.Future[Ended] = loop.create_future()
        """Of the domain that there is now."""
        self.over: asyncio.Future[Ended] = loop.create_future()
        """Of the guest: no other domain is built after this one."""
        self.rebuilding = False


class Service:
    """All that the service does, apart from sockets."""

    def __init__(self, paths: ServicePaths, log: Log, found: list[str]) -> None:
        self.paths = paths
        self.log = log
        self.found = found
        self.loop = asyncio.get_running_loop()
        self.started = time.monotonic()
        self.stopping = asyncio.Event()
        self.thread: MachineThread
        self.host: Host
        self.lines: dict[int, Line] = {}
        self.suspending: set[int] = set()
        """Domains that somebody saves, suspends or sends elsewhere."""
        self.reading = asyncio.Lock()
        """Held by who reads a guest that runs: there's one log of written pages."""
        self.streams = Streams()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, make: Callable[[], Machine]) -> None:
        """Make the machine."""
        self.thread = MachineThread(self.loop, make, self.log)
        machine = await self.thread.start()
        self.thread.ended.add_done_callback(lambda _: self.stopping.set())
        self.host = Host(machine)
        self.host.changed = self._save_record

    async def stop(self) -> None:
        """End all guests and the machine."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.thread.stop()
        self.paths.running.unlink(missing_ok=True)

    def _save_record(self) -> None:
        """On the machine's thread: note which guests there are."""
        guests = [
            RunningGuest(
                guest.domid,
                guest.name,
                str(uuid.UUID(bytes=guest.domain.xen.uuid)),
                guest.config,
                guest.saved_to,
            )
            for guest in self.host.guests.values()
        ]
        try:
            write_record(self.paths.running, guests)
        except OSError as error:
            self.log(f"{self.paths.running}: {error.strerror or error}")

    # -- creation ------------------------------------------------------------------------
    async def create(self, config: DomainConfig, paused: bool, line: Line | None = None) -> Created:
        """Build a guest and start it; `line`, if given, goes on with it.  Raises Failure."""

        def free() -> None:
            if self.host.lookup(config.name) is not None:
                raise Failure(f'Domain with name "{config.name}" already exists.')

        await self.thread.call(free)
        try:
            domid = await self._build(config)
        except UserError as error:
            raise Failure(str(error)) from None
        self.open_line(domid, line)
        self.log(f"domain {domid} ({config.name}) was created")
        if not paused:
            await self.thread.call(self.host.guests[domid].domain.unpause)
        return Created(domid, config.name)

    async def _build(self, config: DomainConfig) -> int:
        """Read and unpack beside the machine, then make the domain on its thread."""
        from xenograft.toolstack.build.domain import build_domain

        built = await asyncio.to_thread(build_domain, config)
        return await with_disks(self, config.disk, lambda: self._make(built, config))

    def _make(self, built: BuiltGuest | PvPlan, config: DomainConfig) -> int:
        """On the machine's thread: the domain, paused."""
        if config.uuid is None:
            config = msgspec.structs.replace(config, uuid=str(uuid.uuid4()))
        return self.register(self.host.machine.create_built(built, config, paused=True), config)

    def register(self, domain: Domain, config: DomainConfig) -> int:
        """On the machine's thread: a domain was made, and is paused; returns its number."""
        domid, tell = domain.domid, self.thread.tell
        domain.console.on_output(lambda data: tell(self._output, domid, data))
        domain.xen.on_shutdown.append(lambda _xen: tell(self.shut_down, domid))
        guest = self.host.add(domain, config)
        guest.on_destroy.append(lambda: tell(self._destroyed, domid))
        return domid

    def open_line(self, domid: int, line: Line | None = None) -> None:
        """A domain was made: it begins a line of its own, or goes on with one."""

        async def type_(data: bytes) -> int:
            def send() -> int:
                guest = self.host.guests.get(domid)
                return guest.domain.console.send(data) if guest is not None else len(data)

            return await self.thread.call(send)

        hub = ConsoleHub(type_)
        if line is None:
            line = Line(self.loop, hub)
        else:
            line.hub.finish(hub)
            line.hub, line.shut_down = hub, self.loop.create_future()
        line.rebuilding = False
        self.lines[domid] = line

    def _output(self, domid: int, data: bytes) -> None:
        line = self.lines.get(domid)
        if line is not None:
            line.hub.feed(data)

    # -- the end -------------------------------------------------------------------------
    def shut_down(self, domid: int) -> None:
        """A domain has shut down by itself."""
        if domid in self.suspending:
            # Whoever has asked it to looks after it.
            return
        task = self.loop.create_task(self._retire(domid))
        self._tasks.add(task)
        task.add_done_callback(self._retired)

    def _retired(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.log("".join(traceback.format_exception(error)))

    def _destroyed(self, domid: int) -> None:
        """A domain was destroyed, by its fate or by somebody's command."""
        line = self.lines.pop(domid, None)
        if line is None:
            return
        line.hub.end()
        ended = Ended(domid, None)
        if not line.shut_down.done():
            line.shut_down.set_result(ended)
        if not line.rebuilding:
            self._over(line, line.shut_down.result())

    def _over(self, line: Line, ended: Ended) -> None:
        line.hub.finish(None)
        if not line.over.done():
            line.over.set_result(ended)

    async def _retire(self, domid: int) -> None:
        """Do what the configuration says about a domain that has shut down."""
        line = self.lines.get(domid)
        end = await self.thread.call(lambda: self._end_of(domid))
        if line is None or end is None:
            return
        plan = decide(end.reason, end.config)
        self.log(f"domain {domid} ({end.guest.name}) {plan.why}")
        if end.report:
            self.log(f"domain {domid}: {end.report.rstrip()}")
        ended = Ended(domid, end.reason)
        if not line.shut_down.done():
            line.shut_down.set_result(ended)
        try:
            await self._execute(line, end, plan)
        except Failure as error:
            self.log(f"domain {domid} ({end.config.name}): {error}")
            self._over(line, ended)
        if plan.fate is Fate.KEEP and not line.over.done():
            line.over.set_result(ended)

    def _end_of(self, domid: int) -> _End | None:
        guest = self.host.guests.get(domid)
        if guest is None:
            return None
        xen, now = guest.domain.xen, self.host.hypervisor.clock.now()
        return _End(
            guest, xen.shutdown_reason, guest.config, now - guest.created_ns, xen.crash_report
        )

    async def _execute(self, line: Line, end: _End, plan: Plan) -> None:
        guest = end.guest
        if plan.dump:
            await self._dump(guest)
        line.rebuilding = plan.rebuild
        if plan.fate is Fate.RENAME:
            await self.thread.call(lambda: self._set_aside(guest))
            # The console goes on with the successor; what has ended keeps its own to the end.
            self.lines.pop(guest.domid, None)
            line.hub.end()
        elif plan.fate is Fate.DESTROY:
            await self.thread.call(lambda: self.host.destroy(guest))
        elif plan.fate is Fate.RENEW:
            await asyncio.sleep(restart_delay_ns(end.age_ns) / 1e9)
            await self._renew(line, guest)
        if plan.rebuild:
            await asyncio.sleep(restart_delay_ns(end.age_ns) / 1e9)
            # It may have been renamed or given another configuration while it ran.
            await self.create(guest.config, False, line)

    async def _renew(self, line: Line, guest: Guest) -> None:
        """A guest's soft reset; one that can't have it is destroyed.  Raises Failure."""
        from xenograft.toolstack.state.softreset import soft_reset

        def renew() -> int:
            domain = soft_reset(guest.domain, lambda: self.host.destroy(guest))
            return self.register(domain, guest.config)

        line.rebuilding = True
        try:
            domid = await self.thread.call(renew)
        except UserError as error:
            line.rebuilding = False
            await self.thread.call(lambda: self.host.destroy(guest))
            raise Failure(str(error)) from None
        self.open_line(domid, line)
        self.log(f"domain {domid} ({guest.config.name}) goes on")
        await self.thread.call(self.host.guests[domid].domain.unpause)

    def _set_aside(self, guest: Guest) -> None:
        """On the machine's thread: another name and UUID, so that a successor may have these."""
        now = self.host.hypervisor.clock
        seconds = (now.epoch_ns + now.now()) // 10**9
        when = time.strftime("%Y%m%dT%H%MZ", time.gmtime(seconds))
        taken = {domain.name for domain in self.host.hypervisor.domains.values()}
        self.host.set_aside(guest, preserved_name(guest.name, when, taken), uuid.uuid4())

    async def _dump(self, guest: Guest) -> None:
        from xenograft.toolstack.service.handlers.control import dump_to

        when = time.strftime("%Y-%m%d-%H%M.%S", time.gmtime())
        path = self.paths.dumps / f"{when}-{guest.name}.{guest.domid}.core"
        try:
            self.paths.dumps.mkdir(mode=0o700, exist_ok=True)
            await dump_to(self, guest, str(path))
        except (OSError, Failure) as error:
            self.log(f"domain {guest.domid}: no core dump: {error}")
        else:
            self.log(f"domain {guest.domid}: core dump in {path}")

    # -- waiting -------------------------------------------------------------------------
    async def wait_end(self, domid: int, gone: bool, timeout: float | None) -> Ended:
        """Until a domain has shut down or (with `gone`) its guest is over.  Raises Failure."""
        line = self.lines.get(domid)
        if line is None:
            raise Failure(f"domain {domid} has gone")
        future = line.over if gone else line.shut_down
        done, _ = await asyncio.wait([future], timeout=timeout)
        if not done:
            raise Failure(f"domain {domid} is still running after {timeout:g} s", 4)
        return future.result()

    def hub(self, domid: int) -> ConsoleHub:
        """A domain's console.  Raises Failure."""
        line = self.lines.get(domid)
        if line is None:
            raise Failure(f"domain {domid} has no console here")
        return line.hub

    def domain(self, domid: int) -> Domain:
        """A domain that is there; for the machine's thread."""
        return self.host.guests[domid].domain
