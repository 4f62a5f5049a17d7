# SPDX-License-Identifier: GPL-2.0-or-later
"""public/vcpu.h: vCPU operations, runstates, timers."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.struct import Struct, Union, array, handle, i32, named, u32, u64, x32, x64

# vcpu_op.
VCPUOP_initialise = 0
VCPUOP_up = 1
VCPUOP_down = 2
VCPUOP_is_up = 3
VCPUOP_get_runstate_info = 4
VCPUOP_register_runstate_memory_area = 5
VCPUOP_set_periodic_timer = 6
VCPUOP_stop_periodic_timer = 7
VCPUOP_set_singleshot_timer = 8
VCPUOP_stop_singleshot_timer = 9
VCPUOP_register_vcpu_info = 10
VCPUOP_send_nmi = 11
VCPUOP_get_physid = 12
VCPUOP_register_vcpu_time_memory_area = 13

# vcpu_runstate_info.state.
RUNSTATE_running = 0
RUNSTATE_runnable = 1
RUNSTATE_blocked = 2
RUNSTATE_offline = 3

# Set in state_entry_time while the guest's copy is being written.
XEN_RUNSTATE_UPDATE = 1 << 63

# vcpu_set_singleshot_timer.flags.
VCPU_SSHOTTMR_future = 1 << 0

RUNSTATE_NAMES: dict[int, str] = {
    RUNSTATE_running: "RUNSTATE_running",
    RUNSTATE_runnable: "RUNSTATE_runnable",
    RUNSTATE_blocked: "RUNSTATE_blocked",
    RUNSTATE_offline: "RUNSTATE_offline",
}
"""Runstate to name."""


class vcpu_runstate_info(Struct):
    """Current runstate, when it began (ns of system time), and time spent in each (ns)."""

    state: Annotated[int, named(i32, RUNSTATE_NAMES)]
    state_entry_time: u64
    time: Annotated[list[int], array(u64, 4)]


class _area(Union):
    h: handle
    v: handle
    p: x64


class vcpu_register_runstate_memory_area(Struct):
    """Where (a guest virtual address) Xen keeps a copy of the runstate."""

    addr: _area


class vcpu_set_periodic_timer(Struct):
    """Raise VIRQ_TIMER every `period_ns`."""

    period_ns: u64


class vcpu_set_singleshot_timer(Struct):
    """Raise VIRQ_TIMER at system time `timeout_abs_ns`; flags VCPU_SSHOTTMR_*."""

    timeout_abs_ns: u64
    flags: x32


class vcpu_register_vcpu_info(Struct):
    """Move a vCPU's vcpu_info to a page of the guest."""

    mfn: x64
    offset: u32
    rsvd: u32


class vcpu_get_physid(Struct):
    """OUT: APIC id in the low, ACPI id in the high half."""

    phys_id: x64


class vcpu_register_time_memory_area(Struct):
    """Where (a guest virtual address) Xen keeps a second copy of vcpu_time_info."""

    addr: _area
