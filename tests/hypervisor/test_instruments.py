# SPDX-License-Identifier: GPL-2.0-or-later
"""The seam through which the hypervisor is watched."""

from __future__ import annotations

from typing import Any

import pytest

from xenograft.hypervisor.instruments import HOOKS, Instrument, Instruments


class Recorder:
    """Hears some hooks, as any object may."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def log(self, *args: Any) -> None:
        self.heard.append(("log", *args))

    def exit(self, *args: Any) -> None:
        self.heard.append(("exit", *args))


def test_nobody_listens_at_first() -> None:
    seam = Instruments()
    assert [name for name in HOOKS if getattr(seam, name) is not None] == []


def test_a_listener_hears_what_it_implements_and_nothing_else() -> None:
    seam, recorder = Instruments(), Recorder()
    seam.add(recorder)
    assert {name for name in HOOKS if getattr(seam, name) is not None} == {"log", "exit"}
    assert seam.log is not None
    seam.log(1, 2, "text")
    assert recorder.heard == [("log", 1, 2, "text")]


def test_the_empty_hooks_of_the_base_class_cost_nothing() -> None:
    class Partly(Instrument):
        def console(self, time: int, domid: int, data: bytes) -> None:
            raise AssertionError

    seam = Instruments()
    seam.add(Partly())
    assert seam.log is None
    assert seam.console is not None


def test_several_listeners_hear_in_order_until_removed() -> None:
    seam, first, second = Instruments(), Recorder(), Recorder()
    order: list[int] = []
    first.log = lambda *args: order.append(1)  # type: ignore[method-assign]
    second.log = lambda *args: order.append(2)  # type: ignore[method-assign]
    with seam.listening(first):
        with seam.listening(second):
            assert seam.log is not None
            seam.log(0, 0, "")
        seam.log(0, 0, "")
    assert order == [1, 2, 1]
    assert seam.log is None
    with pytest.raises(ValueError, match="not in list"):
        seam.remove(first)


def test_every_hook_has_a_docstring() -> None:
    assert all(getattr(Instrument, name).__doc__ for name in HOOKS)
