# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory type range registers."""

from __future__ import annotations

import pytest

from xenograft.arch.x86.mtrr import FIXED, MSR_IA32_MTRR_PHYSBASE0, MSR_MTRRdefType, Mtrr


def test_a_pvh_guest_starts_with_write_back() -> None:
    assert Mtrr(pvh=True).read(MSR_MTRRdefType) == 0x806
    assert Mtrr(pvh=False).read(MSR_MTRRdefType) == 0
    assert Mtrr().read(0xFE) == 0x508


def test_the_capabilities_are_read_only() -> None:
    assert not Mtrr().write(0xFE, 0x508, 40)


def test_eight_variable_ranges() -> None:
    mtrr = Mtrr()
    assert all(mtrr.read(MSR_IA32_MTRR_PHYSBASE0 + i) == 0 for i in range(16))
    assert mtrr.read(MSR_IA32_MTRR_PHYSBASE0 + 16) is None
    assert not mtrr.write(MSR_IA32_MTRR_PHYSBASE0 + 16, 0, 40)


@pytest.mark.parametrize(
    ("msr", "value", "allowed"),
    [
        (MSR_MTRRdefType, 0xC06, True),
        (MSR_MTRRdefType, 0x002, False),
        (MSR_MTRRdefType, 0x1006, False),
        (FIXED[0], 0x0606060606060606, True),
        (FIXED[10], 0x0606060602060606, False),
        (MSR_IA32_MTRR_PHYSBASE0, 0xF0000001, True),
        (MSR_IA32_MTRR_PHYSBASE0, 0xF0000003, False),
        (MSR_IA32_MTRR_PHYSBASE0, 0xF0000106, False),
        (MSR_IA32_MTRR_PHYSBASE0, 1 << 40, False),
        (MSR_IA32_MTRR_PHYSBASE0 + 1, 0xFFF0000800, True),
        (MSR_IA32_MTRR_PHYSBASE0 + 1, 0xFFF0000A00, False),
        (MSR_IA32_MTRR_PHYSBASE0 + 15, 1 << 40 | 0x800, False),
    ],
)
def test_writes(msr: int, value: int, allowed: bool) -> None:
    mtrr = Mtrr()
    before = mtrr.read(msr)
    assert mtrr.write(msr, value, 40) is allowed
    assert mtrr.read(msr) == (value if allowed else before)
