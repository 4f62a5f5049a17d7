# SPDX-License-Identifier: GPL-2.0-or-later
"""`vif=` specifications, as xl-network-configuration(5) of Xen 4.17 describes them."""

from __future__ import annotations

import re

import msgspec

from xenograft.backends.net.forward import Forward, ForwardError, parse_forward
from xenograft.toolstack.config.values import nearest, number
from xenograft.toolstack.errors import UserError

_TEXTS = ("bridge", "gatewaydev", "ip", "script", "backend", "vifname", "model")
_KEYS = ("mac", "type", "rate", "devid", "mtu", "netdev", "accel", "forward", *_TEXTS)
_MAC = re.compile(r"[0-9a-fA-F]{1,2}(?::[0-9a-fA-F]{1,2}){5}\Z")
_RATE = re.compile(r"([0-9]{1,10})([GMK]?)([Bb])/s\Z")
_INTERVAL = re.compile(r"([0-9]{1,10})(us|ms|s|)\Z")


class Vif(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One virtual network interface. Empty texts: not given."""

    mac: str = ""
    """Six pairs of lower-case hexadecimal digits with colons."""
    type: str = ""
    bridge: str = ""
    gatewaydev: str = ""
    ip: str = ""
    script: str = ""
    backend: str = ""
    vifname: str = ""
    model: str = ""
    devid: int | None = None
    mtu: int | None = None
    rate_bytes: int = 0
    """Bytes it may send per interval; 0: no limit."""
    rate_interval_us: int = 0
    trusted: bool = True
    forward: tuple[Forward, ...] = ()
    """Ports of the host that lead to the guest: not xl's, for bridges with a user network."""


def parse_rate(text: str) -> tuple[int, int]:
    """(bytes per interval, interval in us) of a rate as "10Mb/s" or "1MB/s@20ms".

    A unit is 1000-based; without interval it's 50 ms.  Raises UserError.
    """
    rate_text, at, interval_text = text.partition("@")
    rate = _RATE.match(rate_text)
    interval = _INTERVAL.match(interval_text) if at else None
    if rate is None or (at and interval is None):
        raise UserError(f"vif: {text[:40]!r} isn't a rate; write it as 10Mb/s or 1MB/s@20ms")
    amount = int(rate[1]) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}[rate[2]]
    per_second = amount // 8 if rate[3] == "b" else amount
    microseconds = 50_000
    if interval is not None:
        # A bare number is in seconds, as xl reads it.
        microseconds = int(interval[1]) * {"us": 1, "ms": 1000, "s": 10**6, "": 10**6}[interval[2]]
    amount = per_second * microseconds // 10**6
    # None at all in an interval would stand for no limit.
    if not amount or microseconds > 0xFFFFFFFF:
        raise UserError(f"vif: the rate {text[:40]!r} is out of range")
    return amount, microseconds


def parse_vif(text: str) -> Vif:
    """One interface; the empty text is one with all defaults. Raises UserError."""

    def error(what: str) -> UserError:
        return UserError(f"vif {text[:80]!r}: {what}")

    texts: dict[str, str] = {}
    numbers: dict[str, int] = {}
    forwards: list[Forward] = []
    trusted = True
    for piece in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = piece.partition("=")
        if not equals:
            if key in _KEYS:
                raise error(f"{key} has no value; write {key}=…")
            if key not in ("trusted", "untrusted"):
                raise error(f"unknown parameter {key[:40]!r}{nearest(key, _KEYS)}")
            trusted = key == "trusted"
        elif key in _TEXTS:
            texts[key] = value
        elif key == "netdev":
            texts["gatewaydev"] = value  # its old name
        elif key == "mac":
            if not _MAC.match(value):
                raise error(f"{value[:40]!r} isn't a MAC address, as 00:16:3e:00:00:01")
            texts["mac"] = ":".join(f"{int(pair, 16):02x}" for pair in value.split(":"))
            if int(texts["mac"][:2], 16) & 1:
                raise error(f"{texts['mac']} is a multicast address")
        elif key == "forward":
            try:
                forwards.append(parse_forward(value))
            except ForwardError as problem:
                raise error(str(problem)) from None
        elif key == "type":
            if value not in ("ioemu", "vif"):
                raise error(f"unknown type {value[:40]!r}; it can be ioemu or vif")
            texts["type"] = value
        elif key == "rate":
            numbers["rate_bytes"], numbers["rate_interval_us"] = parse_rate(value)
        elif key in ("devid", "mtu"):
            numbers[key] = number(value, f"vif {key}")
            # Less than 68 bytes can't carry IPv4 (RFC 791).
            least = 68 if key == "mtu" else 0
            if not least <= numbers[key] <= 65535:
                raise error(f"{key} {numbers[key]} is out of range: {least} to 65535")
        elif key == "accel" or key.startswith("colo") or key == "forwarddev":
            raise error(f"{key} isn't supported")
        else:
            raise error(f"unknown parameter {key[:40]!r}{nearest(key, _KEYS)}")
    return Vif(
        **texts,
        devid=numbers.get("devid"),
        mtu=numbers.get("mtu"),
        rate_bytes=numbers.get("rate_bytes", 0),
        rate_interval_us=numbers.get("rate_interval_us", 0),
        trusted=trusted,
        forward=tuple(forwards),
    )
