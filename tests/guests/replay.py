# SPDX-License-Identifier: GPL-2.0-or-later
"""A boot on the virtual clock in a process of its own; prints its fingerprint as JSON.

``python -m tests.guests.replay KERNEL RAMDISK VCPUS HOST_SLICE``
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from tests.guests.fingerprint import Recorder, fingerprint
from xenograft.toolstack.images.initrd import MARKER
from xenograft.toolstack.machine import Machine

TYPED = "cat /proc/interrupts; date; dd if=/dev/urandom bs=64 count=1 | sha256sum; poweroff -f\n"
"""Input while the guest runs, that shows times, counts and random numbers."""


def main(kernel: str, ramdisk: str, vcpus: str, host_slice: str) -> None:
    recorder = Recorder()
    with Machine(clock="virtual", host_slice=int(host_slice)) as machine:
        machine.instruments.add(recorder)
        guest = machine.create_pvh(
            kernel=kernel,
            ramdisk=ramdisk,
            cmdline="console=hvc0 quiet",
            memory=256,
            vcpus=int(vcpus),
        )
        guest.console.expect(MARKER, timeout=600)
        guest.console.send(TYPED)
        reason = guest.wait(timeout=600)
        print(
            json.dumps(
                {
                    "reason": str(reason),
                    "now": machine.hypervisor.clock.now(),
                    "console": guest.console.output,
                    **asdict(fingerprint(recorder, guest.xen)),
                }
            )
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
