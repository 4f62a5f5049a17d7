# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's standard kernel with modules of its own, for tests of devices end to end."""
