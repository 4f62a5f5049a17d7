# SPDX-License-Identifier: GPL-2.0-or-later
"""What all requests to the host service have in common.

A request names in its base the type of its result: ``class Uptime(Request[list[DomainUptime]])``.
Domains are given as people write them, by name or number; the service looks them up, so that
a command needs one round trip.  What fails is a `Failure` with the line that `xl` would print.
"""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar, get_args

import msgspec

from xenograft.hypervisor.sched.topology import Topology
from xenograft.hypervisor.team import host_cpus
from xenograft.toolstack.errors import Failure as Failure

T = TypeVar("T")
PROTOCOL = 1
"""A service and a command that speak different protocols don't talk to each other."""


class Request(msgspec.Struct, Generic[T], frozen=True, forbid_unknown_fields=True, tag=True):
    """The base of all requests; `result` is the type of the answer."""

    result: ClassVar[Any]
    known: ClassVar[list[type[Request[Any]]]] = []
    streams: ClassVar[bool] = False
    """Whether the connection carries bare bytes after the reply."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        (base,) = cls.__orig_bases__  # type: ignore[attr-defined]
        (cls.result,) = get_args(base)
        Request.known.append(cls)


class MachineOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The machine that a service holds."""

    cpus: int = msgspec.field(default_factory=host_cpus)
    """As many as the host has, unless told."""
    memory_mib: int = 16 << 10
    sched: str = "credit2"
    topology: Topology | None = None
    """Where the CPUs are, in place of `cpus`."""
    pools: str | None = None
    """CPUs and pools as text (toolstack.sched.description), in place of all but the memory."""


class Reply(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer: a result, or an error as one line with the exit status that goes with it."""

    value: msgspec.Raw = msgspec.Raw(b"\xc0")
    error: str | None = None
    status: int = 1


class ServiceInfo(msgspec.Struct, frozen=True):
    """The service, as `xg service status` shows it."""

    pid: int
    protocol: int
    version: str
    uptime: float
    """Seconds on the host's clock."""
    guests: list[str]
    socket: str
    xenstore: str
    log: str
    found: list[str]
    """Guests of an earlier service that ended without stopping."""


class GetService(Request[ServiceInfo], frozen=True):
    """Who are you?"""


class StopService(Request[list[str]], frozen=True):
    """Stop; answers with the guests that were destroyed with it."""
