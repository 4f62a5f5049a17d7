# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine's own thread, as the service's event loop sees it.

Nothing but this thread touches the machine.  Others hand it functions (`call`), which run
between two slices, and get their results as awaitables.
"""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from xenograft.toolstack.service.messages import Failure

if TYPE_CHECKING:
    from xenograft.toolstack.machine import Machine

T = TypeVar("T")
_FAULTS = 10
"""Faults of our own in the machine's loop after which it isn't run any more."""


class MachineThread:
    """Runs a machine until `stop`. `loop` is the event loop of the others."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        make: Callable[[], Machine],
        log: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._make = make
        self._log = log
        self._machine: Machine | None = None
        self._stopping = False
        self._ready: asyncio.Future[Machine] = loop.create_future()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._thread = threading.Thread(target=self._run, name="machine", daemon=True)

    async def start(self) -> Machine:
        """Make the machine; raises what `make` raises."""
        self._thread.start()
        return await self._ready

    @property
    def ended(self) -> asyncio.Future[None]:
        """Done when the thread has ended, by `stop` or by faults."""
        return self._ended

    async def call(self, function: Callable[[], T]) -> T:
        """Have the machine's thread call `function`; returns or raises what it does."""
        machine = self._machine
        if machine is None or self._stopping:
            raise Failure("the service is stopping")
        future: asyncio.Future[T] = self._loop.create_future()

        def work() -> None:
            try:
                result = function()
            except BaseException as error:
                self.tell(_fail, future, error)
            else:
                self.tell(_succeed, future, result)

        machine.post(work)
        waited: list[asyncio.Future[Any]] = [future, self._ended]
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            raise Failure("the service is stopping")
        return future.result()

    def tell(self, function: Callable[..., object], *args: object) -> None:
        """Have the event loop call `function`; for the machine's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *args)

    async def stop(self) -> None:
        """End the machine and its guests."""
        self._stopping = True
        if self._machine is not None:
            self._machine.stop()
        await self._ended

    def _run(self) -> None:
        try:
            machine = self._make()
        except BaseException as error:
            self.tell(_fail, self._ready, error)
            self.tell(_succeed, self._ended, None)
            return
        # Requests come in for ever: a machine that has nothing to do waits for them.
        machine.hypervisor.door.expect(1)
        self._machine = machine
        self.tell(_succeed, self._ready, machine)
        try:
            self._turn(machine)
        finally:
            self._machine = None
            try:
                machine.close()
            except Exception:
                self._log(traceback.format_exc())
            self.tell(_succeed, self._ended, None)

    def _turn(self, machine: Machine) -> None:
        faults = 0
        while not self._stopping:
            try:
                machine.run(until=lambda: self._stopping)
            except Exception:
                faults += 1
                self._log(f"a fault of the machine's loop:\n{traceback.format_exc()}")
                if faults == _FAULTS:
                    self._log("too many faults: the machine stops")
                    return


def _succeed(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
