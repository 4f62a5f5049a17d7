# SPDX-License-Identifier: GPL-2.0-or-later
"""The points where tests make things go wrong: asked where they should be, and only there."""

from __future__ import annotations

from xenograft.abi.grant_table import GNTST_bad_page, GNTST_eagain
from xenograft.hypervisor.faults import FaultPoints


def test_the_first_that_wants_a_fault_decides() -> None:
    points = FaultPoints()
    asked: list[str] = []

    def never(caller: int, granter: int, ref: int) -> int:
        asked.append("never")
        return 0

    def odd(caller: int, granter: int, ref: int) -> int:
        asked.append("odd")
        return GNTST_bad_page if ref % 2 else 0

    def always(caller: int, granter: int, ref: int) -> int:
        asked.append("always")
        return GNTST_eagain

    for fault in (never, odd, always):
        points.add_grant_map(fault)
    assert points.grant_map is not None
    assert points.grant_map(0, 1, 7) == GNTST_bad_page
    assert points.grant_map(0, 1, 8) == GNTST_eagain
    assert asked == ["never", "odd", "never", "odd", "always"]
    assert points.grant_copy is None
    for fault in (never, odd, always, always):
        points.remove(fault)
    assert points.grant_map is None
