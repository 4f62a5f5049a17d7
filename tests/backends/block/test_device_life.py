# SPDX-License-Identifier: GPL-2.0-or-later
"""Block devices that come and go: errors, detaching, reconnecting, saving."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backends.block.frontend import (
    BARRIER,
    OKAY,
    READ,
    SECTOR,
    WRITE,
    FrontEnd,
    MemoryImage,
    Scene,
)
from tests.backends.block.images.support import pattern
from xenograft.backends.block.device import parse_params
from xenograft.backends.block.images.qcow2.create import create_qcow2


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("", "names no image"),
        ("/nowhere/disk", "/nowhere/disk: there is no such image"),
        ("qcow2:/nowhere/disk", "/nowhere/disk: there is no such image"),
        ("vhd:/nowhere/disk", "format vhd isn't supported"),
        ("/dev", "a directory, not an image"),
    ],
)
def test_images_that_are_not_there(scene: Scene, params: str, message: str) -> None:
    front = FrontEnd(scene, params=params)
    assert front.backend_state == 5
    assert message in (front.error or "")
    assert message in scene.log


def test_an_image_in_use_by_another_guest(scene: Scene, tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    create_qcow2(str(path), 64 * SECTOR)
    first = FrontEnd(scene, params=f"qcow2:{path}").connect()
    second = FrontEnd(scene, params=f"qcow2:{path}")
    assert "in use by another guest" in (second.error or "")
    assert first.read(0, 1) == bytes(SECTOR)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ring_ref": None}, "-2 reading"),
        ({"ring_ref": "x"}, "is no number"),
        ({"ring_ref": "99999999999999999999999"}, "is no number"),
        ({"ring_ref": "999999"}, "mapping grants"),
        ({"event_channel": None}, "-2 reading"),
        ({"event_channel": "9999"}, "EINVAL"),
        ({"protocol": "vax-abi"}, "protocol is unknown"),
        ({"multi_queue_num_queues": "0"}, "is 0"),
        ({"multi_queue_num_queues": "5"}, "not < 5"),
        ({"multi_queue_num_queues": "4"}, "-2 reading"),
        ({"ring_page_order": "5"}, "not < 5"),
        ({"ring_page_order": "1"}, "-2 reading"),
        ({"feature_persistent": "-1"}, "is no number"),
    ],
)
def test_front_ends_that_write_nonsense(
    scene: Scene, changes: dict[str, str | None], message: str
) -> None:
    image = MemoryImage()
    front = FrontEnd(scene, image).connect(**changes)
    assert front.backend_state == 5
    assert message in (front.error or ""), front.error
    assert not scene.control.grants.maptrack
    # It may close and try again.
    front.switch(6)
    assert front.backend_state == 6
    front.switch(1)
    for name, value in front.describe().items():
        front.store.write(f"{front.path}/{name}", value)
    for name in ("multi-queue-num-queues", "ring-page-order"):
        if name.replace("-", "_") in changes:
            front.store.rm(f"{front.path}/{name}")
    front.switch(3)
    assert front.backend_state == 4, front.error
    assert front.read(0, 1) == bytes(SECTOR)


def test_detach_while_requests_are_under_way(scene: Scene) -> None:
    image = MemoryImage()
    front = FrontEnd(scene, image, persistent=True).connect()
    segments = front.put(pattern(8192))
    front.submit(front.request(WRITE, 0, segments), front.request(READ, 64, segments))
    assert scene.work.outstanding == 2
    device = front.device
    scene.client.write(f"{front.back}/online", "0")
    front.switch(5)
    assert front.backend_state == 5
    front.switch(6)
    # The pages went at once, the image stays until it's done.
    assert not front.in_use(segments[0][0])
    assert not image.closed
    assert not device.removed or device.busy()
    scene.finish()
    assert image.closed
    assert image.data[:8192] == pattern(8192)
    assert scene.bus.find(front.domain.domid, front.devid) is None
    assert front.got(segments) == pattern(8192)


def test_the_directory_goes_while_requests_are_under_way(scene: Scene) -> None:
    image = MemoryImage()
    front = FrontEnd(scene, image).connect()
    front.submit(front.request(READ, 0, front.put(bytes(4096))), front.request(BARRIER, 0))
    scene.client.rm(front.back)
    scene.run()
    scene.finish()
    assert image.closed
    assert not scene.bus.devices


def test_the_guest_is_destroyed_while_requests_are_under_way(scene: Scene) -> None:
    image = MemoryImage()
    front = FrontEnd(scene, image).connect()
    front.submit(*(front.request(READ, 0, front.put(bytes(4096))) for _ in range(8)))
    scene.xen.destroy_domain(front.domain)
    scene.client.rm(f"/local/domain/{front.domain.domid}")
    scene.client.rm(front.back)
    scene.finish()
    assert image.closed
    assert front.domain.domid not in scene.xen.domains


def test_closing_and_connecting_again(scene: Scene) -> None:
    """A guest's driver that is unloaded and loaded, with answers of its first life due."""
    image = MemoryImage()
    front = FrontEnd(scene, image).connect()
    front.submit(front.request(WRITE, 0, front.put(pattern(4096))))
    front.switch(5)
    front.switch(6)
    assert front.backend_state == 5
    scene.finish()
    assert front.backend_state == 6
    assert not image.closed
    front.rings[0].word(0, 0)
    front.rings[0].word(8, 0)
    front.rings[0].req_prod = 0
    front.rings[0].rsp_cons = 0
    front.switch(1)
    assert front.backend_state == 2
    front.connect()
    assert front.read(0, 8) == pattern(4096)


def test_two_disks_of_two_guests(scene: Scene) -> None:
    images = [MemoryImage() for _ in range(3)]
    first = FrontEnd(scene, images[0]).connect()
    second = FrontEnd(scene, images[1]).connect()
    assert first.domain is not second.domain
    for number, front in enumerate((first, second)):
        assert front.write(0, bytes([number + 1]) * SECTOR) == OKAY
    assert [image.data[0] for image in images] == [1, 2, 0]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ("/a/b", ("/a/b", "raw")),
        ("aio:/a:b", ("/a:b", "raw")),
        ("qcow2:/a", ("/a", "qcow2")),
        ("qed:/a", ("/a", "qed")),
        ("nbd:host:10", ("nbd:host:10", "raw")),
        ("aio:nbd://h/x", ("nbd://h/x", "raw")),
        ("/a:b", ("/a:b", "raw")),
    ],
)
def test_params(params: str, expected: tuple[str, str]) -> None:
    assert parse_params(params) == expected


def test_save(scene: Scene) -> None:
    front = FrontEnd(scene, MemoryImage(), queues=2, persistent=True).connect()
    front.submit(front.request(WRITE, 0, front.put(bytes(SECTOR))), queue=1)
    with pytest.raises(ValueError, match="requests are under way"):
        front.device.save()
    scene.finish()
    state = front.device.save()
    assert (state.domid, state.devid, state.state, state.sectors) == (
        front.domain.domid,
        front.devid,
        4,
        2048,
    )
    assert [queue.ring.req_cons for queue in state.queues] == [0, 1]
    assert [queue.persistent for queue in state.queues] == [(), (front.pages[0][1],)]
