# SPDX-License-Identifier: GPL-2.0-or-later
"""The ACPI tables: where a real Xen 4.17 put them, what they say, and that iasl accepts them."""

from __future__ import annotations

import shutil
import struct
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenograft.toolstack.build.acpi.dsdt import dsdt_body
from xenograft.toolstack.build.acpi.tables import (
    AcpiTables,
    build_tables,
    checksummed,
    lapic_id,
)
from xenograft.toolstack.build.memory_map import ACPI_INFO_ADDRESS


class Memory:
    """The guest's view of the tables."""

    def __init__(self, acpi: AcpiTables) -> None:
        self.parts = (
            (ACPI_INFO_ADDRESS, acpi.info),
            (ACPI_INFO_ADDRESS + 0x1000, acpi.tables),
            (acpi.rsdp_address, acpi.rsdp),
        )

    def read(self, address: int, size: int) -> bytes:
        for base, data in self.parts:
            if base <= address and address + size <= base + len(data):
                return data[address - base : address - base + size]
        raise AssertionError(f"nothing at {address:#x}")

    def table(self, address: int, signature: bytes) -> bytes:
        """A table with sound header and checksum."""
        head = self.read(address, 8)
        assert head[:4] == signature
        table = self.read(address, int.from_bytes(head[4:], "little"))
        if signature != b"FACS":
            assert sum(table) % 256 == 0
            assert table[10:16] == b"Xen\0\0\0"
        return table


def walk(acpi: AcpiTables) -> dict[str, bytes]:
    """All tables, found as a guest finds them: from the RSDP on."""
    memory = Memory(acpi)
    rsdp = memory.read(acpi.rsdp_address, 36)
    assert rsdp[:8] == b"RSD PTR "
    assert sum(rsdp[:20]) % 256 == 0
    assert sum(rsdp) % 256 == 0
    revision, rsdt_at, length, xsdt_at = struct.unpack_from("<BIIQ", rsdp, 15)
    assert (revision, length) == (2, 36)
    xsdt = memory.table(xsdt_at, b"XSDT")
    rsdt = memory.table(rsdt_at, b"RSDT")
    fadt_at, madt_at = struct.unpack("<QQ", xsdt[36:])
    old_fadt_at, madt_too = struct.unpack("<II", rsdt[36:])
    assert madt_at == madt_too
    fadt = memory.table(fadt_at, b"FACP")
    old_fadt = memory.table(old_fadt_at, b"FACP")
    facs_at, dsdt_at = struct.unpack_from("<II", fadt, 36)
    assert struct.unpack_from("<QQ", fadt, 132) == (facs_at, dsdt_at)
    assert struct.unpack_from("<II", old_fadt, 36) == (facs_at, dsdt_at)
    assert facs_at % 64 == 0
    return {
        "FACP": fadt,
        "old FACP": old_fadt,
        "APIC": memory.table(madt_at, b"APIC"),
        "DSDT": memory.table(dsdt_at, b"DSDT"),
        "FACS": memory.table(facs_at, b"FACS"),
    }


def test_places_are_those_of_a_real_xen() -> None:
    # From the log of a PVH guest with 1 vCPU on Xen 4.17 ("ACPI: RSDP 0x00000000FC008000 000024
    # (v02 Xen)" and so on), where the DSDT describes 128 processors.
    acpi = build_tables(1, processors=128)
    assert {(name, at, size) for name, at, size in acpi.directory} >= {
        ("RSDP", 0xFC008000, 0x24),
        ("XSDT", 0xFC007F50, 0x34),
        ("FACP", 0xFC007D60, 0x10C),
        ("DSDT", 0xFC001040, 0x6C9B),
        ("FACS", 0xFC001000, 0x40),
        ("APIC", 0xFC007E70, 0x34),
    }
    assert acpi.modules == (
        (0xFC008000, 64),
        (0xFC000000, 0x1000),
        (0xFC001000, 0x7000),
    )
    walk(acpi)


def test_fadt() -> None:
    tables = walk(build_tables(2))
    fadt = tables["FACP"]
    assert (len(fadt), fadt[8]) == (268, 5)
    assert struct.unpack_from("<H", fadt, 46) == (9,)  # SCI
    assert struct.unpack_from("<II", fadt, 56) == (0xB000, 0)  # PM1a and PM1b events
    assert struct.unpack_from("<I", fadt, 76) == (0,)  # no PM timer
    assert fadt[91] == 0
    boot, flags = struct.unpack_from("<HxI", fadt, 109)
    assert boot == 0x24  # no VGA, no CMOS clock; no 8042, no legacy devices
    assert flags == 0x8175
    assert not flags >> 20 & 1  # not "hardware-reduced"
    assert (len(tables["old FACP"]), tables["old FACP"][8]) == (116, 1)
    assert (tables["FACS"][4:8], tables["FACS"][32]) == (b"\x40\0\0\0", 1)


@given(st.integers(1, 128), st.data())
def test_madt_and_information_page(vcpus: int, data: st.DataObject) -> None:
    online = data.draw(st.integers(1, vcpus))
    acpi = build_tables(vcpus, online)
    madt = walk(acpi)["APIC"]
    assert struct.unpack_from("<II", madt, 36) == (0xFEE00000, 1)
    entries = list(struct.iter_unpack("<BBBBI", madt[44:]))
    assert entries == [(0, 8, v, 2 * v, int(v < online)) for v in range(vcpus)]
    assert [entry[3] for entry in entries] == [lapic_id(v) for v in range(vcpus)]
    # What the DSDT's fields read from the information page.
    devices, count, checksum_at, entries_at = struct.unpack_from("<BxHxxxxxxxxII", acpi.info)
    assert (devices, count) == (0, vcpus)
    memory = Memory(acpi)
    assert memory.read(checksum_at, 1) == madt[9:10]
    assert memory.read(entries_at, 8 * vcpus) == madt[44:]
    assert len(acpi.tables) % 4096 == 0
    assert len(acpi.tables) <= 16 * 4096  # NUM_ACPI_PAGES of libxl
    assert acpi.rsdp_address == 0xFC001000 + len(acpi.tables)


def test_tables_do_not_overlap() -> None:
    # A table that ends right before a 16-byte boundary, and one that ends right after it.
    for vcpus in range(1, 129):
        extents = sorted((at, at + size) for _, at, size in build_tables(vcpus).directory)
        assert all(low[1] <= high[0] for low, high in pairwise(extents))


def test_low_rsdp() -> None:
    acpi = build_tables(1, low_rsdp=True)
    assert acpi.rsdp_address == 0xFFFC0
    assert len(acpi.rsdp) == 64
    walk(acpi)


@pytest.mark.parametrize(("vcpus", "online"), [(0, 0), (129, 1), (2, 3), (1, 0)])
def test_bad_numbers(vcpus: int, online: int) -> None:
    with pytest.raises(ValueError, match="vCPUs"):
        build_tables(vcpus, online)
    with pytest.raises(ValueError, match="vCPUs"):
        dsdt_body(0)


@given(st.binary(min_size=10, max_size=64))
def test_checksummed(table: bytes) -> None:
    done = checksummed(table)
    assert sum(done) % 256 == 0
    assert (done[:9], done[10:]) == (table[:9], table[10:])


def iasl(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit status and all output."""
    run = subprocess.run(["iasl", *arguments], cwd=folder, capture_output=True, text=True)
    return run.returncode, run.stdout + run.stderr


@pytest.mark.skipif(shutil.which("iasl") is None, reason="iasl (acpica-tools) isn't installed")
@pytest.mark.parametrize("vcpus", [1, 4, 32, 128])
def test_iasl_accepts_the_tables(vcpus: int, tmp_path: Path) -> None:
    for name, table in walk(build_tables(vcpus)).items():
        file = tmp_path / f"{name.replace(' ', '-')}.dat"
        file.write_bytes(table)
        status, output = iasl(tmp_path, "-d", file.name)
        assert status == 0, output
        for word in ("Error", "Warning", "invalid", "Incorrect checksum"):
            assert word not in output, output
    assert (tmp_path / "DSDT.dsl").read_text().count("Processor (PR") == vcpus
    # Compiled again, the disassembly gives the same bytes after the header.
    status, output = iasl(tmp_path, "-p", "again", "DSDT.dsl")
    assert status == 0, output
    assert (tmp_path / "again.aml").read_bytes()[36:] == dsdt_body(vcpus)
