# SPDX-License-Identifier: GPL-2.0-or-later
"""Screens and keyboards from a front end's side."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.backends.scene import Guest, scene
from xenograft.abi.errno import XenError
from xenograft.abi.io.xenbus import XenbusState
from xenograft.backends.display.framebuffer import FramebufferDevice, Mode, check_mode
from xenograft.backends.display.keyboard import KeyboardDevice
from xenograft.backends.display.page import MAX_WAITING
from xenograft.backends.xenbus.device import DeviceError
from xenograft.toolstack.config.display import Vfb, Vkb
from xenograft.toolstack.devices.display import vfb_record, vkb_record

WIDTH, HEIGHT = 100, 40


@pytest.fixture
def guest() -> Iterator[Guest]:
    with scene() as one:
        yield one.guest()


class Screen:
    """A frame buffer's front end."""

    def __init__(
        self,
        guest: Guest,
        size: tuple[int, int] = (WIDTH, HEIGHT),
        depth: int = 32,
        bytes_: int | None = None,
        word: int = 8,
    ) -> None:
        self.guest = guest
        record = vfb_record(Vfb(), 0, guest.domid)
        device = guest.attach(record)
        assert isinstance(device, FramebufferDevice)
        self.device, self.path = device, record.frontend_path
        self.word = word
        stride = WIDTH * 4
        total = HEIGHT * stride if bytes_ is None else bytes_
        self.frames = [guest.page() for _ in range(-(-HEIGHT * stride // 4096))]
        # Frames in any order: the list says which is where.
        self.frames.reverse()
        self.directory, self.page = guest.page(), guest.page()
        code = "Q" if word == 8 else "I"
        entries = struct.pack(f"<{len(self.frames)}{code}", *self.frames)
        guest.xen.space.write(self.directory << 12, entries)
        header = struct.pack("<IIIIiiIiB", 0, 0, 0, 0, *size, stride, total, depth)
        guest.xen.space.write(self.page << 12, header.ljust(4096, b"\0"))
        start = self.page << 12
        guest.xen.space.write(
            start + (40 if word == 8 else 36), struct.pack(f"<{code}", self.directory)
        )
        self.port = guest.port()

    def connect(self, **nodes: object) -> None:
        protocol = "x86_64-abi" if self.word == 8 else "x86_32-abi"
        self.guest.write(
            self.path,
            page_ref=self.page,
            event_channel=self.port,
            protocol=protocol,
            feature_update=1,
        )
        self.guest.write(self.path, **nodes)
        self.guest.write(self.path, state=3)

    def draw(self, x: int, y: int, pixel: bytes) -> None:
        offset = y * WIDTH * 4 + x * 4
        self.guest.xen.space.write(self.frames[offset >> 12] << 12 | offset & 0xFFF, pixel)

    def send(self, *events: bytes) -> None:
        producer = self.guest.read_u32(self.page, 12)
        for event in events:
            slot = (self.page << 12) + 2048 + producer % 51 * 40
            self.guest.xen.space.write(slot, event.ljust(40, b"\0"))
            producer += 1
        self.guest.write_u32(self.page, 12, producer)
        self.guest.notify(self.port)


@pytest.mark.parametrize("word", [8, 4])
def test_picture(guest: Guest, word: int) -> None:
    screen = Screen(guest, word=word)
    screen.connect()
    assert screen.device.state is XenbusState.Connected
    assert screen.device.read("request-update") == "1"
    screen.draw(0, 0, bytes([1, 2, 3, 0]))
    screen.draw(WIDTH - 1, HEIGHT - 1, bytes([4, 5, 6, 0]))
    screen.draw(24, 10, bytes([7, 8, 9, 0]))
    picture = screen.device.picture()
    assert (picture.width, picture.height) == (WIDTH, HEIGHT)
    assert picture.pixel(0, 0) == (3, 2, 1)
    assert picture.pixel(WIDTH - 1, HEIGHT - 1) == (6, 5, 4)
    assert picture.pixel(24, 10) == (9, 8, 7)
    assert sum(picture.rgb) == sum(range(1, 10))


def test_updates_and_resizes(guest: Guest) -> None:
    screen = Screen(guest)
    screen.connect()
    seen: list[tuple[int, ...]] = []
    screen.device.on_update.append(lambda *area: seen.append(area))
    screen.send(struct.pack("<B3xiiii", 2, 1, 2, 30, 4))
    screen.send(struct.pack("<B3xiiiii", 3, 50, 20, 400, 32, 400))
    assert seen == [(1, 2, 30, 4)]
    screen.draw(0, 1, bytes([0, 0, 255, 0]))
    picture = screen.device.picture()
    assert (picture.width, picture.height, picture.pixel(0, 0)) == (50, 20, (255, 0, 0))


def test_the_last_picture_is_kept_if_wanted(guest: Guest) -> None:
    screen = Screen(guest)
    screen.connect()
    screen.draw(5, 5, bytes([0, 255, 0, 0]))
    screen.device.keeps_last = True
    guest.write(screen.path, state=5)
    guest.write(screen.path, state=6)
    assert screen.device.mode is None
    assert screen.device.picture().pixel(5, 5) == (0, 255, 0)


def test_no_picture_before_there_is_one(guest: Guest) -> None:
    screen = Screen(guest)
    with pytest.raises(DeviceError, match="hasn't set up"):
        screen.device.picture()


GOOD = Mode(800, 600, 3200, 32, 0, 800 * 600 * 4)


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"width": -1},
        {"width": 801},
        {"height": 601},
        {"height": 1 << 30},
        {"depth": 4},
        {"depth": 0},
        {"stride": 3199},
        {"stride": 1 << 31},
        {"offset": -1},
        {"offset": 1},
        {"size": 0},
        {"size": -5},
        {"size": (64 << 20) + 1},
        {"size": 800 * 600 * 4 - 1},
    ],
)
def test_modes_that_cannot_be(change: dict[str, int]) -> None:
    assert check_mode(GOOD) == GOOD
    with pytest.raises(DeviceError):
        check_mode(GOOD._replace(**change))


def test_a_bad_mode_ends_the_device(guest: Guest) -> None:
    screen = Screen(guest, size=(0, 5))
    screen.connect()
    assert screen.device.state is XenbusState.Closing
    assert "a frame buffer of 0 by 5" in (screen.device.error or "")


def test_a_page_that_is_not_there(guest: Guest) -> None:
    screen = Screen(guest)
    screen.connect(page_ref=1 << 40)
    assert screen.device.state is XenbusState.Closing


def test_frames_that_are_not_there(guest: Guest) -> None:
    screen = Screen(guest)
    screen.connect()
    guest.xen.space.write(screen.directory << 12, struct.pack("<Q", 1 << 50))
    with pytest.raises(XenError):
        screen.device.picture()


def test_another_domains_memory_is_out_of_reach(guest: Guest) -> None:
    """What a guest names is looked up in its own physical memory alone."""
    other = guest.scene.guest()
    secret = other.page()
    other.xen.space.write(secret << 12, b"\x77" * 4096)
    screen = Screen(guest)
    screen.connect()
    mfn, _ = other.xen.p2m.lookup(secret)
    guest.xen.space.write(screen.directory << 12, struct.pack("<Q", mfn))
    try:
        picture = screen.device.picture()
    except XenError:
        return
    assert b"\x77" not in picture.rgb


def test_pages_are_let_go(guest: Guest) -> None:
    screen = Screen(guest)
    mfn, _ = guest.xen.p2m.lookup(screen.page)
    before = guest.scene.xen.memory.refs(mfn)
    screen.connect()
    assert guest.scene.xen.memory.refs(mfn) == before + 1
    screen.device.picture()
    guest.devices.remove("vfb", 0)
    assert guest.scene.xen.memory.refs(mfn) == before


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=200), st.integers(0, 0xFFFFFFFF))
def test_any_events(data: bytes, producer: int) -> None:
    with scene() as one:
        screen = Screen(one.guest())
        screen.connect()
        screen.guest.xen.space.write((screen.page << 12) + 2048, data)
        screen.guest.write_u32(screen.page, 12, producer)
        screen.guest.notify(screen.port)
        assert screen.guest.read_u32(screen.page, 8) == producer or screen.device.mode is None


class Keys:
    """A keyboard's front end."""

    def __init__(self, guest: Guest, vkb: Vkb | None = None, **nodes: object) -> None:
        self.guest = guest
        record = vkb_record(vkb or Vkb(), 0, guest.domid)
        device = guest.attach(record)
        assert isinstance(device, KeyboardDevice)
        self.device, self.path = device, record.frontend_path
        self.page, self.port = guest.page(), guest.port()
        guest.xen.space.write(self.page << 12, bytes(4096))
        guest.write(self.path, page_gref=guest.grant(self.page), event_channel=self.port)
        guest.write(self.path, **nodes)
        guest.write(self.path, state=3)

    def take(self) -> list[bytes]:
        consumer, producer = (self.guest.read_u32(self.page, at) for at in (0, 4))
        events = []
        for index in range(consumer, producer):
            slot = (self.page << 12) + 1024 + index % 51 * 40
            events.append(self.guest.xen.space.read(slot, 40))
        self.guest.write_u32(self.page, 0, producer)
        return events


def test_keys_and_pointer(guest: Guest) -> None:
    keys = Keys(guest, request_abs_pointer=1)
    keys.device.key(30, True)
    keys.device.move(-1, 2, 3)
    keys.device.place(10, 20)
    first, second, third = keys.take()
    assert struct.unpack_from("<BBxxI", first) == (3, 1, 30)
    assert struct.unpack_from("<Bxxxiii", second) == (1, -1, 2, 3)
    assert struct.unpack_from("<Bxxxiii", third) == (4, 10, 20, 0)


def test_pages_named_by_gfn(guest: Guest) -> None:
    record = vkb_record(Vkb(), 0, guest.domid)
    device = guest.attach(record)
    page = guest.page()
    guest.xen.space.write(page << 12, bytes(4096))
    guest.write(record.frontend_path, page_ref=page, event_channel=guest.port())
    guest.write(record.frontend_path, state=3)
    assert device.state is XenbusState.Connected


def test_events_wait_for_room(guest: Guest) -> None:
    keys = Keys(guest)
    for code in range(1, 121):
        keys.device.key(code, True)
    got = keys.take()
    assert len(got) == 51
    while len(got) < 120:
        guest.scene.run()
        got += keys.take()
    assert [struct.unpack_from("<xxxxI", event)[0] for event in got] == list(range(1, 121))


def test_a_guest_that_reads_nothing(guest: Guest) -> None:
    keys = Keys(guest)
    for _ in range(51 + MAX_WAITING):
        keys.device.key(30, True)
    with pytest.raises(DeviceError, match="doesn't read"):
        keys.device.key(30, True)


def test_what_cannot_be_sent(guest: Guest) -> None:
    keys = Keys(guest)
    with pytest.raises(DeviceError, match="movements alone"):
        keys.device.place(1, 1)
    for code in (0, -1, 0x300):
        with pytest.raises(DeviceError, match="no key code"):
            keys.device.key(code, True)
    guest.write(keys.path, state=5)
    guest.write(keys.path, state=6)
    with pytest.raises(DeviceError, match="hasn't connected"):
        keys.device.key(30, True)


def test_features_are_the_configurations(guest: Guest) -> None:
    keys = Keys(guest, Vkb(abs_pointer=False, raw_pointer=True, width=640, height=480))
    read = keys.device.read
    assert (read("feature-abs-pointer"), read("feature-raw-pointer")) == ("0", "1")
    assert (read("width"), read("height"), read("feature-multi-touch")) == ("640", "480", None)


def test_save_and_restore(guest: Guest) -> None:
    keys = Keys(guest)
    for code in range(1, 61):
        keys.device.key(code, True)
    state = keys.device.save()
    assert state is not None
    assert len(state.waiting) == 9
    screen = Screen(guest)
    assert screen.device.save() is None
    screen.connect()
    screen.send(struct.pack("<B3xiiiii", 3, 50, 20, 400, 32, 400))
    saved = screen.device.save()
    assert saved is not None
    for one in (keys, screen):
        for number in (5, 6, 1):
            guest.write(one.path, state=number)
        one.port = guest.port()
        guest.write(one.path, state=1, event_channel=one.port)
        guest.write(one.path, state=3)
    keys.device.restore(state)
    screen.device.restore(saved)
    assert (screen.device.save(), keys.device.save()) == (saved, state)
    codes = []
    while len(codes) < 60:
        codes += [struct.unpack_from("<xxxxI", event)[0] for event in keys.take()]
        guest.scene.run()
    assert codes == list(range(1, 61))
