# SPDX-License-Identifier: GPL-2.0-or-later
"""Sizes and offsets against numbers that a C compiler gave for Xen 4.17's headers.

``layouts.txt``: module.structure, size (x86-64, i386), then member=offset,offset; "-" where a
layout has no such structure or member.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from xenograft.abi.ctype import Only
from xenograft.abi.struct import Struct, Union

LINES = (Path(__file__).parent / "layouts.txt").read_text().splitlines()


@pytest.mark.parametrize("line", LINES, ids=[line.split()[0] for line in LINES])
def test_layout(line: str) -> None:
    path, size64, size32, *members = line.split()
    module, _, name = path.rpartition(".")
    cls: type[Struct] | type[Union] = getattr(
        importlib.import_module(f"xenograft.abi.{module}"), name
    )
    for bits, size in ((64, size64), (32, size32)):
        if size != "-":
            assert cls.sizeof(bits) == int(size)
    for member in members:
        field, _, offsets = member.partition("=")
        for bits, offset in zip((64, 32), offsets.split(","), strict=True):
            if offset != "-":
                assert cls.offsetof(field, bits) == int(offset), (field, bits)


def test_no_member_is_left_out() -> None:
    """Every member of every listed structure has its number, but for those C can't name."""
    unnamed = 0
    for line in LINES:
        path, _, _, *members = line.split()
        module, _, name = path.rpartition(".")
        cls = getattr(importlib.import_module(f"xenograft.abi.{module}"), name)
        listed = {member.partition("=")[0] for member in members}
        for field, ctype in cls.types():
            # Bit fields have no offset in C; members of one layout are listed for it alone.
            if field not in listed and not isinstance(ctype, Only):
                unnamed += 1
    assert unnamed < 60
