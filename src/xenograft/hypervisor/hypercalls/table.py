# SPDX-License-Identifier: GPL-2.0-or-later
"""The one table of hypercalls: number, name, arguments, and a decision per guest kind.

Checked against xen/include/hypercall-defs.c of Xen 4.17: a hypercall that this table refuses
for a kind is absent from Xen's dispatch table for that kind, and answers -ENOSYS there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno
from xenograft.hypervisor.kinds import GuestKind

if TYPE_CHECKING:
    from xenograft.hypervisor.call import Call

HypercallHandler = Callable[..., int]
"""`handler(call, *arguments) -> result`; raises XenError or Continuation."""


@dataclass(frozen=True, slots=True)
class Hypercall:
    """A row of the table.

    `args`: name and type of each argument, as "name:type"; types are `uint` and `int` (32 bits
    wide in the callee, so that Xen ignores the upper half), `ulong`, `u64` and `handle`.
    """

    number: int
    name: str
    args: tuple[str, ...]
    decisions: Mapping[GuestKind, HypercallHandler | Errno]


HYPERCALLS: dict[int, Hypercall] = {}


def dispatch(call: Call, number: int, args: tuple[int, ...]) -> int:
    """Answer a hypercall: its result, or -errno. Raises Continuation alone."""
    raise NotImplementedError
