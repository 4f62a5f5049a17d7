# SPDX-License-Identifier: GPL-2.0-or-later
"""Permissions: who may read and write what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenograft.abi.errno import Errno, XenError
from xenograft.store.perms import NONE, READ, WRITE, Perms, Who

BOTH = READ | WRITE
ENTRIES = st.lists(st.tuples(st.integers(0, 65535), st.integers(0, 3)), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("words", "who", "granted"),
    [
        (["n0"], Who(0), BOTH),
        (["n0"], Who(1), NONE),
        (["n1"], Who(1), BOTH),
        (["r1"], Who(2), READ),
        (["w1"], Who(2), WRITE),
        (["b1"], Who(2), BOTH),
        (["n1", "r2"], Who(2), READ),
        (["n1", "r2"], Who(3), NONE),
        (["b1", "n2"], Who(2), NONE),  # an entry of one's own goes before the default
        (["n1", "r2", "b2"], Who(2), READ),  # the first entry counts
        (["n1"], Who(2, target=1), BOTH),
        (["n3", "r1"], Who(2, target=1), READ),
        (["n3", "r1", "w2"], Who(2, target=1), BOTH),
        (["n3"], Who(2, target=0), BOTH),
    ],
)
def test_allow(words: list[str], who: Who, granted: int) -> None:
    perms = Perms.parse(words)
    assert [perms.allow(who, access) for access in (READ, WRITE, BOTH)] == [
        bool(granted & READ),
        bool(granted & WRITE),
        granted == BOTH,
    ]


@given(entries=ENTRIES)
def test_words_round_trip(entries: list[tuple[int, int]]) -> None:
    perms = Perms(*entries[0], tuple(entries[1:]))
    assert Perms.parse(perms.words()) == perms
    assert perms.entries() == tuple(entries)


@pytest.mark.parametrize("word", ["", "n", "x0", "0", "r-1", "r 1", "r65536", "r1x", "r٣", "N0"])
def test_bad_words(word: str) -> None:
    with pytest.raises(XenError) as raised:
        Perms.parse(["n0", word])
    assert raised.value.errno is Errno.EINVAL


def test_no_words() -> None:
    with pytest.raises(XenError):
        Perms.parse([])


def test_creators_own_what_they_create() -> None:
    perms = Perms.parse(["n0", "b1"])
    assert perms.inherited_by(Who(1)).words() == ["n1", "b1"]
    assert perms.inherited_by(Who(0)) is perms
    assert perms.inherited_by(Who(5, target=0)) is perms


def test_ownership() -> None:
    perms = Perms.parse(["n4"])
    assert [perms.owned_by(who) for who in (Who(0), Who(4), Who(5), Who(5, target=4))] == [
        True,
        True,
        False,
        True,
    ]


def test_without_a_domain() -> None:
    perms = Perms.parse(["n1", "r2", "w3", "b2"])
    assert perms.without(2).words() == ["n1", "w3"]
    assert perms.without(9) is perms
