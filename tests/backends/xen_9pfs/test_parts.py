# SPDX-License-Identifier: GPL-2.0-or-later
"""The parts of the server by themselves: messages, fids, locks."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xenograft.backends.xen_9pfs import fids as fids_module
from xenograft.backends.xen_9pfs.fids import Fid, Fids, OpenFile
from xenograft.backends.xen_9pfs.locks import END, Held, LockTable, Owner, TooManyLocks
from xenograft.backends.xen_9pfs.protocol import (
    HEADER_SIZE,
    REPLIES,
    REQUESTS,
    ProtocolError,
    Qid,
    Shape,
    describe,
    header,
)

VALUES: dict[str, st.SearchStrategy[Any]] = {
    **{str(size): st.integers(0, (1 << 8 * size) - 1) for size in (1, 2, 4, 8)},
    "s": st.binary(max_size=30),
    "d": st.binary(max_size=30),
    "q": st.builds(
        Qid, st.integers(0, 255), st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
    ),
}
VALUES["*s"] = st.lists(VALUES["s"], max_size=4)
VALUES["*q"] = st.lists(VALUES["q"], max_size=4)
SHAPES = [*REQUESTS.values(), *REPLIES.values()]


# -- messages -------------------------------------------------------------------------------------
@settings(deadline=None)
@given(st.sampled_from(SHAPES), st.data(), st.integers(0, 0xFFFF))
def test_what_is_packed_is_unpacked(shape: Shape, data: st.DataObject, tag: int) -> None:
    values = [data.draw(VALUES[kind]) for _, kind in shape.fields]
    message = shape.pack(tag, *values)
    assert header(message) == (len(message), shape.number, tag)
    assert list(shape.unpack(message[HEADER_SIZE:]).values()) == values
    assert describe(message).startswith(f"{shape.name} tag={tag}")
    with pytest.raises(ProtocolError):
        shape.unpack(message[HEADER_SIZE:] + b"x")
    if values:
        with pytest.raises(ProtocolError):
            shape.unpack(message[HEADER_SIZE:-1])


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_can_be_described(data: bytes) -> None:
    assert "\n" not in describe(data).encode("unicode_escape").decode()


def test_a_message_by_hand() -> None:
    body = struct.pack("<IIH", 1, 2, 2) + b"\x01\0a\x02\0bc"
    assert REQUESTS[110].pack(9, 1, 2, [b"a", b"bc"]) == (
        struct.pack("<IBH", 7 + len(body), 110, 9) + body
    )


# -- fids -----------------------------------------------------------------------------------------
def test_a_file_in_use_stays_open(tmp_path: Path) -> None:
    """Else its descriptor's number could be another file's by the time it is read."""
    fids = Fids()
    fids.add(1, Fid(b"f", b"", 0))
    descriptor = os.open(tmp_path, os.O_RDONLY)
    with fids.use(1) as fid:
        fids.set_file(fid, OpenFile(descriptor, 0, True))
        with fids.use(1):
            fids.remove(1)
        os.fstat(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    assert (len(fids), fids.open_files) == (0, 0)


def test_fids_are_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fids_module, "MAX_FIDS", 3)
    monkeypatch.setattr(fids_module, "MAX_PATH_BYTES", 100)
    fids = Fids()
    for number in range(3):
        fids.add(number, Fid(b"x" * 20, b"", 0))
    for number, path in ((3, b""), (0, b"x" * 50)):
        with pytest.raises(OSError, match="Too many open files in system") as caught:
            fids.add(number, Fid(path, b"", 0), replaces=True)
        assert caught.value.errno == errno.ENFILE
    fids.add(0, Fid(b"y" * 30, b"", 0), replaces=True)
    with pytest.raises(OSError, match="Bad file"):
        fids.add(0, Fid(b"", b"", 0))
    fids.clear()
    fids.add(9, Fid(b"x" * 100, b"", 0))


def test_open_files_are_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fids_module, "max_open_files", lambda: 1)
    fids = Fids()
    descriptors = []
    for number in range(2):
        fids.add(number, Fid(b"", b"", 0))
        descriptors.append(os.open(tmp_path, os.O_RDONLY))
    with fids.use(0) as fid:
        fids.set_file(fid, OpenFile(descriptors[0], 0, True))
    with fids.use(1) as fid, pytest.raises(OSError, match="Too many open files"):
        fids.set_file(fid, OpenFile(descriptors[1], 0, True))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptors[1])
    fids.clear()


# -- locks ----------------------------------------------------------------------------------------
OWNERS = [Owner(1, b"a", 1), Owner(1, b"a", 2), Owner(2, b"a", 1)]
FILE = (1, 1)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(OWNERS), st.integers(0, 2), st.integers(0, 20), st.integers(0, 12)
        ),
        max_size=30,
    )
)
def test_locks_against_a_byte_by_byte_model(steps: list[tuple[Owner, int, int, int]]) -> None:
    table = LockTable()
    model: dict[tuple[Owner, int], int] = {}
    for owner, kind, start, length in steps:
        end = start + length if length else 40
        taken = kind != 2 and any(
            byte in range(start, end) and other != owner and 1 in (kind, held)
            for (other, byte), held in model.items()
        )
        wanted = Held(owner, kind, start, END if end == 40 else end)
        assert table.set(FILE, wanted) is not taken
        if not taken:
            for byte in range(start, end):
                model.pop((owner, byte), None)
                if kind != 2:
                    model[owner, byte] = kind
        for byte in range(40):
            probe = Held(Owner(9, b"", 0), 1, byte, byte + 1)
            held = table.find(FILE, probe)
            assert (held is not None) == any(at == byte for _, at in model)
    for session in (1, 2):
        table.drop(session)
    assert table.find(FILE, Held(Owner(9, b"", 0), 1, 0, END)) is None


def test_locks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xenograft.backends.xen_9pfs.locks.MAX_LOCKS", 3)
    table = LockTable()
    for at in range(3):
        assert table.set(FILE, Held(OWNERS[0], 0, at * 2, at * 2 + 1))
    with pytest.raises(TooManyLocks):
        table.set(FILE, Held(OWNERS[1], 0, 50, 51))
    assert table.set(FILE, Held(OWNERS[2], 0, 50, 51))
    table.drop(1)
    assert table.set(FILE, Held(OWNERS[1], 0, 50, 51))
