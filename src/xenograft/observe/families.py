# SPDX-License-Identifier: GPL-2.0-or-later
"""What the words of every hypercall mean: sub-operations, their names and their structures.

Names and structures come from `xenograft.abi` alone, so that calls are decoded that this
machine refuses, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from xenograft.abi import (
    argo,
    callback,
    event_channel,
    grant_table,
    hypfs,
    kexec,
    memory,
    nmi,
    physdev,
    platform,
    sched,
    vcpu,
    version,
    xen,
    xenoprof,
    xenpmu,
)
from xenograft.abi.domctl import DOMCTL_NAMES, xen_domctl
from xenograft.abi.hvm import hvm_op, hvm_vcpu
from xenograft.abi.struct import Struct
from xenograft.abi.sysctl import SYSCTL_NAMES, xen_sysctl
from xenograft.abi.xsm import flask_op


class Operation(NamedTuple):
    """A sub-operation: its name, and the structure that its argument points to."""

    name: str
    argument: type[Struct] | None = None


class Family(NamedTuple):
    """How a hypercall's words are read.

    `cmd`, `arg` and `length` are indices of arguments (None: there is none): which
    sub-operation, the pointer to its structure, how many structures there are (None: one).
    `mask` leaves what belongs to the number in `cmd`.  Without `cmd` the structure is always
    `argument`; `tag` names its member that holds the sub-operation's number, and `operations`
    then has the names alone.
    """

    operations: Mapping[int, Operation]
    cmd: int | None = 0
    arg: int | None = 1
    length: int | None = None
    mask: int = 0xFFFFFFFF
    argument: type[Struct] | None = None
    tag: str | None = None


def _named(
    module: Any, prefix: str, structs: str | None, special: Mapping[str, type[Struct] | None]
) -> dict[int, Operation]:
    """Constants `prefix...` of a module; ``structs`` + the rest of the name is the structure."""
    table: dict[int, Operation] = {}
    for name, number in vars(module).items():
        if not name.startswith(prefix) or not isinstance(number, int):
            continue
        rest = name.removeprefix(prefix)
        if rest in special:
            argument = special[rest]
        else:
            argument = None if structs is None else getattr(module, structs + rest, None)
        table[number] = Operation(name, argument)
    return table


def _tagged(names: Mapping[int, str], prefix: str) -> dict[int, Operation]:
    return {number: Operation(prefix + name) for number, name in names.items()}


def _memory() -> dict[int, Operation]:
    reservation = memory.xen_memory_reservation
    structs: dict[str, type[Struct] | None] = {
        "increase_reservation": reservation,
        "decrease_reservation": reservation,
        "populate_physmap": reservation,
        "claim_pages": reservation,
        "exchange": memory.xen_memory_exchange,
        "current_reservation": memory.xen_memory_domain,
        "maximum_reservation": memory.xen_memory_domain,
        "maximum_gpfn": memory.xen_memory_domain,
        "machphys_mfn_list": memory.xen_machphys_mfn_list,
        "machphys_compat_mfn_list": memory.xen_machphys_mfn_list,
        "machphys_mapping": memory.xen_machphys_mapping,
        "add_to_physmap": memory.xen_add_to_physmap,
        "add_to_physmap_batch": memory.xen_add_to_physmap_batch,
        "remove_from_physmap": memory.xen_remove_from_physmap,
        "memory_map": memory.xen_memory_map,
        "machine_memory_map": memory.xen_memory_map,
        "set_memory_map": memory.xen_foreign_memory_map,
        "set_pod_target": memory.xen_pod_target,
        "get_pod_target": memory.xen_pod_target,
        "maximum_ram_page": None,
        "get_sharing_freed_pages": None,
        "get_sharing_shared_pages": None,
        "paging_op": memory.xen_mem_paging_op,
        "access_op": memory.xen_mem_access_op,
        "sharing_op": memory.xen_mem_sharing_op,
        "get_vnumainfo": memory.xen_vnuma_topology_info,
        "reserved_device_memory_map": memory.xen_reserved_device_memory_map,
        "acquire_resource": memory.xen_mem_acquire_resource,
    }
    return {
        getattr(memory, f"XENMEM_{name}"): Operation(f"XENMEM_{name}", argument)
        for name, argument in structs.items()
    }


def _physdev() -> dict[int, Operation]:
    p = physdev
    table = _named(
        p,
        "PHYSDEVOP_",
        "physdev_",
        {
            "apic_read": p.physdev_apic,
            "apic_write": p.physdev_apic,
            "alloc_irq_vector": p.physdev_irq,
            "free_irq_vector": p.physdev_irq,
            "manage_pci_add": p.physdev_manage_pci,
            "manage_pci_remove": p.physdev_manage_pci,
            "manage_pci_add_ext": p.physdev_manage_pci_ext,
            "pirq_eoi_gmfn_v1": p.physdev_pirq_eoi_gmfn,
            "pirq_eoi_gmfn_v2": p.physdev_pirq_eoi_gmfn,
            "pci_device_remove": p.physdev_pci_device,
            "restore_msi_ext": p.physdev_pci_device,
            "prepare_msix": p.physdev_pci_device,
            "release_msix": p.physdev_pci_device,
        },
    )
    # The constants of physdev_dbgp_op have the same prefix, and small numbers.
    table = {n: op for n, op in table.items() if "DBGP_" not in op.name}
    return table


def _without(table: dict[int, Operation], *fragments: str) -> dict[int, Operation]:
    return {n: op for n, op in table.items() if not any(part in op.name for part in fragments)}


def _vcpu() -> dict[int, Operation]:
    return _named(
        vcpu,
        "VCPUOP_",
        "vcpu_",
        {
            "initialise": hvm_vcpu.vcpu_hvm_context,
            "get_runstate_info": vcpu.vcpu_runstate_info,
            "register_vcpu_time_memory_area": vcpu.vcpu_register_time_memory_area,
        },
    )


def _hvm() -> dict[int, Operation]:
    structs: dict[str, type[Struct] | None] = {
        "set_param": hvm_op.xen_hvm_param,
        "get_param": hvm_op.xen_hvm_param,
        "set_pci_intx_level": hvm_op.xen_hvm_set_pci_intx_level,
        "set_isa_irq_level": hvm_op.xen_hvm_set_isa_irq_level,
        "set_pci_link_route": hvm_op.xen_hvm_set_pci_link_route,
        "flush_tlbs": None,
        "pagetable_dying": hvm_op.xen_hvm_pagetable_dying,
        "get_time": hvm_op.xen_hvm_get_time,
        "xentrace": hvm_op.xen_hvm_xentrace,
        "set_mem_access": None,
        "get_mem_access": None,
        "get_mem_type": hvm_op.xen_hvm_get_mem_type,
        "set_evtchn_upcall_vector": hvm_op.xen_hvm_evtchn_upcall_vector,
        "guest_request_vm_event": None,
        "altp2m": hvm_op.xen_hvm_altp2m_op,
    }
    return {
        getattr(hvm_op, f"HVMOP_{name}"): Operation(f"HVMOP_{name}", argument)
        for name, argument in structs.items()
    }


def _version() -> dict[int, Operation]:
    return _named(
        version,
        "XENVER_",
        None,
        {
            "extraversion": version.xen_extraversion,
            "compile_info": version.xen_compile_info,
            "capabilities": version.xen_capabilities_info,
            "changeset": version.xen_changeset_info,
            "platform_parameters": version.xen_platform_parameters,
            "get_features": version.xen_feature_info,
            "guest_handle": version.xen_domain_handle,
            "commandline": version.xen_commandline,
            "build_id": version.xen_build_id,
        },
    )


def _kexec() -> dict[int, Operation]:
    structs: dict[str, type[Struct] | None] = {
        "kexec": kexec.xen_kexec_exec,
        "kexec_load_v1": kexec.xen_kexec_load_v1,
        "kexec_unload_v1": kexec.xen_kexec_load_v1,
        "kexec_get_range": kexec.xen_kexec_range,
        "kexec_load": kexec.xen_kexec_load,
        "kexec_unload": kexec.xen_kexec_unload,
        "kexec_status": kexec.xen_kexec_status,
    }
    return _named(kexec, "KEXEC_CMD_", None, structs)


def _lower(module: Any, prefix: str) -> dict[int, Operation]:
    """Names alone: constants `prefix` + a lower-case letter."""
    return {
        number: Operation(name)
        for name, number in vars(module).items()
        if name.startswith(prefix) and name[len(prefix)].islower() and isinstance(number, int)
    }


@cache
def families() -> dict[str, Family]:
    """By the hypercall's name; those that have no sub-operations are left out."""
    shutdown: dict[str, type[Struct] | None] = {"shutdown_code": sched.sched_shutdown}
    pmu = dict.fromkeys(("mode_get", "mode_set", "feature_get", "feature_set", "init", "finish"))
    pmu_structs: dict[str, type[Struct] | None] = dict.fromkeys(pmu, xenpmu.xen_pmu_params)
    flask = {
        number: Operation(name)
        for name, number in vars(flask_op).items()
        if name.startswith("FLASK_") and isinstance(number, int)
    }
    return {
        "event_channel_op": Family(_named(event_channel, "EVTCHNOP_", "evtchn_", {})),
        "sched_op": Family(_named(sched, "SCHEDOP_", "sched_", shutdown)),
        "sched_op_compat": Family(_named(sched, "SCHEDOP_", None, {}), arg=None),
        "vcpu_op": Family(_vcpu(), arg=2),
        "memory_op": Family(_memory(), mask=memory.MEMOP_CMD_MASK),
        "xen_version": Family(_version()),
        "grant_table_op": Family(
            _without(_named(grant_table, "GNTTABOP_", "gnttab_", {}), "GNTTABOP_error"),
            length=2,
            # The upper half holds where GNTTABOP_cache_flush goes on.
            mask=0xFFFF,
        ),
        "hvm_op": Family(_hvm(), mask=0xFF),
        "physdev_op": Family(_physdev()),
        "console_io": Family(_named(xen, "CONSOLEIO_", None, {}), arg=None),
        "vm_assist": Family(_named(xen, "VMASST_CMD_", None, {}), arg=None),
        "callback_op": Family(_named(callback, "CALLBACKOP_", "callback_", {})),
        "nmi_op": Family(_named(nmi, "XENNMI_", None, {"register_callback": nmi.xennmi_callback})),
        "kexec_op": Family(_kexec()),
        "xenpmu_op": Family(
            {
                number: op._replace(argument=pmu_structs.get(op.name.removeprefix("XENPMU_")))
                for number, op in _lower(xenpmu, "XENPMU_").items()
            }
        ),
        "xenoprof_op": Family(_without(_lower(xenoprof, "XENOPROF_"), "last_op")),
        "argo_op": Family(_named(argo, "XEN_ARGO_OP_", None, {}), arg=None),
        "hypfs_op": Family(_named(hypfs, "XEN_HYPFS_OP_", None, {}), arg=None),
        "multicall": Family({}, None, 0, length=1, argument=xen.multicall_entry),
        "mmuext_op": Family({}, None, 0, length=1, argument=xen.mmuext_op),
        "mmu_update": Family({}, None, 0, length=1, argument=xen.mmu_update),
        "domctl": Family(
            _tagged(DOMCTL_NAMES, "XEN_DOMCTL_"), None, 0, argument=xen_domctl, tag="cmd"
        ),
        "sysctl": Family(
            _tagged(SYSCTL_NAMES, "XEN_SYSCTL_"), None, 0, argument=xen_sysctl, tag="cmd"
        ),
        "platform_op": Family(
            _lower(platform, "XENPF_"), None, 0, argument=platform.xen_platform_op, tag="cmd"
        ),
        "xsm_op": Family(flask, None, 0, argument=flask_op.xen_flask_op, tag="cmd"),
    }
