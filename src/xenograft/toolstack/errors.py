# SPDX-License-Identifier: GPL-2.0-or-later
"""Errors that a person can act on."""

from __future__ import annotations


class UserError(Exception):
    """Bad usage, configuration or input: one line that says what's wrong and what to do.

    `xg` prints it and ends with exit status 2.
    """
