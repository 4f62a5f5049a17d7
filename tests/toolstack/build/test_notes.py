# SPDX-License-Identifier: GPL-2.0-or-later
"""Xen's ELF notes: what they decode to, and which guest kinds they allow."""

from __future__ import annotations

import pytest

from tests.toolstack.build.support import LINUX_NOTES, Note, elf, linux, note
from xenograft.abi.elfnote import XEN_ELFNOTE_NAMES
from xenograft.abi.features import XENFEAT_NAMES
from xenograft.toolstack.build import notes as module
from xenograft.toolstack.build.elf import parse_elf
from xenograft.toolstack.build.notes import (
    XenNotes,
    decode_notes,
    require_pvh,
    supported_kinds,
)
from xenograft.toolstack.errors import UserError


def decode(notes: list[Note] | tuple[Note, ...], **options: object) -> XenNotes:
    return decode_notes(parse_elf(elf(notes=notes, **options)), "k")  # type: ignore[arg-type]


def test_linux() -> None:
    notes = decode(LINUX_NOTES)
    assert notes.values == {
        "GUEST_OS": "linux",
        "GUEST_VERSION": "2.6",
        "XEN_VERSION": "xen-3.0",
        "VIRT_BASE": 0xFFFFFFFF80000000,
        "ENTRY": 0xFFFFFFFF810000C0,
        "FEATURES": "!writable_page_tables|pae_pgdir_above_4gb",
        "SUPPORTED_FEATURES": 0x8801,
        "PAE_MODE": "yes",
        "LOADER": "generic",
        "L1_MFN_VALID": (1, 1),
        "SUSPEND_CANCEL": 1,
        "MOD_START_PFN": 1,
        "PHYS32_ENTRY": 0x1000040,
    }
    assert notes.supported == {
        "writable_page_tables",
        "pae_pgdir_above_4gb",
        "dom0",
        "linux_rsdp_unrestricted",
    }
    assert notes.required == {"writable_page_tables"}
    assert notes.phys32_entry == 0x1000040
    assert notes.number("GUEST_OS") is None
    assert notes.text("PHYS32_ENTRY") == ""


def test_every_note_of_the_header_has_a_type() -> None:
    kinds = module._STRINGS | module._NUMBERS | module._LISTS
    wanted = {k: n.removeprefix("XEN_ELFNOTE_") for k, n in XEN_ELFNOTE_NAMES.items() if k < 0x100}
    assert kinds == wanted


def test_every_feature_that_may_be_named_exists() -> None:
    names = {name.removeprefix("XENFEAT_") for name in XENFEAT_NAMES.values()}
    assert names >= module._NAMEABLE


def test_last_of_equal_notes_counts_and_others_are_left_alone() -> None:
    notes = decode([note(18, 1), note(18, 2), note(18, 3, owner="GNU"), note(999, b"\xab\xcd")])
    assert notes.values == {"PHYS32_ENTRY": 2, "999": "abcd"}


def test_numbers_of_odd_sizes_are_zero() -> None:
    assert decode([note(1, b"\1\2")]).values == {"ENTRY": 0}


def test_lists_of_32_bit_kernels() -> None:
    notes = decode([note(13, bytes.fromhex("0100000002000000"))], bits=32)
    assert notes.values == {"L1_MFN_VALID": (1, 2)}


def test_unknown_features_are_fine_unless_required() -> None:
    assert decode([note(10, "novel|dom0")]).supported == {"dom0"}
    with pytest.raises(UserError, match=r"k: requires the feature 'novel'"):
        decode([note(10, "!novel")])


def kinds_of(*notes: Note, **options: object) -> tuple[str, ...]:
    parsed = parse_elf(elf(notes=notes, **options))  # type: ignore[arg-type]
    return supported_kinds(parsed, decode_notes(parsed))


def test_supported_kinds() -> None:
    pv = (note(8, "generic"), note(5, "xen-3.0"))
    assert kinds_of(*LINUX_NOTES) == ("pv", "pvh")
    assert kinds_of(*pv) == ("pv",)
    assert kinds_of(note(6, "linux-x"), note(5, "xen-3.0")) == ("pv",)
    assert kinds_of(note(18, 0x100000)) == ("pvh",)
    assert kinds_of(note(8, "generic"), note(5, "xen-2.0")) == ()
    assert kinds_of() == ()
    assert kinds_of(sections=[(b"__xen_guest", 1, b"LOADER=generic\0")]) == ("pv",)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (elf(notes=LINUX_NOTES[:-1]), r"it supports pv \(64-bit\); use --type pv"),
        (elf(notes=LINUX_NOTES[:-1], bits=32), r"it supports pv \(32-bit\)"),
        (elf(notes=[]), "it has no notes for Xen at all; use a kernel with PVH support"),
        (elf(notes=[note(9, "yes")]), "its notes for Xen name no entry"),
        (
            elf(notes=[], sections=[(b"__xen_guest", 1, b"LOADER=generic\0")]),
            "only a legacy __xen_guest section",
        ),
        (elf(notes=[note(18, 0x100000), note(10, "!dom0")]), "runs only as the control domain"),
        (elf(notes=[note(18, 0x5)]), r"entry 0x5 lies outside the kernel \(0x100000"),
        (elf(notes=[note(18, 1 << 40, 8)]), "lies outside the kernel"),
    ],
)
def test_kernels_that_are_not_pvh(image: bytes, says: str) -> None:
    parsed = parse_elf(image)
    with pytest.raises(UserError, match=says) as caught:
        require_pvh(parsed, decode_notes(parsed), "vmlinuz")
    assert str(caught.value).startswith("vmlinuz: ")


def test_pvh_entry() -> None:
    parsed = parse_elf(linux())
    assert require_pvh(parsed, decode_notes(parsed)) == 0x1000040
