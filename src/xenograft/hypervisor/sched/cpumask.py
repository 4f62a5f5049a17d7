# SPDX-License-Identifier: GPL-2.0-or-later
"""Sets of physical CPUs: an int with a bit per CPU (Xen's cpumask_t)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

CpuMask = int


def mask_of(cpus: Iterable[int]) -> CpuMask:
    """The set of these CPUs.

    >>> mask_of([0, 3])
    9
    """
    mask = 0
    for cpu in cpus:
        mask |= 1 << cpu
    return mask


def cpus_in(mask: CpuMask) -> Iterator[int]:
    """The CPUs of a set, ascending.

    >>> list(cpus_in(0b1001))
    [0, 3]
    """
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def first(mask: CpuMask) -> int:
    """The lowest CPU of a set that isn't empty."""
    return (mask & -mask).bit_length() - 1


def last(mask: CpuMask) -> int:
    """The highest CPU of a set that isn't empty."""
    return mask.bit_length() - 1


def cycle(mask: CpuMask, cpu: int) -> int:
    """The CPU of a set that comes after `cpu`, going round (Xen's cpumask_cycle).

    >>> cycle(0b1011, 1), cycle(0b1011, 3)
    (3, 0)
    """
    above = mask >> (cpu + 1) << (cpu + 1)
    return first(above or mask)


def show(mask: CpuMask, everything: CpuMask) -> str:
    """As `xl` prints it: "all", "none", or ranges.

    >>> show(0b1111, 0b1111), show(0, 0b1111), show(0b1101, 0b1111)
    ('all', 'none', '0,2-3')
    """
    if mask & everything == everything:
        return "all"
    runs: list[list[int]] = []
    for cpu in cpus_in(mask & everything):
        if runs and runs[-1][1] == cpu - 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(f"{a}-{b}" if b > a else str(a) for a, b in runs) or "none"
