# SPDX-License-Identifier: GPL-2.0-or-later
"""The CPUID leaves that don't follow from features alone: identity, caches, topology, Xen's own.

Xen's leaves: public/arch-x86/cpuid.h and cpuid_hypervisor_leaves() in xen/arch/x86/traps.c.
Topology as libxc gives it to HVM-type guests (tools/libs/guest/xg_cpuid_x86.c): the APIC id is
twice the number of the vCPU, and all vCPUs are cores of one package without hyperthreads.
"""

from __future__ import annotations

from math import gcd
from typing import Final, NamedTuple

import msgspec

from xenograft.arch.x86.cpuid import engine
from xenograft.arch.x86.pvclock import scale_from_khz

Regs = tuple[int, int, int, int]
"""EAX, EBX, ECX, EDX."""
EMPTY: Final[Regs] = (0, 0, 0, 0)

XEN_CPUID_BASE: Final = 0x40000000
XEN_CPUID_MAX_NUM_LEAVES: Final = 5
XEN_CPUID_SIGNATURE: Final = (0x566E6558, 0x65584D4D, 0x4D4D566E)
"""``XenVMMXenVMM``."""
XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD: Final = 1 << 0
XEN_HVM_CPUID_IOMMU_MAPPINGS: Final = 1 << 2
XEN_HVM_CPUID_VCPU_ID_PRESENT: Final = 1 << 3
XEN_HVM_CPUID_DOMID_PRESENT: Final = 1 << 4
XEN_HVM_CPUID_UPCALL_VECTOR: Final = 1 << 6
XEN_HYPERCALL_MSR: Final = 0x40000000

TSC_MODE_DEFAULT: Final = 0
TSC_MODE_ALWAYS_EMULATE: Final = 1
TSC_MODE_NEVER_EMULATE: Final = 2


class HypervisorInfo(msgspec.Struct, frozen=True):
    """What Xen's leaves tell a domain about its host and itself."""

    domid: int = 0
    hvm: bool = True
    version: tuple[int, int] = (4, 17)
    tsc_khz: int = 1_000_000
    host_khz: int = 1_000_000
    tsc_mode: int = TSC_MODE_DEFAULT
    tsc_emulated: bool = False
    tsc_offset: int = 0
    incarnation: int = 1
    machine_address_bits: int = engine.PHYS_BITS
    limit: int = 0
    """Highest sub-leaf shown (libxl's maxhvleaf); 0: all."""

    @property
    def last(self) -> int:
        if not self.limit:
            return XEN_CPUID_MAX_NUM_LEAVES
        return min(max(self.limit, 2), XEN_CPUID_MAX_NUM_LEAVES)


def hypervisor_leaf(info: HypervisorInfo, leaf: int, subleaf: int, vcpu_id: int) -> Regs:
    """One of Xen's leaves, 0x40000000 and up, as `vcpu_id` sees it."""
    index = leaf - XEN_CPUID_BASE
    if index > info.last:
        return EMPTY
    match index:
        case 0:
            return (XEN_CPUID_BASE + info.last, *XEN_CPUID_SIGNATURE)
        case 1:
            return (info.version[0] << 16 | info.version[1], 0, 0, 0)
        case 2:
            features = 0 if info.hvm else XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD
            return (1, XEN_HYPERCALL_MSR, features, 0)
        case 3:
            return _time_leaf(info, subleaf)
        case 4 if info.hvm and subleaf == 0:
            flags = (
                XEN_HVM_CPUID_IOMMU_MAPPINGS
                | XEN_HVM_CPUID_VCPU_ID_PRESENT
                | XEN_HVM_CPUID_DOMID_PRESENT
                | XEN_HVM_CPUID_UPCALL_VECTOR
            )
            return (flags, vcpu_id, info.domid, 0)
        case 5 if not info.hvm and subleaf == 0:
            return (0, info.machine_address_bits, 0, 0)
    return EMPTY


def _time_leaf(info: HypervisorInfo, subleaf: int) -> Regs:
    """The TSC's properties: our TSC always runs evenly, and RDTSCP exists."""
    match subleaf:
        case 0:
            flags = int(info.tsc_emulated) | 1 << 1 | 1 << 2
            return (flags, info.tsc_mode, info.tsc_khz, info.incarnation)
        case 1:
            offset = 0 if info.tsc_emulated else info.tsc_offset & 0xFFFFFFFFFFFFFFFF
            scale = scale_from_khz(info.tsc_khz)
            return (offset & 0xFFFFFFFF, offset >> 32, scale.mul, scale.shift & 0xFFFFFFFF)
        case 2:
            return (info.host_khz, 0, 0, 0)
    return EMPTY


class Topology(NamedTuple):
    """How many ids a package has room for: twice its vCPUs, rounded up to a power of two."""

    ids: int

    @classmethod
    def of(cls, vcpus: int) -> Topology:
        return cls(2 << max(vcpus - 1, 0).bit_length())


def brand_leaves(brand: str) -> dict[tuple[int, int], Regs]:
    """Leaves 0x80000002 to 4: up to 47 characters of ASCII."""
    data = brand.encode("ascii")[:47].ljust(48, b"\0")
    words = [int.from_bytes(data[i : i + 4], "little") for i in range(0, 48, 4)]
    return {
        (0x80000002 + i, -1): (words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3])
        for i in range(3)
    }


def cache_leaves(topology: Topology) -> dict[tuple[int, int], Regs]:
    """Leaf 4: a sub-leaf per cache, then an empty one."""
    leaves: dict[tuple[int, int], Regs] = {}
    for index, (kind, level, size, ways) in enumerate(engine.CACHES):
        sets = size // ways // engine.CLFLUSH_SIZE
        cores = min(topology.ids, 64) - 1
        eax = kind | level << 5 | 1 << 8 | cores << 26
        ebx = engine.CLFLUSH_SIZE - 1 | (ways - 1) << 22
        leaves[4, index] = (eax, ebx, sets - 1, 0)
    leaves[4, len(engine.CACHES)] = EMPTY
    return leaves


def frequency_leaves(tsc_khz: int) -> dict[tuple[int, int], Regs]:
    """Leaves 0x15 (TSC to crystal clock; the crystal drives the APIC timer) and 0x16 (MHz)."""
    divisor = gcd(tsc_khz * 1000, engine.APIC_BUS_HZ)
    mhz = max(tsc_khz // 1000, 1)
    return {
        (0x15, -1): (
            engine.APIC_BUS_HZ // divisor,
            tsc_khz * 1000 // divisor & 0xFFFFFFFF,
            engine.APIC_BUS_HZ,
            0,
        ),
        (0x16, -1): (mhz, mhz, engine.APIC_BUS_HZ // 1_000_000, 0),
    }


def identity_leaves(vcpus: int, tsc_khz: int) -> dict[tuple[int, int], Regs]:
    """Everything but the feature bits, for a guest of `vcpus` vCPUs; subleaf -1: has none."""
    topology = Topology.of(vcpus)
    ebx, edx, ecx = engine.VENDORS[engine.VENDOR]
    logical = min(topology.ids, 255)
    l2_bytes, l2_ways = engine.CACHES[2][2:]
    # The code for an associativity of 8 in AMD's cache leaves is 6.
    l2 = (l2_bytes >> 10) << 16 | {4: 4, 8: 6, 16: 8}[l2_ways] << 12 | engine.CLFLUSH_SIZE
    return {
        (0x0, -1): (0x16, ebx, ecx, edx),
        (0x1, -1): (engine.SIGNATURE, logical << 16 | (engine.CLFLUSH_SIZE // 8) << 8, 0, 0),
        # One query; the caches are in leaf 4.
        (0x2, -1): (0x0000FF01, 0, 0, 0),
        **cache_leaves(topology),
        **frequency_leaves(tsc_khz),
        (0x80000000, -1): (0x80000008, 0, 0, 0),
        **brand_leaves(engine.BRAND),
        (0x80000006, -1): (0, 0, l2, 0),
        (0x80000008, -1): (engine.PHYS_BITS | engine.LINEAR_BITS << 8, 0, 0, 0),
    }
