# SPDX-License-Identifier: GPL-2.0-or-later
"""A PV kernel of ours that tries to leave its own memory and its privilege: no way may work.

It prints a verdict for each attempt (`guests/pv/attacker.c`: memory, `climber.c`: privilege);
meanwhile the uses of its frames are counted anew, and afterwards its neighbour has to be as it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from tests.guests.support import declared, read
from tests.hypervisor.pv.audit import Audit
from xenograft.toolstack.config.options import from_options
from xenograft.toolstack.machine import Domain, Machine

END = "Test result: "


class Scene:
    """The attacker, and a neighbour that never runs."""

    def __init__(
        self, machine: Machine, guest: Callable[[str], Path], kind: str, program: str
    ) -> None:
        self.machine = machine
        self.program = program
        names = {"pv": "modes_pv-pv64", "pvh": "modes-64"}
        self.neighbour = self._create("neighbour", kind, guest(names[kind]))
        frames = sorted(self.neighbour.xen.pool.pages)
        self.victim = frames[len(frames) // 2]
        self.attacker = self._create(
            "attacker",
            "pv",
            guest(f"{program}-pv64"),
            f"domid={self.neighbour.domid} victim={self.victim} stay",
        )
        self.before = self.state()  # nobody has run yet

    def _create(self, name: str, kind: str, kernel: Path, cmdline: str = "") -> Domain:
        config = from_options(
            name=name, type=kind, kernel=str(kernel), memory="16M", cmdline=cmdline
        )
        return self.machine.create(config, paused=name == "neighbour")

    def finish(self) -> None:
        """Let the attacker come to its end."""
        self.machine.run(timeout=30, until=lambda: END in self.attacker.console.output)
        assert not self.attacker.ended, self.attacker.crash_report

    def state(self) -> tuple[Any, ...]:
        """All that the neighbour is: contents, types, references and names of its frames."""
        memory, pool = cast(Any, self.neighbour.xen.memory), self.neighbour.xen.pool
        frames = sorted({*pool.pages, *pool.special})
        counts = [(memory.owner(m), memory.refs(m), memory.types(m), memory.m2p(m)) for m in frames]
        contents = hashlib.sha256(b"".join(memory.read(m << 12, 4096) for m in frames))
        return frames, counts, contents.hexdigest()


@pytest.fixture(params=["attacker", "climber"])
def program(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["pv", "pvh"])
def scene(
    guest: Callable[[str], Path], request: pytest.FixtureRequest, program: str
) -> Iterator[Scene]:
    with Machine(clock="virtual") as machine:
        yield Scene(machine, guest, request.param, program)


def test_no_attempt_succeeds(scene: Scene) -> None:
    audits: list[int] = []

    def audit(_printed: bytes) -> None:
        checked = Audit(scene.attacker.xen)
        checked.check()
        audits.append(checked.tables)

    scene.attacker.console.on_output(audit)
    scene.finish()
    report = read(scene.attacker.console.output)
    assert not report.failed
    assert not report.skipped
    assert set(report.passed) == declared(f"pv/{scene.program}")
    assert report.complete
    assert len(audits) > len(report.passed)
    assert scene.state() == scene.before
    assert scene.victim not in Audit(scene.attacker.xen).foreign


def test_what_it_leaves_behind(scene: Scene) -> None:
    """Its end gives everything back, whatever it has pinned and loaded."""
    scene.finish()
    frames = sorted(scene.attacker.xen.pool.pages)
    memory = cast(Any, scene.attacker.xen.memory)
    scene.attacker.destroy()
    assert [memory.refs(mfn) for mfn in frames] == [0] * len(frames)
    assert scene.state() == scene.before
