# SPDX-License-Identifier: GPL-2.0-or-later
"""Helpers that users import in their own tests."""
