# SPDX-License-Identifier: GPL-2.0-or-later
"""public/hypfs.h: the hypervisor file system (HYPERVISOR_hypfs_op)."""

from __future__ import annotations

from xenograft.abi.struct import Struct, u8, u16, u32

# hypfs_op.
XEN_HYPFS_OP_get_version = 0
XEN_HYPFS_OP_read = 1
XEN_HYPFS_OP_write_contents = 2

# xen_hypfs_direntry.type.
XEN_HYPFS_TYPE_DIR = 0
XEN_HYPFS_TYPE_BLOB = 1
XEN_HYPFS_TYPE_STRING = 2
XEN_HYPFS_TYPE_UINT = 3
XEN_HYPFS_TYPE_INT = 4
XEN_HYPFS_TYPE_BOOL = 5

# xen_hypfs_direntry.encoding.
XEN_HYPFS_ENC_PLAIN = 0
XEN_HYPFS_ENC_GZIP = 1

# Version and limit.
XEN_HYPFS_VERSION = 1
XEN_HYPFS_MAX_PATHLEN = 1024


class xen_hypfs_direntry(Struct):
    """Type and size of an entry."""

    type: u8
    encoding: u8
    pad: u16
    content_len: u32
    max_write_len: u32


class xen_hypfs_dirlistentry(Struct):
    """An entry of a directory; its name follows."""

    e: xen_hypfs_direntry
    off_next: u16
