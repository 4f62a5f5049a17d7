# SPDX-License-Identifier: GPL-2.0-or-later
"""public/xenoprof.h: sampling (HYPERVISOR_xenoprof_op)."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from xenograft.abi.struct import Struct, array, chars, i32, u8, u16, u32, u64, x64

# xenoprof_op.
XENOPROF_init = 0
XENOPROF_reset_active_list = 1
XENOPROF_reset_passive_list = 2
XENOPROF_set_active = 3
XENOPROF_set_passive = 4
XENOPROF_reserve_counters = 5
XENOPROF_counter = 6
XENOPROF_setup_events = 7
XENOPROF_enable_virq = 8
XENOPROF_start = 9
XENOPROF_stop = 10
XENOPROF_disable_virq = 11
XENOPROF_release_counters = 12
XENOPROF_shutdown = 13
XENOPROF_get_buffer = 14
XENOPROF_set_backtrace = 15
XENOPROF_get_ibs_caps = 16
XENOPROF_ibs_counter = 17
XENOPROF_last_op = 17

# Limits.
MAX_OPROF_EVENTS = 32
MAX_OPROF_DOMAINS = 25
XENOPROF_CPU_TYPE_SIZE = 64

# Special samples.
XENOPROF_ESCAPE_CODE = -1
XENOPROF_TRACE_BEGIN = 1


class event_log(Struct):
    """One sample."""

    eip: x64
    mode: u8
    event: u8


# A member of the same name hides the class in what follows.
event_log_t: TypeAlias = event_log


class xenoprof_buf(Struct):
    """The buffer of a vCPU; the first of `event_size` samples is declared."""

    event_head: u32
    event_tail: u32
    event_size: u32
    vcpu_id: u32
    xen_samples: u64
    kernel_samples: u64
    user_samples: u64
    lost_samples: u64
    event_log: Annotated[list[event_log_t], array(event_log_t, 1)]


class xenoprof_init(Struct):
    """OUT: how many events, who leads, and the CPU type."""

    num_events: i32
    is_primary: i32
    cpu_type: Annotated[bytes, chars(64)]


class xenoprof_get_buffer(Struct):
    """Where the buffers are."""

    max_samples: i32
    nbuf: i32
    bufsize: i32
    buf_gmaddr: x64


class xenoprof_counter(Struct):
    """One counter."""

    ind: u32
    count: u64
    enabled: u32
    event: u32
    hypervisor: u32
    kernel: u32
    user: u32
    unit_mask: x64


class xenoprof_passive(Struct):
    """A domain that is sampled without its help."""

    domain_id: u16
    max_samples: i32
    nbuf: i32
    bufsize: i32
    buf_gmaddr: x64


class xenoprof_ibs_counter(Struct):
    """Instruction-based sampling."""

    op_enabled: u64
    fetch_enabled: u64
    max_cnt_fetch: u64
    max_cnt_op: u64
    rand_en: u64
    dispatched_ops: u64
