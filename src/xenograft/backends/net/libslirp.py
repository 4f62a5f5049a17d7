# SPDX-License-Identifier: GPL-2.0-or-later
"""libslirp through ctypes: its structures, callbacks and functions, and nothing more.

Facts: <libslirp.h> of libslirp 4, configuration version 1, which every release of it takes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path

SLIRP_POLL_IN = 1
SLIRP_POLL_OUT = 2
SLIRP_POLL_PRI = 4
SLIRP_POLL_ERR = 8
SLIRP_POLL_HUP = 16

SONAME = "libslirp.so.0"

TIMEOUT_INFINITE = 0xFFFFFFFF

_p = ctypes.c_void_p
WriteCb = ctypes.CFUNCTYPE(ctypes.c_ssize_t, _p, ctypes.c_size_t, _p)
TimerCb = ctypes.CFUNCTYPE(None, _p)
AddPollCb = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, _p)
GetREventsCb = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, _p)
MessageCb = ctypes.CFUNCTYPE(None, ctypes.c_char_p, _p)
ClockCb = ctypes.CFUNCTYPE(ctypes.c_int64, _p)
# The callback of a timer comes as a plain address, which is kept and called later.
TimerNewCb = ctypes.CFUNCTYPE(_p, _p, _p, _p)
TimerFreeCb = ctypes.CFUNCTYPE(None, _p, _p)
TimerModCb = ctypes.CFUNCTYPE(None, _p, ctypes.c_int64, _p)
PollFdCb = ctypes.CFUNCTYPE(None, ctypes.c_int, _p)
NotifyCb = ctypes.CFUNCTYPE(None, _p)


class in_addr(ctypes.Structure):
    _fields_ = (("s_addr", ctypes.c_uint32),)

    @classmethod
    def of(cls, packed: bytes) -> in_addr:
        return cls.from_buffer_copy(packed)


class in6_addr(ctypes.Structure):
    _fields_ = (("s6_addr32", ctypes.c_uint32 * 4),)

    @classmethod
    def of(cls, packed: bytes) -> in6_addr:
        return cls.from_buffer_copy(packed)


class SlirpCb(ctypes.Structure):
    """What libslirp calls."""

    _fields_ = (
        ("send_packet", WriteCb),
        ("guest_error", MessageCb),
        ("clock_get_ns", ClockCb),
        ("timer_new", TimerNewCb),
        ("timer_free", TimerFreeCb),
        ("timer_mod", TimerModCb),
        ("register_poll_fd", PollFdCb),
        ("unregister_poll_fd", PollFdCb),
        ("notify", NotifyCb),
        # For later versions of the configuration: not called with version 1.
        ("init_completed", _p),
        ("timer_new_opaque", _p),
    )


class SlirpConfig(ctypes.Structure):
    """The network that the guest sees."""

    _fields_ = (
        ("version", ctypes.c_uint32),
        ("restricted", ctypes.c_int),
        ("in_enabled", ctypes.c_bool),
        ("vnetwork", in_addr),
        ("vnetmask", in_addr),
        ("vhost", in_addr),
        ("in6_enabled", ctypes.c_bool),
        ("vprefix_addr6", in6_addr),
        ("vprefix_len", ctypes.c_uint8),
        ("vhost6", in6_addr),
        ("vhostname", ctypes.c_char_p),
        ("tftp_server_name", ctypes.c_char_p),
        ("tftp_path", ctypes.c_char_p),
        ("bootfile", ctypes.c_char_p),
        ("vdhcp_start", in_addr),
        ("vnameserver", in_addr),
        ("vnameserver6", in6_addr),
        ("vdnssearch", _p),
        ("vdomainname", ctypes.c_char_p),
        ("if_mtu", ctypes.c_size_t),
        ("if_mru", ctypes.c_size_t),
        ("disable_host_loopback", ctypes.c_bool),
        ("enable_emu", ctypes.c_bool),
        ("outbound_addr", _p),
        ("outbound_addr6", _p),
        ("disable_dns", ctypes.c_bool),
        ("disable_dhcp", ctypes.c_bool),
    )


class LibraryMissing(Exception):
    """libslirp can't be loaded; the text says what to do."""


_FUNCTIONS: dict[str, tuple[object, tuple[object, ...]]] = {
    "slirp_new": (_p, (ctypes.POINTER(SlirpConfig), ctypes.POINTER(SlirpCb), _p)),
    "slirp_cleanup": (None, (_p,)),
    "slirp_pollfds_fill": (None, (_p, ctypes.POINTER(ctypes.c_uint32), AddPollCb, _p)),
    "slirp_pollfds_poll": (None, (_p, ctypes.c_int, GetREventsCb, _p)),
    "slirp_input": (None, (_p, ctypes.c_char_p, ctypes.c_int)),
    "slirp_add_hostfwd": (
        ctypes.c_int,
        (_p, ctypes.c_int, in_addr, ctypes.c_int, in_addr, ctypes.c_int),
    ),
    "slirp_remove_hostfwd": (ctypes.c_int, (_p, ctypes.c_int, in_addr, ctypes.c_int)),
    "slirp_version_string": (ctypes.c_char_p, ()),
}


def load(candidates: Callable[[], Sequence[Path]] = tuple) -> ctypes.CDLL:
    """The library: the system's, or else from files (what it needs first, itself last).

    `candidates` is asked for the files if the system has none.  Raises LibraryMissing.
    """
    try:
        library = ctypes.CDLL(SONAME)
    except OSError:
        library = _load_files(candidates())
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library


def _load_files(files: Sequence[Path]) -> ctypes.CDLL:
    if not files:
        raise LibraryMissing(
            "user networking needs libslirp, which isn't here (Debian: package libslirp0)"
        )
    try:
        # A library that is there already isn't looked for again by those that need it.
        for path in files[:-1]:
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        return ctypes.CDLL(str(files[-1]))
    except OSError as error:
        raise LibraryMissing(f"can't load libslirp: {error}") from None
