# SPDX-License-Identifier: GPL-2.0-or-later
"""A PV Linux suspends itself, and wakes on another machine whose frames have other numbers."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests.hypervisor.pv.audit import Audit
from xenograft.hypervisor.state.pv import PvDomainState, capture_pv, contents_pv
from xenograft.hypervisor.state.rebuild_pv import rebuild_pv
from xenograft.hypervisor.state.records import StateError
from xenograft.store.client import StoreClient
from xenograft.toolstack.config.domain import DomainConfig
from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.machine import Domain, Machine, ShutdownReason


def suspend(machine: Machine, guest: Domain) -> tuple[bytes, list[tuple[int, bytes]]]:
    """The guest as bytes and pages, as a file would keep it."""
    with pytest.raises(StateError, match="suspend itself first"):
        capture_pv(guest.xen)
    control = f"/local/domain/{guest.domid}/control/shutdown"
    StoreClient(machine.services.store).write(control, "suspend")
    machine.run(timeout=60, until=lambda: guest.shutdown_reason is not None)
    assert guest.shutdown_reason is ShutdownReason.suspend
    return msgspec.msgpack.encode(capture_pv(guest.xen)), list(contents_pv(guest.xen))


def wake(
    machine: Machine, config: DomainConfig, record: bytes, pages: list[tuple[int, bytes]]
) -> Domain:
    xen = rebuild_pv(machine.hypervisor, msgspec.msgpack.decode(record, type=PvDomainState), pages)
    Audit(xen).check()
    guest = Domain(machine, xen)
    machine._domains.append(guest)
    machine.services.introduce(xen, machine._facts(xen, config, "0" * 32))
    guest.unpause()
    return guest


@pytest.mark.parametrize("vcpus", [1, 4])
def test_a_linux_wakes_elsewhere(image: Callable[[str], Path], vcpus: int) -> None:
    config = from_options(
        name="linux",
        type="pv",
        kernel=str(image("debian-cloud")),
        ramdisk=str(image("demo-initrd")),
        cmdline="console=hvc0 quiet",
        memory="160M",
        vcpus=vcpus,
    )
    with Machine() as machine:
        guest = machine.create(config)
        guest.console.expect("guest:~# ", 100)
        guest.console.send(
            "word=kept; echo in the file > /tmp/file; cat /proc/uptime; echo do''ne.\n"
        )
        uptime = guest.console.expect(r"(\d+)\.\d+ \d+\.\d+\s+done\.").group(1)
        record, pages = suspend(machine, guest)
        before = set(guest.xen.pool.pages)
    with Machine() as machine:
        # Somebody else has the frames that it had.
        machine.create(msgspec.structs.replace(config, name="other", vcpus=1), paused=True)
        guest = wake(machine, config, record, pages)
        assert before != set(guest.xen.pool.pages)
        guest.console.send("echo $word; cat /tmp/file; nproc; date +%s; cat /proc/uptime\n")
        found = guest.console.expect(
            r"\nkept\s+in the file\s+(\d)\s+(\d+)\s+(\d+)\.\d+ \d+", 60
        ).groups()
        assert int(found[0]) == vcpus
        assert abs(int(found[1]) - time.time()) < 60
        assert int(uptime) <= int(found[2]) < int(uptime) + 100
        # Forks, timers and the disk-less rest of it work.
        guest.console.send("for i in 1 2 3; do sleep 0.1; ls / > /dev/null; done; echo tic''k\n")
        guest.console.expect("tick")
        Audit(guest.xen).check()
        guest.console.send("dmesg\npoweroff -f\n")
        assert str(guest.wait(60)) == "poweroff"
        assert not re.search(r"BUG:|WARNING:|Call Trace|unstable", guest.console.output)
