# SPDX-License-Identifier: GPL-2.0-or-later
"""Clones of a real Linux guest, and moments that it's taken back to: memory, disk, network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.network.conftest import QUIET, Shell
from xenograft.engine.protocol import PAGE_SHIFT, PAGE_SIZE
from xenograft.hypervisor.state.capture import capture
from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.machine import Domain, Machine
from xenograft.toolstack.state.outgoing import Outgoing
from xenograft.toolstack.state.pages import FileGuest

Image = Callable[[str], Path]

COUNTER = "n=0; while :; do n=$((n+1)); echo $n > /tmp/m; mv /tmp/m /tmp/n; usleep 20000; done"
MAC = "cat /sys/class/net/eth0/address"


class Prompt(Shell):
    """A shell whose answers come without the line's end."""

    def run(self, command: str, timeout: float = 60) -> str:
        return super().run(command, timeout).strip()


def shell_of(domain: Domain) -> Shell:
    """The prompt that a clone inherits."""
    shell = Prompt.__new__(Prompt)
    shell.domain, shell.console = domain, domain.console
    return shell


def count(shell: Shell) -> int:
    return int(shell.run("cat /tmp/n"))


def goes_on(shell: Shell) -> tuple[int, int]:
    """What a guest's counter was, and what it is when it has gone on."""
    before = count(shell)
    shell.run(f"while [ $(cat /tmp/n) -le {before} ]; do usleep 10000; done")
    return before, count(shell)


@pytest.fixture
def parent(image: Image, tmp_path: Path) -> Iterator[Shell]:
    """A guest with a disk and two interfaces, whose counter counts."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"the parent's".ljust(1 << 20, b"\0"))
    with Machine() as machine:
        config = from_options(
            None,
            name="web",
            kernel=str(image("debian-cloud")),
            ramdisk=str(image("driver-initrd")),
            cmdline=QUIET,
            memory="192M",
            vcpus=2,
            disk=[f"{disk},raw,xvda,rw"],
            vif=["mac=00:16:3e:01:02:03"],
        )
        shell = Prompt(machine.create(config))
        shell.console.send(f"({COUNTER}) &\n")
        shell.run("while [ ! -s /tmp/n ]; do usleep 10000; done")
        yield shell


def test_clones_go_on_from_where_their_parent_is(parent: Shell, tmp_path: Path) -> None:
    at = count(parent)
    free = parent.domain.machine.hypervisor.memory.free_frames()
    clones = [parent.domain.fork() for _ in range(3)]
    used = free - parent.domain.machine.hypervisor.memory.free_frames()
    assert [clone.name for clone in clones] == ["web-1", "web-2", "web-3"]
    # What back ends had mapped, and no more, was copied.
    assert used < 3 * 300
    shells = [parent, *(shell_of(clone) for clone in clones)]
    for shell in shells:
        before, after = goes_on(shell)
        assert at <= before < after
    # What one writes, to memory or its disk, the others don't see.
    for index, shell in enumerate(shells):
        shell.run(f"echo number {index} > /tmp/name")
        shell.run(f"echo 'disk of {index}' | dd of=/dev/xvda conv=notrunc,fsync 2>/dev/null")
    for index, shell in enumerate(shells):
        assert shell.run("cat /tmp/name") == f"number {index}"
        shell.run("echo 3 > /proc/sys/vm/drop_caches")
        assert shell.run("head -c 9 /dev/xvda") == f"disk of {index}"
    assert (tmp_path / "disk.img").read_bytes()[:9] == b"disk of 0"
    # A clone goes on without its parent, and without its siblings.
    parent.domain.destroy()
    clones[0].destroy()
    for shell in shells[2:]:
        before, after = goes_on(shell)
        assert before < after
    grandchild = shell_of(clones[1].fork("grandchild"))
    assert grandchild.run("head -c 9 /dev/xvda") == "disk of 2"


def test_a_clone_has_an_address_of_its_own(parent: Shell) -> None:
    clone = shell_of(parent.domain.fork())
    old = parent.run(MAC)
    assert old == "00:16:3e:01:02:03"
    clone.run(f"until [ -e /sys/class/net/eth0 ] && [ $({MAC}) != {old} ]; do usleep 50000; done")
    new = clone.run(MAC)
    assert new.startswith("00:16:3e:")
    for shell, address in ((parent, 1), (clone, 2)):
        shell.run(f"ip addr add 10.0.0.{address}/24 dev eth0; ip link set eth0 up")
    assert "1 packets received" in clone.run("ping -c 1 -w 20 10.0.0.1")
    assert new in parent.run("cat /proc/net/arp")


def test_a_guest_is_taken_back(parent: Shell, tmp_path: Path) -> None:
    machine, domid = parent.domain.machine, parent.domain.domid
    with parent.domain.snapshot() as moment:
        at = count(parent)
        parent.run(
            f"echo 1 > /tmp/later; until [ $(cat /tmp/n) -gt {at + 30} ]; do usleep 9999; done"
        )
        parent.run("echo overwritten | dd of=/dev/xvda conv=notrunc,fsync 2>/dev/null")
        uptime = float(parent.run("cut -d' ' -f1 /proc/uptime"))
        for _ in range(2):
            again = shell_of(moment.rewind())
            assert again.domain.name == "web"
            assert again.domain.domid != domid
            assert count(again) < at + 30
            assert again.run("ls /tmp/later; head -c 12 /dev/xvda").endswith("the parent's")
            assert float(again.run("cut -d' ' -f1 /proc/uptime")) < uptime + 5
            assert (tmp_path / "disk.img").read_bytes()[:12] == b"the parent's"
            before, after = goes_on(again)
            assert before < after
            again.run("echo and again | dd of=/dev/xvda conv=notrunc,fsync 2>/dev/null")
            assert [domain.name for domain in machine.domains] == ["web"]
        other = shell_of(moment.fork("other"))
        assert other.run("head -c 12 /dev/xvda") == "the parent's"
    assert other.run("head -c 12 /dev/xvda") == "the parent's"
    assert sum(domain.is_hidden for domain in machine.hypervisor.domains.values()) == 0


def test_nothing_is_left_of_clones(parent: Shell) -> None:
    machine = parent.domain.machine
    xen, store = machine.hypervisor, machine.services.store

    def resources() -> tuple[int, int, int, set[int]]:
        held = xen.domains[parent.domain.domid].pool.tot_pages
        return held, machine.control.events.active, len(store.domains), set(xen.domains)

    before = resources()
    for _ in range(20):
        moment = parent.domain.snapshot()
        clone = moment.fork("clone")
        machine.run(timeout=0.02)
        clone.destroy()
        moment.close()
    assert resources() == before
    assert goes_on(parent)[1] > 0


def test_what_cannot_be_cloned(parent: Shell) -> None:
    with pytest.raises(UserError, match="there is a domain 'web' already"):
        parent.domain.fork("web")
    parent.domain.suspend()
    with pytest.raises(UserError, match="suspended itself; resume it first"):
        parent.domain.fork()
    parent.domain.resume()
    parent.run("true")
    parent.console.send("poweroff -f\n")
    parent.domain.wait(timeout=60)
    with pytest.raises(UserError, match="has shut down"):
        parent.domain.fork()


def test_a_guest_that_was_cloned_is_saved_while_it_runs(parent: Shell, tmp_path: Path) -> None:
    """Pages that it shared, and writes all the time, are in the file as they are in the end."""
    guest, machine = parent.domain, parent.domain.machine
    guest.fork(paused=True)
    machine.run(timeout=0.5)  # it gets copies of what its counter writes
    path = tmp_path / "saved"
    out = Outgoing(guest, guest.config, "snapshot")
    with path.open("wb") as file:
        more = True
        while more:
            while (piece := out.next_piece()) is not None:
                file.write(piece)
                machine.run(timeout=0.02)
            more = out.next_round()
            machine.run(timeout=0.2)
        guest.pause()
        for piece in out.last():
            file.write(piece)
    out.close()
    sent: dict[int, bytes] = {}
    with FileGuest(path) as saved:
        for first, data in saved.pages():
            for index in range(len(data) >> PAGE_SHIFT):
                sent[first + index] = data[index << PAGE_SHIFT : index + 1 << PAGE_SHIFT]
    ram = capture(guest.xen).memory.ram
    gfns = [gfn for first, count in ram for gfn in range(first, first + count)]
    there = {gfn: guest.xen.space.read(gfn << PAGE_SHIFT, PAGE_SIZE) for gfn in gfns}
    zeros = bytes(PAGE_SIZE)
    assert [gfn for gfn in gfns if sent.get(gfn, zeros) != there[gfn]] == []
    assert len(sent) > 1000
