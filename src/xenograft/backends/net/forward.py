# SPDX-License-Identifier: GPL-2.0-or-later
"""Ports of the host that lead to a guest on a user network: how they're written down.

``tcp:2222:22`` is the host's 127.0.0.1:2222 for the guest's port 22; ``tcp:0.0.0.0:80:8080``
listens for the whole world.
"""

from __future__ import annotations

import ipaddress

import msgspec

LOOPBACK = "127.0.0.1"
PROTOCOLS = ("tcp", "udp")
_PORT_DIGITS = 5


class ForwardError(Exception):
    """A port can't be forwarded: one line."""


class Forward(msgspec.Struct, frozen=True):
    """A port of the host that leads to a port of the guest."""

    protocol: str
    """tcp or udp."""
    host_port: int
    """0: any that is free; `UserNetwork.forwards` says which it became."""
    guest_port: int
    host_address: str = LOOPBACK

    def __str__(self) -> str:
        return f"{self.protocol}:{self.host_address}:{self.host_port}:{self.guest_port}"


def parse_forward(text: str) -> Forward:
    """``PROTOCOL:[HOST_ADDRESS:]HOST_PORT:GUEST_PORT``.  Raises ForwardError."""
    parts = text.strip().split(":")
    if len(parts) not in (3, 4) or parts[0] not in PROTOCOLS:
        raise ForwardError(
            f"{text[:40]!r} isn't a port forward; write it as tcp:2222:22 or udp:0.0.0.0:53:53"
        )
    address = LOOPBACK
    if len(parts) == 4:
        try:
            address = str(ipaddress.IPv4Address(parts[1]))
        except ValueError:
            raise ForwardError(f"{parts[1][:40]!r} isn't an IPv4 address of the host") from None
    host_port, guest_port = (_port(part) for part in parts[-2:])
    if not guest_port:
        raise ForwardError(f"{text[:40]!r}: the guest's port can't be 0")
    return Forward(parts[0], host_port, guest_port, address)


def parse_forwards(text: str) -> tuple[Forward, ...]:
    """Forwards with blanks between them, as in the store.  Raises ForwardError."""
    return tuple(parse_forward(word) for word in text.split())


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _PORT_DIGITS):
        raise ForwardError(f"{text[:40]!r} isn't a port number")
    if int(text) > 0xFFFF:
        raise ForwardError(f"port {text} is out of range (0 to 65535)")
    return int(text)
