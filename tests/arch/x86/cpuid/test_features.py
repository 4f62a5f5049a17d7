# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of features."""

from __future__ import annotations

import pytest

from xenograft.abi.arch_x86.cpufeatureset import X86_FEATURE
from xenograft.arch.x86.cpuid.features import (
    ALIASES,
    BY_NAME,
    BY_NUMBER,
    COMMON_1D,
    FEATURES,
    canonical,
    dependents,
    sanitise,
)


def test_every_feature_of_xen_is_here_under_its_number() -> None:
    ours = {feature.name.upper().replace("-", "_"): feature.number for feature in FEATURES}
    assert ours == X86_FEATURE
    assert len(BY_NUMBER) == len(FEATURES)


@pytest.mark.parametrize(
    ("name", "place", "bit"),
    [
        ("sse3", "0x1 ecx", 0),
        ("lm", "0x80000001 edx", 29),
        ("smap", "0x7:0 ebx", 20),
        ("xsaveopt", "0xd:1 eax", 0),
        ("rdcl-no", "msr 0x10a eax", 0),
        ("its-no", "msr 0x10a edx", 30),
    ],
)
def test_places(name: str, place: str, bit: int) -> None:
    assert BY_NAME[name].word.place == place
    assert BY_NAME[name].bit == bit


def test_descriptions_are_there() -> None:
    assert all(feature.description for feature in FEATURES)
    assert BY_NAME["cx16"].description == "CMPXCHG16B"


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("sse4_1", "sse4-1"),
        ("sse4.2", "sse4-2"),
        ("aes", "aesni"),
        ("LAHF_LM", "lahf-lm"),
        ("invtsc", "itsc"),
        ("nope", None),
    ],
)
def test_spellings(spelling: str, name: str | None) -> None:
    assert canonical(spelling) == name


def test_aliases_name_features() -> None:
    assert set(ALIASES.values()) <= BY_NAME.keys()


def test_dependents_are_transitive() -> None:
    assert "sse4-2" in dependents("sse")
    assert "lm" in dependents("fxsr")
    assert "pku" in dependents("pae")
    assert "itsc" not in dependents("apic")
    assert "rdcl-no" in dependents("arch-caps")
    assert dependents("popcnt") == frozenset()
    for feature in FEATURES:
        assert dependents(feature.name) <= BY_NAME.keys()


def test_sanitise_takes_dependents_along() -> None:
    everything = frozenset(BY_NAME)
    assert sanitise(everything) == everything
    without = sanitise(everything - {"sse2"})
    assert not {"lm", "nosuch", "sse3", "aesni", "page1gb"} & without
    assert {"nx", "mmx", "xsave"} <= without
    assert sanitise(without) == without


def test_the_bits_that_amd_repeats() -> None:
    names = {f.name for f in FEATURES if f.word.number == 0 and COMMON_1D >> f.bit & 1}
    assert {"fpu", "tsc", "apic", "mtrr", "fxsr"} <= names
    assert not {"sep", "sse", "htt", "clflush"} & names
