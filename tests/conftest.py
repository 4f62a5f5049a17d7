# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests of several layers share: distribution kernels, and guests of our own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import settings

from xenograft.guests import GuestBuildError, guest_path
from xenograft.guests.build import TOOLS, build
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.images.cache import ImageCache

IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")
"""Whether tests that need something from outside must run, instead of being skipped."""


# No test measures time, a busy machine's least of all.  In CI properties are tried on the same
# examples each time: what fails there can be repeated; other examples are tried elsewhere.
settings.register_profile("xenograft", deadline=None, derandomize=IN_CI)
settings.load_profile("xenograft")


def unavailable(reason: str) -> None:
    """Skip the test; fail it in CI, where a skipped boot would pass for a boot."""
    if IN_CI:
        pytest.fail(f"CI needs this: {reason}")
    pytest.skip(reason)


MUST_RUN = ("arch", "cli", "docs", "engine", "guests", "hypervisor", "observe")
"""Folders whose tests need nothing but what the set-up makes, and the cached images."""

MAY_BE_SKIPPED = ("root reads everything", "the disassembler doesn't know", "no git checkout")
"""Reasons that are good ones all the same."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a test that matters fails, where it would be skipped elsewhere."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        folder = Path(item.nodeid).parts[1]
        reason = str(report.longrepr)
        if folder in MUST_RUN and not any(good in reason for good in MAY_BE_SKIPPED):
            report.outcome = "failed"
            report.longrepr = f"CI needs this: {reason}"
    return report


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

    built: list[GuestBuildError | None] = []

    def get(name: str) -> Path:
        try:
            if not built:  # what lies there may be older than the sources
                try:
                    build()
                    built.append(None)
                except GuestBuildError as error:
                    built.append(error)
            if name != "demo-64" and built[0] is not None:
                raise built[0]
            return guest_path(name)
        except GuestBuildError as error:
            if all(shutil.which(tool) for tool in TOOLS):
                pytest.fail(str(error))
            unavailable(str(error))
            raise

    return get
