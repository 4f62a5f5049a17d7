# SPDX-License-Identifier: GPL-2.0-or-later
"""The console back end, between a control domain and a guest on a fake machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.backends.console.test_ring import Driver
from xenograft.backends.console.console import INPUT_LIMIT, WINDOW, ConsoleBackend
from xenograft.backends.console.ring import ConsoleRing
from xenograft.engine.fake import FakeEngine
from xenograft.hypervisor.domain import Domain
from xenograft.hypervisor.hypervisor import Hypervisor
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.time import VirtualClock
from xenograft.toolstack.create import create_control_domain


class Scene:
    """A guest with a console page and port, and its back end in domain 0."""

    def __init__(self) -> None:
        self.xen = Hypervisor(FakeEngine(), frames=4096, clock=VirtualClock())
        self.control = create_control_domain(self.xen)
        self.guest: Domain = self.xen.create_domain(GuestKind.PVH, max_pages=16)
        ((mfn, _),) = self.guest.p2m.populate(0, 1)
        self.driver = Driver()
        self.driver.memory = self.xen.memory  # type: ignore[assignment]
        self.driver.maddr = mfn << 12
        self.driver.ring = ConsoleRing(self.xen.memory, mfn << 12)
        self.port = self.guest.events.alloc_unbound(0)
        self.backend = ConsoleBackend(
            self.xen.memory, mfn << 12, self.control.events, self.guest.domid, self.port
        )
        self.xen.run_host_events()

    def write(self, data: bytes) -> None:
        """The guest writes, notifying whenever the ring is full."""
        while data:
            data = data[self.driver.write(data) :]
            self.guest.events.send(self.port)
            self.xen.run_host_events()

    def notified(self) -> bool:
        """Whether the guest has an event of ours (taken away by asking)."""
        return self.xen.memory.test_and_clear_bit(self.guest.shared_info_maddr + 0x800, self.port)


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.xen.close()


def test_output_is_kept_told_and_acknowledged(scene: Scene) -> None:
    heard: list[bytes] = []
    scene.backend.listeners.append(heard.append)
    scene.notified()
    scene.write(b"hello\n")
    assert scene.backend.output == b"hello\n"
    assert heard == [b"hello\n"]
    assert scene.notified()


def test_output_larger_than_the_ring(scene: Scene) -> None:
    data = bytes(range(256)) * 40
    scene.write(data)
    assert scene.backend.output == data


def test_the_window_keeps_the_last_of_it(scene: Scene) -> None:
    data = b"0123456789abcdef" * 128
    for _ in range(WINDOW // len(data) + 10):
        scene.write(data)
    backend = scene.backend
    assert len(backend.output) == WINDOW
    assert backend.end == (WINDOW // len(data) + 10) * len(data)
    assert backend.dropped == backend.end - WINDOW
    assert backend.since(backend.end - 5) == b"bcdef"
    assert backend.since(0) == backend.output


def test_input_waits_until_there_is_room(scene: Scene) -> None:
    data = bytes(index % 251 for index in range(5000))
    assert scene.backend.send(data) == 5000
    assert scene.backend.waiting == 5000 - 1024
    got = b""
    while len(got) < 5000:
        assert scene.notified()
        got += scene.driver.read()
        scene.guest.events.send(scene.port)
        scene.xen.run_host_events()
    assert got == data
    assert scene.backend.waiting == 0


def test_input_has_a_limit(scene: Scene) -> None:
    taken = scene.backend.send(b"x" * (INPUT_LIMIT + 10))
    assert taken == INPUT_LIMIT
    assert scene.backend.send(b"y" * 5000) == 1024


def test_drain_takes_what_was_not_announced(scene: Scene) -> None:
    scene.driver.write(b"last words")
    assert scene.backend.output == b""
    scene.backend.drain()
    assert scene.backend.output == b"last words"


def test_after_the_end_the_output_stays(scene: Scene) -> None:
    scene.write(b"bye")
    scene.backend.close()
    scene.backend.close()
    scene.driver.write(b"more")
    scene.guest.events.send(scene.port)
    scene.xen.run_host_events()
    assert scene.backend.output == b"bye"
    assert scene.backend.send(b"x") == 1


def test_state(scene: Scene) -> None:
    scene.write(b"output")
    scene.backend.send(b"i" * 2000)
    state = scene.backend.save()
    assert (state.window, len(state.waiting)) == (b"output", 976)
    other = Scene()
    other.backend.restore(state)
    assert other.backend.save() == state
    other.xen.close()


def test_a_port_that_is_not_for_us(scene: Scene) -> None:
    port = scene.guest.events.alloc_unbound(5)
    with pytest.raises(Exception, match="EINVAL"):
        ConsoleBackend(scene.xen.memory, 0, scene.control.events, scene.guest.domid, port)
