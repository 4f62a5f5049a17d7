# SPDX-License-Identifier: GPL-2.0-or-later
"""public/sched.h: scheduler operations and shutdown reasons."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.struct import Struct, domid_t, handle, i32, named, u32, u64

# sched_op.
SCHEDOP_yield = 0
SCHEDOP_block = 1
SCHEDOP_shutdown = 2
SCHEDOP_poll = 3
SCHEDOP_remote_shutdown = 4
SCHEDOP_shutdown_code = 5
SCHEDOP_watchdog = 6
SCHEDOP_pin_override = 7

# sched_shutdown.reason.
SHUTDOWN_poweroff = 0
SHUTDOWN_reboot = 1
SHUTDOWN_suspend = 2
SHUTDOWN_crash = 3
SHUTDOWN_watchdog = 4
SHUTDOWN_soft_reset = 5
SHUTDOWN_MAX = 5

SHUTDOWN_NAMES: dict[int, str] = {
    SHUTDOWN_poweroff: "SHUTDOWN_poweroff",
    SHUTDOWN_reboot: "SHUTDOWN_reboot",
    SHUTDOWN_suspend: "SHUTDOWN_suspend",
    SHUTDOWN_crash: "SHUTDOWN_crash",
    SHUTDOWN_watchdog: "SHUTDOWN_watchdog",
    SHUTDOWN_soft_reset: "SHUTDOWN_soft_reset",
}
"""Shutdown reason to name."""


class sched_shutdown(Struct):
    """Shut the calling domain down (also SCHEDOP_shutdown_code, which only sets the reason)."""

    reason: Annotated[int, named(u32, SHUTDOWN_NAMES)]


class sched_poll(Struct):
    """Block until one of `nr_ports` ports is pending or system time `timeout` (ns; 0: none)."""

    ports: handle
    nr_ports: u32
    timeout: u64


class sched_remote_shutdown(Struct):
    """Shut another domain down."""

    domain_id: domid_t
    reason: Annotated[int, named(u32, SHUTDOWN_NAMES)]


class sched_watchdog(Struct):
    """Set (id 0), change or stop (timeout 0) a watchdog; timeout in seconds."""

    id: u32
    timeout: u32


class sched_pin_override(Struct):
    """Pin the calling vCPU to a physical CPU, or undo it (negative)."""

    pcpu: i32
