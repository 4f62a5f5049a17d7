# SPDX-License-Identifier: GPL-2.0-or-later
"""The FIFO ABI: an array of event words, and per vCPU a control block of 16 queues.

public/event_channel.h and docs/design "Event Channels: FIFO".  An event word holds PENDING,
MASKED, LINKED and BUSY bits and, while linked, the port of the next event in its queue.  The
guest takes events off a queue's head; Xen appends at the tail, which only Xen knows.  A queue
whose head was updated has its bit set in the control block's `ready`.

The guest may write anything into both at any time.  All that is trusted here is what is kept
outside guest memory: tails, sizes, and which queue a port was last put on.
"""

from __future__ import annotations

import msgspec

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.event_channel import (
    EVTCHN_FIFO_BUSY,
    EVTCHN_FIFO_LINK_MASK,
    EVTCHN_FIFO_LINKED,
    EVTCHN_FIFO_MASKED,
    EVTCHN_FIFO_MAX_QUEUES,
    EVTCHN_FIFO_NR_CHANNELS,
    EVTCHN_FIFO_PENDING,
    EVTCHN_FIFO_PRIORITY_DEFAULT,
    EVTCHN_FIFO_PRIORITY_MIN,
    evtchn_fifo_control_block,
)
from xenograft.hypervisor.events.channel import Channel
from xenograft.hypervisor.events.polling import check_pollers
from xenograft.hypervisor.events.protocols import EventDomain, Frames

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
WORD_SIZE = 4
WORDS_PER_PAGE = PAGE_SIZE // WORD_SIZE
MAX_ARRAY_PAGES = EVTCHN_FIFO_NR_CHANNELS // WORDS_PER_PAGE
CONTROL_BLOCK_SIZE = evtchn_fifo_control_block.sizeof()
_HEAD_OFFSET = evtchn_fifo_control_block.offsetof("head")
_READY_OFFSET = evtchn_fifo_control_block.offsetof("ready")

_LINK_FIELD = 1 << EVTCHN_FIFO_BUSY | EVTCHN_FIFO_LINK_MASK
_LINK_TRIES = 4

# A word's top byte -> 1 where LINKED is clear, for scanning a page of words at once.
_UNLINKED = bytes(0 if top >> (EVTCHN_FIFO_LINKED - 24) & 1 else 1 for top in range(256))


class FifoVcpuRecord(msgspec.Struct, frozen=True):
    """One vCPU's queues: where its control block is (None: not registered), and the tails."""

    control_gfn: int | None
    offset: int
    tails: tuple[int, ...]


class FifoRecord(msgspec.Struct, frozen=True):
    """The FIFO state of a domain, with frames named by gfn."""

    array_gfns: tuple[int, ...]
    vcpus: tuple[FifoVcpuRecord, ...]


class _FifoVcpu:
    """Xen's struct evtchn_fifo_vcpu."""

    __slots__ = ("control_gfn", "control_maddr", "offset", "tails")

    def __init__(self) -> None:
        self.control_gfn: int | None = None
        self.control_maddr: int | None = None
        self.offset = 0
        self.tails = [0] * EVTCHN_FIFO_MAX_QUEUES


class FifoAbi:
    """Delivery through the event array; `frames` finds the pages that the guest names."""

    name = "fifo"
    max_channels = EVTCHN_FIFO_NR_CHANNELS

    def __init__(self, domain: EventDomain, frames: Frames) -> None:
        self._domain = domain
        self._frames = frames
        self._vcpus = [_FifoVcpu() for _ in domain.vcpus]
        self._array: list[int | None] = []
        self._array_gfns: list[int] = []

    # -- set-up -----------------------------------------------------------------------------
    def map_control_block(self, vcpu_id: int, gfn: int, offset: int) -> None:
        """Register a vCPU's control block; `offset` has been checked.

        Raises XenError(EINVAL) if it has one, or if gfn isn't writable RAM.
        """
        state = self._vcpus[vcpu_id]
        if state.control_maddr is not None:
            raise XenError(Errno.EINVAL)
        mfn = self._frames.get_writable(gfn)
        state.control_gfn = gfn
        state.offset = offset
        state.control_maddr = (mfn << PAGE_SHIFT) + offset

    def add_array_page(self, gfn: int) -> range:
        """Append a page to the event array; returns the ports whose words it holds.

        Raises XenError: ENOSPC when the array is full, EINVAL for a bad gfn.
        """
        if len(self._array) >= MAX_ARRAY_PAGES:
            raise XenError(Errno.ENOSPC)
        self._array.append(self._frames.get_writable(gfn) << PAGE_SHIFT)
        self._array_gfns.append(gfn)
        first = (len(self._array) - 1) * WORDS_PER_PAGE
        return range(first, first + WORDS_PER_PAGE)

    def destroy(self) -> None:
        """Give all pages back."""
        for state in self._vcpus:
            if state.control_maddr is not None:
                self._frames.put(state.control_maddr >> PAGE_SHIFT)
        for maddr in self._array:
            if maddr is not None:
                self._frames.put(maddr >> PAGE_SHIFT)
        self._vcpus = [_FifoVcpu() for _ in self._vcpus]
        self._array.clear()
        self._array_gfns.clear()

    # -- PortAbi ----------------------------------------------------------------------------
    def bind(self, channel: Channel) -> None:
        channel.priority = EVTCHN_FIFO_PRIORITY_DEFAULT

    def set_pending(self, vcpu_id: int, channel: Channel) -> None:
        word = self._word(channel.port)
        if word is None:
            # Kept until the page with its word arrives.
            channel.pending = True
            return
        control = self._vcpus[vcpu_id].control_maddr
        if control is None:
            # The guest mustn't unmask before it has a control block; the event is dropped.
            return
        memory = self._domain.memory
        newly_pending = not memory.test_and_set_bit(word, EVTCHN_FIFO_PENDING)
        masked = memory.read_u32(word) >> EVTCHN_FIFO_MASKED & 1
        if not masked and not memory.test_and_set_bit(word, EVTCHN_FIFO_LINKED):
            priority = channel.priority
            linked = self._append(vcpu_id, channel, control)
            if not linked and not memory.test_and_set_bit(control + _READY_OFFSET, priority):
                self._domain.vcpus[vcpu_id].mark_events_pending()
        if newly_pending:
            check_pollers(self._domain, channel.port)

    def clear_pending(self, channel: Channel) -> None:
        # The word stays linked: the guest unlinks and ignores events that aren't pending.
        word = self._word(channel.port)
        if word is not None:
            self._domain.memory.test_and_clear_bit(word, EVTCHN_FIFO_PENDING)

    def unmask(self, channel: Channel) -> None:
        word = self._word(channel.port)
        if word is None:
            return
        memory = self._domain.memory
        memory.test_and_clear_bit(word, EVTCHN_FIFO_MASKED)
        if memory.read_u32(word) >> EVTCHN_FIFO_PENDING & 1:
            self.set_pending(channel.notify_vcpu_id, channel)

    def is_pending(self, channel: Channel) -> bool:
        word = self._word(channel.port)
        return word is not None and bool(
            self._domain.memory.read_u32(word) >> EVTCHN_FIFO_PENDING & 1
        )

    def is_masked(self, channel: Channel) -> bool:
        word = self._word(channel.port)
        return word is None or bool(self._domain.memory.read_u32(word) >> EVTCHN_FIFO_MASKED & 1)

    def set_priority(self, channel: Channel, priority: int) -> None:
        # An event already queued stays on its old queue; later ones go to the new one.
        if priority > EVTCHN_FIFO_PRIORITY_MIN:
            raise XenError(Errno.EINVAL)
        channel.priority = priority

    def is_busy(self, channel: Channel) -> bool:
        word = self._word(channel.port)
        return word is not None and bool(
            self._domain.memory.read_u32(word) >> EVTCHN_FIFO_LINKED & 1
        )

    def first_idle(self, free: bytearray) -> int:
        """A page of words at a time, so that a guest that marks every word LINKED costs little."""
        port = free.find(1)
        while port >= 0:
            page = port // WORDS_PER_PAGE
            maddr = self._array[page] if page < len(self._array) else None
            if maddr is None:
                return port
            tops = self._domain.memory.read(maddr, PAGE_SIZE)[3::WORD_SIZE].translate(_UNLINKED)
            base = page * WORDS_PER_PAGE
            window = free[base : base + WORDS_PER_PAGE]
            idle = int.from_bytes(window, "little") & int.from_bytes(tops, "little")
            if idle:
                return base + ((idle & -idle).bit_length() - 1 >> 3)
            port = free.find(1, base + WORDS_PER_PAGE)
        return -1

    # -- state ------------------------------------------------------------------------------
    def save(self) -> FifoRecord:
        return FifoRecord(
            array_gfns=tuple(self._array_gfns),
            vcpus=tuple(
                FifoVcpuRecord(state.control_gfn, state.offset, tuple(state.tails))
                for state in self._vcpus
            ),
        )

    def restore(self, record: FifoRecord) -> None:
        """Take the record's state, mapping its pages by gfn.

        A page that the guest itself has removed from its memory since it registered it can't
        be mapped again; its events stay undelivered.
        """
        self.destroy()
        for gfn in record.array_gfns[:MAX_ARRAY_PAGES]:
            mfn = self._frame(gfn)
            self._array.append(None if mfn is None else mfn << PAGE_SHIFT)
            self._array_gfns.append(gfn)
        for state, saved in zip(self._vcpus, record.vcpus, strict=True):
            state.tails = list(saved.tails)
            if saved.control_gfn is not None:
                mfn = self._frame(saved.control_gfn)
                state.control_gfn = saved.control_gfn
                state.offset = saved.offset
                state.control_maddr = None if mfn is None else (mfn << PAGE_SHIFT) + saved.offset

    # -- inside -----------------------------------------------------------------------------
    def _frame(self, gfn: int) -> int | None:
        try:
            return self._frames.get_writable(gfn)
        except XenError:
            return None

    def _word(self, port: int) -> int | None:
        page, index = divmod(port, WORDS_PER_PAGE)
        if page >= len(self._array):
            return None
        maddr = self._array[page]
        return None if maddr is None else maddr + index * WORD_SIZE

    def _append(self, vcpu_id: int, channel: Channel, control: int) -> bool:
        """Put a port whose LINKED bit was just set on its queue.

        Returns whether it was linked behind another event; if not, it's the queue's head.
        """
        port, priority = channel.port, channel.priority
        tails = self._vcpus[vcpu_id].tails
        # If it was the tail of the queue it was on last, that queue has been emptied: forget
        # the tail, or the next event there would be linked behind this one.
        old_tails = self._vcpus[channel.last_vcpu_id].tails
        if old_tails[channel.last_priority] == port:
            old_tails[channel.last_priority] = 0
        channel.last_vcpu_id = vcpu_id
        channel.last_priority = priority

        tail = self._word(tails[priority]) if tails[priority] else None
        linked = tail is not None and self._link(tail, port)
        if not linked:
            self._domain.memory.write_u32(control + _HEAD_OFFSET + WORD_SIZE * priority, port)
        tails[priority] = port
        return linked

    def _link(self, tail: int, port: int) -> bool:
        """Put `port` in the LINK field of the tail's word, if that is still LINKED.

        The guest may change the word at the same time.  BUSY asks it to wait; a guest that
        doesn't has its event counted as linked, and so loses it, after a few tries.
        """
        memory = self._domain.memory
        value = memory.read_u32(tail)
        for attempt in range(1 + _LINK_TRIES):
            if not value >> EVTCHN_FIFO_LINKED & 1:
                if attempt:
                    memory.test_and_clear_bit(tail, EVTCHN_FIFO_BUSY)
                return False
            found = memory.compare_exchange_u32(tail, value, value & ~_LINK_FIELD | port)
            if found == value:
                return True
            value = found
            if attempt == 0:
                memory.test_and_set_bit(tail, EVTCHN_FIFO_BUSY)
                value = memory.read_u32(tail)
        memory.test_and_clear_bit(tail, EVTCHN_FIFO_BUSY)
        return True
