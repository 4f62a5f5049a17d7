# SPDX-License-Identifier: GPL-2.0-or-later
"""xenctl_bitmap: sets of CPUs and nodes in the caller's memory (public/xen.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xenograft.abi.xen import xenctl_bitmap
    from xenograft.hypervisor.call import Call


def read_bitmap(call: Call, where: xenctl_bitmap, bits: int) -> int:
    """At most `bits` bits of it, as Xen's xenctl_bitmap_to_bitmap. Raises XenError(EFAULT)."""
    count = min(where.nr_bits, bits)
    data = call.read_bytes(where.bitmap, (count + 7) // 8)
    return int.from_bytes(data, "little") & ((1 << count) - 1)


def write_bitmap(call: Call, where: xenctl_bitmap, value: int, bits: int) -> None:
    """Up to `bits` bits; the rest of the caller's bitmap is cleared (bitmap_to_xenctl_bitmap).

    Raises XenError(EFAULT).
    """
    value &= (1 << bits) - 1
    room = (where.nr_bits + 7) // 8
    data = value.to_bytes((bits + 7) // 8, "little")[:room]
    call.write_bytes(where.bitmap, data)
    at = len(data)
    while at < room:
        part = min(room - at, 4096)
        call.write_bytes(where.bitmap + at, bytes(part))
        at += part
