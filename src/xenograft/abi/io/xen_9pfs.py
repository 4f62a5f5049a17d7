# SPDX-License-Identifier: GPL-2.0-or-later
"""public/io/9pfs.h: the page of a 9p connection.

The messages themselves are 9P's; each begins with `xen_9pfs_header`.
"""

from __future__ import annotations

from xenograft.abi.io.ring import flex_ring_interface
from xenograft.abi.struct import Struct, u8, u16, u32


class xen_9pfs_data_intf(flex_ring_interface):
    """Indices of both rings, their size as a power of two of pages; the grants follow."""


class xen_9pfs_header(Struct, packed=True):
    """Header of every 9P message; `size` counts it."""

    size: u32
    id: u8
    tag: u16
