# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests saved to files and restored from them; guests that suspend themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from xenograft.abi.hvm import params
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.service import messages
from xenograft.toolstack.service.handlers.mover import Mover, have_suspended, moving
from xenograft.toolstack.service.messages import Failure
from xenograft.toolstack.service.table import on_loop
from xenograft.toolstack.state import suspend
from xenograft.toolstack.state.file import BODY, HEAD, Record

if TYPE_CHECKING:
    from xenograft.toolstack.machine import Domain
    from xenograft.toolstack.service.service import Service
    from xenograft.toolstack.state.guest import Head
    from xenograft.toolstack.state.pages import SavedGuest
    from xenograft.toolstack.state.save import NewFile


@on_loop(messages.SaveDomain)
async def save(service: Service, request: messages.SaveDomain) -> messages.Saved:
    from xenograft.toolstack.state.save import new_file

    path = Path(request.path)
    if not path.is_absolute():
        raise Failure(f"{request.path[:80]!r} isn't an absolute path")
    async with moving(service, request.domain) as guest:
        name, domid, mover = guest.name, guest.domid, Mover(service, guest)
        try:
            # A place where nothing can be written to is found before the guest is asked.
            with new_file(path) as file:
                await _save(mover, file, request)
        except UserError as error:
            raise Failure(str(error)) from None
        except OSError as error:
            raise Failure(f"{path}: {(error.strerror or str(error)).lower()}") from None
        how = "suspended and saved" if mover.suspended else "saved"
        service.log(f"domain {domid} ({name}) was {how} to {path}")
        return messages.Saved(domid, name, path.stat().st_size, mover.suspended)


async def _save(mover: Mover, file: NewFile, request: messages.SaveDomain) -> None:
    """Raises Failure, UserError, OSError; then the guest goes on."""
    thread, guest, host = mover.thread, mover.guest, mover.service.host

    async def write(data: bytes) -> None:
        await asyncio.to_thread(file.file.write, data)

    def read_rest() -> list[bytes]:
        mover.domain()
        pieces = list(outgoing.last())
        if request.after == "run":
            # It doesn't have to wait until all of it is written.
            mover.let_go_on()
        return pieces

    def end() -> None:
        if request.after == "destroy":
            host.destroy(guest)
            return
        guest.saved_to = request.path
        host.changed()
        if request.after == "pause" and mover.suspended:
            suspend.resume(host.machine.services, mover.domain().xen)

    try:
        async with mover.outgoing(request.config, request.mode) as outgoing:
            await mover.read(outgoing, write)
            await mover.stop(request.mode)
            pieces = await thread.call(read_rest)
        for data in pieces:
            await write(data)
        await asyncio.to_thread(file.finish)
        await thread.call(end)
    except BaseException:
        await asyncio.shield(thread.call(mover.let_go_on))
        raise


@on_loop(messages.RestoreDomain)
async def restore(service: Service, request: messages.RestoreDomain) -> messages.Restored:
    from xenograft.toolstack.state.pages import FileGuest

    try:
        saved = await asyncio.to_thread(FileGuest, request.path)
    except UserError as error:
        raise Failure(str(error)) from None
    try:
        return await _restore(service, saved, request)
    except UserError as error:
        raise Failure(str(error)) from None
    finally:
        saved.close()


async def _restore(
    service: Service, saved: SavedGuest, request: messages.RestoreDomain
) -> messages.Restored:
    """Raises Failure, UserError; nothing is left of the guest then."""
    from xenograft.toolstack.state.arriving import Arriving
    from xenograft.toolstack.state.guest import read_head

    head, host, thread = read_head(saved.head, request.path), service.host, service.thread
    arriving = Arriving(host.machine, request.path, request.config)

    def begin() -> None:
        check_free(service, (request.config or head.config).name)
        arriving.take(Record(HEAD, saved.head))
        arriving.take(Record(BODY, saved.body))

    try:
        await thread.call(begin)
        pages = saved.pages()
        while (run := await asyncio.to_thread(next, pages, None)) is not None:
            await thread.call(partial(arriving.write, *run))
        prepared = await thread.call(arriving.finish)
    except BaseException:
        await asyncio.shield(thread.call(arriving.drop))
        raise
    domain = await enrol(service, prepared.finish)
    service.log(f"domain {domain.domid} ({domain.name}) was restored from {request.path}")
    restored = about(domain, head)
    await thread.call(lambda: host.machine.announce(domain.name))
    if not request.paused:
        await thread.call(domain.unpause)
    return restored


def check_free(service: Service, name: str) -> None:
    """On the machine's thread.  Raises Failure, with xl's words, if a domain has that name."""
    if service.host.lookup(name) is not None:
        raise Failure(f'Domain with name "{name}" already exists.')


async def enrol(service: Service, make: Callable[[], Domain]) -> Domain:
    """A paused domain that `make` makes on the machine's thread is one of the service's."""

    def made() -> tuple[Domain, bytes]:
        domain = make()
        service.register(domain, domain.config)
        return domain, domain.console.raw

    domain, shown = await service.thread.call(made)
    service.open_line(domain.domid)
    service.hub(domain.domid).feed(shown)
    return domain


def about(domain: Domain, head: Head) -> messages.Restored:
    """What's told of a restored domain."""
    values = domain.xen.hvm_params
    return messages.Restored(
        domid=domain.domid,
        name=domain.name,
        kind=head.kind,
        xen=head.xen,
        store_gfn=values.get(params.HVM_PARAM_STORE_PFN, 0),
        store_port=values.get(params.HVM_PARAM_STORE_EVTCHN, 0),
        console_gfn=values.get(params.HVM_PARAM_CONSOLE_PFN, 0),
        console_port=values.get(params.HVM_PARAM_CONSOLE_EVTCHN, 0),
    )


@on_loop(messages.SuspendDomain)
async def suspend_domain(service: Service, request: messages.SuspendDomain) -> int:
    async with moving(service, request.domain) as guest:
        if not await have_suspended(service, guest):
            raise Failure(f"domain {guest.domid} ({guest.name}) doesn't suspend itself")
        return guest.domid


@on_loop(messages.ResumeDomain)
async def resume_domain(service: Service, request: messages.ResumeDomain) -> None:
    async with moving(service, request.domain) as guest:

        def work() -> None:
            if not suspend.is_suspended(guest.domain.xen):
                raise Failure(f"domain {guest.domid} ({guest.name}) isn't suspended")
            suspend.resume(service.host.machine.services, guest.domain.xen)

        await service.thread.call(work)
