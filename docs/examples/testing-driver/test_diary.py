# SPDX-License-Identifier: GPL-2.0-or-later
def test_it_says_so_when_the_disk_fails(xen_guest, tmp_path):
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    xen_guest.attach_disk(tmp_path / "disk")
    xen_guest.send_file("diary", "/bin/diary")
    xen_guest.check("diary add /dev/xvda hello")
    with xen_guest.faults.fail_disk("xvda", operations=("write",)):
        result = xen_guest.run("diary add /dev/xvda lost")
    assert result.status == 1, "the disk has failed, and the driver says the line is kept"
    assert xen_guest.check("diary list /dev/xvda") == "hello\n"
