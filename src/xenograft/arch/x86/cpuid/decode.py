# SPDX-License-Identifier: GPL-2.0-or-later
"""A policy in words: who the CPU says it is, its features, its caches and sizes."""

from __future__ import annotations

from typing import Any

from xenograft.arch.x86.cpuid import engine
from xenograft.arch.x86.cpuid.features import FEATURES
from xenograft.arch.x86.cpuid.policy import (
    EAX,
    EBX,
    ECX,
    CpuPolicy,
    VcpuView,
    maximum_features,
)

Row = tuple[int, int, int, int, int, int]


def family_model_stepping(signature: int) -> tuple[int, int, int]:
    """The numbers in EAX of leaf 1.

    >>> family_model_stepping(0x00030661)
    (6, 54, 1)
    """
    family, model, stepping = signature >> 8 & 0xF, signature >> 4 & 0xF, signature & 0xF
    if family in (6, 15):
        model |= signature >> 12 & 0xF0
    if family == 15:
        family += signature >> 20 & 0xFF
    return family, model, stepping


def brand(policy: CpuPolicy) -> str:
    """The brand string of leaves 0x80000002 to 4."""
    words = [word for i in range(3) for word in policy.static_leaf(0x80000002 + i, 0)]
    data = b"".join(word.to_bytes(4, "little") for word in words)
    return data.split(b"\0")[0].decode("ascii", "replace").strip()


def caches(policy: CpuPolicy) -> list[dict[str, int | str]]:
    """The caches of leaf 4."""
    kinds = {1: "data", 2: "instruction", 3: "unified"}
    found: list[dict[str, int | str]] = []
    for index in range(8):
        eax, ebx, ecx, _ = policy.static_leaf(4, index)
        if eax & 0x1F not in kinds:
            break
        line, parts, ways = (ebx & 0xFFF) + 1, (ebx >> 12 & 0x3FF) + 1, (ebx >> 22) + 1
        found.append(
            {
                "level": eax >> 5 & 7,
                "type": kinds[eax & 0x1F],
                "bytes": line * parts * ways * (ecx + 1),
                "ways": ways,
                "line": line,
            }
        )
    return found


def rows(policy: CpuPolicy, vcpu_id: int = 0) -> list[Row]:
    """All leaves as vCPU `vcpu_id` reads them right after its start: (leaf, subleaf, registers)."""
    view = VcpuView(vcpu_id=vcpu_id)
    places = [(leaf, max(subleaf, 0)) for leaf, subleaf in policy.leaves]
    places += [(0x40000000 + index, 0) for index in range(policy.hypervisor.last + 1)]
    if policy.hypervisor.last >= 3:
        places += [(0x40000003, 1), (0x40000003, 2)]
    return [(*place, *policy.cpuid(*place, view)) for place in sorted(places)]


def describe(policy: CpuPolicy, vcpu_id: int = 0) -> dict[str, Any]:
    """The policy as plain data, for people (`xg cpuid`) and programs (its --json)."""
    family, model, stepping = family_model_stepping(policy.signature)
    sizes = policy.static_leaf(0x80000008, 0)[EAX]
    limit = maximum_features(policy.hypervisor.hvm)
    features = [
        {
            "name": feature.name,
            "leaf": feature.word.place,
            "bit": feature.bit,
            "description": feature.description,
            "shown": policy.has(feature.name),
            "hidden_because": engine.HIDDEN_BY_DEFAULT.get(feature.name, ""),
        }
        for feature in FEATURES
        if feature.name in limit
    ]
    return {
        "vendor": policy.vendor,
        "brand": brand(policy),
        "family": family,
        "model": model,
        "stepping": stepping,
        "physical_address_bits": sizes & 0xFF,
        "linear_address_bits": sizes >> 8 & 0xFF,
        "apic_id": policy.cpuid(1, 0, VcpuView(vcpu_id=vcpu_id))[EBX] >> 24,
        "tsc_khz": policy.hypervisor.tsc_khz,
        "xcr0": policy.xcr0_mask,
        "xsave_bytes": policy.static_leaf(0xD, 0)[ECX],
        "arch_capabilities": policy.arch_capabilities,
        "caches": caches(policy),
        "features": features,
        "ignored": list(policy.ignored),
        "leaves": [
            dict(zip(("leaf", "subleaf", "eax", "ebx", "ecx", "edx"), row, strict=True))
            for row in rows(policy, vcpu_id)
        ],
    }
