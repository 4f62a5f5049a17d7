# SPDX-License-Identifier: GPL-2.0-or-later
"""public/io/kbdif.h: the keyboard and pointer's page and events."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.struct import Struct, Union, chars, i16, i32, octets, selects, u8, u32

# Events.
XENKBD_TYPE_MOTION = 1
XENKBD_TYPE_RESERVED = 2
XENKBD_TYPE_KEY = 3
XENKBD_TYPE_POS = 4
XENKBD_TYPE_MTOUCH = 5

# xenkbd_mtouch.event_type.
XENKBD_MT_EV_DOWN = 0
XENKBD_MT_EV_UP = 1
XENKBD_MT_EV_MOTION = 2
XENKBD_MT_EV_SYN = 3
XENKBD_MT_EV_SHAPE = 4
XENKBD_MT_EV_ORIENT = 5

# Rings in the page.
XENKBD_IN_EVENT_SIZE = 40
XENKBD_OUT_EVENT_SIZE = 40
XENKBD_IN_RING_SIZE = 2048
XENKBD_IN_RING_LEN = 51
XENKBD_IN_RING_OFFS = 1024
XENKBD_OUT_RING_SIZE = 1024
XENKBD_OUT_RING_LEN = 25
XENKBD_OUT_RING_OFFS = 3072


class xenkbd_motion(Struct):
    """The pointer moved by."""

    type: u8
    rel_x: i32
    rel_y: i32
    rel_z: i32


class xenkbd_key(Struct):
    """A key (Linux key code) was pressed or released."""

    type: u8
    pressed: u8
    keycode: u32


class xenkbd_position(Struct):
    """The pointer is at."""

    type: u8
    abs_x: i32
    abs_y: i32
    rel_z: i32


class _xenkbd_mtouch_u_pos(Struct):
    abs_x: i32
    abs_y: i32


class _xenkbd_mtouch_u_shape(Struct):
    major: u32
    minor: u32


class _xenkbd_mtouch_u(Union):
    pos: _xenkbd_mtouch_u_pos
    shape: _xenkbd_mtouch_u_shape
    orientation: i16


class xenkbd_mtouch(Struct):
    """A finger."""

    _selects_ = selects(u=("event_type", {0: "pos", 2: "pos", 4: "shape", 5: "orientation"}))

    type: u8
    event_type: u8
    contact_id: u8
    reserved: Annotated[bytes, octets(5)]
    u: _xenkbd_mtouch_u


class xenkbd_in_event(Union):
    """An event to the guest."""

    type: u8
    motion: xenkbd_motion
    key: xenkbd_key
    pos: xenkbd_position
    mtouch: xenkbd_mtouch
    pad: Annotated[bytes, chars(40)]


class xenkbd_out_event(Union):
    """An event from the guest (none is defined)."""

    type: u8
    pad: Annotated[bytes, chars(40)]


class xenkbd_page(Struct):
    """The shared page: indices."""

    in_cons: u32
    in_prod: u32
    out_cons: u32
    out_prod: u32
