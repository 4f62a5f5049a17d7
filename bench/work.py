# SPDX-License-Identifier: GPL-2.0-or-later
"""CPU work in the guest: hash, sort and compress 64 MiB, against QEMU's TCG."""

from __future__ import annotations

from functools import partial

from bench.harness import OURS, Peer, Result, alternate, images, peers, timed

# Binary data is busybox itself, text its hexadecimal dump: neither constant nor random.
_SIZE = 64 << 20
_PREPARE = (
    f"for i in $(seq 36); do cat /bin/busybox; done | head -c {_SIZE} > /tmp/data",
    'hexdump -v -e \'16/1 "%02x" "\\n"\' /bin/busybox > /tmp/hex',
    f"for i in $(seq 17); do cat /tmp/hex; done | head -c {_SIZE} > /tmp/text",
    f"[ $(cat /tmp/data /tmp/text | wc -c) = {2 * _SIZE} ] || exit 1",
)
WORK = {
    "sha256": "sha256sum /tmp/data",
    "gzip": "gzip -c /tmp/data",
    "sort": "sort /tmp/text",
}
_MEMORY = 768
_RUNS = 1


def script() -> str:
    """The guest's program: a line before and after each piece of work."""
    steps = list(_PREPARE)
    for name, command in WORK.items():
        steps += [f"echo begin-{name}", f"{command} > /dev/null", f"echo end-{name}"]
    return "; ".join(steps)


def measure(peer: Peer) -> dict[str, float]:
    """Seconds that each piece of work took, on the host's clock."""
    kernel, ramdisk = images()
    # The program holds quotes, which the kernel's command line can't: it goes in hexadecimal.
    program = script().encode().hex()
    decode = f"echo {program} | xxd -r -p > /tmp/work; sh /tmp/work"
    cmdline = f'{peer.parameters} xg.run="{decode}"'
    command = peer.command(kernel, ramdisk, cmdline, 1, _MEMORY)
    run = timed(command, r"^(begin|end)-", "^end-sort", 900)
    return {name: run.at(f"end-{name}") - run.at(f"begin-{name}") for name in WORK}


def run(runs: int) -> list[Result]:
    """Speeds: the bound is a ratio to QEMU's, where more is better."""
    peer = peers()[0]
    machines = [OURS] if peer.missing else [OURS, peer]

    def show(times: dict[str, float]) -> str:
        return ", ".join(f"{name} {seconds:.2f} s" for name, seconds in times.items())

    measures = {one.name: partial(measure, one) for one in machines}
    taken = alternate(min(runs, _RUNS), measures, show)

    def best(machine: str, work: str) -> float | None:
        return min((times[work] for times in taken.get(machine, ())), default=None)

    return [
        Result(
            f"guest {name} of 64 MiB",
            best(OURS.name, name),
            "s",
            0.95,
            best(peer.name, name),
            peer.name,
            higher=True,
            note=peer.missing,
        )
        for name in WORK
    ]
