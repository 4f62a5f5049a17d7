# SPDX-License-Identifier: GPL-2.0-or-later
"""The ACPI tables of a PVH guest: RSDP, XSDT, RSDT, FADT, FACS, MADT, DSDT, information page.

Contents and places are those of Xen's toolstack: libacpi (build.c, static_tables.c) as libxl
calls it for PVH (libxl_x86_acpi.c): no VGA, no CMOS clock, no PM timer, no buttons, no I/O
APIC; revision 5.  Table formats: ACPI specification 5.0, chapter 5.

The tables are packed in the order in which libacpi allocates them, each on a 16-byte boundary
(the FACS on 64), from the page after the information page on; the RSDP follows on the next
page, or lies at the top of the BIOS area for a Linux that doesn't look elsewhere.
"""

from __future__ import annotations

import struct

import msgspec

from xenograft.toolstack.build.acpi.dsdt import HVM_MAX_VCPUS, LAPIC_ENTRY_SIZE, dsdt_body
from xenograft.toolstack.build.memory_map import (
    ACPI_INFO_ADDRESS,
    LAPIC_BASE_ADDRESS,
    PAGE_SIZE,
    page_up,
)

LOW_RSDP_ADDRESS = 0x100000 - 64
"""Where a Linux without the feature linux_rsdp_unrestricted looks for the RSDP."""
RSDP_SIZE = 64
"""Bytes set aside for the RSDP, of which it needs 36."""

_OEM = struct.pack("<6s8sI", b"Xen", b"HVM", 0)
_CREATOR = struct.pack("<4sI", b"HVML", 0)
_AML_CREATOR = struct.pack("<4sI", b"XGFT", 1)
_HEADER_SIZE = 36

_SYSTEM_IO = 1

# Ports of the fixed hardware, as in public/hvm/ioreq.h (…_V1).
_PM1A_EVT_BLK = 0xB000
_PM1A_CNT_BLK = 0xB004
_GPE0_BLK = 0xAFE0
_PM1_EVT_LEN = 4
_PM1_CNT_LEN = 2
_GPE0_BLK_LEN = 4

# FADT flags and boot architecture flags (ACPI 5.0, tables 5-35 and 5-36).
_WBINVD = 1 << 0
_PROC_C1 = 1 << 2
_PWR_BUTTON = 1 << 4
_SLP_BUTTON = 1 << 5
_FIX_RTC = 1 << 6
_TMR_VAL_EXT = 1 << 8
_USE_PLATFORM_CLOCK = 1 << 15
_NO_VGA = 1 << 2
_NO_CMOS_RTC = 1 << 5

_MADT_PCAT_COMPAT = 1
_LAPIC_ENABLED = 1


class AcpiTables(msgspec.Struct, frozen=True):
    """What to load for ACPI, as (guest-physical address, bytes), and where its parts are."""

    rsdp_address: int
    rsdp: bytes
    info: bytes
    """The information page, at ACPI_INFO_ADDRESS."""
    tables: bytes
    """Whole pages, from the page after the information page on."""
    directory: tuple[tuple[str, int, int], ...]
    """(signature, address, size) of every table, for people and tests."""

    @property
    def modules(self) -> tuple[tuple[int, int], ...]:
        """(address, bytes) as libxl counts them in the E820: RSDP, information page, tables."""
        return (
            (self.rsdp_address, RSDP_SIZE),
            (ACPI_INFO_ADDRESS, PAGE_SIZE),
            (ACPI_INFO_ADDRESS + PAGE_SIZE, len(self.tables)),
        )


def lapic_id(vcpu: int) -> int:
    """The local APIC ID of a vCPU (libxl's acpi_lapic_id; the hypervisor's vlapic agrees)."""
    return vcpu * 2


def checksummed(table: bytes, offset: int = 9, length: int | None = None) -> bytes:
    """The table with the byte at offset set so that its first `length` bytes sum up to 0."""
    covered = table if length is None else table[:length]
    value = table[offset] - sum(covered) & 0xFF
    return table[:offset] + bytes([value]) + table[offset + 1 :]


def _table(signature: bytes, revision: int, body: bytes, creator: bytes = _CREATOR) -> bytes:
    size = _HEADER_SIZE + len(body)
    header = struct.pack("<4sIBB", signature, size, revision, 0) + _OEM + creator
    return checksummed(header + body)


def _generic_address(bits: int, address: int) -> bytes:
    return struct.pack("<BBBBQ", _SYSTEM_IO, bits, 0, 0, address)


_NO_ADDRESS = bytes(12)


def _fadt(facs: int, dsdt: int, revision: int) -> bytes:
    """The FADT; in its ACPI 1.0 form (revision 1) for the RSDT, and in full for the XSDT."""
    full = revision > 1
    flags = _PROC_C1 | _WBINVD | _FIX_RTC | _TMR_VAL_EXT | _USE_PLATFORM_CLOCK
    boot_flags = 0
    if full:
        # Set: "this machine has no such fixed button".
        flags |= _PWR_BUTTON | _SLP_BUTTON
        boot_flags = _NO_VGA | _NO_CMOS_RTC
    # libacpi copies the short form before it takes the PM timer out of its template.
    timer = (0, 0) if full else (0xB008, 4)
    body = struct.pack(
        "<IIBBHIBBBB8I8BHHHHBBBBBHBI",
        facs,
        dsdt,
        0,  # reserved
        0,  # preferred power management profile: unspecified
        9,  # SCI
        *(0, 0, 0, 0, 0),  # SMI command port and values
        *(_PM1A_EVT_BLK, 0, _PM1A_CNT_BLK, 0, 0, timer[0], _GPE0_BLK, 0),
        *(_PM1_EVT_LEN, _PM1_CNT_LEN, 0, timer[1], _GPE0_BLK_LEN, 0, 0, 0),
        0x0FFF,  # latencies that say: no C2,
        0x0FFF,  # and no C3
        *(0, 0, 0, 0, 0, 0, 0),  # flush size and stride, duty offset and width, alarms, century
        boot_flags,
        0,
        flags,
    )
    if full:
        body += _generic_address(8, 0xCF9) + bytes([6, 0, 0, 0])  # reset register and value
        body += struct.pack("<QQ", facs, dsdt)
        body += _generic_address(_PM1_EVT_LEN * 8, _PM1A_EVT_BLK) + _NO_ADDRESS
        body += _generic_address(_PM1_CNT_LEN * 8, _PM1A_CNT_BLK) + _NO_ADDRESS
        body += 6 * _NO_ADDRESS  # PM2, timer, GPE0, GPE1, sleep control, sleep status
    return _table(b"FACP", revision, body)


def _facs() -> bytes:
    return struct.pack("<4sIIIIIQB", b"FACS", 64, 0, 0, 0, 0, 0, 1).ljust(64, b"\0")


def _madt(vcpus: int, online: int) -> bytes:
    # 128 vCPUs have IDs up to 254, which local APIC entries can hold: no x2APIC entries.
    entries = []
    for vcpu in range(vcpus):
        flags = _LAPIC_ENABLED if vcpu < online else 0
        entries.append(struct.pack("<BBBBI", 0, LAPIC_ENTRY_SIZE, vcpu, lapic_id(vcpu), flags))
    head = struct.pack("<II", LAPIC_BASE_ADDRESS, _MADT_PCAT_COMPAT)
    return _table(b"APIC", 2, head + b"".join(entries))


class _Arena:
    """Memory for tables, handed out from `base` on; `at` is the first free byte."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.at = base
        self.data = bytearray()
        self.directory: list[tuple[str, int, int]] = []

    def reserve(self, size: int, align: int = 16) -> int:
        start = (self.at + align - 1) & ~(align - 1)
        self.at = start + size
        self.data.extend(bytes(self.at - self.base - len(self.data)))
        return start

    def put(self, table: bytes, at: int) -> None:
        self.directory.append((table[:4].decode("ascii"), at, len(table)))
        self.data[at - self.base : at - self.base + len(table)] = table

    def add(self, table: bytes, align: int = 16) -> int:
        at = self.reserve(len(table), align)
        self.put(table, at)
        return at


def build_tables(
    vcpus: int, online: int | None = None, *, low_rsdp: bool = False, processors: int | None = None
) -> AcpiTables:
    """All tables for `vcpus` vCPUs (1 to 128), the first `online` of them enabled (default all).

    `low_rsdp` puts the RSDP below 1 MiB.  `processors`: how many the DSDT describes (default:
    `vcpus`; Xen's own tools: 128).  Raises ValueError for other numbers.
    """
    online = vcpus if online is None else online
    processors = vcpus if processors is None else processors
    if not 1 <= online <= vcpus <= processors <= HVM_MAX_VCPUS:
        raise ValueError(f"{online} of {vcpus} vCPUs, {processors} processors")
    arena = _Arena(ACPI_INFO_ADDRESS + PAGE_SIZE)
    facs = arena.add(_facs(), 64)
    dsdt = arena.add(_table(b"DSDT", 5, dsdt_body(processors), _AML_CREATOR))
    fadt1 = arena.add(_fadt(facs, dsdt, 1))
    fadt = arena.add(_fadt(facs, dsdt, 5))
    # libacpi keeps room for 16 interrupt overrides and an I/O APIC, which PVH guests lack.
    table = _madt(vcpus, online)
    madt = arena.reserve(len(table) + 16 * 10 + 12)
    arena.put(table, madt)
    xsdt = arena.add(_table(b"XSDT", 1, struct.pack("<QQ", fadt, madt)))
    rsdt = arena.add(_table(b"RSDT", 1, struct.pack("<II", fadt1, madt)))

    pages_end = page_up(arena.at)
    rsdp_address = LOW_RSDP_ADDRESS if low_rsdp else pages_end
    rsdp = struct.pack("<8sB6sBIIQB3s", b"RSD PTR ", 0, b"Xen", 2, rsdt, 36, xsdt, 0, b"")
    rsdp = checksummed(checksummed(rsdp, 8, 20), 32)
    # struct acpi_info: the device bits and PCI holes stay 0.
    info = struct.pack("<BBHIIIII", 0, 0, vcpus, 0, 0, madt + 9, madt + 44, 0)
    return AcpiTables(
        rsdp_address=rsdp_address,
        rsdp=rsdp.ljust(RSDP_SIZE, b"\0"),
        info=info.ljust(PAGE_SIZE, b"\0"),
        tables=bytes(arena.data).ljust(pages_end - arena.base, b"\0"),
        directory=(*arena.directory, ("RSDP", rsdp_address, 36)),
    )
