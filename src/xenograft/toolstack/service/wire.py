# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages on the service's socket: a length (4 bytes, little-endian), then MessagePack.

A client sends one request and waits for its reply.  After a request that opens a stream
(`AttachConsole`) and its good reply the connection carries bare bytes, both ways.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

import msgspec

from xenograft.toolstack.service.messages import Reply, Request

LENGTH = struct.Struct("<I")
MAX_MESSAGE = 16 << 20
"""Bytes of one message at most; whoever announces more is hung up on."""

_encoder = msgspec.msgpack.Encoder()


class WireError(Exception):
    """The other end has gone, or doesn't speak this protocol."""


def pack(message: msgspec.Struct) -> bytes:
    """A message as it goes over the socket."""
    data = _encoder.encode(message)
    return LENGTH.pack(len(data)) + data


def encode(value: Any) -> msgspec.Raw:
    """A result, to be put into a reply."""
    return msgspec.Raw(_encoder.encode(value))


def receive_reply(sock: socket.socket) -> Reply:
    """Wait for a reply.  Raises WireError."""
    (size,) = LENGTH.unpack(_receive(sock, LENGTH.size))
    if size > MAX_MESSAGE:
        raise WireError(f"a message of {size} bytes")
    try:
        return msgspec.msgpack.decode(_receive(sock, size), type=Reply)
    except msgspec.MsgspecError as error:
        raise WireError(str(error)) from None


def _receive(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        try:
            piece = sock.recv(size - len(data))
        except OSError as error:
            raise WireError(error.strerror or str(error)) from None
        if not piece:
            raise WireError("the service hung up")
        data += piece
    return bytes(data)


def request_decoder() -> msgspec.msgpack.Decoder[Request[Any]]:
    """Reads any of the known requests; raises msgspec.MsgspecError for all else."""
    union: Any = None
    for kind in Request.known:
        union = kind if union is None else union | kind
    return msgspec.msgpack.Decoder(union)
