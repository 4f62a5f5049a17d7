# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kernel says about itself to Xen: its ELF notes, decoded.

Source: Xen's public/elfnote.h (numbers, types) and features.h (feature bits); which features a
kernel may name in XEN_ELFNOTE_FEATURES, and what makes a kernel loadable as PV or PVH, is as
in Xen 4.17's libelf (elf_xen_parse_features, elf_xen_note_check).
"""

from __future__ import annotations

import msgspec

from xenograft.abi.elfnote import (
    XEN_ELFNOTE_BSD_SYMTAB,
    XEN_ELFNOTE_ENTRY,
    XEN_ELFNOTE_FEATURES,
    XEN_ELFNOTE_GUEST_OS,
    XEN_ELFNOTE_GUEST_VERSION,
    XEN_ELFNOTE_HV_START_LOW,
    XEN_ELFNOTE_HYPERCALL_PAGE,
    XEN_ELFNOTE_INFO,
    XEN_ELFNOTE_INIT_P2M,
    XEN_ELFNOTE_L1_MFN_VALID,
    XEN_ELFNOTE_LOADER,
    XEN_ELFNOTE_MOD_START_PFN,
    XEN_ELFNOTE_PADDR_OFFSET,
    XEN_ELFNOTE_PAE_MODE,
    XEN_ELFNOTE_PHYS32_ENTRY,
    XEN_ELFNOTE_SUPPORTED_FEATURES,
    XEN_ELFNOTE_SUSPEND_CANCEL,
    XEN_ELFNOTE_VIRT_BASE,
    XEN_ELFNOTE_XEN_VERSION,
)
from xenograft.abi.features import XENFEAT_NAMES
from xenograft.toolstack.build.elf import EM_386, Elf
from xenograft.toolstack.errors import UserError

_STRINGS = {
    XEN_ELFNOTE_INFO: "INFO",
    XEN_ELFNOTE_XEN_VERSION: "XEN_VERSION",
    XEN_ELFNOTE_GUEST_OS: "GUEST_OS",
    XEN_ELFNOTE_GUEST_VERSION: "GUEST_VERSION",
    XEN_ELFNOTE_LOADER: "LOADER",
    XEN_ELFNOTE_PAE_MODE: "PAE_MODE",
    XEN_ELFNOTE_FEATURES: "FEATURES",
    XEN_ELFNOTE_BSD_SYMTAB: "BSD_SYMTAB",
}
_NUMBERS = {
    XEN_ELFNOTE_ENTRY: "ENTRY",
    XEN_ELFNOTE_HYPERCALL_PAGE: "HYPERCALL_PAGE",
    XEN_ELFNOTE_VIRT_BASE: "VIRT_BASE",
    XEN_ELFNOTE_PADDR_OFFSET: "PADDR_OFFSET",
    XEN_ELFNOTE_HV_START_LOW: "HV_START_LOW",
    XEN_ELFNOTE_SUSPEND_CANCEL: "SUSPEND_CANCEL",
    XEN_ELFNOTE_INIT_P2M: "INIT_P2M",
    XEN_ELFNOTE_MOD_START_PFN: "MOD_START_PFN",
    XEN_ELFNOTE_SUPPORTED_FEATURES: "SUPPORTED_FEATURES",
    XEN_ELFNOTE_PHYS32_ENTRY: "PHYS32_ENTRY",
}
_LISTS = {XEN_ELFNOTE_L1_MFN_VALID: "L1_MFN_VALID"}

# The features that may be named in the string note.
_NAMEABLE = {
    "writable_page_tables",
    "writable_descriptor_tables",
    "auto_translated_physmap",
    "supervisor_mode_kernel",
    "pae_pgdir_above_4gb",
    "hvm_callback_vector",
    "dom0",
}

NoteValue = int | str | tuple[int, ...]


class XenNotes(msgspec.Struct, frozen=True):
    """The decoded notes of one kernel."""

    values: dict[str, NoteValue]
    """By name without prefix ("PHYS32_ENTRY": 0x1000850). Unknown ones as "18446" -> hex text."""
    supported: frozenset[str]
    """Feature names that the kernel supports."""
    required: frozenset[str]
    """Feature names without which it doesn't run."""

    def number(self, name: str) -> int | None:
        """A numeric note, None if absent."""
        value = self.values.get(name)
        return value if isinstance(value, int) else None

    def text(self, name: str) -> str:
        """A string note, "" if absent."""
        value = self.values.get(name)
        return value if isinstance(value, str) else ""

    @property
    def phys32_entry(self) -> int | None:
        """The 32-bit physical entry point, which makes a kernel a PVH kernel."""
        return self.number("PHYS32_ENTRY")


def decode_notes(elf: Elf, name: str = "kernel") -> XenNotes:
    """Decode the notes owned by "Xen"; of several with one number the last counts.

    Raises UserError if the kernel requires a feature that Xen 4.17 doesn't know.
    """
    values: dict[str, NoteValue] = {}
    supported: set[str] = set()
    required: set[str] = set()
    for note in elf.notes:
        if note.owner != "Xen":
            continue
        number = int.from_bytes(note.desc, "little") if len(note.desc) in (4, 8) else 0
        if note.type in _STRINGS:
            text = note.desc.split(b"\0")[0].decode("latin-1")
            values[_STRINGS[note.type]] = text
            if note.type == XEN_ELFNOTE_FEATURES:
                _features(text, supported, required, name)
        elif note.type in _NUMBERS:
            values[_NUMBERS[note.type]] = number
            if note.type == XEN_ELFNOTE_SUPPORTED_FEATURES:
                bits = int.from_bytes(note.desc[:4], "little")
                supported |= {
                    name_.removeprefix("XENFEAT_")
                    for bit, name_ in XENFEAT_NAMES.items()
                    if bits >> bit & 1
                }
        elif note.type in _LISTS:
            step = elf.bits // 8
            values[_LISTS[note.type]] = tuple(
                int.from_bytes(note.desc[at : at + step], "little")
                for at in range(0, len(note.desc) - step + 1, step)
            )
        else:
            values[str(note.type)] = note.desc[:16].hex()
    return XenNotes(values, frozenset(supported), frozenset(required))


def _features(text: str, supported: set[str], required: set[str], name: str) -> None:
    for feature in filter(None, text.split("|")):
        needed = feature.startswith("!")
        feature = feature.removeprefix("!")
        if feature in _NAMEABLE:
            supported.add(feature)
            if needed:
                required.add(feature)
        elif needed:
            raise UserError(
                f"{name}: requires the feature {feature!r}, which Xen 4.17 doesn't have"
            )


def supported_kinds(elf: Elf, notes: XenNotes) -> tuple[str, ...]:
    """Guest kinds that a kernel can run as by its notes: of "pv", "pvh"."""
    kinds = []
    generic = notes.text("LOADER").startswith("generic")
    linux = notes.text("GUEST_OS").startswith("linux")
    legacy = elf.xen_guest is not None and not notes.values
    if ((generic or linux) and notes.text("XEN_VERSION").startswith("xen-3.0")) or legacy:
        kinds.append("pv")
    if notes.phys32_entry is not None:
        kinds.append("pvh")
    return tuple(kinds)


def require_pvh(elf: Elf, notes: XenNotes, name: str = "kernel") -> int:
    """The PVH entry point of a kernel, checked to be in what is loaded.

    Raises UserError, saying which kinds the kernel supports, if it can't run as PVH.
    """
    entry = notes.phys32_entry
    if entry is None:
        kinds = supported_kinds(elf, notes)
        if elf.xen_guest is not None and not notes.values:
            has = "only a legacy __xen_guest section, which is for PV"
        elif kinds:
            width = "32" if elf.machine == EM_386 else "64"
            has = f"it supports {', '.join(kinds)} ({width}-bit)"
        elif notes.values:
            has = "its notes for Xen name no entry"
        else:
            has = "it has no notes for Xen at all"
        advice = "use --type pv, or" if kinds else "use"
        raise UserError(
            f"{name}: no PVH entry (note PHYS32_ENTRY): {has}; {advice} a kernel with PVH support"
            " (Linux: CONFIG_PVH)"
        )
    if "dom0" in notes.required:
        raise UserError(f"{name}: runs only as the control domain (it requires the feature dom0)")
    if not elf.start <= entry <= elf.end or entry >= 1 << 32:
        raise UserError(
            f"{name}: the PVH entry {entry:#x} lies outside the kernel"
            f" ({elf.start:#x} to {elf.end:#x}); the file is damaged"
        )
    return entry
