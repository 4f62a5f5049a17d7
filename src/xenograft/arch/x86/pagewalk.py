# SPDX-License-Identifier: GPL-2.0-or-later
"""A walk through a guest's page tables, step by step, with the reason for its end.

It serves crash reports, and as a reference model for the engine's own walker (Intel SDM
volume 3, chapter "Paging"; AMD APM volume 2, chapter 5).  It changes nothing: accessed and
dirty bits stay as they are.  4-level long mode, PAE and 32-bit paging with PSE are covered.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple

from xenograft.arch.x86.registers import is_canonical
from xenograft.engine.protocol import AccessError

PTE_P: Final = 1 << 0
PTE_W: Final = 1 << 1
PTE_U: Final = 1 << 2
PTE_A: Final = 1 << 5
PTE_D: Final = 1 << 6
PTE_PS: Final = 1 << 7
PTE_G: Final = 1 << 8
PTE_NX: Final = 1 << 63
ADDRESS_MASK: Final = 0x000FFFFFFFFFF000

# Error code of a page fault
PFEC_present: Final = 1 << 0
PFEC_write: Final = 1 << 1
PFEC_user: Final = 1 << 2
PFEC_reserved: Final = 1 << 3
PFEC_insn: Final = 1 << 4
PFEC_prot_key: Final = 1 << 5

CR0_WP: Final = 1 << 16
CR0_PG: Final = 1 << 31
CR4_PSE: Final = 1 << 4
CR4_PAE: Final = 1 << 5
CR4_SMEP: Final = 1 << 20
CR4_SMAP: Final = 1 << 21
CR4_PKE: Final = 1 << 22
EFER_LMA: Final = 1 << 10
EFER_NXE: Final = 1 << 11

MAXPHYSADDR: Final = 40
"""Width of physical addresses that our CPUID shows (and the engine uses)."""


class Access(Enum):
    """What the memory access that is translated does."""

    READ = 0
    WRITE = PFEC_write
    FETCH = PFEC_insn


class Paging(NamedTuple):
    """The registers that a translation depends on."""

    cr0: int
    cr3: int
    cr4: int
    efer: int
    pkru: int = 0
    ac: bool = False
    """RFLAGS.AC: lets the supervisor touch user pages under SMAP."""

    @property
    def mode(self) -> str:
        """none, 32-bit, PAE or 4-level."""
        if not self.cr0 & CR0_PG:
            return "none"
        if self.efer & EFER_LMA:
            return "4-level"
        return "PAE" if self.cr4 & CR4_PAE else "32-bit"


class Step(NamedTuple):
    """One entry that was read on the way."""

    level: int
    """4 is the root of 4-level paging, 1 the page table."""
    address: int
    """Guest-physical address of the entry."""
    value: int | None
    """None: no memory is there."""

    @property
    def name(self) -> str:
        return f"L{self.level}e"

    @property
    def flags(self) -> str:
        """The set bits by name, e.g. ``P W U A D PS NX``."""
        if self.value is None:
            return "unmapped"
        return " ".join(name for bit, name in _FLAG_NAMES if self.value & bit)

    def __str__(self) -> str:
        value = "????????????????" if self.value is None else f"{self.value:016x}"
        return f"{self.name} @ {self.address:#014x} = {value}  {self.flags}"


_FLAG_NAMES: Final = (
    (PTE_P, "P"),
    (PTE_W, "W"),
    (PTE_U, "U"),
    (1 << 3, "PWT"),
    (1 << 4, "PCD"),
    (PTE_A, "A"),
    (PTE_D, "D"),
    (PTE_PS, "PS"),
    (PTE_G, "G"),
    (PTE_NX, "NX"),
)


class Walk(NamedTuple):
    """How a translation went: `gpa` is set if it succeeded, else `error_code` of the #PF."""

    steps: tuple[Step, ...]
    gpa: int | None
    error_code: int | None
    page_size: int
    """Bytes of the page found (0 on a fault before a page was reached)."""
    reason: str
    """In words; "" on success."""

    @property
    def ok(self) -> bool:
        return self.gpa is not None


class _Fault(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


def walk(
    read_u64: Callable[[int], int],
    paging: Paging,
    gva: int,
    access: Access = Access.READ,
    user: bool = False,
) -> Walk:
    """Translate `gva` for an access of kind `access` by the user or the supervisor.

    `read_u64` reads 8 bytes at an aligned guest-physical address, and raises AccessError or
    LookupError where there is no memory; the walk then ends there as not present.
    A non-canonical address gives no error code (it raises #GP or #SS instead of #PF): both
    `gpa` and `error_code` are None.
    """
    mode = paging.mode
    if mode == "none":
        return Walk((), gva & 0xFFFFFFFF, None, 4096, "")
    if mode == "4-level":
        if not is_canonical(gva):
            return Walk((), None, None, 0, "non-canonical address")
        root, level, width, size_bits = paging.cr3 & ADDRESS_MASK, 4, 9, 12
    elif mode == "PAE":
        gva &= 0xFFFFFFFF
        root, level, width, size_bits = paging.cr3 & 0xFFFFFFE0, 3, 9, 12
    else:
        gva &= 0xFFFFFFFF
        root, level, width, size_bits = paging.cr3 & 0xFFFFF000, 2, 10, 12
    steps: list[Step] = []
    try:
        entry, level = _descend(read_u64, paging, gva, root, level, width, steps)
    except _Fault as fault:
        code = fault.code | access.value | (PFEC_user if user else 0)
        return Walk(tuple(steps), None, _visible(code, paging), 0, fault.reason)
    shift = size_bits + width * (level - 1)
    page = 1 << shift
    reason, key_fault = _check_rights(paging, steps, access, user)
    if reason:
        code = PFEC_present | access.value | (PFEC_user if user else 0)
        code |= PFEC_prot_key if key_fault else 0
        return Walk(tuple(steps), None, _visible(code, paging), page, reason)
    if width == 10 and level == 2:
        # PSE-36: bits 13-20 of the entry are bits 32-39 of the address.
        base = entry & 0xFFC00000 | (entry >> 13 & 0xFF) << 32
    else:
        base = entry & ADDRESS_MASK & ~(page - 1)
    return Walk(tuple(steps), base | gva & (page - 1), None, page, "")


def _descend(
    read_u64: Callable[[int], int],
    paging: Paging,
    gva: int,
    table: int,
    level: int,
    width: int,
    steps: list[Step],
) -> tuple[int, int]:
    """Follow the tables to the entry that maps a page; returns it and its level."""
    entry_bytes = 4 if width == 10 else 8
    top = level
    while True:
        bits = 2 if width == 9 and top == 3 and level == 3 else width
        index = gva >> (12 + width * (level - 1)) & ((1 << bits) - 1)
        address = table + index * entry_bytes
        entry = _read_entry(read_u64, address, entry_bytes)
        steps.append(Step(level, address, entry))
        if entry is None:
            raise _Fault(0, f"no memory at the L{level} table")
        if not entry & PTE_P:
            raise _Fault(0, f"L{level} entry isn't present")
        pdpte = bits == 2
        if _reserved_bits(paging, entry, level, width, pdpte):
            raise _Fault(PFEC_present | PFEC_reserved, f"reserved bits set in the L{level} entry")
        leaf = level == 1 or (
            not pdpte
            and level in (2, 3)
            and bool(entry & PTE_PS)
            and (width == 9 or bool(paging.cr4 & CR4_PSE))
        )
        if leaf:
            return entry, level
        table = entry & (0xFFFFF000 if width == 10 else ADDRESS_MASK)
        level -= 1


def _read_entry(read_u64: Callable[[int], int], address: int, size: int) -> int | None:
    try:
        value = read_u64(address & ~7)
    except (AccessError, LookupError):
        return None
    if size == 8:
        return value
    return value >> 32 if address & 4 else value & 0xFFFFFFFF


def _reserved_bits(paging: Paging, entry: int, level: int, width: int, pdpte: bool) -> bool:
    """Whether bits that must be zero in this entry are not."""
    if width == 10:
        # A 4 MiB page: bit 21 has no meaning with 40 bits of physical address.
        large = level == 2 and entry & PTE_PS and paging.cr4 & CR4_PSE
        return bool(large and entry & 1 << 21)
    reserved = ADDRESS_MASK & ~((1 << MAXPHYSADDR) - 1)
    if pdpte:
        # PDPTEs of PAE paging have no W, U and NX, and bits 1, 2 and 5 to 8 must be 0.
        return bool(entry & (reserved | PTE_NX | 0x1E6))
    if not paging.efer & EFER_NXE:
        reserved |= PTE_NX
    if level == 4:
        reserved |= PTE_PS
    elif level > 1 and entry & PTE_PS:
        reserved |= ((1 << (12 + 9 * (level - 1))) - 1) & ~0x1FFF
    if not paging.efer & EFER_LMA:
        reserved |= 0x7FF << 52
    return bool(entry & reserved)


def _check_rights(
    paging: Paging, steps: list[Step], access: Access, user: bool
) -> tuple[str, bool]:
    """Why the access isn't allowed ("" if it is), and whether by its protection key."""
    entries = [step.value or 0 for step in steps]
    if paging.mode == "PAE":
        entries = entries[1:]
    user_page = all(entry & PTE_U for entry in entries)
    writable = all(entry & PTE_W for entry in entries)
    no_execute = bool(paging.efer & EFER_NXE) and any(entry & PTE_NX for entry in entries)
    if user and not user_page:
        return "user access to a supervisor page", False
    if access is Access.FETCH:
        if no_execute:
            return "fetch from a no-execute page", False
        if not user and user_page and paging.cr4 & CR4_SMEP:
            return "supervisor fetch from a user page (SMEP)", False
        return "", False
    if not user and user_page and paging.cr4 & CR4_SMAP and not paging.ac:
        return "supervisor access to a user page (SMAP)", False
    if access is Access.WRITE and not writable and (user or paging.cr0 & CR0_WP):
        return "write to a read-only page", False
    if user_page and paging.cr4 & CR4_PKE and paging.efer & EFER_LMA:
        key = entries[-1] >> 59 & 0xF
        access_disable = paging.pkru >> (2 * key) & 1
        write_disable = paging.pkru >> (2 * key + 1) & 1
        if access_disable:
            return f"access disabled for protection key {key}", True
        if access is Access.WRITE and write_disable and (user or paging.cr0 & CR0_WP):
            return f"write disabled for protection key {key}", True
    return "", False


def _visible(code: int, paging: Paging) -> int:
    """The instruction-fetch bit is only reported with NX or SMEP in use."""
    nx = paging.efer & EFER_NXE and paging.cr4 & CR4_PAE
    return code if nx or paging.cr4 & CR4_SMEP else code & ~PFEC_insn
