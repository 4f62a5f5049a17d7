# SPDX-License-Identifier: GPL-2.0-or-later
"""What is decided about a domain that has ended."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenograft.abi import sched
from xenograft.toolstack.config.domain import Action, DomainConfig
from xenograft.toolstack.service.lifecycle import (
    RESTART_INTERVAL_NS,
    Fate,
    decide,
    preserved_name,
    restart_delay_ns,
)

EVENTS = {
    "on_poweroff": sched.SHUTDOWN_poweroff,
    "on_reboot": sched.SHUTDOWN_reboot,
    "on_crash": sched.SHUTDOWN_crash,
    "on_watchdog": sched.SHUTDOWN_watchdog,
    "on_soft_reset": sched.SHUTDOWN_soft_reset,
}
MEANING: dict[str, tuple[bool, Fate, bool]] = {
    "destroy": (False, Fate.DESTROY, False),
    "restart": (False, Fate.DESTROY, True),
    "rename-restart": (False, Fate.RENAME, True),
    "preserve": (False, Fate.KEEP, False),
    "coredump-destroy": (True, Fate.DESTROY, False),
    "coredump-restart": (True, Fate.DESTROY, True),
    "soft-reset": (False, Fate.RENEW, False),
}


def test_every_action_has_a_meaning() -> None:
    assert set(MEANING) == set(get_args(Action))


@pytest.mark.parametrize("key", EVENTS)
@pytest.mark.parametrize("action", MEANING)
def test_each_event_has_its_key(key: str, action: str) -> None:
    values: dict[str, Any] = {key: action}
    plan = decide(EVENTS[key], DomainConfig(**values))
    assert (plan.dump, plan.fate, plan.rebuild) == MEANING[action]
    assert f"{key}={action}" in plan.why
    # The other events go on as they were.
    for other, reason in EVENTS.items():
        if other != key:
            assert decide(reason, DomainConfig(**values))[:3] == decide(reason, DomainConfig())[:3]


def test_a_suspended_domain_is_kept() -> None:
    config = DomainConfig(on_poweroff="restart", on_crash="restart")
    assert decide(sched.SHUTDOWN_suspend, config)[:3] == (False, Fate.KEEP, False)


@given(st.integers(6, 1 << 32) | st.none())
def test_an_unknown_reason_destroys(reason: int | None) -> None:
    config = DomainConfig(on_poweroff="preserve", on_crash="preserve", on_reboot="preserve")
    assert decide(reason, config)[:3] == (False, Fate.DESTROY, False)


@given(st.integers())
def test_restarts_keep_their_distance(age: int) -> None:
    delay = restart_delay_ns(age)
    assert 0 <= delay <= RESTART_INTERVAL_NS
    assert max(age, 0) + delay >= RESTART_INTERVAL_NS


@given(st.text(st.characters(categories=["Ll"]), min_size=1, max_size=64), st.integers(0, 3))
def test_a_preserved_domain_gets_a_free_name(name: str, taken: int) -> None:
    names = {name}
    for _ in range(taken):
        names.add(preserved_name(name, "20261128T0205Z", names))
    found = preserved_name(name, "20261128T0205Z", names)
    assert found not in names
    assert found.startswith(name[:40])
    # It can be a domain's name.
    DomainConfig(name=found)
