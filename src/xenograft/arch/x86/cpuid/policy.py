# SPDX-License-Identifier: GPL-2.0-or-later
"""What CPUID shows a domain: one policy per domain, and the view of each vCPU.

As in Xen (xen/arch/x86/cpu-policy.c, cpuid.c) there is a *maximum* policy, what the engine can
do; a *default* policy, a part of it; and the domain's own, which starts as the default and may
be edited by the configuration (`xenograft.arch.x86.cpuid.parse`) within the maximum.  What a
configuration asks for beyond that is left out, and named in `CpuPolicy.ignored`.

A leaf that a policy doesn't have reads zero, as in Xen.  CPUID faulting isn't offered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from xenograft.arch.x86.cpuid import engine
from xenograft.arch.x86.cpuid.features import (
    BY_NAME,
    COMMON_1D,
    FEATURES,
    WORDS,
    Feature,
    Word,
    sanitise,
)
from xenograft.arch.x86.cpuid.leaves import (
    EMPTY,
    HypervisorInfo,
    Regs,
    hypervisor_leaf,
    identity_leaves,
)

EAX: Final = 0
EBX: Final = 1
ECX: Final = 2
EDX: Final = 3

XCR0_X87: Final = 1
XCR0_SSE: Final = 2
CR4_OSXSAVE: Final = 1 << 18
CR4_PKE: Final = 1 << 22

_OSXSAVE: Final = 1 << 27
_OSPKE: Final = 1 << 4
_APIC: Final = 1 << 9
_SYSCALL: Final = 1 << 11


class Edit(NamedTuple):
    """32 wishes for one register, most significant bit first, as in xend's syntax.

    ``0`` and ``1`` set a bit, ``x`` takes the default, ``k`` the maximum, ``-`` leaves it.
    An edit of MSR_ARCH_CAPABILITIES has its index as leaf, and register 0 or 3 for its halves.
    """

    leaf: int
    subleaf: int
    register: int
    bits: str


class VcpuView(NamedTuple):
    """What the answer depends on besides the policy."""

    vcpu_id: int = 0
    cr4: int = 0
    xcr0: int = XCR0_X87
    apic_enabled: bool = True
    """MSR_APIC_BASE's enable bit."""
    long_mode: bool = True
    """EFER.LMA."""


class PolicyRecord(msgspec.Struct, frozen=True):
    """A policy as saved: (leaf, subleaf or -1, eax, ebx, ecx, edx) and the rest."""

    leaves: tuple[tuple[int, int, int, int, int, int], ...]
    arch_capabilities: int
    hypervisor: HypervisorInfo
    ignored: tuple[str, ...]


# Bits beside features that an edit may change; everything else follows from the features.
_EDITABLE: Final[dict[tuple[int, int], Regs]] = {
    (0x0, -1): (0xFFFFFFFF,) * 4,
    (0x1, -1): (0x0FFF0FFF, 0x00FF00FF, 0, 0),
    (0x2, -1): (0xFFFFFFFF,) * 4,
    **{(0x4, i): (0xFFFFFFFF,) * 4 for i in range(len(engine.CACHES))},
    (0x15, -1): (0xFFFFFFFF,) * 4,
    (0x16, -1): (0xFFFF,) * 4,
    (0x40000000, -1): (0xFF, 0, 0, 0),
    (0x80000000, -1): (0xFFFFFFFF, 0, 0, 0),
    **{(0x80000002 + i, -1): (0xFFFFFFFF,) * 4 for i in range(3)},
    (0x80000005, -1): (0xFFFFFFFF,) * 4,
    (0x80000006, -1): (0, 0, 0xFFFFFFFF, 0),
    (0x80000008, -1): (0x000000FF, 0, 0x0000F0FF, 0),
}


def default_features(hvm: bool) -> frozenset[str]:
    """The features that a guest has unless its configuration says otherwise."""
    by_default = "ASH" if hvm else "A"
    names = (
        name
        for name in engine.ENGINE_FEATURES - engine.HIDDEN_BY_DEFAULT.keys()
        if BY_NAME[name].availability in by_default
    )
    return sanitise(frozenset(names))


def maximum_features(hvm: bool) -> frozenset[str]:
    """The features that a guest may have."""
    may_have = "ASHash" if hvm else "Aa"
    names = (name for name in engine.ENGINE_FEATURES if BY_NAME[name].availability in may_have)
    return sanitise(frozenset(names))


class CpuPolicy:
    """The CPUID policy of one domain.

    `leaves` maps (leaf, subleaf) to registers; a leaf without sub-leaves has subleaf -1.
    """

    __slots__ = ("arch_capabilities", "hypervisor", "ignored", "leaves")

    def __init__(
        self,
        leaves: Mapping[tuple[int, int], Regs],
        hypervisor: HypervisorInfo,
        arch_capabilities: int = 0,
        ignored: tuple[str, ...] = (),
    ) -> None:
        self.leaves = dict(sorted(leaves.items()))
        self.hypervisor = hypervisor
        self.arch_capabilities = arch_capabilities
        self.ignored = ignored

    # -- making one -------------------------------------------------------------------------

    @classmethod
    def make(
        cls,
        *,
        hvm: bool = True,
        vcpus: int = 1,
        edits: Iterable[Edit] = (),
        hypervisor: HypervisorInfo | None = None,
        maximum: bool = False,
    ) -> CpuPolicy:
        """The policy of a guest of `vcpus` vCPUs, edited as its configuration says.

        `maximum` makes the maximum policy instead of one that starts with the default.
        """
        info = hypervisor or HypervisorInfo(hvm=hvm)
        leaves, limit_leaf, msr, ignored = _derive(hvm, vcpus, tuple(edits), info.tsc_khz, maximum)
        if limit_leaf:
            info = msgspec.structs.replace(info, limit=limit_leaf)
        return cls(leaves, info, msr, ignored)

    def save(self) -> PolicyRecord:
        return PolicyRecord(
            leaves=tuple((*place, *regs) for place, regs in self.leaves.items()),
            arch_capabilities=self.arch_capabilities,
            hypervisor=self.hypervisor,
            ignored=self.ignored,
        )

    @classmethod
    def restore(cls, record: PolicyRecord) -> CpuPolicy:
        leaves = {(row[0], row[1]): (row[2], row[3], row[4], row[5]) for row in record.leaves}
        return cls(leaves, record.hypervisor, record.arch_capabilities, record.ignored)

    # -- asking -----------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        """Whether a feature (by its name in the table) is shown."""
        feature = BY_NAME[name]
        word = feature.word
        if word.is_msr:
            value = self.arch_capabilities >> (32 if word.register == EDX else 0)
        else:
            value = self.leaves.get((word.leaf, word.subleaf), EMPTY)[word.register]
        return bool(value >> feature.bit & 1)

    @property
    def features(self) -> frozenset[str]:
        return frozenset(feature.name for feature in FEATURES if self.has(feature.name))

    @property
    def vendor(self) -> str:
        """The vendor string of leaf 0."""
        _, ebx, ecx, edx = self.leaves[0, -1]
        data = b"".join(word.to_bytes(4, "little") for word in (ebx, edx, ecx))
        return data.decode("ascii", "replace")

    @property
    def signature(self) -> int:
        """EAX of leaf 1."""
        return self.leaves[1, -1][EAX]

    @property
    def phys_bits(self) -> int:
        return self.leaves[0x80000008, -1][EAX] & 0xFF

    @property
    def xcr0_mask(self) -> int:
        """The bits that XCR0 may have; 0 without XSAVE."""
        eax, _, _, edx = self.leaves.get((0xD, 0), EMPTY)
        return eax | edx << 32

    def static_leaf(self, leaf: int, subleaf: int) -> Regs:
        """A leaf as the policy has it, before what depends on a vCPU."""
        if leaf & 0xFFFFFF00 == 0x40000000:
            return hypervisor_leaf(self.hypervisor, leaf, subleaf, 0)
        if leaf > self.leaves[leaf & 0x80000000, -1][EAX]:
            return EMPTY
        found = self.leaves.get((leaf, -1))
        return found if found is not None else self.leaves.get((leaf, subleaf), EMPTY)

    def cpuid(self, leaf: int, subleaf: int = 0, view: VcpuView = VcpuView()) -> Regs:  # noqa: B008
        """The answer to CPUID for one vCPU (Xen's guest_cpuid)."""
        if leaf & 0xFFFFFF00 == 0x40000000:
            return hypervisor_leaf(self.hypervisor, leaf, subleaf, view.vcpu_id)
        eax, ebx, ecx, edx = regs = self.static_leaf(leaf, subleaf)
        apic_id = view.vcpu_id * 2
        if leaf > self.leaves[leaf & 0x80000000, -1][EAX]:
            return regs
        match leaf:
            case 0x1:
                if self.hypervisor.hvm:
                    ebx |= apic_id << 24 & 0xFF000000
                    edx &= ~0 if view.apic_enabled else ~_APIC
                ecx |= _OSXSAVE if view.cr4 & CR4_OSXSAVE else 0
            case 0x7 if subleaf == 0:
                ecx |= _OSPKE if view.cr4 & CR4_PKE else 0
            case 0xB if self.has("x2apic"):
                ecx, edx = subleaf & 0xFF, apic_id
            case 0xD if subleaf == 0 and self.xcr0_mask:
                ebx = self.xsave_size(view.xcr0)
            case 0x80000001:
                if self.hypervisor.hvm:
                    if self.vendor == "GenuineIntel" and not view.long_mode:
                        edx &= ~_SYSCALL
                    if not view.apic_enabled:
                        edx &= ~_APIC
        return (eax, ebx, ecx, edx)

    def xsave_size(self, xcr0: int) -> int:
        """Bytes of an XSAVE area (standard format) for the components in `xcr0`."""
        size = engine.XSTATE_MIN_SIZE
        for bit in range(2, 63):
            if xcr0 >> bit & 1:
                length, offset = self.leaves.get((0xD, bit), EMPTY)[:2]
                size = max(size, offset + length)
        return size

    def native_table(self, vcpu_id: int) -> list[tuple[int, int, int, int, int, int]]:
        """Rows for `Cpu.set_cpuid`: what doesn't depend on the vCPU's registers.

        Leaves 1, 7 and 0xd sub-leaf 0 and 0x80000001 exit: they show CR4, XCR0, EFER and the
        state of the APIC.  A leaf with sub-leaves has a row for each that isn't empty.  Reading
        an absent leaf is rare, and exits too.
        """
        view = VcpuView(vcpu_id=vcpu_id)
        rows: list[tuple[int, int, int, int, int, int]] = []
        for leaf, subleaf in self.leaves:
            if (leaf, subleaf) in _DYNAMIC or leaf == 0xB:
                continue
            rows.append((leaf, subleaf, *self.static_leaf(leaf, max(subleaf, 0))))
        for index in range(self.hypervisor.last + 1):
            leaf = 0x40000000 + index
            subleaves = (0, 1, 2) if index == 3 else (0,) if index in (4, 5) else (-1,)
            rows.extend((leaf, s, *self.cpuid(leaf, max(s, 0), view)) for s in subleaves)
        return rows


_DYNAMIC: Final = frozenset({(0x1, -1), (0x7, 0), (0xD, 0), (0x80000001, -1)})

# -- building --------------------------------------------------------------------------------

_Leaves = dict[tuple[int, int], list[int]]


def _place(word: Word) -> tuple[int, int]:
    return (word.leaf, word.subleaf)


@lru_cache(maxsize=32)
def _derive(
    hvm: bool, vcpus: int, edits: tuple[Edit, ...], tsc_khz: int, maximum: bool
) -> tuple[Mapping[tuple[int, int], Regs], int, int, tuple[str, ...]]:
    """(leaves, limit of Xen's leaves or 0, IA32_ARCH_CAPABILITIES, names that were ignored).

    Guests are mostly alike, and clones are: it's made once for all of them.
    """
    limit = maximum_features(hvm)
    base = identity_leaves(vcpus, tsc_khz)
    top = _with_features(base, limit)
    default = _with_features(base, limit if maximum else default_features(hvm))
    edited, limit_leaf = _apply(default, top, edits)
    wanted = frozenset(f.name for f in FEATURES if _test(edited, f))
    given = sanitise(wanted & limit)
    # osxsave and ospke follow CR4: wishes for them mean nothing.
    beyond = wanted - limit - {"osxsave", "ospke"}
    ignored = tuple(feature.name for feature in FEATURES if feature.name in beyond)
    leaves = _finish(edited, given, top)
    return _cpuid_only(leaves), limit_leaf, _msr_value(leaves), ignored


def _test(leaves: Mapping[tuple[int, int], list[int]], feature: Feature) -> bool:
    regs = leaves.get(_place(feature.word))
    return bool(regs and regs[feature.word.register] >> feature.bit & 1)


def _with_features(base: Mapping[tuple[int, int], Regs], names: frozenset[str]) -> _Leaves:
    """The leaves of `base`, with exactly the features in `names`."""
    leaves: _Leaves = {place: list(regs) for place, regs in base.items()}
    for word in WORDS:
        leaves.setdefault(_place(word), [0, 0, 0, 0])[word.register] = 0
    for name in names:
        feature = BY_NAME[name]
        leaves[_place(feature.word)][feature.word.register] |= 1 << feature.bit
    return leaves


def _apply(default: _Leaves, top: _Leaves, edits: tuple[Edit, ...]) -> tuple[_Leaves, int]:
    """`default` after the edits, and the highest hypervisor leaf asked for (0: none)."""
    edited = {place: list(regs) for place, regs in default.items()}
    hypervisor_limit = 0
    feature_words = {(*_place(word), word.register) for word in WORDS}
    for edit in edits:
        place = (edit.leaf, edit.subleaf)
        if place not in edited and (edit.leaf, -1) in edited:
            place = (edit.leaf, -1)
        zero = [0, 0, 0, 0]
        old = edited.get(place, zero)[edit.register]
        value = 0
        for index, wish in enumerate(edit.bits):
            source = {
                "0": 0,
                "1": 0xFFFFFFFF,
                "x": default.get(place, zero)[edit.register],
                "k": top.get(place, zero)[edit.register],
                "-": old,
            }[wish]
            value |= source & 1 << (31 - index)
        if (*place, edit.register) not in feature_words:
            mask = _EDITABLE.get(place, EMPTY)[edit.register]
            value = old & ~mask | value & mask
        if edit.leaf == 0x40000000:
            if edit.register == EAX:
                hypervisor_limit = value & 0xFF
        elif place in edited:
            edited[place][edit.register] = value
    return edited, hypervisor_limit


def _finish(edited: _Leaves, given: frozenset[str], top: _Leaves) -> dict[tuple[int, int], Regs]:
    """Bring an edited policy into shape: limits, and what follows from the features."""
    ceiling = top[0x0, -1][EAX], top[0x80000000, -1][EAX]
    if min(edited[0x0, -1][EAX], ceiling[0]) < 0xD:
        given = sanitise(given - {"xsave"})
    leaves = _with_features({place: _regs(regs) for place, regs in edited.items()}, given)
    leaves[0x0, -1][EAX] = min(leaves[0x0, -1][EAX], ceiling[0])
    leaves[0x80000000, -1][EAX] = 0x80000000 | min(
        leaves[0x80000000, -1][EAX] & 0xFFFF, ceiling[1] & 0xFFFF
    )
    # The cache line is the engine's; physical addresses have 36 bits at least (with PAE).
    leaves[0x1, -1][EBX] = leaves[0x1, -1][EBX] & ~0xFF00 | top[0x1, -1][EBX] & 0xFF00
    bits = min(max(leaves[0x80000008, -1][EAX] & 0xFF, 36), top[0x80000008, -1][EAX] & 0xFF)
    linear = engine.LINEAR_BITS if "lm" in given else 32
    leaves[0x80000008, -1][EAX] = bits | linear << 8
    leaves[0x7, 0][EAX] = max(
        (sub for leaf, sub in leaves if leaf == 0x7 and any(leaves[leaf, sub])), default=0
    )
    if "x2apic" in given:
        leaves[0xB, -1] = [0, 0, 0, 0]
    _finish_xstate(leaves, given)
    if tuple(leaves[0x0, -1][i] for i in (EBX, EDX, ECX)) == engine.VENDORS["AuthenticAMD"]:
        _finish_amd(leaves)
    return {
        place: _regs(regs)
        for place, regs in leaves.items()
        if any(regs) or place in _KEPT or place[0] == 4
    }


_KEPT: Final = frozenset({(0x7, 0), (0xB, -1), (0x80000001, -1)})


def _finish_xstate(leaves: _Leaves, given: frozenset[str]) -> None:
    """Leaf 0xd: the components that the features bring (Xen's recalculate_xstate)."""
    features = leaves[0xD, 1][EAX]
    for place in [place for place in leaves if place[0] == 0xD]:
        del leaves[place]
    if "xsave" not in given:
        return
    mask, size = XCR0_X87 | XCR0_SSE, engine.XSTATE_MIN_SIZE
    for name, components in engine.XSTATE.items():
        if name in given:
            for bit, length, offset in components:
                leaves[0xD, bit] = [length, offset, 0, 0]
                mask |= 1 << bit
                size = max(size, offset + length)
    leaves[0xD, 0] = [mask & 0xFFFFFFFF, 0, size, mask >> 32]
    leaves[0xD, 1] = [features, 0, 0, 0]


def _finish_amd(leaves: _Leaves) -> None:
    """What AMD repeats in its extended leaves, and what only Intel has (recalculate_misc)."""
    for place in [place for place in leaves if place[0] in (0x2, 0x4, 0x15, 0x16)]:
        del leaves[place]
    leaves[0x0, -1][EAX] = min(leaves[0x0, -1][EAX], 0xD)
    leaves[0x80000000, -1][1:] = leaves[0x0, -1][1:]
    leaves[0x80000001, -1][EAX] = leaves[0x1, -1][EAX]
    leaves[0x80000001, -1][EDX] |= leaves[0x1, -1][EDX] & COMMON_1D


def _regs(regs: Iterable[int]) -> Regs:
    eax, ebx, ecx, edx = regs
    return (eax, ebx, ecx, edx)


def _cpuid_only(leaves: Mapping[tuple[int, int], Regs]) -> dict[tuple[int, int], Regs]:
    msr_words = {_place(word) for word in WORDS if word.is_msr}
    return {place: regs for place, regs in leaves.items() if place not in msr_words}


def _msr_value(leaves: Mapping[tuple[int, int], Regs]) -> int:
    low, _, _, high = leaves.get(_place(WORDS[16]), EMPTY)
    return high << 32 | low
