# SPDX-License-Identifier: GPL-2.0-or-later
"""Two hundred lives of a guest with a disk and an interface leave nothing behind."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.toolstack.service.support import Running, until
from xenograft.toolstack.config.disk import Disk
from xenograft.toolstack.config.domain import DomainConfig
from xenograft.toolstack.config.vif import Vif
from xenograft.toolstack.machine import Machine
from xenograft.toolstack.service.messages import (
    AttachConsole,
    CreateDomain,
    Destroy,
    ListDomains,
    WaitEnd,
)

CYCLES = 200


def census(service: Running) -> dict[str, Any]:
    """All that a guest uses, counted on the machine's thread."""
    machine = service.machine
    assert machine is not None
    counted: dict[str, Any] = {}
    done = threading.Event()

    def count() -> None:
        control, store = machine.control, machine.services.store
        counted.update(
            free_frames=machine.hypervisor.memory.free_frames(),
            domains=sorted(machine.hypervisor.domains),
            machine_domains=len(machine.domains),
            pools=len(machine.hypervisor.frames.pools),
            events=control.events.active,
            mapped_grants=len(control.grants.maptrack),
            nodes=sum(store.state.owned.values()),
            watches=len(store.watches),
            connections=len(store.connections),
            devices={kind: len(bus.devices) for kind, bus in machine.services.buses.items()},
            images=len(machine.services.images),
            scheduled=sum(len(pool.domains) for pool in machine.hypervisor.pools),
        )
        done.set()

    machine.post(count)
    assert done.wait(20)
    gc.collect()
    counted["descriptors"] = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    counted["threads"] = threading.active_count()
    return counted


def test_nothing_is_left(
    folder: Path,
    quick_restarts: None,
    guest: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    """The real engine, with guests that end by themselves, crash, reboot, or are destroyed."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 16))
    kernel = guest("shutdown-64")

    class Real(Running):
        def _make(self) -> Machine:
            self.machine = Machine(memory=256)
            return self.machine

    service = Real(folder)

    def configured(how: str, number: int) -> DomainConfig:
        return DomainConfig(
            name=f"cycle{number}",
            kernel=str(kernel),
            cmdline=f"how={how}",
            memory=16,
            disk=(Disk(target=str(disk), vdev="xvda"),),
            vif=(Vif(mac="00:16:3e:00:00:01"),),
            on_reboot="destroy",
        )

    def live(number: int) -> None:
        how = ("poweroff", "block", "crash", "reboot", "spin")[number % 5]
        service.ask(CreateDomain(configured(how, number)))
        name = f"cycle{number}"
        if how in ("block", "spin"):
            if number % 2:
                with service.connect() as viewer:
                    viewer.call(AttachConsole(name))
                    assert viewer.sock.recv(1)
            service.ask(Destroy(name))
        # Its disk is the next one's.
        until(lambda: len(service.ask(ListDomains())) == 1)

    try:
        for number in range(5):
            live(number)
        before = census(service)
        for number in range(5, CYCLES):
            live(number)
        # Connections that were closed are noticed a moment later.
        until(lambda: census(service) == before, 10)
    except AssertionError:
        assert census(service) == before
        raise
    finally:
        _stop(service)


def _stop(service: Running) -> None:
    from xenograft.toolstack.service.messages import StopService

    service.ask(StopService())
    service.join()


def test_a_guest_that_reboots_for_ever_is_no_leak(service: Running, kernel: Path) -> None:
    """Rebuilt again and again, it uses what it used at first."""
    from tests.toolstack.service.support import config, read_until

    service.ask(CreateDomain(config(kernel, "again")))
    counts = []
    for _ in range(8):
        with service.connect() as client:
            client.call(AttachConsole("again", follow=True))
            client.sock.sendall(b"reboot")
            read_until(client.sock, b"<reboot>\nhello\n")
        counts.append(census(service))
    domids = [count.pop("domains")[1] for count in counts]
    assert domids == list(range(2, 10))
    steady = [
        {key: count[key] for key in ("free_frames", "pools", "events", "mapped_grants", "nodes")}
        for count in counts
    ]
    assert steady[1:] == steady[:-1]


@pytest.mark.parametrize("how", ["destroy", "end"])
def test_a_waiting_client_is_told_at_once(service: Running, kernel: Path, how: str) -> None:
    from tests.toolstack.service.support import config

    service.ask(CreateDomain(config(kernel)))
    ended: list[Any] = []
    with service.connect() as client:
        thread = threading.Thread(target=lambda: ended.append(client.call(WaitEnd("1"))))
        thread.start()
        if how == "destroy":
            until(lambda: _waits(service))
            service.ask(Destroy("guest"))
        else:
            with service.connect() as viewer:
                viewer.call(AttachConsole("guest"))
                viewer.sock.sendall(b"poweroff")
                assert viewer.sock.recv(1)
        thread.join(20)
    assert len(ended) == 1


def _waits(service: Running) -> bool:
    """Whether somebody waits for domain 1: its end has a waiter."""
    import xenograft.toolstack.service.service as module

    for task in gc.get_objects():
        if isinstance(task, module.Line) and task.shut_down._callbacks:  # type: ignore[attr-defined]
            return True
    return False
