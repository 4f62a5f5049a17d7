# SPDX-License-Identifier: GPL-2.0-or-later
"""public/hvm/dm_op.h: what a device model asks for (HYPERVISOR_dm_op)."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.sched import SHUTDOWN_NAMES
from xenograft.abi.struct import (
    Struct,
    Union,
    evtchn_port_t,
    handle,
    named,
    octets,
    selects,
    u8,
    u16,
    u32,
    u64,
    ulong,
    x8,
    x16,
    x32,
    x64_aligned,
)

# xen_dm_op.op.
XEN_DMOP_create_ioreq_server = 1
XEN_DMOP_get_ioreq_server_info = 2
XEN_DMOP_map_io_range_to_ioreq_server = 3
XEN_DMOP_unmap_io_range_from_ioreq_server = 4
XEN_DMOP_set_ioreq_server_state = 5
XEN_DMOP_destroy_ioreq_server = 6
XEN_DMOP_track_dirty_vram = 7
XEN_DMOP_set_pci_intx_level = 8
XEN_DMOP_set_isa_irq_level = 9
XEN_DMOP_set_pci_link_route = 10
XEN_DMOP_modified_memory = 11
XEN_DMOP_set_mem_type = 12
XEN_DMOP_inject_event = 13
XEN_DMOP_inject_msi = 14
XEN_DMOP_map_mem_type_to_ioreq_server = 15
XEN_DMOP_remote_shutdown = 16
XEN_DMOP_relocate_memory = 17
XEN_DMOP_pin_memory_cacheattr = 18
XEN_DMOP_set_irq_level = 19
XEN_DMOP_nr_vcpus = 20

# xen_dm_op_get_ioreq_server_info.flags.
XEN_DMOP_no_gfns = 1 << 0

# xen_dm_op_ioreq_server_range.type.
XEN_DMOP_IO_RANGE_PORT = 0
XEN_DMOP_IO_RANGE_MEMORY = 1
XEN_DMOP_IO_RANGE_PCI = 2

# xen_dm_op_inject_event.type.
XEN_DMOP_EVENT_ext_int = 0
XEN_DMOP_EVENT_nmi = 2
XEN_DMOP_EVENT_hw_exc = 3
XEN_DMOP_EVENT_sw_int = 4
XEN_DMOP_EVENT_pri_sw_exc = 5
XEN_DMOP_EVENT_sw_exc = 6

# xen_dm_op_map_mem_type_to_ioreq_server.flags.
XEN_DMOP_IOREQ_MEM_ACCESS_READ = 1 << 0
XEN_DMOP_IOREQ_MEM_ACCESS_WRITE = 1 << 1

# xen_dm_op_pin_memory_cacheattr.type.
XEN_DMOP_MEM_CACHEATTR_UC = 0
XEN_DMOP_MEM_CACHEATTR_WC = 1
XEN_DMOP_MEM_CACHEATTR_WT = 4
XEN_DMOP_MEM_CACHEATTR_WP = 5
XEN_DMOP_MEM_CACHEATTR_WB = 6
XEN_DMOP_MEM_CACHEATTR_UCM = 7
XEN_DMOP_DELETE_MEM_CACHEATTR = 0xFFFFFFFF


def XEN_DMOP_PCI_SBDF(segment: int, bus: int, device: int, function: int) -> int:
    """A PCI address as ranges of XEN_DMOP_IO_RANGE_PCI count it."""
    return (segment & 0xFFFF) << 16 | (bus & 0xFF) << 8 | (device & 0x1F) << 3 | function & 7


class xen_dm_op_create_ioreq_server(Struct):
    """OUT: id."""

    handle_bufioreq: u8
    pad: Annotated[bytes, octets(3)]
    id: u16


class xen_dm_op_get_ioreq_server_info(Struct):
    """OUT: the port and frames of a server."""

    id: u16
    flags: x16
    bufioreq_port: evtchn_port_t
    ioreq_gfn: x64_aligned
    bufioreq_gfn: x64_aligned


class xen_dm_op_ioreq_server_range(Struct):
    """Ports, addresses or PCI functions that a server answers for (ends included)."""

    id: u16
    pad: u16
    type: u32
    start: x64_aligned
    end: x64_aligned


class xen_dm_op_set_ioreq_server_state(Struct):
    """Switch a server on or off."""

    id: u16
    enabled: u8
    pad: u8


class xen_dm_op_destroy_ioreq_server(Struct):
    """Remove a server."""

    id: u16
    pad: u16


class xen_dm_op_track_dirty_vram(Struct):
    """Which pages of the frame buffer were written."""

    nr: u32
    pad: u32
    first_pfn: x64_aligned


class xen_dm_op_set_pci_intx_level(Struct):
    """Level of a PCI INTx wire."""

    domain: u16
    bus: u8
    device: u8
    intx: u8
    level: u8


class xen_dm_op_set_isa_irq_level(Struct):
    """Level of an ISA interrupt wire."""

    isa_irq: u8
    level: u8


class xen_dm_op_set_pci_link_route(Struct):
    """Route of a PCI link; isa_irq 0: none."""

    link: u8
    isa_irq: u8


class xen_dm_op_modified_memory(Struct):
    """Pages that the device model wrote; buffer 1 lists extents."""

    nr_extents: u32
    opaque: u32


class xen_dm_op_modified_memory_extent(Struct):
    """One run of pages."""

    nr: u32
    pad: u32
    first_pfn: x64_aligned


class xen_dm_op_set_mem_type(Struct):
    """Type (HVMMEM_*) of a run of pages."""

    nr: u32
    mem_type: u16
    pad: u16
    first_pfn: x64_aligned


class xen_dm_op_inject_event(Struct):
    """Inject an interrupt or exception (XEN_DMOP_EVENT_*); error_code ~0: none."""

    vcpuid: u32
    vector: x8
    type: u8
    insn_len: u8
    pad0: u8
    error_code: x32
    pad1: u32
    cr2: x64_aligned


class xen_dm_op_inject_msi(Struct):
    """Send a message-signalled interrupt."""

    data: x32
    pad: u32
    addr: x64_aligned


class xen_dm_op_map_mem_type_to_ioreq_server(Struct):
    """Have accesses to pages of a type forwarded."""

    id: u16
    type: u16
    flags: x32
    opaque: u64


class xen_dm_op_remote_shutdown(Struct):
    """Shut the guest down."""

    reason: Annotated[int, named(u32, SHUTDOWN_NAMES)]


class xen_dm_op_relocate_memory(Struct):
    """Move guest frames."""

    size: u32
    pad: u32
    src_gfn: x64_aligned
    dst_gfn: x64_aligned


class xen_dm_op_pin_memory_cacheattr(Struct):
    """Pin the caching type of a range."""

    start: x64_aligned
    end: x64_aligned
    type: u32
    pad: u32


class xen_dm_op_set_irq_level(Struct):
    """Level of an interrupt line (Arm)."""

    irq: u32
    level: u8
    pad: Annotated[bytes, octets(3)]


class xen_dm_op_nr_vcpus(Struct):
    """OUT: vcpus."""

    vcpus: u32


class _dm_op_u(Union):
    create_ioreq_server: xen_dm_op_create_ioreq_server
    get_ioreq_server_info: xen_dm_op_get_ioreq_server_info
    map_io_range_to_ioreq_server: xen_dm_op_ioreq_server_range
    unmap_io_range_from_ioreq_server: xen_dm_op_ioreq_server_range
    set_ioreq_server_state: xen_dm_op_set_ioreq_server_state
    destroy_ioreq_server: xen_dm_op_destroy_ioreq_server
    track_dirty_vram: xen_dm_op_track_dirty_vram
    set_pci_intx_level: xen_dm_op_set_pci_intx_level
    set_isa_irq_level: xen_dm_op_set_isa_irq_level
    set_irq_level: xen_dm_op_set_irq_level
    set_pci_link_route: xen_dm_op_set_pci_link_route
    modified_memory: xen_dm_op_modified_memory
    set_mem_type: xen_dm_op_set_mem_type
    inject_event: xen_dm_op_inject_event
    inject_msi: xen_dm_op_inject_msi
    map_mem_type_to_ioreq_server: xen_dm_op_map_mem_type_to_ioreq_server
    remote_shutdown: xen_dm_op_remote_shutdown
    relocate_memory: xen_dm_op_relocate_memory
    pin_memory_cacheattr: xen_dm_op_pin_memory_cacheattr
    nr_vcpus: xen_dm_op_nr_vcpus


DMOP_NAMES: dict[int, str] = {
    number: name.removeprefix("XEN_DMOP_")
    for name, number in sorted(globals().items())
    if name.startswith("XEN_DMOP_") and name[9].islower() and name != "XEN_DMOP_no_gfns"
}
"""Operation to its name, which is also the member of the union."""


class xen_dm_op(Struct):
    """The first buffer of a dm_op: operation and operand."""

    _selects_ = selects(u=("op", DMOP_NAMES))

    op: Annotated[int, named(u32, DMOP_NAMES)]
    pad: u32
    u: _dm_op_u


class xen_dm_op_buf(Struct):
    """One buffer of a dm_op."""

    h: handle
    size: ulong
