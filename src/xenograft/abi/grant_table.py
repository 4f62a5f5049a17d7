# SPDX-License-Identifier: GPL-2.0-or-later
"""public/grant_table.h: grant entries of both versions, grant_table_op."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.struct import (
    Struct,
    Union,
    array,
    domid_t,
    grant_ref_t,
    handle,
    i16,
    named,
    u16,
    u32,
    u64,
    x16,
    x32,
    x64,
    xen_pfn_t,
)

# The first entries are kept for the toolstack.
GNTTAB_NR_RESERVED_ENTRIES = 8
GNTTAB_RESERVED_CONSOLE = 0
GNTTAB_RESERVED_XENSTORE = 1

# Flags of an entry: type in bits 0-1, then access.
GTF_invalid = 0
GTF_permit_access = 1 << 0
GTF_accept_transfer = 2
GTF_transitive = 3
GTF_type_mask = 3
GTF_readonly = 4
GTF_reading = 8
GTF_writing = 0x10
GTF_PWT = 0x20
GTF_PCD = 0x40
GTF_PAT = 0x80
GTF_sub_page = 0x100
GTF_transfer_committed = 4
GTF_transfer_completed = 8

# grant_table_op.
GNTTABOP_map_grant_ref = 0
GNTTABOP_unmap_grant_ref = 1
GNTTABOP_setup_table = 2
GNTTABOP_dump_table = 3
GNTTABOP_transfer = 4
GNTTABOP_copy = 5
GNTTABOP_query_size = 6
GNTTABOP_unmap_and_replace = 7
GNTTABOP_set_version = 8
GNTTABOP_get_status_frames = 9
GNTTABOP_get_version = 10
GNTTABOP_swap_grant_ref = 11
GNTTABOP_cache_flush = 12

# gnttab_copy.flags.
GNTCOPY_source_gref = 1 << 0
GNTCOPY_dest_gref = 1 << 1

# gnttab_cache_flush.op.
GNTTAB_CACHE_CLEAN = 1 << 0
GNTTAB_CACHE_INVAL = 1 << 1
GNTTAB_CACHE_SOURCE_GREF = 1 << 31

# gnttab_map_grant_ref.flags.
GNTMAP_device_map = 1 << 0
GNTMAP_host_map = 1 << 1
GNTMAP_readonly = 1 << 2
GNTMAP_application_map = 1 << 3
GNTMAP_contains_pte = 1 << 4
GNTMAP_guest_avail_mask = 0xFFFF0000

# Status of a single operation.
GNTST_okay = 0
GNTST_general_error = -1
GNTST_bad_domain = -2
GNTST_bad_gntref = -3
GNTST_bad_handle = -4
GNTST_bad_virt_addr = -5
GNTST_bad_dev_addr = -6
GNTST_no_device_space = -7
GNTST_permission_denied = -8
GNTST_bad_page = -9
GNTST_bad_copy_arg = -10
GNTST_address_too_big = -11
GNTST_eagain = -12
GNTST_no_space = -13

GNTST_NAMES: dict[int, str] = {
    number: name
    for name, number in sorted(globals().items())
    if name.startswith("GNTST_") and isinstance(number, int)
}
"""Status to name."""


class grant_entry_v1(Struct):
    """A version 1 entry: GTF_* flags, the domain that's let in, the frame."""

    flags: x16
    domid: domid_t
    frame: x32


class grant_entry_header(Struct):
    """What all version 2 entries begin with."""

    flags: x16
    domid: domid_t


class grant_entry_v2_full_page(Struct):
    """A version 2 entry for a whole page."""

    hdr: grant_entry_header
    pad0: u32
    frame: x64


class grant_entry_v2_sub_page(Struct):
    """A version 2 entry for bytes page_off .. page_off + length of a page (copies only)."""

    hdr: grant_entry_header
    page_off: u16
    length: u16
    frame: x64


class grant_entry_v2_transitive(Struct):
    """A version 2 entry that stands for an entry of a third domain."""

    hdr: grant_entry_header
    trans_domid: domid_t
    pad0: u16
    gref: grant_ref_t


class grant_entry_v2(Union):
    """A version 2 entry: 16 bytes."""

    hdr: grant_entry_header
    full_page: grant_entry_v2_full_page
    sub_page: grant_entry_v2_sub_page
    transitive: grant_entry_v2_transitive
    spacer: Annotated[list[int], array(u32, 4)]


class gnttab_map_grant_ref(Struct):
    """Map a grant at host_addr. OUT: status, handle, dev_bus_addr."""

    host_addr: x64
    flags: x32
    ref: grant_ref_t
    dom: domid_t
    status: Annotated[int, named(i16, GNTST_NAMES)]
    handle: u32
    dev_bus_addr: x64


class gnttab_unmap_grant_ref(Struct):
    """Undo a mapping. OUT: status."""

    host_addr: x64
    dev_bus_addr: x64
    handle: u32
    status: Annotated[int, named(i16, GNTST_NAMES)]


class gnttab_setup_table(Struct):
    """Grow the table to nr_frames and list its frames. OUT: status, *frame_list."""

    dom: domid_t
    nr_frames: u32
    status: Annotated[int, named(i16, GNTST_NAMES)]
    frame_list: handle


class gnttab_dump_table(Struct):
    """Print a table on Xen's console. OUT: status."""

    dom: domid_t
    status: Annotated[int, named(i16, GNTST_NAMES)]


class gnttab_transfer(Struct):
    """Give a page away to a grant of type GTF_accept_transfer. OUT: status."""

    mfn: xen_pfn_t
    domid: domid_t
    ref: grant_ref_t
    status: Annotated[int, named(i16, GNTST_NAMES)]


class _copy_ptr_u(Union):
    ref: grant_ref_t
    gmfn: xen_pfn_t


class gnttab_copy_ptr(Struct):
    """One end of a copy: a grant or a frame of `domid`, and an offset."""

    u: _copy_ptr_u
    domid: domid_t
    offset: u16


class gnttab_copy(Struct):
    """Copy `len` bytes within one page each. OUT: status."""

    source: gnttab_copy_ptr
    dest: gnttab_copy_ptr
    len: u16
    flags: x16
    status: Annotated[int, named(i16, GNTST_NAMES)]


class gnttab_query_size(Struct):
    """OUT: nr_frames, max_nr_frames, status."""

    dom: domid_t
    nr_frames: u32
    max_nr_frames: u32
    status: Annotated[int, named(i16, GNTST_NAMES)]


class gnttab_unmap_and_replace(Struct):
    """Undo a mapping and put that of new_addr in its place. OUT: status."""

    host_addr: x64
    new_addr: x64
    handle: u32
    status: Annotated[int, named(i16, GNTST_NAMES)]


class gnttab_set_version(Struct):
    """Ask for version 1 or 2. OUT: the version in force."""

    version: u32


class gnttab_get_status_frames(Struct):
    """List the status frames of a version 2 table. OUT: status, *frame_list (u64 each)."""

    nr_frames: u32
    dom: domid_t
    status: Annotated[int, named(i16, GNTST_NAMES)]
    frame_list: handle


class gnttab_get_version(Struct):
    """OUT: version."""

    dom: domid_t
    pad: u16
    version: u32


class gnttab_swap_grant_ref(Struct):
    """Swap the contents of two entries. OUT: status."""

    ref_a: grant_ref_t
    ref_b: grant_ref_t
    status: Annotated[int, named(i16, GNTST_NAMES)]


class _flush_a(Union):
    dev_bus_addr: u64
    ref: grant_ref_t


class gnttab_cache_flush(Struct):
    """Clean or invalidate caches for part of a granted page."""

    a: _flush_a
    offset: u16
    length: u16
    op: x32
