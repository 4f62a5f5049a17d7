# SPDX-License-Identifier: GPL-2.0-or-later
"""ARINC 653 schedules in a file (TOML), checked before they're loaded::

    major_frame = "100ms"

    [[window]]
    domain = "flight-control"        # or uuid = "…"
    vcpu = 0
    runtime = "20ms"

    [[window]]                       # nobody's: spare time
    idle = true
    runtime = "5ms"

Windows follow one another from the beginning of the major frame; what they leave of it is idle.
"""

from __future__ import annotations

import tomllib
import uuid as uuids
from collections.abc import Iterable, Mapping

import msgspec

from xenograft.abi.sysctl import ARINC653_MAX_DOMAINS_PER_SCHEDULE
from xenograft.hypervisor.sched.arinc653 import MinorFrame, Schedule
from xenograft.toolstack.errors import UserError, unknown
from xenograft.toolstack.sched.durations import parse_ns, show_ns

NOBODY = b"\xff" * 16
"""The handle of windows that are nobody's; no domain has it."""


class Window(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One window, as it's written."""

    runtime: str
    domain: str | None = None
    uuid: str | None = None
    vcpu: int = 0
    idle: bool = False


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A schedule, as it's written."""

    major_frame: str
    window: tuple[Window, ...] = ()
    pool: str | None = None


class Span(msgspec.Struct, frozen=True):
    """A window with its place in the major frame (ns); `domain` None: nobody's."""

    domain: str | None
    vcpu: int
    start: int
    length: int


class Partition(msgspec.Struct, frozen=True):
    """What a schedule must know of a domain."""

    name: str
    uuid: bytes
    vcpus: int


def load(text: str, source: str) -> Table:
    """Read a file's text. Raises UserError, one line, with the place at fault."""
    try:
        return msgspec.convert(tomllib.loads(text), Table)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{source}: {error}") from None
    except msgspec.ValidationError as error:
        raise UserError(f"{source}: {error}") from None


def spans(table: Table) -> tuple[int, list[Span]]:
    """Major frame (ns) and windows in their places. Raises UserError where Xen would refuse."""
    major = parse_ns(table.major_frame, "major_frame")
    if major <= 0:
        raise UserError(f"major_frame: {table.major_frame}; it has to be longer than 0")
    if not table.window:
        raise UserError("there is no window: a schedule has at least one")
    if len(table.window) > ARINC653_MAX_DOMAINS_PER_SCHEDULE:
        raise UserError(
            f"{len(table.window)} windows; a schedule has at most"
            f" {ARINC653_MAX_DOMAINS_PER_SCHEDULE}"
        )
    found: list[Span] = []
    start = 0
    for number, window in enumerate(table.window, 1):
        what = f"window {number}"
        named = sum((window.domain is not None, window.uuid is not None, window.idle))
        if named != 1:
            raise UserError(f"{what}: it needs one of domain, uuid and idle = true")
        length = parse_ns(window.runtime, f"{what}: runtime")
        if length <= 0:
            raise UserError(f"{what}: runtime {window.runtime}; it has to be longer than 0")
        if window.vcpu < 0:
            raise UserError(f"{what}: vcpu {window.vcpu}; vCPUs count from 0")
        if start + length > major:
            raise UserError(
                f"{what}: it ends at {show_ns(start + length)}, after the major frame of"
                f" {show_ns(major)}"
            )
        who = None if window.idle else window.domain or window.uuid
        found.append(Span(who, window.vcpu, start, length))
        start += length
    return major, found


def resolve(table: Table, partitions: Iterable[Partition]) -> Schedule:
    """The table that the hypervisor gets. Raises UserError for unknown domains and vCPUs."""
    major, windows = spans(table)
    known: Mapping[str, Partition] = {one.name: one for one in partitions}
    by_uuid = {one.uuid: one for one in known.values()}
    frames: list[MinorFrame] = []
    for number, (window, span) in enumerate(zip(table.window, windows, strict=True), 1):
        if window.idle:
            frames.append(MinorFrame(NOBODY, 0, span.length))
            continue
        if window.uuid is not None:
            try:
                handle = uuids.UUID(window.uuid).bytes
            except ValueError:
                raise UserError(f"window {number}: {window.uuid[:60]!r} isn't a UUID") from None
            partition = by_uuid.get(handle)
        else:
            assert window.domain is not None
            partition = known.get(window.domain)
            if partition is None:
                raise UserError(f"window {number}: {unknown('domain', window.domain, known)}")
            handle = partition.uuid
        if partition is not None and window.vcpu >= partition.vcpus:
            raise UserError(
                f"window {number}: {partition.name} has no vCPU {window.vcpu}, only"
                f" {partition.vcpus}"
            )
        frames.append(MinorFrame(handle, window.vcpu, span.length))
    return Schedule(major, tuple(frames))


def check(table: Table, partitions: Iterable[Partition]) -> list[str]:
    """What is wrong with a table for these domains, a line each; none: nothing.

    No vCPU is without a window, and each domain is covered.
    """
    domains = list(partitions)
    try:
        schedule = resolve(table, domains)
    except UserError as error:
        return [str(error)]
    return uncovered(schedule, domains)


def uncovered(schedule: Schedule, domains: Iterable[Partition]) -> list[str]:
    """Which of these domains and vCPUs have no window, a line each."""
    served = {(frame.uuid, frame.vcpu) for frame in schedule.frames}
    problems: list[str] = []
    for domain in domains:
        missing = [v for v in range(domain.vcpus) if (domain.uuid, v) not in served]
        if len(missing) == domain.vcpus:
            problems.append(f"{domain.name} has no window: it would never run")
        else:
            problems += [
                f"{domain.name}: vCPU {v} has no window: it would never run" for v in missing
            ]
    return problems
