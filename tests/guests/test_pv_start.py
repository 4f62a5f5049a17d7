# SPDX-License-Identifier: GPL-2.0-or-later
"""What else a PV kernel may be handed, or may say of itself, at its start."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.guests.support import Report, read
from xenograft.toolstack.build.elf import parse_elf, read_symbols
from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.machine import Machine

Guest = Callable[[str], Path]


def run(kernel: Path, ramdisk: Path | None = None) -> Report:
    config = from_options(
        name="guest",
        type="pv",
        kernel=str(kernel),
        ramdisk=None if ramdisk is None else str(ramdisk),
        memory="16M",
    )
    with Machine(clock="virtual") as machine:
        guest = machine.create(config)
        guest.wait(timeout=30)
        return read(guest.console.output + machine.log)


def test_a_ramdisk_is_mapped(guest: Guest, tmp_path: Path) -> None:
    path = tmp_path / "ramdisk"
    path.write_bytes(b"ramdisk" + bytes(100_000) + b"end")
    report = run(guest("modes_pv-pv64"), path)
    assert report.complete
    assert not report.failed


def test_a_kernel_from_before_the_notes(guest: Guest, tmp_path: Path) -> None:
    """It has a section of text instead, `__xen_guest`."""
    image = guest("modes_pv-pv64").read_bytes()
    elf = parse_elf(image)
    symbols = {symbol.name: symbol.address for symbol in read_symbols(image, elf)}
    text = (
        "GUEST_OS=xenograft,XEN_VER=xen-3.0,LOADER=generic,VIRT_BASE=0,ELF_PADDR_OFFSET=0,"
        f"VIRT_ENTRY={symbols['_start']:#x},HYPERCALL_PAGE={symbols['hypercall_page'] >> 12:#x}"
    )
    section, kernel = tmp_path / "section", tmp_path / "kernel"
    section.write_bytes(text.encode() + b"\0")
    # The notes are turned into somebody else's: they're in the middle of what is loaded.
    old = tmp_path / "old"
    old.write_bytes(image.replace(b"Xen\0", b"Foo\0"))
    words = ("--add-section", f"__xen_guest={section}", str(old), str(kernel))
    subprocess.run(["objcopy", *words], check=True)
    report = run(kernel)
    assert report.complete
    assert not report.failed
