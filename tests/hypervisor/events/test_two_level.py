# SPDX-License-Identifier: GPL-2.0-or-later
"""The 2-level ABI against a model that keeps sets, and against the words of its layouts."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.hypervisor.events.support import Machine, bits_of, errno_of
from xenograft.abi.errno import Errno
from xenograft.abi.xen import VIRQ_TIMER


@pytest.mark.parametrize(
    ("bits", "pending", "mask", "selector"), [(64, 2048, 2560, 8), (32, 2048, 2176, 4)]
)
def test_layout(bits: int, pending: int, mask: int, selector: int) -> None:
    """The offsets of public/xen.h: bitmaps follow 32 vcpu_infos of 64 bytes each."""
    guest = Machine().domain(1, vcpus=2, bits=bits)
    ports = [guest.events.bind_ipi(1) for _ in range(71)]
    guest.events.send(ports[70])
    base = guest.shared_info_maddr
    assert guest.memory.read(base + pending + 71 // 8, 1)[0] == 1 << 71 % 8
    assert guest.memory.read(base + 64 + selector + 71 // bits // 8, 1)[0] == 1 << 71 // bits
    assert guest.memory.read(base + 64, 1) == b"\1"
    guest.memory.write(base + mask + 70 // 8, bytes([1 << 70 % 8]))
    assert guest.events.is_masked(70)
    assert not guest.events.is_masked(71)


def test_a_pending_port_is_not_delivered_twice() -> None:
    guest = Machine().domain(1)
    port = guest.events.bind_ipi(0)
    guest.events.send(port)
    guest.vcpus[0].take_upcall()
    guest.clear_selector()
    guest.events.send(port)
    assert guest.selector() == 0
    assert guest.vcpus[0].upcalls == 1


def test_ports_of_one_word_share_an_upcall() -> None:
    guest = Machine().domain(1)
    a, b = guest.events.bind_ipi(0), guest.events.bind_ipi(0)
    guest.events.send(a)
    guest.vcpus[0].take_upcall()
    guest.events.send(b)  # the word is selected already: the guest is still to look at it
    assert guest.vcpus[0].upcalls == 1
    assert guest.pending_bits() == {a, b}


def test_masked_events_wait_for_unmask() -> None:
    guest = Machine().domain(1, vcpus=2)
    port = guest.events.bind_ipi(1)
    guest.set_mask(port)
    guest.events.send(port)
    assert guest.selector(1) == 0
    assert guest.events.is_pending(port)
    guest.events.unmask(port)
    assert guest.selector(1) == 1
    assert guest.vcpus[1].upcalls == 1
    assert guest.mask_bits() == set()
    guest.events.unmask(port)
    assert guest.vcpus[1].upcalls == 1


def test_a_vcpu_without_vcpu_info_keeps_its_events_pending() -> None:
    guest = Machine().domain(1, vcpus=33)
    port = guest.events.bind_virq(VIRQ_TIMER, 32)
    guest.events.raise_virq(guest.vcpus[32], VIRQ_TIMER)
    assert guest.events.is_pending(port)
    assert guest.vcpus[32].upcalls == 0


def test_priorities_do_not_exist() -> None:
    guest = Machine().domain(1)
    assert errno_of(guest.events.set_priority, guest.events.bind_ipi(0), 3) is Errno.ENOSYS
    assert errno_of(guest.events.set_priority, 2, 3) is Errno.ENOSYS
    assert errno_of(guest.events.set_priority, 64, 3) is Errno.EINVAL
    assert errno_of(guest.events.expand_array, 5) is Errno.EOPNOTSUPP


def test_ports_above_a_narrowed_layout_touch_nothing() -> None:
    """A guest that turns 32-bit after it took high ports may not write past its bitmap."""
    guest = Machine().domain(1)
    guest.events.alloc_unbound(1, port=3000)
    peer = guest.events.bind_interdomain(1, 3000)
    guest.bits = 32
    before = guest.memory.read(guest.shared_info_maddr, 4096)
    guest.events.send(peer)
    guest.events.unmask(3000)
    assert not guest.events.is_pending(3000)
    assert guest.events.is_masked(3000)
    guest.events.close(3000)
    assert guest.memory.read(guest.shared_info_maddr, 4096) == before


class TwoLevelGuest(RuleBasedStateMachine):
    """A guest with IPIs, masks and upcalls; the model holds what must be in its memory."""

    ports = Bundle("ports")

    @initialize(bits=st.sampled_from([32, 64]))
    def start(self, bits: int) -> None:
        machine = Machine()
        self.guest = machine.domain(1, vcpus=3, bits=bits)
        self.peer = machine.domain(2, bits=bits)
        self.bits = bits
        self.vcpu_of: dict[int, int] = {}
        self.remote: dict[int, int] = {}
        self.pending: set[int] = set()
        self.masked: set[int] = set()
        self.selected: list[set[int]] = [set() for _ in range(3)]
        self.upcall_pending = [False] * 3
        self.upcalls = [0] * 3

    def select(self, port: int) -> None:
        vcpu = self.vcpu_of[port]
        word = port // self.bits
        if word in self.selected[vcpu]:
            return
        self.selected[vcpu].add(word)
        if not self.upcall_pending[vcpu]:
            self.upcall_pending[vcpu] = True
            self.upcalls[vcpu] += 1

    @rule(target=ports, vcpu=st.integers(0, 2), port=st.integers(1, 1023))
    def bind(self, vcpu: int, port: int) -> int:
        """An end of a channel anywhere in the bitmap, so that words are shared and not."""
        while port in self.vcpu_of:
            port = port % 1023 + 1
        self.guest.events.alloc_unbound(2, port=port)
        self.guest.events.bind_vcpu(port, vcpu)
        self.remote[port] = self.peer.events.bind_interdomain(1, port)
        self.vcpu_of[port] = vcpu
        return port

    @rule(port=consumes(ports))
    def close(self, port: int) -> None:
        self.guest.events.close(port)
        self.peer.events.close(self.remote.pop(port))
        self.pending.discard(port)
        del self.vcpu_of[port]

    @rule(port=ports)
    def send(self, port: int) -> None:
        self.peer.events.send(self.remote[port])
        if port not in self.pending:
            self.pending.add(port)
            if port not in self.masked:
                self.select(port)

    @rule(port=ports)
    def mask(self, port: int) -> None:
        self.guest.set_mask(port)
        self.masked.add(port)

    @rule(port=ports)
    def unmask_by_hypercall(self, port: int) -> None:
        self.guest.events.unmask(port)
        if port in self.masked:
            self.masked.discard(port)
            if port in self.pending:
                self.select(port)

    @rule(vcpu=st.integers(0, 2))
    def handle_upcall(self, vcpu: int) -> None:
        """As a kernel does: all selected words, all pending ports that aren't masked."""
        if not self.guest.vcpus[vcpu].take_upcall():
            return
        self.upcall_pending[vcpu] = False
        selector = self.guest.selector(vcpu)
        self.guest.clear_selector(vcpu)
        handled = {
            port
            for port in self.guest.pending_bits() - self.guest.mask_bits()
            if selector >> port // self.bits & 1
        }
        for port in handled:
            self.guest.clear_pending(port)
        expected = {p for p in self.pending - self.masked if p // self.bits in self.selected[vcpu]}
        assert handled == expected
        self.pending -= handled
        self.selected[vcpu] = set()

    @invariant()
    @precondition(lambda self: hasattr(self, "guest"))
    def memory_is_as_modelled(self) -> None:
        assert self.guest.pending_bits() == self.pending
        assert self.guest.mask_bits() == self.masked
        for vcpu in range(3):
            word = self.guest.selector(vcpu)
            assert bits_of(word) == self.selected[vcpu]
            assert self.guest.vcpus[vcpu].upcalls == self.upcalls[vcpu]

    @invariant()
    @precondition(lambda self: hasattr(self, "guest"))
    def no_event_is_lost(self) -> None:
        """An event that may be delivered is in a word that its or another vCPU will look at."""
        for port in self.pending - self.masked:
            word = port // self.bits
            assert any(word in self.selected[v] and self.upcall_pending[v] for v in range(3)), (
                f"port {port} is stuck"
            )


TestTwoLevelGuest = TwoLevelGuest.TestCase
