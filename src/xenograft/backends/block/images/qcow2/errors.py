# SPDX-License-Identifier: GPL-2.0-or-later
"""What is found wrong in an image while it's in use."""

from __future__ import annotations

import errno


class CorruptImage(OSError):
    """Metadata that make no sense; to a guest, an I/O error."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(errno.EIO, f"{path}: corrupt: {what}")
