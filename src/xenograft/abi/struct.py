# SPDX-License-Identifier: GPL-2.0-or-later
"""Structures of Xen's public interface, declared once.

A structure is a class whose annotations are its members, in C's order and with C's names::

    class vcpu_time_info(Struct):
        version: u32
        pad0: u32
        tsc_timestamp: u64
        system_time: u64
        tsc_to_system_mul: u32
        tsc_shift: i8
        flags: u8
        pad1: Annotated[bytes, octets(2)]

    info = vcpu_time_info.unpack(data)           # x86-64 layout
    info.version += 1
    data = info.pack(bits=32)                    # i386 layout

The same class reads, writes, prints, is traced (`fields`) and fuzzed.  Annotations are
evaluated and layouts compiled when a class is first used, so that importing a module with a
hundred structures costs next to nothing.

``class e820entry(Struct, packed=True)`` has no padding and an alignment of 1.

Members that are C unions are `Union` classes.  A structure may say which member of a union is
meant, for printing: ``_selects_ = selects(u=("cmd", {0: "createdomain"}))``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self, TypeAlias

from xenograft.abi.codec import Codec, Field, compile_codec, compile_init, lay_out, round_up
from xenograft.abi.ctype import (
    ArrayType,
    BitField,
    Buffer,
    CType,
    Nested,
    Only,
    Scalar,
    array,
    bitfield,
    chars,
    domid_t,
    evtchn_port_t,
    grant_ref_t,
    handle,
    handle64,
    i8,
    i16,
    i32,
    i64,
    i64_aligned,
    named,
    octets,
    only,
    resolve,
    slong,
    u8,
    u16,
    u32,
    u64,
    u64_aligned,
    ulong,
    x8,
    x16,
    x32,
    x64,
    x64_aligned,
    xen_pfn_t,
    xulong,
)

__all__ = [
    "ArrayType",
    "BitField",
    "CType",
    "Field",
    "Nested",
    "Only",
    "Scalar",
    "Struct",
    "Union",
    "array",
    "bitfield",
    "chars",
    "domid_t",
    "evtchn_port_t",
    "grant_ref_t",
    "handle",
    "handle64",
    "i8",
    "i16",
    "i32",
    "i64",
    "i64_aligned",
    "is_padding",
    "named",
    "octets",
    "only",
    "selects",
    "slong",
    "u8",
    "u16",
    "u32",
    "u64",
    "u64_aligned",
    "ulong",
    "x8",
    "x16",
    "x32",
    "x64",
    "x64_aligned",
    "xen_pfn_t",
    "xulong",
]


Selection: TypeAlias = Mapping[str, tuple[str, Mapping[int, str]]]


def selects(**rules: tuple[str, Mapping[int, str]]) -> Selection:
    """Union member to (the member that tells what it holds, value to name of what's held)."""
    return MappingProxyType(rules)


def is_padding(name: str) -> bool:
    """Whether a member is there for alignment or the future only."""
    bare = name.strip("_").rstrip("0123456789")
    return bare in ("pad", "rsvd", "padding", "reserved") or name.startswith("_pad")


def _member_names(namespace: Mapping[str, Any]) -> tuple[str, ...]:
    annotations: Mapping[str, Any] = namespace.get("__annotations__", {})
    return tuple(name for name, hint in annotations.items() if "ClassVar" not in str(hint))


def _generate_init(self: Struct, **fields: Any) -> None:
    """Stands in for a class's constructor until the first object is made."""
    cls = type(self)
    cls.__init__ = compile_init(cls, cls.types())  # type: ignore[method-assign]
    cls.__init__(self, **fields)


class _Meta(type):
    """Gives each class slots for its members, and tables of its own."""

    def __new__(
        mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], packed: bool = False
    ) -> _Meta:
        # `Struct` and `Union` themselves have attributes, but no members.
        is_root = not bases or bases == (_Base,)
        members = () if is_root else _member_names(namespace)
        inherited: tuple[str, ...] = getattr(bases[0], "_members_", ()) if bases else ()
        if not is_root:
            if "__slots__" not in namespace and issubclass(bases[0], Struct):
                namespace["__slots__"] = members
            for member in members:
                if member in namespace or any(hasattr(base, member) for base in bases):
                    raise TypeError(f"{name}.{member}: the name is taken")
            namespace.setdefault("__slots__", ())
            if issubclass(bases[0], Struct):
                # Not the base's: that one may have been generated for the base's members.
                namespace["__init__"] = _generate_init
        namespace["_members_"] = inherited + members
        namespace["_codecs_"] = {}
        namespace["_types_"] = None
        namespace["_packed_"] = packed
        return super().__new__(mcs, name, bases, namespace)


class _Base(metaclass=_Meta):
    """What structures and unions share."""

    __slots__ = ()

    _members_: ClassVar[tuple[str, ...]]
    _codecs_: ClassVar[dict[int, Any]]
    _types_: ClassVar[tuple[tuple[str, CType], ...] | None]
    _packed_: ClassVar[bool]

    @classmethod
    def types(cls) -> tuple[tuple[str, CType], ...]:
        """(name, C type) of all members, in order."""
        if cls._types_ is None:
            scope = vars(sys.modules[cls.__module__])
            hints = vars(cls).get("__annotations__", {})
            base = cls.__mro__[1]
            above = base.types() if issubclass(base, _Base) and base._members_ else ()
            own = cls._members_[len(above) :]
            cls._types_ = above + tuple(
                # Annotations are our own source text, evaluated late (postponed evaluation).
                (name, resolve(eval(hint, scope) if isinstance(hint, str) else hint))
                for name, hint in ((name, hints[name]) for name in own)
            )
        return cls._types_


class Struct(_Base):
    """Base of all structures; see the module."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]  # mutable, compared by value

    _selects_: ClassVar[Selection] = selects()

    def __init__(self, **fields: Any) -> None:
        """All members are keywords, and optional."""
        raise TypeError("Struct is a base class")

    @classmethod
    def codec(cls, bits: int = 64) -> Codec:
        """The compiled layout for `bits`: 64 (x86-64) or 32 (i386)."""
        found: Codec | None = cls._codecs_.get(bits)
        if found is None:
            if bits not in (32, 64):
                raise ValueError(f"no layout for {bits} bits")
            found = cls._codecs_[bits] = compile_codec(cls, cls.types(), bits, cls._packed_)
        return found

    @classmethod
    def sizeof(cls, bits: int = 64) -> int:
        """Size in bytes, with C's padding."""
        return cls.codec(bits).size

    @classmethod
    def alignof(cls, bits: int = 64) -> int:
        """Alignment in bytes."""
        return cls.codec(bits).align

    @classmethod
    def offsetof(cls, name: str, bits: int = 64) -> int:
        """Byte offset of a member; ``"time.version"`` looks into nested ones.

        Raises KeyError for an unknown name.
        """
        first, _, rest = name.partition(".")
        for item in cls.codec(bits).fields:
            if item.name == first:
                if rest:
                    if not isinstance(item.ctype, Nested):
                        raise KeyError(name)
                    return item.offset + int(item.ctype.cls.offsetof(rest, bits))
                return item.offset
        raise KeyError(f"{cls.__name__} has no member {name!r}")

    @classmethod
    def fields(cls, bits: int = 64) -> tuple[Field, ...]:
        """All members with their C type, offset and size, in order."""
        return cls.codec(bits).fields

    @classmethod
    def unpack(cls, data: Buffer, bits: int = 64) -> Self:
        """Read one structure from the start of `data`; ValueError if it's too short."""
        found = cls._codecs_.get(bits)
        value: Self = (found or cls.codec(bits)).unpack(data)
        return value

    def pack(self, bits: int = 64) -> bytes:
        """The structure as bytes, padding zeroed; ValueError if a member doesn't fit."""
        found = type(self)._codecs_.get(bits)
        data: bytes = (found or type(self).codec(bits)).pack(self)
        return data

    def items(self) -> Iterator[tuple[str, CType, Any]]:
        """(name, C type, value) of all members, in order."""
        for name, ctype in type(self).types():
            yield name, ctype, getattr(self, name)

    def select(self, name: str) -> str | None:
        """The member of union `name` that the structure's own discriminator names."""
        rule = type(self)._selects_.get(name)
        return None if rule is None else rule[1].get(getattr(self, rule[0]))

    def show_members(self) -> Iterator[tuple[str, str]]:
        """(name, value for people) of the members worth printing."""
        for name, ctype, value in self.items():
            if isinstance(value, Union):
                yield name, value.show(self.select(name))
            elif not (is_padding(name) and not any(ctype_bytes(ctype, value))):
                yield name, ctype.show(value)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self._members_)

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={value}" for name, value in self.show_members())
        return f"{type(self).__name__}({inside})"


def ctype_bytes(ctype: CType, value: Any) -> bytes:
    """The bytes of a member, for the question whether it's all zero; b"\\1" if it doesn't fit."""
    if isinstance(ctype, BitField):
        return b"\1" if value else b""
    try:
        return ctype.encode(value, 64)
    except (ValueError, TypeError):
        return b"\1"


class Union(_Base):
    """A C union: bytes that may be looked at as one of several members.

    Reading a member decodes it, and it becomes the one that `pack` writes (over the bytes
    that were there), so that changes made to it are kept.  Setting a member does the same.
    A union that came from one layout can be packed for the other only once a member has been
    looked at or set.
    """

    __slots__ = ("_active", "_raw", "_raw_bits", "_seen", "_value")
    __hash__ = None  # type: ignore[assignment]  # mutable, compared by value

    _active: str | None
    _raw: bytes
    _raw_bits: int
    _seen: bytes | None
    _value: Any

    def __init__(self, **member: Any) -> None:
        if len(member) > 1:
            raise TypeError(f"{type(self).__name__} holds one member at a time")
        put = object.__setattr__
        put(self, "_raw", b"")
        put(self, "_raw_bits", 0)
        put(self, "_active", None)
        put(self, "_seen", None)
        put(self, "_value", None)
        for name, value in member.items():
            setattr(self, name, value)

    @classmethod
    def _layout(cls, bits: int) -> tuple[dict[str, Field], int, int]:
        found: tuple[dict[str, Field], int, int] | None = cls._codecs_.get(bits)
        if found is None:
            if bits not in (32, 64):
                raise ValueError(f"no layout for {bits} bits")
            fields: dict[str, Field] = {}
            size, align = 0, 1
            for name, ctype in cls.types():
                (item,), _, own = lay_out([(name, ctype)], bits)
                fields[name] = item
                size, align = max(size, item.size), max(align, own)
            found = cls._codecs_[bits] = (fields, round_up(size, align), align)
        return found

    @classmethod
    def sizeof(cls, bits: int = 64) -> int:
        """Size in bytes: that of the largest member, rounded up."""
        return cls._layout(bits)[1]

    @classmethod
    def alignof(cls, bits: int = 64) -> int:
        """Alignment in bytes."""
        return cls._layout(bits)[2]

    @classmethod
    def fields(cls, bits: int = 64) -> tuple[Field, ...]:
        """All members; every offset is 0."""
        return tuple(cls._layout(bits)[0].values())

    @classmethod
    def offsetof(cls, name: str, bits: int = 64) -> int:
        """0, or the offset inside a nested member; KeyError for an unknown name."""
        first, _, rest = name.partition(".")
        item = cls._layout(bits)[0][first]
        if not rest:
            return 0
        if not isinstance(item.ctype, Nested):
            raise KeyError(name)
        return int(item.ctype.cls.offsetof(rest, bits))

    @classmethod
    def unpack(cls, data: Buffer, bits: int = 64) -> Self:
        """Take the union's bytes from the start of `data`; ValueError if it's too short."""
        found = cls._codecs_.get(bits)
        size: int = (found or cls._layout(bits))[1]
        if len(data) < size:
            raise ValueError(f"{cls.__name__} takes {size} bytes ({bits}-bit), got {len(data)}")
        made = cls.__new__(cls)
        _put_raw(made, bytes(data[:size]))
        _put_raw_bits(made, bits)
        _put_active(made, None)
        _put_seen(made, None)
        _put_value(made, None)
        return made

    def pack(self, bits: int = 64) -> bytes:
        """The union as bytes, the rest of it as it was or zero."""
        fields, size, _ = self._layout(bits)
        if self._active is None:
            if self._raw_bits not in (0, bits):
                raise ValueError(f"{type(self).__name__}: no member chosen for {bits} bits")
            return self._raw or bytes(size)
        data = fields[self._active].ctype.encode(self._value, bits)
        rest = self._raw if self._raw_bits == bits else b""
        if rest and data == self._seen:
            # Nobody changed the member: keep even the bytes that are padding in it.
            return rest
        return (data + rest[len(data) :]).ljust(size, b"\0")

    @property
    def layout_bits(self) -> int:
        """The layout that the union's bytes are in (64 if it never had any)."""
        return self._raw_bits or 64

    def active(self) -> str | None:
        """The member that was looked at or set last."""
        return self._active

    def __getattr__(self, name: str) -> Any:
        if name not in type(self)._members_:
            raise AttributeError(f"{type(self).__name__} has no member {name!r}")
        if name != self._active:
            bits = self._raw_bits or 64
            raw = self.pack(bits)
            ctype = self._layout(bits)[0][name].ctype
            value = ctype.decode(raw, bits)
            object.__setattr__(self, "_raw", raw)
            object.__setattr__(self, "_raw_bits", bits)
            object.__setattr__(self, "_seen", ctype.encode(value, bits))
            object.__setattr__(self, "_active", name)
            object.__setattr__(self, "_value", value)
        return self._value

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in type(self)._members_:
            raise AttributeError(f"{type(self).__name__} has no member {name!r}")
        # What the former member left behind stays in the bytes that the new one doesn't cover.
        if self._active is not None and self._active != name:
            bits = self._raw_bits or 64
            object.__setattr__(self, "_raw", self.pack(bits))
            object.__setattr__(self, "_raw_bits", bits)
        _put_seen(self, None)
        _put_active(self, name)
        _put_value(self, value)

    def peek(self, name: str) -> Any:
        """Decode a member without making it the one that `pack` writes."""
        if name == self._active:
            return self._value
        bits = self._raw_bits or 64
        return self._layout(bits)[0][name].ctype.decode(self.pack(bits), bits)

    def show(self, member: str | None = None) -> str:
        """The union for people: `member`, else the active one, else its bytes."""
        member = member if member in type(self)._members_ else self._active
        if member is None:
            raw = self.pack(self._raw_bits or 64)
            return f"{type(self).__name__}({raw.hex() if any(raw) else ''})"
        ctype = dict(type(self).types())[member]
        return f"{type(self).__name__}({member}={ctype.show(self.peek(member))})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        bits = self._raw_bits or other._raw_bits or 64
        return self.pack(bits) == other.pack(bits)

    def __repr__(self) -> str:
        return self.show()


# Setting a union's slots one by one: hypercalls with a union in their argument do it each time.
_put_raw = vars(Union)["_raw"].__set__
_put_raw_bits = vars(Union)["_raw_bits"].__set__
_put_active = vars(Union)["_active"].__set__
_put_seen = vars(Union)["_seen"].__set__
_put_value = vars(Union)["_value"].__set__
