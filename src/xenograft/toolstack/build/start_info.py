# SPDX-License-Identifier: GPL-2.0-or-later
"""The start-of-day block of a PVH guest: `hvm_start_info` version 1 and all it points to.

Layouts: Xen's public/arch-x86/hvm/start_info.h.  The parts follow each other as libxenguest
places them (bootlate_hvm): start info, command line, module list, the modules' command lines,
memory map; each on an 8-byte boundary, all in one contiguous piece of guest memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from xenograft.abi.hvm.start_info import (
    XEN_HVM_START_MAGIC_VALUE,
    hvm_memmap_table_entry,
    hvm_modlist_entry,
    hvm_start_info,
)
from xenograft.toolstack.build.memory_map import E820Entry


class PlacedModule(msgspec.Struct, frozen=True):
    """A module that has its place: address and size in bytes, and its own command line."""

    paddr: int
    size: int
    cmdline: bytes = b""


def _padded(text: bytes) -> bytes:
    """A zero-terminated text that fills whole 8-byte units; nothing for no text."""
    return text.ljust((len(text) + 8) & ~7, b"\0") if text else b""


def start_info_size(cmdline: bytes, modules: Sequence[bytes], entries: int) -> int:
    """Bytes that the block takes; `modules` are the modules' command lines."""
    texts = sum(len(_padded(text)) for text in (cmdline, *modules))
    lists = len(modules) * hvm_modlist_entry.sizeof() + entries * hvm_memmap_table_entry.sizeof()
    return hvm_start_info.sizeof() + texts + lists


def start_info_block(
    address: int,
    cmdline: bytes,
    modules: Sequence[PlacedModule],
    rsdp_paddr: int,
    e820: Sequence[E820Entry],
) -> bytes:
    """The block for the guest-physical `address`; texts are bytes without a terminating zero."""
    cmdline_at = address + hvm_start_info.sizeof()
    modlist_at = cmdline_at + len(_padded(cmdline))
    texts_at = modlist_at + len(modules) * hvm_modlist_entry.sizeof()
    modlist = b""
    texts = b""
    for module in modules:
        text_at = texts_at + len(texts) if module.cmdline else 0
        entry = hvm_modlist_entry(paddr=module.paddr, size=module.size, cmdline_paddr=text_at)
        modlist += entry.pack()
        texts += _padded(module.cmdline)
    memmap_at = texts_at + len(texts)
    head = hvm_start_info(
        magic=XEN_HVM_START_MAGIC_VALUE,
        version=1,
        nr_modules=len(modules),
        modlist_paddr=modlist_at if modules else 0,
        cmdline_paddr=cmdline_at if cmdline else 0,
        rsdp_paddr=rsdp_paddr,
        memmap_paddr=memmap_at,
        memmap_entries=len(e820),
    ).pack()
    memmap = b"".join(
        hvm_memmap_table_entry(addr=item.addr, size=item.size, type=item.type).pack()
        for item in e820
    )
    return head + _padded(cmdline) + modlist + texts + memmap
