# SPDX-License-Identifier: GPL-2.0-or-later
"""Arithmetic of the paravirtual clock: from time stamp counter to nanoseconds and back.

A guest computes ``system_time + scale(tsc - tsc_timestamp)`` from the vcpu_time_info in its
vcpu_info (public/xen.h), where scale() shifts by `tsc_shift` and then multiplies by
`tsc_to_system_mul` / 2**32.  The conversions are those of xen/arch/x86/time.c.
"""

from __future__ import annotations

from typing import Final, NamedTuple

XEN_PVCLOCK_TSC_STABLE_BIT: Final = 1 << 0
"""vcpu_time_info.flags: the clocks of all vCPUs agree, no check for monotony is needed."""
XEN_PVCLOCK_GUEST_STOPPED: Final = 1 << 1

_NS: Final = 1_000_000_000
_U64: Final = (1 << 64) - 1


class TimeScale(NamedTuple):
    """A factor ``mul / 2**32 * 2**shift`` (Xen's struct time_scale): mul is u32, shift is i8."""

    mul: int
    shift: int

    def apply(self, ticks: int) -> int:
        """`ticks` (u64) times the factor, as a guest computes it: modulo 2**64."""
        ticks = ticks << self.shift if self.shift >= 0 else ticks >> -self.shift
        return (ticks & _U64) * self.mul >> 32 & _U64

    def reciprocal(self) -> TimeScale:
        """The inverse factor, rounded down (scale_reciprocal)."""
        if not self.mul:
            raise ValueError("a scale of 0 has no reciprocal")
        dividend, shift = 1 << 31, 1 - self.shift
        while dividend >= self.mul:
            dividend >>= 1
            shift += 1
        return TimeScale((dividend << 32) // self.mul, shift)


def scale_from_hz(ticks_per_second: int) -> TimeScale:
    """The scale that turns ticks into ns (set_time_scale). Raises ValueError below 1 Hz.

    >>> scale_from_hz(2_000_000_000)
    TimeScale(mul=2147483648, shift=0)
    """
    if ticks_per_second < 1:
        raise ValueError("a clock needs at least 1 tick a second")
    ticks, shift = ticks_per_second, 0
    while ticks > 2 * _NS:
        ticks >>= 1
        shift -= 1
    while ticks <= _NS:
        ticks <<= 1
        shift += 1
    return TimeScale((_NS << 32) // ticks, shift)


def scale_from_khz(khz: int) -> TimeScale:
    """(tsc_to_system_mul, tsc_shift) of a TSC that runs at `khz`."""
    return scale_from_hz(khz * 1000)


def khz_from_scale(scale: TimeScale) -> int:
    """The frequency that a guest reads out of a scale, in kHz (as Linux computes it)."""
    khz = (1_000_000 << 32) // scale.mul
    return khz << -scale.shift if scale.shift < 0 else khz >> scale.shift


class TscClock(NamedTuple):
    """How one vCPU's TSC relates to system time: ``tsc = ns * khz / 1e6 + offset`` (mod 2**64).

    The same formula, in exact integers rounded down, is what the engine uses for RDTSC
    (`xenograft.engine.protocol.Cpu.set_tsc`).
    """

    khz: int
    offset: int = 0

    def tsc_at(self, ns: int) -> int:
        """The TSC at system time `ns`."""
        return (ns * self.khz // 1_000_000 + self.offset) & _U64

    def ns_of(self, ticks: int) -> int:
        """How many ns pass until `ticks` have, rounded up (so that the TSC has got there)."""
        return -(-ticks * 1_000_000 // self.khz)

    def with_tsc(self, ns: int, tsc: int) -> TscClock:
        """The clock whose TSC reads `tsc` at system time `ns` (a write of MSR_IA32_TSC)."""
        return self._replace(offset=(tsc - ns * self.khz // 1_000_000) & _U64)


class TimeRecord(NamedTuple):
    """What goes into a vcpu_time_info, but for its version."""

    tsc_timestamp: int
    system_time: int
    tsc_to_system_mul: int
    tsc_shift: int
    flags: int

    def system_time_at(self, tsc: int) -> int:
        """What a guest that reads `tsc` takes for the time."""
        scale = TimeScale(self.tsc_to_system_mul, self.tsc_shift)
        return (self.system_time + scale.apply((tsc - self.tsc_timestamp) & _U64)) & _U64


def time_record(clock: TscClock, now_ns: int, stable: bool = True) -> TimeRecord:
    """The time record of a vCPU at system time `now_ns`."""
    scale = scale_from_khz(clock.khz)
    flags = XEN_PVCLOCK_TSC_STABLE_BIT if stable else 0
    return TimeRecord(clock.tsc_at(now_ns), now_ns, scale.mul, scale.shift, flags)


def version_update_begin(version: int) -> int:
    """The version to store before a record changes: odd, so that readers wait."""
    return (version + 1 | 1) & 0xFFFFFFFF


def version_update_end(version: int) -> int:
    """The version to store once the record is whole again (`version` from the begin): even."""
    return version + 1 & 0xFFFFFFFF
