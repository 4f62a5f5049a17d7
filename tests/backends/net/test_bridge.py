# SPDX-License-Identifier: GPL-2.0-or-later
"""Bridges and forwards as they're written down, and networks made from them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backends.net.support import Plug
from xenograft.backends.net.bridge import Bridge, BridgeError, parse_bridge
from xenograft.backends.net.forward import Forward, ForwardError, parse_forward, parse_forwards
from xenograft.backends.net.networks import NetworkError, Networks
from xenograft.backends.net.switch import Port


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lan", Bridge("lan")),
        (" lan , mtu=9000 ", Bridge("lan", 9000)),
        ("lan,uplink=none", Bridge("lan")),
        ("nat,uplink=user", Bridge("nat", uplink="user")),
        ("nat,uplink=user,restrict", Bridge("nat", uplink="user", restricted=True)),
        ("out,uplink=tap:tap0,mtu=1400", Bridge("out", 1400, "tap", "tap0")),
    ],
)
def test_bridges(text: str, expected: Bridge) -> None:
    assert parse_bridge(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "can't be a bridge's name"),
        ("a/b", "can't be a bridge's name"),
        ("a" * 16, "can't be a bridge's name"),
        ("lan,mtu=", "isn't an MTU"),
        ("lan,mtu=9k", "isn't an MTU"),
        ("lan,mtu=67", "it can be 68 to 65535"),
        ("lan,mtu=65536", "it can be 68 to 65535"),
        ("lan,uplink=vde", "it can be none, user or tap:INTERFACE"),
        ("lan,uplink=tap", "it can be none, user or tap:INTERFACE"),
        ("lan,uplink=tap:", "it can be none, user or tap:INTERFACE"),
        ("lan,uplink=user:x", "it can be none, user or tap:INTERFACE"),
        ("lan,uplink=tap:a/b", "can't be an interface's name"),
        ("lan,stp=on", "unknown parameter 'stp=on'; there are mtu"),
        ("lan,restrict", "restrict is for bridges with uplink=user"),
    ],
)
def test_bridges_that_make_no_sense(text: str, message: str) -> None:
    with pytest.raises(BridgeError, match=message):
        parse_bridge(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tcp:2222:22", Forward("tcp", 2222, 22)),
        ("udp:0.0.0.0:53:5353", Forward("udp", 53, 5353, "0.0.0.0")),
        ("tcp:0:80", Forward("tcp", 0, 80)),
    ],
)
def test_forwards(text: str, expected: Forward) -> None:
    assert parse_forward(text) == expected
    assert parse_forward(str(expected)) == expected
    assert parse_forwards(f" {text}  {text}\n") == (expected, expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2222:22", "isn't a port forward; write it as"),
        ("sctp:1:2", "isn't a port forward"),
        ("tcp:1:2:3:4", "isn't a port forward"),
        ("tcp:x:22", "'x' isn't a port number"),
        ("tcp:1:", "'' isn't a port number"),
        ("tcp:-1:22", "'-1' isn't a port number"),
        ("tcp:65536:22", "out of range"),
        ("tcp:2222:0", "guest's port can't be 0"),
        ("tcp:localhost:1:2", "isn't an IPv4 address"),
        ("tcp:\N{SUPERSCRIPT TWO}:2", "isn't a port number"),
    ],
)
def test_forwards_that_make_no_sense(text: str, message: str) -> None:
    with pytest.raises(ForwardError, match=message):
        parse_forward(text)


@given(st.text(max_size=60))
def test_any_text_is_a_bridge_or_an_error(text: str) -> None:
    parsers: tuple[tuple[Callable[[str], object], type[Exception]], ...] = (
        (parse_bridge, BridgeError),
        (parse_forward, ForwardError),
    )
    for parse, error in parsers:
        with contextlib.suppress(error):
            parse(text)


class Outside:
    """Opens uplinks that are plugs."""

    def __init__(self) -> None:
        self.opened: list[Bridge] = []
        self.closed: list[str] = []

    def __call__(self, bridge: Bridge, /) -> tuple[Port, Callable[[], None]]:
        if bridge.tap == "bad":
            raise NetworkError("bridge x: no such tap")
        self.opened.append(bridge)
        return Plug(f"{bridge.name}-up"), lambda: self.closed.append(bridge.name)


def test_predefined_bridges_are_made_when_they_are_wanted() -> None:
    outside = Outside()
    networks = Networks(lambda: 0, uplink=outside)
    assert list(networks.switches) == ["xenbr0"]
    switch = networks.get("user")
    assert networks.get("user") is switch
    assert outside.opened == [Bridge("user", uplink="user")]
    assert [port.name for port in networks.uplinks("user")] == ["user-up"]
    assert networks.user_network("user") is None  # a plug is none
    networks.close()
    assert outside.closed == ["user"]


def test_bridges_with_uplinks() -> None:
    outside = Outside()
    networks = Networks(lambda: 0, uplink=outside)
    networks.define(parse_bridge("lan,mtu=9000,uplink=tap:tap0"))
    assert networks.get("lan").mtu == 9000
    assert len(networks.get("lan").ports) == 1
    with pytest.raises(NetworkError, match="there is a bridge lan already"):
        networks.define(Bridge("lan"))
    with pytest.raises(NetworkError, match="no such tap"):
        networks.define(parse_bridge("lost,uplink=tap:bad"))
    with pytest.raises(NetworkError, match="no bridge 'lost'; there is lan, user, xenbr0"):
        networks.get("lost")


def test_a_machine_without_a_way_to_the_outside() -> None:
    networks = Networks(lambda: 0)
    with pytest.raises(NetworkError, match="there's no way to the outside here"):
        networks.define(parse_bridge("lan,uplink=user"))
    with pytest.raises(NetworkError, match="no bridge 'user'; there is xenbr0"):
        networks.get("user")
