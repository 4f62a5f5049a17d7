# SPDX-License-Identifier: GPL-2.0-or-later
"""The PVH builder: a kernel's bytes in, a `BuiltGuest` out; nothing is read, nothing started.

The places of things are those of Xen 4.17's libxenguest (xc_dom_build_image): the kernel at the
physical addresses of its segments; then, page by page, the start info and the modules (first
the start info if the kernel accepts modules outside its initial mapping, as Linux does, last
otherwise); ACPI tables and special pages in the hole below 4 GiB.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from xenograft.toolstack.build.acpi.dsdt import HVM_MAX_VCPUS
from xenograft.toolstack.build.acpi.tables import LOW_RSDP_ADDRESS, RSDP_SIZE, build_tables
from xenograft.toolstack.build.decompress import (
    CorruptData,
    compression,
    decompress,
    gunzip_whole,
)
from xenograft.toolstack.build.elf import Buffer
from xenograft.toolstack.build.guest import BuiltGuest, Load
from xenograft.toolstack.build.kernel import Kernel, Unpacker, parse_kernel
from xenograft.toolstack.build.memory_map import (
    ACPI_INFO_ADDRESS,
    PAGE_SHIFT,
    PAGE_SIZE,
    SPECIAL_FIRST_GFN,
    SPECIAL_PAGES,
    SpecialPages,
    e820_map,
    identity_page_table,
    page_up,
    ram_ranges,
)
from xenograft.toolstack.build.notes import require_pvh
from xenograft.toolstack.build.start_info import PlacedModule, start_info_block, start_info_size
from xenograft.toolstack.errors import UserError

MAX_CMDLINE = 1 << 16
MAX_MODULES = 64


class Module(msgspec.Struct, frozen=True):
    """A file handed to the kernel; the first one is its ramdisk. `name` stands in messages."""

    data: Buffer
    cmdline: str = ""
    name: str = "ramdisk"


def _text(text: str, what: str) -> bytes:
    encoded = text.encode("utf-8", "surrogateescape")
    if b"\0" in encoded:
        raise UserError(f"{what}: a command line can't hold a NUL character")
    if len(encoded) > MAX_CMDLINE:
        raise UserError(f"{what}: a command line of {len(encoded)} bytes; {MAX_CMDLINE} at most")
    return encoded


def mib_up(size: int) -> int:
    """Whole MiB that hold `size` bytes."""
    return (size + (1 << 20) - 1) >> 20


def build_pvh(
    kernel: Buffer | Kernel,
    *,
    memory: int,
    modules: Sequence[Module] = (),
    cmdline: str = "",
    vcpus: int = 1,
    online: int | None = None,
    name: str = "kernel",
    unpack: Unpacker = decompress,
) -> BuiltGuest:
    """Build a PVH guest of `memory` bytes of RAM and `vcpus` vCPUs (`online` of them enabled).

    `kernel`: a file's bytes, or a parsed kernel; `name` stands for it in messages; `unpack`
    decompresses it (a `KernelCache`, say).  Raises UserError, one line, for whatever in the
    input can't become a guest.
    """
    online = vcpus if online is None else online
    if not 1 <= vcpus <= HVM_MAX_VCPUS or not 1 <= online <= vcpus:
        raise UserError(f"{online} of {vcpus} vCPUs online: a guest has 1 to {HVM_MAX_VCPUS}")
    if memory <= 0 or memory % PAGE_SIZE:
        raise UserError(f"memory of {memory} bytes: it has to be whole pages of {PAGE_SIZE} bytes")
    if len(modules) > MAX_MODULES:
        raise UserError(f"{len(modules)} modules; {MAX_MODULES} at most")
    if not isinstance(kernel, Kernel):
        kernel = parse_kernel(kernel, name, unpack)
    entry = require_pvh(kernel.elf, kernel.notes, kernel.name)
    acpi = build_tables(vcpus, online, low_rsdp=_low_rsdp(kernel))
    e820 = e820_map(memory, acpi.modules)

    ram = ram_ranges(memory)
    space = _Space(kernel, ram[0][1] << PAGE_SHIFT)
    texts = [_text(module.cmdline, module.name) for module in modules]
    line = _text(cmdline, kernel.name)
    size = start_info_size(line, texts, len(e820))
    start_info_first = bool(kernel.notes.number("MOD_START_PFN"))
    start_info = space.take("start info", size) if start_info_first else 0
    loads = kernel_loads(kernel)
    placed = []
    for module, text in zip(modules, texts, strict=True):
        data = module_data(module.data, space.left)
        at = space.take(module.name, len(data))
        placed.append(PlacedModule(at, len(data), text))
        loads.append(Load(at, data, module.name))
    if not start_info_first:
        start_info = space.take("start info", size)
    space.check()
    block = start_info_block(start_info, line, placed, acpi.rsdp_address, e820)
    special = SpecialPages()
    loads += [
        Load(start_info, block, "start info"),
        Load(acpi.rsdp_address, acpi.rsdp, "ACPI RSDP"),
        Load(ACPI_INFO_ADDRESS, acpi.info, "ACPI information page"),
        Load(ACPI_INFO_ADDRESS + PAGE_SIZE, acpi.tables, "ACPI tables"),
        Load(special.ident_pt << PAGE_SHIFT, identity_page_table(), "identity page table"),
    ]
    acpi_pages = 1 + len(acpi.tables) // PAGE_SIZE + (acpi.rsdp_address >= ACPI_INFO_ADDRESS)
    return BuiltGuest(
        kind="pvh",
        memory=memory,
        vcpus=vcpus,
        online=online,
        entry=entry,
        start_info=start_info,
        loads=tuple(loads),
        e820=e820,
        ram=ram,
        extra=(
            (ACPI_INFO_ADDRESS >> PAGE_SHIFT, acpi_pages),
            (SPECIAL_FIRST_GFN, SPECIAL_PAGES),
        ),
        special=special,
        acpi=acpi,
        kernel=kernel,
        cmdline=cmdline,
        required_memory=space.end,
    )


def _low_rsdp(kernel: Kernel) -> bool:
    """Whether the RSDP has to lie below 1 MiB (libxl__dom_load_acpi).

    Not if the kernel is down there, since then other things of ours may be too.
    """
    linux = kernel.notes.text("GUEST_OS") == "linux"
    free = kernel.elf.start >= LOW_RSDP_ADDRESS + RSDP_SIZE
    return linux and free and "linux_rsdp_unrestricted" not in kernel.notes.supported


def kernel_loads(kernel: Kernel) -> list[Load]:
    """The kernel's segments, at the physical addresses that its file says."""
    image = memoryview(kernel.image)
    return [
        Load(segment.paddr, image[segment.offset : segment.offset + segment.filesz], "kernel")
        for segment in kernel.elf.segments
        if segment.filesz
    ]


def module_data(data: Buffer, left: int) -> Buffer:
    """A module as the guest gets it: libxenguest unpacks what is gzip, and so do we.

    It stays packed if it isn't one sound gzip stream, or doesn't fit in `left` bytes plain.
    """
    if compression(data) != "gzip":
        return data
    try:
        return gunzip_whole(data, left)
    except CorruptData:
        return data  # the guest's own unpacker decides what it makes of it


class _Space:
    """Hands out pages above the kernel, and says what doesn't fit."""

    def __init__(self, kernel: Kernel, low_memory: int) -> None:
        self._memory = low_memory
        self._name = kernel.name
        self.end = page_up(kernel.elf.end)
        self._parts = [("kernel", self.end)]

    @property
    def left(self) -> int:
        """Bytes of RAM above what is placed; never negative."""
        return max(0, self._memory - self.end)

    def take(self, what: str, size: int) -> int:
        at = self.end
        self.end += page_up(size)
        self._parts.append((what, size))
        return at

    def check(self) -> None:
        """Raises UserError if what was placed doesn't fit in RAM."""
        if self.end <= self._memory:
            return
        have = f"{self._memory / (1 << 20):.6g} MiB of memory"
        need = mib_up(self.end)
        if need << 20 > 0xFC000000:
            raise UserError(
                f"{self._name}: its parts end at {self.end:#x}, but they have to lie below the"
                " hole at 0xfc000000; use a smaller kernel or ramdisk"
            )
        for what, size in self._parts[1:]:
            if size > self._memory:
                raise UserError(
                    f"{what}: {mib_up(size)} MiB don't fit in a guest with {have};"
                    f" give it more than {need} MiB (--memory)"
                )
        parts = " and ".join(what for what, _ in self._parts if what != "start info")
        raise UserError(
            f"{self._name}: {have} is too little: {parts} end at {need} MiB;"
            f" give more than {need} MiB (--memory)"
        )
