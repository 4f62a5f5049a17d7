# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables by which calls are decoded, against the hypervisor's own tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from xenograft.abi.struct import Struct
from xenograft.hypervisor.events.ops import EVENT_CHANNEL_OPS
from xenograft.hypervisor.grants.ops import GNTTABOPS
from xenograft.hypervisor.hypercalls.hvm_op import HVM_OPS
from xenograft.hypervisor.hypercalls.physdev_op import PHYSDEV_OPS
from xenograft.hypervisor.hypercalls.sched_op import SCHED_OPS
from xenograft.hypervisor.hypercalls.table import HYPERCALLS
from xenograft.hypervisor.hypercalls.vcpu_op import VCPU_OPS
from xenograft.hypervisor.hypercalls.xen_version import VERSION_OPS
from xenograft.hypervisor.memory.ops import MEMORY_OPS
from xenograft.hypervisor.ops import Op
from xenograft.observe.families import families

TABLES: dict[str, Mapping[int, Any]] = {
    "event_channel_op": EVENT_CHANNEL_OPS,
    "sched_op": SCHED_OPS,
    "vcpu_op": VCPU_OPS,
    "memory_op": MEMORY_OPS,
    "xen_version": VERSION_OPS,
    "grant_table_op": GNTTABOPS,
    "hvm_op": HVM_OPS,
    "physdev_op": PHYSDEV_OPS,
}


@pytest.mark.parametrize("name", TABLES)
def test_names_and_structures_are_the_hypervisors(name: str) -> None:
    decoded = families()[name].operations
    for number, row in TABLES[name].items():
        if row.name.endswith("_cont"):
            continue
        assert decoded[number].name == row.name
        argument = row.argument if isinstance(row, Op) else None
        if argument is not None:
            assert decoded[number].argument is argument, row.name


def test_every_family_is_a_hypercall_with_such_arguments() -> None:
    rows = {row.name: row for row in HYPERCALLS.values()}
    for name, family in families().items():
        arguments = rows[name].args
        for index in (family.cmd, family.arg, family.length):
            assert index is None or index < len(arguments), name
        if family.arg is not None and name != "mmuext_op":
            kind = arguments[family.arg].partition(":")[2]
            assert kind == "handle", name
        if family.tag is not None:
            assert family.argument is not None
            assert family.tag in dict(family.argument.types())


def test_arguments_are_structures() -> None:
    found = 0
    for family in families().values():
        for operation in family.operations.values():
            if operation.argument is not None:
                assert issubclass(operation.argument, Struct)
                found += 1
    assert found > 100


def test_control_operations_have_names() -> None:
    assert families()["domctl"].operations[1].name == "XEN_DOMCTL_createdomain"
    assert families()["sysctl"].operations[3].name == "XEN_SYSCTL_physinfo"
    assert families()["platform_op"].operations[62].name.startswith("XENPF_settime")
    assert families()["xsm_op"].operations[6].name == "FLASK_ACCESS"
    assert "GNTTABOP_error_msgs" not in str(families()["grant_table_op"])
