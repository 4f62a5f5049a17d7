# SPDX-License-Identifier: GPL-2.0-or-later
"""The service's process: ``python -m xenograft.toolstack.service.daemon FD OPTIONS``.

FD is the pipe of the command that starts it: the first line says "ready", or what's wrong; what
follows is for the user to read.  OPTIONS are `MachineOptions` as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import fcntl
import os
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from xenograft.toolstack.errors import UserError
from xenograft.toolstack.service.client import READY, find
from xenograft.toolstack.service.messages import MachineOptions
from xenograft.toolstack.service.paths import ServicePaths, service_paths
from xenograft.toolstack.service.record import take_record

if TYPE_CHECKING:
    from xenograft.toolstack.machine import Machine

_LOG_LIMIT = 1 << 20
_LOCK_SECONDS = 15.0
_SWITCH_SECONDS = 0.0002


class Log:
    """The service's log: lines with the time, in a file that is set aside when it's large."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with contextlib.suppress(OSError):
            if path.stat().st_size > _LOG_LIMIT:
                path.replace(path.with_name(f"{path.name}.old"))
        self.handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def __call__(self, text: str) -> None:
        """Add a line, or several; may be called from any thread."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        data = "".join(f"{stamp} {line}\n" for line in text.splitlines())
        with contextlib.suppress(OSError):
            os.write(self.handle, data.encode(errors="replace"))


def take_lock(
    path: Path,
    seconds: float = _LOCK_SECONDS,
    answered: Callable[[], bool] = lambda: False,
) -> int | None:
    """Hold the service's lock until the process ends.  Raises UserError.

    A service that is about to end may hold it for a moment yet.  One that is about to start
    (the command that wanted it has been killed) makes this one superfluous: None, once it's
    `answered`.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if answered():
                os.close(handle)
                return None
            if time.monotonic() > end:
                os.close(handle)
                raise UserError(
                    f"another service holds {path} and doesn't answer;"
                    " end it (its process is in the file) and try again"
                ) from None
            time.sleep(0.02)
        else:
            os.ftruncate(handle, 0)
            os.write(handle, b"%d\n" % os.getpid())
            return handle


def _answers(paths: ServicePaths) -> bool:
    """Whether a service listens."""
    client = find(paths)
    if client is not None:
        client.close()
    return client is not None


def make_machine(options: MachineOptions) -> Machine:
    """The machine that a service holds.  Raises UserError."""
    from xenograft.toolstack.machine import Machine

    if options.pools is None:
        cpus = options.topology or options.cpus
        return Machine(cpus=cpus, memory=options.memory_mib, sched=options.sched)
    from xenograft.toolstack.sched.boot import machine_of
    from xenograft.toolstack.sched.description import load

    return machine_of(load(options.pools, "--pools"), memory=options.memory_mib)


async def serve(
    paths: ServicePaths,
    log: Log,
    found: list[str],
    ready: Callable[[], None],
    make: Callable[[], Machine],
) -> None:
    """Run the service until it's told to stop."""
    from xenograft.store.server import SocketServer
    from xenograft.toolstack.service.service import Service
    from xenograft.toolstack.service.sessions import Sessions

    service = Service(paths, log, found)
    sessions: Sessions | None = None
    loop = asyncio.get_running_loop()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, service.stopping.set)
    await service.start(make)
    try:

        def open_store() -> SocketServer:
            machine = service.host.machine
            server = SocketServer(machine.services.store, paths.xenstore)
            machine.hypervisor.door.watch(server.fileno(), server.poll)
            return server

        await service.thread.call(lambda: service.host.hypervisor.log.notices.append(log))
        store = await service.thread.call(open_store)
        # Whoever listened here before us has gone: we hold the lock.
        paths.socket.unlink(missing_ok=True)
        sessions = Sessions(service)
        server = await asyncio.start_unix_server(sessions.serve, str(paths.socket), backlog=256)
        paths.socket.chmod(0o600)
        log(f"ready: process {os.getpid()}")
        ready()
        await service.stopping.wait()
        server.close()
        paths.socket.unlink(missing_ok=True)

        def close_store() -> None:
            service.host.machine.hypervisor.door.unwatch(store.fileno())
            store.close()

        await service.thread.call(close_store)
    finally:
        await service.stop()
        if sessions is not None:
            await sessions.close()
        log("stopped")


def main() -> None:
    """The process."""
    handle = int(sys.argv[1])
    options = msgspec.json.decode(sys.argv[2], type=MachineOptions)
    os.umask(0o077)

    def say(text: str) -> None:
        with contextlib.suppress(OSError):
            os.write(handle, text.encode(errors="replace"))
            os.close(handle)

    try:
        paths = service_paths()
        # Held until the process ends.
        if take_lock(paths.lock, answered=lambda: _answers(paths)) is None:
            say(f"{READY}\n")
            return
        log = Log(paths.log)
    except (UserError, OSError) as error:
        say(f"{error}\n")
        sys.exit(1)
    os.dup2(log.handle, 1)
    os.dup2(log.handle, 2)
    faulthandler.enable()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    before = take_record(paths.running)
    found = [guest.name for guest in before.guests] if before is not None else []
    news = ""
    if before is not None and found:
        news = (
            f"the service had ended without stopping (process {before.pid});"
            f" it was running: {', '.join(found)}\n"
        )
        for guest in before.guests:
            if guest.saved and Path(guest.saved).exists():
                news += f"{guest.name} has a saved state: xg restore {shlex.quote(guest.saved)}\n"
        log(news.strip())
    try:
        # The machine's thread comes back from the guest thousands of times a second, and should
        # hardly wait for this one; Python's default, 5 ms, is longer than most of what it does.
        sys.setswitchinterval(_SWITCH_SECONDS)
        asyncio.run(
            serve(
                paths,
                log,
                found,
                lambda: say(f"{READY}\n{news}"),
                lambda: make_machine(options),
            )
        )
    except UserError as error:
        say(f"{error}\n")
        log(str(error))
        sys.exit(1)
    except Exception:
        log(traceback.format_exc())
        say(f"the service couldn't start; its log is {paths.log}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
