# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: `xg`, one module per family of commands."""
