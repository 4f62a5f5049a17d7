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
_RUNS = 2


def script() -> str:
    """The guest's program: a line before and after each piece of work."""
    steps = list(_PREPARE)
    for name, command in WORK.items():
        steps += [f"echo begin-{name}", f"{command} > /dev/null", f"echo end-{name}"]
    return "; ".join(steps)


def measure(peer: Peer) -> dict[str, tuple[float, float]]:
    """Seconds that each piece of work took: on the host's clock, and of processor time."""
    kernel, ramdisk = images()
    # The program holds quotes, which the kernel's command line can't: it goes in hexadecimal.
    program = script().encode().hex()
    decode = f"echo {program} | xxd -r -p > /tmp/work; sh /tmp/work"
    cmdline = f'{peer.parameters} xg.run="{decode}"'
    command = peer.command(kernel, ramdisk, cmdline, 1, _MEMORY)
    run = timed(command, r"^(begin|end)-", "^end-sort", 900)
    return {
        name: (
            run.at(f"end-{name}") - run.at(f"begin-{name}"),
            run.cpu_at(f"end-{name}") - run.cpu_at(f"begin-{name}"),
        )
        for name in WORK
    }


def run(runs: int) -> list[Result]:
    """Speeds: the bound is a ratio to QEMU's, where more is better.

    Processor time is shown beside them, since it says more where the host is busy.
    """
    peer = peers()[0]
    machines = [OURS] if peer.missing else [OURS, peer]

    def show(times: dict[str, tuple[float, float]]) -> str:
        return ", ".join(f"{name} {s:.2f} s ({cpu:.2f})" for name, (s, cpu) in times.items())

    measures = {one.name: partial(measure, one) for one in machines}
    taken = alternate(min(runs, _RUNS), measures, show)

    def result(title: str, work: str, which: int, bound: float | None) -> Result:
        def best(machine: str) -> float | None:
            return min((times[work][which] for times in taken.get(machine, ())), default=None)

        ours, theirs = best(OURS.name), best(peer.name)
        return Result(title, ours, "s", bound, theirs, peer.name, higher=True, note=peer.missing)

    return [
        row
        for name in WORK
        for row in (
            result(f"guest {name} of 64 MiB", name, 0, 0.95),
            result("  its processor time", name, 1, None),
        )
    ]
