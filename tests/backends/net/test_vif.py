# SPDX-License-Identifier: GPL-2.0-or-later
"""The network device against a front end of our own."""

from __future__ import annotations

import struct

import pytest

from tests.backends.net import support
from tests.backends.net.frontend import (
    ERROR,
    NULL,
    OKAY,
    PAGE,
    RX_BLANK,
    RX_PREFIX,
    RX_VALIDATED,
    SLOTS,
    TX_BLANK,
    TX_VALIDATED,
    FrontEnd,
    Scene,
    gso,
    mcast,
)
from tests.backends.net.support import BROADCAST, MAC_A, MAC_B, MAC_C, Plug, frame, transport_sum
from xenograft.abi.io.netif import XEN_NETIF_GSO_TYPE_TCPV4, XEN_NETIF_GSO_TYPE_TCPV6
from xenograft.backends.net.bridge import Bridge
from xenograft.backends.net.packet import Packet
from xenograft.backends.net.rings import HEADROOM_MAX, RX_QUEUE_PACKETS
from xenograft.backends.net.vif import TX_DELAY_NS

GROUP = bytes.fromhex("01005e000001")


def two(scene: Scene, **options: object) -> tuple[FrontEnd, FrontEnd]:
    a = FrontEnd(scene, **options).connect()  # type: ignore[arg-type]
    b = FrontEnd(scene, **options).connect()  # type: ignore[arg-type]
    return a, b


def plug(scene: Scene, name: str = "wire") -> Plug:
    """A port beside the guests that keeps what it's given."""
    port = Plug(name)
    scene.networks.get("xenbr0").attach(port)
    return port


def give(scene: Scene, packet: Packet, port: Plug | None = None) -> None:
    """Have a packet come in from the wire."""
    (port or plug(scene)).send(packet)
    scene.networks.get("xenbr0").run()
    scene.run()


@pytest.mark.parametrize("split", [True, False])
def test_a_packet_from_guest_to_guest(scene: Scene, split: bool) -> None:
    a, b = two(scene, split=split)
    assert a.backend_state == b.backend_state == 4
    data = frame(MAC_B, MAC_A, 200).data
    b.notified(b.queues[0].rx_port)
    assert a.send(data) == [OKAY]
    assert [packet.data for packet in b.receive()] == [data]
    assert b.notified(b.queues[0].rx_port)
    assert a.notified(a.queues[0].tx_port)
    assert a.receive() == []


def test_the_back_end_offers_what_linux_does(scene: Scene) -> None:
    front = FrontEnd(scene)
    path = f"/local/domain/0/backend/vif/{front.domain.domid}/0"
    nodes = {name: scene.client.read(f"{path}/{name}") for name in scene.client.ls(path)}
    assert nodes["hotplug-status"] == "connected"
    assert nodes["state"] == "2"
    for name in ("sg", "gso-tcpv4", "gso-tcpv6", "ipv6-csum-offload", "rx-copy"):
        assert nodes[f"feature-{name}"] == "1"
    for name in ("multicast-control", "dynamic-multicast-control", "split-event-channels"):
        assert nodes[f"feature-{name}"] == "1"
    assert nodes["feature-ctrl-ring"] == "1"
    assert nodes["feature-rx-flip"] == "0"
    assert int(nodes["multi-queue-max-queues"]) > 1


@pytest.mark.parametrize("size", [60, 1514, 4096, 4097, 20000, 65535])
def test_packets_of_all_sizes(scene: Scene, size: int) -> None:
    scene.networks.define(Bridge("lan", 65535))
    a = FrontEnd(scene, bridge="lan").connect()
    b = FrontEnd(scene, bridge="lan").connect()
    data = MAC_B + MAC_A + b"\x88\xb5" + bytes(index * 5 & 0xFF for index in range(size - 14))
    assert set(a.send(data)) == {OKAY}
    assert [packet.data for packet in b.receive()] == [data]


def test_a_packet_in_many_small_parts(scene: Scene) -> None:
    a, b = two(scene)
    data = MAC_B + MAC_A + b"\x88\xb5" + bytes(range(200)) * 5
    assert a.send(data, sizes=[14, 1, 0, 300, 1, 500]) == [OKAY] * 7
    assert [packet.data for packet in b.receive()] == [data]


def test_bursts_go_round_the_rings(scene: Scene) -> None:
    a, b = two(scene)
    for turn in range(40):
        sent = []
        for index in range(20):
            data = frame(MAC_B, MAC_A, 64 + turn + index).data
            a.put(data)
            sent.append(data)
        a.kick(a.queues[0].tx_port)
        assert a.statuses() == [OKAY] * 20
        assert [packet.data for packet in b.receive()] == sent
    assert b.queues[0].rx.rsp_cons == 800 > SLOTS


def test_packets_wait_for_buffers(scene: Scene) -> None:
    a, b = two(scene, buffers=1)
    for size in (100, 200, 300):
        a.send(frame(MAC_B, MAC_A, size).data)
    assert [len(packet.data) for packet in b.receive(repost=False)] == [100]
    b.post(1)
    b.kick(b.queues[0].rx_port)
    assert [len(packet.data) for packet in b.receive(repost=False)] == [200]
    b.post(5)
    b.kick(b.queues[0].rx_port)
    assert [len(packet.data) for packet in b.receive()] == [300]


def test_the_queue_of_waiting_packets_is_bounded(scene: Scene) -> None:
    a, b = two(scene, buffers=0)
    for _ in range(RX_QUEUE_PACKETS // 16 + 4):
        for _ in range(16):
            a.put(frame(MAC_B, MAC_A, 60).data)
        a.kick(a.queues[0].tx_port)
        a.statuses()
    counters = b.device.port.counters
    assert counters.tx_packets == RX_QUEUE_PACKETS
    assert counters.tx_dropped == 64


def test_a_front_end_that_does_not_announce_buffers_is_polled(scene: Scene) -> None:
    a, b = two(scene, buffers=0, nodes={"feature-rx-notify": "0"})
    a.send(frame(MAC_B, MAC_A, 100).data)
    b.post(4)
    assert b.receive() == []
    scene.pass_time(10**8)
    assert [len(packet.data) for packet in b.receive()] == [100]


def test_packets_of_a_busy_guest_are_served_together(scene: Scene) -> None:
    a, b = two(scene)
    ring = a.queues[0].tx
    a.put(frame(MAC_B, MAC_A, 100).data)
    a.domain.events.send(a.queues[0].tx_port)
    scene.xen.run_host_events()
    # While others run nothing happens yet, and the next packet needs no event.
    assert b.receive() == []
    a.put(frame(MAC_B, MAC_A, 200).data)
    assert ring.word(4) == 1
    scene.xen.clock.advance_to(scene.xen.clock.now() + TX_DELAY_NS)
    scene.xen.timers.run_due(scene.xen.clock.now())
    assert [len(packet.data) for packet in b.receive()] == [100, 200]
    assert ring.word(4) == 3
    assert not scene.xen.when_idle


def test_a_front_end_that_goes_before_it_is_served(scene: Scene) -> None:
    a, b = two(scene)
    a.put(frame(MAC_B, MAC_A, 100).data)
    a.domain.events.send(a.queues[0].tx_port)
    scene.xen.run_host_events()
    a.device.remove()
    scene.run()
    assert b.receive() == []


# -- offloads ----------------------------------------------------------------------------------
def test_a_blank_checksum_stays_blank_for_who_can_take_it(scene: Scene) -> None:
    a, b = two(scene)
    data = support.tcp4(b"hello")
    assert a.send(data, TX_BLANK | TX_VALIDATED) == [OKAY]
    (got,) = b.receive()
    assert got.data == data
    assert got.flags & (RX_BLANK | RX_VALIDATED) == RX_BLANK | RX_VALIDATED


@pytest.mark.parametrize(
    ("node", "make"),
    [
        ({"feature-no-csum-offload": "1"}, support.tcp4),
        ({"feature-ipv6-csum-offload": "0"}, support.tcp6),
    ],
)
def test_a_blank_checksum_is_computed_for_who_cannot(
    scene: Scene, node: dict[str, str], make: object
) -> None:
    a, b = two(scene, nodes=node)
    assert callable(make)
    a.send(make(b"hello"), TX_BLANK)
    (got,) = b.receive()
    assert transport_sum(got.data) == 0xFFFF
    assert not got.flags & RX_BLANK


def test_a_blank_checksum_is_computed_for_captures_and_uplinks(scene: Scene) -> None:
    front = FrontEnd(scene).connect()
    wire = plug(scene)
    front.send(support.tcp4(b"x"), TX_BLANK)
    (packet,) = wire.got
    assert packet.csum_blank


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        (XEN_NETIF_GSO_TYPE_TCPV4, support.tcp4),
        (XEN_NETIF_GSO_TYPE_TCPV6, support.tcp6),
    ],
)
def test_a_large_segment_stays_whole(scene: Scene, kind: int, make: object) -> None:
    a, b = two(scene)
    assert callable(make)
    data = make(bytes(index & 0xFF for index in range(30000)))
    statuses = a.send(data, TX_BLANK, [gso(1448, kind)])
    assert statuses == [OKAY, NULL, *[OKAY] * 7]
    (got,) = b.receive()
    assert got.data == data
    assert got.extras == [gso(1448, kind)]
    assert got.flags & RX_BLANK


@pytest.mark.parametrize(
    "nodes",
    [
        {"feature-gso-tcpv4": "0"},
        {"feature-sg": "0"},
        # Without checksum offload a large segment can't be had either.
        {"feature-no-csum-offload": "1"},
    ],
)
def test_a_large_segment_is_cut_for_who_cannot_take_it(scene: Scene, nodes: dict[str, str]) -> None:
    a = FrontEnd(scene).connect()
    b = FrontEnd(scene, nodes=nodes).connect()
    body = bytes(index & 0xFF for index in range(10000))
    a.send(support.tcp4(body), TX_BLANK, [gso(1448)])
    got = b.receive()
    assert len(got) == 7
    assert b"".join(packet.data[54:] for packet in got) == body
    for packet in got:
        assert packet.extras == []
        if "feature-no-csum-offload" in nodes:
            assert transport_sum(packet.data) == 0xFFFF


def test_a_large_segment_with_its_size_in_front(scene: Scene) -> None:
    a = FrontEnd(scene).connect()
    b = FrontEnd(scene, nodes={"feature-gso-tcpv4": "0", "feature-gso-tcpv4-prefix": "1"}).connect()
    data = support.tcp4(bytes(9000))
    a.send(data, TX_BLANK, [gso(1448)])
    (got,) = b.receive()
    assert got.data == data
    assert got.extras == [b"prefix" + struct.pack("<H", 1448)]
    assert RX_PREFIX


@pytest.mark.parametrize(
    "extra",
    [gso(0), gso(100, 7), gso(100, 2), struct.pack("<BB6x", 9, 0), struct.pack("<BB6x", 0, 0)],
    ids=["size 0", "unknown type", "IPv6 on IPv4", "extra 9", "extra 0"],
)
def test_extras_that_make_no_sense(scene: Scene, extra: bytes) -> None:
    a, b = two(scene)
    assert a.send(support.tcp4(bytes(3000)), TX_BLANK, [extra]) == [ERROR, NULL]
    assert b.receive() == []
    assert a.device.complaints == 1
    # The ring goes on.
    assert a.send(frame(MAC_B, MAC_A, 60).data) == [OKAY]
    assert len(b.receive()) == 1


def test_a_senders_own_hash_and_headroom_are_no_business_of_ours(scene: Scene) -> None:
    a, b = two(scene)
    extras = [struct.pack("<BBBB4s", 4, 1, 1, 1, b"hash"), struct.pack("<BBH4x", 5, 0, 256)]
    assert a.send(frame(MAC_B, MAC_A, 60).data, 0, extras) == [OKAY, NULL, NULL]
    assert len(b.receive()) == 1


def test_headroom_for_xdp(scene: Scene) -> None:
    a = FrontEnd(scene).connect()
    b = FrontEnd(scene, nodes={"xdp-headroom": "256"}).connect()
    a.send(support.tcp4(bytes(6000)), TX_BLANK, [gso(1448)])
    (got,) = b.receive()
    assert got.offset == 256
    assert got.extras == [gso(1448, more=True), struct.pack("<BBHHH", 5, 0, 256, 0, 0)]
    assert got.data == support.tcp4(bytes(6000))


def test_headroom_changes_while_connected(scene: Scene) -> None:
    a, b = two(scene)
    b.store.write(f"{b.path}/xdp-headroom", "300")
    b.switch(7)
    assert b.backend_state == 8
    b.switch(4)
    a.send(frame(MAC_B, MAC_A, 60).data)
    (got,) = b.receive()
    assert (got.offset, got.data) == (300, frame(MAC_B, MAC_A, 60).data)
    b.store.write(f"{b.path}/xdp-headroom", "0")
    b.switch(7)
    b.switch(4)
    a.send(frame(MAC_B, MAC_A, 60).data)
    assert b.receive()[0].extras == []


def test_more_headroom_than_a_page_has(scene: Scene) -> None:
    a = FrontEnd(scene).connect()
    b = FrontEnd(scene, nodes={"xdp-headroom": "32767"}).connect()
    a.send(frame(MAC_B, MAC_A, 1500).data)
    (got,) = b.receive()
    assert got.offset == HEADROOM_MAX
    assert len(got.data) == 1500


# -- queues, hashes ----------------------------------------------------------------------------
def flow(port: int) -> bytes:
    data = bytearray(support.tcp4(b"x"))
    data[34:36] = struct.pack(">H", port)
    return bytes(data)


@pytest.mark.parametrize("split", [True, False])
def test_several_queues_share_the_work_by_flows(scene: Scene, split: bool) -> None:
    a = FrontEnd(scene).connect()
    b = FrontEnd(scene, queues=4, split=split).connect()
    assert b.device.queues == 4
    for _ in range(2):
        for port in range(1000, 1032):
            a.send(flow(port), TX_BLANK)
    ports = [{packet.data[34:36] for packet in b.receive(queue)} for queue in b.queues]
    assert sum(map(len, ports)) == 32  # no flow in two queues
    assert all(ports)
    # All send too.
    for queue in b.queues:
        assert b.send(frame(MAC_A, MAC_B, 70).data, queue=queue) == [OKAY]
    assert len(a.receive()) == 4


def test_hashes_by_the_control_ring(scene: Scene) -> None:
    a = FrontEnd(scene).connect()
    b = FrontEnd(scene, queues=3, control=True).connect()
    gfn, ref = b.page()
    key = bytes.fromhex(
        "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"
    )
    assert b.ask(1) == (1, 0)  # no algorithm yet: NOT_SUPPORTED
    assert b.ask(7, 1) == (0, 0)
    assert b.ask(1) == (0, 15)
    assert b.ask(2, 2) == (0, 0)
    b.domain.space.write(gfn * PAGE, key)
    assert b.ask(3, ref, 40) == (0, 0)
    assert b.ask(4) == (0, 128)
    assert b.ask(5, 4) == (0, 0)
    b.domain.space.write(gfn * PAGE, struct.pack("<4I", 2, 2, 2, 2))
    assert b.ask(6, ref, 4, 0) == (0, 0)
    for port in range(1000, 1010):
        a.send(flow(port), TX_BLANK)
    got = b.receive(b.queues[2])
    assert len(got) == 10
    from xenograft.backends.net.toeplitz import toeplitz

    for packet in got:
        hashed = toeplitz(key, packet.data[26:38])
        # Type 1 is the bit of IPV4_TCP.
        assert packet.extras == [struct.pack("<BBBBI", 4, 0, 1, 1, hashed)]
    # What isn't hashed goes to the first queue.
    a.send(frame(MAC_B, MAC_A, 80).data)
    (plain,) = b.receive(b.queues[0])
    assert plain.extras == []


# -- multicast -----------------------------------------------------------------------------------
def test_multicast_control(scene: Scene) -> None:
    a = FrontEnd(scene).connect()
    b = FrontEnd(scene, nodes={"request-multicast-control": "1"}).connect()
    a.send(frame(GROUP, MAC_A).data)
    assert b.receive() == []
    assert b.send(frame(MAC_A, MAC_B).data, 0, [mcast(GROUP)]) == [OKAY, NULL]
    a.send(frame(GROUP, MAC_A).data)
    a.send(frame(BROADCAST, MAC_A).data)
    assert [packet.data[:6] for packet in b.receive()] == [GROUP, BROADCAST]
    b.send(frame(MAC_A, MAC_B).data, 0, [mcast(GROUP, add=False)])
    a.send(frame(GROUP, MAC_A).data)
    assert b.receive() == []
    # The packet that carries the request isn't sent.
    assert [packet.data for packet in a.receive() if packet.data[6:12] == MAC_B] == []


def test_multicast_control_can_be_switched(scene: Scene) -> None:
    a, b = two(scene)
    a.send(frame(GROUP, MAC_A).data)
    assert len(b.receive()) == 1
    b.store.write(f"{b.path}/request-multicast-control", "1")
    a.send(frame(GROUP, MAC_A).data)
    assert b.receive() == []
    b.store.write(f"{b.path}/request-multicast-control", "0")
    a.send(frame(GROUP, MAC_A).data)
    assert len(b.receive()) == 1


def test_multicast_addresses_are_bounded(scene: Scene) -> None:
    front = FrontEnd(scene).connect()
    answers = []
    for index in range(70):
        address = bytes([1, 0, 0, 0, 0, index])
        answers.append(front.send(frame().data, 0, [mcast(address)])[0])
    assert answers == [OKAY] * 64 + [ERROR] * 6


# -- configuration -----------------------------------------------------------------------------
def test_the_mtu_of_the_bridge_and_of_the_interface(scene: Scene) -> None:
    scene.networks.define(Bridge("lan", 9000))
    a = FrontEnd(scene, bridge="lan").connect()
    b = FrontEnd(scene, bridge="lan").connect()
    c = FrontEnd(scene, bridge="lan", mtu="1500").connect()
    for size, to_b, to_c in ((1518, 1, 1), (1519, 1, 0), (9018, 1, 0), (9019, 0, 0)):
        a.send(frame(BROADCAST, MAC_A, size).data)
        assert (len(b.receive()), len(c.receive())) == (to_b, to_c), size


def test_a_rate_is_kept_to(scene: Scene) -> None:
    a = FrontEnd(scene, rate="100000,50000").connect()  # 100,000 bytes in 50 ms: 2 MB/s
    b = FrontEnd(scene, buffers=200).connect()
    sent = got = 0
    for _ in range(100):
        while sent - got < 64:
            a.put(frame(MAC_B, MAC_A, 1000).data)
            sent += 1
        a.kick(a.queues[0].tx_port)
        scene.pass_time(10_000_000)
        a.statuses()
        got += len(b.receive())
    # A second's worth, and what went over by a portion.
    assert 1900 <= got <= 2200


@pytest.mark.parametrize("rate", ["", "1", "x,y", "5,0", "-1,-1"])
def test_a_rate_that_makes_no_sense_is_none(scene: Scene, rate: str) -> None:
    a = FrontEnd(scene, rate=rate).connect()
    b = FrontEnd(scene).connect()
    for _ in range(20):
        a.send(frame(MAC_B, MAC_A, 1000).data)
    assert len(b.receive()) == 20


def test_a_bridge_that_is_not_there(scene: Scene) -> None:
    front = FrontEnd(scene, bridge="nonesuch")
    assert front.device.error == "-19 there's no bridge 'nonesuch'; there is user, xenbr0"
    node = f"/local/domain/0/error/backend/vif/{front.domain.domid}/0/error"
    assert "nonesuch" in scene.client.read(node)


def test_bridges_are_apart(scene: Scene) -> None:
    scene.networks.define(Bridge("lan"))
    a = FrontEnd(scene, bridge="lan").connect()
    b = FrontEnd(scene).connect()
    a.send(frame(BROADCAST, MAC_A).data)
    assert b.receive() == []


def test_one_guest_with_two_interfaces(scene: Scene) -> None:
    scene.networks.define(Bridge("lan"))
    a = FrontEnd(scene).connect()
    b = FrontEnd(scene, a.domain, 1, bridge="lan").connect()
    c = FrontEnd(scene, bridge="lan").connect()
    c.send(frame(BROADCAST, MAC_A).data)
    assert (len(a.receive()), len(b.receive())) == (0, 1)


# -- coming and going ------------------------------------------------------------------------------
def test_the_front_end_closes_and_comes_again(scene: Scene) -> None:
    a, b = two(scene)
    a.switch(5)
    assert a.backend_state == 5
    a.switch(6)
    assert a.backend_state == 6
    assert scene.control.grants.maptrack.keys() == {
        mapping.handle for q in b.device._queues for page in q.pages for mapping in page.mappings
    }
    give(scene, frame(BROADCAST, MAC_C))
    a.switch(1)
    assert a.backend_state == 2
    for queue in a.queues:
        queue.tx.__post_init__()
        queue.rx.__post_init__()
        queue.tx.req_prod = queue.tx.rsp_cons = queue.rx.req_prod = queue.rx.rsp_cons = 0
        queue.tx_port = a.domain.events.alloc_unbound(0)
        queue.rx_port = a.domain.events.alloc_unbound(0)
    a.connect()
    assert a.send(frame(MAC_B, MAC_A, 90).data) == [OKAY]
    assert [len(packet.data) for packet in b.receive()] == [64, 90]


def test_detached_while_traffic_flows(scene: Scene) -> None:
    a, b = two(scene, buffers=2)
    for _ in range(8):
        a.put(frame(MAC_B, MAC_A, 100).data)
    a.kick(a.queues[0].tx_port)
    assert len(b.device._queues[0].rx or ()) == 6
    domid = b.domain.domid
    with scene.client.transaction() as tx:
        tx.rm(f"/local/domain/{domid}/device/vif/0")
        tx.rm(f"/local/domain/0/backend/vif/{domid}/0")
    scene.run()
    assert scene.bus.find(domid, 0) is None
    assert a.send(frame(MAC_B, MAC_A, 100).data)[-1] == OKAY

    assert len(scene.control.grants.maptrack) == 2
    assert [port.name for port in scene.networks.get("xenbr0").ports] == [f"vif{a.domain.domid}.0"]


def test_a_guest_that_dies_while_traffic_flows(scene: Scene) -> None:
    a, b = two(scene, buffers=1)
    a.put(frame(MAC_B, MAC_A, 100).data)
    a.put(frame(MAC_B, MAC_A, 100).data)
    a.kick(a.queues[0].tx_port)
    scene.xen.destroy_domain(b.domain)
    assert a.send(frame(MAC_B, MAC_A, 100).data)[-1] == OKAY
    domid = b.domain.domid
    scene.client.rm(f"/local/domain/{domid}")
    scene.run()
    assert scene.bus.find(domid, 0) is None
    assert domid not in scene.xen.domains
    assert a.send(frame(MAC_B, MAC_A, 100).data)[-1] == OKAY


def test_a_switch_that_goes(scene: Scene) -> None:
    scene.networks.define(Bridge("lan"))
    a = FrontEnd(scene, bridge="lan").connect()
    scene.networks.remove("lan")
    assert a.send(frame(BROADCAST, MAC_A).data) == [OKAY]


# -- front ends that are wrong ---------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("request-rx-copy", "0", "can't have its packets copied"),
        ("multi-queue-num-queues", "9", "9 queues; there can be 1 to 8"),
        ("multi-queue-num-queues", "0", "0 queues"),
        ("multi-queue-num-queues", "2", "reading /local/domain/1/device/vif/0/queue-0/tx-ring-ref"),
        ("multi-queue-num-queues", "two", "is no number"),
        ("tx-ring-ref", "4000000", "mapping grants"),
        ("tx-ring-ref", "-1", "is no number"),
        ("rx-ring-ref", "99999999999", "not < 4294967296"),
        ("event-channel-tx", "0", "EINVAL"),
        ("event-channel-rx", "9999", "EINVAL"),
        ("feature-sg", "yes", "is no number"),
        ("ctrl-ring-ref", "77", "mapping grants"),
        ("xdp-headroom", "x" * 100, "is no number"),
    ],
)
def test_nodes_that_make_no_sense(scene: Scene, name: str, value: str, message: str) -> None:
    front = FrontEnd(scene)
    front.describe()
    front.store.write(f"{front.path}/{name}", value)
    front.switch(4)
    assert front.backend_state == 5
    assert message in (front.device.error or "")
    assert "\n" not in (front.device.error or "")
    assert scene.control.grants.maptrack == {}
    assert front.device.port.switch is None


def test_a_producer_index_that_is_impossible(scene: Scene) -> None:
    a, b = two(scene)
    a.queues[0].tx.show(5000)
    a.kick(a.queues[0].tx_port)
    assert a.backend_state == 5
    assert "req_prod" in (a.device.error or "")
    assert b.backend_state == 4


@pytest.mark.parametrize("size", [0, 13])
def test_a_packet_that_is_too_short(scene: Scene, size: int) -> None:
    front = FrontEnd(scene).connect()
    assert front.send(bytes(size)) == [ERROR]


def test_parts_that_do_not_add_up(scene: Scene) -> None:
    a, b = two(scene)
    ring = a.queues[0].tx
    ref = a.tx_pages[0][1]
    ring.put(struct.pack("<IHHHH", ref, 0, 4, 1, 100))
    ring.put(struct.pack("<IHHHH", ref, 0, 0, 2, 101))
    ring.show()
    a.kick(a.queues[0].tx_port)
    assert a.statuses() == [ERROR, ERROR]
    ring.put(struct.pack("<IHHHH", ref, 4000, 0, 3, 97))
    ring.show()
    a.kick(a.queues[0].tx_port)
    assert a.statuses() == [ERROR]
    assert b.receive() == []


def test_nineteen_slots_are_too_many(scene: Scene) -> None:
    scene.networks.define(Bridge("lan", 65535))
    a = FrontEnd(scene, bridge="lan").connect()
    data = frame(BROADCAST, MAC_A, 190).data
    assert a.send(data, sizes=[10] * 18 + [10]) == [ERROR] * 19
    assert a.send(data[:180], sizes=[10] * 18) == [OKAY] * 18


def test_a_packet_without_its_end(scene: Scene) -> None:
    a, b = two(scene)
    ring = a.queues[0].tx
    ring.put(struct.pack("<IHHHH", a.tx_pages[0][1], 0, 4, 41, 100))
    ring.show()
    a.kick(a.queues[0].tx_port)
    assert ring.take() == [struct.pack("<Hh", 41, ERROR).ljust(12, b"\0")]
    assert a.send(frame(MAC_B, MAC_A).data) == [OKAY]
    assert len(b.receive()) == 1


def test_grants_that_are_not_there(scene: Scene) -> None:
    a, b = two(scene)
    ring = a.queues[0].tx
    other = a.grant(a.tx_pages[0][0], domid=b.domain.domid)
    gone = a.grant(a.tx_pages[0][0])
    a.revoke(gone)
    hole = a.grant(0xFFFFF)
    for ref in (other, gone, hole, 0xFFFFFFFF, 100000):
        ring.put(struct.pack("<IHHHH", ref, 0, 0, 1, 100))
        ring.show()
        a.kick(a.queues[0].tx_port)
        assert a.statuses() == [ERROR]
    assert b.receive() == []
    assert a.device.complaints == 5


def test_receive_buffers_that_are_not_there(scene: Scene) -> None:
    a = FrontEnd(scene).connect()
    b = FrontEnd(scene, buffers=0).connect()
    ring = b.queues[0].rx
    readonly = b.grant(b.page()[0], 1 | 4)
    for ref in (readonly, 0, 0xFFFFFFFF):
        ring.put(struct.pack("<HHI", 9, 0, ref))
    ring.show()
    for _ in range(3):
        a.send(frame(MAC_B, MAC_A, 100).data)
    assert [struct.unpack("<HHHh", slot)[3] for slot in ring.take()] == [ERROR] * 3


def test_complaints_do_not_fill_the_log(scene: Scene) -> None:
    front = FrontEnd(scene).connect()
    before = len(scene.xen.log.text().splitlines())
    for _ in range(100):
        front.send(b"short")
    assert front.device.complaints == 100
    assert len(scene.xen.log.text().splitlines()) - before <= 10
