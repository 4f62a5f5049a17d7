# SPDX-License-Identifier: GPL-2.0-or-later
"""Commands and files in a guest, whatever its console shows meanwhile."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from xenograft.testing import CommandFailed, Guest, GuestEnded, GuestTimeout, UserError


def test_a_command_gives_its_output_and_status(xen_guest: Guest) -> None:
    result = xen_guest.run("echo out; echo err >&2; exit 3")
    assert (result.status, result.stdout, result.stderr) == (3, b"out\n", b"err\n")
    assert xen_guest.check("cat /sys/hypervisor/type") == "xen\n"
    every = bytes(range(256))
    octal = "".join(f"\\{byte:03o}" for byte in every)
    assert xen_guest.run(f"printf '{octal}'").stdout == every
    # More than a line of a terminal, and than its input queue.
    assert xen_guest.check(f"x={'y' * 20_000}; echo ${{#x}}") == "20000\n"
    assert xen_guest.run("seq 1 40000").text.split() == [str(n) for n in range(1, 40001)]
    assert xen_guest.run("kill -9 $$").status == 137
    assert xen_guest.run("cat").stdout == b""
    with pytest.raises(CommandFailed, match="'ls /none' ended with status 1") as it:
        xen_guest.check("ls /none")
    assert it.value.result.status == 1
    assert "ls: /none: No such file or directory" in str(it.value)


def test_what_the_kernel_prints_stays_out(xen_guest: Guest) -> None:
    """A kernel that prints all the time, into everything: the answer is right all the same."""
    xen_guest.check(
        "dmesg -n 8; echo on > /proc/sys/kernel/printk_devkmsg;"
        "(while sleep 0.004; do echo '<1>noise from the kernel' > /dev/kmsg; done)"
        " > /dev/null 2>&1 &"
    )
    wanted = "".join(f"{n}\n" for n in range(1, 5001))
    before = xen_guest.console.backend.end
    assert xen_guest.check("seq 1 5000", timeout=200) == wanted
    shown = xen_guest.console.backend.since(before)
    assert shown.count(b"noise from the kernel") > 1
    assert wanted.encode() in shown
    # What had to be silenced is as loud as before.
    assert xen_guest.check("cat /proc/sys/kernel/printk").split()[0] == "8"


def test_a_command_that_takes_too_long(xen_guest: Guest) -> None:
    before = xen_guest.machine.now
    with pytest.raises(GuestTimeout, match="5 s of the machine's time went by before guest"):
        xen_guest.run("echo begun; sleep 1000", timeout=5)
    assert 5 <= xen_guest.machine.now - before < 8
    assert xen_guest.check("echo still there") == "still there\n"
    assert "sleep" not in xen_guest.check("ps")


def test_files_arrive_byte_by_byte(xen_guest: Guest, tmp_path: Path) -> None:
    data = random.Random(1).randbytes(1 << 20)
    source = tmp_path / "program"
    source.write_bytes(data)
    source.chmod(0o751)
    xen_guest.send_file(source, "/opt/new folder/it's")
    path = "'/opt/new folder/it'\\''s'"
    assert xen_guest.check(f"stat -c %a {path}") == "751\n"
    assert xen_guest.fetch_file("/opt/new folder/it's", tmp_path / "back") == data
    assert (tmp_path / "back").read_bytes() == data
    xen_guest.send_file(b"", "/empty", mode=0o600)
    assert xen_guest.fetch_file("/empty") == b""
    assert xen_guest.check("stat -c %a /empty") == "600\n"
    xen_guest.send_file(b"#!/bin/sh\necho $0 runs\n", "/bin/new", mode=0o755)
    assert xen_guest.check("new") == "/bin/new runs\n"
    with pytest.raises(UserError, match="missing: No such file"):
        xen_guest.send_file(tmp_path / "missing", "/x")
    with pytest.raises(CommandFailed, match="/bin: Is a directory"):
        xen_guest.send_file(b"x", "/bin")
    with pytest.raises(CommandFailed):
        xen_guest.fetch_file("/none")


def test_a_guest_that_ends_while_it_works(xen_guest: Guest) -> None:
    with pytest.raises(GuestEnded, match=r"guest has shut down \(crash\) before"):
        xen_guest.run("echo c > /proc/sysrq-trigger")
    assert "sysrq triggered crash" in xen_guest.console.output


def test_the_kernel_log(xen_guest: Guest) -> None:
    assert "Linux version" in xen_guest.kernel_log()


def test_time_passes(xen_guest: Guest) -> None:
    before = float(xen_guest.check("cat /proc/uptime").split()[0])
    xen_guest.pass_time(200)
    assert 200 <= float(xen_guest.check("cat /proc/uptime").split()[0]) - before < 201
