# SPDX-License-Identifier: GPL-2.0-or-later
"""public/arch-x86/cpuid.h: Xen's own CPUID leaves."""

from __future__ import annotations

# Leaf 0x40000000: EAX the last leaf, EBX, ECX, EDX "XenVMMXenVMM".
XEN_CPUID_FIRST_LEAF = 0x40000000
XEN_CPUID_SIGNATURE_EBX = 0x566E6558
XEN_CPUID_SIGNATURE_ECX = 0x65584D4D
XEN_CPUID_SIGNATURE_EDX = 0x4D4D566E

# Leaf 0x40000002: EAX hypercall pages, EBX the MSR that places one, ECX and EDX features.
XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD = 1 << 0

# Leaf 0x40000004, sub-leaf 0: EAX features of HVM-type guests, EBX vCPU id, ECX domain id.
XEN_HVM_CPUID_APIC_ACCESS_VIRT = 1 << 0
XEN_HVM_CPUID_X2APIC_VIRT = 1 << 1
XEN_HVM_CPUID_IOMMU_MAPPINGS = 1 << 2
XEN_HVM_CPUID_VCPU_ID_PRESENT = 1 << 3
XEN_HVM_CPUID_DOMID_PRESENT = 1 << 4
XEN_HVM_CPUID_EXT_DEST_ID = 1 << 5
XEN_HVM_CPUID_UPCALL_VECTOR = 1 << 6

# Leaf 0x40000005, sub-leaf 0: EBX bits 0-7 widest machine address of a PV guest.
XEN_CPUID_MACHINE_ADDRESS_WIDTH_MASK = 0xFF

XEN_CPUID_MAX_NUM_LEAVES = 5


def XEN_CPUID_LEAF(index: int) -> int:
    """Number of Xen's leaf `index`."""
    return XEN_CPUID_FIRST_LEAF + index
