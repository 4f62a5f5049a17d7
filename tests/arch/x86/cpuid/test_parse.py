# SPDX-License-Identifier: GPL-2.0-or-later
"""The two syntaxes of cpuid=."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenograft.arch.x86.cpuid.features import BY_NAME
from xenograft.arch.x86.cpuid.parse import CpuidSyntaxError, parse, parse_libxl, parse_xend
from xenograft.arch.x86.cpuid.policy import Edit


def only(position: int, wish: str) -> str:
    return "-" * (31 - position) + wish + "-" * position


def test_the_example_of_the_manual_in_both_syntaxes() -> None:
    assert parse("host,tm=0,sse3=0") == [
        Edit(1, -1, 3, only(29, "0")),
        Edit(1, -1, 2, only(0, "0")),
    ]
    line = "1:ecx=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx0,edx=xx0xxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
    assert parse([line]) == [
        Edit(1, -1, 2, "x" * 31 + "0"),
        Edit(1, -1, 3, "xx0" + "x" * 29),
    ]


def test_nothing_asked_for() -> None:
    assert parse("host") == []
    assert parse("host, ") == []
    assert parse([]) == []


def test_features_by_every_name() -> None:
    for name, feature in BY_NAME.items():
        if name == "clflush":
            continue  # libxl takes it for the size of a cache line
        (edit,) = parse_libxl(f"host,{name}=1")
        assert edit[:3] == (feature.word.leaf, feature.word.subleaf, feature.word.register)
        assert edit.bits == only(feature.bit, "1")


@pytest.mark.parametrize(
    ("item", "edit"),
    [
        ("smap=k", Edit(7, 0, 1, only(20, "k"))),
        ("smap=s", Edit(7, 0, 1, only(20, "k"))),
        ("rdcl-no=1", Edit(0x10A, -1, 0, only(0, "1"))),
        ("its-no=1", Edit(0x10A, -1, 3, only(30, "1"))),
        ("clfsh=0", Edit(1, -1, 3, only(19, "0"))),
        ("clflush=8", Edit(1, -1, 1, "-" * 16 + "00001000" + "-" * 8)),
        ("maxleaf=0xd", Edit(0, -1, 0, f"{13:032b}")),
        ("procpkg=3", Edit(4, 0, 0, "000011" + "-" * 26)),
        ("nc=7", Edit(0x80000008, -1, 2, "-" * 24 + "00000111")),
        ("family=6", Edit(1, -1, 0, "----00000000--------0110--------")),
        ("family=23", Edit(1, -1, 0, "----00001000--------1111--------")),
        ("family=x", Edit(1, -1, 0, "----xxxxxxxx--------xxxx--------")),
        ("model=0x1a", Edit(1, -1, 0, "------------0001--------1010----")),
        ("model=k", Edit(1, -1, 0, "------------kkkk--------kkkk----")),
        ("stepping=k", Edit(1, -1, 0, "-" * 28 + "kkkk")),
        ("ia64=0", Edit(1, -1, 3, only(30, "0"))),
    ],
)
def test_keys_of_libxl(item: str, edit: Edit) -> None:
    assert parse_libxl(f"host,{item}") == [edit]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("sse3=0", 'must start with "host"'),
        ("", 'must start with "host"'),
        ("host,sse3", '"sse3" has no value'),
        ("host,sse3=2", "0, 1, x, k or s"),
        ("host,sse3=", "0, 1, x, k or s"),
        ("host,ssse4=1", 'no feature "ssse4"; did you mean "ssse3"?'),
        ("host,lahflm=1", 'did you mean "lahf-lm"?'),
        ("host,qqqqqqqq=1", 'no feature "qqqqqqqq"'),
        ("host,family=abc", "takes a number"),
        ("host,family=300", "out of range (0 to 270)"),
        ("host,stepping=16", "out of range (0 to 15)"),
        ("host,nc=-1", "out of range"),
    ],
)
def test_errors_of_libxl_syntax(option: str, message: str) -> None:
    with pytest.raises(CpuidSyntaxError) as raised:
        parse(option)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_leaves_of_xend_syntax() -> None:
    bits = "01xks" + "x" * 27
    assert parse_xend(f"0x80000001:eax={bits}") == [Edit(0x80000001, -1, 0, "01xkk" + "x" * 27)]
    assert parse_xend(f"7,0: ebx={bits}, edx={bits}") == [
        Edit(7, 0, 1, "01xkk" + "x" * 27),
        Edit(7, 0, 3, "01xkk" + "x" * 27),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1", 'no ":"'),
        ("x:eax=0", '"x" is no leaf number'),
        ("1,2,3:eax=0", "leaf,subleaf"),
        ("0x100000000:eax=0", "leaf,subleaf"),
        ("1:efx=0", '"efx" is no register'),
        ("7:ebx=" + "x" * 32, "leaf 0x7 has sub-leaves; write 0x7,0:"),
        ("0x30:eax=" + "x" * 32, "guests have no leaf 0x30"),
        ("0x40000004:eax=" + "x" * 32, "guests have no leaf 0x40000004"),
        ("1:", '"" is no register'),
        ("1:eax=01", "needs 32 characters, not 2"),
        ("1:eax=" + "2" * 32, '"2" in eax of leaf 0x1'),
    ],
)
def test_errors_of_xend_syntax(line: str, message: str) -> None:
    with pytest.raises(CpuidSyntaxError) as raised:
        parse([line])
    assert message in str(raised.value)


def test_a_list_may_hold_both_syntaxes() -> None:
    edits = parse(["host,sse3=0", "1:ecx=" + "x" * 32])
    assert len(edits) == 2


@given(st.text() | st.text("host,=:0x1eabcdks-"))
def test_any_text_is_read_or_refused_with_one_line(text: str) -> None:
    for option in (text, [text], "host," + text):
        try:
            edits = parse(option)
        except CpuidSyntaxError as error:
            message, edits = str(error), []
        else:
            message = "cpuid: "
        assert message.startswith("cpuid: ")
        assert all(len(edit.bits) == 32 for edit in edits)
