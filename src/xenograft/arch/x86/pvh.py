# SPDX-License-Identifier: GPL-2.0-or-later
"""Register states in which HVM-type vCPUs begin: PVH entry, reset, INIT, SIPI, VCPUOP_initialise.

A state is a dict from register name to value, in an order in which it can be set one by one.
The names are those of `xenograft.engine.protocol.Cpu.set`:

- ``rax rbx rcx rdx rsi rdi rbp rsp r8`` … ``r15 rip rflags``
- ``cr0 cr2 cr3 cr4 efer``, ``dr0 dr1 dr2 dr3 dr6 dr7``
- ``es cs ss ds fs gs ldtr tr``, each with ``.sel .base .limit .attr``; the limit is in bytes,
  whatever the granularity bit says
- ``gdtr.base gdtr.limit idtr.base idtr.limit``
- ``pat star lstar cstar fmask kernel_gs_base sysenter_cs sysenter_esp sysenter_eip tsc_aux``

``attr`` has the layout of Xen's segment attributes (public/hvm/hvm_vcpu.h): type in bits 0-3,
s 4, dpl 5-6, p 7, avl 8, l 9, d/b 10, g 11.  A null segment has attr 0.

Facts: docs/misc/pvh.pandoc; vcpu_hvm() in tools/libs/guest/xg_dom_x86.c; hvm_vcpu_reset_state()
and hvm_efer_valid() in xen/arch/x86/hvm/hvm.c; arch_set_info_hvm_guest() in hvm/domain.c.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.hvm.hvm_vcpu import (
    VCPU_HVM_MODE_32B,
    VCPU_HVM_MODE_64B,
    vcpu_hvm_context,
    vcpu_hvm_x86_32,
    vcpu_hvm_x86_64,
)
from xenograft.arch.x86 import registers as r
from xenograft.arch.x86.cpuid.policy import CpuPolicy

State = dict[str, int]

SEGMENTS: Final = ("es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr")
GPRS: Final = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"),
    *(f"r{index}" for index in range(8, 16)),
)
MSR_REGISTERS: Final = (
    *("pat", "star", "lstar", "cstar", "fmask", "kernel_gs_base"),
    *("sysenter_cs", "sysenter_esp", "sysenter_eip", "tsc_aux"),
)

REGISTER_NAMES: Final = frozenset(
    [
        *GPRS,
        *("rip", "rflags", "cr0", "cr2", "cr3", "cr4", "efer"),
        *("dr0", "dr1", "dr2", "dr3", "dr6", "dr7"),
        *(f"{seg}.{part}" for seg in SEGMENTS for part in ("sel", "base", "limit", "attr")),
        *(f"{table}.{part}" for table in ("gdtr", "idtr") for part in ("base", "limit")),
        *MSR_REGISTERS,
    ]
)
"""Every register that a state may name."""

# Attributes
ATTR_S: Final = 1 << 4
ATTR_P: Final = 1 << 7
ATTR_L: Final = 1 << 9
ATTR_DB: Final = 1 << 10
ATTR_G: Final = 1 << 11
CODE_32: Final = 0xC9B
CODE_64: Final = 0xA9B
DATA_32: Final = 0xC93
TSS_BUSY: Final = 0x8B
LDT: Final = 0x82


class Segment(NamedTuple):
    """A segment register with its hidden part; `limit` in bytes."""

    sel: int = 0
    base: int = 0
    limit: int = 0
    attr: int = 0

    @property
    def type(self) -> int:
        return self.attr & 0xF

    @property
    def dpl(self) -> int:
        return self.attr >> 5 & 3

    @property
    def present(self) -> bool:
        return bool(self.attr & ATTR_P)

    def put(self, state: State, name: str) -> None:
        """Write the segment into a state as register `name`."""
        state[f"{name}.sel"] = self.sel
        state[f"{name}.base"] = self.base
        state[f"{name}.limit"] = self.limit
        state[f"{name}.attr"] = self.attr


def segment(state: State, name: str) -> Segment:
    """The segment register `name` of a state."""
    return Segment(*(state[f"{name}.{part}"] for part in Segment._fields))


FLAT_LIMIT: Final = 0xFFFFFFFF


def reset_state(cs: int = 0xF000, ip: int = 0xFFF0, *, power_on: bool = False) -> State:
    """A vCPU after a reset to real mode at ``cs:ip`` (Xen's hvm_vcpu_reset_state).

    The base of CS is the selector times 16, also for the reset vector.  MSRs and PAT, which
    INIT leaves alone, are part of it only at `power_on`.
    """
    state: State = {"efer": 0, "cr4": 0, "cr3": 0, "cr2": 0, "cr0": r.X86_CR0_ET}
    data = Segment(limit=0xFFFF, attr=0x93)
    for name in ("es", "ss", "ds", "fs", "gs"):
        data.put(state, name)
    Segment(sel=cs, base=cs << 4, limit=0xFFFF, attr=0x9B).put(state, "cs")
    Segment(limit=0xFFFF, attr=LDT).put(state, "ldtr")
    Segment(limit=0xFFFF, attr=TSS_BUSY).put(state, "tr")
    for table in ("gdtr", "idtr"):
        state[f"{table}.base"], state[f"{table}.limit"] = 0, 0xFFFF
    for name in GPRS:
        state[name] = 0
    state["rip"] = ip
    state["rflags"] = r.X86_EFLAGS_MBS
    for name in ("dr0", "dr1", "dr2", "dr3"):
        state[name] = 0
    state["dr6"], state["dr7"] = r.X86_DR6_DEFAULT, r.X86_DR7_DEFAULT
    if power_on:
        for name in MSR_REGISTERS:
            state[name] = 0
        state["pat"] = r.MSR_IA32_CR_PAT_RESET
    return state


def init_state() -> State:
    """A vCPU after INIT: reset, and waiting for a start-up IPI (it doesn't run)."""
    return reset_state()


def startup_state(vector: int) -> State:
    """A vCPU that a start-up IPI with `vector` lets run: real mode at ``vector << 12``."""
    return reset_state(cs=vector << 8, ip=0)


def fresh_state() -> State:
    """A vCPU that was created and has never been reset: everything unused is null."""
    state = reset_state(power_on=True)
    for name in SEGMENTS:
        Segment().put(state, name)
    for table in ("gdtr", "idtr"):
        state[f"{table}.limit"] = 0
    state["rip"] = 0
    return state


def pvh_entry(entry: int, start_info: int) -> State:
    """The first vCPU of a PVH guest: 32-bit protected mode, paging off.

    `entry` is the guest-physical XEN_ELFNOTE_PHYS32_ENTRY, `start_info` the address of
    struct hvm_start_info, which goes into EBX.
    """
    state = fresh_state()
    state["cr0"] = r.X86_CR0_PE | r.X86_CR0_ET
    Segment(limit=FLAT_LIMIT, attr=CODE_32).put(state, "cs")
    for name in ("es", "ss", "ds"):
        Segment(limit=FLAT_LIMIT, attr=DATA_32).put(state, name)
    Segment(limit=0x67, attr=TSS_BUSY).put(state, "tr")
    state["rbx"] = start_info
    state["rip"] = entry
    return state


# -- what a policy allows in control registers --------------------------------------------------


def cr4_valid_bits(policy: CpuPolicy) -> int:
    """The bits of CR4 that an HVM-type guest with this policy may set."""
    bits = r.X86_CR4_PCE
    for name, flags in (
        ("vme", r.X86_CR4_VME | r.X86_CR4_PVI),
        ("tsc", r.X86_CR4_TSD),
        ("de", r.X86_CR4_DE),
        ("pse", r.X86_CR4_PSE),
        ("pae", r.X86_CR4_PAE),
        ("mce", r.X86_CR4_MCE),
        ("mca", r.X86_CR4_MCE),
        ("pge", r.X86_CR4_PGE),
        ("fxsr", r.X86_CR4_OSFXSR),
        ("sse", r.X86_CR4_OSXMMEXCPT),
        ("umip", r.X86_CR4_UMIP),
        ("fsgsbase", r.X86_CR4_FSGSBASE),
        ("pcid", r.X86_CR4_PCIDE),
        ("xsave", r.X86_CR4_OSXSAVE),
        ("smep", r.X86_CR4_SMEP),
        ("smap", r.X86_CR4_SMAP),
        ("pku", r.X86_CR4_PKE),
    ):
        if policy.has(name):
            bits |= flags
    return bits


_EFER_FEATURES = (
    ("syscall", r.EFER_SCE),
    ("lm", r.EFER_LME | r.EFER_LMA),
    ("nx", r.EFER_NXE),
    ("svm", r.EFER_SVME),
    ("ffxsr", r.EFER_FFXSE),
)


def efer_valid_bits(policy: CpuPolicy) -> int:
    """Bits of EFER whose feature the policy shows."""
    return sum(bits for name, bits in _EFER_FEATURES if policy.has(name))


def efer_error(policy: CpuPolicy, efer: int, paging: bool = True) -> str:
    """Why a value of EFER isn't allowed (hvm_efer_valid); "" if it is."""
    if efer & ~r.EFER_KNOWN_MASK:
        return "unknown bits"
    for name, bits in _EFER_FEATURES:
        if efer & bits and not policy.has(name):
            return f"a bit of the hidden feature {name}"
    if efer & r.EFER_LMA and not (efer & r.EFER_LME and paging):
        return "LMA without LME and paging"
    return ""


# -- VCPUOP_initialise ----------------------------------------------------------------------------


def initialise_state(context: vcpu_hvm_context, policy: CpuPolicy) -> State:
    """The state that a VCPUOP_initialise asks for.

    Raises XenError(EINVAL) for every context that Xen refuses.
    """
    if context.pad != 0:
        raise XenError(Errno.EINVAL)
    if context.mode == VCPU_HVM_MODE_32B:
        state = _initialise_32(context.cpu_regs.x86_32)
    elif context.mode == VCPU_HVM_MODE_64B:
        state = _initialise_64(context.cpu_regs.x86_64)
    else:
        raise XenError(Errno.EINVAL)
    # Xen sets LMA with LME; it takes effect with paging, and engines want the two in step.
    if state["efer"] & r.EFER_LME:
        if state["cr0"] & r.X86_CR0_PG:
            state["efer"] |= r.EFER_LMA
        else:
            state["efer"] &= ~r.EFER_LMA
    if state["cr4"] & ~cr4_valid_bits(policy) or efer_error(policy, state["efer"]):
        raise XenError(Errno.EINVAL)
    state["rflags"] |= r.X86_EFLAGS_MBS
    return state


def _check_segment(name: str, seg: Segment) -> None:
    """Raises XenError(EINVAL) for a segment that can't be loaded as `name` (check_segment)."""
    if seg.attr >> 12:
        raise XenError(Errno.EINVAL)
    if seg.attr == 0:
        if name in ("ds", "es"):
            return
        raise XenError(Errno.EINVAL)
    is_code, is_readable_or_writable = seg.type & 8, seg.type & 2
    wrong = {
        "tr": seg.attr & ATTR_S or seg.type != 0xB,
        "cs": not is_code,
        "ss": is_code or not is_readable_or_writable,
        "ds": is_code and not is_readable_or_writable,
        "es": is_code and not is_readable_or_writable,
    }
    if wrong[name] or not seg.present or (name != "tr" and not seg.attr & ATTR_S):
        raise XenError(Errno.EINVAL)


def _byte_limit(seg: Segment) -> int:
    """The limit in bytes of a segment whose limit field counts units of its granularity.

    A value that has more than the 20 bits of a descriptor is in bytes already: the flat
    0xffffffff that guests give for a page-granular segment.
    """
    if seg.attr & ATTR_G and seg.limit <= 0xFFFFF:
        return seg.limit << 12 | 0xFFF
    return seg.limit


def _initialise_32(regs: vcpu_hvm_x86_32) -> State:
    if regs.pad1 != 0 or any(regs.pad2):
        raise XenError(Errno.EINVAL)
    segments: dict[str, Segment] = {}
    for name in ("cs", "ds", "ss", "es", "tr"):
        attr = getattr(regs, f"{name}_ar")
        if attr & ATTR_P:
            attr |= 2 if name == "tr" else 1  # busy; accessed
        base, limit = getattr(regs, f"{name}_base"), getattr(regs, f"{name}_limit")
        segments[name] = Segment(base=base, limit=limit, attr=attr)
        _check_segment(name, segments[name])
    cs, ss = segments["cs"], segments["ss"]
    limit = (cs.limit << 12 | 0xFFF) & 0xFFFFFFFF if cs.attr & ATTR_G else cs.limit
    if regs.eip > limit or ss.dpl != cs.dpl:
        raise XenError(Errno.EINVAL)
    for name in ("ds", "es"):
        if segments[name].present and segments[name].dpl > cs.dpl:
            raise XenError(Errno.EINVAL)
    if regs.efer & r.EFER_LMA and not regs.efer & r.EFER_LME:
        raise XenError(Errno.EINVAL)
    state = fresh_state()
    for name in ("efer", "cr4", "cr3", "cr0"):
        state[name] = getattr(regs, name)
    for name, seg in segments.items():
        seg._replace(limit=_byte_limit(seg)).put(state, name)
    for name in ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "rip", "rflags"):
        state[name] = getattr(regs, "e" + name[1:])
    return state


def _initialise_64(regs: vcpu_hvm_x86_64) -> State:
    if not (
        r.is_canonical(regs.rip)
        and regs.cr0 & r.X86_CR0_PG
        and regs.cr4 & r.X86_CR4_PAE
        and regs.efer & r.EFER_LME
    ):
        raise XenError(Errno.EINVAL)
    state = fresh_state()
    for name in ("efer", "cr4", "cr3", "cr0"):
        state[name] = getattr(regs, name)
    Segment(limit=FLAT_LIMIT, attr=CODE_64).put(state, "cs")
    for name in ("ds", "ss", "es"):
        Segment(limit=FLAT_LIMIT, attr=DATA_32).put(state, name)
    Segment(limit=0x67, attr=TSS_BUSY).put(state, "tr")
    for name in ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "rip", "rflags"):
        state[name] = getattr(regs, name)
    return state
