# SPDX-License-Identifier: GPL-2.0-or-later
"""The schedulers' limits and defaults, by Xen's names; times are in ns unless a name says else.

Facts: xen/common/sched/{credit,credit2,rt,arinc653}.c and core.c (4.17), public/sysctl.h and
public/domctl.h, whose own constants are in `abi`.
"""

from __future__ import annotations

FOREVER = 1 << 62
"""A slice without end."""
MICROSECOND = 1_000
MILLISECOND = 1_000_000

SCHED_DEFAULT_RATELIMIT_US = 1000
"""How long a vCPU runs before another may take its CPU (boot option sched_ratelimit_us)."""
MIN_WEIGHT, MAX_WEIGHT = 1, 65535
"""Of domains, as libxl has them."""

# -- credit
CSCHED_DEFAULT_WEIGHT = 256
CSCHED_TICKS_PER_TSLICE = 3
CSCHED_DEFAULT_TSLICE_MS = 30
CSCHED_CREDITS_PER_MSEC = 10

# -- credit2
CSCHED2_DEFAULT_WEIGHT = 256
CSCHED2_CREDIT_INIT = 10 * MILLISECOND
CSCHED2_MIN_TIMER = 500 * MICROSECOND
CSCHED2_CARRYOVER_MAX = CSCHED2_MIN_TIMER
CSCHED2_CREDIT_MAX = CSCHED2_CREDIT_INIT + CSCHED2_CARRYOVER_MAX
"""What a reset leaves a unit at most."""
CSCHED2_MAX_TIMER = CSCHED2_CREDIT_INIT
CSCHED2_MIGRATE_RESIST = 500 * MICROSECOND
CSCHED2_BDGT_REPL_PERIOD = 10 * MILLISECOND
MAX_CPUS_RUNQUEUE = 16
CREDIT2_RUNQUEUES = ("cpu", "core", "socket", "node", "all")
"""Which CPUs can share a run queue (boot option credit2_runqueue; "socket" unless told)."""

# -- RTDS
RTDS_DEFAULT_PERIOD = 10 * MILLISECOND
RTDS_DEFAULT_BUDGET = 4 * MILLISECOND
RTDS_MIN_PERIOD = 10 * MICROSECOND
RTDS_MIN_BUDGET = 10 * MICROSECOND
RTDS_MAX_PERIOD = 0xFFFFFFFF * MICROSECOND

# -- ARINC 653
ARINC653_DEFAULT_TIMESLICE = 10 * MILLISECOND
"""The minor frame of each vCPU of domain 0 as long as no table was set."""
