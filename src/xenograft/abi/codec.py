# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiles a structure's layout to a pair of functions around one `struct.Struct`.

Nested structures are flattened into the format of the outermost one, so that reading and
writing a whole structure is a single call of the `struct` module plus attribute accesses
that were generated for it.  Sequences of structures and unions travel as bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from xenograft.abi.ctype import (
    ArrayType,
    BitField,
    Buffer,
    Bytes,
    CType,
    Nested,
    Only,
    Scalar,
)


@dataclass(frozen=True, slots=True)
class Field:
    """Where one field lies: byte `offset` and `size`; `shift` for bit fields."""

    name: str
    ctype: CType
    offset: int
    size: int
    shift: int = 0


@dataclass(frozen=True, slots=True)
class Codec:
    """One structure in one layout."""

    fields: tuple[Field, ...]
    size: int
    align: int
    unpack: Callable[[Buffer], Any]
    pack: Callable[[Any], bytes]


def round_up(value: int, align: int) -> int:
    return -(-value // align) * align


def lay_out(
    types: Iterable[tuple[str, CType]], bits: int, packed: bool = False
) -> tuple[tuple[Field, ...], int, int]:
    """Place members as C does; returns the fields, the size and the alignment."""
    fields: list[Field] = []
    offset = 0
    align = 1
    unit_end = -1  # end of the bit fields' current storage unit, or -1
    used = 0  # bits of it that are taken
    unit: Scalar | None = None
    for name, ctype in types:
        size = ctype.size(bits)
        if isinstance(ctype, BitField):
            align = max(align, ctype.align(bits))
            if unit is not ctype.unit or used + ctype.width > 8 * size or unit_end != offset:
                offset = round_up(offset, ctype.align(bits)) + size
                unit_end, used, unit = offset, 0, ctype.unit
            fields.append(Field(name, ctype, offset - size, size, used))
            used += ctype.width
            continue
        unit = None
        if size == 0 and isinstance(ctype, Only):
            fields.append(Field(name, ctype, offset, 0))
            continue
        if not packed:
            offset = round_up(offset, ctype.align(bits))
            align = max(align, ctype.align(bits))
        fields.append(Field(name, ctype, offset, size))
        offset += size
    return tuple(fields), round_up(offset, align), align


def _fit(value: Any, length: int) -> bytes:
    if len(value) > length:
        raise ValueError(f"{len(value)} bytes do not fit into {length}")
    return bytes(value)


def _fill(value: Any, length: int) -> Any:
    if len(value) == length:
        return value
    if len(value) > length:
        raise ValueError(f"{len(value)} elements do not fit into {length}")
    return [*value, *(0,) * (length - len(value))]


def _bits(value: int, width: int) -> int:
    if not 0 <= value < 1 << width:
        raise ValueError(f"{value!r} does not fit into {width} bits")
    return value


@dataclass(slots=True)
class _Source:
    """The source text of one codec while it grows."""

    bits: int
    format: str = "<"
    position: int = 0
    leaves: int = 0
    reads: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    names: dict[str, Any] = field(default_factory=dict)

    def bind(self, value: Any) -> str:
        name = f"g{len(self.names)}"
        self.names[name] = value
        return name

    def take(self, code: str, offset: int, size: int, count: int = 1) -> str:
        """Add leaves to the format; returns the expression that reads them."""
        if offset > self.position:
            self.format += f"{offset - self.position}x"
        self.format += code
        self.position = offset + size
        first = self.leaves
        self.leaves += count
        return f"v[{first}]" if count == 1 else f"v[{first}:{first + count}]"

    def add_struct(self, codec: Codec, target: str, source: str, base: int) -> None:
        fields = list(codec.fields)
        while fields:
            item = fields.pop(0)
            ctype = item.ctype
            path, origin = f"{target}.{item.name}", f"{source}.{item.name}"
            at = base + item.offset
            if isinstance(ctype, BitField):
                group = [item]
                while fields and fields[0].shift and isinstance(fields[0].ctype, BitField):
                    group.append(fields.pop(0))
                self.add_bitfields(group, target, source, at)
                continue
            if isinstance(ctype, Only):
                if item.size == 0:
                    self.reads.append(f"{path} = {self.bind(ctype.default)}()")
                    continue
                ctype = ctype.inner
            self.add_value(ctype, path, origin, at)

    def add_bitfields(self, group: list[Field], target: str, source: str, at: int) -> None:
        unit = group[0].ctype
        assert isinstance(unit, BitField)
        leaf = self.take(unit.unit.code(self.bits).upper(), at, group[0].size)
        parts = []
        for item in group:
            ctype = item.ctype
            assert isinstance(ctype, BitField)
            mask = (1 << ctype.width) - 1
            self.reads.append(f"{target}.{item.name} = {leaf} >> {item.shift} & {mask}")
            parts.append(f"_bits({source}.{item.name}, {ctype.width}) << {item.shift}")
        self.writes.append(" | ".join(parts))

    def add_value(self, ctype: CType, target: str, source: str, at: int) -> None:
        bits = self.bits
        size = ctype.size(bits)
        if isinstance(ctype, Scalar):
            self.reads.append(f"{target} = {self.take(ctype.code(bits), at, size)}")
            self.writes.append(source)
        elif isinstance(ctype, Bytes):
            leaf = self.take(f"{size}s", at, size)
            strip = ".rstrip(NUL)" if ctype.text else ""
            self.reads.append(f"{target} = {leaf}{strip}")
            self.writes.append(f"_fit({source}, {size})")
        elif isinstance(ctype, ArrayType) and isinstance(ctype.element, Scalar):
            code = f"{ctype.length}{ctype.element.code(bits)}"
            leaf = self.take(code, at, size, ctype.length)
            self.reads.append(
                f"{target} = list({leaf})" if ctype.length > 1 else f"{target} = [{leaf}]"
            )
            self.writes.append(f"*_fill({source}, {ctype.length})")
        elif isinstance(ctype, Nested) and hasattr(ctype.cls, "codec"):
            inner = ctype.cls.codec(bits)
            cls = self.bind(ctype.cls)
            self.reads.append(f"{target} = _new({cls})")
            self.add_struct(inner, target, source, at)
            # Padding at the end of the nested structure.
            if at + size > self.position:
                self.format += f"{at + size - self.position}x"
                self.position = at + size
        else:
            decode, encode = self.bind(ctype.decode), self.bind(ctype.encode)
            leaf = self.take(f"{size}s", at, size)
            self.reads.append(f"{target} = {decode}({leaf}, {bits})")
            self.writes.append(f"{encode}({source}, {bits})")


def _explain(cls: Any, fields: tuple[Field, ...], bits: int, value: Any) -> None:
    """Find the field that made a write fail, and say so (ValueError or TypeError)."""
    for item in fields:
        held = getattr(value, item.name)
        if isinstance(item.ctype, BitField):
            low, high = item.ctype.limits(bits)
            if not isinstance(held, int) or not low <= held <= high:
                raise ValueError(f"{cls.__name__}.{item.name}: {held!r} is not a {item.ctype!r}")
            continue
        try:
            item.ctype.encode(held, bits)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{cls.__name__}.{item.name}: {error}") from None


def compile_codec(
    cls: Any, types: Iterable[tuple[str, CType]], bits: int, packed: bool = False
) -> Codec:
    """Compile structure class `cls` for one layout."""
    fields, size, align = lay_out(types, bits, packed)
    source = _Source(bits)
    source.add_struct(Codec(fields, size, align, bytes, bytes), "o", "o", 0)
    if size > source.position:
        source.format += f"{size - source.position}x"
    compiled = struct.Struct(source.format)
    if compiled.size != size:
        raise TypeError(f"{cls.__name__}: layout of {size} bytes, format of {compiled.size}")

    namespace: dict[str, Any] = {
        **source.names,
        "_bits": _bits,
        "_fill": _fill,
        "_fit": _fit,
        "_new": object.__new__,
        "cls": cls,
        "NUL": b"\0",
        "unpack_from": compiled.unpack_from,
        "pack_all": compiled.pack,
    }
    reads = "\n    ".join(["v = unpack_from(data)", "o = _new(cls)", *source.reads, "return o"])
    text = (
        f"def unpack(data):\n    {reads}\n"
        f"def pack(o):\n    return pack_all({', '.join(source.writes)})\n"
    )
    exec(compile(text, f"<layout {cls.__name__}/{bits}>", "exec"), namespace)
    fast_unpack, fast_pack = namespace["unpack"], namespace["pack"]

    def unpack(data: Buffer) -> Any:
        try:
            return fast_unpack(data)
        except struct.error:
            raise ValueError(
                f"{cls.__name__} takes {size} bytes ({bits}-bit), got {len(data)}"
            ) from None

    def pack(value: Any) -> bytes:
        try:
            packed: bytes = fast_pack(value)
        except (struct.error, ValueError, TypeError, AttributeError) as error:
            _explain(cls, fields, bits, value)
            raise ValueError(f"{cls.__name__}: {error}") from None
        return packed

    return Codec(fields, size, align, unpack, pack)


def compile_init(cls: Any, types: Iterable[tuple[str, CType]]) -> Callable[..., None]:
    """The keyword constructor of a structure class: every field has a default."""
    namespace: dict[str, Any] = {}
    parameters: list[str] = []
    lines: list[str] = []
    for index, (name, ctype) in enumerate(types):
        inner = ctype.inner if isinstance(ctype, Only) else ctype
        if isinstance(inner, Scalar | BitField | Bytes):
            namespace[f"d{index}"] = inner.default()
            parameters.append(f"{name}=d{index}")
            lines.append(f"self.{name} = {name}")
        else:
            namespace[f"d{index}"] = inner.default
            parameters.append(f"{name}=None")
            lines.append(f"self.{name} = d{index}() if {name} is None else {name}")
    star = ["*"] if parameters else []
    text = f"def __init__({', '.join(['self', *star, *parameters])}):\n    " + "\n    ".join(
        lines or ["pass"]
    )
    exec(compile(text, f"<constructor {cls.__name__}>", "exec"), namespace)
    function: Callable[..., None] = namespace["__init__"]
    function.__qualname__ = f"{cls.__qualname__}.__init__"
    return function
