# SPDX-License-Identifier: GPL-2.0-or-later
"""What a run was, in a few hashes: two runs with the same fingerprint were the same run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import Any

from xenograft.engine.protocol import Exit
from xenograft.hypervisor.domain import Domain
from xenograft.hypervisor.instruments import Instrument


class Stream:
    """A hash of a sequence, and its length."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self.length = 0

    def add(self, *item: Any) -> None:
        self._hash.update(repr(item).encode())
        self.length += 1

    def __str__(self) -> str:
        return f"{self.length}:{self._hash.hexdigest()}"


class Recorder(Instrument):
    """Hears everything that a run on the virtual clock must repeat."""

    def __init__(self) -> None:
        self.hypercalls, self.exits, self.injections = Stream(), Stream(), Stream()
        self.output, self.other = Stream(), Stream()

    def exit(self, time: int, domid: int, vcpu: int, exit: Exit) -> None:
        self.exits.add(time, domid, vcpu, tuple(exit))

    def hypercall_enter(
        self, time: int, domid: int, vcpu: int, bits: int, number: int, args: tuple[int, ...]
    ) -> None:
        self.hypercalls.add(time, domid, vcpu, bits, number, args)

    def hypercall_exit(
        self, time: int, domid: int, vcpu: int, number: int, args: tuple[int, ...], result: int
    ) -> None:
        self.hypercalls.add(time, domid, vcpu, number, result)

    def injection(self, time: int, domid: int, vcpu: int, vector: int, kind: str) -> None:
        self.injections.add(time, domid, vcpu, vector, kind)

    def console(self, time: int, domid: int, data: bytes) -> None:
        self.output.add(time, domid, data)

    def vcpu_state(self, time: int, domid: int, vcpu: int, state: int) -> None:
        self.other.add("state", time, domid, vcpu, state)

    def event_send(
        self, time: int, domid: int, port: int, remote_domid: int, remote_port: int
    ) -> None:
        self.other.add("event", time, domid, port, remote_domid, remote_port)


@dataclass(frozen=True)
class Fingerprint:
    """Lengths and hashes of what happened, and a digest of the memory at the end."""

    hypercalls: str
    exits: str
    injections: str
    output: str
    other: str
    memory: str

    def differences(self, other: Fingerprint) -> list[str]:
        """What isn't the same, a line each."""
        pairs = [(f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return [f"{name}: {one} and {two}" for name, one, two in pairs if one != two]


def frames(domain: Domain) -> list[tuple[int, int]]:
    """All frames of a domain, as runs: its memory, shared info, grant table and the like."""
    pool = domain.pool
    return [*pool.pages.runs(), *((mfn, 1) for mfn in sorted(pool.special))]


def memory_digest(domain: Domain) -> str:
    """A digest of all that a domain's frames hold."""
    return bytes(domain.hypervisor.memory.digest(frames(domain))).hex()


def fingerprint(recorder: Recorder, domain: Domain) -> Fingerprint:
    """The fingerprint of what `recorder` has heard, and of the domain's memory now."""
    return Fingerprint(
        str(recorder.hypercalls),
        str(recorder.exits),
        str(recorder.injections),
        str(recorder.output),
        str(recorder.other),
        memory_digest(domain),
    )
