# SPDX-License-Identifier: GPL-2.0-or-later
"""From a hypercall's number and registers to its handler, and from its end to a result.

What a handler needs to know about its arguments is worked out once, when this module is loaded:
for each kind of guest and each width of the caller, a function of the five registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.hypervisor.hypercalls.table import HYPERCALLS, Hypercall
from xenograft.hypervisor.kinds import GuestKind

if TYPE_CHECKING:
    from xenograft.hypervisor.call import Call

_Entry = Callable[["Call", tuple[int, ...]], int]

_MASKS = {
    64: {
        "int": 0xFFFFFFFF,
        "uint": 0xFFFFFFFF,
        "ulong": (1 << 64) - 1,
        "u64": (1 << 64) - 1,
        "handle": (1 << 64) - 1,
    },
    32: dict.fromkeys(("int", "uint", "ulong", "u64", "handle"), 0xFFFFFFFF),
}


def _entry(row: Hypercall, kind: GuestKind, bits: int) -> _Entry | None:
    """The function that answers `row` for such a caller; None: -ENOSYS."""
    decision = row.decisions[kind]
    if isinstance(decision, Errno):
        if decision is Errno.ENOSYS:
            return None
        result = -decision
        return lambda call, args: result
    args, handler = row.args, decision
    if bits == 32 and row.handler32 is not None:
        args, handler = row.args32 or (), row.handler32
    masks = tuple(_MASKS[bits][arg.split(":")[1]] for arg in args)
    if len(masks) == 1:
        (m0,) = masks
        return lambda call, args: handler(call, args[0] & m0)
    if len(masks) == 2:
        m0, m1 = masks
        return lambda call, args: handler(call, args[0] & m0, args[1] & m1)
    if len(masks) == 3:
        m0, m1, m2 = masks
        return lambda call, args: handler(call, args[0] & m0, args[1] & m1, args[2] & m2)
    return lambda call, args: handler(call, *(a & m for a, m in zip(args, masks, strict=False)))


_ENTRIES: dict[tuple[GuestKind, int], dict[int, _Entry]] = {
    (kind, bits): {
        number: entry
        for number, row in HYPERCALLS.items()
        if (entry := _entry(row, kind, bits)) is not None
    }
    for kind in GuestKind
    for bits in (32, 64)
}


def dispatch(call: Call, number: int, args: tuple[int, ...]) -> int:
    """Answer a hypercall: its result, or -errno. Raises Continuation alone.

    `args` are the values of the (at least five) argument registers.
    """
    hypervisor = call.hypervisor
    instruments = hypervisor.instruments
    if (enter := instruments.hypercall_enter) is not None:
        vcpu_id = -1 if call.vcpu is None else call.vcpu.vcpu_id
        enter(hypervisor.clock.now(), call.domain.domid, vcpu_id, call.bits, number, args)
    entry = _ENTRIES[call.domain.kind, call.bits].get(number)
    if entry is None:
        result = -Errno.ENOSYS
    else:
        try:
            result = entry(call, args)
        except XenError as error:
            result = -error.errno
    if (leave := instruments.hypercall_exit) is not None:
        vcpu_id = -1 if call.vcpu is None else call.vcpu.vcpu_id
        leave(hypervisor.clock.now(), call.domain.domid, vcpu_id, number, args, result)
    return result
