# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of CPU features: where each bit is, what it's called, and who may have it.

Names and bits are those of Xen's featureset (public/arch-x86/cpufeatureset.h), spelt as libxl
takes them in a `cpuid=` option (lower case, with hyphens); further spellings of libxl are in
`ALIASES`.  The bits of MSR_ARCH_CAPABILITIES are features too, as in Xen.

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


def _word(word: Word, rows: str) -> list[Feature]:
    features = []
    for row in rows.strip().splitlines():
        bit, name, availability, description = row.split(None, 3)
        features.append(Feature(name, word, int(bit), availability, description))
    return features


WORDS: Final = (
    Word(0, 0x1, -1, 3),
    Word(1, 0x1, -1, 2),
    Word(2, 0x80000001, -1, 3),
    Word(3, 0x80000001, -1, 2),
    Word(4, 0xD, 1, 0),
    Word(5, 0x7, 0, 1),
    Word(6, 0x7, 0, 2),
    Word(7, 0x80000007, -1, 3),
    Word(8, 0x80000008, -1, 1),
    Word(9, 0x7, 0, 3),
    Word(10, 0x7, 1, 0),
    Word(11, 0x80000021, -1, 0),
    Word(12, 0x7, 1, 1),
    Word(13, 0x7, 2, 3),
    Word(14, 0x7, 1, 2),
    Word(15, 0x7, 1, 3),
    Word(16, ARCH_CAPABILITIES, -1, 0, is_msr=True),
    Word(17, ARCH_CAPABILITIES, -1, 3, is_msr=True),
    Word(18, 0x80000021, -1, 2),
)
"""The feature set's words, in Xen's order."""

FEATURES: Final[tuple[Feature, ...]] = tuple(
    _word(
        WORDS[0],
        """
        0  fpu      A x87 floating point unit
        1  vme      S virtual-8086 mode extensions
        2  de       A debugging extensions: I/O breakpoints, CR4.DE
        3  pse      S 4 MiB pages
        4  tsc      A RDTSC
        5  msr      A RDMSR and WRMSR
        6  pae      A physical address extension
        7  mce      A machine check exception
        8  cx8      A CMPXCHG8B
        9  apic     A local APIC (follows MSR_APIC_BASE)
        11 sep      A SYSENTER and SYSEXIT
        12 mtrr     S memory type range registers
        13 pge      S global pages
        14 mca      A machine check architecture
        15 cmov     A CMOV, and FCMOV with an FPU
        16 pat      A page attribute table
        17 pse36    S 36-bit addresses in 4 MiB pages
        19 clflush  A CLFLUSH
        21 ds       - debug store
        22 acpi     A thermal and clock control MSRs
        23 mmx      A MMX
        24 fxsr     A FXSAVE and FXRSTOR
        25 sse      A SSE
        26 sse2     A SSE2
        27 ss       A self snoop
        28 htt      A several logical processors a package
        29 tm1      - thermal monitor
        31 pbe      - pending break enable
        """,
    )
    + _word(
        WORDS[1],
        """
        0  sse3         A SSE3
        1  pclmulqdq    A carry-less multiplication
        2  dtes64       - 64-bit debug store
        3  monitor      - MONITOR and MWAIT
        4  dscpl        - debug store by CPL
        5  vmx          h virtual machine extensions
        6  smx          - safer mode extensions
        7  eist         - Enhanced SpeedStep
        8  tm2          - thermal monitor 2
        9  ssse3        A SSSE3
        12 fma          A fused multiply-add
        13 cx16         A CMPXCHG16B
        14 xtpr         - task priority messages
        15 pdcm         - performance and debug capability MSR
        17 pcid         H process context identifiers
        18 dca          - direct cache access
        19 sse4-1       A SSE4.1
        20 sse4-2       A SSE4.2
        21 x2apic       S x2APIC mode
        22 movbe        A MOVBE
        23 popcnt       A POPCNT
        24 tsc-deadline S local APIC timer in TSC-deadline mode
        25 aesni        A AES rounds
        26 xsave        A XSAVE, XRSTOR, XSETBV and XGETBV
        27 osxsave      - XSAVE enabled (follows CR4.OSXSAVE)
        28 avx          A AVX
        29 f16c         A half-precision conversions
        30 rdrand       A RDRAND
        31 hypervisor   A running under a hypervisor
        """,
    )
    + _word(
        WORDS[2],
        """
        11 syscall  A SYSCALL and SYSRET
        20 nx       A no-execute pages
        22 mmxext   A AMD's MMX extensions
        25 ffxsr    A fast FXSAVE
        26 page1gb  H 1 GiB pages
        27 rdtscp   A RDTSCP and TSC_AUX
        29 lm       A long mode
        30 3dnowext A 3DNow! extensions
        31 3dnow    A 3DNow!
        """,
    )
    + _word(
        WORDS[3],
        """
        0  lahf-lm       A LAHF and SAHF in long mode
        1  cmp-legacy    A multi-core without hyperthreads
        2  svm           h secure virtual machine
        3  extapic       - extended APIC space
        4  cr8-legacy    S MOV CR8 in 32-bit mode
        5  abm           A LZCNT
        6  sse4a         A SSE4a
        7  misalignsse   A misaligned SSE mode
        8  3dnowprefetch A PREFETCH and PREFETCHW
        9  osvw          - OS visible workarounds
        10 ibs           - instruction based sampling
        11 xop           A XOP
        12 skinit        - SKINIT and STGI
        13 wdt           - watchdog timer
        15 lwp           - light weight profiling
        16 fma4          A four-operand FMA
        19 nodeid-msr    - node id MSR
        21 tbm           A trailing bit manipulation
        22 topoext       - topology extension leaves
        26 dbext         A data breakpoint extension
        29 monitorx      - MONITORX and MWAITX
        """,
    )
    + _word(
        WORDS[4],
        """
        0 xsaveopt A XSAVEOPT
        1 xsavec   A XSAVEC
        2 xgetbv1  A XGETBV of the state in use
        3 xsaves   S XSAVES and XRSTORS
        """,
    )
    + _word(
        WORDS[5],
        """
        0  fsgsbase      A RDFSBASE and its kin
        1  tsc-adjust    S TSC_ADJUST MSR
        2  sgx           - software guard extensions
        3  bmi1          A bit manipulation 1
        4  hle           a hardware lock elision
        5  avx2          A AVX2
        6  fdp-excp-only - x87 data pointer set by exceptions alone
        7  smep          S no supervisor execution of user pages
        8  bmi2          A bit manipulation 2
        9  erms          A fast REP MOVSB and STOSB
        10 invpcid       H INVPCID
        11 rtm           A transactional memory
        12 pqm           - cache monitoring
        13 no-fpu-sel    - x87 selectors stored as 0
        14 mpx           s memory protection extensions
        15 pqe           - cache allocation
        16 avx512f       A AVX-512 foundation
        17 avx512dq      A AVX-512 doublewords and quadwords
        18 rdseed        A RDSEED
        19 adx           A ADCX and ADOX
        20 smap          S no supervisor access to user pages
        21 avx512-ifma   A AVX-512 integer FMA
        23 clflushopt    A CLFLUSHOPT
        24 clwb          A CLWB
        25 proc-trace    - processor trace
        26 avx512pf      A AVX-512 prefetch
        27 avx512er      A AVX-512 exponential and reciprocal
        28 avx512cd      A AVX-512 conflict detection
        29 sha           A SHA-1 and SHA-256 rounds
        30 avx512bw      A AVX-512 bytes and words
        31 avx512vl      A AVX-512 vector lengths
        """,
    )
    + _word(
        WORDS[6],
        """
        0  prefetchwt1      A PREFETCHWT1
        1  avx512-vbmi      A AVX-512 byte permutations
        2  umip             S no SGDT and the like for users
        3  pku              H protection keys for user pages
        4  ospke            - protection keys enabled (follows CR4.PKE)
        6  avx512-vbmi2     A AVX-512 byte permutations 2
        7  cet-ss           - shadow stacks
        8  gfni             A Galois field instructions
        9  vaes             A vector AES
        10 vpclmulqdq       A vector carry-less multiplication
        11 avx512-vnni      A AVX-512 neural network instructions
        12 avx512-bitalg    A AVX-512 bit algorithms
        14 avx512-vpopcntdq A AVX-512 population counts
        22 rdpid            A RDPID
        25 cldemote         A CLDEMOTE
        27 movdiri          a MOVDIRI
        28 movdir64b        a MOVDIR64B
        29 enqcmd           - ENQCMD
        """,
    )
    + _word(
        WORDS[7],
        """
        7  hw-pstate - P-states by MSR
        8  itsc      a invariant TSC
        9  cpb       - core performance boost
        10 efro      - read-only APERF and MPERF
        """,
    )
    + _word(
        WORDS[8],
        """
        0  clzero           A CLZERO
        2  rstr-fp-err-ptrs A FXSAVE always handles the error pointers
        9  wbnoinvd         - WBNOINVD
        12 ibpb             A barrier for indirect branches
        14 ibrs             S AMD's SPEC_CTRL.IBRS
        15 amd-stibp        S AMD's SPEC_CTRL.STIBP
        16 ibrs-always      S IBRS is best left on
        17 stibp-always     S STIBP is best left on
        18 ibrs-fast        S IBRS is better than software measures
        19 ibrs-same-mode   S IBRS protects within a mode
        20 no-lmsl          S no segment limits in long mode
        23 amd-ppin         - AMD's processor inventory number
        24 amd-ssbd         S AMD's SPEC_CTRL.SSBD
        25 virt-ssbd        - VIRT_SPEC_CTRL.SSBD
        26 ssb-no           A AMD: no speculative store bypass
        28 psfd             S AMD's SPEC_CTRL.PSFD
        29 btc-no           A no branch type confusion
        30 ibpb-ret         A IBPB clears return predictions
        """,
    )
    + _word(
        WORDS[9],
        """
        2  avx512-4vnniw       A AVX-512 neural network words
        3  avx512-4fmaps       A AVX-512 packed FMA
        4  fsrm                A fast short REP MOVSB
        8  avx512-vp2intersect a AVX-512 intersections
        9  srbds-ctrl          - MCU_OPT_CTRL MSR
        10 md-clear            A VERW clears buffers
        11 rtm-always-abort    - transactions always abort
        13 tsx-force-abort     - TSX_FORCE_ABORT MSR
        14 serialize           A SERIALIZE
        15 hybrid              - cores of several kinds
        16 tsxldtrk            a TSX load tracking
        20 cet-ibt             - indirect branch tracking
        23 avx512-fp16         - AVX-512 half precision
        26 ibrsb               A SPEC_CTRL.IBRS and PRED_CMD.IBPB
        27 stibp               A SPEC_CTRL.STIBP
        28 l1d-flush           S FLUSH_CMD MSR
        29 arch-caps           A ARCH_CAPABILITIES MSR
        30 core-caps           - CORE_CAPABILITIES MSR
        31 ssbd                A SPEC_CTRL.SSBD
        """,
    )
    + _word(
        WORDS[10],
        """
        4  avx-vnni    A AVX neural network instructions
        5  avx512-bf16 A AVX-512 bfloat16
        10 fzrm        A fast REP MOVSB of length 0
        11 fsrs        A fast short REP STOSB
        12 fsrcs       A fast short REP CMPSB and SCASB
        """,
    )
    + _word(
        WORDS[11],
        """
        2  lfence-dispatch A LFENCE always serializes
        5  verw-clear      A AMD: VERW clears buffers
        6  nscb            A a null selector clears base and limit
        8  auto-ibrs       - automatic IBRS
        27 sbpb            A selective branch predictor barrier
        28 ibpb-brtype     A IBPB clears branch types
        29 srso-no         A no speculative return stack overflow
        30 srso-us-no      A the same between user and supervisor
        31 srso-msr-fix    - BP_CFG.BP_SPEC_REDUCE
        """,
    )
    + _word(WORDS[12], "0 intel-ppin - Intel's processor inventory number")
    + _word(
        WORDS[13],
        """
        0 intel-psfd A SPEC_CTRL.PSFD
        1 ipred-ctrl S SPEC_CTRL.IPRED_DIS
        2 rrsba-ctrl S SPEC_CTRL.RRSBA_DIS
        4 bhi-ctrl   S SPEC_CTRL.BHI_DIS_S
        5 mcdt-no    A no MXCSR-dependent timing
        """,
    )
    + _word(WORDS[15], "18 cet-sss - supervisor shadow stacks are safe")
    + _word(
        WORDS[16],
        """
        0  rdcl-no           A no rogue data cache load (Meltdown)
        1  eibrs             A IBRS that may stay on
        2  rsba              - return predictions may use other sources
        3  skip-l1dfl        - no L1D flush needed on VM entry
        4  intel-ssb-no      A no speculative store bypass
        5  mds-no            A no microarchitectural data sampling
        6  if-pschange-mc-no A no machine check on page size changes
        7  tsx-ctrl          - TSX_CTRL MSR
        8  taa-no            A no TSX asynchronous abort
        9  mcu-ctrl          - MCU_CTRL MSR
        10 misc-pkg-ctrl     - MISC_PKG_CTRL MSR
        11 energy-filtering  - energy filtering
        12 doitm             - data operand independent timing
        13 sbdr-ssdp-no      A no shared buffer data read
        14 fbsdp-no          A no fill buffer stale data
        15 psdp-no           A no primary stale data
        17 fb-clear          A VERW clears fill buffers
        18 fb-clear-ctrl     - OPT_CPU_CTRL.FB_CLEAR_DIS
        19 rrsba             - restricted return predictions
        20 bhi-no            A no branch history injection
        21 xapic-status      - XAPIC_DISABLE_STATUS MSR
        23 ovrclk-status     - OVERCLOCKING_STATUS MSR
        24 pbrsb-no          A no post-barrier return predictions
        25 gds-ctrl          - MCU_OPT_CTRL.GDS_MITG_DIS
        26 gds-no            A no gather data sampling
        27 rfds-no           A no register file data sampling
        28 rfds-clear        A VERW clears register files
        """,
    )
    + _word(WORDS[17], "30 its-no A no indirect target selection")
    + _word(
        WORDS[18],
        """
        1 tsa-sq-no A no transient scheduler attack by the store queue
        2 tsa-l1-no A no transient scheduler attack by the L1D
        """,
    )
)
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
