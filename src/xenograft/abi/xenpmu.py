# SPDX-License-Identifier: GPL-2.0-or-later
"""public/pmu.h: performance counters of guests (HYPERVISOR_xenpmu_op)."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.arch_x86.pmu import xen_pmu_arch
from xenograft.abi.struct import Struct, domid_t, octets, u32, u64

# xenpmu_op.
XENPMU_mode_get = 0
XENPMU_mode_set = 1
XENPMU_feature_get = 2
XENPMU_feature_set = 3
XENPMU_init = 4
XENPMU_finish = 5
XENPMU_lvtpc_set = 6
XENPMU_flush = 7

# Interface version.
XENPMU_VER_MAJ = 0
XENPMU_VER_MIN = 1

# Modes.
XENPMU_MODE_OFF = 0
XENPMU_MODE_SELF = 1 << 0
XENPMU_MODE_HV = 1 << 1
XENPMU_MODE_ALL = 1 << 2

# Features.
XENPMU_FEATURE_INTEL_BTS = 1 << 0
XENPMU_FEATURE_IPC_ONLY = 1 << 1
XENPMU_FEATURE_ARCH_ONLY = 1 << 2


class _xen_pmu_params_version(Struct):
    maj: u32
    min: u32


class xen_pmu_params(Struct):
    """IN/OUT: version, value; IN: vCPU."""

    version: _xen_pmu_params_version
    val: u64
    vcpu: u32
    pad: u32


class xen_pmu_data(Struct):
    """The page that Xen and a vCPU share."""

    vcpu_id: u32
    pcpu_id: u32
    domain_id: domid_t
    pad: Annotated[bytes, octets(6)]
    pmu: xen_pmu_arch
