# SPDX-License-Identifier: GPL-2.0-or-later
"""The door through which the host reaches into the machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from xenograft.hypervisor.door import Door


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    yield door
    door.close()


def test_what_is_posted_is_called_once_in_order(door: Door) -> None:
    called: list[int] = []
    for number in range(3):
        door.post(lambda number=number: called.append(number))
    assert called == []
    assert door.serve(0.0)
    assert called == [0, 1, 2]
    assert not door.serve(0.0)


def test_a_post_from_another_thread_ends_a_wait(door: Door) -> None:
    called: list[str] = []
    thread = threading.Thread(target=lambda: door.post(lambda: called.append("x")))
    thread.start()
    while not called:
        door.serve(None)
    thread.join()
    assert called == ["x"]


def test_a_post_kicks_the_slice_under_way(door: Door) -> None:
    kicks: list[int] = []
    door.kick = lambda: kicks.append(1)
    door.post(lambda: None)
    assert kicks == [1]


def test_watched_descriptors_are_served(door: Door) -> None:
    read, write = os.pipe()
    got: list[bytes] = []
    assert not door.may_open
    door.watch(read, lambda: got.append(os.read(read, 100)))
    assert door.may_open
    os.write(write, b"typed")
    assert door.serve(None)
    assert got == [b"typed"]
    door.unwatch(read)
    os.write(write, b"more")
    assert not door.serve(0.0)
    with pytest.raises(KeyError):
        door.unwatch(read)
    os.close(read)
    os.close(write)


def test_waking_again_and_again_never_blocks(door: Door) -> None:
    for _ in range(100_000):
        door.wake()
    assert not door.serve(0.0)


def test_waking_after_the_end_does_nothing() -> None:
    door = Door()
    door.close()
    door.close()
    door.wake()
