# SPDX-License-Identifier: GPL-2.0-or-later
"""The conformance suite, run against each engine."""

from __future__ import annotations

import importlib

import pytest

from xenograft.engine.fake import FakeEngine
from xenograft.engine.protocol import Engine

pytest.register_assert_rewrite("tests.engine.conformance")

from tests.engine.conformance import (  # noqa: E402  (after the rewrite is registered)
    DataConformance,
    DirtyConformance,
    MemoryConformance,
    SharingConformance,
    SpaceConformance,
    memory,
    space,
)

__all__ = ["memory", "space"]


@pytest.fixture(params=["fake", "unicorn"])
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "fake":
        return FakeEngine()
    try:
        module = importlib.import_module("xenograft.engine.unicorn")
    except ImportError as error:
        pytest.skip(f"the native engine isn't built: {error}")
    engine: Engine = module.UnicornEngine()
    return engine


class TestMemory(MemoryConformance):
    pass


class TestDirty(DirtyConformance):
    pass


class TestSpace(SpaceConformance):
    pass


class TestSharing(SharingConformance):
    pass


class TestData(DataConformance):
    pass
