# SPDX-License-Identifier: GPL-2.0-or-later
"""Views of the service's machine that are made above the toolstack: by those who observe.

Whoever is the service's process may add some before the machine is made (`cli/daemon.py` does);
each listens from the machine's start on, and is asked by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xenograft.toolstack.machine import Machine

Reporter = Callable[[int | None], str]
"""What is to be said of a domain (None: of all), as JSON; for the machine's thread."""

MAKERS: dict[str, Callable[[Machine], Reporter]] = {}
"""By name: makes the view of a machine, and begins to listen."""
