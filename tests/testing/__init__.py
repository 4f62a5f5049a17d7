# SPDX-License-Identifier: GPL-2.0-or-later
"""The pytest plugin, in suites of its own, and what it gives to tests."""
