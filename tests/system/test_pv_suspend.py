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
from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.machine import Machine


@pytest.mark.parametrize("vcpus", [1, 4])
def test_a_linux_wakes_elsewhere(image: Callable[[str], Path], tmp_path: Path, vcpus: int) -> None:
    path = tmp_path / "saved"
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
        before = set(guest.xen.pool.pages)
        guest.save(path, mode="suspend")
    with Machine() as machine:
        # Somebody else has the frames that it had.
        machine.create(msgspec.structs.replace(config, name="other", vcpus=1), paused=True)
        guest = machine.restore(path, paused=True)
        Audit(guest.xen).check()
        guest.unpause()
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
