# SPDX-License-Identifier: GPL-2.0-or-later
"""public/arch-x86/cpufeatureset.h: Xen's numbering of CPU features.

A featureset is a bitmap of 32-bit words, one per CPUID register that holds features (and one
MSR); a feature is ``word * 32 + bit``.  The attributes say for which guests Xen has a feature:
"A" all, "S" all HVM-type guests, "H" those with hardware-assisted paging; lower case: only on
request; "!": handled specially.
"""

from __future__ import annotations

from typing import NamedTuple


class FeatureWord(NamedTuple):
    """Where a word of a featureset lies in CPUID (or, with `msr`, in an MSR's halves)."""

    leaf: int
    subleaf: int | None
    register: str
    msr: bool = False


class CpuFeature(NamedTuple):
    """One feature: its number in the featureset, its name, its attributes."""

    number: int
    name: str
    attributes: str

    @property
    def word(self) -> int:
        """Index into `FEATURE_WORDS`."""
        return self.number // 32

    @property
    def bit(self) -> int:
        """Bit in the word."""
        return self.number % 32


FEATURE_WORDS: tuple[FeatureWord, ...] = (
    FeatureWord(0x1, None, "edx"),
    FeatureWord(0x1, None, "ecx"),
    FeatureWord(0x80000001, None, "edx"),
    FeatureWord(0x80000001, None, "ecx"),
    FeatureWord(0xD, 1, "eax"),
    FeatureWord(0x7, 0, "ebx"),
    FeatureWord(0x7, 0, "ecx"),
    FeatureWord(0x80000007, None, "edx"),
    FeatureWord(0x80000008, None, "ebx"),
    FeatureWord(0x7, 0, "edx"),
    FeatureWord(0x7, 1, "eax"),
    FeatureWord(0x80000021, None, "eax"),
    FeatureWord(0x7, 1, "ebx"),
    FeatureWord(0x7, 2, "edx"),
    FeatureWord(0x7, 1, "ecx"),
    FeatureWord(0x7, 1, "edx"),
    FeatureWord(0x0000010A, None, "eax", True),
    FeatureWord(0x0000010A, None, "edx", True),
    FeatureWord(0x80000021, None, "ecx"),
)
"""The words of a featureset, in order."""

# Per word: (bit, name, attributes).
_WORDS: tuple[tuple[tuple[int, str, str], ...], ...] = (
    # 0: MSR 0x1.edx
    (
        (0, "FPU", "A"),
        (1, "VME", "S"),
        (2, "DE", "A"),
        (3, "PSE", "S"),
        (4, "TSC", "A"),
        (5, "MSR", "A"),
        (6, "PAE", "A"),
        (7, "MCE", "A"),
        (8, "CX8", "A"),
        (9, "APIC", "!A"),
        (11, "SEP", "A"),
        (12, "MTRR", "S"),
        (13, "PGE", "S"),
        (14, "MCA", "A"),
        (15, "CMOV", "A"),
        (16, "PAT", "A"),
        (17, "PSE36", "S"),
        (19, "CLFLUSH", "A"),
        (21, "DS", ""),
        (22, "ACPI", "A"),
        (23, "MMX", "A"),
        (24, "FXSR", "A"),
        (25, "SSE", "A"),
        (26, "SSE2", "A"),
        (27, "SS", "A"),
        (28, "HTT", "!A"),
        (29, "TM1", ""),
        (31, "PBE", ""),
    ),
    # 1: MSR 0x1.ecx
    (
        (0, "SSE3", "A"),
        (1, "PCLMULQDQ", "A"),
        (2, "DTES64", ""),
        (3, "MONITOR", ""),
        (4, "DSCPL", ""),
        (5, "VMX", "h"),
        (6, "SMX", ""),
        (7, "EIST", ""),
        (8, "TM2", ""),
        (9, "SSSE3", "A"),
        (12, "FMA", "A"),
        (13, "CX16", "A"),
        (14, "XTPR", ""),
        (15, "PDCM", ""),
        (17, "PCID", "H"),
        (18, "DCA", ""),
        (19, "SSE4_1", "A"),
        (20, "SSE4_2", "A"),
        (21, "X2APIC", "!S"),
        (22, "MOVBE", "A"),
        (23, "POPCNT", "A"),
        (24, "TSC_DEADLINE", "S"),
        (25, "AESNI", "A"),
        (26, "XSAVE", "A"),
        (27, "OSXSAVE", "!"),
        (28, "AVX", "A"),
        (29, "F16C", "A"),
        (30, "RDRAND", "!A"),
        (31, "HYPERVISOR", "!A"),
    ),
    # 2: CPUID 0x80000001.edx
    (
        (11, "SYSCALL", "A"),
        (20, "NX", "A"),
        (22, "MMXEXT", "A"),
        (25, "FFXSR", "A"),
        (26, "PAGE1GB", "H"),
        (27, "RDTSCP", "A"),
        (29, "LM", "A"),
        (30, "3DNOWEXT", "A"),
        (31, "3DNOW", "A"),
    ),
    # 3: CPUID 0x80000001.ecx
    (
        (0, "LAHF_LM", "A"),
        (1, "CMP_LEGACY", "!A"),
        (2, "SVM", "h"),
        (3, "EXTAPIC", ""),
        (4, "CR8_LEGACY", "S"),
        (5, "ABM", "A"),
        (6, "SSE4A", "A"),
        (7, "MISALIGNSSE", "A"),
        (8, "3DNOWPREFETCH", "A"),
        (9, "OSVW", ""),
        (10, "IBS", ""),
        (11, "XOP", "A"),
        (12, "SKINIT", ""),
        (13, "WDT", ""),
        (15, "LWP", ""),
        (16, "FMA4", "A"),
        (19, "NODEID_MSR", ""),
        (21, "TBM", "A"),
        (22, "TOPOEXT", ""),
        (26, "DBEXT", "A"),
        (29, "MONITORX", ""),
    ),
    # 4: CPUID 0xd:1.eax
    (
        (0, "XSAVEOPT", "A"),
        (1, "XSAVEC", "A"),
        (2, "XGETBV1", "A"),
        (3, "XSAVES", "S"),
    ),
    # 5: CPUID 0x7:0.ebx
    (
        (0, "FSGSBASE", "A"),
        (1, "TSC_ADJUST", "S"),
        (2, "SGX", ""),
        (3, "BMI1", "A"),
        (4, "HLE", "!a"),
        (5, "AVX2", "A"),
        (6, "FDP_EXCP_ONLY", "!"),
        (7, "SMEP", "S"),
        (8, "BMI2", "A"),
        (9, "ERMS", "A"),
        (10, "INVPCID", "H"),
        (11, "RTM", "!A"),
        (12, "PQM", ""),
        (13, "NO_FPU_SEL", "!"),
        (14, "MPX", "s"),
        (15, "PQE", ""),
        (16, "AVX512F", "A"),
        (17, "AVX512DQ", "A"),
        (18, "RDSEED", "A"),
        (19, "ADX", "A"),
        (20, "SMAP", "S"),
        (21, "AVX512_IFMA", "A"),
        (23, "CLFLUSHOPT", "A"),
        (24, "CLWB", "!A"),
        (25, "PROC_TRACE", ""),
        (26, "AVX512PF", "A"),
        (27, "AVX512ER", "A"),
        (28, "AVX512CD", "A"),
        (29, "SHA", "A"),
        (30, "AVX512BW", "A"),
        (31, "AVX512VL", "A"),
    ),
    # 6: CPUID 0x7:0.ecx
    (
        (0, "PREFETCHWT1", "A"),
        (1, "AVX512_VBMI", "A"),
        (2, "UMIP", "S"),
        (3, "PKU", "H"),
        (4, "OSPKE", "!"),
        (6, "AVX512_VBMI2", "A"),
        (7, "CET_SS", ""),
        (8, "GFNI", "A"),
        (9, "VAES", "A"),
        (10, "VPCLMULQDQ", "A"),
        (11, "AVX512_VNNI", "A"),
        (12, "AVX512_BITALG", "A"),
        (14, "AVX512_VPOPCNTDQ", "A"),
        (22, "RDPID", "A"),
        (25, "CLDEMOTE", "A"),
        (27, "MOVDIRI", "a"),
        (28, "MOVDIR64B", "a"),
        (29, "ENQCMD", ""),
    ),
    # 7: CPUID 0x80000007.edx
    (
        (7, "HW_PSTATE", ""),
        (8, "ITSC", "a"),
        (9, "CPB", ""),
        (10, "EFRO", ""),
    ),
    # 8: CPUID 0x80000008.ebx
    (
        (0, "CLZERO", "A"),
        (2, "RSTR_FP_ERR_PTRS", "A"),
        (9, "WBNOINVD", ""),
        (12, "IBPB", "A"),
        (14, "IBRS", "S"),
        (15, "AMD_STIBP", "S"),
        (16, "IBRS_ALWAYS", "S"),
        (17, "STIBP_ALWAYS", "S"),
        (18, "IBRS_FAST", "S"),
        (19, "IBRS_SAME_MODE", "S"),
        (20, "NO_LMSL", "S"),
        (23, "AMD_PPIN", ""),
        (24, "AMD_SSBD", "S"),
        (25, "VIRT_SSBD", "!"),
        (26, "SSB_NO", "A"),
        (28, "PSFD", "S"),
        (29, "BTC_NO", "A"),
        (30, "IBPB_RET", "A"),
    ),
    # 9: CPUID 0x7:0.edx
    (
        (2, "AVX512_4VNNIW", "A"),
        (3, "AVX512_4FMAPS", "A"),
        (4, "FSRM", "A"),
        (8, "AVX512_VP2INTERSECT", "a"),
        (9, "SRBDS_CTRL", ""),
        (10, "MD_CLEAR", "!A"),
        (11, "RTM_ALWAYS_ABORT", "!"),
        (13, "TSX_FORCE_ABORT", ""),
        (14, "SERIALIZE", "A"),
        (15, "HYBRID", ""),
        (16, "TSXLDTRK", "a"),
        (20, "CET_IBT", ""),
        (23, "AVX512_FP16", ""),
        (26, "IBRSB", "A"),
        (27, "STIBP", "A"),
        (28, "L1D_FLUSH", "S"),
        (29, "ARCH_CAPS", "!A"),
        (30, "CORE_CAPS", ""),
        (31, "SSBD", "A"),
    ),
    # 10: CPUID 0x7:1.eax
    (
        (4, "AVX_VNNI", "A"),
        (5, "AVX512_BF16", "A"),
        (10, "FZRM", "A"),
        (11, "FSRS", "A"),
        (12, "FSRCS", "A"),
    ),
    # 11: CPUID 0x80000021.eax
    (
        (2, "LFENCE_DISPATCH", "A"),
        (5, "VERW_CLEAR", "!A"),
        (6, "NSCB", "A"),
        (8, "AUTO_IBRS", ""),
        (27, "SBPB", "A"),
        (28, "IBPB_BRTYPE", "A"),
        (29, "SRSO_NO", "A"),
        (30, "SRSO_US_NO", "A!"),
        (31, "SRSO_MSR_FIX", ""),
    ),
    # 12: CPUID 0x7:1.ebx
    ((0, "INTEL_PPIN", ""),),
    # 13: CPUID 0x7:2.edx
    (
        (0, "INTEL_PSFD", "A"),
        (1, "IPRED_CTRL", "S"),
        (2, "RRSBA_CTRL", "S"),
        (4, "BHI_CTRL", "S"),
        (5, "MCDT_NO", "A"),
    ),
    # 14: CPUID 0x7:1.ecx
    (),
    # 15: CPUID 0x7:1.edx
    ((18, "CET_SSS", ""),),
    # 16: MSR 0x10a.eax
    (
        (0, "RDCL_NO", "A"),
        (1, "EIBRS", "A"),
        (2, "RSBA", "!"),
        (3, "SKIP_L1DFL", ""),
        (4, "INTEL_SSB_NO", "A"),
        (5, "MDS_NO", "A"),
        (6, "IF_PSCHANGE_MC_NO", "A"),
        (7, "TSX_CTRL", ""),
        (8, "TAA_NO", "A"),
        (9, "MCU_CTRL", ""),
        (10, "MISC_PKG_CTRL", ""),
        (11, "ENERGY_FILTERING", ""),
        (12, "DOITM", ""),
        (13, "SBDR_SSDP_NO", "A"),
        (14, "FBSDP_NO", "A"),
        (15, "PSDP_NO", "A"),
        (17, "FB_CLEAR", "!A"),
        (18, "FB_CLEAR_CTRL", ""),
        (19, "RRSBA", "!"),
        (20, "BHI_NO", "A"),
        (21, "XAPIC_STATUS", ""),
        (23, "OVRCLK_STATUS", ""),
        (24, "PBRSB_NO", "A"),
        (25, "GDS_CTRL", ""),
        (26, "GDS_NO", "A"),
        (27, "RFDS_NO", "A"),
        (28, "RFDS_CLEAR", "!A"),
    ),
    # 17: MSR 0x10a.edx
    ((30, "ITS_NO", "!A"),),
    # 18: CPUID 0x80000021.ecx
    (
        (1, "TSA_SQ_NO", "A"),
        (2, "TSA_L1_NO", "A"),
    ),
)

FEATURES: tuple[CpuFeature, ...] = tuple(
    CpuFeature(word * 32 + bit, name, attributes)
    for word, entries in enumerate(_WORDS)
    for bit, name, attributes in entries
)
"""All features, ascending by number."""

X86_FEATURE: dict[str, int] = {feature.name: feature.number for feature in FEATURES}
"""X86_FEATURE_<name> to number."""

FEATURESET_NR_ENTRIES = len(FEATURE_WORDS)
