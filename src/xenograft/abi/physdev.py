# SPDX-License-Identifier: GPL-2.0-or-later
"""public/physdev.h: interrupts and PCI devices of the machine (HYPERVISOR_physdev_op)."""

from __future__ import annotations

from xenograft.abi.struct import (
    Struct,
    Union,
    domid_t,
    handle,
    i32,
    selects,
    u8,
    u16,
    u32,
    x32,
    x64,
    xen_pfn_t,
    xulong,
)

# physdev_op.
PHYSDEVOP_IRQ_UNMASK_NOTIFY = 4
PHYSDEVOP_irq_status_query = 5
PHYSDEVOP_set_iopl = 6
PHYSDEVOP_set_iobitmap = 7
PHYSDEVOP_apic_read = 8
PHYSDEVOP_apic_write = 9
PHYSDEVOP_alloc_irq_vector = 10
PHYSDEVOP_free_irq_vector = 11
PHYSDEVOP_eoi = 12
PHYSDEVOP_map_pirq = 13
PHYSDEVOP_unmap_pirq = 14
PHYSDEVOP_manage_pci_add = 15
PHYSDEVOP_manage_pci_remove = 16
PHYSDEVOP_pirq_eoi_gmfn_v1 = 17
PHYSDEVOP_restore_msi = 19
PHYSDEVOP_manage_pci_add_ext = 20
PHYSDEVOP_setup_gsi = 21
PHYSDEVOP_get_free_pirq = 23
PHYSDEVOP_pci_mmcfg_reserved = 24
PHYSDEVOP_pci_device_add = 25
PHYSDEVOP_pci_device_remove = 26
PHYSDEVOP_restore_msi_ext = 27
PHYSDEVOP_pirq_eoi_gmfn_v2 = 28
PHYSDEVOP_dbgp_op = 29
PHYSDEVOP_prepare_msix = 30
PHYSDEVOP_release_msix = 31

# physdev_irq_status_query.flags.
XENIRQSTAT_needs_eoi = 1 << 0
XENIRQSTAT_shared = 1 << 1

# physdev_map_pirq.type.
MAP_PIRQ_TYPE_MSI = 0
MAP_PIRQ_TYPE_GSI = 1
MAP_PIRQ_TYPE_UNKNOWN = 2
MAP_PIRQ_TYPE_MSI_SEG = 3
MAP_PIRQ_TYPE_MULTI_MSI = 4

# Flags of PCI operations.
XEN_PCI_MMCFG_RESERVED = 0x1
XEN_PCI_DEV_EXTFN = 0x1
XEN_PCI_DEV_VIRTFN = 0x2
XEN_PCI_DEV_PXM = 0x4

# physdev_dbgp_op.
PHYSDEVOP_DBGP_RESET_PREPARE = 1
PHYSDEVOP_DBGP_RESET_DONE = 2
PHYSDEVOP_DBGP_BUS_UNKNOWN = 0
PHYSDEVOP_DBGP_BUS_PCI = 1


class physdev_eoi(Struct):
    """An interrupt was serviced."""

    irq: u32


class physdev_pirq_eoi_gmfn(Struct):
    """A page with a bit per interrupt that needs an end of interrupt."""

    gmfn: xen_pfn_t


class physdev_irq_status_query(Struct):
    """OUT: flags (XENIRQSTAT_*)."""

    irq: u32
    flags: x32


class physdev_set_iopl(Struct):
    """The I/O privilege level of a PV vCPU."""

    iopl: u32


class physdev_set_iobitmap(Struct):
    """The I/O bitmap of a PV vCPU."""

    bitmap: handle
    nr_ports: u32


class physdev_apic(Struct):
    """An I/O APIC register. IN or OUT: value."""

    apic_physbase: xulong
    reg: x32
    value: x32


class physdev_irq(Struct):
    """IN or OUT: vector."""

    irq: u32
    vector: u32


class physdev_map_pirq(Struct):
    """Map an interrupt or message to a pirq. IN or OUT: pirq."""

    domid: domid_t
    type: i32
    index: i32
    pirq: i32
    bus: i32
    devfn: i32
    entry_nr: i32
    table_base: x64


class physdev_unmap_pirq(Struct):
    """Undo a mapping."""

    domid: domid_t
    pirq: i32


class physdev_manage_pci(Struct):
    """A device of segment 0 came or went."""

    bus: u8
    devfn: u8


class physdev_restore_msi(Struct):
    """Restore a device's message interrupts after a reset."""

    bus: u8
    devfn: u8


class pci_physfn(Struct):
    """The physical function that a virtual one belongs to."""

    bus: u8
    devfn: u8


class physdev_manage_pci_ext(Struct):
    """A device of segment 0 came."""

    bus: u8
    devfn: u8
    is_extfn: u32
    is_virtfn: u32
    physfn: pci_physfn


class _physdev_op_u(Union):
    irq_status_query: physdev_irq_status_query
    set_iopl: physdev_set_iopl
    set_iobitmap: physdev_set_iobitmap
    apic_op: physdev_apic
    irq_op: physdev_irq


class physdev_op(Struct):
    """Argument of the superseded physdev_op_compat: command and operand in one."""

    _selects_ = selects(
        u=(
            "cmd",
            {
                PHYSDEVOP_irq_status_query: "irq_status_query",
                PHYSDEVOP_set_iopl: "set_iopl",
                PHYSDEVOP_set_iobitmap: "set_iobitmap",
                PHYSDEVOP_apic_read: "apic_op",
                PHYSDEVOP_apic_write: "apic_op",
                PHYSDEVOP_alloc_irq_vector: "irq_op",
                PHYSDEVOP_free_irq_vector: "irq_op",
            },
        )
    )

    cmd: u32
    u: _physdev_op_u


class physdev_setup_gsi(Struct):
    """Trigger mode and polarity of a global interrupt."""

    gsi: i32
    triggering: u8
    polarity: u8


class physdev_get_free_pirq(Struct):
    """OUT: pirq."""

    type: i32
    pirq: u32


class physdev_pci_mmcfg_reserved(Struct):
    """Whether the firmware reserves an MMCFG window."""

    address: x64
    segment: u16
    start_bus: u8
    end_bus: u8
    flags: x32


class physdev_pci_device_add(Struct):
    """A device came; with XEN_PCI_DEV_PXM a u32 with its proximity domain follows."""

    seg: u16
    bus: u8
    devfn: u8
    flags: x32
    physfn: pci_physfn


class physdev_pci_device(Struct):
    """A PCI device."""

    seg: u16
    bus: u8
    devfn: u8


class _dbgp_u(Union):
    pci: physdev_pci_device


class physdev_dbgp_op(Struct):
    """The debug port's controller is about to be, or has been, reset."""

    op: u8
    bus: u8
    u: _dbgp_u
