# SPDX-License-Identifier: GPL-2.0-or-later
"""physdev_op: of HVM-type guests, and of PV guests that own no device.

Facts: public/physdev.h; Xen's hvm_physdev_op(): the operations on physical interrupts are there
for guests with event-channel interrupts (PIRQs), which a PVH guest hasn't; those on PCI
devices for the hardware domain; the rest answers -ENOSYS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi import physdev as abi
from xenograft.abi.errno import Errno, XenError
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.ops import Handler as OpHandler
from xenograft.hypervisor.ops import Op, dispatch_family, everyone, family, pv_only

if TYPE_CHECKING:
    from xenograft.abi.struct import Struct
    from xenograft.hypervisor.call import Call

_PIRQ_OPS = (
    "PHYSDEVOP_map_pirq",
    "PHYSDEVOP_unmap_pirq",
    "PHYSDEVOP_eoi",
    "PHYSDEVOP_irq_status_query",
    "PHYSDEVOP_get_free_pirq",
)
_HARDWARE_OPS = (
    "PHYSDEVOP_pci_mmcfg_reserved",
    "PHYSDEVOP_pci_device_add",
    "PHYSDEVOP_pci_device_remove",
    "PHYSDEVOP_dbgp_op",
)


def pirq_op(call: Call, _arg: int) -> int:
    """No physical interrupt belongs to a guest without a device of its own."""
    raise XenError(Errno.EINVAL if call.domain.has_pirq else Errno.ENOSYS)


def hardware_op(call: Call, _arg: int) -> int:
    """For the hardware domain, which finds no such device on this machine."""
    raise XenError(Errno.ENODEV if call.domain.is_hardware else Errno.ENOSYS)


# -- PV guests ---------------------------------------------------------------------------------
def set_iopl(call: Call, arg: abi.physdev_set_iopl) -> int:
    """Set the privilege that port I/O needs, as the guest's own instructions show it."""
    from xenograft.hypervisor.pv.platform import pv_cpu

    if arg.iopl > 3:
        raise XenError(Errno.EINVAL)
    pv_cpu(call.current).pv_set("iopl", arg.iopl << 12)
    return 0


def set_iobitmap(call: Call, arg: abi.physdev_set_iobitmap) -> int:
    """Which ports the guest may use without the IOPL for all: a zero bit each."""
    from xenograft.hypervisor.pv.platform import PvPlatform

    if arg.nr_ports > 65536:
        raise XenError(Errno.EINVAL)
    platform = call.domain.arch
    assert isinstance(platform, PvPlatform)
    platform.io_bitmaps[call.current.vcpu_id] = arg.bitmap, arg.nr_ports
    return 0


def io_apic(call: Call, _arg: int) -> int:
    """I/O APICs are the hardware domain's."""
    raise XenError(Errno.EPERM if not call.domain.is_hardware else Errno.EINVAL)


_PV_OPS: dict[str, tuple[type[Struct], OpHandler]] = {
    "PHYSDEVOP_set_iopl": (abi.physdev_set_iopl, set_iopl),
    "PHYSDEVOP_set_iobitmap": (abi.physdev_set_iobitmap, set_iobitmap),
}


def _rows() -> list[Op]:
    rows: dict[int, Op] = {}
    for name, number in sorted(vars(abi).items()):
        if not name.startswith("PHYSDEVOP_") or name.startswith("PHYSDEVOP_DBGP_"):
            continue
        if name in _PV_OPS:
            argument, handler = _PV_OPS[name]
            rows[number] = Op(number, name, argument, pv_only(handler))
            continue
        if name in ("PHYSDEVOP_apic_read", "PHYSDEVOP_apic_write"):
            decisions = pv_only(io_apic)
        elif name in _PIRQ_OPS:
            decisions = everyone(pirq_op)
        elif name in _HARDWARE_OPS:
            decisions = everyone(hardware_op)
        else:
            decisions = dict.fromkeys(GuestKind, Errno.ENOSYS)
        rows[number] = Op(number, name, None, decisions)
    return list(rows.values())


PHYSDEV_OPS = family(_rows())


def physdev_op_compat(call: Call, uop: int) -> int:
    """The interface before 0x00030202: the command stands in the structure."""
    cmd = call.read_ints(uop, 4, 1)[0]
    return dispatch_family(PHYSDEV_OPS, call, cmd, uop + abi.physdev_op.offsetof("u", call.bits))


def physdev_op(call: Call, cmd: int, arg: int) -> int:
    """__HYPERVISOR_physdev_op."""
    return dispatch_family(PHYSDEV_OPS, call, cmd, arg)
