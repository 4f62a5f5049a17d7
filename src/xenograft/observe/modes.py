# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of guest modes: what each kind of guest is given, and by what means.

Xen's own documents call this the virtualization spectrum: from a guest for which everything is
paravirtual to one that believes itself on a real PC.  The table is declared here once, and
`xg modes` prints it.  Each cell of a kind that Xenograft runs names the test that asserts it from
inside a guest (`guests/modes/`); kinds that don't run are listed for comparison, and marked.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["GUEST_TESTS", "KINDS", "Cell", "Kind", "Means", "Row", "kind", "records"]

GUEST_TESTS = ("modes-64", "modes-pae", "modes_pv-pv64")
"""The guests that hold the tests: PVH in long mode and in 32-bit PAE, and PV."""


class Row(Enum):
    """What a machine gives to its kernel; the value is the row's title."""

    io_devices = "I/O devices"
    legacy_devices = "legacy devices"
    privileged_instructions = "privileged instructions"
    system_configuration = "system configuration"
    kernel_entry = "kernel entry"


class Means(Enum):
    """By what means."""

    paravirtual = "paravirtual"
    """An interface of Xen's own, that the kernel knows."""
    hardware = "hardware"
    """As on the bare processor."""
    emulated = "emulated"
    """A well-known device, imitated."""
    mixed = "mixed"
    """Some of these side by side."""
    none = "none"


@dataclass(frozen=True, slots=True)
class Cell:
    """One row of one kind: the means, and what that is in detail."""

    means: Means
    detail: str


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of guest: the name that `--type` takes, and its cells."""

    name: str
    title: str
    implemented: bool
    cells: dict[Row, Cell]

    def test(self, row: Row) -> str | None:
        """The name of the guest's test that asserts the cell; None if there is none."""
        return f"{self.name}_{row.name}" if self.implemented else None


KINDS: tuple[Kind, ...] = (
    Kind(
        "pv",
        "PV",
        True,
        {
            Row.io_devices: Cell(Means.paravirtual, "split drivers over rings and events"),
            Row.legacy_devices: Cell(
                Means.none, "event channels for interrupts, Xen's timer and clock"
            ),
            Row.privileged_instructions: Cell(
                Means.paravirtual, "the kernel runs unprivileged; page tables by hypercall"
            ),
            Row.system_configuration: Cell(Means.paravirtual, "start info page and xenstore"),
            Row.kernel_entry: Cell(
                Means.paravirtual, "the kernel's PV entry point, paging already on"
            ),
        },
    ),
    Kind(
        "pvh",
        "PVH",
        True,
        {
            Row.io_devices: Cell(
                Means.paravirtual, "split drivers over rings and events; no PCI bus"
            ),
            Row.legacy_devices: Cell(
                Means.none, "a local APIC alone: no PIC, PIT, HPET, RTC, 8042, VGA or I/O APIC"
            ),
            Row.privileged_instructions: Cell(
                Means.hardware, "ring 0 with its own page tables, IDT and control registers"
            ),
            Row.system_configuration: Cell(
                Means.mixed, "ACPI tables, with Xen's CPUID leaves and hypercalls beside them"
            ),
            Row.kernel_entry: Cell(
                Means.paravirtual, "the PVH entry point: 32-bit mode, paging off, start info"
            ),
        },
    ),
    Kind(
        "hvm",
        "HVM",
        False,
        {
            Row.io_devices: Cell(
                Means.emulated, "PC disks, network and display; split drivers on demand"
            ),
            Row.legacy_devices: Cell(
                Means.emulated, "all of a PC: PIC, PIT, HPET, RTC, I/O APIC, 8042"
            ),
            Row.privileged_instructions: Cell(Means.hardware, "as on the bare processor"),
            Row.system_configuration: Cell(
                Means.emulated, "firmware tables (ACPI, SMBIOS); Xen's own on demand"
            ),
            Row.kernel_entry: Cell(Means.emulated, "firmware from the reset vector, a boot loader"),
        },
    ),
)


def kind(name: str) -> Kind:
    """The kind called `name`; raises KeyError."""
    for each in KINDS:
        if each.name == name:
            return each
    raise KeyError(name)


def records() -> list[dict[str, str | bool | None]]:
    """The table as flat records (one per cell), as ``xg modes --json`` prints it."""
    return [
        {
            "kind": each.name,
            "row": row.name,
            "title": row.value,
            "means": each.cells[row].means.value,
            "detail": each.cells[row].detail,
            "implemented": each.implemented,
            "test": each.test(row),
        }
        for each in KINDS
        for row in Row
    ]
