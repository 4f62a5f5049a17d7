# SPDX-License-Identifier: GPL-2.0-or-later
"""qcow2 images, versions 2 and 3 (QEMU's docs/interop/qcow2.txt)."""
