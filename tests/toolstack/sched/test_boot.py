# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines with the CPUs and pools of a description."""

from __future__ import annotations

import uuid

import pytest

from xenograft.engine.fake import FakeEngine
from xenograft.hypervisor.sched.scheduler import GlobalParams
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.machine import Machine
from xenograft.toolstack.sched.boot import machine_of
from xenograft.toolstack.sched.description import load

HANDLE = uuid.UUID(int=5)
SYSTEM = f"""
[machine]
nodes = 2
cores = 2
[[pool]]
name = "main"
sched = "credit"
cpus = "0"
tslice_ms = 10
[[pool]]
name = "rt"
sched = "rtds"
cpus = "1"
[[pool]]
name = "flight"
sched = "arinc653"
cpus = "3"
major_frame = "10ms"
window = [{{ uuid = "{HANDLE}", runtime = "4ms" }}]
"""


def made(text: str) -> Machine:
    return machine_of(load(text, "x.toml"), engine=FakeEngine(), memory=512)


def test_pools_are_there_from_the_start() -> None:
    with made(SYSTEM) as machine:
        control = machine.scheduling
        assert [(one.name, one.sched, one.cpus) for one in control.pools()] == [
            ("main", "credit", (0,)),
            ("rt", "rtds", (1,)),
            ("flight", "arinc653", (3,)),
        ]
        assert control.free_cpus() == (2,)
        assert [place.node for place in control.topology()] == [0, 0, 1, 1]
        assert control.get_global(control.pool("main")) == GlobalParams(
            ratelimit_us=1000, tslice_ms=10, migration_delay_us=0
        )
        (frame,) = control.get_arinc653(control.pool("flight")).frames
        assert (frame.uuid, frame.runtime_ns) == (HANDLE.bytes, 4_000_000)


def test_a_table_with_names_waits_for_its_domains() -> None:
    text = SYSTEM.replace(f'uuid = "{HANDLE}"', 'domain = "nav"')
    with made(text) as machine:
        control = machine.scheduling
        assert control.get_arinc653(control.pool("flight")).frames == ()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (SYSTEM.replace('cpus = "3"', 'cpus = "2-3"'), "'flight': an arinc653 pool has one CPU"),
        (SYSTEM.replace('cpus = "3"', 'cpus = "1"'), "CPU 1 is in another pool"),
        (SYSTEM.replace('sched = "credit"', 'sched = "null"'), "null has no ratelimit and tslice"),
        (SYSTEM.replace("tslice_ms = 10", "tslice_ms = 0"), "tslice 1 to 1000 ms"),
    ],
)
def test_what_can_not_be(text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        made(text)
    assert "\n" not in str(caught.value)


def test_a_machine_of_arinc653_alone_has_one_cpu_in_its_pool() -> None:
    with Machine(engine=FakeEngine(), memory=512, cpus=3, sched="arinc653") as machine:
        assert machine.scheduling.pools()[0].cpus == (0,)
        assert machine.scheduling.free_cpus() == (1, 2)
