# SPDX-License-Identifier: GPL-2.0-or-later
"""Specifications of shared folders, channels, screens and keyboards, and what's wrong in them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenograft.toolstack.config.channel import Channel, parse_channel
from xenograft.toolstack.config.display import Vfb, Vkb, parse_vfb, parse_vkb
from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.config.p9 import P9, parse_p9
from xenograft.toolstack.config.xlcfg import parse_config
from xenograft.toolstack.errors import UserError


@pytest.mark.parametrize(
    ("text", "p9"),
    [
        ("tag=share,path=/srv,security_model=none", P9("share", "/srv")),
        (" path=/srv , tag=t,backend=storage", P9("t", "/srv", backend="storage")),
        ("tag=t,path=/a=b,readonly=1", P9("t", "/a=b", readonly=True)),
    ],
)
def test_p9(text: str, p9: P9) -> None:
    assert parse_p9(text) == p9


@pytest.mark.parametrize(
    ("text", "channel"),
    [
        (
            "connection=socket,path=/run/x,name=org.example.0",
            Channel("org.example.0", "socket", "/run/x"),
        ),
        ("name=p,connection=pty", Channel("p", "pty")),
    ],
)
def test_channel(text: str, channel: Channel) -> None:
    assert parse_channel(text) == channel


@pytest.mark.parametrize(
    ("text", "vfb"),
    [
        ("", Vfb()),
        ("vnc=1,vnclisten=0.0.0.0,vncdisplay=1", Vfb(True, "0.0.0.0", "1")),
        ("sdl=0,keymap=de", Vfb(keymap="de")),
    ],
)
def test_vfb(text: str, vfb: Vfb) -> None:
    assert parse_vfb(text) == vfb


@pytest.mark.parametrize(
    ("text", "vkb"),
    [
        ("", Vkb()),
        ("feature-abs-pointer=0,feature-raw-pointer=1", Vkb(abs_pointer=False, raw_pointer=True)),
        ("id=k,backend-type=linux", Vkb(unique_id="k")),
        (
            "feature-multi-touch=1,multi-touch-width=100,multi-touch-height=200,"
            "multi-touch-num-contacts=5",
            Vkb(multi_touch=True, touch_width=100, touch_height=200, touch_contacts=5),
        ),
    ],
)
def test_vkb(text: str, vkb: Vkb) -> None:
    assert parse_vkb(text) == vkb


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (parse_p9, "path=/srv", "tag= is missing"),
        (parse_p9, "tag=t", "path= is missing"),
        (parse_p9, "tag=t,path=/srv,security_model=mapped", "security_model=mapped"),
        (parse_p9, "tag=t,pth=/srv", "unknown parameter 'pth'; did you mean path?"),
        (parse_p9, "tag=t,tag=u,path=/x", "tag is given twice"),
        (parse_p9, "tag=t,path=/x,readonly=yes", "'yes' is neither 0 nor 1"),
        (parse_p9, "tag=a/b,path=/x", "can't be a tag"),
        (parse_p9, "tag,path=/x", "tag has no value"),
        (parse_channel, "connection=pty", "it needs name="),
        (parse_channel, "name=a b,connection=pty", "it needs name="),
        (parse_channel, "name=n", "connection= is missing"),
        (parse_channel, "name=n,connection=sockt", "did you mean socket?"),
        (parse_channel, "name=n,connection=socket", "needs path="),
        (parse_channel, "name=n,connection=pty,path=/x", "for connection=socket alone"),
        (parse_vfb, "sdl=1", "no window is opened"),
        (parse_vfb, "vnc=maybe", "'maybe' is neither 0 nor 1"),
        (parse_vfb, "vga=1", "unknown parameter"),
        (parse_vkb, "backend-type=xen", "backend-type"),
        (parse_vkb, "width=0", "out of range"),
        (parse_vkb, "feature-multi-touch=1", "needs multi-touch-width="),
    ],
)
def test_errors_are_one_line(parse: object, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text)  # type: ignore[operator]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


CONFIG = """
name = "guest"
type = "pvh"
kernel = "vmlinuz"
p9 = ['tag=share,path=/srv,security_model=none']
channel = ['connection=pty,name=one', 'connection=pty,name=two']
vfb = ['vnc=1']
vkb = ['']
"""


def test_a_file() -> None:
    config, warnings = parse_config(CONFIG)
    assert config.p9 == (P9("share", "/srv"),)
    assert [one.name for one in config.channel] == ["one", "two"]
    assert config.vfb == (Vfb(True),)
    assert config.vkb == (Vkb(),)
    assert warnings == [
        "configuration: vfb: vnc=1 is ignored: there is no VNC server; take screenshots instead"
    ]


def test_names_are_used_once() -> None:
    with pytest.raises(UserError, match="two folders have the same tag"):
        from_options(kernel="k", p9=["tag=t,path=/a", "tag=t,path=/b"])
    with pytest.raises(UserError, match="two channels have the same name"):
        from_options(kernel="k", channel=["name=t,connection=pty"] * 2)


def test_options_add_to_a_file() -> None:
    config, _ = parse_config(CONFIG)
    config = from_options(config, p9=["tag=more,path=/x"], vfb=[""], vkb=[""])
    assert [one.tag for one in config.p9] == ["share", "more"]
    assert (len(config.vfb), len(config.vkb)) == (2, 2)


@settings(deadline=None)
@given(
    st.sampled_from([parse_p9, parse_channel, parse_vfb, parse_vkb]),
    st.one_of(st.text(max_size=60), st.lists(st.text(max_size=8)).map(",tag=".join)),
)
def test_any_text(parse: object, text: str) -> None:
    with contextlib.suppress(UserError):
        parse(text)  # type: ignore[operator]
