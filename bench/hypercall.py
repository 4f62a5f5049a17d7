# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest waits for its hypervisor, and what an exit of the engine costs."""

from __future__ import annotations

import re
import time

from bench.harness import XG, Result, timed
from xenograft.engine.protocol import ExitReason
from xenograft.engine.unicorn import UnicornEngine
from xenograft.guests import guest_path

_LINE = re.compile(r"latency (\w+) (\d+) ns")
_ROUNDS = 50_000
_CODE = 0x1000
# in al, dx; jmp to it: every instruction but the jump is an exit.
_LOOP = bytes.fromhex("ecebfd")


def latencies() -> dict[str, float]:
    """Microseconds by way in, as the guest `latency-64` measures them."""
    command = [XG, "run", "--kernel", str(guest_path("latency-64")), "--timeout", "120"]
    run = timed(command, r"^latency ", r"^latency port ", 120)
    found = (_LINE.search(line) for _, line in run.marks)
    return {match[1]: int(match[2]) / 1000 for match in found if match}


def exit_round_trip() -> float:
    """Microseconds from an exit to Python and back into the guest, on the engine alone."""
    engine = UnicornEngine()
    memory = engine.memory(1024)
    space = engine.space(memory)
    ((mfn, count),) = memory.alloc(1, 2)
    space.map(0, mfn, count)
    space.write(_CODE, _LOOP)
    cpu = engine.cpu(space, 0)
    # Real mode as after a reset, but with the code segment at 0.
    for name, value in (("cs.sel", 0), ("cs.base", 0), ("rip", _CODE), ("rdx", 0x2E0)):
        cpu.set(name, value)
    best = float("inf")
    for _ in range(5):
        run, complete = cpu.run, cpu.complete
        begin = time.perf_counter()
        for _ in range(_ROUNDS):
            if run(1000)[0] != ExitReason.IO_IN:
                raise RuntimeError("the engine didn't stop at a port")
            complete(0)
        best = min(best, time.perf_counter() - begin)
    cpu.close()
    space.close()
    memory.close()
    return best / _ROUNDS * 1e6


def run(runs: int) -> list[Result]:
    """The ways in, with the promises for answers in Python and in C."""
    results = [Result("exit to Python and back", exit_round_trip(), "us", 0.5)]
    taken = latencies()
    for name, bound in (("vcpu_op", 4.0), ("event_channel_op", None), ("xen_version", 0.2)):
        note = "answered natively" if name == "xen_version" else "answered in Python"
        results.append(Result(f"hypercall {name}", taken[name], "us", bound, note=note))
    results.append(Result("port read", taken["port"], "us", note="exit, decision and back"))
    return results
