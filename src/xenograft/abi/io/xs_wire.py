# SPDX-License-Identifier: GPL-2.0-or-later
"""public/io/xs_wire.h: xenstore's messages and the page that carries them."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.errno import Errno
from xenograft.abi.struct import Struct, named, octets, u32

# xsd_sockmsg.type.
XS_CONTROL = 0
XS_DIRECTORY = 1
XS_READ = 2
XS_GET_PERMS = 3
XS_WATCH = 4
XS_UNWATCH = 5
XS_TRANSACTION_START = 6
XS_TRANSACTION_END = 7
XS_INTRODUCE = 8
XS_RELEASE = 9
XS_GET_DOMAIN_PATH = 10
XS_WRITE = 11
XS_MKDIR = 12
XS_RM = 13
XS_SET_PERMS = 14
XS_WATCH_EVENT = 15
XS_ERROR = 16
XS_IS_DOMAIN_INTRODUCED = 17
XS_RESUME = 18
XS_SET_TARGET = 19
XS_RESET_WATCHES = 21
XS_DIRECTORY_PART = 22
XS_TYPE_COUNT = 23
XS_INVALID = 0xFFFF
XS_DEBUG = XS_CONTROL

# The two strings of a watch event.
XS_WATCH_PATH = 0
XS_WATCH_TOKEN = 1

# How XS_WRITE's third argument was spelt in old versions.
XS_WRITE_NONE = "NONE"
XS_WRITE_CREATE = "CREATE"
XS_WRITE_CREATE_EXCL = "CREATE|EXCL"

# Limits.
XENSTORE_RING_SIZE = 1024
XENSTORE_PAYLOAD_MAX = 4096
XENSTORE_ABS_PATH_MAX = 3072
XENSTORE_REL_PATH_MAX = 2048

# xenstore_domain_interface.server_features.
XENSTORE_SERVER_FEATURE_RECONNECTION = 1
XENSTORE_SERVER_FEATURE_ERROR = 2

# xenstore_domain_interface.connection.
XENSTORE_CONNECTED = 0
XENSTORE_RECONNECT = 1

# xenstore_domain_interface.error.
XENSTORE_ERROR_NONE = 0
XENSTORE_ERROR_COMM = 1
XENSTORE_ERROR_RINGIDX = 2
XENSTORE_ERROR_PROTO = 3

XS_NAMES: dict[int, str] = {
    number: name
    for name, number in sorted(globals().items())
    if name.startswith("XS_")
    and isinstance(number, int)
    and name not in ("XS_DEBUG", "XS_TYPE_COUNT", "XS_WATCH_PATH", "XS_WATCH_TOKEN")
}
"""Message type to name."""

XSD_ERRORS: tuple[Errno, ...] = (
    Errno.EINVAL,
    Errno.EACCES,
    Errno.EEXIST,
    Errno.EISDIR,
    Errno.ENOENT,
    Errno.ENOMEM,
    Errno.ENOSPC,
    Errno.EIO,
    Errno.ENOTEMPTY,
    Errno.ENOSYS,
    Errno.EROFS,
    Errno.EBUSY,
    Errno.EAGAIN,
    Errno.EISCONN,
    Errno.E2BIG,
    Errno.EPERM,
)
"""Errors that XS_ERROR may carry, by name (``b"ENOENT\\0"``)."""


class xsd_sockmsg(Struct):
    """Header of every message; `len` bytes follow."""

    type: Annotated[int, named(u32, XS_NAMES)]
    req_id: u32
    tx_id: u32
    len: u32


class xenstore_domain_interface(Struct):
    """The shared page: requests to, and replies from, the store; free-running indices."""

    req: Annotated[bytes, octets(XENSTORE_RING_SIZE)]
    rsp: Annotated[bytes, octets(XENSTORE_RING_SIZE)]
    req_cons: u32
    req_prod: u32
    rsp_cons: u32
    rsp_prod: u32
    server_features: u32
    connection: u32
    error: u32


def MASK_XENSTORE_IDX(index: int) -> int:
    """Place of a free-running index in one of the rings."""
    return index & XENSTORE_RING_SIZE - 1
