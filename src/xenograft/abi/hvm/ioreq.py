# SPDX-License-Identifier: GPL-2.0-or-later
"""public/hvm/ioreq.h: how Xen hands accesses to a device model."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from xenograft.abi.struct import Struct, array, bitfield, named, octets, u8, u16, u32, x32, x64

# ioreq.dir.
IOREQ_READ = 1
IOREQ_WRITE = 0

# ioreq.state.
STATE_IOREQ_NONE = 0
STATE_IOREQ_READY = 1
STATE_IOREQ_INPROCESS = 2
STATE_IORESP_READY = 3

# ioreq.type.
IOREQ_TYPE_PIO = 0
IOREQ_TYPE_COPY = 1
IOREQ_TYPE_PCI_CONFIG = 2
IOREQ_TYPE_TIMEOFFSET = 7
IOREQ_TYPE_INVALIDATE = 8

# ACPI blocks of the emulated PC: version 0 (default) and 1 (QEMU).
ACPI_PM1A_EVT_BLK_ADDRESS_V0 = 0x1F40
ACPI_PM1A_CNT_BLK_ADDRESS_V0 = 0x1F44
ACPI_PM_TMR_BLK_ADDRESS_V0 = 0x1F48
ACPI_GPE0_BLK_ADDRESS_V0 = 0x1F68
ACPI_GPE0_BLK_LEN_V0 = 8
ACPI_PM1A_EVT_BLK_ADDRESS_V1 = 0xB000
ACPI_PM1A_CNT_BLK_ADDRESS_V1 = 0xB004
ACPI_PM_TMR_BLK_ADDRESS_V1 = 0xB008
ACPI_GPE0_BLK_ADDRESS_V1 = 0xAFE0
ACPI_GPE0_BLK_LEN_V1 = 4

IOREQ_BUFFER_SLOT_NUM = 511

IOREQ_TYPE_NAMES: dict[int, str] = {
    number: name
    for name, number in sorted(globals().items())
    if name.startswith("IOREQ_TYPE_") and isinstance(number, int)
}
"""Request type to name."""


class ioreq(Struct):
    """One access that the device model answers."""

    addr: x64
    data: x64
    count: u32
    size: u32
    vp_eport: u32
    _pad0: u16
    state: Annotated[int, bitfield(u8, 4)]
    data_is_ptr: Annotated[int, bitfield(u8, 1)]
    dir: Annotated[int, bitfield(u8, 1)]
    df: Annotated[int, bitfield(u8, 1)]
    _pad1: Annotated[int, bitfield(u8, 1)]
    type: Annotated[int, named(u8, IOREQ_TYPE_NAMES)]


class shared_iopage(Struct):
    """A page of requests, one per vCPU; the first is declared."""

    vcpu_ioreq: Annotated[list[ioreq], array(ioreq, 1)]


class buf_ioreq(Struct):
    """A write that needn't be answered at once; size is log2 of bytes."""

    type: Annotated[int, bitfield(u32, 8)]
    pad: Annotated[int, bitfield(u32, 1)]
    dir: Annotated[int, bitfield(u32, 1)]
    size: Annotated[int, bitfield(u32, 2)]
    addr: Annotated[int, bitfield(u32, 20)]
    data: x32


# The member of the same name hides the class inside buffered_iopage.
buf_ioreq_t: TypeAlias = buf_ioreq


class buffered_iopage(Struct):
    """A page of buffered writes."""

    read_pointer: u32
    write_pointer: u32
    buf_ioreq: Annotated[bytes, octets(8 * IOREQ_BUFFER_SLOT_NUM)]

    def slot(self, index: int) -> buf_ioreq_t:
        """The request in slot `index` modulo the number of slots."""
        at = 8 * (index % IOREQ_BUFFER_SLOT_NUM)
        return buf_ioreq_t.unpack(self.buf_ioreq[at : at + 8])
