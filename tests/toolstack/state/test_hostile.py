# SPDX-License-Identifier: GPL-2.0-or-later
"""Saved states whose checksums are right, and which were made to do harm."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.backends.scene import Guest, Scene, scene
from tests.backends.xen_9pfs.frontend import Front as P9Front
from tests.toolstack.state.support import carried, introduce
from tests.toolstack.state.test_services import Disk, Nic
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.state.services import ServicesState, check_services, revive_services

QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The services of a guest with a disk, a network and a folder."""
    folder = tmp_path_factory.mktemp("share")
    image = folder / "disk.img"
    image.write_bytes(bytes(1 << 16))
    with scene() as machine:
        guest = machine.guest()
        introduce(guest)
        Disk(guest, image)
        Nic(guest)
        P9Front(guest, folder)
        guest.store.request(4, b"device\0token\0")
        return msgspec.msgpack.encode(carried(machine, guest))


def attempt(machine: Scene, data: bytes) -> None:
    """Revive what `data` says, and let it go: nothing is left, and nobody else is touched."""
    before = dict(machine.client.tree("/"))
    guest: Guest = machine.guest()
    shared = guest.xen.grants.shared
    for ref in range(1, 40):
        shared.write_v1(ref, 1, 0, ref)
    for port in range(1, 16):
        guest.xen.events.alloc_unbound(0, port)
    try:
        state = msgspec.msgpack.decode(data, type=ServicesState)
        check_services(state)
        revive_services(machine.services, guest.xen, state)
        machine.run()
    except (UserError, ValueError):
        pass
    finally:
        guest.store.close()
        machine.services.forget(guest.domid)
        machine.run()
        machine.xen.destroy_domain(guest.xen)
    assert machine.services.devices(guest.domid) == []
    left = {
        path: value
        for path, value in machine.client.tree("/")
        if not path.startswith(("/vm/", "/local/domain/0/error", "/local/domain/0/backend"))
    }
    assert left == {path: value for path, value in before.items() if path in left}


@given(st.data())
@settings(max_examples=150, suppress_health_check=QUIET)
def test_changed_bytes(saved: bytes, data: st.DataObject) -> None:
    with scene() as machine:
        for _ in range(3):
            changed = bytearray(saved)
            for _ in range(data.draw(st.integers(1, 4))):
                at = data.draw(st.integers(0, len(changed) - 1))
                changed[at] = data.draw(st.integers(0, 255))
            attempt(machine, bytes(changed))


@given(node=st.integers(0, 1000), value=st.binary(max_size=40))
@example(node=0, value=b"/local/domain/0/name")
@settings(max_examples=100, suppress_health_check=QUIET)
def test_changed_values(saved: bytes, node: int, value: bytes) -> None:
    state = msgspec.msgpack.decode(saved, type=ServicesState)
    nodes = list(state.nodes)
    index = node % len(nodes)
    nodes[index] = msgspec.structs.replace(nodes[index], value=value)
    changed = msgspec.structs.replace(state, nodes=tuple(nodes))
    with scene() as machine:
        attempt(machine, msgspec.msgpack.encode(changed))


def test_a_front_end_that_is_somebody_elses(saved: bytes) -> None:
    """A back end's `frontend` may name anything: the device is the domain's all the same."""
    state = msgspec.msgpack.decode(saved, type=ServicesState)
    with scene() as machine:
        other = machine.guest()
        path = f"/local/domain/{other.domid}/device/vbd/51712"
        machine.client.write(f"{path}/state", "4")
        nodes = tuple(
            msgspec.structs.replace(one, value=path.encode())
            if one.path.endswith("/51712/frontend")
            else one
            for one in state.nodes
        )
        attempt(machine, msgspec.msgpack.encode(msgspec.structs.replace(state, nodes=nodes)))
        assert machine.client.read(f"{path}/state") == "4"
