# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers, sizes and words."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenograft.toolstack.config.values import nearest, number, one_of, size_mib
from xenograft.toolstack.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("12", 12), ("0x1F", 31), ("017", 15), ("-3", -3), ("+4", 4), (" 5", 5)],
)
def test_numbers(text: str, value: int) -> None:
    assert number(text, "n") == value


@pytest.mark.parametrize("text", ["", "x", "1x", "0x", "1 ", "1.5", "9" * 30, "--1", "0b1"])
def test_no_numbers(text: str) -> None:
    with pytest.raises(UserError, match=r"n: .*isn't a number"):
        number(text, "n")


def test_bad_octal() -> None:
    with pytest.raises(UserError, match="isn't an octal number"):
        number("089", "n")


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        ("256M", 256),
        ("256m", 256),
        ("1G", 1024),
        ("2GiB", 2048),
        ("3 GB", 3072),
        ("1T", 1 << 20),
        ("2048K", 2),
        ("64", 64),
        (64, 64),
        ("0", 0),
    ],
)
def test_sizes(text: str | int, mib: int) -> None:
    assert size_mib(text) == mib


@pytest.mark.parametrize("text", ["", "M", "1.5G", "-1", "1P", "12 34", "1e3", -5])
def test_no_sizes(text: str | int) -> None:
    with pytest.raises(UserError, match=r"memory: .*isn't a size"):
        size_mib(text)


def test_size_of_less_than_a_mib() -> None:
    with pytest.raises(UserError, match="isn't a whole number of MiB"):
        size_mib("1500K")


def test_nearest() -> None:
    assert nearest("memroy", ["memory", "maxmem"]) == "; did you mean memory?"
    assert nearest("xyzzy", ["memory"]) == ""


def test_one_of() -> None:
    assert one_of("pvh", ["pv", "pvh"], "type") == "pvh"
    with pytest.raises(UserError, match="type: 'pvg' is unknown; did you mean pv"):
        one_of("pvg", ["pv", "pvh"], "type")
    with pytest.raises(UserError, match="type: 'zzz' is unknown; it can be pv, pvh"):
        one_of("zzz", ["pv", "pvh"], "type")


@given(st.text())
def test_any_text(text: str) -> None:
    with contextlib.suppress(UserError):
        number(text, "n")
    with contextlib.suppress(UserError):
        assert size_mib(text) >= 0
