# SPDX-License-Identifier: GPL-2.0-or-later
"""Each kind of device goes on with its front end after the guest has become another domain."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.backends.console.test_device import Front as ConsoleFront
from tests.backends.display.test_devices import Screen
from tests.backends.scene import Guest, Scene, scene
from tests.backends.xen_9pfs.client import Client
from tests.backends.xen_9pfs.frontend import Front as P9Front
from tests.toolstack.state.support import carried, introduce, moved
from xenograft.abi.io import netif
from xenograft.abi.io.xenbus import XenbusState
from xenograft.backends.block.device import BlockDevice
from xenograft.backends.console.device import ConsoleDevice
from xenograft.backends.display.framebuffer import FramebufferDevice
from xenograft.backends.display.keyboard import KeyboardDevice
from xenograft.backends.net.vif import VifDevice
from xenograft.backends.xen_9pfs.device import P9Device
from xenograft.backends.xen_9pfs.server import Server
from xenograft.backends.xenbus.device import XenbusDevice
from xenograft.toolstack.config.channel import Channel
from xenograft.toolstack.config.disk import parse_disk
from xenograft.toolstack.config.display import Vkb
from xenograft.toolstack.config.vif import parse_vif
from xenograft.toolstack.devices.display import vkb_record
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.state.services import ServicesState, check_services

CONNECTED = XenbusState.Connected
WRLCK, UNLCK = 1, 2
SET_ALGORITHM = netif.XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM


@pytest.fixture
def here() -> Iterator[Scene]:
    with scene() as one:
        yield one


@pytest.fixture
def there() -> Iterator[Scene]:
    """Another machine, whose domids are others."""
    with scene() as one:
        one.guest()
        yield one


@pytest.fixture
def guest(here: Scene) -> Guest:
    one = here.guest()
    introduce(one)
    return one


def device(guest: Guest, kind: str) -> XenbusDevice:
    (found,) = [one for one in guest.scene.services.devices(guest.domid) if one.kind == kind]
    assert (found.error, found.state) == (None, CONNECTED)
    return found


class Disk:
    """A front end with a ring of one page, and data pages."""

    def __init__(self, guest: Guest, image: Path) -> None:
        self.guest = guest
        record = guest.devices.attach_disk(parse_disk(f"{image},raw,xvda,w"))
        self.path = record.frontend_path
        self.ring, self.data = guest.page(), guest.page()
        guest.xen.space.write(self.ring << 12, bytes(4096))
        guest.write_u32(self.ring, 4, 1)
        guest.write_u32(self.ring, 12, 1)
        self.ref, self.port = guest.grant(self.data), guest.port()
        guest.write(self.path, ring_ref=guest.grant(self.ring), event_channel=self.port)
        guest.write(self.path, protocol="x86_64-abi", feature_persistent=1, state=3)
        guest.write(self.path, state=4)
        self.produced = self.consumed = 0

    def put(self, operation: int, sector: int) -> None:
        """A request for one page."""
        slot = struct.pack("<BBH4xQQ", operation, 1, 0, self.produced, sector)
        slot += struct.pack("<IBB2x", self.ref, 0, 7)
        at = (self.ring << 12) + 64 + self.produced % 32 * 112
        self.guest.xen.space.write(at, slot.ljust(112, b"\0"))
        self.produced += 1
        self.guest.write_u32(self.ring, 0, self.produced)

    def answers(self) -> list[tuple[int, int]]:
        """(id, status) of those that have come."""
        found = []
        while self.consumed < self.guest.read_u32(self.ring, 8):
            at = (self.ring << 12) + 64 + self.consumed % 32 * 112
            ident, _, status = struct.unpack("<QBxh", self.guest.xen.space.read(at, 12))
            found.append((ident, status))
            self.consumed += 1
        return found

    def do(self, operation: int, sector: int) -> None:
        self.put(operation, sector)
        self.guest.notify(self.port)
        self.guest.scene.run()
        assert self.answers() == [(self.produced - 1, 0)]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(range(256)) * 512)
    return path


def test_a_disk_goes_on(guest: Guest, there: Scene, image: Path) -> None:
    disk = Disk(guest, image)
    assert device(guest, "vbd")
    disk.do(0, 8)
    guest.xen.space.write(disk.data << 12, b"here" * 1024)
    disk.do(1, 16)
    for other in (None, there):
        # One that was taken, and one that the back end hasn't seen yet.
        disk.put(0, 16)
        guest.notify(disk.port)
        disk.put(0, 24)
        moved(guest.scene, guest, other=other)
        found = device(guest, "vbd")
        assert isinstance(found, BlockDevice)
        guest.scene.run()
        assert [status for _, status in disk.answers()] == [0, 0]
        guest.xen.space.write(disk.data << 12, b"then" * 1024)
        disk.do(1, 24)
        disk.do(0, 16)
        assert guest.xen.space.read(disk.data << 12, 4) == b"here"
    assert image.read_bytes()[24 * 512 :][:4] == b"then"
    # Its end is that of any device.
    guest.write(guest.scene.client.read(f"{found.path}/frontend"), state=6)
    guest.scene.run()
    assert not guest.scene.services.devices(guest.domid) or found.state is XenbusState.Closed


def test_an_image_can_be_lent(guest: Guest, image: Path) -> None:
    disk = Disk(guest, image)
    found = device(guest, "vbd")
    assert isinstance(found, BlockDevice)
    disk.do(0, 8)
    found.lend()
    with image.open("r+b") as file:
        file.seek(8 * 512)
        file.write(b"lent")
    disk.put(0, 8)
    guest.notify(disk.port)
    guest.scene.run()
    assert disk.answers() == []
    found.take_back()
    guest.scene.run()
    assert disk.answers() == [(1, 0)]
    assert guest.xen.space.read(disk.data << 12, 4) == b"lent"


def test_a_disk_whose_image_has_gone(guest: Guest, there: Scene, image: Path) -> None:
    Disk(guest, image)
    state = carried(guest.scene, guest)
    guest.scene.services.forget(guest.domid)
    image.unlink()
    guest.scene.xen.destroy_domain(guest.xen)
    # The state as such is a good one.
    check_services(state)
    with pytest.raises(UserError, match=r"vbd 51712: .*disk\.img"):
        revive(there, state)


def revive(machine: Scene, state: ServicesState) -> Guest:
    """A domain with nothing but the ports that the state needs."""
    from xenograft.toolstack.state.services import revive_services

    twin = machine.guest()
    introduce_gfn = state.connection.gfn
    twin.xen.grants.seed(1, 0, introduce_gfn)
    for port in range(1, 8):
        twin.xen.events.alloc_unbound(0, port)
    revive_services(machine.services, twin.xen, state)
    return twin


class Nic:
    """A network front end with one queue and a control ring."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest
        record = guest.devices.attach_vif(parse_vif("mac=00:16:3e:00:00:01"))
        self.path = record.frontend_path
        self.tx, self.rx, self.control = (self._ring() for _ in range(3))
        self.port, self.control_port = guest.port(), guest.port()
        self.data = guest.page()
        self.ref = guest.grant(self.data)
        self.sent = 0
        guest.write(
            self.path,
            tx_ring_ref=guest.grant(self.tx),
            rx_ring_ref=guest.grant(self.rx),
            ctrl_ring_ref=guest.grant(self.control),
            event_channel=self.port,
            event_channel_ctrl=self.control_port,
            request_rx_copy=1,
            feature_rx_notify=1,
            state=4,
        )

    def _ring(self) -> int:
        gfn = self.guest.page()
        self.guest.xen.space.write(gfn << 12, bytes(4096))
        self.guest.write_u32(gfn, 4, 1)
        self.guest.write_u32(gfn, 12, 1)
        return gfn

    def offer(self, index: int, gfn: int) -> None:
        """A receive buffer."""
        slot = struct.pack("<HxxI", index, self.guest.grant(gfn))
        self.guest.xen.space.write((self.rx << 12) + 64 + index * 8, slot)
        self.guest.write_u32(self.rx, 0, index + 1)

    def ask(self, kind: int, value: int) -> int:
        """A control request; returns the status."""
        slot = struct.pack("<HHIII", self.sent, kind, value, 0, 0)
        self.guest.xen.space.write((self.control << 12) + 64 + self.sent * 16, slot)
        self.sent += 1
        self.guest.write_u32(self.control, 0, self.sent)
        self.guest.notify(self.control_port)
        at = (self.control << 12) + 64 + (self.sent - 1) * 16
        _, _, status, _ = struct.unpack("<HHII", self.guest.xen.space.read(at, 12))
        return status

    def send(self, index: int, frame: bytes) -> None:
        self.guest.xen.space.write(self.data << 12, frame)
        slot = struct.pack("<IHHHH", self.ref, 0, 0, index, len(frame))
        self.guest.xen.space.write((self.tx << 12) + 64 + index * 12, slot)
        self.guest.write_u32(self.tx, 0, index + 1)
        self.guest.notify(self.port)


FRAME = bytes.fromhex("ffffffffffff00163e0000010806") + bytes(50)


def test_a_network_interface_goes_on(guest: Guest, there: Scene) -> None:
    nic = Nic(guest)
    found = device(guest, "vif")
    assert isinstance(found, VifDevice)
    assert nic.ask(SET_ALGORITHM, 1) == 0
    assert found.hashing.algorithm == 1
    buffers = [guest.page() for _ in range(4)]
    for index, gfn in enumerate(buffers):
        nic.offer(index, gfn)
    guest.notify(nic.port)
    seen: list[bytes] = []
    for turn, other in enumerate((None, there)):
        moved(guest.scene, guest, other=other)
        found = device(guest, "vif")
        assert isinstance(found, VifDevice)
        assert found.hashing.algorithm == 1
        found.port.taps.append(lambda packet, *_: seen.append(bytes(packet.data)))
        # Buffers that were offered in an earlier life take what comes in this one.
        found.port.deliver(_packet(FRAME + bytes([turn])))
        found.port.flush()
        assert guest.read_u32(nic.rx, 8) == turn + 1
        assert guest.xen.space.read(buffers[turn] << 12, 65) == FRAME + bytes([turn])
        nic.send(turn, FRAME + bytes([10 + turn]))
        guest.scene.run()
        assert guest.read_u32(nic.tx, 8) == turn + 1
        assert nic.ask(SET_ALGORITHM, 7) != 0
    assert [frame[-1] for frame in seen if frame[-1] >= 10] == [10, 11]


def _packet(data: bytes) -> object:
    from xenograft.backends.net.packet import Packet

    return Packet(data)


def test_a_channel_goes_on(guest: Guest, there: Scene, tmp_path: Path) -> None:
    front = ConsoleFront(guest, Channel("org.example.0", "socket", str(tmp_path / "sock")))
    front.connect()
    front.say(b"one ")
    found = device(guest, "console")
    assert isinstance(found, ConsoleDevice)
    assert found.backend is not None
    found.backend.send(b"x" * 1500)
    assert front.hear() == b"x" * 1024
    for other in (None, there):
        moved(guest.scene, guest, other=other)
        found = device(guest, "console")
        assert isinstance(found, ConsoleDevice)
        assert found.backend is not None
        front.say(b"two ")
        found.backend.send(b"y")
    assert found.backend.output == b"one two two "
    assert front.hear() == b"x" * 476 + b"yy"


def test_a_shared_folder_goes_on(guest: Guest, there: Scene, tmp_path: Path) -> None:
    front = P9Front(guest, tmp_path, rings=2)
    client = Client(front.ask)
    fid = client.walk(client.start())
    client.create(fid, "f")
    client.write(fid, b"kept")
    assert client.lock(fid, WRLCK, 0, 0) == client.lock(fid, UNLCK, 4, 2) == 0
    for other in (None, there):
        moved(guest.scene, guest, other=other)
        found = device(guest, "9pfs")
        assert isinstance(found, P9Device)
        assert client.read(fid) == b"kept"
        # Another guest finds the file locked, but for two bytes of it.
        rival = Client(P9Front(guest.scene.guest(), tmp_path).ask)
        its = rival.walk(rival.start(), "f")
        rival.open(its, 2)
        assert rival.lock(its, WRLCK, 0, 1) == rival.lock(its, WRLCK, 6, 0) == 1
        assert rival.lock(its, WRLCK, 4, 2) == 0
        assert rival.lock(its, UNLCK, 0, 0) == 0
    client.write(fid, b"more", 4)
    assert (tmp_path / "f").read_bytes() == b"keptmore"


def test_locks_go_on_though_closing_files_takes_its_time(
    guest: Guest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = Server.close

    def slow(server: Server) -> None:
        time.sleep(0.2)
        close(server)

    monkeypatch.setattr(Server, "close", slow)
    client = Client(P9Front(guest, tmp_path).ask)
    fid = client.walk(client.start())
    client.create(fid, "f")
    assert client.lock(fid, WRLCK, 0, 0) == 0
    moved(guest.scene, guest)
    rival = Client(P9Front(guest.scene.guest(), tmp_path).ask)
    its = rival.walk(rival.start(), "f")
    rival.open(its, 2)
    assert rival.lock(its, WRLCK, 0, 1) == 1


def test_a_screen_and_a_keyboard_go_on(guest: Guest, there: Scene) -> None:
    screen = Screen(guest)
    screen.connect()
    screen.draw(24, 10, bytes([7, 8, 9, 0]))
    record = vkb_record(Vkb(), 0, guest.domid)
    guest.attach(record)
    page, port = guest.page(), guest.port()
    guest.xen.space.write(page << 12, bytes(4096))
    guest.write(record.frontend_path, page_ref=page, event_channel=port, state=3)
    keyboard = device(guest, "vkbd")
    assert isinstance(keyboard, KeyboardDevice)
    for code in range(1, 80):
        keyboard.key(code, True)
    for other in (None, there):
        moved(guest.scene, guest, other=other)
        found, keyboard = device(guest, "vfb"), device(guest, "vkbd")
        assert isinstance(found, FramebufferDevice)
        assert isinstance(keyboard, KeyboardDevice)
        assert found.picture().pixel(24, 10) == (9, 8, 7)
    # The ring has 51 places; the rest has waited all the time.
    assert guest.read_u32(page, 4) == 51
    guest.write_u32(page, 0, 51)
    guest.notify(port)
    assert guest.read_u32(page, 4) == 79


def test_a_guest_that_has_not_begun_yet(guest: Guest, there: Scene, image: Path) -> None:
    guest.devices.attach_disk(parse_disk(f"{image},raw,xvda,w"))
    moved(guest.scene, guest, other=there)
    (found,) = there.services.devices(guest.domid)
    assert found.state is XenbusState.InitWait


def test_a_state_with_anothers_nodes_is_refused(guest: Guest) -> None:
    state = carried(guest.scene, guest)
    first = state.nodes[0]
    for path in (
        "/local/domain/0/name",
        "/local/domain/99/name",
        "/local/domain/0/backend/vbd/99/1",
        "relative",
        "/bad//path",
        "@releaseDomain",
    ):
        wrong = msgspec.structs.replace(state, nodes=(msgspec.structs.replace(first, path=path),))
        with pytest.raises(ValueError, match="store node"):
            check_services(wrong)
    for perms in ((), ("x1",), ("n",), ("n-1",)):
        wrong = msgspec.structs.replace(state, nodes=(msgspec.structs.replace(first, perms=perms),))
        with pytest.raises(ValueError, match=r"permission|owner"):
            check_services(wrong)
