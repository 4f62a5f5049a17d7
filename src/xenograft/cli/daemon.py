# SPDX-License-Identifier: GPL-2.0-or-later
"""The host service's process, with the views of its machine that `xg` has commands for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from xenograft.toolstack.service import daemon
from xenograft.toolstack.service.views import MAKERS, Reporter

if TYPE_CHECKING:
    from xenograft.toolstack.machine import Machine


def watch_xenbus(machine: Machine) -> Reporter:
    """Follow the states of all split devices (`xg xenbus`)."""
    from xenograft.observe.xenbus.tracker import XenbusTracker

    hypervisor = machine.hypervisor
    tracker = XenbusTracker(lambda domid: domid in hypervisor.domains)
    hypervisor.instruments.add(tracker)
    return lambda domid: msgspec.json.encode(tracker.view(hypervisor.clock.now(), domid)).decode()


MAKERS["xenbus"] = watch_xenbus

if __name__ == "__main__":
    daemon.main()
