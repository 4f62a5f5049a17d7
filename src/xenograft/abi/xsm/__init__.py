# SPDX-License-Identifier: GPL-2.0-or-later
"""public/xsm: one module per header."""
