# SPDX-License-Identifier: GPL-2.0-or-later
"""Opens a bridge's way to the outside, with the machine's door, timers and clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xenograft.backends.net.bridge import TAP, Bridge
from xenograft.backends.net.networks import NetworkError, Uplink
from xenograft.backends.net.switch import Port

if TYPE_CHECKING:
    from xenograft.hypervisor.hypervisor import Hypervisor


def uplinks(hypervisor: Hypervisor, library: Callable[[], Sequence[Path]] = tuple) -> Uplink:
    """What opens a machine's uplinks; `library` finds libslirp's files (see libslirp.load)."""

    def open_uplink(bridge: Bridge, /) -> tuple[Port, Callable[[], None]]:
        # What a machine doesn't use isn't loaded.
        if bridge.uplink == TAP:
            from xenograft.backends.net.tap import TapError, TapPort

            try:
                tap = TapPort(f"{bridge.name}-{bridge.tap}", bridge.tap, hypervisor.door)
            except TapError as error:
                raise NetworkError(f"bridge {bridge.name}: {error}") from None
            return tap, tap.close
        from xenograft.backends.net.libslirp import LibraryMissing
        from xenograft.backends.net.user import UserNetwork

        try:
            user = UserNetwork(
                f"{bridge.name}-user",
                hypervisor.door,
                hypervisor.timers,
                hypervisor.clock.now,
                mtu=bridge.mtu,
                restricted=bridge.restricted,
                library=library,
                log=hypervisor.log.write,
            )
        except LibraryMissing as error:
            raise NetworkError(f"bridge {bridge.name}: {error}") from None
        return user, user.close

    return open_uplink
