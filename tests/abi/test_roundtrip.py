# SPDX-License-Identifier: GPL-2.0-or-later
"""Every structure of the public interface: drawn, packed, read back, printed."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings

from tests.abi.strategies import classes, modules, structs
from xenograft.abi.struct import Struct, Union

CLASSES = [cls for cls in classes() if issubclass(cls, Struct)]
UNIONS = [cls for cls in classes() if issubclass(cls, Union)]
IDS = [f"{cls.__module__.removeprefix('xenograft.abi.')}.{cls.__name__}" for cls in CLASSES]

# A few examples each: there are hundreds of classes, and they share one implementation.
few = settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def test_there_is_something_to_test() -> None:
    assert len(CLASSES) > 300
    assert len(UNIONS) > 40


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("cls", CLASSES, ids=IDS)
def test_round_trip(cls: type[Struct], bits: int) -> None:
    @few
    @given(structs(cls, bits))
    def check(value: Struct) -> None:
        data = value.pack(bits)
        assert len(data) == cls.sizeof(bits)
        again = cls.unpack(data, bits)
        assert again == value
        assert again.pack(bits) == data
        assert repr(again).startswith(cls.__name__ + "(")

    check()


@pytest.mark.parametrize("cls", CLASSES, ids=IDS)
def test_any_bytes_can_be_read_and_printed(cls: type[Struct]) -> None:
    """A hostile guest's bytes never raise, and printing them never does either."""

    random = Random(cls.__name__)
    for _ in range(3):
        repr(cls.unpack(random.randbytes(cls.sizeof())))


def test_discriminators_name_members() -> None:
    """`_selects_` speaks of members that exist."""
    seen = 0
    for cls in CLASSES:
        for union, (tag, members) in cls._selects_.items():
            kinds = dict(cls.types())
            assert tag in kinds, cls
            names = {name for name, _ in kinds[union].cls.types()}  # type: ignore[attr-defined]
            # Operations without an operand name themselves; they must not name another's.
            assert members.keys(), cls
            assert names & set(members.values()), cls
            seen += 1
    assert seen > 10


def test_name_tables_agree_with_the_constants() -> None:
    for module in modules():
        for table, names in vars(module).items():
            if not table.endswith("_NAMES") or not isinstance(names, dict):
                continue
            assert names, table
            for number, name in names.items():
                found = [
                    value
                    for constant, value in vars(module).items()
                    if constant.endswith(name) and isinstance(value, int)
                ]
                if found:
                    assert number in found, (module.__name__, name)
