# SPDX-License-Identifier: GPL-2.0-or-later
"""HYPERVISOR_memory_op: the table of its operations, and the way in.

Facts: do_memory_op(), compat_memory_op(), and hvm_memory_op() in xen/arch/x86/hvm/hypercall.c,
which refuses two operations to HVM-type guests. Paging and sharing aren't built into a stock
Xen 4.17, where they're unknown operations.
"""

from __future__ import annotations

from xenograft.abi import memory as abi
from xenograft.abi.errno import Errno
from xenograft.hypervisor.call import Call
from xenograft.hypervisor.memory import queries
from xenograft.hypervisor.memory.exchange import memory_exchange
from xenograft.hypervisor.memory.physmap import (
    add_to_physmap,
    add_to_physmap_batch,
    remove_from_physmap,
)
from xenograft.hypervisor.memory.reservation import (
    decrease_reservation,
    increase_reservation,
    populate_physmap,
)
from xenograft.hypervisor.memory.resource import acquire_resource
from xenograft.hypervisor.ops import Decisions, Op, dispatch_family, everyone, family, pv_only

_RESERVATION = abi.xen_memory_reservation
_DOMAIN = abi.xen_memory_domain


def _op(name: str, argument: type | None, decisions: Decisions, how: str = "in") -> Op:
    """A row. how: "in" copies the argument in, "out" back too, "raw" leaves both to the handler."""
    number = getattr(abi, f"XENMEM_{name}")
    return Op(number, f"XENMEM_{name}", argument, decisions, out=how == "out", raw=how == "raw")


MEMORY_OPS: dict[int, Op] = family(
    (
        _op("increase_reservation", _RESERVATION, everyone(increase_reservation), "raw"),
        _op("decrease_reservation", _RESERVATION, everyone(decrease_reservation), "raw"),
        _op("populate_physmap", _RESERVATION, everyone(populate_physmap), "raw"),
        _op("exchange", abi.xen_memory_exchange, everyone(memory_exchange), "raw"),
        _op("maximum_ram_page", None, everyone(queries.maximum_ram_page)),
        _op("current_reservation", _DOMAIN, everyone(queries.current_reservation)),
        _op("maximum_reservation", _DOMAIN, everyone(queries.maximum_reservation)),
        _op("maximum_gpfn", _DOMAIN, everyone(queries.maximum_gpfn)),
        _op(
            "machphys_mfn_list",
            abi.xen_machphys_mfn_list,
            everyone(queries.machphys_mfn_list),
            "out",
        ),
        _op(
            "machphys_compat_mfn_list",
            abi.xen_machphys_mfn_list,
            everyone(queries.machphys_mfn_list),
            "out",
        ),
        _op(
            "machphys_mapping",
            abi.xen_machphys_mapping,
            pv_only(queries.machphys_mapping),
            "raw",
        ),
        _op("add_to_physmap", abi.xen_add_to_physmap, everyone(add_to_physmap), "raw"),
        _op(
            "add_to_physmap_batch",
            abi.xen_add_to_physmap_batch,
            everyone(add_to_physmap_batch),
            "raw",
        ),
        _op("remove_from_physmap", abi.xen_remove_from_physmap, everyone(remove_from_physmap)),
        _op("memory_map", abi.xen_memory_map, everyone(queries.memory_map), "out"),
        _op(
            "machine_memory_map",
            abi.xen_memory_map,
            pv_only(queries.machine_memory_map),
            "out",
        ),
        _op("set_memory_map", abi.xen_foreign_memory_map, everyone(queries.set_memory_map)),
        _op("set_pod_target", abi.xen_pod_target, everyone(queries.set_pod_target), "out"),
        _op("get_pod_target", abi.xen_pod_target, everyone(queries.get_pod_target), "out"),
        _op("get_sharing_freed_pages", None, everyone(queries.get_sharing_pages)),
        _op("get_sharing_shared_pages", None, everyone(queries.get_sharing_pages)),
        _op("paging_op", abi.xen_mem_paging_op, everyone(Errno.ENOSYS)),
        _op("access_op", abi.xen_mem_access_op, everyone(queries.access_op)),
        _op("sharing_op", abi.xen_mem_sharing_op, everyone(Errno.ENOSYS)),
        _op("claim_pages", _RESERVATION, everyone(queries.claim_pages)),
        _op("get_vnumainfo", abi.xen_vnuma_topology_info, everyone(queries.get_vnumainfo)),
        _op(
            "reserved_device_memory_map",
            abi.xen_reserved_device_memory_map,
            everyone(queries.reserved_device_memory_map),
            "out",
        ),
        _op(
            "acquire_resource",
            abi.xen_mem_acquire_resource,
            everyone(acquire_resource),
            "raw",
        ),
    )
)


def memory_op(call: Call, cmd: int, arg: int) -> int:
    """The hypercall. The upper bits of cmd say with which extent it goes on.

    Raises XenError, and Continuation when it has used up its budget.
    """
    call.start = (cmd & (1 << call.bits) - 1) >> abi.MEMOP_EXTENT_SHIFT
    result = dispatch_family(MEMORY_OPS, call, cmd & abi.MEMOP_CMD_MASK, arg)
    return min(result, 0x7FFFFFFF) if call.bits == 32 else result
