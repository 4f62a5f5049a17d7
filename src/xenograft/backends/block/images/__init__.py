# SPDX-License-Identifier: GPL-2.0-or-later
"""Disk images, with no idea of Xen: raw files and devices, qcow2, NBD exports."""
