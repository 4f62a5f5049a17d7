# SPDX-License-Identifier: GPL-2.0-or-later
"""What HVM-type guests (PVH and HVM) have: parameters, upcalls, local APICs, CPUID and MSRs."""
