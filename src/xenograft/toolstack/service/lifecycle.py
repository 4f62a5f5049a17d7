# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens to a domain that has shut down: pure decisions (xl's handle_domain_death).

Source: xl.cfg(5), "Event Actions".
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from xenograft.abi import sched
from xenograft.toolstack.config.domain import Action, DomainConfig

RESTART_INTERVAL_NS = 1_000_000_000
"""Between two builds of a guest that ends as soon as it's built: it may not keep us busy."""


class Fate(Enum):
    """What becomes of the domain."""

    KEEP = auto()
    """It stays as it is, for somebody to look at or resume."""
    DESTROY = auto()
    RENAME = auto()
    """It stays, under another name."""
    RENEW = auto()
    """Its memory and processors go on in a domain whose ways to Xen are new."""


class Plan(NamedTuple):
    """What is to be done, in this order: a core dump, the domain's fate, another one built."""

    dump: bool
    fate: Fate
    rebuild: bool
    why: str
    """For the log."""


_PLANS: dict[Action, tuple[bool, Fate, bool]] = {
    "destroy": (False, Fate.DESTROY, False),
    "restart": (False, Fate.DESTROY, True),
    "rename-restart": (False, Fate.RENAME, True),
    "preserve": (False, Fate.KEEP, False),
    "coredump-destroy": (True, Fate.DESTROY, False),
    "coredump-restart": (True, Fate.DESTROY, True),
    "soft-reset": (False, Fate.RENEW, False),
}

_EVENTS: dict[int, tuple[str, str]] = {
    sched.SHUTDOWN_poweroff: ("on_poweroff", "has powered off"),
    sched.SHUTDOWN_reboot: ("on_reboot", "wants to reboot"),
    sched.SHUTDOWN_crash: ("on_crash", "has crashed"),
    sched.SHUTDOWN_watchdog: ("on_watchdog", "was ended by its watchdog"),
    sched.SHUTDOWN_soft_reset: ("on_soft_reset", "wants a soft reset"),
}


def decide(reason: int | None, config: DomainConfig) -> Plan:
    """The plan for a domain that shut down for `reason` (SHUTDOWN_*).

    A suspended domain belongs to whoever suspended it.  A reason that Xen doesn't know destroys
    the domain, as in xl.
    """
    if reason == sched.SHUTDOWN_suspend:
        return Plan(False, Fate.KEEP, False, "has suspended")
    event = _EVENTS.get(-1 if reason is None else reason)
    if event is None:
        return Plan(False, Fate.DESTROY, False, f"has shut down, unknown reason code {reason}")
    key, why = event
    action: Action = getattr(config, key)
    return Plan(*_PLANS[action], f"{why}: {key}={action}")


def restart_delay_ns(age_ns: int) -> int:
    """How long to wait before a domain that lived for `age_ns` is built again."""
    return max(RESTART_INTERVAL_NS - max(age_ns, 0), 0)


def preserved_name(name: str, when: str, taken: set[str]) -> str:
    """The name of a domain that makes room for its successor: "web-20261128T0205Z".

    >>> preserved_name("web", "20261128T0205Z", {"web"})
    'web-20261128T0205Z'
    """
    base = f"{name[:40]}-{when}"
    candidate, number = base, 1
    while candidate in taken:
        candidate, number = f"{base}-{number}", number + 1
    return candidate
