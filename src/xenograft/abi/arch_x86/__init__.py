# SPDX-License-Identifier: GPL-2.0-or-later
"""public/arch-x86: one module per header."""
