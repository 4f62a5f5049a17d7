# SPDX-License-Identifier: GPL-2.0-or-later
"""The guests of a service, and how people name them. For the machine's thread alone.

What is known of a guest beside its domain is little: the configuration that it would be built
from again, when it was made, who waits for it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from xenograft.toolstack.service.messages import Failure
from xenograft.toolstack.service.views import MAKERS

if TYPE_CHECKING:
    from xenograft.hypervisor.domain import Domain as XenDomain
    from xenograft.hypervisor.hypervisor import Hypervisor
    from xenograft.hypervisor.metering import Reading
    from xenograft.store.client import StoreClient, StoreView
    from xenograft.toolstack.config.domain import DomainConfig
    from xenograft.toolstack.machine import Domain, Machine
    from xenograft.toolstack.service.handlers.schedule import Recording
    from xenograft.toolstack.state.fork import Moment


@dataclass
class Guest:
    """A domain that the service has made."""

    domain: Domain
    config: DomainConfig
    """What it's built from when it's built again."""
    created_ns: int
    """The machine's time at which it was made."""
    saved_to: str = ""
    """The file that it was saved to last, as long as it goes on."""
    preserved: bool = False
    """It stays after its end, until somebody destroys it."""
    destroyed: bool = False
    on_destroy: list[Callable[[], None]] = field(default_factory=list)
    moments: dict[str, Moment] = field(default_factory=dict)
    """What it can be taken back to, by name."""

    @property
    def domid(self) -> int:
        return self.domain.domid

    @property
    def name(self) -> str:
        return self.domain.xen.name


class Remainder:
    """What a growing time has beside another one, which isn't measured alike; it never falls.

    >>> rest = Remainder()
    >>> [rest.advance(*times) for times in ((5, 3), (6, 6), (9, 7))]
    [2, 2, 4]
    """

    def __init__(self) -> None:
        self._last = 0
        self._value = 0

    def advance(self, whole: int, part: int) -> int:
        """What is left by now; a part that has grown by more than the whole takes nothing away."""
        rest = whole - part
        self._value += max(rest - self._last, 0)
        self._last = rest
        return self._value


class Host:
    """A machine and its guests."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.guests: dict[int, Guest] = {}
        self.views = {name: make(machine) for name, make in MAKERS.items()}
        self.marks: dict[str, Reading] = {}
        """The account at moments that somebody has marked."""
        self.recording: Recording | None = None
        """What ran lately, once somebody has asked for it."""
        self.spent_ns = 0
        """How long guests that have gone had run."""
        self.control_ns = Remainder()
        """How long domain 0 has run: what isn't spent in guests is spent for it."""
        self.changed: Callable[[], None] = _nothing
        """Called when guests have come, gone, or changed their names."""

    @property
    def hypervisor(self) -> Hypervisor:
        return self.machine.hypervisor

    @property
    def store(self) -> StoreClient:
        """The toolstack's connection to the store."""
        return self.machine.services.client

    # -- looking up ----------------------------------------------------------------------
    def lookup(self, text: str) -> XenDomain | None:
        """The domain of a number or a name, domain 0 included."""
        if text.isascii() and text.isdigit():
            found = self.hypervisor.domains.get(int(text)) if len(text) < 6 else None
            return None if found is None or found.is_hidden else found
        for domain in self.hypervisor.domains.values():
            if domain.name == text and not domain.dying and not domain.is_hidden:
                return domain
        return None

    def domain(self, text: str) -> XenDomain:
        """The same; raises Failure with xl's words if there is none."""
        found = self.lookup(text)
        if found is None:
            raise Failure(f"{text[:80]} is an invalid domain identifier (rc=-6)")
        return found

    def guest(self, text: str) -> Guest:
        """A guest; raises Failure for domain 0, which is this service."""
        domain = self.domain(text)
        guest = self.guests.get(domain.domid)
        if guest is None or guest.destroyed:
            if domain is self.machine.control:
                raise Failure(
                    "Domain-0 can't be worked on like a guest: its services are this service's"
                    " (xg service stop ends it)"
                )
            raise Failure(f"domain {domain.domid} is going away")
        return guest

    def domains(self, names: Iterable[str]) -> list[XenDomain]:
        """Those that are named, or all by number."""
        wanted = list(names)
        if wanted:
            return [self.domain(name) for name in wanted]
        domains = self.hypervisor.domains
        return [domains[domid] for domid in sorted(domains) if not domains[domid].is_hidden]

    # -- coming and going ----------------------------------------------------------------
    def add(self, domain: Domain, config: DomainConfig) -> Guest:
        """Remember a domain that was made."""
        guest = Guest(domain, config, self.hypervisor.clock.now())
        self.guests[domain.domid] = guest
        self.changed()
        return guest

    def destroy(self, guest: Guest) -> None:
        """Destroy a guest's domain; a second time does nothing."""
        if guest.destroyed:
            return
        guest.destroyed = True
        self.spent_ns += guest.domain.cpu_time_ns
        try:
            guest.domain.destroy()
        finally:
            del self.guests[guest.domid]
            moments, guest.moments = guest.moments, {}
            for moment in moments.values():
                moment.close()
            self.changed()
            for listener in guest.on_destroy:
                listener()

    def rename(self, guest: Guest, name: str) -> None:
        """Give a guest another name.  Raises Failure if it's taken."""
        other = self.lookup(name)
        if other is not None and other.domid != guest.domid:
            raise Failure(f'Domain with name "{name}" already exists.')
        guest.config = msgspec.structs.replace(guest.config, name=name)
        self._set_name(guest, name)
        self.changed()

    def set_aside(self, guest: Guest, name: str, identity: uuid.UUID) -> None:
        """Another name and UUID for a domain that has ended; its configuration keeps the old."""
        home = f"/local/domain/{guest.domid}"
        vm, new = self.store.get(f"{home}/vm"), f"/vm/{identity}"
        if vm:
            nodes = list(self.store.tree(vm))

            def move(view: StoreView) -> None:
                for path, value in nodes:
                    view.write(new + path.removeprefix(vm), value)
                view.write(f"{new}/uuid", str(identity))
                view.write(f"{home}/vm", new)
                view.rm(vm)

            self.store.transact(move)
        # What it has used is the account of the one that is built again.
        self.hypervisor.meter.settle(guest.domain.xen)
        guest.domain.xen.uuid = identity.bytes
        guest.preserved = True
        self._set_name(guest, name)
        self.changed()

    def _set_name(self, guest: Guest, name: str) -> None:
        guest.domain.xen.name = name
        home = f"/local/domain/{guest.domid}"
        self.store.write(f"{home}/name", name)
        vm = self.store.get(f"{home}/vm")
        if vm:
            self.store.write(f"{vm}/name", name)


def _nothing() -> None:
    pass
