# SPDX-License-Identifier: GPL-2.0-or-later
"""Clones of running guests, and moments that guests are taken back to."""

from __future__ import annotations

import itertools
import re
from functools import partial
from typing import TYPE_CHECKING

from xenograft.toolstack.errors import UserError
from xenograft.toolstack.service import messages
from xenograft.toolstack.service.handlers.mover import moving
from xenograft.toolstack.service.handlers.state import check_free, enrol
from xenograft.toolstack.service.messages import Created, Failure
from xenograft.toolstack.service.table import on_loop, on_machine

if TYPE_CHECKING:
    from xenograft.toolstack.machine import Domain
    from xenograft.toolstack.service.host import Guest, Host
    from xenograft.toolstack.service.service import Service
    from xenograft.toolstack.state.fork import Moment

MAX_CLONES = 1000
MAX_MOMENTS = 100
_NAME = re.compile(r"[A-Za-z0-9_.:+-]{1,60}\Z")


def _names(service: Service, request: messages.ForkDomain, guest: Guest) -> list[str]:
    """What the clones are called.  Raises Failure."""
    if request.name is not None and not _NAME.match(request.name):
        raise Failure(f"{request.name[:60]!r} can't be a domain's name")
    if request.count is None and request.name is not None:
        check_free(service, request.name)
        return [request.name]
    count = 1 if request.count is None else request.count
    if not 1 <= count <= MAX_CLONES:
        raise Failure(f"{count} clones; there can be 1 to {MAX_CLONES} at once")
    names = (f"{request.name or guest.name}-{number}" for number in itertools.count(1))
    free = (name for name in names if service.host.lookup(name) is None)
    return list(itertools.islice(free, count))


@on_loop(messages.ForkDomain)
async def fork(service: Service, request: messages.ForkDomain) -> list[Created]:
    made: list[Domain] = []
    async with moving(service, request.domain) as guest:
        names = await service.thread.call(lambda: _names(service, request, guest))
        try:
            for name in names:
                # One by one: other guests have their turn meanwhile.
                made.append(await enrol(service, partial(guest.domain.fork, name, paused=True)))
        except UserError as error:
            raise Failure(str(error)) from None
    service.log(f"domain {guest.domid} ({guest.name}) was cloned {len(made)} times")

    def start() -> list[Created]:
        for domain in made if not request.paused else ():
            domain.unpause()
        return [Created(domain.domid, domain.name) for domain in made]

    return await service.thread.call(start)


@on_machine(messages.TakeSnapshot)
def take_snapshot(host: Host, request: messages.TakeSnapshot) -> str:
    guest = host.guest(request.domain)
    numbers = (str(number) for number in itertools.count(1))
    name = request.name or next(one for one in numbers if one not in guest.moments)
    if not _NAME.match(name):
        raise Failure(f"{name[:60]!r} can't be a snapshot's name")
    if name in guest.moments:
        raise Failure(f"{guest.name} has a snapshot {name} already")
    if len(guest.moments) >= MAX_MOMENTS:
        raise Failure(f"{guest.name} has {MAX_MOMENTS} snapshots; delete one first")
    try:
        guest.moments[name] = guest.domain.snapshot()
    except UserError as error:
        raise Failure(str(error)) from None
    return name


@on_machine(messages.ListSnapshots)
def list_snapshots(host: Host, request: messages.ListSnapshots) -> list[messages.SnapshotRow]:
    now = host.hypervisor.clock.now()
    return [
        messages.SnapshotRow(name, now - moment.taken_ns)
        for name, moment in host.guest(request.domain).moments.items()
    ]


def _moment(guest: Guest, name: str | None) -> tuple[str, Moment]:
    """The moment of a name, or the latest.  Raises Failure."""
    if not guest.moments:
        raise Failure(f"{guest.name} has no snapshot; xg snapshot {guest.name} makes one")
    if name is None:
        return next(reversed(guest.moments.items()))
    if name not in guest.moments:
        raise Failure(
            f"{guest.name} has no snapshot {name[:60]!r}; there is {', '.join(guest.moments)}"
        )
    return name, guest.moments[name]


@on_machine(messages.DropSnapshot)
def drop_snapshot(host: Host, request: messages.DropSnapshot) -> None:
    guest = host.guest(request.domain)
    name, moment = _moment(guest, request.name)
    del guest.moments[name]
    moment.close()


@on_loop(messages.RewindDomain)
async def rewind(service: Service, request: messages.RewindDomain) -> Created:
    host = service.host
    async with moving(service, request.domain) as guest:
        name, moment = await service.thread.call(lambda: _moment(guest, request.name))
        line = service.lines.get(guest.domid)
        if line is not None:
            # Whoever looks at the console goes on doing so.
            line.rebuilding = True

        def work() -> Domain:
            moments, guest.moments = guest.moments, {}
            try:
                domain = moment.rewind(lambda _domain: host.destroy(guest), paused=True)
            except BaseException:
                for one in moments.values():
                    one.close()
                raise
            service.register(domain, domain.config)
            host.guests[domain.domid].moments = moments
            return domain

        try:
            domain = await service.thread.call(work)
        except UserError as error:
            raise Failure(str(error)) from None
    service.open_line(domain.domid, line)
    service.log(f"domain {guest.domid} ({domain.name}) was taken back to {name}")
    if not request.paused:
        await service.thread.call(domain.unpause)
    return Created(domain.domid, domain.name)
