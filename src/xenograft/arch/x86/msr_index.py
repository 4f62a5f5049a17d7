# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers of model-specific registers, with Xen's names (asm/msr-index.h)."""

from __future__ import annotations

from typing import Final

MSR_P5_MC_ADDR: Final = 0x0
MSR_P5_MC_TYPE: Final = 0x1
MSR_IA32_TSC: Final = 0x10
MSR_IA32_PLATFORM_ID: Final = 0x17
MSR_APIC_BASE: Final = 0x1B
MSR_IA32_FEATURE_CONTROL: Final = 0x3A
MSR_IA32_TSC_ADJUST: Final = 0x3B
MSR_SPEC_CTRL: Final = 0x48
MSR_PRED_CMD: Final = 0x49
MSR_IA32_UCODE_WRITE: Final = 0x79
MSR_IA32_UCODE_REV: Final = 0x8B
MSR_INTEL_PLATFORM_INFO: Final = 0xCE
MSR_ARCH_CAPABILITIES: Final = 0x10A
MSR_FLUSH_CMD: Final = 0x10B
MSR_INTEL_MISC_FEATURES_ENABLES: Final = 0x140
MSR_IA32_SYSENTER_CS: Final = 0x174
MSR_IA32_SYSENTER_ESP: Final = 0x175
MSR_IA32_SYSENTER_EIP: Final = 0x176
MSR_IA32_MCG_CAP: Final = 0x179
MSR_IA32_MCG_STATUS: Final = 0x17A
MSR_IA32_MCG_CTL: Final = 0x17B
MSR_IA32_PERF_STATUS: Final = 0x198
MSR_IA32_PERF_CTL: Final = 0x199
MSR_IA32_THERM_STATUS: Final = 0x19C
MSR_IA32_MISC_ENABLE: Final = 0x1A0
MSR_IA32_DEBUGCTLMSR: Final = 0x1D9
MSR_IA32_CR_PAT: Final = 0x277
MSR_IA32_MC0_CTL2: Final = 0x280
MSR_IA32_MC0_CTL: Final = 0x400
MSR_IA32_MCG_EXT_CTL: Final = 0x4D0
MSR_IA32_TSC_DEADLINE: Final = 0x6E0
MSR_XEN_HYPERCALL_PAGE: Final = 0x40000000
MSR_EFER: Final = 0xC0000080
MSR_STAR: Final = 0xC0000081
MSR_LSTAR: Final = 0xC0000082
MSR_CSTAR: Final = 0xC0000083
MSR_SYSCALL_MASK: Final = 0xC0000084
MSR_FS_BASE: Final = 0xC0000100
MSR_GS_BASE: Final = 0xC0000101
MSR_SHADOW_GS_BASE: Final = 0xC0000102
MSR_TSC_AUX: Final = 0xC0000103
MSR_K8_HWCR: Final = 0xC0010015
MSR_K8_SYSCFG: Final = 0xC0010010
MSR_K8_TOP_MEM1: Final = 0xC001001A
MSR_K8_TOP_MEM2: Final = 0xC001001D
MSR_AMD64_NB_CFG: Final = 0xC001001F
MSR_K8_ENABLE_C1E: Final = 0xC0010055
MSR_K8_VM_CR: Final = 0xC0010114
MSR_AMD64_DE_CFG: Final = 0xC0011029
MSR_AMD64_EX_CFG: Final = 0xC001102C

NAMES: Final[dict[int, str]] = {
    value: name.removeprefix("MSR_")
    for name, value in list(globals().items())
    if name.startswith("MSR_") and isinstance(value, int)
}
"""Short names for traces and crash reports."""
