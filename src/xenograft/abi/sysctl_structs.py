# SPDX-License-Identifier: GPL-2.0-or-later
"""public/sysctl.h: the operands of the operations; see `xenograft.abi.sysctl`."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.struct import (
    Struct,
    Union,
    array,
    chars,
    domid_t,
    handle,
    handle64,
    i32,
    octets,
    u8,
    u16,
    u32,
    u64,
    u64_aligned,
    x32,
    x64_aligned,
)
from xenograft.abi.xen import xenctl_bitmap


class xen_sysctl_readconsole(Struct):
    """Read Xen's console ring. OUT: index, count."""

    clear: u8
    incremental: u8
    pad0: u8
    pad1: u8
    index: u32
    buffer: handle64
    count: u32


class xen_sysctl_tbuf_op(Struct):
    """Trace buffers."""

    cmd: u32
    cpu_mask: xenctl_bitmap
    evt_mask: x32
    buffer_mfn: x64_aligned
    size: u32


class xen_sysctl_physinfo(Struct):
    """OUT: CPUs, memory and capabilities of the machine."""

    threads_per_core: u32
    cores_per_socket: u32
    nr_cpus: u32
    max_cpu_id: u32
    nr_nodes: u32
    max_node_id: u32
    cpu_khz: u32
    capabilities: x32
    arch_capabilities: u32
    pad: u32
    total_pages: u64_aligned
    free_pages: u64_aligned
    scrub_pages: u64_aligned
    outstanding_pages: u64_aligned
    max_mfn: x64_aligned
    hw_cap: Annotated[list[int], array(x32, 8)]


class xen_sysctl_sched_id(Struct):
    """OUT: the default scheduler."""

    sched_id: u32


class xen_sysctl_perfc_desc(Struct):
    """A performance counter."""

    name: Annotated[bytes, chars(80)]
    nr_vals: u32


class xen_sysctl_perfc_op(Struct):
    """Performance counters."""

    cmd: u32
    nr_counters: u32
    nr_vals: u32
    desc: handle64
    val: handle64


class xen_sysctl_getdomaininfolist(Struct):
    """OUT: xen_domctl_getdomaininfo of domains from first_domain on."""

    first_domain: domid_t
    max_domains: u32
    buffer: handle64
    num_domains: u32


class xen_sysctl_debug_keys(Struct):
    """Debug keys."""

    keys: handle64
    nr_keys: u32


class xen_sysctl_cpuinfo(Struct):
    """A CPU's idle time (ns)."""

    idletime: u64_aligned


class xen_sysctl_getcpuinfo(Struct):
    """OUT: idle times."""

    max_cpus: u32
    info: handle64
    nr_cpus: u32


class xen_sysctl_availheap(Struct):
    """OUT: free bytes."""

    min_bitwidth: u32
    max_bitwidth: u32
    node: i32
    avail_bytes: u64_aligned


class pm_px_val(Struct):
    """A performance state."""

    freq: u64_aligned
    residency: u64_aligned
    count: u64_aligned


class pm_px_stat(Struct):
    """Use of performance states."""

    total: u8
    usable: u8
    last: u8
    cur: u8
    trans_pt: handle64
    pt: handle64


class pm_cx_stat(Struct):
    """Use of idle states."""

    nr: u32
    last: u32
    idle_time: u64_aligned
    triggers: handle64
    residencies: handle64
    nr_pc: u32
    nr_cc: u32
    pc: handle64
    cc: handle64


class _xen_sysctl_get_pmstat_u(Union):
    getpx: pm_px_stat
    getcx: pm_cx_stat


class xen_sysctl_get_pmstat(Struct):
    """Power statistics of a CPU."""

    type: u32
    cpuid: u32
    u: _xen_sysctl_get_pmstat_u


class xen_sysctl_cpu_hotplug(Struct):
    """Bring a CPU up or down."""

    cpu: u32
    op: u32


class xen_userspace(Struct):
    """The userspace governor."""

    scaling_setspeed: u32


class xen_ondemand(Struct):
    """The ondemand governor."""

    sampling_rate_max: u32
    sampling_rate_min: u32
    sampling_rate: u32
    up_threshold: u32


class _xen_get_cpufreq_para_u(Union):
    userspace: xen_userspace
    ondemand: xen_ondemand


class xen_get_cpufreq_para(Struct):
    """OUT: frequency parameters."""

    cpu_num: u32
    freq_num: u32
    gov_num: u32
    affected_cpus: handle64
    scaling_available_frequencies: handle64
    scaling_available_governors: handle64
    scaling_driver: Annotated[bytes, chars(16)]
    cpuinfo_cur_freq: u32
    cpuinfo_max_freq: u32
    cpuinfo_min_freq: u32
    scaling_cur_freq: u32
    scaling_governor: Annotated[bytes, chars(16)]
    scaling_max_freq: u32
    scaling_min_freq: u32
    u: _xen_get_cpufreq_para_u
    turbo_enabled: i32


class xen_set_cpufreq_gov(Struct):
    """Choose a governor."""

    scaling_governor: Annotated[bytes, chars(16)]


class xen_set_cpufreq_para(Struct):
    """Set a frequency parameter."""

    ctrl_type: u32
    ctrl_value: x32


class _xen_sysctl_pm_op_u(Union):
    get_para: xen_get_cpufreq_para
    set_gov: xen_set_cpufreq_gov
    set_para: xen_set_cpufreq_para
    get_avgfreq: u64_aligned
    set_sched_opt_smt: u32
    get_max_cstate: u32
    set_max_cstate: u32


class xen_sysctl_pm_op(Struct):
    """Power management of a CPU."""

    cmd: u32
    cpuid: u32
    u: _xen_sysctl_pm_op_u


class xen_sysctl_page_offline_op(Struct):
    """Take pages out of use."""

    cmd: u32
    start: x32
    end: x32
    status: handle


class xen_sysctl_lockprof_data(Struct):
    """Use of a lock."""

    name: Annotated[bytes, chars(40)]
    type: i32
    idx: i32
    lock_cnt: u64_aligned
    block_cnt: u64_aligned
    lock_time: u64_aligned
    block_time: u64_aligned


class xen_sysctl_lockprof_op(Struct):
    """Lock profile."""

    cmd: u32
    max_elem: u32
    nr_elem: u32
    time: u64_aligned
    data: handle64


class xen_sysctl_cputopo(Struct):
    """Core, socket and node of a CPU."""

    core: u32
    socket: u32
    node: u32


class xen_sysctl_cputopoinfo(Struct):
    """OUT: CPU topology."""

    num_cpus: u32
    cputopo: handle64


class xen_sysctl_meminfo(Struct):
    """Memory of a node."""

    memsize: u64
    memfree: u64


class xen_sysctl_numainfo(Struct):
    """OUT: memory and distances of nodes."""

    num_nodes: u32
    meminfo: handle64
    distance: handle64


class xen_sysctl_cpupool_op(Struct):
    """CPU pools."""

    op: u32
    cpupool_id: u32
    sched_id: u32
    domid: u32
    cpu: u32
    n_dom: u32
    cpumap: xenctl_bitmap


class _minor_frame(Struct):
    dom_handle: Annotated[bytes, octets(16)]
    vcpu_id: u32
    runtime: u64_aligned


class xen_sysctl_arinc653_schedule(Struct):
    """A major frame and its minor frames (ns)."""

    major_frame: u64_aligned
    num_sched_entries: u8
    sched_entries: Annotated[list[_minor_frame], array(_minor_frame, 64)]


class xen_sysctl_credit_schedule(Struct):
    """Credit scheduler; ms, us."""

    tslice_ms: u32
    ratelimit_us: u32
    vcpu_migr_delay_us: u32


class xen_sysctl_credit2_schedule(Struct):
    """Credit2 scheduler; us."""

    ratelimit_us: u32


class xen_sysctl_sched_arinc653(Struct):
    """ARINC 653 scheduler."""

    schedule: handle64


class _xen_sysctl_scheduler_op_u(Union):
    sched_arinc653: xen_sysctl_sched_arinc653
    sched_credit: xen_sysctl_credit_schedule
    sched_credit2: xen_sysctl_credit2_schedule


class xen_sysctl_scheduler_op(Struct):
    """Scheduler of a pool."""

    cpupool_id: u32
    sched_id: u32
    cmd: u32
    u: _xen_sysctl_scheduler_op_u


class xen_sysctl_coverage_op(Struct):
    """Code coverage."""

    cmd: u32
    size: u32
    buffer: handle64


class _xen_sysctl_psr_cmt_op_u_l3_cache(Struct):
    cpu: u32
    rsvd: u32


class _xen_sysctl_psr_cmt_op_u(Union):
    data: u64
    l3_cache: _xen_sysctl_psr_cmt_op_u_l3_cache


class xen_sysctl_psr_cmt_op(Struct):
    """Cache monitoring."""

    cmd: u32
    flags: x32
    u: _xen_sysctl_psr_cmt_op_u


class xen_sysctl_pcitopoinfo(Struct):
    """OUT: nodes of PCI devices."""

    num_devs: u32
    devs: handle64
    nodes: handle64


class _xen_sysctl_psr_alloc_u_cat_info(Struct):
    cbm_len: u32
    cos_max: u32
    flags: x32


class _xen_sysctl_psr_alloc_u_mba_info(Struct):
    thrtl_max: u32
    cos_max: u32
    flags: x32


class _xen_sysctl_psr_alloc_u(Union):
    cat_info: _xen_sysctl_psr_alloc_u_cat_info
    mba_info: _xen_sysctl_psr_alloc_u_mba_info


class xen_sysctl_psr_alloc(Struct):
    """OUT: what cache allocation can do."""

    cmd: u32
    target: u32
    u: _xen_sysctl_psr_alloc_u


class xen_sysctl_cpu_levelling_caps(Struct):
    """OUT: which CPUID leaves can be masked."""

    caps: x32


class xen_sysctl_cpu_featureset(Struct):
    """OUT: a featureset."""

    index: u32
    nr_features: u32
    features: handle64


class xen_livepatch_name(Struct):
    """Name of a live patch."""

    name: handle64
    size: u16
    pad: Annotated[list[int], array(u16, 3)]


class xen_sysctl_livepatch_upload(Struct):
    """Load a live patch."""

    name: xen_livepatch_name
    size: u64
    payload: handle64


class xen_livepatch_status(Struct):
    """State of a live patch."""

    state: u32
    rc: i32


class xen_sysctl_livepatch_get(Struct):
    """OUT: status."""

    name: xen_livepatch_name
    status: xen_livepatch_status


class xen_sysctl_livepatch_list(Struct):
    """OUT: all live patches."""

    version: u32
    idx: x32
    nr: u32
    pad: u32
    name_total_size: u32
    metadata_total_size: u32
    status: handle64
    name: handle64
    len: handle64
    metadata: handle64
    metadata_len: handle64


class xen_sysctl_livepatch_action(Struct):
    """Apply, revert or unload."""

    name: xen_livepatch_name
    cmd: u32
    timeout: u32
    flags: x32
    pad: u32


class _xen_sysctl_livepatch_op_u(Union):
    upload: xen_sysctl_livepatch_upload
    list: xen_sysctl_livepatch_list
    get: xen_sysctl_livepatch_get
    action: xen_sysctl_livepatch_action


class xen_sysctl_livepatch_op(Struct):
    """Live patches."""

    cmd: u32
    pad: u32
    u: _xen_sysctl_livepatch_op_u


class xen_sysctl_cpu_policy(Struct):
    """OUT: a CPUID and MSR policy."""

    index: u32
    nr_leaves: u32
    nr_msrs: u32
    _rsvd: u32
    leaves: handle64
    msrs: handle64
