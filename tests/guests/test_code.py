# SPDX-License-Identifier: GPL-2.0-or-later
"""Code that is replaced while it runs, by a disk's back end or by another guest (`guests/code`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from xenograft.hypervisor.keyhandler import press
from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.machine import Domain, Machine, ShutdownReason

Guest = Callable[[str], Path]
Clock = Literal["real", "virtual"]

NEW_CODE = b"\xb8\x02\0\0\0\xc3"
"""mov $2, %eax; ret"""

ENDS = pytest.mark.parametrize(
    ("env", "clock"), [("64", "virtual"), ("64", "real"), ("pae", "virtual")]
)


def create(machine: Machine, kernel: Path, cmdline: str, disk: str = "") -> Domain:
    config = from_options(
        None,
        name=cmdline.split()[0].removeprefix("how="),
        kernel=str(kernel),
        cmdline=cmdline,
        memory="32M",
        disk=[disk] if disk else [],
    )
    return machine.create(config)


@ENDS
def test_a_disk_read_replaces_it(guest: Guest, tmp_path: Path, env: str, clock: Clock) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(NEW_CODE + bytes(4096 - len(NEW_CODE)))
    with Machine(clock=clock) as machine:
        domain = create(machine, guest(f"code-{env}"), "how=disk", f"{disk},raw,xvda,ro")
        ref, port = domain.console.expect(r"ring (\d+) port (\d+)\r?\n", 30).groups()
        machine.run(timeout=0.02, until=lambda: False)
        assert "returned" not in domain.console.output
        front = f"/local/domain/{domain.domid}/device/vbd/51712"
        nodes = {"ring-ref": ref, "event-channel": port, "protocol": "x86_64-abi", "state": "3"}
        for name, value in nodes.items():
            machine.services.client.write(f"{front}/{name}", value)
        assert domain.wait(timeout=30) is ShutdownReason.poweroff
        assert "returned 2\r\nresponses 1\r\n" in domain.console.output


@ENDS
@pytest.mark.parametrize("how", ["map", "copy"])
def test_another_guest_replaces_it(guest: Guest, how: str, env: str, clock: Clock) -> None:
    with Machine(clock=clock) as machine:
        kernel = guest(f"code-{env}")
        victim = create(machine, kernel, "how=victim peer=2")
        victim.console.expect("runs", 30)
        machine.run(timeout=0.02, until=lambda: False)
        assert "returned" not in victim.console.output
        other = create(machine, kernel, f"how={how} peer=1")
        assert other.domid == 2
        assert other.wait(timeout=30) is ShutdownReason.poweroff, other.console.output
        assert "wrote" in other.console.output
        assert victim.wait(timeout=30) is ShutdownReason.poweroff
        assert "returned 2" in victim.console.output
        # The one that mapped goes first, and with it its mapping.
        other.destroy()
        victim.destroy()
        assert "active grant" not in machine.log


def test_a_dead_domains_page_that_another_one_holds(guest: Guest) -> None:
    """The log names the grant; memory and number are its holder's until that goes."""
    with Machine(clock="virtual") as machine:
        kernel = guest("code-64")
        victim = create(machine, kernel, "how=victim peer=2")
        victim.console.expect("runs", 30)
        holder = create(machine, kernel, "how=hold peer=1")
        holder.console.expect("holds", 30)
        victim.destroy()
        assert "d1 has active grant 9 (GFN" in machine.log
        assert sorted(machine.hypervisor.domains) == [0, 1, 2]
        press(machine.hypervisor, "g")
        assert re.search(r"grant-table for remote d1 .*\n.*\n.*\[0x009\] +2 ", machine.log)
        holder.destroy()
        assert sorted(machine.hypervisor.domains) == [0]
