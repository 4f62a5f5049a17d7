# SPDX-License-Identifier: GPL-2.0-or-later
"""hvm_op: parameters, upcall vectors, and the rest of public/hvm/hvm_op.h.

Facts: Xen's do_hvm_op() of 4.17.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.hvm import hvm_op as abi
from xenograft.abi.hvm.hvm_op import xen_hvm_param
from xenograft.abi.hvm.params import HVM_NR_PARAMS
from xenograft.hypervisor.hvm import params
from xenograft.hypervisor.memory.p2m_types import (
    DISCARD_WRITE_TYPES,
    GRANT_TYPES,
    RAM_TYPES,
    P2mType,
)
from xenograft.hypervisor.ops import Op, dispatch_family, everyone, family, hvm_type_only
from xenograft.hypervisor.privilege import Xsm, check

if TYPE_CHECKING:
    from xenograft.hypervisor.call import Call

TRC_SUBCLS_SHIFT = 12


def set_param(call: Call, arg: xen_hvm_param) -> int:
    if arg.index >= HVM_NR_PARAMS:
        raise XenError(Errno.EINVAL)
    domain = call.hypervisor.resolve_domid(call, arg.domid)
    if not domain.kind.is_hvm_type:
        raise XenError(Errno.EINVAL)
    params.set_param(call, domain, arg.index, arg.value)
    return 0


def get_param(call: Call, arg: xen_hvm_param) -> int:
    if arg.index >= HVM_NR_PARAMS:
        raise XenError(Errno.EINVAL)
    domain = call.hypervisor.resolve_domid(call, arg.domid)
    if not domain.kind.is_hvm_type:
        raise XenError(Errno.EINVAL)
    arg.value = params.get_param(call, domain, arg.index)
    return 0


def set_evtchn_upcall_vector(call: Call, arg: abi.xen_hvm_evtchn_upcall_vector) -> int:
    """Deliver a vCPU's upcalls as this vector of its local APIC."""
    if arg.vector < 0x10:
        raise XenError(Errno.EINVAL)
    vcpus = call.domain.vcpus
    if arg.vcpu >= len(vcpus):
        raise XenError(Errno.ENOENT)
    vcpu = vcpus[arg.vcpu]
    vcpu.upcall_vector = arg.vector
    call.domain.assert_upcall(vcpu)
    return 0


def flush_tlbs(call: Call, arg: int) -> int:
    """Flush the TLBs of all vCPUs of the calling domain."""
    if arg or not call.domain.kind.is_hvm_type:
        raise XenError(Errno.EINVAL)
    for vcpu in call.domain.vcpus:
        if vcpu.cpu is not None:
            vcpu.cpu.flush_tlb()
    return 0


def get_mem_type(call: Call, arg: abi.xen_hvm_get_mem_type) -> int:
    domain = call.hypervisor.resolve_domid(call, arg.domid)
    check(Xsm.TARGET, call.domain, domain)
    if not domain.kind.is_hvm_type:
        raise XenError(Errno.EINVAL)
    kind = domain.p2m.lookup(arg.pfn)[1]
    if kind in DISCARD_WRITE_TYPES:
        arg.mem_type = abi.HVMMEM_ram_ro
    elif kind in RAM_TYPES or kind in GRANT_TYPES or kind is P2mType.populate_on_demand:
        arg.mem_type = abi.HVMMEM_ram_rw
    else:
        arg.mem_type = abi.HVMMEM_mmio_dm
    return 0


def pagetable_dying(call: Call, arg: abi.xen_hvm_pagetable_dying) -> int:
    """A hint for shadow paging, which there is none of: guests have hardware-assisted paging."""
    domain = call.hypervisor.resolve_domid(call, arg.domid)
    raise XenError(Errno.EINVAL if domain is call.domain else Errno.EOPNOTSUPP)


def get_time(call: Call, arg: int) -> int:
    call.write(arg, abi.xen_hvm_get_time(now=call.domain.system_time))
    return 0


def xentrace(call: Call, arg: abi.xen_hvm_xentrace) -> int:
    """The guest puts a record into the trace."""
    if arg.extra_bytes > len(arg.extra) or arg.event >> TRC_SUBCLS_SHIFT:
        raise XenError(Errno.EINVAL)
    if (hook := call.hypervisor.instruments.log) is not None:
        extra = bytes(arg.extra[: arg.extra_bytes]).hex()
        now = call.hypervisor.clock.now()
        hook(now, call.domain.domid, f"xentrace {arg.event:#x} {extra}")
    return 0


def guest_request_vm_event(_call: Call, arg: int) -> int:
    """Call the monitor: nobody monitors, so that nothing happens."""
    if arg:
        raise XenError(Errno.EINVAL)
    return 0


def altp2m(_call: Call, _arg: int) -> int:
    """Alternate p2ms: not supported by this machine (Xen without EPT says the same)."""
    raise XenError(Errno.EOPNOTSUPP)


HVM_OPS = family(
    [
        Op(abi.HVMOP_set_param, "HVMOP_set_param", xen_hvm_param, everyone(set_param)),
        Op(abi.HVMOP_get_param, "HVMOP_get_param", xen_hvm_param, everyone(get_param), out=True),
        Op(
            abi.HVMOP_set_evtchn_upcall_vector,
            "HVMOP_set_evtchn_upcall_vector",
            abi.xen_hvm_evtchn_upcall_vector,
            hvm_type_only(set_evtchn_upcall_vector, Errno.EINVAL),
        ),
        Op(abi.HVMOP_flush_tlbs, "HVMOP_flush_tlbs", None, everyone(flush_tlbs)),
        Op(
            abi.HVMOP_get_mem_type,
            "HVMOP_get_mem_type",
            abi.xen_hvm_get_mem_type,
            everyone(get_mem_type),
            out=True,
        ),
        Op(
            abi.HVMOP_pagetable_dying,
            "HVMOP_pagetable_dying",
            abi.xen_hvm_pagetable_dying,
            everyone(pagetable_dying),
        ),
        Op(abi.HVMOP_get_time, "HVMOP_get_time", None, everyone(get_time)),
        Op(abi.HVMOP_xentrace, "HVMOP_xentrace", abi.xen_hvm_xentrace, everyone(xentrace)),
        Op(
            abi.HVMOP_guest_request_vm_event,
            "HVMOP_guest_request_vm_event",
            None,
            everyone(guest_request_vm_event),
        ),
        Op(abi.HVMOP_altp2m, "HVMOP_altp2m", None, everyone(altp2m)),
        # Operations that moved to dm_op or altp2m answer as unknown ones do.
        *(
            Op(getattr(abi, name), name, None, everyone(Errno.ENOSYS))
            for name in (
                "HVMOP_set_pci_intx_level",
                "HVMOP_set_isa_irq_level",
                "HVMOP_set_pci_link_route",
                "HVMOP_set_mem_access",
                "HVMOP_get_mem_access",
            )
        ),
    ]
)


def hvm_op(call: Call, op: int, arg: int) -> int:
    """__HYPERVISOR_hvm_op."""
    return dispatch_family(HVM_OPS, call, op, arg)
