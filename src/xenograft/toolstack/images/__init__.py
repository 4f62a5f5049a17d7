# SPDX-License-Identifier: GPL-2.0-or-later
"""Guest kernels, tools and ramdisks by name, kept in a cache outside the repository."""
