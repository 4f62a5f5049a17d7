# SPDX-License-Identifier: GPL-2.0-or-later
"""The paravirtual clock against exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenograft.arch.x86.pvclock import (
    XEN_PVCLOCK_TSC_STABLE_BIT,
    TimeScale,
    TscClock,
    khz_from_scale,
    scale_from_hz,
    scale_from_khz,
    time_record,
    version_update_begin,
    version_update_end,
)

khz = st.integers(1, 10_000_000)


def factor(scale: TimeScale) -> Fraction:
    return Fraction(scale.mul, 1 << 32) * Fraction(2) ** scale.shift


@pytest.mark.parametrize(
    ("frequency", "mul", "shift"),
    [
        # What a real Xen 4.17 gives at these frequencies.
        (1_000_000, 0x80000000, 1),
        (2_000_000, 0x80000000, 0),
        (2_596_142, (10**9 << 32) // 1_298_071_000, -1),
        (500_000, 0x80000000, 2),
    ],
)
def test_known_scales(frequency: int, mul: int, shift: int) -> None:
    assert scale_from_khz(frequency) == (mul, shift)


@given(st.integers(1, 2**40))
def test_scales_fit_their_fields_and_are_precise(hz: int) -> None:
    scale = scale_from_hz(hz)
    assert 0 < scale.mul < 1 << 32
    assert -128 <= scale.shift <= 127
    exact = Fraction(10**9, hz)
    # 31 bits of the factor are right; a frequency that had to be halved lost its lowest bits.
    assert abs(factor(scale) / exact - 1) < Fraction(1, 1 << 29)


@pytest.mark.parametrize("hz", [0, -1])
def test_a_clock_that_stands_still_has_no_scale(hz: int) -> None:
    with pytest.raises(ValueError, match="1 tick"):
        scale_from_hz(hz)


@given(st.integers(1000, 10_000_000))
def test_a_guest_reads_the_frequency_back(frequency: int) -> None:
    scale = scale_from_khz(frequency)
    # The shift comes last in the guest's formula, and what was cut off before is lost.
    assert abs(khz_from_scale(scale) - frequency) <= max(1, 1 << max(-scale.shift, 0))


@given(st.integers(1, 2**32 - 1), st.integers(-32, 32), st.integers(0, 2**64 - 1))
def test_apply_is_the_guests_formula(mul: int, shift: int, ticks: int) -> None:
    shifted = ticks << shift if shift >= 0 else ticks >> -shift
    product = (shifted % 2**64) * mul // 2**32
    assert TimeScale(mul, shift).apply(ticks) == product % 2**64


@given(khz)
def test_reciprocal(frequency: int) -> None:
    scale = scale_from_khz(frequency)
    inverse = scale.reciprocal()
    assert 0 < inverse.mul < 1 << 32
    assert abs(factor(scale) * factor(inverse) - 1) < Fraction(1, 1 << 29)


def test_zero_has_no_reciprocal() -> None:
    with pytest.raises(ValueError, match="reciprocal"):
        TimeScale(0, 0).reciprocal()


@given(khz, st.integers(0, 2**50), st.integers(0, 2**64 - 1))
def test_the_tsc_runs_at_its_frequency(frequency: int, ns: int, offset: int) -> None:
    clock = TscClock(frequency, offset)
    assert clock.tsc_at(ns) == (ns * frequency // 10**6 + offset) % 2**64


@given(khz, st.integers(0, 2**50), st.integers(0, 2**40))
def test_ns_of_is_the_first_moment_at_which_the_ticks_have_passed(
    frequency: int, start: int, ticks: int
) -> None:
    wait = TscClock(frequency).ns_of(ticks)
    assert wait * frequency >= ticks * 10**6
    assert wait == 0 or (wait - 1) * frequency < ticks * 10**6


@given(khz, st.integers(0, 2**50), st.integers(0, 2**64 - 1))
def test_setting_the_tsc(frequency: int, ns: int, value: int) -> None:
    assert TscClock(frequency, 12345).with_tsc(ns, value).tsc_at(ns) == value


@given(st.integers(100_000, 10_000_000), st.integers(0, 2**50), st.integers(0, 10**9))
def test_a_guest_computes_system_time_from_the_record(frequency: int, now: int, later: int) -> None:
    clock = TscClock(frequency, offset=777)
    record = time_record(clock, now)
    computed = record.system_time_at(clock.tsc_at(now + later))
    # One tick of the TSC, and a second of the factor's rounding, at most.
    assert abs(computed - (now + later)) <= 10**6 // frequency + 4 + later // (1 << 29)


def test_the_record_says_that_clocks_agree() -> None:
    assert time_record(TscClock(10**6), 5).flags == XEN_PVCLOCK_TSC_STABLE_BIT
    assert time_record(TscClock(10**6), 5, stable=False).flags == 0


@given(st.integers(0, 2**32 - 1))
def test_versions_are_odd_while_a_record_changes(version: int) -> None:
    begun = version_update_begin(version)
    ended = version_update_end(begun)
    assert begun % 2 == 1
    assert ended % 2 == 0
    assert ended != version
