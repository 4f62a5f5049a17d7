# SPDX-License-Identifier: GPL-2.0-or-later
"""A policy in words."""

from __future__ import annotations

import json

import pytest

from xenograft.arch.x86.cpuid.decode import brand, caches, describe, family_model_stepping, rows
from xenograft.arch.x86.cpuid.parse import parse
from xenograft.arch.x86.cpuid.policy import CpuPolicy


@pytest.mark.parametrize(
    ("signature", "numbers"),
    [(0x30661, (6, 0x36, 1)), (0x830F10, (23, 49, 0)), (0x543, (5, 4, 3)), (0x106A5, (6, 26, 5))],
)
def test_family_model_stepping(signature: int, numbers: tuple[int, int, int]) -> None:
    assert family_model_stepping(signature) == numbers


def test_brand_and_caches() -> None:
    policy = CpuPolicy.make()
    assert brand(policy) == "Xenograft Virtual CPU"
    assert [(c["level"], c["type"], c["bytes"]) for c in caches(policy)] == [
        (1, "data", 24 << 10),
        (1, "instruction", 32 << 10),
        (2, "unified", 512 << 10),
    ]


def test_rows_are_sorted_and_have_no_place_twice() -> None:
    places = [row[:2] for row in rows(CpuPolicy.make(vcpus=2), 1)]
    assert places == sorted(set(places))
    assert (0x40000003, 2) in places


def test_describe_is_plain_data() -> None:
    policy = CpuPolicy.make(vcpus=4, edits=parse("host,sse3=0,avx=1"))
    record = json.loads(json.dumps(describe(policy, vcpu_id=3)))
    assert record["apic_id"] == 6
    assert record["ignored"] == ["avx"]
    assert (record["family"], record["model"], record["stepping"]) == (6, 54, 1)
    shown = {feature["name"]: feature["shown"] for feature in record["features"]}
    assert shown["sse2"] is True
    assert shown["sse3"] is False
    assert shown["erms"] is False
    assert "avx" not in shown
    reasons = {feature["name"]: feature["hidden_because"] for feature in record["features"]}
    assert "REP MOVSB" in reasons["erms"]
    assert {"leaf", "subleaf", "eax", "ebx", "ecx", "edx"} == record["leaves"][0].keys()
