# SPDX-License-Identifier: GPL-2.0-or-later
"""A lock that many share, or one has alone; whoever waits to have it alone goes first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class SharedLock:
    """Neither side may take it again while it holds it."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._readers = 0
        self._writing = False
        self._waiting = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        with self._condition:
            while self._writing or self._waiting:
                self._condition.wait()
            self._readers += 1
        try:
            yield
        finally:
            self.release_shared()

    def try_shared(self) -> bool:
        """Share it if that needs no waiting; then `release_shared` gives it back."""
        if not self._condition.acquire(blocking=False):
            return False
        try:
            if self._writing or self._waiting:
                return False
            self._readers += 1
            return True
        finally:
            self._condition.release()

    def release_shared(self) -> None:
        with self._condition:
            self._readers -= 1
            if not self._readers:
                self._condition.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._condition:
            self._waiting += 1
            while self._writing or self._readers:
                self._condition.wait()
            self._waiting -= 1
            self._writing = True
        try:
            yield
        finally:
            with self._condition:
                self._writing = False
                self._condition.notify_all()
