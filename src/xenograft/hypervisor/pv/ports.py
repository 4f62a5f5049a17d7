# SPDX-License-Identifier: GPL-2.0-or-later
"""Port I/O of PV guests: who may do it, and what comes of it.

No port belongs to a guest here, so reads give ones and writes are dropped; but whether an access
is a fault depends on the guest's IOPL and on the bitmap that its kernel has named for its user.

Facts: guest_io_okay(), iopl_ok(), rep_ins() and rep_outs() in xen/arch/x86/pv/emul-priv-op.c of
Xen 4.17.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.xen import VMASST_TYPE_architectural_iopl
from xenograft.arch.x86.pv_decode import Insn, Op
from xenograft.engine.protocol import PAGE_SHIFT, PAGE_SIZE, AccessError
from xenograft.hypervisor.pv.tables import MFN_MASK, l1_entry

if TYPE_CHECKING:
    from xenograft.engine.pv import PvCpu
    from xenograft.hypervisor.vcpu import Vcpu

EFLAGS_DF = 1 << 10
PFEC_PRESENT, PFEC_WRITE = 1, 2
SEGMENTS = {0x26: "es", 0x2E: "cs", 0x36: "ss", 0x3E: "ds", 0x64: "fs", 0x65: "gs"}


class PageFault(Exception):
    """The memory operand can't be reached."""

    def __init__(self, address: int, error: int) -> None:
        super().__init__(hex(address))
        self.address, self.error = address, error


def iopl_ok(vcpu: Vcpu, cpu: PvCpu, in_kernel: bool) -> bool:
    """Whether the guest's IOPL lets it at all ports, and at CLI and STI."""
    architectural = vcpu.domain.vm_assist >> VMASST_TYPE_architectural_iopl & 1
    cpl = (0 if architectural else 1) if in_kernel else 3
    return cpu.pv_get("iopl") >> 12 >= cpl


def port_ok(
    vcpu: Vcpu, cpu: PvCpu, in_kernel: bool, port: int, size: int, bitmap: tuple[int, int]
) -> bool:
    """Whether an access of `size` bytes is none that faults; `bitmap`: (address, ports)."""
    if iopl_ok(vcpu, cpu, in_kernel):
        return True
    address, ports = bitmap
    if port + size > ports:
        return False
    # In the kernel's address space, whoever runs; what isn't there is no permission.
    bits = (
        _kernel_byte(vcpu, address + (port >> 3))
        | _kernel_byte(vcpu, address + (port >> 3) + 1) << 8
    )
    return not bits >> (port & 7) & ((1 << size) - 1)


def _kernel_byte(vcpu: Vcpu, address: int) -> int:
    entry_at = l1_entry(vcpu, address)
    if entry_at is None:
        return 0xFF
    memory = vcpu.domain.memory
    entry = memory.read_u64(entry_at)
    mfn = (entry & MFN_MASK) >> PAGE_SHIFT
    if not entry & 1 or not vcpu.domain.hypervisor.frames.valid(mfn):
        return 0xFF
    return memory.read(mfn << PAGE_SHIFT | address & PAGE_SIZE - 1, 1)[0]


def string_io(cpu: PvCpu, insn: Insn, code_bits: int) -> bool:
    """Some steps of INS or OUTS; True if it's done. Raises PageFault, with what was done kept."""
    ins = insn.op is Op.INS
    bits = insn.address_bits or code_bits
    mask = (1 << bits) - 1
    name = "rdi" if ins else "rsi"
    offset = cpu.get(name) & mask
    left = cpu.get("rcx") & mask if insn.rep else 1
    if not left:
        return True
    segment = "es" if ins else SEGMENTS.get(insn.segment, "ds")
    flat = code_bits == 64 and segment not in ("fs", "gs")
    address = offset if flat else cpu.get(f"{segment}.base") + offset
    address &= (1 << 64) - 1 if code_bits == 64 else 0xFFFFFFFF
    down = bool(cpu.get("rflags") & EFLAGS_DF)
    room = (address & PAGE_SIZE - 1) + insn.size if down else PAGE_SIZE - (address & PAGE_SIZE - 1)
    steps = max(1, min(left, room // insn.size))
    start = address - (steps - 1) * insn.size if down else address
    _touch(cpu, start, steps * insn.size, ins)
    offset += -steps * insn.size if down else steps * insn.size
    cpu.set(name, _merge(cpu.get(name), offset & mask, bits))
    if insn.rep:
        cpu.set("rcx", _merge(cpu.get("rcx"), left - steps, bits))
    return left == steps or not insn.rep


def _merge(old: int, new: int, bits: int) -> int:
    """A register after its lower part was written: 32-bit writes clear the upper half."""
    return old & ~0xFFFF | new if bits == 16 else new


def _touch(cpu: PvCpu, address: int, size: int, write: bool) -> None:
    try:
        if write:
            cpu.write(address, b"\xff" * size)
        else:
            cpu.read(address, size)
    except AccessError as error:
        code = PFEC_WRITE if write else 0
        if write:
            try:
                cpu.read(error.address, 1)
                code |= PFEC_PRESENT
            except AccessError:
                pass
        raise PageFault(error.address, code) from None
