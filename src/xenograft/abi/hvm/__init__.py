# SPDX-License-Identifier: GPL-2.0-or-later
"""public/hvm: one module per header."""
