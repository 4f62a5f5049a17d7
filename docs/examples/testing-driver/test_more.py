# SPDX-License-Identifier: GPL-2.0-or-later
"""More of what can go wrong for the diary."""

import pytest


@pytest.fixture
def guest(xen_guest, tmp_path):
    """A guest with the driver and an empty disk."""
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    xen_guest.attach_disk(tmp_path / "disk")
    xen_guest.send_file("diary", "/bin/diary")
    return xen_guest


def test_it_keeps_what_it_was_told(guest):
    for word in ("one", "two", "three"):
        guest.check(f"diary add /dev/xvda {word}")
    assert guest.check("diary list /dev/xvda") == "one\ntwo\nthree\n"


def test_it_survives_a_slow_disk(guest):
    with guest.faults.delay("xvda", ms=1500):
        guest.check("diary add /dev/xvda late")
    assert guest.check("diary list /dev/xvda") == "late\n"


def test_it_survives_a_page_that_cannot_be_mapped(guest):
    """The back end fails to map a page: Linux hears of an I/O error, and so must we."""
    guest.check("diary add /dev/xvda first")
    with guest.faults.fail_grant_map(count=None), guest.faults.fail_disk("xvda"):
        assert guest.run("diary list /dev/xvda").status == 1
    assert guest.check("diary list /dev/xvda") == "first\n"


def test_a_power_cut_loses_nothing(guest, tmp_path):
    """What it has said it kept is on the disk, whenever the power goes."""
    guest.faults.kill(after_ms=500)
    guest.console.send("n=0; while diary add /dev/xvda line$n; do n=$((n+1)); done\n")
    guest.machine.run(until=lambda: guest.domain.ended)
    kept = guest.console.output.count("kept\r\n")
    disk = (tmp_path / "disk").read_bytes()
    assert kept > 3
    assert all(b"DIARY1\0line%d\0" % number in disk for number in range(kept))
