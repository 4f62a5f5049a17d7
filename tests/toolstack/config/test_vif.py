# SPDX-License-Identifier: GPL-2.0-or-later
"""Network interface specifications: the examples of xl-network-configuration(5), and errors."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenograft.backends.net.forward import Forward
from xenograft.toolstack.config.vif import Vif, parse_rate, parse_vif
from xenograft.toolstack.errors import UserError


@pytest.mark.parametrize(
    ("text", "vif"),
    [
        ("", Vif()),
        ("mac=00:16:3E:74:34:32", Vif(mac="00:16:3e:74:34:32")),
        (
            "mac=0:16:3E:74:3d:76,model=rtl8139,bridge=xenbr0",
            Vif(mac="00:16:3e:74:3d:76", model="rtl8139", bridge="xenbr0"),
        ),
        ("netdev=eth0", Vif(gatewaydev="eth0")),
        (
            " type=vif, vifname=v0 , ip=10.0.0.2,script=vif-route,backend=net,devid=3,mtu=9000",
            Vif(
                type="vif",
                vifname="v0",
                ip="10.0.0.2",
                script="vif-route",
                backend="net",
                devid=3,
                mtu=9000,
            ),
        ),
        ("untrusted", Vif(trusted=False)),
        (
            "bridge=user,forward=tcp:2222:22,forward=udp:0.0.0.0:53:53",
            Vif(
                bridge="user",
                forward=(Forward("tcp", 2222, 22), Forward("udp", 53, 53, "0.0.0.0")),
            ),
        ),
        ("trusted,rate=1MB/s@20ms", Vif(rate_bytes=20_000, rate_interval_us=20_000)),
    ],
)
def test_values(text: str, vif: Vif) -> None:
    assert parse_vif(text) == vif


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10Mb/s", (62_500, 50_000)),
        ("250KB/s", (12_500, 50_000)),
        ("1MB/s@20ms", (20_000, 20_000)),
        ("8b/s@1s", (1, 1_000_000)),
        ("1GB/s@10us", (10_000, 10)),
        ("5B/s@2", (10, 2_000_000)),
    ],
)
def test_rates(text: str, rate: tuple[int, int]) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mac=00:16:3e:00:00", "isn't a MAC address"),
        ("mac=00:16:3e:00:00:0g", "isn't a MAC address"),
        ("mac=01:00:5e:00:00:01", "is a multicast address"),
        ("type=e1000", "unknown type 'e1000'"),
        ("bridg=x", "unknown parameter 'bridg'; did you mean bridge"),
        ("fast", "unknown parameter 'fast'"),
        ("devid=x", "isn't a number"),
        ("mtu=70000", "mtu 70000 is out of range: 68 to 65535"),
        ("mtu=67", "mtu 67 is out of range: 68 to 65535"),
        ("rate=fast", "isn't a rate"),
        ("rate=1MB/s@", "isn't a rate|out of range"),
        ("rate=0B/s", "out of range"),
        ("rate=1B/s@1us", "out of range"),
        ("rate=10MB/s@0", "out of range"),
        ("mac", "mac has no value; write mac="),
        ("rate=1B/s@99999s", "out of range"),
        ("accel=x", "accel isn't supported"),
        ("colo_compare_out=x", "isn't supported"),
    ],
)
def test_errors(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        parse_vif(text)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=80))
def test_any_text(text: str) -> None:
    with contextlib.suppress(UserError):
        parse_vif(text)


WORDS = "mac= rate= mtu= 1 MB/s @ 20 ms , , : 00 trusted type= vif x= ="


@given(st.lists(st.sampled_from(WORDS.split())).map("".join))
def test_anything_like_a_vif(text: str) -> None:
    with contextlib.suppress(UserError):
        parse_vif(text)
