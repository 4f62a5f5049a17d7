# SPDX-License-Identifier: GPL-2.0-or-later
"""x86: entry states, page tables, CPUID and MSR policy, the platform."""
