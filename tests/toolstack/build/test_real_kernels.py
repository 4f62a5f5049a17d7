# SPDX-License-Identifier: GPL-2.0-or-later
"""Real kernels through the builder: those in the image cache, and the host's own."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from tests.toolstack.build.test_pvh import check
from xenograft.toolstack.build.pvh import Module, build_pvh
from xenograft.toolstack.images.cache import ImageCache, host_kernels


def kernels() -> list[Path]:
    """Kernels at hand; nothing is fetched."""
    cached = (ImageCache().cached(name) for name in ("debian-cloud", "debian", "grub-pvh"))
    found = [image.path for image in cached if image is not None]
    return [path for path in (*found, *host_kernels()) if path.is_file()]


@pytest.mark.parametrize("path", kernels() or [None], ids=lambda path: path and path.name)
def test_kernel(path: Path | None) -> None:
    if path is None:
        pytest.skip("no kernel at hand: `xg image get debian-cloud` fetches one")
    guest = build_pvh(
        path.read_bytes(),
        memory=256 << 20,
        modules=[Module(b"\x01" * 0x213000)],
        cmdline="console=hvc0",
        name=path.name,
    )
    info = check(guest)
    assert [size for _, data, _ in info.modules if (size := len(data))] == [0x213000]
    assert "pvh" in guest.kernel.kinds
    reference = ELFFile(io.BytesIO(bytes(guest.kernel.image)))
    loads = [s for s in reference.iter_segments("PT_LOAD") if s["p_filesz"]]
    assert {s["p_paddr"]: s.data() for s in loads} == {
        load.gpa: bytes(load.data) for load in guest.loads if load.what == "kernel"
    }
    if guest.kernel.notes.text("GUEST_OS") == "linux":
        # The start info follows the kernel, the ramdisk the start info, as a real Xen does it.
        end = max(s["p_paddr"] + s["p_memsz"] for s in loads) + 0xFFF & ~0xFFF
        assert guest.start_info == end
        assert info.modules[0][0] == end + 0x1000
        assert guest.acpi.rsdp_address > 0xFC000000
