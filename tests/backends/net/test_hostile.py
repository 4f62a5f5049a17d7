# SPDX-License-Identifier: GPL-2.0-or-later
"""Front ends that write anything anywhere: no exception, no hang, no access outside the grants.

Of every run the machine's log of written frames is kept: beside what the guests wrote themselves,
only pages that a guest has granted for writing, grant tables, and shared info pages may be in it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.backends.net import support
from tests.backends.net.frontend import PAGE, FrontEnd, Ring, Scene, gso, mcast
from tests.backends.net.support import BROADCAST, MAC_A, MAC_B, Plug, frame
from xenograft.abi.io.netif import xen_netif_ctrl_request
from xenograft.backends.net.chain import next_chain
from xenograft.backends.net.control import Control, Hashing
from xenograft.hypervisor.grants.status import GrantError

FEW = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

words = st.one_of(st.integers(0, 0xFFFFFFFF), st.integers(0, 600), st.just(0xFFFFFFFF))
halves = st.one_of(st.integers(0, 0xFFFF), st.integers(0, 64), st.sampled_from([4095, 4096, 4097]))
flags = st.one_of(st.integers(0, 15), st.integers(0, 0xFFFF))


class Watch:
    """What was written to machine memory by others than the guests themselves."""

    def __init__(self, scene: Scene, *fronts: FrontEnd) -> None:
        self.scene, self.fronts = scene, fronts
        scene.xen.memory.set_dirty_logging(True)

    def check(self, work: Callable[[], object]) -> None:
        memory = self.scene.xen.memory
        memory.dirty_frames()
        work()
        allowed = set()
        for front in self.fronts:
            domain = front.domain
            allowed |= set(domain.grants.shared.frames) | {domain.shared_info_maddr >> 12}
            gfns = {ring.gfn for queue in front.queues for ring in (queue.tx, queue.rx)}
            gfns |= {gfn for queue in front.queues for _, gfn in queue.rx_refs.values()}
            if front.control is not None:
                gfns.add(front.control.gfn)
            for gfn in gfns:
                mfn, _ = domain.p2m.lookup(gfn)
                allowed.add(mfn)
        assert set(memory.dirty_frames()) <= allowed


def fill(ring: Ring, slots: list[bytes], producer: int | None) -> None:
    for slot in slots:
        ring.put(slot)
    ring.show(producer)


transmit_slots = st.lists(
    st.one_of(
        st.binary(min_size=12, max_size=12),
        st.builds(
            lambda *fields: struct.pack("<IHHHH", *fields),
            *(words, halves, flags, halves, halves),
        ),
    ),
    max_size=40,
)


@FEW
@given(transmit_slots, st.one_of(st.none(), st.none(), words))
def test_transmit_rings(slots: list[bytes], producer: int | None) -> None:
    scene = Scene()
    a, b = FrontEnd(scene).connect(), FrontEnd(scene).connect()
    watch = Watch(scene, a, b)
    fill(a.queues[0].tx, slots, producer)
    watch.check(lambda: a.kick(a.queues[0].tx_port))
    if a.backend_state == 4:
        # Each request has had its answer, and the ring goes on.
        answers = len(a.queues[0].tx.take())
        assert producer is not None or answers == len(slots)
        assert producer is not None or a.send(frame(MAC_B, MAC_A).data)[-1] == 0
    assert b.backend_state == 4
    scene.close()


@FEW
@given(
    st.lists(st.tuples(halves, words), max_size=30),
    st.one_of(st.none(), st.none(), words),
    st.integers(60, 9000),
    st.booleans(),
)
def test_receive_rings(
    requests: list[tuple[int, int]], producer: int | None, size: int, large: bool
) -> None:
    scene = Scene()
    b = FrontEnd(scene, buffers=0).connect()
    wire = Plug("wire")
    scene.networks.get("xenbr0").attach(wire)
    watch = Watch(scene, b)
    fill(b.queues[0].rx, [struct.pack("<HHI", i, 7, ref) for i, ref in requests], producer)

    def work() -> None:
        for _ in range(3):
            data = support.tcp4(bytes(size)) if large else frame(BROADCAST, size=1500).data
            wire.send(support.Packet(data, True, True, 1 if large else 0, 1448 if large else 0))
        scene.networks.get("xenbr0").run()
        b.kick(b.queues[0].rx_port)

    # Whatever the requests name: nothing is granted for writing that isn't in a ring.
    watch.check(work)
    scene.close()


@FEW
@given(st.lists(st.tuples(halves, halves, words, words, words), max_size=80), st.booleans())
def test_control_rings(requests: list[tuple[int, ...]], sane: bool) -> None:
    scene = Scene()
    front = FrontEnd(scene, control=True, queues=2).connect()
    assert front.control is not None
    watch = Watch(scene, front)
    slots = [
        struct.pack("<HHIII", ident, kind % 12 if sane else kind, *data)
        for ident, kind, *data in requests
    ]
    fill(front.control, slots, None)
    watch.check(lambda: front.kick(front.control_port))
    if front.backend_state == 4:
        assert [struct.unpack_from("<HH", slot) for slot in front.control.take()] == [
            struct.unpack_from("<HH", slot) for slot in slots
        ]
    scene.close()


@FEW
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "tx-ring-ref",
                "rx-ring-ref",
                "event-channel",
                "event-channel-tx",
                "event-channel-rx",
                "ctrl-ring-ref",
                "event-channel-ctrl",
                "multi-queue-num-queues",
                "queue-0/tx-ring-ref",
                "request-rx-copy",
                "feature-rx-notify",
                "feature-sg",
                "xdp-headroom",
                "request-multicast-control",
                "state",
            ]
        ),
        st.one_of(
            st.integers(-2, 80).map(str),
            words.map(str),
            st.sampled_from(["", "1x", "\xb9", "0x10", "9" * 60, " 1"]),
        ),
        max_size=6,
    ),
    st.lists(st.integers(-1, 9), max_size=6),
)
def test_store_nodes_and_states(nodes: dict[str, str], states: list[int]) -> None:
    scene = Scene()
    front = FrontEnd(scene)
    other = FrontEnd(scene).connect()
    front.describe()
    for name, value in nodes.items():
        front.store.write(f"{front.path}/{name}", value)
    for state in [4, *states]:
        front.switch(state)
        for queue in front.queues:
            front.kick(queue.tx_port)
    assert other.backend_state == 4
    scene.client.rm(front.path)
    scene.run()
    mapped = {track.domid for track in scene.control.grants.maptrack.values()}
    assert mapped == {other.domain.domid}
    scene.close()


@given(transmit_slots, st.integers(0, 5))
def test_chains_end(slots: list[bytes], start: int) -> None:
    at, ids = min(start, len(slots)), 0
    while at < len(slots):
        got = next_chain(slots, at)
        if got is None:
            break
        chain, end = got
        assert at < end <= len(slots)
        assert len(chain.ids) == end - at
        if chain.error is None and chain.multicast_add is None and chain.multicast_del is None:
            assert sum(request.size for request in chain.requests) == chain.size
            assert all(one.offset + one.size <= PAGE for one in chain.requests)
        at, ids = end, ids + 1


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just(frame().data), flags, st.just([])),
            st.tuples(
                st.sampled_from([support.tcp4(bytes(5000)), support.tcp6(bytes(5000))]),
                st.sampled_from([1, 3]),
                st.lists(
                    st.one_of(
                        st.builds(gso, halves, st.integers(0, 4), st.booleans()),
                        st.builds(mcast, st.just(MAC_A), st.booleans(), st.booleans()),
                    ),
                    max_size=3,
                ),
            ),
        ),
        max_size=12,
    )
)
@FEW
def test_packets_of_all_kinds(packets: list[tuple[bytes, int, list[bytes]]]) -> None:
    scene = Scene()
    a = FrontEnd(scene).connect()
    b = FrontEnd(scene, nodes={"feature-gso-tcpv6": "0"}).connect()
    c = FrontEnd(scene, nodes={"feature-no-csum-offload": "1", "feature-sg": "0"}).connect()
    watch = Watch(scene, a, b, c)
    for data, flag, extras in packets:
        a.put(data, flag & 3, extras)
        watch.check(lambda: a.kick(a.queues[0].tx_port))
        b.receive()
        c.receive()
        a.statuses()
    scene.close()


@given(st.lists(st.tuples(st.integers(0, 11), words, words, words), max_size=20), st.booleans())
def test_control_answers_whatever_it_is_asked(
    requests: list[tuple[int, int, int, int]], readable: bool
) -> None:
    def read(_ref: int, size: int) -> bytes:
        if not readable or size > PAGE:
            raise GrantError(-3, "no grant")
        return bytes(range(256))[: size & 0xFF].ljust(size, b"\1")

    hashing = Hashing()
    control = Control(hashing, 3, read)
    for kind, *data in requests:
        request = xen_netif_ctrl_request(id=5, type=kind, data=data)
        answer = control.answer(request)
        assert (answer.id, answer.type) == (5, kind)
        assert answer.status in (0, 1, 2, 3)
    data = support.tcp4(b"x")
    assert 0 <= hashing.queue(data, hashing.hash(data), 3) < 3


def test_receive_requests_that_are_taken_back() -> None:
    scene = Scene()
    a, b = FrontEnd(scene).connect(), FrontEnd(scene).connect()
    b.send(frame(MAC_A, MAC_B).data)
    a.queues[0].rx.show(0)
    assert b.send(frame(MAC_A, MAC_B).data) == [0]
    assert a.backend_state == 5
    assert b.backend_state == 4
    scene.close()
