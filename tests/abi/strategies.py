# SPDX-License-Identifier: GPL-2.0-or-later
"""Hypothesis strategies for anything that `xenograft.abi` declares."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any, TypeVar

from hypothesis import strategies as st

from xenograft import abi
from xenograft.abi import ctype
from xenograft.abi.struct import Struct, Union

S = TypeVar("S", bound=Struct)
U = TypeVar("U", bound=Union)


def values(kind: ctype.CType, bits: int) -> st.SearchStrategy[Any]:
    """Values that fit a C type in the layout for `bits`."""
    if isinstance(kind, ctype.Scalar | ctype.BitField):
        low, high = kind.limits(bits)
        return st.integers(low, high)
    if isinstance(kind, ctype.Bytes):
        # Long ones repeat what was drawn, as with arrays below.
        length = kind.length
        if kind.text:
            return st.binary(max_size=min(length, 64)).map(lambda data: data.rstrip(b"\0"))
        short = min(length, 16)
        drawn = st.binary(min_size=short, max_size=short)
        return drawn.map(lambda data: (data * (length // short + 1))[:length] if short else b"")
    if isinstance(kind, ctype.ArrayType):
        # Long arrays repeat a few drawn values: what matters is their place, not their number.
        if kind.length > 8:
            few = st.lists(values(kind.element, bits), min_size=3, max_size=3)
            return few.map(lambda items: [items[i % 3] for i in range(kind.length)])
        return st.lists(values(kind.element, bits), min_size=kind.length, max_size=kind.length)
    if isinstance(kind, ctype.Only):
        if kind.bits != bits:
            return st.builds(kind.default)
        return values(kind.inner, bits)
    if isinstance(kind, ctype.Nested):
        cls: type[Struct] | type[Union] = kind.cls
        return unions(cls, bits) if issubclass(cls, Union) else structs(cls, bits)
    raise TypeError(kind)


def structs(cls: type[S], bits: int = 64) -> st.SearchStrategy[S]:
    """Structures of one class, all members drawn."""
    return st.fixed_dictionaries({name: values(kind, bits) for name, kind in cls.types()}).map(
        lambda members: cls(**members)
    )


def unions(cls: type[U], bits: int = 64) -> st.SearchStrategy[U]:
    """Unions of one class with one member set."""
    members = st.one_of(
        *(
            values(kind, bits).map(lambda value, name=name: {name: value})  # type: ignore[misc]
            for name, kind in cls.types()
        )
    )
    return members.map(lambda member: cls(**member))


def modules() -> list[Any]:
    """All modules of the abi layer, by name."""
    found = pkgutil.walk_packages(abi.__path__, "xenograft.abi.")
    return [importlib.import_module(info.name) for info in sorted(found, key=lambda m: m.name)]


def classes() -> list[type[Struct] | type[Union]]:
    """All structures and unions of the abi layer, by module and name."""
    return [
        value
        for module in modules()
        for name, value in sorted(vars(module).items())
        if isinstance(value, type)
        and issubclass(value, Struct | Union)
        and value.__module__ == module.__name__
        and value not in (Struct, Union)
        and name == value.__name__
    ]
