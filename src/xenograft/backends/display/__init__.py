# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's screen, keyboard and pointer (public/io/fbif.h, kbdif.h)."""
