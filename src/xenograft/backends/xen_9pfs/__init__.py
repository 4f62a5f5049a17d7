# SPDX-License-Identifier: GPL-2.0-or-later
"""The 9pfs back end: a folder of the host, shared with a guest (public/io/9pfs.h)."""
