# SPDX-License-Identifier: GPL-2.0-or-later
"""The account of real guests: Linux writes to its disk, sends packets, gives memory back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from xenograft import Machine
from xenograft.hypervisor.metering import Usage
from xenograft.toolstack.config.domain import DomainConfig
from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.machine import Domain

UUID = "0f4c1a7e-5d3b-4f0e-9a57-3c1d2e4b5a69"
MIB = 1 << 20


def account(machine: Machine, name: str = "guest") -> Usage:
    """What a guest has used until now; all CPU time is accounted for."""
    reading = machine.hypervisor.meter.read()
    assert reading.unaccounted_ns == 0
    (usage,) = (one for one in reading.domains if one.name == name)
    return usage


def sh(domain: Domain, command: str) -> None:
    domain.console.send(f"{command}; echo do''ne-$?\n")
    domain.console.expect("done-0", 120)


def test_a_guest_pays_for_what_it_uses(image: Callable[[str], Path], tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(32 * MIB)

    def config() -> DomainConfig:
        made = from_options(
            None,
            name="guest",
            type="pvh",
            kernel=str(image("debian-cloud")),
            ramdisk=str(image("driver-initrd")),
            cmdline="console=hvc0 quiet",
            memory="192M",
            disk=[f"{disk},raw,xvda"],
            vif=["bridge=lan"],
        )
        return msgspec.structs.replace(made, uuid=UUID)

    with Machine(clock="virtual", bridges=["lan"]) as machine:
        guest = machine.create(config())
        guest.console.expect(r"guest:~# ", 120)
        before = account(machine)
        sh(guest, "dd if=/dev/zero of=/dev/xvda bs=1M count=8 conv=fsync")
        written = account(machine).counters["disk"] - before.counters["disk"]
        assert 8 * MIB <= written < 9 * MIB
        sh(guest, "ip link set eth0 up && sleep 2")
        assert account(machine).counters["net"] > 0
        # CPU time is the scheduler's and the guest's alike.
        assert account(machine).cpu_ns == guest.cpu_time_ns

        # A balloon changes what memory costs, from the moment at which a page goes.
        pages, start, had = (
            guest.xen.pool.tot_pages,
            machine.hypervisor.clock.now(),
            account(machine),
        )
        target = f"/local/domain/{guest.domid}/memory/target"
        machine.services.client.write(target, str(128 << 10))
        left = pages - (60 * MIB >> 12)
        assert machine.run(timeout=60, until=lambda: guest.xen.pool.tot_pages <= left)
        spent, time = account(machine).page_ns - had.page_ns, machine.hypervisor.clock.now() - start
        assert guest.xen.pool.tot_pages * time < spent < pages * time
        machine.run(timeout=1, until=lambda: False)
        had, start = account(machine), machine.hypervisor.clock.now()
        machine.run(timeout=1, until=lambda: False)
        time = machine.hypervisor.clock.now() - start
        assert account(machine).page_ns - had.page_ns == guest.xen.pool.tot_pages * time

        # Built again, it goes on with the same account; so it does when it's gone.
        had = account(machine)
        guest.destroy()
        assert account(machine) == had
        again = machine.create(config())
        again.console.expect(r"guest:~# ", 120)
        sh(again, "dd if=/dev/xvda of=/dev/null bs=1M count=4")
        used = account(machine)
        assert used.counters["disk"] >= had.counters["disk"] + 4 * MIB
        assert used.cpu_ns == had.cpu_ns + again.cpu_time_ns
        again.destroy()
        assert account(machine).counters == used.counters
