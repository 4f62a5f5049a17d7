# SPDX-License-Identifier: GPL-2.0-or-later
"""Hypercalls of control domains and device models: what everybody else gets from them.

domctl, sysctl and platform_op check, in this order, the pointer (-EFAULT), the interface version
(-EACCES) and the caller (-EPERM), as Xen does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from xenograft.abi.domctl import (
    XEN_DOMCTL_INTERFACE_VERSION,
    XEN_DOMCTL_shadow_op,
    xen_domctl,
)
from xenograft.abi.errno import Errno, XenError
from xenograft.abi.platform import XENPF_INTERFACE_VERSION, xen_platform_op
from xenograft.abi.sysctl import XEN_SYSCTL_INTERFACE_VERSION, xen_sysctl
from xenograft.abi.xen import DOMID_SELF
from xenograft.hypervisor.hypercalls import domctl_sched, sysctl_machine, sysctl_sched
from xenograft.hypervisor.privilege import Xsm, check

if TYPE_CHECKING:
    from xenograft.abi.struct import Struct
    from xenograft.hypervisor.call import Call

ControlHandler = Callable[["Call", int], int]

DOMCTLS: dict[int, ControlHandler] = {**domctl_sched.DOMCTLS}
SYSCTLS: dict[int, ControlHandler] = {**sysctl_machine.SYSCTLS, **sysctl_sched.SYSCTLS}
PLATFORM_OPS: dict[int, ControlHandler] = {}
"""Operations by number, given the call and the argument's address; others are -ENOSYS."""

MAX_DM_BUFS = 3


def _control(
    call: Call, arg: int, argument: type[Struct], version: int, table: dict[int, ControlHandler]
) -> int:
    header = call.read_bytes(arg, argument.sizeof(call.bits))
    command = int.from_bytes(header[:4], "little")
    if int.from_bytes(header[4:8], "little") != version:
        raise XenError(Errno.EACCES)
    check(Xsm.PRIV, call.domain)
    handler = table.get(command)
    if handler is None:
        raise XenError(Errno.ENOSYS)
    return handler(call, arg)


def domctl(call: Call, arg: int) -> int:
    """__HYPERVISOR_domctl."""
    return _control(call, arg, xen_domctl, XEN_DOMCTL_INTERFACE_VERSION, DOMCTLS)


def sysctl(call: Call, arg: int) -> int:
    """__HYPERVISOR_sysctl."""
    return _control(call, arg, xen_sysctl, XEN_SYSCTL_INTERFACE_VERSION, SYSCTLS)


def platform_op(call: Call, arg: int) -> int:
    """__HYPERVISOR_platform_op."""
    return _control(call, arg, xen_platform_op, XENPF_INTERFACE_VERSION, PLATFORM_OPS)


def paging_domctl_cont(call: Call, arg: int) -> int:
    """__HYPERVISOR_arch_1: the rest of a long XEN_DOMCTL_shadow_op; nothing is ever left over."""
    header = call.read_bytes(arg, xen_domctl.sizeof(call.bits))
    command, version = (int.from_bytes(header[at : at + 4], "little") for at in (0, 4))
    if version != XEN_DOMCTL_INTERFACE_VERSION or command != XEN_DOMCTL_shadow_op:
        raise XenError(Errno.EOPNOTSUPP)
    if int.from_bytes(header[8:10], "little") not in call.hypervisor.domains:
        raise XenError(Errno.ESRCH)
    check(Xsm.PRIV, call.domain)
    raise XenError(Errno.ENOSYS)


def dm_op(call: Call, domid: int, nr_bufs: int, bufs: int) -> int:
    """__HYPERVISOR_dm_op: of a device model, on the HVM guest that it serves."""
    if nr_bufs == 0:
        raise XenError(Errno.ENODATA)
    if nr_bufs > MAX_DM_BUFS:
        raise XenError(Errno.E2BIG)
    # struct xen_dm_op_buf: a guest handle and an unsigned long.
    call.read_bytes(bufs, nr_bufs * 2 * call.bits // 8)
    domain = call.hypervisor.domains.get(domid & 0xFFFF)
    if domain is None:
        raise XenError(Errno.ESRCH)
    if domain is call.domain:
        raise XenError(Errno.EPERM)
    if not domain.kind.is_hvm_type:
        raise XenError(Errno.EINVAL)
    check(Xsm.DM_PRIV, call.domain, domain)
    raise XenError(Errno.EOPNOTSUPP)


def hypfs_op(call: Call, cmd: int, _arg1: int, _arg2: int, _arg3: int, _arg4: int) -> int:
    """__HYPERVISOR_hypfs_op: the hypervisor file system, for control domains."""
    check(Xsm.PRIV, call.domain)
    if cmd == 0:
        return 1  # XEN_HYPFS_OP_get_version
    raise XenError(Errno.ENOSYS)


def mmuext_op_hvm(call: Call, _uops: int, _count: int, _pdone: int, foreigndom: int) -> int:
    """__HYPERVISOR_mmuext_op of HVM-type guests: none of them is a PV domain, whose pages it
    could mean, and translated guests may not name others."""
    raise XenError(Errno.EINVAL if foreigndom & 0xFFFF == DOMID_SELF else Errno.ESRCH)
