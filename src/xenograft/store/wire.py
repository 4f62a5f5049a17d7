# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages on the wire (public/io/xs_wire.h): a header of four words, and a payload."""

from __future__ import annotations

import struct
from typing import NamedTuple

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.io.xs_wire import (
    XENSTORE_PAYLOAD_MAX,
    XS_ERROR,
    XS_WATCH_EVENT,
    XSD_ERRORS,
    xsd_sockmsg,
)

HEADER = struct.Struct("<IIII")  # compiled once: every message passes here
HEADER_SIZE = xsd_sockmsg.sizeof()


class Message(NamedTuple):
    """A message; in the order of the header, with the payload in place of its length."""

    type: int
    req_id: int
    tx_id: int
    payload: bytes

    def pack(self) -> bytes:
        return pack(*self)


class ProtocolError(Exception):
    """The peer has sent what can't be a message: the connection is of no use any more."""


def pack(type: int, req_id: int, tx_id: int, payload: bytes) -> bytes:
    """The bytes of a message."""
    return HEADER.pack(type, req_id, tx_id, len(payload)) + payload


def pack_error(req_id: int, tx_id: int, errno: Errno) -> bytes:
    """An ERROR reply; errors that the protocol doesn't know become EINVAL."""
    known = errno if errno in XSD_ERRORS else Errno.EINVAL
    return pack(XS_ERROR, req_id, tx_id, known.name.encode() + b"\0")


def pack_event(payload: bytes) -> bytes:
    """A WATCH_EVENT."""
    return pack(XS_WATCH_EVENT, 0, 0, payload)


def error_of(payload: bytes) -> XenError:
    """The error that an ERROR reply carries."""
    name = payload.rstrip(b"\0").decode("ascii", "replace")
    return XenError(Errno[name] if name in Errno.__members__ else Errno.EINVAL)


class MessageReader:
    """Cuts a stream of bytes into messages.

    >>> reader = MessageReader()
    >>> reader.feed(pack(2, 7, 0, b"/a\\0")[:10])
    >>> reader.next() is None
    True
    >>> reader.feed(pack(2, 7, 0, b"/a\\0")[10:])
    >>> reader.next()
    Message(type=2, req_id=7, tx_id=0, payload=b'/a\\x00')
    """

    __slots__ = ("_at", "_data")

    def __init__(self) -> None:
        self._data = b""
        self._at = 0

    def __len__(self) -> int:
        """Bytes that aren't part of a message taken."""
        return len(self._data) - self._at

    def feed(self, data: bytes) -> None:
        """Add bytes that have come in."""
        self._data = self._data[self._at :] + data if self._at < len(self._data) else data
        self._at = 0

    def next(self) -> Message | None:
        """The next whole message, or None.  Raises ProtocolError for a payload too long."""
        start = self._at
        body = start + HEADER_SIZE
        if len(self._data) < body:
            return None
        type_, req_id, tx_id, length = HEADER.unpack_from(self._data, start)
        if length > XENSTORE_PAYLOAD_MAX:
            raise ProtocolError(f"a payload of {length} bytes")
        end = body + length
        if len(self._data) < end:
            return None
        self._at = end
        return Message(type_, req_id, tx_id, self._data[body:end])

    def ready(self) -> bool:
        """Whether `next` has something to say: a whole message, or that it can't be one."""
        if len(self) < HEADER_SIZE:
            return False
        length: int = HEADER.unpack_from(self._data, self._at)[3]
        return length > XENSTORE_PAYLOAD_MAX or len(self) >= HEADER_SIZE + length

    def rest(self) -> bytes:
        """The bytes that aren't part of a message taken."""
        return self._data[self._at :]

    def clear(self) -> None:
        """Forget a message that has come in part."""
        self._data = b""
        self._at = 0
