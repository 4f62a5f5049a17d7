# SPDX-License-Identifier: GPL-2.0-or-later
"""The 2-level ABI: bitmaps in shared_info, a selector word in vcpu_info.

public/xen.h (struct shared_info, struct vcpu_info), public/event_channel.h
(EVTCHN_2L_NR_CHANNELS).  A port becomes pending in shared_info.evtchn_pending; if it isn't
in evtchn_mask, its word's bit is set in the vCPU's evtchn_pending_sel; and if that was clear,
the vCPU gets its upcall.
"""

from __future__ import annotations

from collections.abc import Iterator

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.xen import shared_info, vcpu_info
from xenograft.hypervisor.events.channel import Channel
from xenograft.hypervisor.events.polling import check_pollers
from xenograft.hypervisor.events.protocols import EventDomain

_LAYOUT = {
    bits: (
        shared_info.offsetof("evtchn_pending", bits),
        shared_info.offsetof("evtchn_mask", bits),
        vcpu_info.offsetof("evtchn_pending_sel", bits),
    )
    for bits in (32, 64)
}


class TwoLevelAbi:
    """Delivery through shared_info."""

    name = "2-level"

    def __init__(self, domain: EventDomain) -> None:
        self._domain = domain

    @property
    def max_channels(self) -> int:
        bits = self._domain.bits
        return bits * bits

    def bind(self, channel: Channel) -> None:
        return

    def set_pending(self, vcpu_id: int, channel: Channel) -> None:
        domain, port = self._domain, channel.port
        if port >= self.max_channels:
            return
        pending, mask, _ = _LAYOUT[domain.bits]
        if domain.memory.test_and_set_bit(domain.shared_info_maddr + pending, port):
            return
        if not self._test(mask, port):
            self._select(vcpu_id, port)
        check_pollers(domain, port)

    def clear_pending(self, channel: Channel) -> None:
        domain = self._domain
        if channel.port < self.max_channels:
            pending = _LAYOUT[domain.bits][0]
            domain.memory.test_and_clear_bit(domain.shared_info_maddr + pending, channel.port)

    def unmask(self, channel: Channel) -> None:
        domain, port = self._domain, channel.port
        if port >= self.max_channels:
            return
        pending, mask, _ = _LAYOUT[domain.bits]
        was_masked = domain.memory.test_and_clear_bit(domain.shared_info_maddr + mask, port)
        if was_masked and self._test(pending, port):
            self._select(channel.notify_vcpu_id, port)

    def is_pending(self, channel: Channel) -> bool:
        if channel.port >= self.max_channels:
            return False
        return self._test(_LAYOUT[self._domain.bits][0], channel.port)

    def is_masked(self, channel: Channel) -> bool:
        if channel.port >= self.max_channels:
            return True
        return self._test(_LAYOUT[self._domain.bits][1], channel.port)

    def set_priority(self, channel: Channel, priority: int) -> None:
        raise XenError(Errno.ENOSYS)

    def is_busy(self, channel: Channel) -> bool:
        return False

    def first_idle(self, free: bytearray) -> int:
        return free.find(1)

    def pending_ports(self) -> Iterator[int]:
        """All ports whose pending bit is set, bound or not, ascending."""
        domain = self._domain
        maddr = domain.shared_info_maddr + _LAYOUT[domain.bits][0]
        bits = int.from_bytes(domain.memory.read(maddr, self.max_channels // 8), "little")
        while bits:
            yield (bits & -bits).bit_length() - 1
            bits &= bits - 1

    def _test(self, offset: int, port: int) -> bool:
        maddr = self._domain.shared_info_maddr + offset + (port >> 3)
        return bool(self._domain.memory.read(maddr, 1)[0] >> (port & 7) & 1)

    def _select(self, vcpu_id: int, port: int) -> None:
        domain = self._domain
        vcpu = domain.vcpus[vcpu_id]
        maddr = vcpu.vcpu_info_maddr
        if maddr is None:
            # Nothing is lost: registering a vcpu_info marks every word in it pending.
            return
        bits = domain.bits
        if not domain.memory.test_and_set_bit(maddr + _LAYOUT[bits][2], port // bits):
            vcpu.mark_events_pending()
