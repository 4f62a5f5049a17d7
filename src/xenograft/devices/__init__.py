# SPDX-License-Identifier: GPL-2.0-or-later
"""What a device model emulates for HVM guests, seen through hypervisor calls alone."""
