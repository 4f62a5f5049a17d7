# SPDX-License-Identifier: GPL-2.0-or-later
"""Paths as clients may send them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenograft.abi.errno import Errno, XenError
from xenograft.store import path


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        (b"/", ()),
        (b"/a", ("a",)),
        (b"/local/domain/0/A-b_c@9", ("local", "domain", "0", "A-b_c@9")),
        (b"device/vif", ("local", "domain", "7", "device", "vif")),
        (b"@releaseDomain", ("@releaseDomain",)),
        (b"@introduceDomain", ("@introduceDomain",)),
    ],
)
def test_parse(raw: bytes, parts: tuple[str, ...]) -> None:
    assert path.parse(raw, 7) == parts
    if raw[:1] != b"d":
        assert path.join(parts).encode() == raw


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"//",
        b"/a/",
        b"/a//b",
        b"a/",
        b"/a b",
        b"/a.b",
        b"/a+b",
        b"/\xc3\xa9",
        b"/a\n",
        b"@",
        b"@foo",
        b"@releaseDomain/1",
        b"/" + b"a" * 2048,
        b"a" * 2049,
        b"/a" * 1600,
    ],
)
def test_bad_paths(raw: bytes) -> None:
    with pytest.raises(XenError) as raised:
        path.parse(raw, 7)
    assert raised.value.errno is Errno.EINVAL


def test_only_the_part_below_the_domain_counts() -> None:
    """So that a path stays valid when its domain gets a longer number."""
    name = b"a" * 2048
    for domid in (1, 65535):
        assert path.parse(name, domid)[-1] == name.decode()
        assert path.parse(b"/local/domain/%d/%s" % (domid, name), 0)
    with pytest.raises(XenError):
        path.parse(b"/local/domain/1/" + name + b"b", 0)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"/a/b", ("/a/b", "")),
        (b"a", ("/local/domain/3/a", "/local/domain/3/")),
        (b"@releaseDomain", ("@releaseDomain", "")),
        (b"@releaseDomain/5", ("@releaseDomain/5", "")),
        (b"@anything", ("@anything", "")),
    ],
)
def test_watch_paths(raw: bytes, expected: tuple[str, str]) -> None:
    assert path.parse_watch(raw, 3) == expected


@pytest.mark.parametrize("raw", [b"", b"/a//", b"@a b", b"@" + b"a" * 2048])
def test_bad_watch_paths(raw: bytes) -> None:
    with pytest.raises(XenError):
        path.parse_watch(raw, 3)


@given(raw=st.binary(max_size=60), domid=st.integers(0, 65535))
def test_any_bytes_are_a_path_or_einval(raw: bytes, domid: int) -> None:
    try:
        parts = path.parse(raw, domid)
    except XenError:
        return
    assert all(part and "/" not in part and part.isascii() for part in parts)
    assert path.split(path.join(parts)) == parts or parts[0] in path.SPECIALS
