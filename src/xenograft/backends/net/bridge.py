# SPDX-License-Identifier: GPL-2.0-or-later
"""Bridges as they're written down: ``lan``, ``lan,mtu=9000``, ``lan,uplink=user``.

What an administrator of a real domain 0 makes with brctl and ip, a machine of ours is told by
such a line per bridge.
"""

from __future__ import annotations

import re

import msgspec

from xenograft.backends.net.switch import MTU_MAX

MTU_MIN = 68
"""The least that IPv4 can do with (RFC 791)."""

DEFAULT_MTU = 1500
USER = "user"
TAP = "tap"
UPLINKS = ("none", USER, TAP)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}\Z")
_KEYS = ("mtu", "uplink", "restrict")


class BridgeError(Exception):
    """A line makes no sense, or a bridge can't be had: one line."""


class Bridge(msgspec.Struct, frozen=True):
    """A bridge to be made."""

    name: str
    mtu: int = DEFAULT_MTU
    uplink: str = "none"
    """What else is plugged in: none, user (the host's network, by NAT) or tap."""
    tap: str = ""
    """The tap interface of the host."""
    restricted: bool = False
    """With `user`: guests reach nothing outside; forwarded ports still lead to them."""


def parse_bridge(text: str) -> Bridge:
    """``NAME[,mtu=N][,uplink=none|user|tap:INTERFACE][,restrict]``.  Raises BridgeError."""
    name, *pieces = [piece.strip() for piece in text.split(",")]
    if not _NAME.match(name):
        raise BridgeError(f"{name[:40]!r} can't be a bridge's name (1 to 15 letters and digits)")
    mtu, uplink, tap, restricted = DEFAULT_MTU, "none", "", False
    for piece in pieces:
        key, equals, value = piece.partition("=")
        if key == "mtu" and equals:
            if not (value.isascii() and value.isdigit() and len(value) <= 6):
                raise BridgeError(f"bridge {name}: {value[:40]!r} isn't an MTU")
            mtu = int(value)
            if not MTU_MIN <= mtu <= MTU_MAX:
                raise BridgeError(
                    f"bridge {name}: an MTU of {mtu}; it can be {MTU_MIN} to {MTU_MAX}"
                )
        elif key == "uplink" and equals:
            uplink, colon, tap = value.partition(":")
            if uplink not in UPLINKS or bool(colon and tap) is not (uplink == TAP):
                raise BridgeError(
                    f"bridge {name}: uplink {value[:40]!r} is unknown; it can be none, user or"
                    " tap:INTERFACE"
                )
            if tap and not _NAME.match(tap):
                raise BridgeError(f"bridge {name}: {tap[:40]!r} can't be an interface's name")
        elif piece == "restrict":
            restricted = True
        else:
            raise BridgeError(
                f"bridge {name}: unknown parameter {piece[:40]!r}; there are {', '.join(_KEYS)}"
            )
    if restricted and uplink != USER:
        raise BridgeError(f"bridge {name}: restrict is for bridges with uplink=user")
    return Bridge(name, mtu, uplink, tap, restricted)


PREDEFINED = {
    "xenbr0": Bridge("xenbr0"),
    USER: Bridge(USER, uplink=USER),
}
"""Bridges that there are without being made: the usual one, and one with the host's network."""
