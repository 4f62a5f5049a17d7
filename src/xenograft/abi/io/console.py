# SPDX-License-Identifier: GPL-2.0-or-later
"""public/io/console.h: the page of the PV console."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.struct import Struct, octets, u32

XENCONS_IN_SIZE = 1024
XENCONS_OUT_SIZE = 2048


class xencons_interface(Struct):
    """Two byte rings: `in_` to the guest, `out` from it; free-running indices."""

    in_: Annotated[bytes, octets(XENCONS_IN_SIZE)]
    out: Annotated[bytes, octets(XENCONS_OUT_SIZE)]
    in_cons: u32
    in_prod: u32
    out_cons: u32
    out_prod: u32


def MASK_XENCONS_IDX(index: int, size: int) -> int:
    """Place of a free-running index in a ring of `size` bytes."""
    return index & size - 1
