# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest goes from one service to another while it runs.

What both ends say, once the guest's bytes are through (`toolstack/state/file.py`)::

    source                                    destination
    pages, round by round; the guest stops; the rest, DONE
                                              READY      it's there, but for its devices
    (lets go of disks)  GO
                                              TAKEN      it's there
    YOURS
                                              RUNNING
    (destroys its guest)

Lines end with a newline; "ERROR why" may come in place of any of the destination's.  Up to YOURS
a broken link leaves the guest to the source, and the destination lets all go; from there on it is
the destination's.  If the link breaks just then, who gets the disks has the guest.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING

from xenograft.backends.xenbus.device import DeviceError
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.service import messages
from xenograft.toolstack.service.handlers.mover import Mover, moving
from xenograft.toolstack.service.handlers.state import about, check_free, enrol
from xenograft.toolstack.service.messages import Failure
from xenograft.toolstack.service.streams import LinkBroken, Stream
from xenograft.toolstack.service.table import on_loop
from xenograft.toolstack.state.file import HEAD, StateError, records_of

if TYPE_CHECKING:
    from xenograft.toolstack.machine import Domain
    from xenograft.toolstack.service.host import Guest
    from xenograft.toolstack.service.service import Service
    from xenograft.toolstack.state.file import Record
    from xenograft.toolstack.state.guest import Prepared

RETURN_SECONDS = 10.0
"""How long a guest's disks may take to come back from a destination that has failed."""
_RETRY_SECONDS = 0.1
NAME = "the incoming migration stream"


@on_loop(messages.OpenStream)
async def open_stream(service: Service, request: messages.OpenStream) -> None:
    """The connection is a stream from here on (`Sessions`)."""
    service.streams.check(request.name)


# -- the source --------------------------------------------------------------------------------
@on_loop(messages.SendDomain)
async def send(service: Service, request: messages.SendDomain) -> messages.Migrated:
    async with (
        moving(service, request.domain) as guest,
        service.streams.use(request.stream) as stream,
    ):
        sender = Sender(service, guest, stream, request)
        try:
            return await sender.send()
        except UserError as error:
            raise Failure(str(error)) from None
        except LinkBroken as error:
            raise Failure(f"migration failed: {error}; {sender.outcome}") from None


class Sender(Mover):
    """One guest that is sent."""

    def __init__(
        self, service: Service, guest: Guest, stream: Stream, request: messages.SendDomain
    ) -> None:
        super().__init__(service, guest)
        self._stream = stream
        self._request = request
        self._given = False
        """Whether the destination was told that the guest is its own."""
        self.outcome = "the guest goes on here"

    async def send(self) -> messages.Migrated:
        """Raises Failure, UserError, LinkBroken; then the guest goes on as `outcome` says."""
        guest, stream, start = self.guest, self._stream, self.now()
        name, domid = guest.name, guest.domid
        stream.listen()
        try:
            async with self.outgoing(self._request.config, self._request.mode) as outgoing:
                more = True
                while more:
                    await self.read(outgoing, stream.write)
                    more = await self.thread.call(outgoing.next_round)
                await self.stop(self._request.mode)
                for data in await self.thread.call(lambda: list(outgoing.last())):
                    await stream.write(data)
            await self._hand_over()
        except BaseException:
            await asyncio.shield(self._go_on())
            raise
        end, host = self.now(), self.service.host
        await self.thread.call(lambda: host.destroy(guest))
        down = end - self.down_since
        self.service.log(
            f"domain {domid} ({name}) was sent elsewhere; it stood still for {down // 10**6} ms"
        )
        return messages.Migrated(
            domid=domid,
            name=name,
            suspended=self.suspended,
            down_ns=down,
            total_ns=end - start,
            rounds=outgoing.rounds,
            pages=outgoing.pages,
            sent=stream.sent,
        )

    async def _hand_over(self) -> None:
        stream = self._stream

        def lend() -> None:
            domain = self.domain()
            for device in domain.machine.services.devices(domain.domid):
                device.lend()

        await stream.hear("READY")
        try:
            await self.thread.call(lend)
        except OSError as error:
            raise Failure(f"its disks: {error.strerror or error}") from None
        await stream.say("GO")
        await stream.hear("TAKEN")
        self._given = True
        await stream.say("YOURS")
        await stream.hear("RUNNING")

    # -- if it fails ---------------------------------------------------------------------------
    async def _go_on(self) -> None:
        """Let the guest go on here, if it's ours."""

        def take_back() -> str | None:
            if self.guest.destroyed:
                return None
            domain = self.guest.domain
            for device in domain.machine.services.devices(domain.domid):
                try:
                    device.take_back()
                except DeviceError as error:
                    return str(error)
            if self._given and not _exclusive(domain):
                # Nothing tells whether it runs there: it mustn't in two places.
                return "nothing shows whether it runs there"
            self.let_go_on()
            return None

        end = self.service.loop.time() + RETURN_SECONDS
        with contextlib.suppress(Failure):
            while (problem := await self.thread.call(take_back)) is not None:
                if self.service.loop.time() > end or "whether it runs" in problem:
                    self.outcome = (
                        f"the guest is left paused here ({problem}): look whether it runs there,"
                        " and destroy one of the two"
                    )
                    self.service.log(f"{self.guest.name}: {self.outcome}")
                    return
                await asyncio.sleep(_RETRY_SECONDS)


def _exclusive(domain: Domain) -> bool:
    """Whether the guest has a disk that nobody else may have at the same time."""
    from xenograft.backends.block.device import BlockDevice

    devices = domain.machine.services.devices(domain.domid)
    return any(
        isinstance(one, BlockDevice) and one.image is not None and not one.readonly
        for one in devices
    )


# -- the destination -----------------------------------------------------------------------------
@on_loop(messages.ReceiveDomain)
async def receive(service: Service, request: messages.ReceiveDomain) -> messages.Restored:
    async with service.streams.use(request.stream) as stream:
        try:
            return await _receive(service, stream, request.paused)
        except (Failure, UserError, StateError) as error:
            line = " ".join(str(error).split())
            with contextlib.suppress(LinkBroken):
                await stream.say(f"ERROR {line}")
            raise Failure(line) from None
        except LinkBroken as error:
            raise Failure(f"migration failed: {error}") from None


async def _receive(service: Service, stream: Stream, paused: bool) -> messages.Restored:
    from xenograft.toolstack.state.arriving import Arriving
    from xenograft.toolstack.state.guest import read_head

    thread, arriving = service.thread, Arriving(service.host.machine, NAME)

    def take(record: Record) -> None:
        if record.tag == HEAD:
            check_free(service, read_head(record.payload, NAME).config.name)
        arriving.take(record)

    try:
        async for record in records_of(stream.read, NAME):
            await thread.call(partial(take, record))
        prepared = await thread.call(arriving.finish)
    except BaseException:
        await asyncio.shield(thread.call(arriving.drop))
        raise
    return await _take(service, stream, prepared, paused)


async def _take(
    service: Service, stream: Stream, prepared: Prepared, paused: bool
) -> messages.Restored:
    host, domain = service.host, None
    try:
        await stream.say("READY")
        await stream.hear("GO")
        domain = await enrol(service, prepared.finish)
        await stream.say("TAKEN")
        await stream.hear("YOURS")
    except BaseException:
        # It's still the source's.
        taken = domain

        def let_go() -> None:
            guest = None if taken is None else host.guests.get(taken.domid)
            if guest is not None:
                host.destroy(guest)
            else:
                prepared.drop()

        await asyncio.shield(service.thread.call(let_go))
        raise
    if not paused:
        await service.thread.call(domain.unpause)
    await service.thread.call(lambda: host.machine.announce(domain.name))
    with contextlib.suppress(LinkBroken):
        await stream.say("RUNNING")
    service.log(f"domain {domain.domid} ({domain.name}) has come from elsewhere")
    return about(domain, prepared.head)
