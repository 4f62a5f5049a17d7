# SPDX-License-Identifier: GPL-2.0-or-later
"""PV guests: their platform, hypercalls of their own, and instructions that are emulated."""

from __future__ import annotations
