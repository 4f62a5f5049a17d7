# SPDX-License-Identifier: GPL-2.0-or-later
"""The DSDT of a PVH guest: the processors, and how they come and go.

What it defines is what Xen's tools give a PVH guest (libacpi's dsdt_acpi_info.asl and the
processor part of mk_dsdt.c; port and bit numbers from public/arch-x86/guest-acpi.h): the fields
of the information page, a Processor object per vCPU whose _STA and _MAT follow its entry in the
MADT, and the handler of GPE 2 that compares the entries with the map of online vCPUs.

Xen always describes 128 processors.  Those past NCPU say that they aren't there, so leaving
them out changes nothing that a guest can see but the time it takes to read the table.
"""

from __future__ import annotations

from xenograft.toolstack.build.acpi import aml
from xenograft.toolstack.build.memory_map import ACPI_INFO_ADDRESS

HVM_MAX_VCPUS = 128
XEN_ACPI_CPU_MAP = 0xAF00
XEN_ACPI_CPU_MAP_LEN = (HVM_MAX_VCPUS + 7) // 8
XEN_ACPI_GPE0_CPUHP_BIT = 2

LAPIC_ENTRY_SIZE = 8
_PBLK = 0xB010
_PBLK_SIZE = 6

# The information page, in the order of struct acpi_info (libacpi's build.c): (field, bits).
_INFO_FIELDS = (
    ("UAR1", 1),
    ("UAR2", 1),
    ("LTP1", 1),
    ("HPET", 1),
    ("", 12),
    ("NCPU", 16),
    ("PMIN", 32),
    ("PLEN", 32),
    ("MSUA", 32),  # address of the MADT's checksum
    ("MAPA", 32),  # address of the MADT's first local APIC entry
    ("VGIA", 32),
    ("LMIN", 32),
    ("HMIN", 32),
    ("LLEN", 32),
    ("HLEN", 32),
)
INFO_SIZE = 40


def _processor_name(vcpu: int) -> str:
    return f"PR{vcpu:02X}"


def _processor(vcpu: int) -> bytes:
    number = aml.integer(vcpu)
    flag = aml.name("FLG")
    entry = aml.name("MAT")
    present = aml.if_(flag, aml.return_(aml.integer(0xF)))
    if vcpu:
        present = aml.if_(aml.less(number, aml.name("NCPU")), present)
    return aml.processor(
        _processor_name(vcpu),
        vcpu,
        _PBLK,
        _PBLK_SIZE,
        aml.define("_HID", aml.string("ACPI0007")),
        aml.define("_UID", number),
        aml.operation_region(
            "MATR",
            aml.SYSTEM_MEMORY,
            aml.add(aml.name("MAPA"), aml.integer(vcpu * LAPIC_ENTRY_SIZE)),
            aml.integer(LAPIC_ENTRY_SIZE),
        ),
        aml.field("MATR", ("MAT", 64)),
        aml.field("MATR", ("", 32), ("FLG", 1)),
        aml.method(
            "_MAT",
            0,
            aml.return_(aml.call("PMAT", number, entry) if vcpu else aml.to_buffer(entry)),
        ),
        aml.method("_STA", 0, present, aml.return_(aml.ZERO)),
        aml.method("_EJ0", 1, aml.sleep(200)),
    )


def _hotplug(vcpu: int) -> bytes:
    """Part of PRSC: bring one processor's entry up to date with the map, and tell."""
    if vcpu % 8:
        read = aml.shift_right(aml.local(1), aml.ONE, aml.local(1))
    else:
        read = aml.store(
            aml.deref_of(aml.index(aml.local(0), aml.integer(vcpu // 8))), aml.local(1)
        )
    processor = _processor_name(vcpu)
    flag = aml.name(f"^{processor}.FLG")
    checksum = aml.name("MSU")
    return (
        read
        + aml.and_(aml.local(1), aml.ONE, aml.local(2))
        + aml.if_(
            aml.not_equal(aml.local(2), flag),
            aml.store(aml.local(2), flag),
            aml.if_(
                aml.equal(aml.local(2), aml.ONE),
                aml.notify(processor, 1),  # device check
                aml.subtract(checksum, aml.ONE, checksum),
            ),
            aml.else_(
                aml.notify(processor, 3),  # eject request
                aml.add(checksum, aml.ONE, checksum),
            ),
        )
    )


def dsdt_body(vcpus: int) -> bytes:
    """The AML after the table's header, with `vcpus` processors (1 to 128)."""
    if not 1 <= vcpus <= HVM_MAX_VCPUS:
        raise ValueError(f"{vcpus} vCPUs")
    unknown = bytes([0, LAPIC_ENTRY_SIZE, 0xFF, 0xFF, 0, 0, 0, 0])
    information = aml.scope(
        "_SB",
        aml.operation_region(
            "BIOS", aml.SYSTEM_MEMORY, aml.integer(ACPI_INFO_ADDRESS), aml.integer(INFO_SIZE)
        ),
        aml.field("BIOS", *_INFO_FIELDS),
    )
    processors = aml.scope(
        "_SB",
        aml.operation_region("MSUM", aml.SYSTEM_MEMORY, aml.name("MSUA"), aml.ONE),
        aml.field("MSUM", ("MSU", 8)),
        aml.method(
            "PMAT",
            2,
            aml.if_(
                aml.less(aml.argument(0), aml.name("NCPU")),
                aml.return_(aml.to_buffer(aml.argument(1))),
            ),
            aml.return_(aml.buffer(unknown)),
        ),
        *(_processor(vcpu) for vcpu in range(vcpus)),
        aml.operation_region(
            "PRST",
            aml.SYSTEM_IO,
            aml.integer(XEN_ACPI_CPU_MAP),
            aml.integer(XEN_ACPI_CPU_MAP_LEN),
        ),
        aml.field("PRST", ("PRS", HVM_MAX_VCPUS)),
        aml.method(
            "PRSC",
            0,
            aml.store(aml.to_buffer(aml.name("PRS")), aml.local(0)),
            *(_hotplug(vcpu) for vcpu in range(vcpus)),
            aml.return_(aml.ONE),
        ),
    )
    events = aml.scope(
        "_GPE",
        aml.method(f"_E{XEN_ACPI_GPE0_CPUHP_BIT:02}", 0, aml.call("\\_SB.PRSC")),
    )
    return information + processors + events
