# SPDX-License-Identifier: GPL-2.0-or-later
"""Each fault as a Linux guest sees it: its block and network drivers, its own words."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from xenograft.testing import Guest, UserError

Network = Callable[[int], list[Guest]]
READ = "dd if=/dev/xvda of=/dev/null bs=4096 count=1 skip={} iflag=direct"


@pytest.fixture
def disk(xen_guest: Guest, tmp_path: Path) -> Guest:
    """A guest with a disk of 8 MiB, whose sectors say their number."""
    image = tmp_path / "disk.img"
    image.write_bytes(b"".join(b"%511d\n" % number for number in range(1 << 14)))
    xen_guest.attach_disk(image)
    return xen_guest


def test_sectors_that_cannot_be_read(disk: Guest) -> None:
    fault = disk.faults.fail_disk("xvda", sectors=range(800, 808))
    assert disk.run(READ.format(99)).status == 0
    result = disk.run(READ.format(100))
    assert result.status == 1
    assert "Input/output error" in result.errors
    assert "I/O error, dev xvda, sector 800" in disk.kernel_log()
    assert fault.hits > 0
    fault.cancel()
    assert disk.run(READ.format(100)).status == 0


def test_a_disk_that_dies(disk: Guest) -> None:
    """Writes fail from the third on, and no read does."""
    with disk.faults.fail_disk("xvda", nth=3, operations=("write",)) as fault:
        one = "dd if=/dev/zero of=/dev/xvda bs=4096 count=1 seek={} oflag=direct"
        statuses = [disk.run(one.format(n)).status for n in range(5)]
        assert statuses == [0, 0, 1, 1, 1]
        assert disk.run(READ.format(50)).status == 0
    assert (fault.seen, fault.hits) == (5, 3)
    assert disk.run(one.format(4)).status == 0


def test_a_grant_that_cannot_be_mapped(disk: Guest) -> None:
    """The back end can't map what a request names: the front end hears of an error."""
    # The few pages that were in use already stay mapped (persistent grants): read more.
    read = "dd if=/dev/xvda of=/dev/null bs=256K count=1 skip={} iflag=direct"
    with disk.faults.fail_grant_map(status="bad_page") as fault:
        result = disk.run(read.format(7))
    assert (result.status, fault.hits) == (1, 1)
    assert "I/O error, dev xvda" in disk.kernel_log()
    assert disk.run(read.format(8)).status == 0


def test_an_event_that_gets_lost(disk: Guest) -> None:
    """The disk's answer isn't announced: its reader waits until the event arrives after all."""
    fault = disk.faults.lose_event(device="xvda", direction="to")
    disk.check(f"({READ.format(9)}; echo $? > /tmp/status) > /dev/null 2>&1 &")
    disk.pass_time(500)
    assert disk.run("cat /tmp/status").status == 1
    assert fault.hits == 1
    assert fault.deliver() == 1
    disk.pass_time(0.1)
    assert disk.check("cat /tmp/status") == "0\n"


def test_a_disk_that_is_slow(disk: Guest) -> None:
    timed = (
        f"read a _ < /proc/uptime; {READ.format(11)} 2>/dev/null; read b _ < /proc/uptime; "
        "echo $a $b"
    )

    def seconds() -> float:
        begin, end = map(float, disk.check(timed).split())
        return round(end - begin, 2)  # the kernel's hundredths

    assert seconds() < 0.05
    with disk.faults.delay("xvda", 700):
        assert 0.7 <= seconds() < 0.8
    assert seconds() < 0.05


def test_a_network_that_loses_packets(xen_network: Network) -> None:
    one, two = xen_network(2)
    ping = f"ping -c 10 -i 0.2 -W 1 {two.address}"
    assert "10 packets received, 0% packet loss" in one.check(ping)
    with one.faults.lose_packets("vif0", nth=2, every=5, count=None, direction="to") as fault:
        # The one or the other may be an ARP answer, which is asked for again.
        assert re.search(r"[89] packets received", one.check(ping))
    assert fault.hits >= 2
    with two.faults.fail_grant_copy(nth=1, count=4):
        text = one.run(ping).text
    assert re.search(r"[78] packets received", text), text
    with two.faults.delay("vif0", 250):
        times = re.findall(r"time=([\d.]+) ms", one.check(f"ping -c 3 {two.address}"))
        assert all(250 <= float(time) < 260 for time in times)
    assert len(times) == 3
    two.faults.kill(after_ms=3000)
    text = one.run(ping.replace("-c 10", "-c 30")).text
    assert 10 <= int(re.search(r"(\d+) packets received", text)[1]) <= 16, text  # type: ignore[index]
    assert two.domain.ended


def test_what_cannot_be_is_refused(disk: Guest) -> None:
    faults = disk.faults
    for wrong, message in (
        (lambda: faults.fail_grant_map(status="bad_pge"), "did you mean bad_page"),
        (lambda: faults.fail_grant_map(status=0), "no GNTST"),
        (lambda: faults.fail_grant_map(0), "begin at 1"),
        (lambda: faults.fail_disk("xvdb"), "has no device 'xvdb'"),
        (lambda: faults.lose_event(device="sofa"), "no device"),
        (lambda: faults.delay("xvda", -1), "up to an hour"),
        (lambda: faults.lose_packets("xvda"), "no network interface"),
    ):
        with pytest.raises(UserError, match=message):
            wrong()
    faults.clear()
    points = disk.machine.hypervisor.faults
    assert (points.grant_map, points.grant_copy, points.event) == (None, None, None)
