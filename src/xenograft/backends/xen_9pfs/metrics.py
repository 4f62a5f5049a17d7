# SPDX-License-Identifier: GPL-2.0-or-later
"""What a shared folder has done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class P9Metrics:
    """Counters of one device since it was made."""

    requests: int = 0
    errors: int = 0
    """Requests that were answered with Rlerror."""
    bytes_in: int = 0
    """Bytes of messages from the guest."""
    bytes_out: int = 0
    held: int = 0
    """How often requests had to wait, since too much was under way."""
    quick: int = 0
    """Requests that needed no waiting for the host."""
    full: int = 0
    """How often an answer had to wait for room in the ring."""
