# SPDX-License-Identifier: GPL-2.0-or-later
"""Packets that the native core puts into a receive ring: as Python does, bit by bit."""

from __future__ import annotations

import random
import struct
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.backends.net.frontend import GTF_PERMIT, GTF_READONLY, PAGE, FrontEnd, Scene
from tests.backends.net.support import MAC_A, MAC_B, Plug
from xenograft.abi.io.netif import XEN_NETIF_GSO_TYPE_NONE, XEN_NETIF_GSO_TYPE_TCPV4
from xenograft.backends.net.bridge import Bridge
from xenograft.backends.net.packet import Packet
from xenograft.engine import _core
from xenograft.engine.protocol import Granted


class Trouble(NamedTuple):
    """What is wrong with one receive buffer."""

    index: int
    kind: str


def packet(size: int, blank: bool, validated: bool, gso: int) -> Packet:
    body = random.Random(size).randbytes(size)
    kind = XEN_NETIF_GSO_TYPE_TCPV4 if gso else XEN_NETIF_GSO_TYPE_NONE
    return Packet(MAC_B + MAC_A + b"\x88\xb5" + body, blank or gso > 0, validated, kind, gso)


PACKETS = st.builds(
    packet,
    st.one_of(st.integers(46, 65000), st.sampled_from([4081, 4082, 4083, 8178, 65521])),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 0, 1448]),
)
KINDS = st.sampled_from(["readonly", "gone", "foreign", "mapped", "far", "beyond"])
TROUBLES = st.lists(st.builds(Trouble, st.integers(0, 63), KINDS), max_size=2)


class Guest:
    """A guest with receive buffers, some of them bad, and a wire to it."""

    def __init__(self, headroom: int, troubles: list[Trouble], start: int) -> None:
        self.scene = Scene(native=True)
        self.scene.networks.define(Bridge("lan", 65535))
        nodes = {"xdp-headroom": str(headroom)} if headroom else {}
        self.front = FrontEnd(self.scene, buffers=0, nodes=nodes, bridge="lan")
        rx = self.front.queues[0].rx
        # The ring has been used before: its slots lie anywhere.
        rx.req_prod = rx.rsp_cons = self.front.queues[0].rx_next = start
        for offset, value in ((0, start), (4, start + 1), (8, start), (12, start + 1)):
            rx._word(offset, value)
        self.front.connect()
        self.port = Plug("wire")
        self.scene.networks.get("lan").attach(self.port)
        self.mapped: list[Any] = []
        self.front.post(64)
        for trouble in troubles:
            self._spoil(*trouble)

    def _spoil(self, index: int, kind: str) -> None:
        front = self.front
        queue = front.queues[0]
        ident = (queue.rx_next - 64 + index) % 256
        ref, gfn = queue.rx_refs[ident]
        shared = front.domain.grants.shared
        if kind == "readonly":
            shared.write_v1(ref, GTF_PERMIT | GTF_READONLY, 0, gfn)
        elif kind == "gone":
            shared.write_v1(ref, 0, 0, gfn)
        elif kind == "foreign":
            shared.write_v1(ref, GTF_PERMIT, 5, gfn)
        elif kind == "far":
            shared.write_v1(ref, GTF_PERMIT, 0, 1 << 30)
        elif kind == "mapped":
            self.mapped.append(self.scene.host.map(front.domain.domid, ref))
        else:
            at = queue.rx.gfn * PAGE + 64 + (queue.rx_next - 64 + index) % 256 * 8
            front.domain.space.write(at + 4, struct.pack("<I", 1 << 31))

    def give(self, packets: list[Packet]) -> None:
        for one in packets:
            self.port.send(one)
        self.scene.networks.get("lan").run()
        self.scene.run()

    def memory(self) -> list[bytes]:
        space = self.front.domain.space
        return [space.read(gfn * PAGE, PAGE) for gfn in range(1, 120)]

    def close(self) -> None:
        for one in self.mapped:
            one.unmap()
        self.scene.close()


def outcome(
    packets: list[Packet], headroom: int, troubles: list[Trouble], start: int, native: bool
) -> tuple[list[bytes], bool, str, int]:
    """The guest's memory, whether it was notified, the log, and packets that Python put."""
    guest = Guest(headroom, troubles, start)
    rx = guest.front.device._queues[0].rx
    assert rx is not None
    by_hand: list[int] = []
    put = rx._put

    def spy(*arguments: Any) -> None:
        by_hand.append(1)
        put(*arguments)

    rx._put = spy  # type: ignore[method-assign]
    if not native:
        rx._native = None
    try:
        guest.give(packets)
        notified = guest.front.notified(guest.front.queues[0].rx_port)
        return guest.memory(), notified, guest.scene.log, len(by_hand)
    finally:
        guest.close()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(PACKETS, min_size=1, max_size=4),
    st.sampled_from([0, 0, 256]),
    TROUBLES,
    st.sampled_from([0, 250, 0xFFFFFFF0]),
)
def test_the_guest_sees_no_difference(
    packets: list[Packet], headroom: int, troubles: list[Trouble], start: int
) -> None:
    ours = outcome(packets, headroom, troubles, start, True)
    theirs = outcome(packets, headroom, troubles, start, False)
    assert ours[:3] == theirs[:3]
    if not troubles:
        assert ours[3] == 0
        assert theirs[3] > 0


def test_who_watches_sees_every_slot() -> None:
    guest = Guest(0, [], 0)
    lines: list[str] = []
    guest.scene.xen.instruments.ring = lambda *arguments: lines.append(arguments[-1])
    try:
        guest.give([packet(9000, False, True, 0)])
        assert [line[0] for line in lines] == [">"] * 3 + ["<"] * 3
    finally:
        guest.close()


class TestArguments:
    """The core checks what it's called with: a wrong caller gets an exception, no more."""

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            ({"slots": 0}, ValueError),
            ({"slots": 48}, ValueError),
            ({"slots": 512}, ValueError),
            ({"slots": 16}, ValueError),
            ({"headroom": PAGE}, ValueError),
            ({"extra": b"1234567"}, ValueError),
            ({"extra": bytes(32)}, ValueError),
            ({"data": b""}, ValueError),
            ({"data": bytes(40 * PAGE)}, ValueError),
            ({"ring": struct.pack("=Q", 1 << 40)}, IndexError),
            ({"ring": struct.pack("=Q", 12)}, IndexError),
            ({"ring": b""}, ValueError),
            ({"granted": ()}, TypeError),
        ],
    )
    def test_wrong_ones(self, change: dict[str, Any], error: type[Exception]) -> None:
        memory = _core.Memory(1024)
        space = _core.Space(memory)
        ((mfn, _),) = memory.alloc(1)
        arguments: dict[str, Any] = {
            "ring": struct.pack("=Q", mfn * PAGE),
            "slots": 256,
            "consumer": 0,
            "producer": 0,
            "granted": Granted(space, b"", {}, {}, 1, 0),
            "headroom": 0,
            "flags": 0,
            "extra": b"",
            "data": b"packet",
        }
        # As it is, there is no such grant.
        assert _core.netif_put(memory, *arguments.values()) == 0
        with pytest.raises(error):
            _core.netif_put(memory, *{**arguments, **change}.values())
        space.close()
        memory.close()
