# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of hypercalls against Xen's own, and that nothing declared lacks a decision."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pytest

from tests.hypervisor.support import Bench, errno
from xenograft import abi
from xenograft.abi.errno import Errno
from xenograft.abi.xen import HYPERCALLS as NAMES
from xenograft.hypervisor.events.ops import EVENT_CHANNEL_OPS
from xenograft.hypervisor.grants.ops import GNTTABOPS
from xenograft.hypervisor.hypercalls.console_io import CONSOLE_OPS
from xenograft.hypervisor.hypercalls.hvm_op import HVM_OPS
from xenograft.hypervisor.hypercalls.physdev_op import PHYSDEV_OPS
from xenograft.hypervisor.hypercalls.sched_op import SCHED_OPS
from xenograft.hypervisor.hypercalls.table import HYPERCALLS
from xenograft.hypervisor.hypercalls.vcpu_op import VCPU_OPS
from xenograft.hypervisor.hypercalls.xen_version import VERSION_OPS
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.memory.ops import MEMORY_OPS

# xen/include/hypercall-defs.c of Xen 4.17: which hypercalls an HVM-type guest has at all.
HVM_HAS = {
    "platform_op",
    "memory_op",
    "multicall",
    "set_timer_op",
    "xen_version",
    "console_io",
    "grant_table_op",
    "vm_assist",
    "vcpu_op",
    "mmuext_op",
    "xsm_op",
    "sched_op",
    "event_channel_op",
    "physdev_op",
    "hvm_op",
    "sysctl",
    "domctl",
    "argo_op",
    "xenpmu_op",
    "dm_op",
    "hypfs_op",
    "arch_1",  # paging_domctl_cont
}
# Those of them that answer -ENOSYS all the same: no security module, argo isn't built in.
ANSWER_ENOSYS = {"xsm_op", "argo_op"}

# Constants of the abi that look like operations of a family, by prefix: the family's table.
FAMILIES: dict[str, Mapping[int, Any]] = {
    "EVTCHNOP_": EVENT_CHANNEL_OPS,
    "GNTTABOP_": GNTTABOPS,
    "CONSOLEIO_": CONSOLE_OPS,
    "HVMOP_": HVM_OPS,
    "PHYSDEVOP_": PHYSDEV_OPS,
    "SCHEDOP_": SCHED_OPS,
    "VCPUOP_": VCPU_OPS,
    "XENVER_": VERSION_OPS,
    "XENMEM_": MEMORY_OPS,
}
# What begins like an operation, but is an argument of one.
NOT_OPERATIONS = (
    "HVMOP_altp2m_",
    "HVMOP_ALTP2M_",
    "PHYSDEVOP_DBGP_",
    "XENMEM_access_",
    "XENMEM_paging_op_",
    "XENMEM_sharing_",
    "XENMEM_SHARING_",
    "XENMEM_FORK_",
)
# Families of PV guests and of control domains: the hypercall's row decides for all of them.
WHOLE = {
    "CALLBACKOP_": "callback_op",
    "XENNMI_": "nmi_op",
    "XENPF_": "platform_op",
    "XEN_DOMCTL_": "domctl",
    "XEN_SYSCTL_": "sysctl",
    "XEN_DMOP_": "dm_op",
    "XENPMU_": "xenpmu_op",
    "XENOPROF_": "xenoprof_op",
    "XEN_HYPFS_OP_": "hypfs_op",
    "XEN_ARGO_OP_": "argo_op",
    "KEXEC_CMD_": "kexec_op",
    "MMUEXT_": "mmuext_op",
}


def abi_modules() -> list[ModuleType]:
    return [
        importlib.import_module(found.name)
        for found in pkgutil.walk_packages(abi.__path__, "xenograft.abi.")
    ]


def operations(prefix: str) -> dict[str, int]:
    """All constants of the abi with this prefix that are operations."""
    return {
        name: value
        for module in abi_modules()
        for name, value in vars(module).items()
        if name.startswith(prefix)
        and isinstance(value, int)
        and not name.startswith(NOT_OPERATIONS)
    }


def test_every_hypercall_number_has_a_row() -> None:
    assert set(NAMES) - set(HYPERCALLS) == set()
    assert {row.number: row.name for row in HYPERCALLS.values()} == NAMES


@pytest.mark.parametrize("row", HYPERCALLS.values(), ids=lambda row: row.name)
def test_every_row_decides_for_every_kind(row: Any) -> None:
    assert set(row.decisions) == set(GuestKind)
    for decision in row.decisions.values():
        assert isinstance(decision, Errno) or callable(decision)


@pytest.mark.parametrize("kind", [GuestKind.PVH, GuestKind.HVM])
def test_hvm_type_guests_have_what_xen_gives_them(kind: GuestKind) -> None:
    answered = {row.name for row in HYPERCALLS.values() if row.decisions[kind] != Errno.ENOSYS}
    assert answered == HVM_HAS - ANSWER_ENOSYS


def test_no_pv_hypercall_is_open_to_hvm_type_guests() -> None:
    for name in ("set_trap_table", "mmu_update", "iret", "set_segment_base", "callback_op"):
        row = next(row for row in HYPERCALLS.values() if row.name == name)
        assert row.decisions[GuestKind.PVH] is Errno.ENOSYS


@pytest.mark.parametrize("prefix", FAMILIES)
def test_every_declared_operation_has_a_decision_per_kind(prefix: str) -> None:
    table = FAMILIES[prefix]
    found = operations(prefix)
    assert found, f"no constant of the abi begins with {prefix}"
    missing = sorted(name for name, number in found.items() if number not in table)
    assert missing == []
    for number in found.values():
        assert set(table[number].decisions) == set(GuestKind)


@pytest.mark.parametrize(("prefix", "name"), WHOLE.items())
def test_whole_families_are_decided_by_their_hypercall(prefix: str, name: str) -> None:
    assert operations(prefix), f"no constant of the abi begins with {prefix}"
    row = next(row for row in HYPERCALLS.values() if row.name == name)
    assert set(row.decisions) == set(GuestKind)


def test_no_family_of_operations_was_overlooked() -> None:
    """Every *OP_* or *_OP constant of the abi belongs to a family that is known here."""
    prefixes = (*FAMILIES, *WHOLE, *NOT_OPERATIONS)
    known_others = (
        "BLKIF_OP_",  # of the block protocol
        "MEMOP_",  # how XENMEM_* numbers are packed
        "MEM_PAGING_",
        "TRC_",
        "XEN_RESOURCE_OP_",  # arguments of XENPF_resource_op
    )
    strangers = sorted(
        name
        for module in abi_modules()
        for name, value in vars(module).items()
        if isinstance(value, int)
        and ("OP_" in name and name.split("OP_")[0].isupper())
        and not name.startswith(prefixes)
        and not name.startswith(known_others)
        and not name.startswith("_")
    )
    assert strangers == []


def test_unknown_numbers_are_enosys() -> None:
    bench = Bench()
    for number in (11, 43, 47, 56, 128, 1 << 32 | 17, (1 << 64) - 1):
        result = bench.xen.dispatch(bench.call(), number, (0,) * 6)
        assert errno(result) is Errno.ENOSYS


def test_arguments_are_cut_to_their_width() -> None:
    bench = Bench()
    # "int cmd": the upper half of the register doesn't count.
    assert bench.do("xen_version", 1 << 32, 0) == 4 << 16 | 17
    # "unsigned long op": it does.
    assert errno(bench.do("hvm_op", 1 << 32 | 10, 0)) is Errno.ENOSYS
    # A 32-bit caller has 32 bits of everything.
    assert bench.do("xen_version", 1 << 32, 0, bits=32) == 4 << 16 | 17
