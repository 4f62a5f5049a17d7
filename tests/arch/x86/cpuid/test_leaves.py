# SPDX-License-Identifier: GPL-2.0-or-later
"""Xen's own leaves, topology, caches, frequencies."""

from __future__ import annotations

import pytest

from xenograft.arch.x86.cpuid.leaves import (
    HypervisorInfo,
    Topology,
    brand_leaves,
    frequency_leaves,
    hypervisor_leaf,
)

PVH = HypervisorInfo(domid=7, tsc_khz=2_500_000, host_khz=2_400_000, incarnation=3)
PV = HypervisorInfo(domid=7, hvm=False)


def test_signature_and_version() -> None:
    eax, ebx, ecx, edx = hypervisor_leaf(PVH, 0x40000000, 0, 0)
    assert eax == 0x40000005
    assert b"".join(word.to_bytes(4, "little") for word in (ebx, ecx, edx)) == b"XenVMMXenVMM"
    assert hypervisor_leaf(PVH, 0x40000001, 0, 0) == (4 << 16 | 17, 0, 0, 0)


def test_hypercall_page_leaf() -> None:
    assert hypervisor_leaf(PVH, 0x40000002, 0, 0) == (1, 0x40000000, 0, 0)
    assert hypervisor_leaf(PV, 0x40000002, 0, 0) == (1, 0x40000000, 1, 0)


def test_time_leaf() -> None:
    assert hypervisor_leaf(PVH, 0x40000003, 0, 0) == (6, 0, 2_500_000, 3)
    mul = (10**9 << 32) // 1_250_000_000
    assert hypervisor_leaf(PVH, 0x40000003, 1, 0) == (0, 0, mul, 0xFFFFFFFF)
    assert hypervisor_leaf(PVH, 0x40000003, 2, 0) == (2_400_000, 0, 0, 0)
    assert hypervisor_leaf(PVH, 0x40000003, 3, 0) == (0, 0, 0, 0)


def test_the_offset_of_the_tsc_is_split() -> None:
    info = HypervisorInfo(tsc_offset=-2)
    assert hypervisor_leaf(info, 0x40000003, 1, 0)[:2] == (0xFFFFFFFE, 0xFFFFFFFF)
    emulated = HypervisorInfo(tsc_offset=-2, tsc_emulated=True)
    assert hypervisor_leaf(emulated, 0x40000003, 1, 0)[:2] == (0, 0)


def test_hvm_leaf_has_the_ids_and_the_upcall_vector() -> None:
    eax, ebx, ecx, edx = hypervisor_leaf(PVH, 0x40000004, 0, 5)
    assert eax == 1 << 2 | 1 << 3 | 1 << 4 | 1 << 6
    assert (ebx, ecx, edx) == (5, 7, 0)
    assert hypervisor_leaf(PV, 0x40000004, 0, 5) == (0, 0, 0, 0)


def test_pv_leaf() -> None:
    assert hypervisor_leaf(PV, 0x40000005, 0, 0) == (0, 40, 0, 0)
    assert hypervisor_leaf(PVH, 0x40000005, 0, 0) == (0, 0, 0, 0)


@pytest.mark.parametrize(("limit", "last"), [(0, 5), (1, 2), (3, 3), (200, 5)])
def test_the_number_of_leaves_can_be_limited(limit: int, last: int) -> None:
    info = HypervisorInfo(limit=limit)
    assert hypervisor_leaf(info, 0x40000000, 0, 0)[0] == 0x40000000 + last
    assert hypervisor_leaf(info, 0x40000001 + last, 0, 0) == (0, 0, 0, 0)


@pytest.mark.parametrize(("vcpus", "ids"), [(1, 2), (2, 4), (3, 8), (4, 8), (5, 16), (32, 64)])
def test_a_package_has_room_for_all_apic_ids(vcpus: int, ids: int) -> None:
    assert Topology.of(vcpus).ids == ids
    assert (vcpus - 1) * 2 < ids


def test_brand() -> None:
    leaves = brand_leaves("x" * 100)
    data = b"".join(
        word.to_bytes(4, "little") for i in range(3) for word in leaves[0x80000002 + i, -1]
    )
    assert data == b"x" * 47 + b"\0"


@pytest.mark.parametrize("khz", [1, 999_999, 1_000_000, 2_596_142, 4_000_000])
def test_the_tsc_is_a_multiple_of_the_crystal(khz: int) -> None:
    denominator, numerator, crystal, _ = frequency_leaves(khz)[0x15, -1]
    assert crystal == 100_000_000
    assert crystal * numerator == khz * 1000 * denominator
    base, maximum, bus, _ = frequency_leaves(khz)[0x16, -1]
    assert base == maximum == max(khz // 1000, 1)
    assert bus == 100
