# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory of domains: frames and their owners, physical maps, memory operations."""

from __future__ import annotations
