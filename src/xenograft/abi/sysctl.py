# SPDX-License-Identifier: GPL-2.0-or-later
"""public/sysctl.h: what a toolstack does to, and learns of, the machine (HYPERVISOR_sysctl)."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.struct import Struct, Union, octets, selects, u32
from xenograft.abi.sysctl_structs import (
    xen_sysctl_availheap,
    xen_sysctl_coverage_op,
    xen_sysctl_cpu_featureset,
    xen_sysctl_cpu_hotplug,
    xen_sysctl_cpu_levelling_caps,
    xen_sysctl_cpu_policy,
    xen_sysctl_cpupool_op,
    xen_sysctl_cputopoinfo,
    xen_sysctl_debug_keys,
    xen_sysctl_get_pmstat,
    xen_sysctl_getcpuinfo,
    xen_sysctl_getdomaininfolist,
    xen_sysctl_livepatch_op,
    xen_sysctl_lockprof_op,
    xen_sysctl_numainfo,
    xen_sysctl_page_offline_op,
    xen_sysctl_pcitopoinfo,
    xen_sysctl_perfc_op,
    xen_sysctl_physinfo,
    xen_sysctl_pm_op,
    xen_sysctl_psr_alloc,
    xen_sysctl_psr_cmt_op,
    xen_sysctl_readconsole,
    xen_sysctl_sched_id,
    xen_sysctl_scheduler_op,
    xen_sysctl_tbuf_op,
)

XEN_SYSCTL_INTERFACE_VERSION = 0x15

# xen_sysctl.cmd.
XEN_SYSCTL_readconsole = 1
XEN_SYSCTL_tbuf_op = 2
XEN_SYSCTL_physinfo = 3
XEN_SYSCTL_sched_id = 4
XEN_SYSCTL_perfc_op = 5
XEN_SYSCTL_getdomaininfolist = 6
XEN_SYSCTL_debug_keys = 7
XEN_SYSCTL_getcpuinfo = 8
XEN_SYSCTL_availheap = 9
XEN_SYSCTL_get_pmstat = 10
XEN_SYSCTL_cpu_hotplug = 11
XEN_SYSCTL_pm_op = 12
XEN_SYSCTL_page_offline_op = 14
XEN_SYSCTL_lockprof_op = 15
XEN_SYSCTL_cputopoinfo = 16
XEN_SYSCTL_numainfo = 17
XEN_SYSCTL_cpupool_op = 18
XEN_SYSCTL_scheduler_op = 19
XEN_SYSCTL_coverage_op = 20
XEN_SYSCTL_psr_cmt_op = 21
XEN_SYSCTL_pcitopoinfo = 22
XEN_SYSCTL_psr_alloc = 23
XEN_SYSCTL_get_cpu_levelling_caps = 25
XEN_SYSCTL_get_cpu_featureset = 26
XEN_SYSCTL_livepatch_op = 27
XEN_SYSCTL_get_cpu_policy = 29

# xen_sysctl_tbuf_op.cmd.
XEN_SYSCTL_TBUFOP_get_info = 0
XEN_SYSCTL_TBUFOP_set_cpu_mask = 1
XEN_SYSCTL_TBUFOP_set_evt_mask = 2
XEN_SYSCTL_TBUFOP_set_size = 3
XEN_SYSCTL_TBUFOP_enable = 4
XEN_SYSCTL_TBUFOP_disable = 5

# xen_sysctl_physinfo.capabilities.
XEN_SYSCTL_PHYSCAP_hvm = 1
XEN_SYSCTL_PHYSCAP_pv = 2
XEN_SYSCTL_PHYSCAP_directio = 4
XEN_SYSCTL_PHYSCAP_hap = 8
XEN_SYSCTL_PHYSCAP_shadow = 0x10
XEN_SYSCTL_PHYSCAP_iommu_hap_pt_share = 0x20
XEN_SYSCTL_PHYSCAP_vmtrace = 1 << 6
XEN_SYSCTL_PHYSCAP_vpmu = 1 << 7
XEN_SYSCTL_PHYSCAP_gnttab_v1 = 1 << 8
XEN_SYSCTL_PHYSCAP_gnttab_v2 = 1 << 9
XEN_SYSCTL_PHYSCAP_MAX = 512

# xen_sysctl_perfc_op.cmd.
XEN_SYSCTL_PERFCOP_reset = 1
XEN_SYSCTL_PERFCOP_query = 2

# xen_sysctl_get_pmstat.type.
PMSTAT_CATEGORY_MASK = 0xF0
PMSTAT_PX = 0x10
PMSTAT_CX = 0x20
PMSTAT_get_max_px = 0x11
PMSTAT_get_pxstat = 0x12
PMSTAT_reset_pxstat = 0x13
PMSTAT_get_max_cx = 0x21
PMSTAT_get_cxstat = 0x22
PMSTAT_reset_cxstat = 0x23

# xen_sysctl_cpu_hotplug.op.
XEN_SYSCTL_CPU_HOTPLUG_ONLINE = 0
XEN_SYSCTL_CPU_HOTPLUG_OFFLINE = 1
XEN_SYSCTL_CPU_HOTPLUG_SMT_ENABLE = 2
XEN_SYSCTL_CPU_HOTPLUG_SMT_DISABLE = 3

# xen_sysctl_pm_op.
CPUFREQ_NAME_LEN = 16
SCALING_MAX_FREQ = 1
SCALING_MIN_FREQ = 2
SCALING_SETSPEED = 3
SAMPLING_RATE = 4
UP_THRESHOLD = 5
PM_PARA_CATEGORY_MASK = 0xF0
CPUFREQ_PARA = 0x10
GET_CPUFREQ_PARA = 0x11
SET_CPUFREQ_GOV = 0x12
SET_CPUFREQ_PARA = 0x13
GET_CPUFREQ_AVGFREQ = 0x14
XEN_SYSCTL_pm_op_set_sched_opt_smt = 0x21
XEN_SYSCTL_pm_op_get_max_cstate = 0x22
XEN_SYSCTL_pm_op_set_max_cstate = 0x23
XEN_SYSCTL_pm_op_set_vcpu_migration_delay = 0x24
XEN_SYSCTL_pm_op_get_vcpu_migration_delay = 0x25
XEN_SYSCTL_pm_op_enable_turbo = 0x26
XEN_SYSCTL_pm_op_disable_turbo = 0x27
XEN_SYSCTL_CX_UNLIMITED = 0xFFFFFFFF

# xen_sysctl_page_offline_op.
sysctl_page_offline = 1
sysctl_page_online = 2
sysctl_query_page_offline = 3
PG_OFFLINE_STATUS_MASK = 0xFF
PG_OFFLINE_INVALID = 1
PG_OFFLINE_OFFLINED = 2
PG_OFFLINE_PENDING = 4
PG_OFFLINE_FAILED = 8
PG_OFFLINE_AGAIN = 0x10
PG_ONLINE_FAILED = 8
PG_ONLINE_ONLINED = 2
PG_OFFLINE_STATUS_OFFLINED = 2
PG_OFFLINE_STATUS_ONLINE = 4
PG_OFFLINE_STATUS_OFFLINE_PENDING = 8
PG_OFFLINE_STATUS_BROKEN = 0x10
PG_OFFLINE_MISC_MASK = 0xFF0
PG_OFFLINE_XENPAGE = 0x100
PG_OFFLINE_DOM0PAGE = 0x200
PG_OFFLINE_ANONYMOUS = 0x400
PG_OFFLINE_NOT_CONV_RAM = 0x800
PG_OFFLINE_OWNED = 0x1000
PG_OFFLINE_BROKEN = 0x2000
PG_ONLINE_BROKEN = 8192
PG_OFFLINE_OWNER_SHIFT = 16

# xen_sysctl_lockprof_op.
XEN_SYSCTL_LOCKPROF_reset = 1
XEN_SYSCTL_LOCKPROF_query = 2
LOCKPROF_TYPE_GLOBAL = 0
LOCKPROF_TYPE_PERDOM = 1
LOCKPROF_TYPE_N = 2

# Topology that is not known.
XEN_INVALID_CORE_ID = 0xFFFFFFFF
XEN_INVALID_SOCKET_ID = 0xFFFFFFFF
XEN_INVALID_NODE_ID = 0xFFFFFFFF
XEN_INVALID_MEM_SZ = 0xFFFFFFFF
XEN_INVALID_NODE_DIST = 0xFFFFFFFF
XEN_INVALID_DEV = 0xFFFFFFFE

# xen_sysctl_cpupool_op.
XEN_SYSCTL_CPUPOOL_OP_CREATE = 1
XEN_SYSCTL_CPUPOOL_OP_DESTROY = 2
XEN_SYSCTL_CPUPOOL_OP_INFO = 3
XEN_SYSCTL_CPUPOOL_OP_ADDCPU = 4
XEN_SYSCTL_CPUPOOL_OP_RMCPU = 5
XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN = 6
XEN_SYSCTL_CPUPOOL_OP_FREEINFO = 7
XEN_SYSCTL_CPUPOOL_PAR_ANY = 0xFFFFFFFF

# xen_sysctl_scheduler_op.
ARINC653_MAX_DOMAINS_PER_SCHEDULE = 64
XEN_SYSCTL_SCHED_RATELIMIT_MAX = 500000
XEN_SYSCTL_SCHED_RATELIMIT_MIN = 100
XEN_SYSCTL_CSCHED_TSLICE_MAX = 1000
XEN_SYSCTL_CSCHED_TSLICE_MIN = 1
XEN_SYSCTL_CSCHED_MGR_DLY_MAX_US = 100000
XEN_SYSCTL_SCHEDOP_putinfo = 0
XEN_SYSCTL_SCHEDOP_getinfo = 1

# xen_sysctl_coverage_op.cmd.
XEN_GCOV_FORMAT_MAGIC = 0x58434F56
XEN_SYSCTL_COVERAGE_get_size = 0
XEN_SYSCTL_COVERAGE_read = 1
XEN_SYSCTL_COVERAGE_reset = 2

# xen_sysctl_psr_cmt_op.cmd, xen_sysctl_psr_alloc.cmd.
XEN_SYSCTL_PSR_CMT_get_total_rmid = 0
XEN_SYSCTL_PSR_CMT_get_l3_upscaling_factor = 1
XEN_SYSCTL_PSR_CMT_get_l3_cache_size = 2
XEN_SYSCTL_PSR_CMT_enabled = 3
XEN_SYSCTL_PSR_CMT_get_l3_event_mask = 4
XEN_SYSCTL_PSR_get_l3_info = 0
XEN_SYSCTL_PSR_get_l2_info = 1
XEN_SYSCTL_PSR_get_mba_info = 2
XEN_SYSCTL_PSR_CAT_L3_CDP = 1 << 0
XEN_SYSCTL_PSR_MBA_LINEAR = 1 << 0

# xen_sysctl_cpu_levelling_caps.caps.
XEN_SYSCTL_CPU_LEVELCAP_faulting = 1 << 0
XEN_SYSCTL_CPU_LEVELCAP_ecx = 1 << 1
XEN_SYSCTL_CPU_LEVELCAP_edx = 1 << 2
XEN_SYSCTL_CPU_LEVELCAP_extd_ecx = 1 << 3
XEN_SYSCTL_CPU_LEVELCAP_extd_edx = 1 << 4
XEN_SYSCTL_CPU_LEVELCAP_xsave_eax = 1 << 5
XEN_SYSCTL_CPU_LEVELCAP_thermal_ecx = 1 << 6
XEN_SYSCTL_CPU_LEVELCAP_l7s0_eax = 1 << 7
XEN_SYSCTL_CPU_LEVELCAP_l7s0_ebx = 1 << 8

# xen_sysctl_cpu_featureset.index, xen_sysctl_cpu_policy.index.
XEN_SYSCTL_cpu_featureset_raw = 0
XEN_SYSCTL_cpu_featureset_host = 1
XEN_SYSCTL_cpu_featureset_pv = 2
XEN_SYSCTL_cpu_featureset_hvm = 3
XEN_SYSCTL_cpu_featureset_pv_max = 4
XEN_SYSCTL_cpu_featureset_hvm_max = 5
XEN_SYSCTL_cpu_policy_raw = 0
XEN_SYSCTL_cpu_policy_host = 1
XEN_SYSCTL_cpu_policy_pv_max = 2
XEN_SYSCTL_cpu_policy_hvm_max = 3
XEN_SYSCTL_cpu_policy_pv_default = 4
XEN_SYSCTL_cpu_policy_hvm_default = 5

# xen_sysctl_livepatch_op.
LIVEPATCH_PAYLOAD_VERSION = 2
XEN_LIVEPATCH_NAME_SIZE = 128
XEN_SYSCTL_LIVEPATCH_UPLOAD = 0
XEN_SYSCTL_LIVEPATCH_GET = 1
LIVEPATCH_STATE_CHECKED = 1
LIVEPATCH_STATE_APPLIED = 2
XEN_SYSCTL_LIVEPATCH_LIST = 2
XEN_SYSCTL_LIVEPATCH_ACTION = 3
LIVEPATCH_ACTION_UNLOAD = 1
LIVEPATCH_ACTION_REVERT = 2
LIVEPATCH_ACTION_APPLY = 3
LIVEPATCH_ACTION_REPLACE = 4
LIVEPATCH_ACTION_APPLY_NODEPS = 1 << 0

SYSCTL_NAMES: dict[int, str] = {
    number: name.removeprefix("XEN_SYSCTL_")
    for name, number in sorted(globals().items())
    if name.startswith("XEN_SYSCTL_")
    and name[11].islower()
    and not name.startswith(
        ("XEN_SYSCTL_pm_op_", "XEN_SYSCTL_cpu_featureset_", "XEN_SYSCTL_cpu_policy_")
    )
}
"""Operation to name."""

# Where the operand of an operation is not the member of its own name.
_MEMBERS = SYSCTL_NAMES | {
    XEN_SYSCTL_page_offline_op: "page_offline",
    XEN_SYSCTL_get_cpu_levelling_caps: "cpu_levelling_caps",
    XEN_SYSCTL_get_cpu_featureset: "cpu_featureset",
    XEN_SYSCTL_livepatch_op: "livepatch",
    XEN_SYSCTL_get_cpu_policy: "cpu_policy",
}


class _xen_sysctl_u(Union):
    readconsole: xen_sysctl_readconsole
    tbuf_op: xen_sysctl_tbuf_op
    physinfo: xen_sysctl_physinfo
    cputopoinfo: xen_sysctl_cputopoinfo
    pcitopoinfo: xen_sysctl_pcitopoinfo
    numainfo: xen_sysctl_numainfo
    sched_id: xen_sysctl_sched_id
    perfc_op: xen_sysctl_perfc_op
    getdomaininfolist: xen_sysctl_getdomaininfolist
    debug_keys: xen_sysctl_debug_keys
    getcpuinfo: xen_sysctl_getcpuinfo
    availheap: xen_sysctl_availheap
    get_pmstat: xen_sysctl_get_pmstat
    cpu_hotplug: xen_sysctl_cpu_hotplug
    pm_op: xen_sysctl_pm_op
    page_offline: xen_sysctl_page_offline_op
    lockprof_op: xen_sysctl_lockprof_op
    cpupool_op: xen_sysctl_cpupool_op
    scheduler_op: xen_sysctl_scheduler_op
    coverage_op: xen_sysctl_coverage_op
    psr_cmt_op: xen_sysctl_psr_cmt_op
    psr_alloc: xen_sysctl_psr_alloc
    cpu_levelling_caps: xen_sysctl_cpu_levelling_caps
    cpu_featureset: xen_sysctl_cpu_featureset
    livepatch: xen_sysctl_livepatch_op
    cpu_policy: xen_sysctl_cpu_policy
    pad: Annotated[bytes, octets(128)]


class xen_sysctl(Struct):
    """HYPERVISOR_sysctl."""

    _selects_ = selects(u=("cmd", _MEMBERS))

    cmd: u32
    interface_version: u32
    u: _xen_sysctl_u
