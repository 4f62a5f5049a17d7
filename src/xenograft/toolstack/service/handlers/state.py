# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests saved to files and restored from them; guests that suspend themselves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from xenograft.abi.hvm import params
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.service import messages
from xenograft.toolstack.service.messages import Failure
from xenograft.toolstack.service.table import on_loop
from xenograft.toolstack.state import suspend

if TYPE_CHECKING:
    from xenograft.toolstack.machine import Domain
    from xenograft.toolstack.service.host import Guest
    from xenograft.toolstack.service.service import Service
    from xenograft.toolstack.state.guest import Head
    from xenograft.toolstack.state.pages import SavedGuest

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


@on_loop(messages.SaveDomain)
async def save(service: Service, request: messages.SaveDomain) -> messages.Saved:
    from xenograft.toolstack.state.guest import check_can_save
    from xenograft.toolstack.state.save import new_file, save_still

    path = Path(request.path)
    if not path.is_absolute():
        raise Failure(f"{request.path[:80]!r} isn't an absolute path")
    async with moving(service, request.domain) as guest:
        name, domid = guest.name, guest.domid
        suspended = False

        def write() -> None:
            if guest.destroyed:
                raise Failure(f"domain {domid} has gone")
            config = request.config or guest.config
            host = service.host
            save_still(guest.domain, config, file, request.after, lambda: host.destroy(guest))
            if request.after != "destroy":
                guest.saved_to = str(path)
                host.changed()

        with new_file(path) as file:
            try:
                if request.mode != "snapshot":
                    suspended = await have_suspended(service, guest)
                    if not suspended and request.mode == "suspend":
                        raise Failure(f"domain {domid} ({name}) doesn't suspend itself")
                await service.thread.call(lambda: check_can_save(guest.domain))
                await service.thread.call(write)
            except UserError as error:
                raise Failure(str(error)) from None
        how = "suspended and saved" if suspended else "saved"
        service.log(f"domain {domid} ({name}) was {how} to {path}")
        return messages.Saved(domid, name, path.stat().st_size, suspended)


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
    from xenograft.toolstack.state.guest import read_head, revive

    head, host = read_head(saved.head, request.path), service.host
    config = request.config or head.config

    def make() -> Domain:
        check_free(service, config.name)
        return revive(host.machine, saved, request.path, config=config, paused=True)

    domain = await enrol(service, make)
    service.log(f"domain {domain.domid} ({domain.name}) was restored from {request.path}")
    restored = about(domain, head)
    if not request.paused:
        await service.thread.call(domain.unpause)
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
