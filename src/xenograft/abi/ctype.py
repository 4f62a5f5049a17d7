# SPDX-License-Identifier: GPL-2.0-or-later
"""C types of Xen's public interface as values: what a `Struct`'s annotations carry.

A `CType` knows its size and alignment in both layouts (``bits`` 32: the i386 ABI, where a
64-bit integer is aligned to 4 bytes; 64: the x86-64 ABI), and how to turn bytes into a Python
value and back.  The fast paths of whole structures are compiled in `xenograft.abi.codec`; the
methods here are the general ones, used for unions, for arrays of structures and for messages
about a field that doesn't fit.
"""

from __future__ import annotations

import struct
from typing import Annotated, Any, TypeAlias, get_args, get_origin

Buffer: TypeAlias = bytes | bytearray | memoryview


class CType:
    """One C type.  Subclasses say how large it is and what its Python value looks like."""

    __slots__ = ()

    def size(self, bits: int) -> int:
        """Bytes that the type takes in the layout for `bits` (32 or 64)."""
        raise TypeError(f"{self!r} has no size of its own")

    def align(self, bits: int) -> int:
        """Alignment in bytes in the layout for `bits`."""
        raise TypeError(f"{self!r} has no alignment of its own")

    def default(self) -> Any:
        """The value of a field that nobody set; a fresh object where it's mutable."""
        raise TypeError(f"{self!r} has no default")

    def decode(self, data: Buffer, bits: int) -> Any:
        """The value in `data`, which holds at least `size` bytes."""
        raise TypeError(f"{self!r} cannot be decoded")

    def encode(self, value: Any, bits: int) -> bytes:
        """The `size` bytes for `value`; ValueError or TypeError if it doesn't fit."""
        raise TypeError(f"{self!r} cannot be encoded")

    def show(self, value: Any) -> str:
        """The value for people."""
        return repr(value)


class Scalar(CType):
    """An integer.  `code32` and `code64` are letters of the `struct` module."""

    __slots__ = ("align32", "align64", "code32", "code64", "name", "names", "style")

    def __init__(
        self,
        name: str,
        code: str,
        code32: str | None = None,
        *,
        align32: int | None = None,
        style: str = "d",
        names: dict[int, str] | None = None,
    ) -> None:
        self.name = name
        self.code64 = code
        self.code32 = code32 or code
        self.align64 = struct.calcsize("<" + code)
        # The i386 ABI aligns 64-bit integers to 4 bytes.
        self.align32 = align32 or min(4, struct.calcsize("<" + self.code32))
        self.style = style
        self.names = names or {}

    def __repr__(self) -> str:
        return self.name

    def code(self, bits: int) -> str:
        return self.code64 if bits == 64 else self.code32

    def size(self, bits: int) -> int:
        return struct.calcsize("<" + self.code(bits))

    def align(self, bits: int) -> int:
        return self.align64 if bits == 64 else self.align32

    def signed(self) -> bool:
        return self.code64.islower()

    def limits(self, bits: int) -> tuple[int, int]:
        """Smallest and largest value."""
        width = 8 * self.size(bits)
        if self.signed():
            return -(1 << width - 1), (1 << width - 1) - 1
        return 0, (1 << width) - 1

    def default(self) -> int:
        return 0

    def decode(self, data: Buffer, bits: int) -> int:
        result: int = struct.unpack_from("<" + self.code(bits), data)[0]
        return result

    def encode(self, value: Any, bits: int) -> bytes:
        try:
            return struct.pack("<" + self.code(bits), value)
        except struct.error:
            raise ValueError(f"{value!r} is not a {self.name}") from None

    def show(self, value: Any) -> str:
        name = self.names.get(value)
        if name is not None:
            return name
        return hex(value) if self.style == "x" and isinstance(value, int) else repr(value)


class BitField(CType):
    """`width` bits of a storage unit that neighbouring bit fields of the same unit share."""

    __slots__ = ("unit", "width")

    def __init__(self, unit: Scalar, width: int) -> None:
        self.unit = unit
        self.width = width

    def __repr__(self) -> str:
        return f"{self.unit!r}:{self.width}"

    def size(self, bits: int) -> int:
        return self.unit.size(bits)

    def align(self, bits: int) -> int:
        return self.unit.align(bits)

    def limits(self, bits: int) -> tuple[int, int]:
        """Smallest and largest value."""
        return 0, (1 << self.width) - 1

    def default(self) -> int:
        return 0


class Bytes(CType):
    """`char x[n]` or `uint8_t x[n]` as bytes.

    `text` ones lose their trailing NULs when read; both are filled with NULs when written.
    """

    __slots__ = ("length", "text")

    def __init__(self, length: int, text: bool) -> None:
        self.length = length
        self.text = text

    def __repr__(self) -> str:
        return f"{'chars' if self.text else 'octets'}({self.length})"

    def size(self, bits: int) -> int:
        return self.length

    def align(self, bits: int) -> int:
        return 1

    def default(self) -> bytes:
        return b"" if self.text else bytes(self.length)

    def decode(self, data: Buffer, bits: int) -> bytes:
        value = bytes(data[: self.length])
        return value.rstrip(b"\0") if self.text else value

    def encode(self, value: Any, bits: int) -> bytes:
        if not isinstance(value, bytes | bytearray | memoryview):
            raise TypeError(f"{value!r} is not bytes")
        if len(value) > self.length:
            raise ValueError(f"{len(value)} bytes do not fit into {self!r}")
        return bytes(value).ljust(self.length, b"\0")

    def show(self, value: Any) -> str:
        if self.text:
            return '"' + bytes(value).decode("ascii", "backslashreplace") + '"'
        return (
            bytes(value).hex()
            if len(value) <= 32
            else f"{bytes(value[:32]).hex()}... ({len(value)} bytes)"
        )


class ArrayType(CType):
    """`element x[length]` as a list; a shorter list is filled with defaults when written."""

    __slots__ = ("element", "length")

    def __init__(self, element: CType, length: int) -> None:
        self.element = element
        self.length = length

    def __repr__(self) -> str:
        return f"{self.element!r}[{self.length}]"

    def size(self, bits: int) -> int:
        return self.element.size(bits) * self.length

    def align(self, bits: int) -> int:
        return self.element.align(bits)

    def default(self) -> list[Any]:
        return [self.element.default() for _ in range(self.length)]

    def decode(self, data: Buffer, bits: int) -> list[Any]:
        step = self.element.size(bits)
        view = memoryview(data)
        return [self.element.decode(view[i * step :], bits) for i in range(self.length)]

    def encode(self, value: Any, bits: int) -> bytes:
        if len(value) > self.length:
            raise ValueError(f"{len(value)} elements do not fit into {self!r}")
        data = b"".join(self.element.encode(item, bits) for item in value)
        missing = self.length - len(value)
        if missing:
            data += self.element.encode(self.element.default(), bits) * missing
        return data

    def show(self, value: Any) -> str:
        shown = [self.element.show(item) for item in value[:16]]
        # Long tails of the same value (mostly zeroes) say nothing; cut them.
        if len(value) > 16:
            shown.append(f"... ({len(value)})")
        return "[" + ", ".join(shown) + "]"


class Nested(CType):
    """Another `Struct` or `Union`, in place."""

    __slots__ = ("cls",)

    def __init__(self, cls: Any) -> None:
        self.cls = cls

    def __repr__(self) -> str:
        return str(self.cls.__name__)

    def size(self, bits: int) -> int:
        return int(self.cls.sizeof(bits))

    def align(self, bits: int) -> int:
        return int(self.cls.alignof(bits))

    def default(self) -> Any:
        return self.cls()

    def decode(self, data: Buffer, bits: int) -> Any:
        return self.cls.unpack(data, bits)

    def encode(self, value: Any, bits: int) -> bytes:
        if not isinstance(value, self.cls):
            raise TypeError(f"{value!r} is not a {self.cls.__name__}")
        return bytes(value.pack(bits))

    def show(self, value: Any) -> str:
        return repr(value)


class Only(CType):
    """A field that exists in one of the two layouts; in the other it takes no space."""

    __slots__ = ("bits", "inner")

    def __init__(self, bits: int, inner: CType) -> None:
        self.bits = bits
        self.inner = inner

    def __repr__(self) -> str:
        return f"{self.inner!r} ({self.bits}-bit only)"

    def size(self, bits: int) -> int:
        return self.inner.size(bits) if bits == self.bits else 0

    def align(self, bits: int) -> int:
        return self.inner.align(bits) if bits == self.bits else 1

    def default(self) -> Any:
        return self.inner.default()

    def decode(self, data: Buffer, bits: int) -> Any:
        return self.inner.decode(data, bits) if bits == self.bits else self.inner.default()

    def encode(self, value: Any, bits: int) -> bytes:
        return self.inner.encode(value, bits) if bits == self.bits else b""

    def show(self, value: Any) -> str:
        return self.inner.show(value)


def resolve(hint: Any) -> CType:
    """The `CType` that an annotation stands for: an alias below, or a structure's class.

    Raises TypeError for anything else.
    """
    if isinstance(hint, CType):
        return hint
    if get_origin(hint) is Annotated:
        for item in reversed(get_args(hint)[1:]):
            if isinstance(item, CType):
                return item
    if isinstance(hint, type) and hasattr(hint, "alignof"):
        return Nested(hint)
    raise TypeError(f"{hint!r} is not a C type")


# Integers.  The x... forms print in hexadecimal: addresses, frame numbers, flags and masks.
u8: TypeAlias = Annotated[int, Scalar("u8", "B")]
u16: TypeAlias = Annotated[int, Scalar("u16", "H")]
u32: TypeAlias = Annotated[int, Scalar("u32", "I")]
u64: TypeAlias = Annotated[int, Scalar("u64", "Q")]
i8: TypeAlias = Annotated[int, Scalar("i8", "b")]
i16: TypeAlias = Annotated[int, Scalar("i16", "h")]
i32: TypeAlias = Annotated[int, Scalar("i32", "i")]
i64: TypeAlias = Annotated[int, Scalar("i64", "q")]
x8: TypeAlias = Annotated[int, Scalar("u8", "B", style="x")]
x16: TypeAlias = Annotated[int, Scalar("u16", "H", style="x")]
x32: TypeAlias = Annotated[int, Scalar("u32", "I", style="x")]
x64: TypeAlias = Annotated[int, Scalar("u64", "Q", style="x")]

# `unsigned long`, xen_ulong_t and guest handles: as wide as the guest's words.
ulong: TypeAlias = Annotated[int, Scalar("ulong", "Q", "I")]
slong: TypeAlias = Annotated[int, Scalar("slong", "q", "i")]
xulong: TypeAlias = Annotated[int, Scalar("ulong", "Q", "I", style="x")]
handle: TypeAlias = Annotated[int, Scalar("handle", "Q", "I", style="x")]
xen_pfn_t: TypeAlias = Annotated[int, Scalar("xen_pfn_t", "Q", "I", style="x")]

# uint64_aligned_t and XEN_GUEST_HANDLE_64: 8 bytes, aligned to 8, in both layouts.
u64_aligned: TypeAlias = Annotated[int, Scalar("u64_aligned", "Q", align32=8)]
i64_aligned: TypeAlias = Annotated[int, Scalar("i64_aligned", "q", align32=8)]
x64_aligned: TypeAlias = Annotated[int, Scalar("u64_aligned", "Q", align32=8, style="x")]
handle64: TypeAlias = Annotated[int, Scalar("handle64", "Q", align32=8, style="x")]

# public/xen.h: domid_t and its reserved values; public/event_channel.h, grant_table.h.
domid_t: TypeAlias = Annotated[
    int,
    Scalar(
        "domid_t",
        "H",
        names={
            0x7FF0: "DOMID_SELF",
            0x7FF1: "DOMID_IO",
            0x7FF2: "DOMID_XEN",
            0x7FF3: "DOMID_COW",
            0x7FF4: "DOMID_INVALID",
            0x7FFF: "DOMID_IDLE",
        },
    ),
]
evtchn_port_t: TypeAlias = Annotated[int, Scalar("evtchn_port_t", "I")]
grant_ref_t: TypeAlias = Annotated[int, Scalar("grant_ref_t", "I")]


def scalar(hint: Any) -> Scalar:
    """The `Scalar` behind one of the integer aliases."""
    found = resolve(hint)
    if not isinstance(found, Scalar):
        raise TypeError(f"{hint!r} is not an integer type")
    return found


def named(hint: Any, names: dict[int, str]) -> Scalar:
    """An integer type whose values print by name: ``Annotated[int, named(u32, {...})]``."""
    base = scalar(hint)
    return Scalar(
        base.name, base.code64, base.code32, align32=base.align32, style=base.style, names=names
    )


def array(element: Any, length: int) -> ArrayType:
    """``Annotated[list[int], array(u32, 4)]``; elements may be structures."""
    return ArrayType(resolve(element), length)


def chars(length: int) -> Bytes:
    """``Annotated[bytes, chars(16)]``: text that NULs end or fill."""
    return Bytes(length, True)


def octets(length: int) -> Bytes:
    """``Annotated[bytes, octets(16)]``: raw bytes, all of them kept."""
    return Bytes(length, False)


def bitfield(unit: Any, width: int) -> BitField:
    """``Annotated[int, bitfield(u8, 4)]``: a C bit field, filled from the lowest bit up."""
    return BitField(scalar(unit), width)


def only(bits: int, hint: Any) -> Only:
    """``Annotated[int, only(32, u32)]``: a field of one of the two layouts."""
    return Only(bits, resolve(hint))
