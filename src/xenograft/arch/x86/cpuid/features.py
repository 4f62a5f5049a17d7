# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of CPU features: where each bit is, what it's called, and who may have it.

Names and bits are those of Xen's featureset (`xenograft.abi.arch_x86.cpufeatureset`), spelt as
libxl takes them in a `cpuid=` option: lower case, with hyphens.  Further spellings of libxl are
in `ALIASES`.  The bits of MSR_ARCH_CAPABILITIES are features too, as in Xen.

A feature's availability is one letter, as in Xen's header:

======= ==================================================================================
``A``   all guests, by default
``S``   HVM-type guests, by default
``H``   HVM-type guests with nested paging (all of ours), by default
``a``   all guests, if the configuration asks for it
``s``   HVM-type guests, if asked for
``h``   HVM-type guests with nested paging, if asked for
``-``   no guest
======= ==================================================================================
"""

from __future__ import annotations

from typing import Final, NamedTuple

from xenograft.abi.arch_x86 import cpufeatureset
from xenograft.abi.arch_x86.cpufeatureset import FEATURE_WORDS, CpuFeature

ARCH_CAPABILITIES: Final = 0x10A
"""MSR_ARCH_CAPABILITIES: `Word.leaf` of the two words that aren't CPUID registers."""


class Word(NamedTuple):
    """A register of 32 feature bits. `subleaf` is -1 where the leaf has none."""

    number: int
    leaf: int
    subleaf: int
    register: int
    """0 EAX, 1 EBX, 2 ECX, 3 EDX."""
    is_msr: bool = False

    @property
    def place(self) -> str:
        """For people: ``0x7:0 ebx``."""
        half = ("eax", "ebx", "ecx", "edx")[self.register]
        if self.is_msr:
            return f"msr {self.leaf:#x} {half}"
        return f"{self.leaf:#x}{'' if self.subleaf < 0 else f':{self.subleaf}'} {half}"


class Feature(NamedTuple):
    """One bit of the feature set."""

    name: str
    word: Word
    bit: int
    availability: str
    description: str

    @property
    def number(self) -> int:
        """Xen's number of the feature: ``word * 32 + bit``."""
        return self.word.number * 32 + self.bit


_DESCRIPTIONS: Final[dict[str, str]] = {
    row.split(None, 1)[0]: row.split(None, 1)[1]
    for row in """
    fpu                 x87 floating point unit
    vme                 virtual-8086 mode extensions
    de                  debugging extensions: I/O breakpoints, CR4.DE
    pse                 4 MiB pages
    tsc                 RDTSC
    msr                 RDMSR and WRMSR
    pae                 physical address extension
    mce                 machine check exception
    cx8                 CMPXCHG8B
    apic                local APIC (follows MSR_APIC_BASE)
    sep                 SYSENTER and SYSEXIT
    mtrr                memory type range registers
    pge                 global pages
    mca                 machine check architecture
    cmov                CMOV, and FCMOV with an FPU
    pat                 page attribute table
    pse36               36-bit addresses in 4 MiB pages
    clflush             CLFLUSH
    ds                  debug store
    acpi                thermal and clock control MSRs
    mmx                 MMX
    fxsr                FXSAVE and FXRSTOR
    sse                 SSE
    sse2                SSE2
    ss                  self snoop
    htt                 several logical processors a package
    tm1                 thermal monitor
    pbe                 pending break enable
    sse3                SSE3
    pclmulqdq           carry-less multiplication
    dtes64              64-bit debug store
    monitor             MONITOR and MWAIT
    dscpl               debug store by CPL
    vmx                 virtual machine extensions
    smx                 safer mode extensions
    eist                Enhanced SpeedStep
    tm2                 thermal monitor 2
    ssse3               SSSE3
    fma                 fused multiply-add
    cx16                CMPXCHG16B
    xtpr                task priority messages
    pdcm                performance and debug capability MSR
    pcid                process context identifiers
    dca                 direct cache access
    sse4-1              SSE4.1
    sse4-2              SSE4.2
    x2apic              x2APIC mode
    movbe               MOVBE
    popcnt              POPCNT
    tsc-deadline        local APIC timer in TSC-deadline mode
    aesni               AES rounds
    xsave               XSAVE, XRSTOR, XSETBV and XGETBV
    osxsave             XSAVE enabled (follows CR4.OSXSAVE)
    avx                 AVX
    f16c                half-precision conversions
    rdrand              RDRAND
    hypervisor          running under a hypervisor
    syscall             SYSCALL and SYSRET
    nx                  no-execute pages
    mmxext              AMD's MMX extensions
    ffxsr               fast FXSAVE
    page1gb             1 GiB pages
    rdtscp              RDTSCP and TSC_AUX
    lm                  long mode
    3dnowext            3DNow! extensions
    3dnow               3DNow!
    lahf-lm             LAHF and SAHF in long mode
    cmp-legacy          multi-core without hyperthreads
    svm                 secure virtual machine
    extapic             extended APIC space
    cr8-legacy          MOV CR8 in 32-bit mode
    abm                 LZCNT
    sse4a               SSE4a
    misalignsse         misaligned SSE mode
    3dnowprefetch       PREFETCH and PREFETCHW
    osvw                OS visible workarounds
    ibs                 instruction based sampling
    xop                 XOP
    skinit              SKINIT and STGI
    wdt                 watchdog timer
    lwp                 light weight profiling
    fma4                four-operand FMA
    nodeid-msr          node id MSR
    tbm                 trailing bit manipulation
    topoext             topology extension leaves
    dbext               data breakpoint extension
    monitorx            MONITORX and MWAITX
    xsaveopt            XSAVEOPT
    xsavec              XSAVEC
    xgetbv1             XGETBV of the state in use
    xsaves              XSAVES and XRSTORS
    fsgsbase            RDFSBASE and its kin
    tsc-adjust          TSC_ADJUST MSR
    sgx                 software guard extensions
    bmi1                bit manipulation 1
    hle                 hardware lock elision
    avx2                AVX2
    fdp-excp-only       x87 data pointer set by exceptions alone
    smep                no supervisor execution of user pages
    bmi2                bit manipulation 2
    erms                fast REP MOVSB and STOSB
    invpcid             INVPCID
    rtm                 transactional memory
    pqm                 cache monitoring
    no-fpu-sel          x87 selectors stored as 0
    mpx                 memory protection extensions
    pqe                 cache allocation
    avx512f             AVX-512 foundation
    avx512dq            AVX-512 doublewords and quadwords
    rdseed              RDSEED
    adx                 ADCX and ADOX
    smap                no supervisor access to user pages
    avx512-ifma         AVX-512 integer FMA
    clflushopt          CLFLUSHOPT
    clwb                CLWB
    proc-trace          processor trace
    avx512pf            AVX-512 prefetch
    avx512er            AVX-512 exponential and reciprocal
    avx512cd            AVX-512 conflict detection
    sha                 SHA-1 and SHA-256 rounds
    avx512bw            AVX-512 bytes and words
    avx512vl            AVX-512 vector lengths
    prefetchwt1         PREFETCHWT1
    avx512-vbmi         AVX-512 byte permutations
    umip                no SGDT and the like for users
    pku                 protection keys for user pages
    ospke               protection keys enabled (follows CR4.PKE)
    avx512-vbmi2        AVX-512 byte permutations 2
    cet-ss              shadow stacks
    gfni                Galois field instructions
    vaes                vector AES
    vpclmulqdq          vector carry-less multiplication
    avx512-vnni         AVX-512 neural network instructions
    avx512-bitalg       AVX-512 bit algorithms
    avx512-vpopcntdq    AVX-512 population counts
    rdpid               RDPID
    cldemote            CLDEMOTE
    movdiri             MOVDIRI
    movdir64b           MOVDIR64B
    enqcmd              ENQCMD
    hw-pstate           P-states by MSR
    itsc                invariant TSC
    cpb                 core performance boost
    efro                read-only APERF and MPERF
    clzero              CLZERO
    rstr-fp-err-ptrs    FXSAVE always handles the error pointers
    wbnoinvd            WBNOINVD
    ibpb                barrier for indirect branches
    ibrs                AMD's SPEC_CTRL.IBRS
    amd-stibp           AMD's SPEC_CTRL.STIBP
    ibrs-always         IBRS is best left on
    stibp-always        STIBP is best left on
    ibrs-fast           IBRS is better than software measures
    ibrs-same-mode      IBRS protects within a mode
    no-lmsl             no segment limits in long mode
    amd-ppin            AMD's processor inventory number
    amd-ssbd            AMD's SPEC_CTRL.SSBD
    virt-ssbd           VIRT_SPEC_CTRL.SSBD
    ssb-no              AMD: no speculative store bypass
    psfd                AMD's SPEC_CTRL.PSFD
    btc-no              no branch type confusion
    ibpb-ret            IBPB clears return predictions
    avx512-4vnniw       AVX-512 neural network words
    avx512-4fmaps       AVX-512 packed FMA
    fsrm                fast short REP MOVSB
    avx512-vp2intersect AVX-512 intersections
    srbds-ctrl          MCU_OPT_CTRL MSR
    md-clear            VERW clears buffers
    rtm-always-abort    transactions always abort
    tsx-force-abort     TSX_FORCE_ABORT MSR
    serialize           SERIALIZE
    hybrid              cores of several kinds
    tsxldtrk            TSX load tracking
    cet-ibt             indirect branch tracking
    avx512-fp16         AVX-512 half precision
    ibrsb               SPEC_CTRL.IBRS and PRED_CMD.IBPB
    stibp               SPEC_CTRL.STIBP
    l1d-flush           FLUSH_CMD MSR
    arch-caps           ARCH_CAPABILITIES MSR
    core-caps           CORE_CAPABILITIES MSR
    ssbd                SPEC_CTRL.SSBD
    avx-vnni            AVX neural network instructions
    avx512-bf16         AVX-512 bfloat16
    fzrm                fast REP MOVSB of length 0
    fsrs                fast short REP STOSB
    fsrcs               fast short REP CMPSB and SCASB
    lfence-dispatch     LFENCE always serializes
    verw-clear          AMD: VERW clears buffers
    nscb                a null selector clears base and limit
    auto-ibrs           automatic IBRS
    sbpb                selective branch predictor barrier
    ibpb-brtype         IBPB clears branch types
    srso-no             no speculative return stack overflow
    srso-us-no          the same between user and supervisor
    srso-msr-fix        BP_CFG.BP_SPEC_REDUCE
    intel-ppin          Intel's processor inventory number
    intel-psfd          SPEC_CTRL.PSFD
    ipred-ctrl          SPEC_CTRL.IPRED_DIS
    rrsba-ctrl          SPEC_CTRL.RRSBA_DIS
    bhi-ctrl            SPEC_CTRL.BHI_DIS_S
    mcdt-no             no MXCSR-dependent timing
    cet-sss             supervisor shadow stacks are safe
    rdcl-no             no rogue data cache load (Meltdown)
    eibrs               IBRS that may stay on
    rsba                return predictions may use other sources
    skip-l1dfl          no L1D flush needed on VM entry
    intel-ssb-no        no speculative store bypass
    mds-no              no microarchitectural data sampling
    if-pschange-mc-no   no machine check on page size changes
    tsx-ctrl            TSX_CTRL MSR
    taa-no              no TSX asynchronous abort
    mcu-ctrl            MCU_CTRL MSR
    misc-pkg-ctrl       MISC_PKG_CTRL MSR
    energy-filtering    energy filtering
    doitm               data operand independent timing
    sbdr-ssdp-no        no shared buffer data read
    fbsdp-no            no fill buffer stale data
    psdp-no             no primary stale data
    fb-clear            VERW clears fill buffers
    fb-clear-ctrl       OPT_CPU_CTRL.FB_CLEAR_DIS
    rrsba               restricted return predictions
    bhi-no              no branch history injection
    xapic-status        XAPIC_DISABLE_STATUS MSR
    ovrclk-status       OVERCLOCKING_STATUS MSR
    pbrsb-no            no post-barrier return predictions
    gds-ctrl            MCU_OPT_CTRL.GDS_MITG_DIS
    gds-no              no gather data sampling
    rfds-no             no register file data sampling
    rfds-clear          VERW clears register files
    its-no              no indirect target selection
    tsa-sq-no           no transient scheduler attack by the store queue
    tsa-l1-no           no transient scheduler attack by the L1D
    """.strip().splitlines()
}

WORDS: Final = tuple(
    Word(
        index,
        word.leaf,
        -1 if word.subleaf is None else word.subleaf,
        ("eax", "ebx", "ecx", "edx").index(word.register),
        word.msr,
    )
    for index, word in enumerate(FEATURE_WORDS)
)
"""The feature set's words, in Xen's order."""


def _feature(declared: CpuFeature) -> Feature:
    name = declared.name.lower().replace("_", "-")
    availability = declared.attributes.replace("!", "") or "-"
    word = WORDS[declared.word]
    return Feature(name, word, declared.bit, availability, _DESCRIPTIONS[name])


FEATURES: Final[tuple[Feature, ...]] = tuple(_feature(one) for one in cpufeatureset.FEATURES)
"""Every feature that Xen 4.17 has a name for, in the order of its numbers."""

BY_NAME: Final[dict[str, Feature]] = {feature.name: feature for feature in FEATURES}
BY_NUMBER: Final[dict[int, Feature]] = {feature.number: feature for feature in FEATURES}

ALIASES: Final[dict[str, str]] = {
    "est": "eist",
    "cmpxchg16": "cx16",
    "sse4_1": "sse4-1",
    "sse4.1": "sse4-1",
    "sse4_2": "sse4-2",
    "sse4.2": "sse4-2",
    "aes": "aesni",
    "cmpxchg8": "cx8",
    "sysenter": "sep",
    "clfsh": "clflush",
    "tm": "tm1",
    "tsc_adjust": "tsc-adjust",
    "cmt": "pqm",
    "lahfsahf": "lahf-lm",
    "cmplegacy": "cmp-legacy",
    "altmovcr8": "cr8-legacy",
    "nodeid": "nodeid-msr",
    "invtsc": "itsc",
    "ppin": "amd-ppin",
    "lfence+": "lfence-dispatch",
}
"""Other names that libxl takes for a feature (tools/libs/light/libxl_cpuid.c)."""

COMMON_1D: Final = 0x0183F3FF
"""Bits of leaf 1 EDX that AMD repeats in leaf 0x80000001 EDX."""

_DEPENDENTS: Final[dict[str, str]] = {
    "fpu": "mmx rstr-fp-err-ptrs",
    "pse": "pse36",
    "pae": "lm nx",
    "tsc": "tsc-deadline rdtscp tsc-adjust itsc",
    "apic": "x2apic tsc-deadline extapic",
    "mmx": "mmxext 3dnow",
    "fxsr": "ffxsr sse",
    "sse": "sse2 misalignsse",
    "sse2": "sse3 lm aesni pclmulqdq sha gfni",
    "sse3": "ssse3 sse4a",
    "ssse3": "sse4-1",
    "sse4-1": "sse4-2",
    "xsave": "xsaveopt xsavec xgetbv1 xsaves avx mpx pku lwp",
    "avx": "fma fma4 f16c avx2 xop",
    "nx": "smap",
    "lm": "cx16 pcid lahf-lm page1gb pku no-lmsl",
    "3dnow": "3dnowext",
    "avx2": "avx512f vaes vpclmulqdq avx-vnni",
    "avx512f": "avx512dq avx512-ifma avx512pf avx512er avx512cd avx512bw avx512vl "
    "avx512-4vnniw avx512-4fmaps avx512-vnni avx512-vpopcntdq avx512-vp2intersect",
    "avx512bw": "avx512-vbmi avx512-vbmi2 avx512-bitalg avx512-bf16 avx512-fp16",
    "pclmulqdq": "vpclmulqdq",
    "aesni": "vaes",
    "ibrsb": "stibp ssbd intel-psfd eibrs ipred-ctrl rrsba-ctrl bhi-ctrl",
    "ibrs": "amd-stibp amd-ssbd psfd ibrs-always ibrs-fast ibrs-same-mode",
    "ibpb": "ibpb-ret sbpb ibpb-brtype",
    "amd-stibp": "stibp-always",
    "rtm": "tsxldtrk",
    "eibrs": "rrsba",
    "arch-caps": " ".join(f.name for f in FEATURES if f.word.is_msr),
}


def dependents(name: str) -> frozenset[str]:
    """All features that can't be shown without feature `name`, directly or not.

    The relation is Xen's (xen/tools/gen-cpuid.py).
    """
    found: set[str] = set()
    pending = [name]
    while pending:
        for dependent in _DEPENDENTS.get(pending.pop(), "").split():
            if dependent not in found:
                found.add(dependent)
                pending.append(dependent)
    return frozenset(found)


def sanitise(names: frozenset[str]) -> frozenset[str]:
    """Drop the features whose prerequisites are missing (Xen's sanitise_featureset)."""
    kept = set(names)
    for name in _DEPENDENTS:
        if name not in kept:
            kept -= dependents(name)
    return frozenset(kept)


def canonical(name: str) -> str | None:
    """The table's name for a spelling that libxl or Xen takes, or None."""
    if name in BY_NAME:
        return name
    if name in ALIASES:
        return ALIASES[name]
    folded = name.lower().replace("_", "-")
    return folded if folded in BY_NAME else None
