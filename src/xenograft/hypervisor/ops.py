# SPDX-License-Identifier: GPL-2.0-or-later
"""Families of sub-operations: one table per family, one row per operation.

A row says, for every kind of guest, which handler answers or with which errno Xen refuses.
A test goes through all declared operations of the `abi` and fails for one without a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xenograft.abi.errno import Errno, XenError
from xenograft.hypervisor.kinds import GuestKind

if TYPE_CHECKING:
    from xenograft.abi.struct import Struct
    from xenograft.hypervisor.call import Call

Handler = Callable[["Call", Any], int]
"""`handler(call, argument) -> result`; the argument is the row's structure, or the guest address
(int) when the row names no structure. Raises XenError."""

Decision = Handler | Errno
Decisions = Mapping[GuestKind, Decision]


@dataclass(frozen=True, slots=True)
class Op:
    """A row: one sub-operation.

    `argument` is the structure that the guest's pointer names: copied in before the handler
    runs, and copied back after it if `out` (also when the handler raises a XenError whose
    `copy_back` is true, as some of Xen's operations do).
    """

    number: int
    name: str
    argument: type[Struct] | None
    decisions: Decisions
    out: bool = False
    raw: bool = False
    """The handler takes the guest address all the same, and copies in and out by itself (where
    Xen copies single members back, or answers a bad address with something else than EFAULT);
    `argument` then serves those who decode calls."""


def everyone(decision: Decision) -> Decisions:
    """The same decision for all kinds."""
    return dict.fromkeys(GuestKind, decision)


def pv_only(decision: Decision, otherwise: Errno = Errno.ENOSYS) -> Decisions:
    """For PV guests; HVM-type guests get `otherwise`."""
    return {GuestKind.PV: decision, GuestKind.PVH: otherwise, GuestKind.HVM: otherwise}


def hvm_type_only(decision: Decision, otherwise: Errno = Errno.ENOSYS) -> Decisions:
    """For PVH and HVM guests; PV guests get `otherwise`."""
    return {GuestKind.PV: otherwise, GuestKind.PVH: decision, GuestKind.HVM: decision}


def family(rows: Iterable[Op]) -> dict[int, Op]:
    """Index rows by number. Raises ValueError for a number given twice or a kind left out."""
    table: dict[int, Op] = {}
    for row in rows:
        if row.number in table:
            raise ValueError(f"{row.name} and {table[row.number].name} have the same number")
        missing = [kind.name for kind in GuestKind if kind not in row.decisions]
        if missing:
            raise ValueError(f"{row.name} has no decision for {', '.join(missing)}")
        table[row.number] = row
    return table


def dispatch_family(
    ops: Mapping[int, Op], call: Call, cmd: int, arg: int, unknown: Errno = Errno.ENOSYS
) -> int:
    """Answer sub-operation `cmd` with the argument at guest address `arg`.

    Raises XenError: what the row says for the caller's kind, `unknown` for a number that isn't
    in the table, EFAULT for a bad address, or what the handler raises.
    """
    row = ops.get(cmd)
    if row is None:
        raise XenError(unknown)
    decision = row.decisions[call.domain.kind]
    if isinstance(decision, Errno):
        raise XenError(decision)
    if row.argument is None or row.raw:
        return decision(call, arg)
    argument = call.read(arg, row.argument)
    result = decision(call, argument)
    if row.out:
        call.write(arg, argument)
    return result
