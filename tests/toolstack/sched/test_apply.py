# SPDX-License-Identifier: GPL-2.0-or-later
"""What a domain's configuration says of its scheduling is done, or refused in a line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.hypervisor.support import OPEN
from tests.toolstack.sched.test_control import Machine
from xenograft.hypervisor.sched.scheduler import Params
from xenograft.toolstack.config.domain import DomainConfig
from xenograft.toolstack.config.xlcfg import parse_config
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.sched.apply import apply_scheduling, scheduling_of


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


def applied(vcpus: int = 2, **keys: Any) -> Machine:
    machine = Machine(vcpus)
    machine.control.remove_cpu("Pool-0", 3)
    machine.control.create_pool("rt", "rtds", [3])
    apply_scheduling(machine.control, 1, DomainConfig(vcpus=vcpus, **keys), vcpus)
    return machine


def test_nothing_is_changed_unless_told() -> None:
    machine = applied()
    assert machine.control.get_params(1, "credit2") == Params(weight=256, cap=0)
    assert machine.domain.sched.pool_id == 0


def test_weight_and_cap() -> None:
    control = applied(cpu_weight=512, cap=150).control
    assert control.get_params(1, "credit2") == Params(weight=512, cap=150)


def test_a_reservation_in_its_pool() -> None:
    control = applied(pool="rt", period=20_000, slice=5_000, extratime=False).control
    expected = Params(period_us=20_000, budget_us=5_000, extratime=False)
    assert control.get_vcpu_params(1, [0, 1]) == [expected, expected]


def test_affinities() -> None:
    control = applied(cpus="0-2,^1", cpus_soft=("2",)).control
    assert [control.vcpu_info(1, vcpu).hard for vcpu in (0, 1)] == [0b0101, 0b0101]
    assert [control.vcpu_info(1, vcpu).soft for vcpu in (0, 1)] == [0b0100, 0b1111]
    control = applied(cpus=("1", "2")).control
    assert [control.vcpu_info(1, vcpu).hard for vcpu in (0, 1)] == [0b0010, 0b0100]
    assert applied(cpus="node:1").control.vcpu_info(1, 0).hard == 0b1100


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"pool": "nosuch"}, "unknown cpupool 'nosuch'"),
        ({"cpus": "9"}, "no CPU of '9', only 0 to 3"),
        ({"cpus": "3"}, "its pool has none of these CPUs"),
        ({"cpus": "x"}, "Invalid pcpu range"),
        ({"cap": 300}, "from 0 to 200"),
        ({"period": 1000}, "without periods"),
        ({"pool": "rt", "cpu_weight": 5}, "without weights"),
        ({"pool": "rt", "period": 100, "slice": 200}, "smaller than or equal"),
    ],
)
def test_errors(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        applied(**keys)
    assert "\n" not in str(caught.value)


def test_the_keys_of_a_file() -> None:
    config, warnings = parse_config(
        'name="x"\ntype="pvh"\nkernel="k"\npool="rt"\ncpus=["0","1-2"]\ncpus_soft="1"\n'
        "cpu_weight=300\ncap=20\nperiod=1000\nslice=500\nextratime=1\n"
    )
    assert not warnings
    assert (config.pool, config.cpus, config.cpus_soft) == ("rt", ("0", "1-2"), "1")
    assert (config.cpu_weight, config.cap, config.period, config.slice) == (300, 20, 1000, 500)
    assert config.extratime is True


@pytest.mark.parametrize("line", ["cpu_weight=0", "cpu_weight=65536", "cap=3201", "period=0"])
def test_values_out_of_range(line: str) -> None:
    with pytest.raises(UserError, match="out of range"):
        parse_config(f'name="x"\ntype="pvh"\nkernel="k"\n{line}\n')


@pytest.mark.parametrize(
    "keys",
    [
        {"cpu_weight": 512, "cap": 150},
        {"cpus": "0-1", "cpus_soft": "1"},
        {"cpus": ("1", "2"), "cpu_weight": 256, "cap": 0},
        {"pool": "rt", "period": 20_000, "slice": 5_000, "extratime": False},
    ],
)
def test_what_a_domain_has_is_what_its_configuration_says(keys: dict[str, Any]) -> None:
    machine = applied(**keys)
    config = DomainConfig(vcpus=2, **keys)
    found = scheduling_of(machine.control, 1, DomainConfig(vcpus=2, pool=keys.get("pool")))
    for key in ("pool", "cpus", "period", "slice", "extratime"):
        assert getattr(found, key) == getattr(config, key)
    if "cpu_weight" in keys:
        assert (found.cpu_weight, found.cap) == (config.cpu_weight, config.cap)
    if "cpus_soft" in keys:
        assert found.cpus_soft == config.cpus_soft


def test_another_pool_takes_other_parameters() -> None:
    """What the new scheduler doesn't know isn't kept: the domain could not be built again."""
    machine = applied(cpu_weight=512, cpus="0-1")
    config = DomainConfig(vcpus=2, cpu_weight=512, cpus="0-1")
    machine.control.move_domain(1, "rt")
    found = scheduling_of(machine.control, 1, config)
    assert (found.pool, found.cpu_weight, found.cpus, found.cpus_soft) == ("rt", None, None, None)
    assert (found.period, found.slice, found.extratime) == (10_000, 4_000, True)
    machine.control.move_domain(1, "Pool-0")
    assert scheduling_of(machine.control, 1, found).pool == "Pool-0"


class TestPlacement:
    """libxl's placement on NUMA nodes: two nodes, CPUs 0-1 and 2-3."""

    @staticmethod
    def placed(
        machine: Machine, vcpus: int, others: list[tuple[int, int]] | None = None, **keys: Any
    ) -> list[int]:
        config = DomainConfig(vcpus=vcpus, **keys)
        apply_scheduling(machine.control, 1, config, vcpus, others or [])
        return [machine.control.vcpu_info(1, vcpu).soft for vcpu in range(vcpus)]

    def test_the_first_node_comes_first(self) -> None:
        machine = Machine(2)
        assert self.placed(machine, 2) == [0b0011, 0b0011]
        assert machine.control.node_affinity(1) == (0,)
        assert machine.control.vcpu_info(1, 0).hard == 0b1111

    def test_then_the_one_with_the_fewest_vcpus(self) -> None:
        machine = Machine(2)
        other = machine.add_domain(1).domid
        machine.control.set_affinity(other, 0, soft=0b0001)
        assert self.placed(machine, 2, [(other, 1)]) == [0b1100, 0b1100]
        machine.control.set_affinity(other, 0, soft=0b1000)
        assert self.placed(machine, 2, [(other, 1)]) == [0b0011, 0b0011]

    def test_who_needs_all_nodes_is_not_placed(self) -> None:
        machine = Machine(3)
        assert self.placed(machine, 3) == [0b1111] * 3
        assert machine.control.node_affinity(1) == (0, 1)

    def test_a_pin_is_placement_enough(self) -> None:
        assert self.placed(Machine(1), 1, cpus="3") == [0b1111]

    def test_only_the_pool_counts(self) -> None:
        machine = Machine(1)
        machine.control.remove_cpu("Pool-0", 3)
        machine.control.create_pool("rt", "rtds", [3])
        assert self.placed(machine, 1, pool="rt") == [0b1111]
