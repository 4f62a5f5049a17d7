# SPDX-License-Identifier: GPL-2.0-or-later
"""The switch: learning, ageing, flooding, and work that doesn't end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.backends.net.support import BROADCAST, MAC_A, MAC_B, MAC_C, Plug, frame
from xenograft.backends.net.networks import DEFAULT_BRIDGE, NetworkError, Networks
from xenograft.backends.net.packet import Packet
from xenograft.backends.net.switch import AGEING_NS, TABLE_LIMIT, Switch


class Bench:
    """A switch with three plugs, and a clock."""

    def __init__(self) -> None:
        self.time = 0
        self.left: list[Callable[[], None]] = []
        self.switch = Switch("xenbr0", lambda: self.time, later=self.left.append)
        self.a, self.b, self.c = (Plug(name) for name in "abc")
        for plug in (self.a, self.b, self.c):
            self.switch.attach(plug)

    def send(self, plug: Plug, packet: Packet) -> list[str]:
        """Send from a plug; the names of those that got it."""
        for one in (self.a, self.b, self.c):
            one.got.clear()
        plug.send(packet)
        self.switch.run()
        return [one.name for one in (self.a, self.b, self.c) if one.got]


def test_the_unknown_is_flooded_and_the_known_is_not() -> None:
    bench = Bench()
    assert bench.send(bench.a, frame(MAC_B, MAC_A)) == ["b", "c"]
    assert bench.send(bench.b, frame(MAC_A, MAC_B)) == ["a"]
    assert bench.send(bench.a, frame(MAC_B, MAC_A)) == ["b"]
    assert bench.switch.addresses == [(MAC_B, "b"), (MAC_A, "a")]


def test_broadcast_goes_to_all_others() -> None:
    bench = Bench()
    assert bench.send(bench.a, frame(BROADCAST, MAC_A)) == ["b", "c"]


def test_a_port_may_decline_multicast() -> None:
    bench = Bench()
    bench.b.wants = lambda packet: packet.destination == BROADCAST  # type: ignore[method-assign]
    assert bench.send(bench.a, frame(bytes.fromhex("01005e000001"), MAC_A)) == ["c"]
    assert bench.send(bench.a, frame(BROADCAST, MAC_A)) == ["b", "c"]


def test_a_multicast_source_is_not_learned() -> None:
    bench = Bench()
    bench.send(bench.a, frame(MAC_B, bytes.fromhex("03005e000001")))
    assert bench.switch.addresses == []


def test_addresses_age() -> None:
    bench = Bench()
    bench.send(bench.b, frame(MAC_A, MAC_B))
    bench.time += AGEING_NS
    assert bench.send(bench.a, frame(MAC_B, MAC_A)) == ["b"]
    bench.time += AGEING_NS + 1
    assert bench.send(bench.a, frame(MAC_B, MAC_A)) == ["b", "c"]


def test_an_address_moves_with_its_guest() -> None:
    bench = Bench()
    bench.send(bench.b, frame(MAC_A, MAC_B))
    bench.send(bench.c, frame(MAC_A, MAC_B))
    assert bench.send(bench.a, frame(MAC_B, MAC_A)) == ["c"]


def test_nothing_comes_back_to_its_sender() -> None:
    bench = Bench()
    bench.send(bench.a, frame(MAC_B, MAC_A))
    bench.send(bench.a, frame(MAC_A, MAC_C))
    assert bench.send(bench.a, frame(MAC_C, MAC_A)) == []


def test_the_table_is_bounded() -> None:
    bench = Bench()
    for index in range(TABLE_LIMIT + 10):
        bench.a.send(frame(BROADCAST, bytes([2]) + index.to_bytes(5, "big")))
    assert len(bench.switch.addresses) == TABLE_LIMIT
    assert bench.switch.lookup(bytes([2]) + (9).to_bytes(5, "big")) is None
    assert bench.switch.lookup(bytes([2]) + (10).to_bytes(5, "big")) is bench.a


def test_runts_are_dropped() -> None:
    bench = Bench()
    assert bench.send(bench.a, Packet(BROADCAST + MAC_A + b"\x08")) == []


def test_full_ports_drop_and_count() -> None:
    bench = Bench()
    bench.b.room = 1
    for _ in range(3):
        bench.a.send(frame(BROADCAST, MAC_A, 100))
    bench.switch.run()
    assert len(bench.b.got) == 1
    assert len(bench.c.got) == 3
    assert bench.b.counters.tx_dropped == 2
    assert (bench.b.counters.tx_packets, bench.b.counters.tx_bytes) == (1, 100)
    assert (bench.a.counters.rx_packets, bench.a.counters.rx_bytes) == (3, 300)


def test_a_burst_is_one_flush() -> None:
    bench = Bench()
    for _ in range(5):
        bench.a.send(frame(BROADCAST, MAC_A))
    bench.switch.run()
    assert bench.b.flushes == 1


def test_taps_see_both_ways() -> None:
    bench = Bench()
    seen: list[Packet] = []
    bench.a.taps.append(seen.append)
    bench.send(bench.a, frame(MAC_B, MAC_A))
    bench.send(bench.b, frame(MAC_A, MAC_B))
    assert seen == [frame(MAC_B, MAC_A), frame(MAC_A, MAC_B)]


def test_detached_ports_are_forgotten() -> None:
    bench = Bench()
    bench.send(bench.b, frame(MAC_A, MAC_B))
    bench.a.send(frame(MAC_B, MAC_A))
    bench.b.unplug()
    bench.switch.run()
    assert bench.b.got == []
    assert bench.switch.lookup(MAC_B) is None
    assert bench.send(bench.a, frame(MAC_B, MAC_A)) == ["c"]
    bench.b.unplug()
    bench.b.send(frame(MAC_A, MAC_B))
    with pytest.raises(ValueError, match="already"):
        bench.switch.attach(bench.a)


def test_two_that_never_stop_talking_stop_for_others() -> None:
    bench = Bench()
    bench.c.unplug()

    class Echo(Plug):
        def flush(self) -> None:
            super().flush()
            self.send(frame(BROADCAST, self.name.encode().ljust(6, b"\0")))

    for name in ("\x02x", "\x02y"):
        bench.switch.attach(Echo(name))
    bench.send(bench.a, frame(BROADCAST, MAC_A))
    assert len(bench.left) == 1
    assert bench.b.flushes < 300
    before = bench.b.flushes
    bench.left.pop()()
    assert bench.b.flushes > before


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 3)), max_size=40))
def test_a_model_agrees(history: list[tuple[int, int, int]]) -> None:
    bench = Bench()
    plugs = [bench.a, bench.b, bench.c]
    known: dict[int, int] = {}
    for port, source, destination in history:
        macs = [bytes([2, 0, 0, 0, 0, n]) for n in range(4)]
        got = bench.send(plugs[port], frame(macs[destination], macs[source]))
        known[source] = port
        there = known.get(destination)
        expected = {0, 1, 2} - {port} if there is None else {there} - {port}
        assert got == ["abc"[n] for n in sorted(expected)]


def test_state_is_saved_and_restored() -> None:
    bench = Bench()
    bench.send(bench.a, frame(MAC_C, MAC_A))
    bench.send(bench.b, frame(MAC_C, MAC_B))
    other = Bench()
    other.b.unplug()
    other.switch.restore(bench.switch.save())
    assert other.switch.addresses == [(MAC_A, "a")]


@pytest.mark.parametrize("mtu", [67, 65536])
def test_mtus_that_make_no_sense(mtu: int) -> None:
    with pytest.raises(ValueError, match="MTU"):
        Switch("x", lambda: 0, mtu=mtu)
    with pytest.raises(NetworkError, match="MTU"):
        Networks(lambda: 0).add("x", mtu)


def test_networks_by_name() -> None:
    networks = Networks(lambda: 0)
    lan = networks.add("lan", 9000)
    assert networks.get("lan") is lan
    assert networks.get(DEFAULT_BRIDGE).mtu == 1500
    with pytest.raises(NetworkError, match="already"):
        networks.add("lan")
    with pytest.raises(NetworkError, match="there is lan, xenbr0"):
        networks.get("lann")
    closed: list[str] = []
    uplink, guest = Plug("up"), Plug("guest")
    networks.plug("lan", uplink, lambda: closed.append("up"))
    lan.attach(guest)
    assert networks.uplinks("lan") == [uplink]
    networks.remove("lan")
    networks.remove("lan")
    assert closed == ["up"]
    assert guest.switch is None
    networks.close()
    assert networks.switches == {}
