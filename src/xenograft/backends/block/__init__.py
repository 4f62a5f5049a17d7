# SPDX-License-Identifier: GPL-2.0-or-later
"""The block back end: blkif on one side, disk images on the other."""
