# SPDX-License-Identifier: GPL-2.0-or-later
"""Xenstore, pure: it knows nothing of the hypervisor."""
