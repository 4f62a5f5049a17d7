# SPDX-License-Identifier: GPL-2.0-or-later
"""What a block device has done: the numbers that xentop shows, by Linux blkback's names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class BlockMetrics:
    """Counters of one device since it was made."""

    rd_req: int = 0
    wr_req: int = 0
    f_req: int = 0
    """Flushes and barriers."""
    ds_req: int = 0
    oo_req: int = 0
    """How often requests had to wait, since too much was under way."""
    rd_sect: int = 0
    wr_sect: int = 0
    errors: int = 0
    """Requests that failed in the image."""
    refused: int = 0
    """Requests that made no sense, or had no good grants."""
    immediate: int = 0
    """Reads that the host had in memory."""
    persistent: int = 0
    """Grants that are kept mapped."""
