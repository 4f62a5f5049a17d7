# SPDX-License-Identifier: GPL-2.0-or-later
"""What the CPU engine executes, and which of it guests see by default.

`ENGINE_FEATURES` is the maximum policy: what Unicorn 2.1.4 (the code generator of QEMU 5.0)
and our own platform execute correctly.  Each of its names has a probe in
`xenograft.arch.x86.cpuid.probes`; a bit without a probe isn't shown.

`HIDDEN_BY_DEFAULT` names features that work and that a guest only gets when its configuration
asks for them, each with the reason.

**Which CPU we show.** GenuineIntel, family 6, model 0x36, an in-order core.  The engine doesn't
speculate at all: none of the hardware weaknesses that kernels work around exists.  Intel's
in-order cores are the ones that kernels know to be free of all of them (in Linux by model,
NO_SPECULATION), so that a guest takes no detour by retpolines, separate user page tables,
buffer clearing or return thunks.  An AMD or a younger Intel model would cost every call
through a pointer and every system call dearly, for nothing.  An Intel CPU also tells its
frequency in leaf 0x16, which saves Linux a calibration loop of 100,000 reads of the interval
timer's port (Xen 4.17 itself ends the basic leaves at 0xd; `maxleaf=13` gives that).
"""

from __future__ import annotations

from typing import Final

_ENGINE = (
    # leaf 1
    "fpu de pse tsc msr pae mce cx8 apic sep mtrr pge mca cmov pat pse36 clflush mmx fxsr sse "
    "sse2 htt sse3 pclmulqdq ssse3 cx16 sse4-1 sse4-2 x2apic movbe popcnt tsc-deadline aesni "
    "xsave rdrand hypervisor "
    # leaf 7
    "fsgsbase tsc-adjust bmi1 smep bmi2 erms rdseed adx smap clflushopt clwb pku "
    # leaf 0xd
    "xsaveopt xgetbv1 "
    # extended leaves
    "syscall nx mmxext page1gb rdtscp lm 3dnowext 3dnow lahf-lm abm sse4a "
    "3dnowprefetch itsc no-lmsl "
    # speculation controls: the MSRs take and keep values; nothing needs to be done
    "ibrsb stibp ssbd l1d-flush md-clear arch-caps ibpb ibrs amd-stibp amd-ssbd "
    "rdcl-no intel-ssb-no mds-no if-pschange-mc-no taa-no sbdr-ssdp-no fbsdp-no psdp-no bhi-no "
    "pbrsb-no gds-no rfds-no its-no"
)
ENGINE_FEATURES: Final = frozenset(_ENGINE.split())

_AMD = "AMD's alone; the CPU shown is Intel's"
_IN_ORDER = "an in-order CPU has no use for it"
HIDDEN_BY_DEFAULT: Final[dict[str, str]] = {
    "erms": "the engine takes one step per byte of REP MOVSB, eight times those of REP MOVSQ",
    "mmxext": _AMD,
    "3dnow": _AMD,
    "3dnowext": _AMD,
    "sse4a": _AMD,
    "no-lmsl": _AMD,
    "ibpb": _AMD,
    "ibrs": _AMD,
    "amd-stibp": _AMD,
    "amd-ssbd": _AMD,
    "ibrsb": _IN_ORDER,
    "stibp": _IN_ORDER,
    "ssbd": _IN_ORDER,
    "l1d-flush": _IN_ORDER,
    "md-clear": _IN_ORDER,
    "arch-caps": "the model shown already says it has none of the weaknesses",
}

VENDORS: Final[dict[str, tuple[int, int, int]]] = {
    "GenuineIntel": (0x756E6547, 0x49656E69, 0x6C65746E),
    "AuthenticAMD": (0x68747541, 0x69746E65, 0x444D4163),
}
"""EBX, EDX, ECX of leaf 0 by vendor."""

VENDOR: Final = "GenuineIntel"
SIGNATURE: Final = 0x00030661
"""Family 6, model 0x36, stepping 1."""
BRAND: Final = "Xenograft Virtual CPU"

CLFLUSH_SIZE: Final = 64
PHYS_BITS: Final = 40
"""Width of guest-physical addresses: the engine's (TCG_PHYS_ADDR_BITS)."""
LINEAR_BITS: Final = 48
APIC_BUS_HZ: Final = 100_000_000

# (bytes, ways, line): data and instruction cache of level 1, unified of level 2.
CACHES: Final = ((1, 1, 24 << 10, 6), (2, 1, 32 << 10, 8), (3, 2, 512 << 10, 8))
"""(type, level, bytes, ways) of the caches shown: those of the model."""

# XSAVE components beyond x87 and SSE: feature -> ((bit of XCR0, size, offset), ...).
XSTATE: Final[dict[str, tuple[tuple[int, int, int], ...]]] = {
    "pku": ((9, 8, 2688),),
}
XSTATE_MIN_SIZE: Final = 512 + 64
