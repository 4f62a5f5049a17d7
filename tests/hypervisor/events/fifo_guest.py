# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's side of the FIFO ABI, consuming queues in the way a kernel does."""

from __future__ import annotations

from tests.hypervisor.events.support import Domain
from xenograft.abi.event_channel import (
    EVTCHN_FIFO_LINK_MASK,
    EVTCHN_FIFO_LINKED,
    EVTCHN_FIFO_MASKED,
    EVTCHN_FIFO_MAX_QUEUES,
    EVTCHN_FIFO_PENDING,
)

CONTROL_GFN = 0x100
ARRAY_GFN = 0x200


class FifoGuest:
    """Control blocks at CONTROL_GFN + vcpu, `pages` array pages from ARRAY_GFN.

    `ready` and `heads` are what the kernel keeps for itself between visits, per vCPU.
    """

    def __init__(self, domain: Domain, pages: int = 1) -> None:
        self.domain = domain
        self.memory = domain.memory
        self.control = []
        for vcpu in domain.vcpus:
            self.control.append(domain.new_page(CONTROL_GFN + vcpu.vcpu_id) << 12)
            domain.events.init_control(vcpu.vcpu_id, CONTROL_GFN + vcpu.vcpu_id, 0)
        self.array: list[int] = []
        for page in range(pages):
            self.add_page(page)
        self.ready = [0] * len(domain.vcpus)
        self.heads = [[0] * EVTCHN_FIFO_MAX_QUEUES for _ in domain.vcpus]

    def add_page(self, index: int) -> None:
        self.array.append(self.domain.new_page(ARRAY_GFN + index) << 12)
        self.domain.events.expand_array(ARRAY_GFN + index)

    # -- words ------------------------------------------------------------------------------
    def word_maddr(self, port: int) -> int:
        return self.array[port // 1024] + port % 1024 * 4

    def word(self, port: int) -> int:
        return self.memory.read_u32(self.word_maddr(port))

    def bit(self, port: int, bit: int) -> bool:
        return bool(self.word(port) >> bit & 1)

    def mask(self, port: int) -> None:
        self.memory.test_and_set_bit(self.word_maddr(port), EVTCHN_FIFO_MASKED)

    def unmask(self, port: int) -> None:
        """Clear MASKED in the word; call Xen only if the event is pending."""
        self.memory.test_and_clear_bit(self.word_maddr(port), EVTCHN_FIFO_MASKED)
        if self.bit(port, EVTCHN_FIFO_PENDING):
            self.domain.events.unmask(port)

    # -- queues -----------------------------------------------------------------------------
    def take_ready(self, vcpu: int) -> None:
        """Move the control block's ready bits to our own (xchg with 0)."""
        self.ready[vcpu] |= self.memory.read_u32(self.control[vcpu])
        self.memory.write_u32(self.control[vcpu], 0)

    def consume_one(self, vcpu: int) -> int | None:
        """Take one event off the best ready queue; its port if it was to be handled.

        Returns 0 if the event taken wasn't pending or is masked, None if nothing is ready.
        """
        self.take_ready(vcpu)
        if not self.ready[vcpu]:
            return None
        queue = (self.ready[vcpu] & -self.ready[vcpu]).bit_length() - 1
        port = self.heads[vcpu][queue]
        if port == 0:
            port = self.memory.read_u32(self.control[vcpu] + 8 + 4 * queue)
        word = self.word(port)
        link = word & EVTCHN_FIFO_LINK_MASK
        word &= ~(1 << EVTCHN_FIFO_LINKED | EVTCHN_FIFO_LINK_MASK)
        self.memory.write_u32(self.word_maddr(port), word)
        self.heads[vcpu][queue] = link
        if link == 0:
            self.ready[vcpu] &= ~(1 << queue)
        handled = word >> EVTCHN_FIFO_PENDING & 1 and not word >> EVTCHN_FIFO_MASKED & 1
        if handled:
            self.memory.test_and_clear_bit(self.word_maddr(port), EVTCHN_FIFO_PENDING)
        return port if handled else 0

    def consume_all(self, vcpu: int, limit: int = 10_000) -> list[int]:
        """All events of a vCPU, in the order in which they're handled."""
        handled = []
        for _ in range(limit):
            port = self.consume_one(vcpu)
            if port is None:
                return handled
            if port:
                handled.append(port)
        raise AssertionError("the queues have no end")
