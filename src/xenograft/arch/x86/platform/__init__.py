# SPDX-License-Identifier: GPL-2.0-or-later
"""What Xen itself emulates for HVM-type guests, such as the local APIC."""
