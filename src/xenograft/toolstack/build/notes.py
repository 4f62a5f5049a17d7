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


class PvNotes(msgspec.Struct, frozen=True):
    """What a PV kernel asks of its builder, with the defaults filled in (addresses)."""

    virt_base: int
    entry: int
    paddr_offset: int
    hypercall_page: int | None
    p2m_base: int | None
    """Where the p2m list is to be mapped, if outside of the initial mapping."""
    module_unmapped: bool
    """The ramdisk needs no mapping: the kernel takes its frame number."""
    pae_extended_cr3: bool


def _legacy_notes(text: str) -> dict[str, str]:
    """`__xen_guest`: KEY=value pairs with commas between."""
    pairs = (item.partition("=") for item in text.split(",") if item)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _legacy(elf: Elf, name: str) -> PvNotes:
    values = _legacy_notes(elf.xen_guest or "")

    def number(key: str) -> int | None:
        try:
            return int(values[key], 0) if key in values else None
        except ValueError:
            raise UserError(f"{name}: __xen_guest says {key}={values[key]}, no number") from None

    base = number("VIRT_BASE") or 0
    offset = number("ELF_PADDR_OFFSET")
    page = number("HYPERCALL_PAGE")
    entry = number("VIRT_ENTRY")
    return PvNotes(
        virt_base=base,
        entry=elf.entry if entry is None else entry,
        paddr_offset=base if offset is None else offset,
        hypercall_page=None if page is None else base + (page << 12),
        p2m_base=None,
        module_unmapped=False,
        pae_extended_cr3="PAE" in values and "extended-cr3" in values["PAE"],
    )


def require_pv(elf: Elf, notes: XenNotes, name: str = "kernel") -> PvNotes:
    """What a kernel asks for as a PV guest, checked to be in what is loaded.

    Raises UserError, saying which kinds the kernel supports, if it can't run as PV.
    """
    kinds = supported_kinds(elf, notes)
    if "pv" not in kinds:
        has = f"it supports {', '.join(kinds)}" if kinds else "it has no notes for Xen that say so"
        advice = "use --type pvh, or" if "pvh" in kinds else "use"
        raise UserError(
            f"{name}: no PV kernel: {has}; {advice} a kernel with PV support (Linux: CONFIG_XEN_PV)"
        )
    if "dom0" in notes.required:
        raise UserError(f"{name}: runs only as the control domain (it requires the feature dom0)")
    if not notes.values:
        found = _legacy(elf, name)
    else:
        base, entry = notes.number("VIRT_BASE") or 0, notes.number("ENTRY")
        p2m_base = notes.number("INIT_P2M")
        # Only an address below the kernel's own lies outside of the initial mapping.
        if p2m_base is not None and (p2m_base >= base or p2m_base & 0xFFF or elf.machine == EM_386):
            p2m_base = None
        page = notes.number("HYPERCALL_PAGE")
        found = PvNotes(
            virt_base=base,
            entry=elf.entry if entry is None else entry,
            paddr_offset=notes.number("PADDR_OFFSET") or 0,
            hypercall_page=page,
            p2m_base=p2m_base,
            module_unmapped=bool(notes.number("MOD_START_PFN")),
            pae_extended_cr3="pae_pgdir_above_4gb" in notes.supported
            or "extended-cr3" in notes.text("PAE_MODE"),
        )
    start = elf.start - found.paddr_offset + found.virt_base
    end = elf.end - found.paddr_offset + found.virt_base
    limit = 1 << 32 if elf.machine == EM_386 else 1 << 64
    if found.virt_base % 4096 or not 0 <= start <= end <= limit or elf.start < found.paddr_offset:
        raise UserError(f"{name}: its notes place it at {start:#x}, where nothing can be")
    for what, address in (("entry", found.entry), ("hypercall page", found.hypercall_page)):
        if address is not None and not start <= address <= end:
            raise UserError(
                f"{name}: the PV {what} {address:#x} lies outside the kernel ({start:#x} to"
                f" {end:#x}); the file is damaged"
            )
    return found
