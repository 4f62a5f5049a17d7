# SPDX-License-Identifier: GPL-2.0-or-later
r"""The grammar of xl.cfg files, apart from what the keys mean.

::

    file:       { [assignment] (NEWLINE | ";") } [assignment]
    assignment: IDENT ("=" | "+=") value
    value:      STRING | NUMBER | "[" [value {"," value} [","]] "]"

Newlines may stand wherever a list's item may end; ``#`` begins a comment; strings have either
quote and C's escapes.  Numbers stay text, since what they mean is the key's business.  As in
xl, a later assignment replaces an earlier one, and ``+=`` appends to a string or list.

Source: xl.cfg(5), section "Syntax", and the behaviour of Xen 4.17's libxlutil (libxlu_cfg).
The grammar has two rules, so it is recognised by hand: a parser generator would cost `xg list`
50 ms of import time, a quarter of what it may take.  The tests compare it with a generated one.
"""

from __future__ import annotations

import re

import msgspec

from xenograft.toolstack.errors import UserError

Value = str | list["Value"]

MAX_SIZE = 1 << 20
"""Characters of a configuration at most."""
_MAX_DEPTH = 16


class Setting(msgspec.Struct, frozen=True):
    """What a key was set to, and where."""

    value: Value
    line: int
    appended: bool
    """Whether `+=` was used (numbers can't be appended to)."""


_TOKEN = re.compile(
    r"""[ \t]+
    | (?P<newline>\r?\n|\#[^\n]*(?:\n|\Z))
    | (?P<ident>[a-z][._0-9a-z]*)
    | (?P<number>[0-9][0-9a-fx]*)
    | (?P<string>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")
    | (?P<mark>\+=|[][=,;])
    """,
    re.VERBOSE,
)

_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
_ESCAPES = {
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "\\": "\\",
    "'": "'",
    '"': '"',
}


class _Token(msgspec.Struct, frozen=True):
    kind: str
    text: str
    line: int


class _Parser:
    def __init__(self, text: str, source: str) -> None:
        self._source = source
        self._tokens = self._scan(text)
        self._next = 0

    def _error(self, line: int, what: str) -> UserError:
        return UserError(f"{self._source}:{line}: {what}")

    def _scan(self, text: str) -> list[_Token]:
        tokens = []
        line = 1
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise self._error(line, self._bad_character(text, at))
            at = match.end()
            kind = match.lastgroup
            if kind is not None:
                tokens.append(_Token(kind, match.group(), line))
            line += match.group().count("\n")
        tokens.append(_Token("end", "", line))
        return tokens

    @staticmethod
    def _bad_character(text: str, at: int) -> str:
        character = text[at]
        if character in "'\"":
            return "a string isn't closed on its line"
        if character in "+-.():{}":
            return (
                f"unexpected {character!r}; a value is a string, a number or a list"
                " (Python, as in the times of xm, isn't run)"
            )
        if character == "\\":
            return "unexpected '\\'; lines are continued inside [ ] alone"
        if character.isupper():
            return f"unexpected {character!r}; keys are in lower case, strings in quotes"
        return f"unexpected {character!r}"

    def _take(self) -> _Token:
        token = self._tokens[self._next]
        self._next += token.kind != "end"
        return token

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _found(self, token: _Token) -> str:
        names = {"newline": "the end of the line", "end": "the end of the file"}
        return names.get(token.kind, token.text[:40])

    def file(self) -> dict[str, Setting]:
        settings: dict[str, Setting] = {}
        while (token := self._take()).kind != "end":
            if token.kind == "newline" or token.text == ";":
                continue
            if token.kind != "ident":
                raise self._error(token.line, f"a key is expected here, not {self._found(token)}")
            self._assignment(token, settings)
            after = self._peek()
            if after.kind not in ("newline", "end") and after.text != ";":
                raise self._error(
                    after.line,
                    f"{self._found(after)} follows the value of {token.text};"
                    " settings are separated by newlines or ';'",
                )
        return settings

    def _assignment(self, key: _Token, settings: dict[str, Setting]) -> None:
        mark = self._take()
        if mark.text not in ("=", "+="):
            raise self._error(
                mark.line, f"'=' is expected after {key.text}, not {self._found(mark)}"
            )
        value = self._value(0)
        old = settings.get(key.text)
        appended = mark.text == "+="
        if appended and old is not None:
            if isinstance(value, list) and isinstance(old.value, list):
                value = [*old.value, *value]
            elif isinstance(value, str) and isinstance(old.value, str):
                value = old.value + value
            else:
                raise self._error(
                    key.line, f"{key.text}: a list and a string can't be added to each other"
                )
        settings[key.text] = Setting(value, key.line, appended)

    def _value(self, depth: int) -> Value:
        token = self._take()
        if token.kind == "number":
            return token.text
        if token.kind == "string":
            return self._unquote(token)
        if token.text != "[":
            hint = "; strings need quotes" if token.kind == "ident" else ""
            raise self._error(token.line, f"a value is expected, not {self._found(token)}{hint}")
        if depth == _MAX_DEPTH:
            raise self._error(token.line, f"lists are nested more than {_MAX_DEPTH} deep")
        items: list[Value] = []
        while True:
            self._skip_newlines()
            if self._peek().text == "]":
                break
            items.append(self._value(depth + 1))
            self._skip_newlines()
            if self._peek().text != ",":
                break
            self._take()
        close = self._take()
        if close.text != "]":
            raise self._error(
                close.line, f"',' or ']' is expected in a list, not {self._found(close)}"
            )
        return items

    def _skip_newlines(self) -> None:
        while self._peek().kind == "newline":
            self._take()

    def _unquote(self, token: _Token) -> str:
        def replace(match: re.Match[str]) -> str:
            code = match.group(1)
            if code[0] == "x" and len(code) > 1:
                return chr(int(code[1:], 16))
            if code[0] in "01234567":
                return chr(int(code, 8) & 0xFF)
            if code not in _ESCAPES:
                raise self._error(token.line, f"\\{code} is no escape; a backslash is written \\\\")
            return _ESCAPES[code]

        text = _ESCAPE.sub(replace, token.text[1:-1])
        if "\0" in text:
            raise self._error(token.line, "a string can't hold a NUL character")
        return text


def parse_settings(text: str, source: str = "configuration") -> dict[str, Setting]:
    """The settings of a configuration by key, in order; `source` stands in the messages.

    Raises UserError ("source:line: …") at the first thing that isn't in the grammar.
    """
    if len(text) > MAX_SIZE:
        raise UserError(f"{source}: {len(text)} characters are too many for a configuration")
    return _Parser(text, source).file()
