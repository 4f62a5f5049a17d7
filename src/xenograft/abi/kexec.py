# SPDX-License-Identifier: GPL-2.0-or-later
"""public/kexec.h: load and start another kernel (HYPERVISOR_kexec_op)."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.struct import (
    Struct,
    Union,
    array,
    handle,
    i32,
    u8,
    u16,
    u32,
    u64,
    ulong,
    x64,
    xulong,
)

# kexec_op.
KEXEC_CMD_kexec = 0
KEXEC_CMD_kexec_load_v1 = 1
KEXEC_CMD_kexec_unload_v1 = 2
KEXEC_CMD_kexec_get_range = 3
KEXEC_CMD_kexec_load = 4
KEXEC_CMD_kexec_unload = 5
KEXEC_CMD_kexec_status = 6

# Which image.
KEXEC_TYPE_DEFAULT = 0
KEXEC_TYPE_CRASH = 1

# xen_kexec_range.range.
KEXEC_RANGE_MA_CRASH = 0
KEXEC_RANGE_MA_XEN = 1
KEXEC_RANGE_MA_CPU = 2
KEXEC_RANGE_MA_XENHEAP = 3
KEXEC_RANGE_MA_BOOT_PARAM = 4
KEXEC_RANGE_MA_EFI_MEMMAP = 5
KEXEC_RANGE_MA_VMCOREINFO = 6

# Pages of a version 1 image.
KEXEC_XEN_NO_PAGES = 17


class xen_kexec_image(Struct):
    """An image of version 1: page list, indirection page, entry."""

    page_list: Annotated[list[int], array(ulong, 17)]
    indirection_page: ulong
    start_address: xulong


class xen_kexec_exec(Struct):
    """Start the image of a type."""

    type: i32


class xen_kexec_load_v1(Struct):
    """Load an image of version 1."""

    type: i32
    image: xen_kexec_image


class xen_kexec_range(Struct):
    """OUT: where something that a crash kernel must know lies."""

    range: i32
    nr: i32
    size: ulong
    start: xulong


class _xen_kexec_segment_buf(Union):
    h: handle
    _pad: u64


class xen_kexec_segment(Struct):
    """One segment of an image."""

    buf: _xen_kexec_segment_buf
    buf_size: u64
    dest_maddr: x64
    dest_size: u64


class _xen_kexec_load_segments(Union):
    h: handle
    _pad: u64


class xen_kexec_load(Struct):
    """Load an image: segments and entry point."""

    type: u8
    _pad: u8
    arch: u16
    nr_segments: u32
    segments: _xen_kexec_load_segments
    entry_maddr: x64


class xen_kexec_unload(Struct):
    """Unload the image of a type."""

    type: u8


class xen_kexec_status(Struct):
    """Whether an image of a type is loaded."""

    type: u8
