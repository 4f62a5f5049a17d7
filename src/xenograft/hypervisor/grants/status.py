# SPDX-License-Identifier: GPL-2.0-or-later
"""How grant operations fail: a status per operation, not an errno per call."""

from __future__ import annotations

from xenograft.abi.grant_table import GNTST_NAMES


class GrantError(Exception):
    """A single grant operation fails with `status` (GNTST_*)."""

    def __init__(self, status: int, message: str = "") -> None:
        name = GNTST_NAMES.get(status, str(status))
        super().__init__(f"{name}: {message}" if message else name)
        self.status = status
