# SPDX-License-Identifier: GPL-2.0-or-later
"""public/io/fbif.h: the frame buffer's page and events."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.struct import Struct, Union, array, chars, i32, u8, u32, ulong, x32

# Events.
XENFB_TYPE_UPDATE = 2
XENFB_TYPE_RESIZE = 3
XENFB_TYPE_REFRESH_PERIOD = 1
XENFB_NO_REFRESH = 0

# Rings in the page.
XENFB_OUT_EVENT_SIZE = 40
XENFB_IN_EVENT_SIZE = 40
XENFB_IN_RING_SIZE = 1024
XENFB_IN_RING_LEN = 25
XENFB_IN_RING_OFFS = 1024
XENFB_OUT_RING_SIZE = 2048
XENFB_OUT_RING_LEN = 51
XENFB_OUT_RING_OFFS = 2048


class xenfb_update(Struct):
    """A rectangle changed."""

    type: u8
    x: i32
    y: i32
    width: i32
    height: i32


class xenfb_resize(Struct):
    """The mode changed."""

    type: u8
    width: i32
    height: i32
    stride: i32
    depth: i32
    offset: i32


class xenfb_out_event(Union):
    """An event from the guest."""

    type: u8
    update: xenfb_update
    resize: xenfb_resize
    pad: Annotated[bytes, chars(40)]


class xenfb_refresh_period(Struct):
    """How often updates are wanted (ms)."""

    type: u8
    period: u32


class xenfb_in_event(Union):
    """An event to the guest."""

    type: u8
    refresh_period: xenfb_refresh_period
    pad: Annotated[bytes, chars(40)]


class xenfb_page(Struct):
    """The shared page: indices, mode, and the pages that list the frame buffer."""

    in_cons: u32
    in_prod: u32
    out_cons: u32
    out_prod: u32
    width: i32
    height: i32
    line_length: u32
    mem_length: x32
    depth: u8
    pd: Annotated[list[int], array(ulong, 256)]
