# SPDX-License-Identifier: GPL-2.0-or-later
"""public/callback.h: entry points of PV kernels (HYPERVISOR_callback_op)."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.struct import Struct, named, octets, only, u16, x16, x32, x64

# callback_op.
CALLBACKOP_register = 0
CALLBACKOP_unregister = 1

# Which entry point.
CALLBACKTYPE_event = 0
CALLBACKTYPE_failsafe = 1
CALLBACKTYPE_syscall = 2
CALLBACKTYPE_sysenter_deprecated = 3
CALLBACKTYPE_nmi = 4
CALLBACKTYPE_sysenter = 5
CALLBACKTYPE_syscall32 = 7

# callback_register.flags.
CALLBACKF_mask_events = 1 << 0

CALLBACKTYPE_NAMES: dict[int, str] = {
    number: name
    for name, number in sorted(globals().items())
    if name.startswith("CALLBACKTYPE_") and isinstance(number, int)
}
"""Entry point to name."""


class callback_register(Struct):
    """Set an entry point: a code address (cs is there for 32-bit guests only)."""

    type: Annotated[int, named(u16, CALLBACKTYPE_NAMES)]
    flags: x16
    cs: Annotated[int, only(32, x32)]
    eip: Annotated[int, only(32, x32)]
    address: Annotated[int, only(64, x64)]


class callback_unregister(Struct):
    """Clear an entry point."""

    type: Annotated[int, named(u16, CALLBACKTYPE_NAMES)]
    _unused: Annotated[bytes, octets(2)]
