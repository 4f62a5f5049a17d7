# SPDX-License-Identifier: GPL-2.0-or-later
"""What saving a guest and sending it have in common: it's read while it runs, and then stops.

The machine's thread reads a piece at a time, so that the other guests go on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

from xenograft.toolstack.service.messages import Failure
from xenograft.toolstack.state import suspend

if TYPE_CHECKING:
    from xenograft.toolstack.config.domain import DomainConfig
    from xenograft.toolstack.machine import Domain, SaveMode
    from xenograft.toolstack.service.host import Guest
    from xenograft.toolstack.service.service import Service
    from xenograft.toolstack.state.outgoing import Outgoing

_LOOK_S = 0.005


@contextlib.asynccontextmanager
async def moving(service: Service, name: str) -> AsyncIterator[Guest]:
    """A guest that is to be saved, suspended or sent: by one at a time.  Raises Failure."""
    host = service.host
    guest = await service.thread.call(lambda: host.guest(name))
    domid = guest.domid
    if domid in service.suspending:
        raise Failure(f"domain {domid} is being saved or moved already")
    service.suspending.add(domid)
    try:
        yield guest
    finally:
        service.suspending.discard(domid)

        def ended_otherwise() -> bool:
            xen = guest.domain.xen
            return not guest.destroyed and xen.is_shutting_down and not suspend.is_suspended(xen)

        with contextlib.suppress(Failure):
            if await service.thread.call(ended_otherwise):
                service.shut_down(domid)


async def have_suspended(service: Service, guest: Guest) -> bool:
    """Ask a guest to suspend itself; False if it can't, or doesn't answer.  Raises Failure."""
    thread, services, xen = service.thread, service.host.machine.services, guest.domain.xen

    def begin() -> bool:
        if guest.destroyed:
            raise Failure(f"domain {guest.domid} has gone")
        if not suspend.can_suspend(services, xen):
            return False
        suspend.ask(services, xen)
        return True

    def look() -> tuple[bool, bool]:
        if guest.destroyed:
            raise Failure(f"domain {guest.domid} has gone")
        return suspend.answered(services, xen), xen.is_shutting_down

    async def wait(seconds: float, begun: bool) -> bool:
        end = service.loop.time() + seconds
        while service.loop.time() < end:
            answered, ended = await thread.call(look)
            if ended or (begun and answered):
                return True
            await asyncio.sleep(_LOOK_S)
        return False

    if await thread.call(lambda: suspend.is_suspended(xen)):
        return True
    if not await thread.call(begin):
        return False
    begun = await wait(suspend.ANSWER_SECONDS, True)
    if not begun and await thread.call(lambda: suspend.withdraw(services, xen)):
        service.log(f"domain {guest.domid} ({guest.name}) doesn't answer a suspend request")
        return False
    await wait(suspend.SUSPEND_SECONDS, False)
    return await thread.call(lambda: suspend.is_suspended(xen))


class Mover:
    """Reads one guest, and lets it go on if that fails."""

    def __init__(self, service: Service, guest: Guest) -> None:
        self.service = service
        self.thread = service.thread
        self.guest = guest
        self.suspended = False
        """Whether the guest has suspended itself."""
        self.paused = False
        self.down_since = 0
        """The machine's time at which the guest stopped, or was asked to."""

    def domain(self) -> Domain:
        """On the machine's thread.  Raises Failure if it was destroyed meanwhile."""
        if self.guest.destroyed:
            raise Failure(f"domain {self.guest.domid} has gone")
        return self.guest.domain

    def now(self) -> int:
        return self.service.host.hypervisor.clock.now()

    @contextlib.asynccontextmanager
    async def outgoing(
        self, config: DomainConfig | None, mode: SaveMode
    ) -> AsyncIterator[Outgoing]:
        """One after the other: the machine has one log of what is written.  Raises UserError."""
        from xenograft.toolstack.state.outgoing import Outgoing

        async with self.service.reading:
            outgoing = await self.thread.call(
                lambda: Outgoing(self.domain(), config or self.guest.config, mode)
            )
            try:
                yield outgoing
            finally:
                await asyncio.shield(self.thread.call(outgoing.close))

    async def read(self, outgoing: Outgoing, write: Callable[[bytes], Awaitable[None]]) -> None:
        """One round, while the guest runs."""

        def piece() -> bytes | None:
            self.domain()
            return outgoing.next_piece()

        while (data := await self.thread.call(piece)) is not None:
            await write(data)

    async def stop(self, mode: SaveMode) -> None:
        """Bring the guest to a stand.  Raises Failure."""
        self.down_since = self.now()
        if mode != "snapshot":
            self.suspended = await have_suspended(self.service, self.guest)
            if not self.suspended and mode == "suspend":
                raise Failure(
                    f"domain {self.guest.domid} ({self.guest.name}) doesn't suspend itself"
                )

        def pause() -> None:
            domain = self.domain()
            if not self.suspended:
                self.down_since = self.now()
            if domain.ended and not suspend.is_suspended(domain.xen):
                raise Failure(f"domain {self.guest.domid} ({domain.name}) has shut down")
            domain.pause()
            self.paused = True

        await self.thread.call(pause)

    def let_go_on(self) -> None:
        """On the machine's thread: the guest runs again, if it has stopped for us."""
        if self.guest.destroyed:
            return
        domain = self.guest.domain
        if self.suspended and suspend.is_suspended(domain.xen):
            suspend.resume(domain.machine.services, domain.xen)
        if self.paused:
            self.paused = False
            domain.unpause()
