# SPDX-License-Identifier: GPL-2.0-or-later
"""Values of the abi as short text: ``{port=3}``, as strace prints structures."""

from __future__ import annotations

from typing import Any

from xenograft.abi.ctype import CType
from xenograft.abi.errno import errno_name
from xenograft.abi.struct import ArrayType, Nested, Only, Struct, Union, ctype_bytes, is_padding

MAX_ELEMENTS = 4
"""How much of an array is shown."""


def value(ctype: CType, held: Any, member: str | None = None) -> str:
    """One value; `member` says which member of a union is meant."""
    if isinstance(ctype, Only):
        ctype = ctype.inner
    if isinstance(ctype, Nested) and isinstance(held, Struct):
        return braces(held)
    if isinstance(held, Union):
        return _union(held, member)
    if isinstance(ctype, ArrayType):
        shown = [value(ctype.element, item) for item in held[:MAX_ELEMENTS]]
        if len(held) > MAX_ELEMENTS:
            shown.append(f"... {len(held)}")
        return "[" + ", ".join(shown) + "]"
    return ctype.show(held)


def _union(held: Union, member: str | None) -> str:
    types = dict(type(held).types())
    if member not in types:
        member = held.active()
    if member is None:
        raw = held.pack(held.layout_bits)
        return f"<{raw.rstrip(bytes(1)).hex()}>" if any(raw) else "{}"
    return "{" + f"{member}={value(types[member], held.peek(member))}" + "}"


def members(held: Struct) -> list[tuple[str, str]]:
    """(name, text) of a structure's members, padding that is zero left out."""
    shown = []
    for name, ctype, item in held.items():
        if is_padding(name) and not any(ctype_bytes(ctype, item)):
            continue
        shown.append((name, value(ctype, item, held.select(name))))
    return shown


def braces(held: Struct) -> str:
    """A whole structure."""
    return "{" + ", ".join(f"{name}={text}" for name, text in members(held)) + "}"


def word(kind: str, number: int, bits: int = 64) -> str:
    """An argument register, by the type that the hypercall table declares."""
    number &= (1 << bits) - 1
    if kind == "handle":
        return hex(number) if number else "NULL"
    if kind == "int":
        number &= 0xFFFFFFFF
        return str(number - (1 << 32) if number >> 31 else number)
    if kind == "uint":
        number &= 0xFFFFFFFF
    return str(number) if number < 1024 else hex(number)


def result(number: int) -> str:
    """What a hypercall gave back: ``0``, ``-EINVAL``, ``0x40011``."""
    name = errno_name(number)
    if name is not None:
        return f"-{name}"
    return str(number) if -1024 < number < 1024 else hex(number)


def address(number: int) -> str:
    """An address of the guest."""
    return f"{number:#018x}" if number >> 32 else f"{number:#010x}"


def seconds(time_ns: int) -> str:
    """Machine time for a line's beginning."""
    return f"{time_ns // 1_000_000_000:3d}.{time_ns // 1000 % 1_000_000:06d}"


def who(domid: int, vcpu: int = -1) -> str:
    """``d1v0``; ``d1`` where no vCPU is concerned; ``xen`` for the hypervisor itself."""
    if domid == 0x7FF2:
        return "xen"
    return f"d{domid}" if vcpu < 0 else f"d{domid}v{vcpu}"
