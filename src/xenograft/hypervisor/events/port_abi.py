# SPDX-License-Identifier: GPL-2.0-or-later
"""How a port's pending and masked states reach the guest: one small protocol, three ABIs.

`two_level` is the bitmap in shared_info, `fifo` the event array with its queues, and `host`
the ports of the embedded control domain, whose consumer is Python (Xen's evtchn_port_ops).
"""

from __future__ import annotations

from typing import Protocol

from xenograft.hypervisor.events.channel import Channel


class PortAbi(Protocol):
    """The operations that differ between ABIs.  Callers check `Channel.usable` first."""

    @property
    def name(self) -> str: ...

    @property
    def max_channels(self) -> int:
        """Ports from this number up can't be had."""
        ...

    def bind(self, channel: Channel) -> None:
        """The port has just been bound."""
        ...

    def set_pending(self, vcpu_id: int, channel: Channel) -> None: ...
    def clear_pending(self, channel: Channel) -> None: ...
    def unmask(self, channel: Channel) -> None: ...
    def is_pending(self, channel: Channel) -> bool: ...
    def is_masked(self, channel: Channel) -> bool: ...
    def set_priority(self, channel: Channel, priority: int) -> None:
        """Raises XenError: ENOSYS where there are no priorities, EINVAL for a bad one."""
        ...

    def is_busy(self, channel: Channel) -> bool:
        """Whether a free port is still in a queue that it was in when it was closed."""
        ...

    def first_idle(self, free: bytearray) -> int:
        """The first port with a 1 in `free` that isn't busy, or -1."""
        ...
