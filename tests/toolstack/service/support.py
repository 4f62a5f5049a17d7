# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole service in this process: its own loop in a thread, a machine with scripted guests."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.hypervisor.support import ARG, Guest
from tests.toolstack.test_machine import BUDGET, hear, say, shut_down
from xenograft.abi import sched
from xenograft.engine.fake import FakeCpu, FakeEngine, Script, mmio_write
from xenograft.toolstack.config.domain import DomainConfig
from xenograft.toolstack.machine import Machine
from xenograft.toolstack.service.client import Client, find
from xenograft.toolstack.service.daemon import Log, serve
from xenograft.toolstack.service.paths import ServicePaths

END_WORDS = {
    "poweroff": sched.SHUTDOWN_poweroff,
    "reboot": sched.SHUTDOWN_reboot,
    "crash": sched.SHUTDOWN_crash,
    "watchdog": sched.SHUTDOWN_watchdog,
    "soft_reset": sched.SHUTDOWN_soft_reset,
    "suspend": sched.SHUTDOWN_suspend,
    "odd": 77,
}


def obedient(cpu: FakeCpu) -> Guest:
    """A guest that says hello, repeats what is typed, and ends as a typed word says."""
    # The page of its arguments may come only when it's touched.
    yield mmio_write(ARG, 0)
    yield say(cpu, "hello\n")
    while True:
        typed = hear(cpu)
        if typed:
            yield say(cpu, f"<{typed.strip()}>\n")
            if typed.strip() in END_WORDS:
                yield shut_down(cpu, END_WORDS[typed.strip()])
        else:
            # The host's time goes by while the CPU "runs".
            time.sleep(0.002)
            yield BUDGET


class Running:
    """A service that runs in a thread of this process."""

    def __init__(self, folder: Path, script: Script = obedient, guests: int = 64) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self.paths = ServicePaths(folder)
        self.engine = FakeEngine(dict.fromkeys(range(guests), script))
        self.machine: Machine | None = None
        self.failure: BaseException | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="service")
        self._thread.start()
        assert self._ready.wait(30)
        if self.failure is not None:
            raise self.failure

    def _make(self) -> Machine:
        self.machine = Machine(engine=self.engine, memory=2048, cpus=4)
        return self.machine

    def _run(self) -> None:
        try:
            log = Log(self.paths.log)
            asyncio.run(serve(self.paths, log, [], self._ready.set, self._make))
        except BaseException as error:
            self.failure = error
            self._ready.set()

    def connect(self) -> Client:
        client = find(self.paths)
        assert client is not None
        return client

    def ask(self, request: Any) -> Any:
        with self.connect() as client:
            return client.call(request)

    def log(self) -> str:
        return self.paths.log.read_text()

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()


def config(kernel: Path, name: str = "guest", **more: Any) -> DomainConfig:
    return DomainConfig(name=name, kernel=str(kernel), memory=32, **more)


def until(what: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Wait until `what()` is true; returns it."""
    end = time.monotonic() + seconds
    while not (result := what()):
        assert time.monotonic() < end, "it hasn't happened"
        time.sleep(0.005)
    return result


def pieces(sock: Any) -> Iterator[bytes]:
    while data := sock.recv(4096):
        yield data


def read_until(sock: Any, wanted: bytes) -> bytes:
    """What a console shows up to and with `wanted`."""
    sock.settimeout(20)
    seen = b""
    while wanted not in seen:
        data = sock.recv(4096)
        assert data, f"the console ended with {seen!r}"
        seen += data
    return seen
