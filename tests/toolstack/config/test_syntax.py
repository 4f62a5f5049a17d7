# SPDX-License-Identifier: GPL-2.0-or-later
"""The grammar of xl.cfg: examples, messages, and agreement with a generated parser."""

from __future__ import annotations

import contextlib
from typing import Any

import lark
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenograft.toolstack.config.syntax import MAX_SIZE, Value, parse_settings
from xenograft.toolstack.errors import UserError


def values(text: str) -> dict[str, Value]:
    return {name: setting.value for name, setting in parse_settings(text, "x.cfg").items()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("\n\n ; ;\n", {}),
        ("# nothing\n   # more", {}),
        ("a=1", {"a": "1"}),
        ("a = 0x1f # why\r\nb=017\n", {"a": "0x1f", "b": "017"}),
        ("name=\"h0\"; type='hvm'", {"name": "h0", "type": "hvm"}),
        ("a='it''", None),
        ('a=\'say "x"\'\nb="it\'s"', {"a": 'say "x"', "b": "it's"}),
        (r"""a="q\"\\\t\x41\101\'" """, {"a": "q\"\\\tAA'"}),
        ("a=[]\nb=[ ]\nc=[\n\n]", {"a": [], "b": [], "c": []}),
        ("a=[1,'b',]", {"a": ["1", "b"]}),
        ("a=[\n 'x', # one\n\n 'y'\n ,\n 'z'\n]\n", {"a": ["x", "y", "z"]}),
        ("a=[['p=0',\n 's=1'],[],[[2]]]", {"a": [["p=0", "s=1"], [], [["2"]]]}),
        ("a='x'\na+='y'\na += 'z'", {"a": "xyz"}),
        ("a=['x']\na+=['y',['z']]", {"a": ["x", "y", ["z"]]}),
        ("a+='x'", {"a": "x"}),
        ("a=1\na=2", {"a": "2"}),
        ("device.x_1=3", {"device.x_1": "3"}),
        ("a='#;[]='", {"a": "#;[]="}),
        ("a='\u00fc\udcff'", {"a": "\u00fc\udcff"}),
    ],
)
def test_values(text: str, expected: dict[str, Value] | None) -> None:
    if expected is None:
        with pytest.raises(UserError):
            values(text)
    else:
        assert values(text) == expected


def test_lines_and_appending_are_remembered() -> None:
    settings = parse_settings("\n# c\na=1\nb=[\n1,\n2]\nc+='x'")
    assert [(s.line, s.appended) for s in settings.values()] == [(3, False), (4, False), (7, True)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a", "x.cfg:1: '=' is expected after a, not the end of the file"),
        ("\na=\nb=1", "x.cfg:2: a value is expected, not the end of the line"),
        ("a=b", "x.cfg:1: a value is expected, not b; strings need quotes"),
        ("a=1 b=2", "x.cfg:1: b follows the value of a; settings are separated by newlines"),
        ("a=[1 2]", "x.cfg:1: ',' or ']' is expected in a list, not 2"),
        ("a=[1,\n\n", "x.cfg:3: a value is expected, not the end of the file"),
        ("a=[,]", "x.cfg:1: a value is expected, not ,"),
        ("a=[1", "x.cfg:1: ',' or ']' is expected in a list, not the end of the file"),
        ("=1", "x.cfg:1: a key is expected here, not ="),
        ("1=1", "x.cfg:1: a key is expected here, not 1"),
        ("a='x\n'", "x.cfg:1: a string isn't closed on its line"),
        ('\n\na="x', "x.cfg:3: a string isn't closed on its line"),
        ("a=-1", "x.cfg:1: unexpected '-'; a value is a string, a number or a list"),
        ("import os\n", "x.cfg:1: '=' is expected after import, not os"),
        ("def f", "x.cfg:1: '=' is expected after def, not f"),
        ("a=f(1)", "x.cfg:1: unexpected '('; a value is a string, a number or a list (Python"),
        ("a=1 \\\n", "x.cfg:1: unexpected '\\'; lines are continued inside"),
        ("Name='x'", "x.cfg:1: unexpected 'N'; keys are in lower case"),
        ("a=1\n\x00", r"x.cfg:2: unexpected '\x00'"),
        (r"a='\q'", r"x.cfg:1: \q is no escape"),
        (r"a='\0'", "x.cfg:1: a string can't hold a NUL"),
        ("a='x'\na+=[1]", "x.cfg:2: a: a list and a string can't be added"),
        ("a=" + "[" * 17, "x.cfg:1: lists are nested more than 16 deep"),
        ("a=" + "[" * 100_000, "nested more than"),
        ("#" * (MAX_SIZE + 1), "are too many for a configuration"),
    ],
)
def test_errors(text: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        values(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


# The grammar once more, for a parser generator: Xen's libxlu_cfg_l.l and libxlu_cfg_y.y give
# the tokens and rules.
GRAMMAR = r"""
    file: stmt* assignment?
    stmt: assignment end | end
    end: NEWLINE | ";"
    assignment: IDENT (EQUALS | PLUS) value
    ?value: atom | list
    atom: STRING | NUMBER
    list: "[" nlok [value nlok ("," nlok value nlok)* ["," nlok]] "]"
    nlok: NEWLINE*
    EQUALS: "="
    PLUS: "+="
    IDENT: /[a-z][._0-9a-z]*/
    NUMBER: /[0-9][0-9a-fx]*/
    STRING: /'([^'\\\n]|\\.)*'|"([^"\\\n]|\\.)*"/
    NEWLINE: /\r?\n|#[^\n]*(\n|$)/
    %ignore /[ \t]+/
"""
GENERATED = lark.Lark(GRAMMAR, start="file", parser="lalr")


def generated(text: str) -> dict[str, Any]:
    """What the generated parser makes of a text without escapes and appending."""

    def convert(node: Any) -> Any:
        if node.data == "atom":
            token = node.children[0]
            return token[1:-1] if token.type == "STRING" else str(token)
        return [convert(c) for c in node.children if c is not None and c.data != "nlok"]

    found: dict[str, Any] = {}
    for node in GENERATED.parse(text).iter_subtrees_topdown():
        if node.data == "assignment":
            found.setdefault(str(node.children[0]), []).append(convert(node.children[2]))
    return {name: every[-1] for name, every in found.items()}


WORDS = """a b key 12 0x1f = [ ] , ; 'x' "y" # '[' 'a=b,c' +="""
PIECES = st.sampled_from([*WORDS.split(), "\n", " ", "# c\n", "a=1\n"])


@given(st.lists(PIECES, max_size=14).map("".join))
def test_agrees_with_a_generated_parser(text: str) -> None:
    text = text.replace("+=", "=")
    try:
        expected = generated(text)
    except lark.exceptions.LarkError:
        with pytest.raises(UserError):
            values(text)
    else:
        assert values(text) == expected


VALUES = st.recursive(
    st.text(st.characters(exclude_characters="\\'\n\0", codec="utf-8"), max_size=20),
    lambda items: st.lists(items, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.from_regex(r"[a-z][._0-9a-z]{0,9}", fullmatch=True), VALUES))
def test_what_is_written_is_read(settings: dict[str, Value]) -> None:
    def write(value: Value) -> str:
        if isinstance(value, str):
            return f"'{value}'"
        return "[\n" + "".join(f" {write(item)},\n" for item in value) + "]"

    text = "\n".join(f"{name} = {write(value)}" for name, value in settings.items())
    assert values(text) == settings


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(UserError):
        parse_settings(text)


@given(st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=30).map("".join))
def test_anything_like_a_configuration_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(UserError):
        parse_settings(text)
