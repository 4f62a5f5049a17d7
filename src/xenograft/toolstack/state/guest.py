# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's whole state as bytes, and a guest from such bytes.

Two ways lead there.  A guest that has *suspended itself* has let go of all that it shared, and
is revived in a new domain with fresh devices, as in Xen.  Of any other a *snapshot* is taken
while it stands still: it notices nothing, so its front ends have to go on with back ends that
begin where these have stopped.
"""

from __future__ import annotations

import time
import uuid as uuids
from typing import TYPE_CHECKING, TypeVar

import msgspec

from xenograft import __version__
from xenograft.abi.errno import Errno, XenError
from xenograft.backends.console.console import ConsoleState
from xenograft.engine.protocol import PAGE_SHIFT
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.state.capture import capture
from xenograft.hypervisor.state.contents import contents
from xenograft.hypervisor.state.pv import PvDomainState, capture_pv, contents_pv
from xenograft.hypervisor.state.rebuild import rebuild
from xenograft.hypervisor.state.rebuild_pv import rebuild_pv
from xenograft.hypervisor.state.records import DomainState, StateError
from xenograft.toolstack.config.domain import DomainConfig
from xenograft.toolstack.create import attach_console
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.layout import domain_path
from xenograft.toolstack.sched.apply import apply_scheduling
from xenograft.toolstack.state.file import Writer
from xenograft.toolstack.state.services import (
    ServicesState,
    capture_services,
    check_served_here,
    check_services,
    revive_services,
    settle,
    uuid_text,
)
from xenograft.toolstack.state.suspend import can_suspend, is_suspended

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xenograft.hypervisor.domain import Domain as XenDomain
    from xenograft.toolstack.machine import Domain, Machine, SaveMode
    from xenograft.toolstack.state.file import Sink
    from xenograft.toolstack.state.nodes import Trees
    from xenograft.toolstack.state.pages import SavedGuest

_State = TypeVar("_State")

FEATURES = ("feature-poweroff", "feature-reboot", "feature-suspend")
"""What a guest may write below control/ (xenstore-paths.pandoc)."""


def _feature(domid: int, name: str) -> str:
    return f"{domain_path(domid)}/control/{name}"


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What a saved guest is, before anything is done with it."""

    program: str
    """Which xg has written it."""
    saved_at: float
    """Seconds since 1970."""
    domid: int
    name: str
    uuid: str
    kind: str
    """pv, pvh or hvm."""
    xen: str
    """The Xen that it ran on: "4.17"."""
    config: DomainConfig


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """Everything but the pages."""

    xen: DomainState | None
    pv: PvDomainState | None = None
    """Of a PV guest, instead."""
    console: ConsoleState
    services: ServicesState | None
    """Of a snapshot; a guest that has suspended itself sets these up anew."""
    features: tuple[str, ...] = ()
    """Which of FEATURES the guest has: it says so once, when it boots."""


def head_of(domain: Domain, config: DomainConfig) -> Head:
    version = domain.machine.hypervisor.xen_version
    return Head(
        program=__version__,
        saved_at=time.time(),
        domid=domain.domid,
        name=domain.name,
        uuid=uuid_text(domain.xen),
        kind=domain.xen.kind.value,
        xen=f"{version.major}.{version.minor}",
        config=msgspec.structs.replace(config, name=domain.name, uuid=uuid_text(domain.xen)),
    )


def check_can_save(domain: Domain, mode: SaveMode = "auto") -> None:
    """Raises UserError, one line, for a guest whose state can't be had now in that way."""
    xen, services = domain.xen, domain.machine.services
    if domain.ended and not is_suspended(xen):
        raise UserError(f"{domain.name} has shut down: there is nothing to save")
    if xen.kind is GuestKind.HVM:
        raise UserError(f"{domain.name} is an HVM guest; PVH and PV guests can be saved")
    helps = mode != "snapshot" and can_suspend(services, xen)
    if not helps and not is_suspended(xen):
        check_served_here(services, xen)
        if xen.kind is GuestKind.PV:
            raise UserError(f"{domain.name} is a PV guest, and has to suspend itself first")


def body_of(domain: Domain) -> Body:
    """The state of a guest that stands still, but for its pages.  Raises UserError."""
    services = domain.machine.services
    settle(services, domain.domid)
    domain.console._drain()
    suspended = is_suspended(domain.xen)
    pv = domain.xen.kind is GuestKind.PV
    if not suspended:
        check_served_here(services, domain.xen)  # one that was asked to help may not have done so
    return Body(
        services=None if suspended else capture_services(services, domain.xen),
        console=domain.console.backend.save(),
        features=tuple(
            name for name in FEATURES if services.client.get(_feature(domain.domid, name)) == "1"
        ),
        xen=None if pv else _captured(domain, capture),
        pv=_captured(domain, capture_pv) if pv else None,
    )


def first_body(domain: Domain) -> Body:
    """The state of a guest that still runs, as far as its memory's size counts."""
    domain.pause()
    try:
        return Body(
            services=None, console=ConsoleState(b"", 0, b""), xen=_captured(domain, capture)
        )
    finally:
        domain.unpause()


def _captured(domain: Domain, how: Callable[[XenDomain], _State]) -> _State:
    try:
        return how(domain.xen)
    except StateError as error:
        raise UserError(str(error)) from None


def pages_of(xen: XenDomain) -> Iterator[tuple[int, bytes]]:
    """(guest-physical address, bytes) of what is kept of a guest's memory."""
    return contents_pv(xen) if xen.kind is GuestKind.PV else contents(xen)


def write_guest(domain: Domain, config: DomainConfig, sink: Sink) -> int:
    """Write a guest that stands still; returns how many bytes that were.

    Raises UserError, and what the sink raises.
    """
    check_can_save(domain)
    body = body_of(domain)
    writer = Writer(sink)
    writer.head(msgspec.json.encode(head_of(domain, config)))
    for gpa, data in pages_of(domain.xen):
        writer.pages(gpa >> PAGE_SHIFT, data)
    writer.body(msgspec.msgpack.encode(body))
    writer.done()
    return writer.written


def read_head(data: bytes, name: str) -> Head:
    """Raises UserError, one line."""
    try:
        return msgspec.json.decode(data, type=Head)
    except (msgspec.MsgspecError, UserError, ValueError, RecursionError) as error:
        raise UserError(f"{name} is damaged: {_line(error)}") from None


def read_body(data: bytes, name: str) -> Body:
    """The same for what follows.  Raises UserError."""
    try:
        body = msgspec.msgpack.decode(data, type=Body)
        if body.services is not None:
            check_services(body.services)
        if (body.xen is None) == (body.pv is None) or (body.pv and body.services):
            raise ValueError("it is of no kind of guest")
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UserError(f"{name} is damaged: {_line(error)}") from None
    return body


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


class Prepared:
    """A guest whose memory and processors are there again; its devices come with `finish`."""

    def __init__(
        self,
        machine: Machine,
        name: str,
        head: Head,
        body: Body,
        config: DomainConfig,
        xen: XenDomain,
    ) -> None:
        """`name` is what the saved state is called in messages."""
        self._machine = machine
        self._name = name
        self.head = head
        self._body = body
        self._config = config
        self._xen = xen

    def finish(self) -> Domain:
        """The guest with its devices, paused.  Raises UserError; nothing is left of it then."""
        machine, xen, services = self._machine, self._xen, self._body.services
        domain: Domain | None = None
        try:
            machine.check_name(self._config.name)
            if services is None:
                domain = renewed(machine, xen, self._config, self._body.features)
            else:
                domain = adopted(machine, xen, self._config, services)
            domain.console.restore(self._body.console)
        except XenError as error:
            self._drop(domain)
            raise UserError(f"{self._name} can't be restored ({error.errno.name})") from None
        except BaseException:
            self._drop(domain)
            raise
        return domain

    def _drop(self, domain: Domain | None) -> None:
        if domain is not None:
            domain.destroy()
        else:
            self.drop()

    def drop(self) -> None:
        """Let all go of it, instead of `finish`; a second time does nothing."""
        if not self._xen.dying:
            self._machine.services.forget(self._xen.domid)
            self._machine.hypervisor.destroy_domain(self._xen)


def revive(
    machine: Machine,
    saved: SavedGuest,
    name: str,
    *,
    config: DomainConfig | None = None,
    paused: bool = False,
) -> Domain:
    """A guest from its saved state, which is called `name` in messages.

    `config`: instead of the one that was saved with it.  Raises UserError; nothing is left of
    the guest then.
    """
    head, body = read_head(saved.head, name), read_body(saved.body, name)
    config = head.config if config is None else config
    machine.check_name(config.name)
    xen = rebuild_guest(machine, head, body, _pieces(saved), name, config)
    domain = Prepared(machine, name, head, body, config, xen).finish()
    if not paused:
        domain.unpause()
    machine.announce(domain.name)
    return domain


def rebuild_guest(
    machine: Machine,
    head: Head,
    body: Body,
    pages: Iterator[tuple[int, bytes]],
    name: str,
    config: DomainConfig,
) -> XenDomain:
    """Memory and processors of a guest, whose pages are (address, bytes).  Raises UserError."""
    uuid = uuids.UUID(config.uuid or head.uuid).bytes
    try:
        if body.pv is not None:
            return rebuild_pv(machine.hypervisor, body.pv, pages, name=config.name, uuid=uuid)
        assert body.xen is not None  # read_body has looked
        return rebuild(
            machine.hypervisor,
            body.xen,
            pages,
            name=config.name,
            uuid=uuid,
            fresh=body.services is None,
        )
    except (StateError, XenError) as error:
        raise cannot_rebuild(machine, name, config.name, error) from None


def cannot_rebuild(
    machine: Machine, name: str, guest: str, error: StateError | XenError
) -> UserError:
    """Why a guest can't be rebuilt from the saved state `name`, in words."""
    if isinstance(error, StateError):
        return UserError(f"{name} is damaged: {_line(error)}")
    if error.errno is not Errno.ENOMEM:
        return UserError(f"{name} can't be restored ({error.errno.name})")
    free = machine.hypervisor.memory.free_frames() >> 20 - PAGE_SHIFT
    return UserError(f"the machine has {free} MiB of memory left, and {guest} needs more")


def _pieces(saved: SavedGuest) -> Iterator[tuple[int, bytes]]:
    return ((first << PAGE_SHIFT, data) for first, data in saved.pages())


def adopted(
    machine: Machine,
    xen: XenDomain,
    config: DomainConfig,
    services: ServicesState,
    trees: Trees | None = None,
) -> Domain:
    """A snapshot goes on: its devices and its connections are where they were.

    `trees`: its part of the store, if that isn't in `services`.
    """
    from xenograft.toolstack.machine import Domain

    try:
        console = attach_console(machine.control, xen)
    except (ValueError, KeyError) as error:
        raise UserError(f"its console can't be restored ({_line(error)})") from None
    domain = Domain(machine, xen, config, console)
    machine.admit(domain)
    try:
        apply_scheduling(machine.scheduling, xen.domid, config, len(xen.vcpus))
        revive_services(machine.services, xen, services, trees)
    except BaseException:
        domain.destroy()
        raise
    return domain


def renewed(
    machine: Machine, xen: XenDomain, config: DomainConfig, features: tuple[str, ...]
) -> Domain:
    """A guest that is to set up everything anew wakes in a new domain, paused.

    It has suspended itself, or has asked for a soft reset.  Raises UserError; nothing is left of
    the domain then.
    """
    from xenograft.toolstack.machine import Domain

    domain = Domain(machine, xen, config)
    machine.admit(domain)
    try:
        apply_scheduling(machine.scheduling, xen.domid, config, len(xen.vcpus))
        machine.introduce(domain)
        for name in FEATURES:
            if name in features:
                machine.services.client.write(_feature(xen.domid, name), "1")
        domain.devices.attach_all(config)
    except BaseException:
        domain.destroy()
        raise
    return domain
