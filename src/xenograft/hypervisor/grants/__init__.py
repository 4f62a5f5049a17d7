# SPDX-License-Identifier: GPL-2.0-or-later
"""Grant tables: a domain says which of its pages which other domain may map or copy."""

from __future__ import annotations
