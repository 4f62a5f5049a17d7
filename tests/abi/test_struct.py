# SPDX-License-Identifier: GPL-2.0-or-later
"""The framework: layouts, packing, printing, unions, bit fields."""

from __future__ import annotations

import copy
import pickle
import struct
from typing import Annotated, ClassVar, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.abi.strategies import structs
from xenograft.abi.struct import (
    Struct,
    Union,
    array,
    bitfield,
    chars,
    domid_t,
    handle,
    handle64,
    i8,
    is_padding,
    named,
    octets,
    only,
    selects,
    u8,
    u16,
    u32,
    u64,
    u64_aligned,
    ulong,
    x64,
)


class point(Struct):
    """A nested structure with padding at its end."""

    x: u32
    y: u8


point_t: TypeAlias = point


class every(Struct):
    """One of each kind."""

    KINDS: ClassVar[int] = 1

    byte: u8
    signed: i8
    wide: u64
    word: ulong
    pointer: handle
    fixed: handle64
    name: Annotated[bytes, chars(6)]
    raw: Annotated[bytes, octets(3)]
    numbers: Annotated[list[int], array(u16, 3)]
    where: point
    points: Annotated[list[point_t], array(point_t, 2)]
    low: Annotated[int, bitfield(u8, 3)]
    high: Annotated[int, bitfield(u8, 5)]
    late: Annotated[int, only(64, u32)]


class either(Union):
    """Members of three sizes, one of them of the guest's width."""

    small: u16
    where: point
    word: ulong


class tagged(Struct):
    """A union with a discriminator."""

    _selects_ = selects(u=("kind", {1: "small", 2: "where"}))

    kind: u32
    u: either


class tight(Struct, packed=True):
    """No padding."""

    a: u8
    b: u64


class child(point):
    """Members of the base come first."""

    z: u16


def test_layout_follows_the_width() -> None:
    class mixed(Struct):
        a: u8
        b: u64
        c: ulong
        d: u64_aligned

    # A class in a function: its annotations name this module's types.
    assert [(f.name, f.offset) for f in mixed.fields(64)] == [
        ("a", 0), ("b", 8), ("c", 16), ("d", 24),
    ]  # fmt: skip
    assert [(f.name, f.offset) for f in mixed.fields(32)] == [
        ("a", 0), ("b", 4), ("c", 12), ("d", 16),
    ]  # fmt: skip
    assert (mixed.sizeof(64), mixed.alignof(64)) == (32, 8)
    assert (mixed.sizeof(32), mixed.alignof(32)) == (24, 8)


def test_pack_matches_the_struct_module() -> None:
    value = point(x=0x11223344, y=5)
    assert value.pack() == struct.pack("<IB3x", 0x11223344, 5)
    assert point.unpack(value.pack() + b"more") == value


def test_defaults() -> None:
    value = every()
    assert value.byte == 0
    assert value.name == b""
    assert value.raw == bytes(3)
    assert value.numbers == [0, 0, 0]
    assert value.where == point()
    assert value.pack() == bytes(every.sizeof())
    # Mutable defaults are not shared.
    value.numbers[0] = 1
    value.where.x = 1
    assert every().numbers == [0, 0, 0]
    assert every().where.x == 0


def test_unknown_member_is_refused() -> None:
    with pytest.raises(TypeError, match="frob"):
        point(frob=1)
    value = point()
    with pytest.raises(AttributeError):
        value.frob = 1  # type: ignore[attr-defined]


def test_name_of_a_method_is_refused() -> None:
    with pytest.raises(TypeError, match="taken"):

        class bad(Struct):
            pack: u32  # type: ignore[assignment]


@given(structs(every, 64))
def test_round_trip_64(value: every) -> None:
    assert every.unpack(value.pack(64), 64) == value


@given(structs(every, 32))
def test_round_trip_32(value: every) -> None:
    assert every.unpack(value.pack(32), 32) == value


@given(structs(every, 32))
def test_widths_convert(value: every) -> None:
    """What fits 32 bits survives a way through the other layout."""
    assert every.unpack(value.pack(64), 64) == value


@given(st.binary(min_size=every.sizeof(), max_size=every.sizeof()))
def test_bytes_survive(data: bytes) -> None:
    """Unpacking and packing any bytes changes padding only."""
    once = every.unpack(data).pack()
    assert every.unpack(once).pack() == once
    covered = set()
    for item in every.fields():
        covered |= set(range(item.offset, item.offset + item.size))
    inside = every.offsetof("where") + 5, every.offsetof("points") + 5
    for at in sorted(covered):
        in_padding = any(start <= at < start + 3 for start in (*inside, inside[1] + 8))
        if not in_padding:
            assert once[at] == data[at], at


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("byte", 256),
        ("byte", -1),
        ("signed", 128),
        ("wide", 1 << 64),
        ("name", b"1234567"),
        ("raw", b"1234"),
        ("numbers", [1, 2, 3, 4]),
        ("numbers", [1, 70000]),
        ("low", 8),
        ("low", -1),
        ("word", "one"),
        ("points", [point(), point(), point()]),
    ],
)
def test_what_does_not_fit_is_refused_by_name(member: str, value: object) -> None:
    broken = every(**{member: value})
    with pytest.raises((ValueError, TypeError), match=f"every.{member}"):
        broken.pack()


def test_width_matters_for_range() -> None:
    value = every(word=1 << 32)
    assert every.unpack(value.pack(64)).word == 1 << 32
    with pytest.raises(ValueError, match=r"every\.word"):
        value.pack(32)


def test_short_data_is_refused() -> None:
    with pytest.raises(ValueError, match="point takes 8 bytes"):
        point.unpack(bytes(7))
    with pytest.raises(ValueError, match="either takes 8 bytes"):
        either.unpack(bytes(7))


def test_no_such_width() -> None:
    with pytest.raises(ValueError, match="16"):
        point.sizeof(16)
    with pytest.raises(ValueError, match="16"):
        either.sizeof(16)


def test_short_arrays_are_filled() -> None:
    assert every.unpack(every(numbers=[7]).pack()).numbers == [7, 0, 0]
    assert every.unpack(every(points=[point(x=1)]).pack()).points == [point(x=1), point()]


def test_text_ends_at_trailing_nuls_only() -> None:
    data = every(name=b"a\0b").pack()
    assert every.unpack(data).name == b"a\0b"


def test_offsetof() -> None:
    assert every.offsetof("where.y") == every.offsetof("where") + 4
    assert either.offsetof("where.y") == 4
    assert either.offsetof("small") == 0
    for path in ("nothing", "where.nothing", "byte.nothing"):
        with pytest.raises(KeyError):
            every.offsetof(path)
    with pytest.raises(KeyError):
        either.offsetof("small.nothing")


def test_bitfields_fill_from_the_lowest_bit() -> None:
    value = every(low=0b101, high=0b11001)
    assert value.pack()[every.offsetof("low")] == 0b11001101
    assert every.offsetof("low") == every.offsetof("high")


def test_bitfields_start_a_new_unit_when_full() -> None:
    class flags(Struct):
        a: Annotated[int, bitfield(u8, 6)]
        b: Annotated[int, bitfield(u8, 3)]
        c: u8

    assert [f.offset for f in flags.fields()] == [0, 1, 2]
    value = flags(a=63, b=5, c=9)
    assert value.pack() == bytes([63, 5, 9])
    assert flags.unpack(value.pack()) == value


def test_only_in_one_layout() -> None:
    value = every(late=9)
    assert every.unpack(value.pack(64), 64).late == 9
    assert every.unpack(value.pack(32), 32).late == 0


def test_packed() -> None:
    assert (tight.sizeof(), tight.alignof(), tight.offsetof("b")) == (9, 1, 1)
    assert tight(a=1, b=2).pack() == struct.pack("<BQ", 1, 2)


def test_inheritance() -> None:
    assert [name for name, _ in child.types()] == ["x", "y", "z"]
    assert child.offsetof("z") == 6
    value = child(x=1, y=2, z=3)
    assert child.unpack(value.pack()) == value
    assert value != point(x=1, y=2)


def test_equality_and_hash() -> None:
    assert point(x=1) == point(x=1)
    assert point(x=1) != point(x=2)
    assert point() != "point"
    with pytest.raises(TypeError):
        hash(point())
    with pytest.raises(TypeError):
        hash(either())


def test_copies() -> None:
    value = every(byte=1, where=point(x=2))
    assert copy.deepcopy(value) == value
    assert pickle.loads(pickle.dumps(value)) == value


def test_repr() -> None:
    class shown(Struct):
        dom: domid_t
        address: x64
        state: Annotated[int, named(u32, {1: "STATE_on"})]
        text: Annotated[bytes, chars(8)]
        raw: Annotated[bytes, octets(40)]
        many: Annotated[list[int], array(u8, 20)]
        _pad: u32

    value = shown(dom=0x7FF0, address=0xFEE00000, state=1, text=b"xen")
    assert repr(value) == (
        'shown(dom=DOMID_SELF, address=0xfee00000, state=STATE_on, text="xen", '
        f"raw={'00' * 32}... (40 bytes), many=[{'0, ' * 16}... (20)])"
    )
    assert "_pad=7" in repr(shown(_pad=7))
    assert "state=2" in repr(shown(state=2))
    # A value that doesn't fit is printed all the same.
    assert "_pad=-1" in repr(shown(_pad=-1))


def test_padding_names() -> None:
    assert all(map(is_padding, ("pad", "pad0", "_pad1", "rsvd", "_rsvd", "reserved")))
    assert not any(map(is_padding, ("port", "padlock", "dom")))


# -- unions -----------------------------------------------------------------------------------


def test_union_members_share_the_bytes() -> None:
    value = either.unpack(bytes(range(1, 9)))
    assert value.small == 0x0201
    assert value.where.y == 5
    assert value.word == 0x0807060504030201
    assert value.pack() == bytes(range(1, 9))


def test_union_reading_changes_nothing() -> None:
    """Not even the bytes that are padding in the member that was read."""
    value = either.unpack(b"\xff" * 8)
    assert value.where.y == 255
    assert value.pack() == b"\xff" * 8


def test_base_class_makes_no_objects() -> None:
    with pytest.raises(TypeError):
        Struct()


def test_union_keeps_changes_to_a_member() -> None:
    value = either.unpack(bytes(8))
    value.where.x = 7
    assert value.pack() == struct.pack("<IB3x", 7, 0)
    value.small = 1
    assert value.pack() == struct.pack("<HHI", 1, 0, 0)
    assert value.active() == "small"


def test_union_setting_a_small_member_keeps_the_rest() -> None:
    value = either.unpack(b"\xff" * 8)
    value.small = 0
    assert value.pack() == b"\0\0" + b"\xff" * 6


def test_union_size_is_that_of_its_largest_member() -> None:
    assert either.sizeof(64) == 8
    assert either.sizeof(32) == 8
    assert [f.name for f in either.fields()] == ["small", "where", "word"]


def test_union_converts_once_a_member_is_chosen() -> None:
    value = either.unpack(struct.pack("<IB3x", 9, 1), 32)
    with pytest.raises(ValueError, match="no member chosen"):
        value.pack(64)
    assert value.where.x == 9
    assert either.unpack(value.pack(64), 64).where == point(x=9, y=1)


def test_union_constructor() -> None:
    assert either().pack() == bytes(8)
    assert either(small=3).small == 3
    with pytest.raises(TypeError, match="one member"):
        either(small=1, word=2)
    with pytest.raises(AttributeError):
        either(nothing=1)
    with pytest.raises(AttributeError):
        _ = either().nothing


def test_union_equality_is_that_of_bytes() -> None:
    assert either(small=1) == either(word=1)
    assert either(small=1) != either(small=2)
    assert either() != 0


def test_union_peek_leaves_the_active_member() -> None:
    value = either(small=5)
    assert value.peek("word") == 5
    assert value.peek("small") == 5
    assert value.active() == "small"


def test_union_prints_the_selected_member() -> None:
    value = tagged(kind=2, u=either.unpack(struct.pack("<IB3x", 9, 1)))
    assert repr(value) == "tagged(kind=2, u=either(where=point(x=9, y=1)))"
    assert repr(tagged(kind=1, u=either(small=4))) == "tagged(kind=1, u=either(small=4))"
    assert repr(tagged(kind=9, u=either())) == "tagged(kind=9, u=either())"
    assert value.select("u") == "where"
    assert tagged(kind=9).select("u") is None
    assert value.select("kind") is None


@given(structs(tagged, 64))
def test_round_trip_with_union(value: tagged) -> None:
    assert tagged.unpack(value.pack()) == value
