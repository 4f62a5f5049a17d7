# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's kernels and GRUB as PV guests, from `xg run` to their power-off."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_play import xg
from xenograft.cli.status import OK
from xenograft.toolstack.images.initrd import MARKER

Image = Callable[[str], Path]

DECIDED_BY_XEN = (
    "ACPI in unprivileged domain disabled",
    "Released 0 page(s)",
    "Xen: [mem 0x0000000000000000-0x000000000009ffff] usable",
    "Xen: [mem 0x00000000000a0000-0x00000000000fffff] reserved",
    "Xen: [mem 0x0000000000100000-0x0000000017ffffff] usable",
    "Hypervisor detected: Xen PV",
    "last_pfn = 0x18000 max_arch_pfn = 0x400000000",
    "x86/PAT: Configuration [0-7]: WB  WT  UC- UC  WC  WP  UC  UC  ",
    "Remapped 0 page(s)",
    "Booting kernel on Xen",
    "Xen version: 4.17.7 (preserve-AD)",
    "Using NULL legacy PIC",
    "xen:events: Using FIFO-based ABI",
    "installing Xen timer for CPU 0",
    "VPMU disabled by hypervisor.",
    "xen:grant_table: Grant tables using version 1 layout",
    "ACPI: Interpreter disabled.",
    "PCI: System does not support PCI",
    "clocksource: Switched to clocksource xen",
    "hugetlbfs: disabling because there are no supported hugepage sizes",
    "x86/mm: Checked W+X mappings: passed, no W+X pages found.",
)
"""What the log of the same kernel says in a PV guest of a real Xen 4.17 (with 384 MiB)."""


@pytest.mark.parametrize("kernel", ["debian-cloud", "debian"])
@pytest.mark.parametrize("vcpus", [1, 4])
def test_boots_as_a_pv_guest(image: Image, kernel: str, vcpus: int) -> None:
    done = xg(
        *("run", "--type", "pv", "--vcpus", str(vcpus), "--memory", "384M"),
        *("--kernel", str(image(kernel)), "--ramdisk", str(image("demo-initrd"))),
        *("--timeout", "200"),
        typed=b"cat /sys/hypervisor/guest_type; cat /sys/hypervisor/properties/features\n",
    )
    assert done.returncode == OK, done.stdout[-2000:]
    text = done.stdout.decode(errors="replace")
    lines = {re.sub(r"^\[ *\d+\.\d+\] ", "", line) for line in text.split("\r\n")}
    assert set(DECIDED_BY_XEN) <= lines
    assert MARKER in text
    assert re.search(rf"smp: Brought up \d node.*, {vcpus} CPU", text)
    assert {"PV", "000220f0"} <= lines
    assert not re.search(r"(?i)xen.*fail|BUG:|WARNING:|unchecked MSR|Call Trace", text)
    # The ramdisk lies behind the initial mapping, at a multiple of its 4 MiB.
    assert re.search(r"RAMDISK: \[mem 0x[0-9a-f]+[048c]00000-", text)


@pytest.mark.parametrize("kernel", ["grub-pv64", "grub-pv32"])
def test_grub_as_a_pv_guest(image: Image, kernel: str) -> None:
    """GRUB's own PV binaries, 64-bit and 32-bit PAE, to their prompt and to a power-off."""
    done = xg(
        *("run", "--type", "pv", "--kernel", str(image(kernel)), "--timeout", "100"),
        typed=b"ls\nhalt\n",
    )
    assert done.returncode == OK, done.stdout[-2000:]
    assert b"GNU GRUB" in done.stdout
    assert b"(memdisk)" in done.stdout
