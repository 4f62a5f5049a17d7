# SPDX-License-Identifier: GPL-2.0-or-later
"""vm_assist: behaviour that a guest switches on for itself (VMASST_* in public/xen.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi import xen
from xenograft.abi.errno import Errno, XenError
from xenograft.hypervisor.kinds import GuestKind

if TYPE_CHECKING:
    from xenograft.hypervisor.call import Call
    from xenograft.hypervisor.domain import Domain

_HVM = 1 << xen.VMASST_TYPE_runstate_update_flag
_PV32 = sum(
    1 << type_
    for type_ in (
        xen.VMASST_TYPE_4gb_segments,
        xen.VMASST_TYPE_4gb_segments_notify,
        xen.VMASST_TYPE_writable_pagetables,
        xen.VMASST_TYPE_pae_extended_cr3,
        xen.VMASST_TYPE_architectural_iopl,
        xen.VMASST_TYPE_runstate_update_flag,
    )
)
_PV64 = _PV32 | 1 << xen.VMASST_TYPE_m2p_strict


def valid_types(domain: Domain) -> int:
    """A mask of the assists that this kind of guest may ask for."""
    if domain.kind is not GuestKind.PV:
        return _HVM
    return _PV32 if domain.bits == 32 else _PV64


def vm_assist(call: Call, cmd: int, type_: int) -> int:
    """__HYPERVISOR_vm_assist. Raises XenError: EINVAL for a type that isn't this guest's."""
    domain = call.domain
    if type_ >= 64 or not valid_types(domain) >> type_ & 1:
        raise XenError(Errno.EINVAL)
    if cmd == xen.VMASST_CMD_enable:
        domain.vm_assist |= 1 << type_
    elif cmd == xen.VMASST_CMD_disable:
        domain.vm_assist &= ~(1 << type_)
    else:
        raise XenError(Errno.ENOSYS)
    domain.arch.assists_changed()
    return 0
