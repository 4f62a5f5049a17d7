# SPDX-License-Identifier: GPL-2.0-or-later
"""Hypercalls of PV guests: traps, callbacks, segments, descriptors, debug registers.

Those on page tables are in `hypervisor.pv.mmu`.  What the engine answers by itself (see its
pv_call.c) comes here only when somebody listens to hypercalls, and is handed back to it.

Facts: xen/arch/x86/pv/{callback,descriptor-tables,misc-hypercalls,traps}.c of Xen 4.17;
public/xen.h, public/callback.h, public/nmi.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi import callback as abi
from xenograft.abi.arch_x86.xen import (
    FIRST_RESERVED_GDT_ENTRY,
    FLAT_KERNEL_CS,
    FLAT_RING1_CS,
    VGCF_failsafe_disables_events,
    VGCF_syscall_disables_events,
    trap_info,
)
from xenograft.abi.errno import Errno, XenError
from xenograft.abi.event_channel import evtchn_op
from xenograft.abi.nmi import XENNMI_register_callback, XENNMI_unregister_callback, xennmi_callback
from xenograft.abi.xen import HYPERCALLS
from xenograft.arch.x86.registers import is_canonical
from xenograft.engine.pv import PV_AGAIN, PV_ANSWERED
from xenograft.hypervisor.call import Continuation, NoReturn
from xenograft.hypervisor.pv.debugreg import get_debugreg as read_debugreg
from xenograft.hypervisor.pv.debugreg import set_debugreg as write_debugreg
from xenograft.hypervisor.pv.platform import pv_cpu

if TYPE_CHECKING:
    from xenograft.engine.pv import PvCpu
    from xenograft.hypervisor.call import Call

TRAP_NMI = 2
TI_IF = 4
"""trap_info.flags: events are masked on entry."""
MAX_TRAPS = 256
_NUMBERS = {name: number for number, name in HYPERCALLS.items()}
_NO_HANDLER = (0, 0, 0)


def current(call: Call) -> PvCpu:
    """The caller's engine CPU. Raises XenError(EINVAL) for callers in the host."""
    return pv_cpu(call.current)


def native(call: Call, name: str, *args: int) -> int | None:
    """Have the engine answer a hypercall; None if it leaves that to us. Raises Continuation."""
    number = _NUMBERS[name]
    a, b, c, d, e, f = (*args, 0, 0, 0, 0, 0, 0)[:6]
    answer, result, first, second = current(call).pv_call(number, a, b, c, d, e, f)
    call.hypervisor.frames.settle()
    if answer == PV_AGAIN:
        raise Continuation(number, first, second, *args[2:])
    return result if answer == PV_ANSWERED else None


def _answered(call: Call, name: str, *args: int) -> int:
    result = native(call, name, *args)
    assert result is not None, name
    return result


def least_privilege(selector: int, bits: int) -> int:
    """A selector with at least the privilege level that the guest's kernel has."""
    least = 3 if bits == 64 else 1
    return selector if selector & 3 >= least else selector & ~3 | least


# -- traps and callbacks -----------------------------------------------------------------------
def set_trap_table(call: Call, traps: int) -> int:
    """Set handlers of exceptions, up to the first without address; none at all: clear them."""
    cpu = current(call)
    if not traps:
        for vector in range(MAX_TRAPS):
            cpu.pv_trap(vector, *_NO_HANDLER)
        return 0
    for index in range(MAX_TRAPS + 1):
        trap = call.read_array(traps, trap_info, 1, index)[0]
        if trap.address == 0:
            break
        if call.bits == 64 and not is_canonical(trap.address):
            raise XenError(Errno.EINVAL)
        cpu.pv_trap(trap.vector, trap.flags, least_privilege(trap.cs, call.bits), trap.address)
    return 0


_CALLBACKS = {
    abi.CALLBACKTYPE_event: ("event", 0),
    abi.CALLBACKTYPE_failsafe: ("failsafe", VGCF_failsafe_disables_events),
    abi.CALLBACKTYPE_syscall: ("syscall", VGCF_syscall_disables_events),
    abi.CALLBACKTYPE_syscall32: ("syscall32", 0),
    abi.CALLBACKTYPE_sysenter: ("sysenter", 0),
}


def _register(call: Call, type_: int, flags: int, address: int, cs: int = 0) -> None:
    """Raises XenError: EINVAL for an address that no code can have, ENOSYS for another type."""
    cpu = current(call)
    if call.bits == 64 and not is_canonical(address):
        raise XenError(Errno.EINVAL)
    masks = flags & abi.CALLBACKF_mask_events
    if type_ == abi.CALLBACKTYPE_nmi:
        kernel = FLAT_KERNEL_CS if call.bits == 64 else FLAT_RING1_CS
        cpu.pv_trap(TRAP_NMI, TI_IF, kernel, address)
        return
    if type_ not in _CALLBACKS or (call.bits == 32 and type_ == abi.CALLBACKTYPE_syscall):
        raise XenError(Errno.ENOSYS)
    name, flag = _CALLBACKS[type_]
    cpu.pv_set(name, address)
    if call.bits == 32:
        cpu.pv_set(f"{name}_cs", least_privilege(cs & 0xFFFF, 32))
    if flag:
        flags_now = cpu.pv_get("flags") & ~flag
        cpu.pv_set("flags", flags_now | (flag if masks else 0))
    elif name != "event":
        cpu.pv_set(f"{name}_masks", int(bool(masks)))


def callback_op(call: Call, cmd: int, arg: int) -> int:
    """__HYPERVISOR_callback_op."""
    if cmd == abi.CALLBACKOP_register:
        entry = call.read(arg, abi.callback_register)
        if call.bits == 64:
            _register(call, entry.type, entry.flags, entry.address)
        else:
            _register(call, entry.type, entry.flags, entry.eip, entry.cs)
        return 0
    if cmd == abi.CALLBACKOP_unregister:
        type_ = call.read(arg, abi.callback_unregister).type
        if type_ == abi.CALLBACKTYPE_nmi:
            current(call).pv_trap(TRAP_NMI, *_NO_HANDLER)
            return 0
        raise XenError(Errno.EINVAL if type_ in _CALLBACKS else Errno.ENOSYS)
    raise XenError(Errno.ENOSYS)


def set_callbacks(call: Call, event: int, failsafe: int, syscall: int) -> int:
    """Set three callbacks at once; a bad address is left out, without an error."""
    for type_, address in (
        (abi.CALLBACKTYPE_event, event),
        (abi.CALLBACKTYPE_failsafe, failsafe),
        (abi.CALLBACKTYPE_syscall, syscall),
    ):
        if is_canonical(address):
            _register(call, type_, 0, address)
    return 0


def set_callbacks_32(call: Call, event_cs: int, event: int, failsafe_cs: int, failsafe: int) -> int:
    _register(call, abi.CALLBACKTYPE_event, 0, event, event_cs)
    _register(call, abi.CALLBACKTYPE_failsafe, 0, failsafe, failsafe_cs)
    return 0


def nmi_op(call: Call, cmd: int, arg: int) -> int:
    """The older interface to the NMI callback."""
    if cmd == XENNMI_register_callback:
        _register(call, abi.CALLBACKTYPE_nmi, 0, call.read(arg, xennmi_callback).handler_address)
        return 0
    if cmd == XENNMI_unregister_callback:
        current(call).pv_trap(TRAP_NMI, *_NO_HANDLER)
        return 0
    raise XenError(Errno.ENOSYS)


# -- segments, stacks, FPU ---------------------------------------------------------------------
def stack_switch(call: Call, ss: int, esp: int) -> int:
    return _answered(call, "stack_switch", ss, esp)


def set_segment_base(call: Call, which: int, base: int) -> int:
    return _answered(call, "set_segment_base", which, base)


def fpu_taskswitch(call: Call, on: int) -> int:
    return _answered(call, "fpu_taskswitch", on)


def iret(call: Call) -> int:
    """IRET at the end of a list of calls. Alone, the engine carries it out."""
    current(call).pv_iret()
    raise NoReturn


# -- descriptors ---------------------------------------------------------------------------------
def set_gdt(call: Call, frame_list: int, entries: int) -> int:
    """Give the frames of a GDT, whose descriptors are all checked."""
    if entries > FIRST_RESERVED_GDT_ENTRY:
        raise XenError(Errno.EINVAL)
    frames = call.read_ulongs(frame_list, (entries + 511) // 512) if entries else []
    result = current(call).pv_set_gdt(frames, entries)
    call.hypervisor.frames.settle()
    return result


def update_descriptor(call: Call, gaddr: int, desc: int) -> int:
    return _answered(call, "update_descriptor", gaddr, desc)


def update_descriptor_32(call: Call, lo: int, hi: int, desc_lo: int, desc_hi: int) -> int:
    return _answered(call, "update_descriptor", lo, hi, desc_lo, desc_hi)


# -- debug registers -------------------------------------------------------------------------------
def set_debugreg(call: Call, reg: int, value: int) -> int:
    write_debugreg(current(call), reg, value, call.bits)
    return 0


def get_debugreg(call: Call, reg: int) -> int:
    return read_debugreg(current(call), reg)


# -- interfaces from before 0x00030202 ------------------------------------------------------
def event_channel_op_compat(call: Call, uop: int) -> int:
    """The command stands in the structure, before its argument."""
    from xenograft.hypervisor.events.ops import EVENT_CHANNEL_OPS
    from xenograft.hypervisor.ops import dispatch_family

    cmd = call.read_ints(uop, 4, 1)[0]
    return dispatch_family(EVENT_CHANNEL_OPS, call, cmd, uop + evtchn_op.offsetof("u", call.bits))
