# SPDX-License-Identifier: GPL-2.0-or-later
"""`channel=` specifications: further consoles with a name (xl.cfg(5) of Xen 4.17)."""

from __future__ import annotations

import re
from typing import Literal, cast

import msgspec

from xenograft.toolstack.config.pairs import pairs
from xenograft.toolstack.config.values import one_of
from xenograft.toolstack.errors import UserError

_KEYS = ("connection", "name", "path", "backend")
_NAME = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")
Connection = Literal["socket", "pty"]


class Channel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One channel."""

    name: str
    connection: Connection
    path: str = ""
    """Where its socket is made; empty for a pty."""
    backend: str = ""


def parse_channel(text: str) -> Channel:
    """One channel: ``connection=socket,path=/run/x,name=org.example.0``.  Raises UserError."""
    values = pairs("channel", text, _KEYS)
    name, path = values.get("name", ""), values.get("path", "")
    if not _NAME.match(name):
        raise UserError(
            f"channel {text[:80]!r}: it needs name=, of up to 64 letters, digits and . _ : -"
        )
    what = f"channel {name}"
    if "connection" not in values:
        raise UserError(f"{what}: connection= is missing; it can be socket or pty")
    connection = one_of(values["connection"], ("socket", "pty"), f"{what}: connection")
    if connection == "socket" and not path:
        raise UserError(f"{what}: connection=socket needs path=, where the socket is made")
    if connection == "pty" and path:
        raise UserError(f"{what}: path= is for connection=socket alone")
    return Channel(name, cast(Connection, connection), path, values.get("backend", ""))
