# SPDX-License-Identifier: GPL-2.0-or-later
"""The one table of hypercalls: number, name, arguments, and a decision per guest kind.

Checked against xen/include/hypercall-defs.c of Xen 4.17 (as Debian builds it: no argo, no
xenoprof for HVM-type guests): a hypercall that is absent from Xen's dispatch table for a kind
of guest answers -ENOSYS there, and here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xenograft.abi.errno import Errno
from xenograft.abi.xen import HYPERCALLS as NAMES
from xenograft.hypervisor.events.ops import EVENT_CHANNEL_OPS
from xenograft.hypervisor.hypercalls import control
from xenograft.hypervisor.hypercalls.console_io import console_io
from xenograft.hypervisor.hypercalls.hvm_op import hvm_op
from xenograft.hypervisor.hypercalls.multicall import multicall
from xenograft.hypervisor.hypercalls.physdev_op import physdev_op, physdev_op_compat
from xenograft.hypervisor.hypercalls.sched_op import sched_op, sched_op_compat
from xenograft.hypervisor.hypercalls.timer_op import set_timer_op_32, set_timer_op_64
from xenograft.hypervisor.hypercalls.vcpu_op import vcpu_op
from xenograft.hypervisor.hypercalls.vm_assist import vm_assist
from xenograft.hypervisor.hypercalls.xen_version import xen_version
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.ops import dispatch_family
from xenograft.hypervisor.pv import calls, mmu

if TYPE_CHECKING:
    from xenograft.hypervisor.call import Call

HypercallHandler = Callable[..., int]
"""`handler(call, *arguments) -> result`; raises XenError or Continuation."""

Decision = HypercallHandler | Errno


@dataclass(frozen=True, slots=True)
class Hypercall:
    """A row of the table.

    `args`: name and type of each argument, as "name:type".  Types: `int` and `uint` (32 bits in
    the callee, so that Xen ignores the upper half of a 64-bit register), `ulong` and `u64`, and
    `handle` (a guest pointer).  `args32` and `handler32` where 32-bit callers pass other ones.
    """

    number: int
    name: str
    args: tuple[str, ...]
    decisions: Mapping[GuestKind, Decision]
    args32: tuple[str, ...] | None = None
    handler32: HypercallHandler | None = None


def event_channel_op(call: Call, cmd: int, arg: int) -> int:
    """__HYPERVISOR_event_channel_op."""
    return dispatch_family(EVENT_CHANNEL_OPS, call, cmd, arg)


def memory_op(call: Call, cmd: int, arg: int) -> int:
    """__HYPERVISOR_memory_op."""
    from xenograft.hypervisor.memory.ops import memory_op as handler

    return handler(call, cmd, arg)


def grant_table_op(call: Call, cmd: int, uop: int, count: int) -> int:
    """__HYPERVISOR_grant_table_op."""
    from xenograft.hypervisor.grants.ops import grant_table_op as handler

    return handler(call, cmd, uop, count)


_NUMBERS = {name: number for number, name in NAMES.items()}
_ENOSYS = Errno.ENOSYS


def _row(
    name: str,
    args: str,
    *,
    pv: Decision,
    hvm: Decision,
    args32: str | None = None,
    handler32: HypercallHandler | None = None,
    number: int | None = None,
) -> Hypercall:
    """A row; `hvm` decides for both HVM-type kinds, which share Xen's dispatch table."""
    return Hypercall(
        number=_NUMBERS[name] if number is None else number,
        name=name,
        args=tuple(args.split()),
        decisions={GuestKind.PV: pv, GuestKind.PVH: hvm, GuestKind.HVM: hvm},
        args32=None if args32 is None else tuple(args32.split()),
        handler32=handler32,
    )


def _both(name: str, args: str, decision: Decision, **more: Any) -> Hypercall:
    return _row(name, args, pv=decision, hvm=decision, **more)


def _pv(name: str, args: str, decision: Decision, **more: Any) -> Hypercall:
    """A hypercall of PV guests alone."""
    return _row(name, args, pv=decision, hvm=_ENOSYS, **more)


_ROWS = (
    _pv("set_trap_table", "traps:handle", calls.set_trap_table),
    _pv(
        "mmu_update",
        "ureqs:handle count:uint pdone:handle foreigndom:uint",
        mmu.do_mmu_update,
    ),
    _pv("set_gdt", "frame_list:handle entries:uint", calls.set_gdt),
    _pv("stack_switch", "ss:ulong esp:ulong", calls.stack_switch),
    _pv(
        "set_callbacks",
        "event:ulong failsafe:ulong syscall:ulong",
        calls.set_callbacks,
        args32="event_cs:ulong event:ulong failsafe_cs:ulong failsafe:ulong",
        handler32=calls.set_callbacks_32,
    ),
    _pv("fpu_taskswitch", "set:int", calls.fpu_taskswitch),
    _row("sched_op_compat", "cmd:int arg:ulong", pv=sched_op_compat, hvm=_ENOSYS),
    _both("platform_op", "u_xenpf_op:handle", control.platform_op),
    _pv("set_debugreg", "reg:int value:ulong", calls.set_debugreg),
    _pv("get_debugreg", "reg:int", calls.get_debugreg),
    _pv(
        "update_descriptor",
        "gaddr:u64 desc:u64",
        calls.update_descriptor,
        args32="lo:uint hi:uint desc_lo:uint desc_hi:uint",
        handler32=calls.update_descriptor_32,
    ),
    _both("memory_op", "cmd:ulong arg:handle", memory_op),
    _both("multicall", "call_list:handle nr_calls:uint", multicall),
    _pv(
        "update_va_mapping",
        "va:ulong val64:u64 flags:ulong",
        mmu.update_va_mapping,
        args32="va:ulong lo:uint hi:uint flags:ulong",
        handler32=mmu.update_va_mapping_32,
    ),
    _both(
        "set_timer_op",
        "timeout:u64",
        set_timer_op_64,
        args32="lo:uint hi:uint",
        handler32=set_timer_op_32,
    ),
    _pv("event_channel_op_compat", "uop:handle", calls.event_channel_op_compat),
    _both("xen_version", "cmd:int arg:handle", xen_version),
    _both("console_io", "cmd:uint count:uint buffer:handle", console_io),
    _pv("physdev_op_compat", "uop:handle", physdev_op_compat),
    _both("grant_table_op", "cmd:uint uop:handle count:uint", grant_table_op),
    _both("vm_assist", "cmd:uint type:uint", vm_assist),
    _pv(
        "update_va_mapping_otherdomain",
        "va:ulong val64:u64 flags:ulong domid:uint",
        mmu.update_va_mapping_otherdomain,
        args32="va:ulong lo:uint hi:uint flags:ulong domid:uint",
        handler32=mmu.update_va_mapping_otherdomain_32,
    ),
    _pv("iret", "", calls.iret),
    _both("vcpu_op", "cmd:int vcpuid:uint arg:handle", vcpu_op),
    _pv("set_segment_base", "which:uint base:ulong", calls.set_segment_base),
    _row(
        "mmuext_op",
        "uops:handle count:uint pdone:handle foreigndom:uint",
        pv=mmu.do_mmuext_op,
        hvm=control.mmuext_op_hvm,
    ),
    # Without a security module there is nobody to ask.
    _both("xsm_op", "op:handle", _ENOSYS),
    _pv("nmi_op", "cmd:uint arg:handle", calls.nmi_op),
    _both("sched_op", "cmd:int arg:handle", sched_op),
    _pv("callback_op", "cmd:int arg:handle", calls.callback_op),
    # Debian builds Xen without the profiler.
    _pv("xenoprof_op", "op:int arg:handle", _ENOSYS),
    _both("event_channel_op", "cmd:int arg:handle", event_channel_op),
    _both("physdev_op", "cmd:int arg:handle", physdev_op),
    _both("hvm_op", "op:ulong arg:handle", hvm_op),
    _both("sysctl", "u_sysctl:handle", control.sysctl),
    _both("domctl", "u_domctl:handle", control.domctl),
    _pv("kexec_op", "op:ulong uarg:handle", Errno.EPERM),
    _both("tmem_op", "", _ENOSYS),
    _both("argo_op", "cmd:uint arg1:handle arg2:handle arg3:ulong arg4:ulong", _ENOSYS),
    # No performance counters are virtualized; guests with a local APIC never get them so.
    _both("xenpmu_op", "op:uint arg:handle", Errno.EOPNOTSUPP),
    _both("dm_op", "domid:uint nr_bufs:uint bufs:handle", control.dm_op),
    _both(
        "hypfs_op",
        "cmd:uint arg1:handle arg2:ulong arg3:handle arg4:ulong",
        control.hypfs_op,
    ),
    _pv("arch_0", "u_xen_mc:handle", Errno.EPERM),  # mca
    _both("arch_1", "u_domctl:handle", control.paging_domctl_cont),
    *(_both(f"arch_{n}", "", _ENOSYS) for n in range(2, 8)),
)

HYPERCALLS: dict[int, Hypercall] = {row.number: row for row in _ROWS}
"""All hypercalls by number."""
