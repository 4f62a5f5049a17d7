# SPDX-License-Identifier: GPL-2.0-or-later
"""Closes the machines that a test has opened."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hypervisor.support import OPEN


@pytest.fixture(autouse=True)
def _close_benches() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()
