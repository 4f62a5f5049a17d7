# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests of several layers share: distribution kernels, and guests of our own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from xenograft.guests import GuestBuildError, guest_path
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.images.cache import ImageCache

# No test measures time: a busy host may take as long as it needs.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")
"""Whether tests that need something from outside must run, instead of being skipped."""


def unavailable(reason: str) -> None:
    """Skip the test; fail it in CI, where a skipped boot would pass for a boot."""
    if IN_CI:
        pytest.fail(f"CI needs this: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def image() -> Callable[[str], Path]:
    """`image("debian-cloud")`: the path of an image by name, fetched once into the usual cache."""
    cache = ImageCache()

    def get(name: str) -> Path:
        try:
            return cache.get(name).path
        except UserError as error:
            unavailable(str(error))
            raise

    return get


@pytest.fixture(scope="session")
def guest() -> Callable[[str], Path]:
    """`guest("demo-64")`: one of our own guests, built if need be."""

    def get(name: str) -> Path:
        try:
            return guest_path(name)
        except GuestBuildError as error:
            unavailable(str(error))
            raise

    return get
