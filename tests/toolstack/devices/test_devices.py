# SPDX-License-Identifier: GPL-2.0-or-later
"""Adding folders, channels, screens and keyboards to a domain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.scene import Guest, scene
from xenograft.abi.io.xenbus import XenbusState
from xenograft.toolstack.config.channel import Channel
from xenograft.toolstack.config.display import Vfb, Vkb
from xenograft.toolstack.config.domain import DomainConfig
from xenograft.toolstack.config.p9 import P9
from xenograft.toolstack.errors import UserError


@pytest.fixture
def guest() -> Iterator[Guest]:
    with scene() as one:
        yield one.guest()


def test_all_of_a_configuration(guest: Guest, tmp_path: Path) -> None:
    config = DomainConfig(
        p9=(P9("a", str(tmp_path)), P9("b", str(tmp_path), readonly=True)),
        channel=(Channel("one", "pty"), Channel("two", "pty")),
        vfb=(Vfb(), Vfb()),
        vkb=(Vkb(abs_pointer=False),),
    )
    guest.devices.attach_all(config)
    found = guest.devices.all()
    assert [(one.kind, one.devid) for one in found] == [
        *(("9pfs", 0), ("9pfs", 1)),
        *(("console", 1), ("console", 2)),
        *(("vfb", 0), ("vfb", 1)),
        # As many keyboards as screens.
        *(("vkbd", 0), ("vkbd", 1)),
    ]
    assert all(one.backend_state is XenbusState.InitWait for one in found)
    read = guest.scene.client.get
    assert [read(f"{one.backend}/readonly") for one in found[:2]] == [None, "1"]
    assert [read(f"{one.frontend}/tag") for one in found[:2]] == ["a", "b"]


def test_detach(guest: Guest, tmp_path: Path) -> None:
    guest.devices.attach_p9(P9("a", str(tmp_path)))
    done: list[bool] = []
    guest.devices.detach("9pfs", 0, lambda: done.append(True))
    guest.scene.run()
    assert done == [True]
    assert guest.devices.all() == []
    assert guest.scene.services.devices(guest.domid) == []


def test_folders_that_cannot_be_shared(guest: Guest, tmp_path: Path) -> None:
    def attach(path: object, **more: str) -> str:
        with pytest.raises(UserError) as caught:
            guest.devices.attach_p9(P9("t", str(path), **more))
        return str(caught.value)

    (tmp_path / "file").write_bytes(b"")
    assert attach(tmp_path / "none") == f"p9 t: {tmp_path}/none doesn't exist; make it first"
    assert attach(tmp_path / "file") == f"p9 t: {tmp_path}/file isn't a folder"
    assert "isn't an absolute path" in attach("here")
    assert "no domain 'storage'" in attach(tmp_path, backend="storage")
    assert "name too long" in attach("/" + "x" * 5000)
    assert guest.devices.all() == []
