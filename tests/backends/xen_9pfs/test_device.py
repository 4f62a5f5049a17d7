# SPDX-License-Identifier: GPL-2.0-or-later
"""The device from a front end's side: states, rings, and what a hostile guest writes there."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.backends.scene import Guest, Scene, open_descriptors, scene
from tests.backends.xen_9pfs.client import Client, message, refused, s
from tests.backends.xen_9pfs.conftest import SECRET
from tests.backends.xen_9pfs.frontend import IN_CONS, ORDER, OUT_PROD, Front
from xenograft.abi.io.xenbus import XenbusState
from xenograft.backends.ring import RingError
from xenograft.backends.xen_9pfs import device as device_module
from xenograft.backends.xen_9pfs.persist import P9State
from xenograft.backends.xen_9pfs.protocol import REQUESTS


@pytest.fixture(params=[True, False], ids=["virtual", "real"])
def world(request: pytest.FixtureRequest) -> Iterator[Scene]:
    with scene(request.param) as one:
        yield one


@pytest.fixture
def guest() -> Iterator[Guest]:
    with scene() as one:
        yield one.guest()


def version(tag: int = 0xFFFF) -> bytes:
    return message(100, tag, struct.pack("<I", 8192) + s("9P2000.L"))


def attach(fid: int, tag: int = 1) -> bytes:
    return message(104, tag, struct.pack("<II", fid, 0xFFFFFFFF) + s("") + s("") + bytes(4))


# -- states ---------------------------------------------------------------------------------------
def test_offers_what_it_can_do(guest: Guest, share: Path) -> None:
    front = Front(guest, share)
    read = front.device.read
    assert (read("versions"), read("max-rings"), read("max-ring-page-order")) == ("1", "4", "6")
    assert front.device.state is XenbusState.Connected
    assert guest.store.read(f"{front.path}/tag") == "share"


def test_a_session_over_the_ring(world: Scene, share: Path) -> None:
    front = Front(world.guest(), share, rings=2)
    client = Client(front.ask)
    root = client.start()
    assert client.msize == 8192
    fid = client.walk(root)
    client.create(fid, "f")
    data = os.urandom(5000)
    assert client.write(fid, data) == 5000
    client.fsync(fid)
    assert client.read(fid) == data
    assert (share / "f").read_bytes() == data
    with refused(errno.ENOENT):
        client.walk(root, "none")
    metrics = front.device.metrics
    assert (metrics.requests, metrics.errors) == (8, 1)
    # On the virtual clock everything takes its time.
    assert bool(metrics.quick) is not world.xen.clock.virtual


def test_many_at_once_on_all_rings(world: Scene, share: Path) -> None:
    for number in range(40):
        (share / f"f{number}").write_bytes(b"%d" % number * 50)
    front = Front(world.guest(), share, rings=2, order=3)
    client = Client(front.ask)
    root = client.start()
    fids = []
    for number in range(40):
        fids.append(client.walk(root, f"f{number}"))
        client.open(fids[-1])
    for tag, fid in enumerate(fids):
        body = struct.pack("<IQI", fid, 0, 1000)
        front.rings[tag % 2].put(message(116, tag, body), notify=False)
    for ring in front.rings:
        front.guest.notify(ring.port)
    world.run()
    got = {}
    for ring in front.rings:
        for answer in ring.take():
            got[int.from_bytes(answer[5:7], "little")] = answer[11:]
    assert got == {number: b"%d" % number * 50 for number in range(40)}


def test_reconnects(guest: Guest, share: Path) -> None:
    front = Front(guest, share)
    client = Client(front.ask)
    client.create(client.start(), "f")
    server = front.device.server
    assert server is not None
    for state, expected in ((5, "5"), (6, "6"), (1, "2")):
        guest.write(front.path, state=state)
        guest.scene.run()
        assert front.device.read("state") == expected
    assert server.fids.open_files == 0
    guest.write(front.path, state=3)
    assert front.device.state is XenbusState.Connected
    assert client.version(8192) == "9P2000.L"


def test_goes_with_requests_under_way(world: Scene, share: Path) -> None:
    """The device waits for the host before it lets go of its folder."""
    guest = world.guest()
    front = Front(guest, share)
    client = Client(front.ask)
    fid = client.start()
    client.create(fid, "f")
    before = open_descriptors()
    for tag in range(20):
        front.rings[0].put(message(118, tag, struct.pack("<IQI", fid, tag, 1) + b"x"), False)
    guest.notify(front.rings[0].port)
    guest.devices.remove("9pfs", 0)
    world.run()
    assert world.services.devices(guest.domid) == []
    assert open_descriptors() < before


@pytest.mark.parametrize(
    ("nodes", "error"),
    [
        ({"version": "2"}, "version is 2"),
        ({"num_rings": 0}, "0 rings"),
        ({"num_rings": 5}, "5 rings"),
        ({"num_rings": "x"}, "no number"),
        ({"ring_ref0": 9999}, "mapping grants"),
        ({"event_channel_0": 999}, "EINVAL"),
    ],
)
def test_wrong_nodes_end_the_device(
    guest: Guest, share: Path, nodes: dict[str, object], error: str
) -> None:
    front = Front(guest, share, **nodes)
    assert front.device.state is XenbusState.Closing
    assert error in (front.device.error or "")


def test_a_folder_that_has_gone(guest: Guest, tmp_path: Path) -> None:
    front = Front(guest, tmp_path / "none")
    assert "No such file" in (front.device.error or "")
    assert front.device.state is XenbusState.Closing


def test_save_and_restore(guest: Guest, share: Path) -> None:
    front = Front(guest, share)
    client = Client(front.ask)
    fid = client.walk(client.start())
    client.create(fid, "f")
    client.write(fid, b"kept")
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(front.device.save()), type=P9State)
    for number in (5, 6, 1):
        guest.write(front.path, state=number)
        guest.scene.run()
    guest.write(front.path, state=3)
    with refused(errno.EINVAL):
        client.read(fid)
    for ring, indices in zip(front.device.rings, state.rings, strict=True):
        # The pages have gone on since: the test's session goes on with them.
        assert ring.ring.save() != indices
    state = msgspec.structs.replace(
        state, rings=tuple(ring.ring.save() for ring in front.device.rings)
    )
    front.device.restore(state)
    assert client.read(fid) == b"kept"
    with pytest.raises(RingError):
        front.device.restore(msgspec.structs.replace(state, rings=()))


# -- order ----------------------------------------------------------------------------------------
def test_flush_is_answered_behind_its_request(guest: Guest, share: Path) -> None:
    front = Front(guest, share)
    ring = front.rings[0]
    ring.put(version())
    guest.scene.run()
    ring.take()
    ring.put(attach(1, 5), notify=False)
    ring.put(message(108, 6, struct.pack("<H", 5)), notify=False)
    ring.put(message(108, 7, struct.pack("<H", 99)), notify=False)
    guest.notify(ring.port)
    guest.scene.run()
    tags = [int.from_bytes(answer[5:7], "little") for answer in ring.take()]
    assert tags.index(5) < tags.index(6)
    assert sorted(tags) == [5, 6, 7]


def test_answers_wait_for_room(guest: Guest, share: Path) -> None:
    (share / "f").write_bytes(bytes(8000))
    front = Front(guest, share, order=2)
    client = Client(front.ask)
    fid = client.walk(client.start(), "f")
    client.open(fid)
    ring = front.rings[0]
    for tag in range(5):
        ring.put(message(116, tag, struct.pack("<IQI", fid, 0, 4000)), notify=False)
    guest.notify(ring.port)
    guest.scene.run()
    first = ring.take()
    assert len(first) == 2
    assert front.device.metrics.full > 0
    # No event: the front end needn't tell that there is room.
    ring.free()
    guest.scene.run()
    assert len(ring.take()) == 2


def test_what_is_under_way_is_bounded(
    guest: Guest, share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "MAX_UNDER_WAY", 3)
    front = Front(guest, share)
    front.ask(version())
    ring = front.rings[0]
    for tag in range(20):
        ring.put(message(8, tag, struct.pack("<I", 1)), notify=False)
    guest.notify(ring.port)
    assert guest.scene.services.work.outstanding == 3
    guest.scene.run()
    assert len(ring.take()) == 20
    assert front.device.metrics.held > 0


def test_a_flood_of_flushes_is_bounded(guest: Guest, share: Path) -> None:
    front = Front(guest, share)
    front.ask(version())
    ring = front.rings[0]
    ring.put(attach(1, 5), notify=False)
    for tag in range(100, 300):
        ring.put(message(108, tag, struct.pack("<H", 5)), notify=False)
    guest.notify(ring.port)
    waiting = sum(map(len, front.device.rings[0].flushes.values()))
    assert waiting <= device_module.MAX_UNDER_WAY
    guest.scene.run()
    assert len(ring.take()) == 201


# -- hostile --------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [0, 6, 8193, 0xFFFFFFFF])
def test_impossible_sizes_end_the_device(guest: Guest, share: Path, size: int) -> None:
    front = Front(guest, share)
    front.rings[0].put(struct.pack("<IBH", size, 100, 1))
    assert front.device.state is XenbusState.Closing
    assert "bytes in a ring" in (front.device.error or "")


@pytest.mark.parametrize("order", [0, 7, 31, 0xFFFFFFFF])
def test_impossible_orders_end_the_device(guest: Guest, share: Path, order: int) -> None:
    front = Front(guest, share)
    for state in (5, 6, 1):
        guest.write(front.path, state=state)
        guest.scene.run()
    guest.write_u32(front.rings[0].interface, ORDER, order)
    guest.write(front.path, state=3)
    assert "ring_order" in (front.device.error or "")


def test_wild_indices(guest: Guest, share: Path) -> None:
    front = Front(guest, share)
    ring = front.rings[0]
    for value in (0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 12345):
        guest.write_u32(ring.interface, OUT_PROD, value)
        guest.write_u32(ring.interface, IN_CONS, value ^ 0x5555)
        guest.notify(ring.port)
        guest.scene.run()
    assert front.device.state in (XenbusState.Closing, XenbusState.Connected)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=400), order=st.integers(1, 3), producer=st.integers(0, 1 << 32))
def test_any_bytes_in_the_ring(tmp_path: Path, data: bytes, order: int, producer: int) -> None:
    folder = tmp_path / "share"
    folder.mkdir(exist_ok=True)
    with scene() as one:
        front = Front(one.guest(), folder, order=order)
        front.rings[0].put(version() + data)
        one.run()
        front.guest.write_u32(front.rings[0].interface, OUT_PROD, producer & 0xFFFFFFFF)
        front.guest.notify(front.rings[0].port)
        one.run()


NUMBERS = st.sampled_from([*REQUESTS, 0, 6, 7, 101, 255])
FIDS = st.sampled_from([0, 1, 2, 3, 0xFFFFFFFF])
NAMES = st.sampled_from(
    ["", ".", "..", "../secret", "a", "b", "link", "dir", "/", "x" * 300, "user.a", "a\0b", "/etc"]
)
WILD = {
    "1": st.integers(0, 255),
    "2": st.integers(0, 0xFFFF),
    "4": st.one_of(FIDS, st.integers(0, 0xFFFFFFFF)),
    "8": st.one_of(st.integers(0, 300), st.sampled_from([1 << 63, (1 << 64) - 1])),
    "s": NAMES.map(str.encode),
    "d": st.binary(max_size=20),
    "*s": st.lists(NAMES.map(str.encode), max_size=4),
}


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    number = draw(NUMBERS)
    shape = REQUESTS.get(number)
    tag = draw(st.integers(0, 3))
    if shape is None or draw(st.integers(0, 9)) == 0:
        return message(number, tag, draw(st.binary(max_size=40)))
    return shape.pack(tag, *(draw(WILD[kind]) for _, kind in shape.fields))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(requests(), max_size=30), st.booleans())
def test_any_requests(tmp_path: Path, asked: list[bytes], virtual: bool) -> None:
    """Each gets an answer, and nothing outside the folder changes or is seen."""
    (tmp_path / "secret").write_bytes(SECRET)
    folder = tmp_path / "share"
    folder.mkdir(exist_ok=True)
    (folder / "dir").mkdir(exist_ok=True)
    if not (folder / "link").is_symlink():
        (folder / "link").unlink(missing_ok=True)
        (folder / "link").symlink_to("../secret")
    with scene(virtual) as one:
        front = Front(one.guest(), folder, order=3)
        ring = front.rings[0]
        answers = [front.ask(version()), front.ask(attach(1))]
        for request in asked:
            ring.put(request)
            one.run()
            answers += ring.take()
            ring.free()
        assert len(answers) == len(asked) + 2
        assert front.device.state is XenbusState.Connected
        assert not any(SECRET in answer for answer in answers)
        assert "bug" not in one.xen.log.text()
        assert "Error:" not in one.xen.log.text()
    assert (tmp_path / "secret").read_bytes() == SECRET
    assert {path.name for path in tmp_path.iterdir()} == {"secret", "share"}


def test_show_tells_of_messages(guest: Guest, share: Path) -> None:
    front = Front(guest, share)
    seen: list[str] = []

    class Listener:
        def ring(self, time: int, domid: int, device: str, text: str) -> None:
            seen.append(f"d{domid} {device} {text}")

    with guest.scene.xen.instruments.listening(Listener()):
        front.ask(version())
    front.ask(attach(1))
    assert seen == [
        "d1 9pfs/0 > Tversion tag=65535 msize=8192 version=9P2000.L",
        "d1 9pfs/0 < Rversion tag=65535 msize=8192 version=9P2000.L",
    ]
