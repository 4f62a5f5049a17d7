# SPDX-License-Identifier: GPL-2.0-or-later
"""The hypervisor: machine, domains, vCPUs, memory, events, grants, timers and hypercalls."""
