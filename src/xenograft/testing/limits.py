# SPDX-License-Identifier: GPL-2.0-or-later
"""Limits of the host's time: for machines that are busy for ever, whatever their own clock says."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from xenograft.toolstack.machine import Machine


class HostTimeout(TimeoutError):
    """A machine has run for longer than the host's time limit allows."""


class HostLimit:
    """Inside, a machine that runs after so many seconds of the host's time raises HostTimeout.

    A thread waits for the end; the exception is raised by the thread that runs the machine.
    """

    def __init__(self, machine: Machine, seconds: float) -> None:
        self._machine = machine
        self._seconds = seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="xenograft-limit", daemon=True)

    def _watch(self) -> None:
        if not self._over.wait(self._seconds):
            self._machine.post(self._raise)

    def _raise(self) -> None:
        if not self._over.is_set():
            raise HostTimeout(f"the test has run for {self._seconds:g} s of the host's time")

    def __enter__(self) -> HostLimit:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
