# SPDX-License-Identifier: GPL-2.0-or-later
"""xlcpupool.cfg(5): what a CPU pool is made from.

Its keys in Xen 4.17 are name, sched, nodes and cpus; the grammar is that of domain
configurations.
"""

from __future__ import annotations

import re

import msgspec

from xenograft.toolstack.config.keys import Decision, Key, Type
from xenograft.toolstack.config.syntax import Value, parse_settings
from xenograft.toolstack.config.values import nearest
from xenograft.toolstack.errors import UserError

SCHEDULERS = ("credit", "credit2", "rtds", "arinc653", "null")
MAX_CPU = 4095
_RANGE = re.compile(r"(?:(\d{1,4})(?:-(\d{1,4}))?|(all)|nodes?:(\d{1,4}))\Z")
_NAME = re.compile(r"[^\s/\x00-\x1f]{1,64}\Z")


def _done(name: str, type_: Type) -> Key:
    return Key(name, type_, Decision.DONE)


KEYS: dict[str, Key] = {
    key.name: key
    for key in (
        _done("name", Type.STRING),
        _done("sched", Type.STRING),
        _done("nodes", Type.STRING_OR_LIST),
        _done("cpus", Type.STRING_OR_LIST),
    )
}


class PoolConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pool's configuration."""

    name: str
    sched: str | None = None
    """None: the scheduler of Pool-0."""
    cpus: tuple[int, ...] | None = None
    """Physical CPUs; None: one that is free, whichever it is."""
    nodes: tuple[int, ...] | None = None
    """The CPUs of these NUMA nodes."""


def parse_cpus(text: str, what: str = "cpus") -> set[int]:
    """The CPUs of "0-3,^2,5"; "all" is every one that there can be.  Raises UserError.

    >>> sorted(parse_cpus("0-3,^2"))
    [0, 1, 3]
    """
    chosen: set[int] = set()
    for piece in filter(None, (part.strip() for part in text.split(","))):
        excluded = piece.startswith("^")
        match = _RANGE.match(piece.lstrip("^"))
        if match is None:
            raise UserError(f"{what}: {piece[:40]!r} isn't a CPU or a range; write 0, 0-3 or ^2")
        low, high, everything, node = match.groups()
        if everything:
            cpus = set(range(MAX_CPU + 1))
        elif node is not None:
            # The machine is one node with all CPUs.
            cpus = set(range(MAX_CPU + 1)) if int(node) == 0 else set()
        else:
            first, last = int(low), int(high or low)
            if last < first or last > MAX_CPU:
                raise UserError(f"{what}: the range {piece[:40]} is out of range")
            cpus = set(range(first, last + 1))
        chosen = chosen - cpus if excluded else chosen | cpus
    return chosen


def _numbers(value: Value, what: str) -> tuple[int, ...]:
    items = value if isinstance(value, list) else [value]
    texts = [item for item in items if isinstance(item, str)]
    if len(texts) != len(items):
        raise UserError(f"{what}: a list of numbers is expected, without lists in it")
    return tuple(sorted(parse_cpus(",".join(texts), what)))


def parse_pool(text: str, source: str = "configuration") -> tuple[PoolConfig, list[str]]:
    """A pool's configuration and warnings.  Raises UserError with the place at fault."""
    settings = parse_settings(text, source)
    values: dict[str, Value] = {}
    for name, setting in settings.items():
        if name not in KEYS:
            raise UserError(
                f"{source}:{setting.line}: unknown key {name[:40]}{nearest(name, KEYS)}"
            )
        values[name] = setting.value
    try:
        return _record(values), []
    except UserError as error:
        word = str(error).partition(":")[0]
        where = f":{settings[word].line}" if word in settings else ""
        raise UserError(f"{source}{where}: {error}") from None


def _record(values: dict[str, Value]) -> PoolConfig:
    name, sched = values.get("name"), values.get("sched")
    if not isinstance(name, str):
        raise UserError('it has no name; add name="…"')
    if not _NAME.match(name):
        raise UserError(f"name: {name[:80]!r} can't be a pool's name")
    if sched is not None and (not isinstance(sched, str) or sched not in SCHEDULERS):
        raise UserError(f"sched: Unknown scheduler{nearest(str(sched), SCHEDULERS)}")
    if "cpus" in values and "nodes" in values:
        raise UserError("cpus: cpus= and nodes= can't both be given")
    return PoolConfig(
        name,
        sched,
        _numbers(values["cpus"], "cpus") if "cpus" in values else None,
        _numbers(values["nodes"], "nodes") if "nodes" in values else None,
    )
