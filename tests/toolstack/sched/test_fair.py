# SPDX-License-Identifier: GPL-2.0-or-later
"""What credit and credit2 promise: shares by weight, caps, nobody starves."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toolstack.sched.support import MS, SECOND, Checked, shares
from xenograft.hypervisor.sched.credit2 import Credit2
from xenograft.hypervisor.sched.registry import BY_NAME
from xenograft.hypervisor.sched.scheduler import GlobalParams, Params
from xenograft.hypervisor.sched.topology import Topology
from xenograft.toolstack.sched.loads import Blocking, Busy
from xenograft.toolstack.sched.simulator import Simulator

FAIR = ("credit", "credit2")


WEIGHTS = [(256, 256), (256, 512), (100, 300, 600), (1, 9), (512, 64)]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_weights_of_credit2_share_a_cpu_within_2_percent(weights: tuple[int, ...]) -> None:
    got = shares("credit2", [[Busy()] for _ in weights], [Params(weight=w) for w in weights])
    for share, weight in zip(got, weights, strict=True):
        assert share == pytest.approx(weight / sum(weights), rel=0.02)


def after_five_seconds(scheduler: str, weights: tuple[int, ...]) -> list[float]:
    """Shares in the hundred seconds that follow the first five."""
    sim = Checked(scheduler)
    domains = [sim.add_domain(f"d{i}", [Busy()], Params(weight=w)) for i, w in enumerate(weights)]
    sim.run(5 * SECOND)
    before = [sim.cpu_time(domain) for domain in domains]
    sim.run(105 * SECOND)
    pairs = zip(domains, before, strict=True)
    return [(sim.cpu_time(domain) - had) / (100 * SECOND) for domain, had in pairs]


@pytest.mark.parametrize("weights", [*WEIGHTS, (256,) * 8])
def test_weights_of_credit_share_a_cpu_over_many_slices(weights: tuple[int, ...]) -> None:
    """Within 2 %, or one and a half of the 300 whole credits that a slice of 30 ms gives out."""
    for share, weight in zip(after_five_seconds("credit", weights), weights, strict=True):
        assert share == pytest.approx(weight / sum(weights), rel=0.02, abs=1.5 / 300)


def test_credit_forgets_debts_beyond_a_slice_as_xen_does() -> None:
    """With many weights who is light owes more than that after a slice, and so gets too much.

    csched_acct() cuts what a vCPU owes at credits_per_tslice; credit2 has no such limit.
    """
    weights = (64, 128, 256, 512, 1024)
    light = weights[0] / sum(weights)
    assert after_five_seconds("credit", weights)[0] > 1.5 * light
    assert after_five_seconds("credit2", weights)[0] == pytest.approx(light, rel=0.02)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(16, 4096), min_size=2, max_size=6))
def test_credit2_is_fair_for_any_weights(weights: list[int]) -> None:
    sim = Checked("credit2")
    domains = [sim.add_domain(f"d{i}", [Busy()], Params(weight=w)) for i, w in enumerate(weights)]
    # A round of credits of the heaviest takes 10 ms; that of the others is longer by weight.
    sim.run(SECOND)
    before = [sim.cpu_time(domain) for domain in domains]
    span = 200 * 10 * MS * sum(weights) // max(weights)
    sim.run(SECOND + span)
    for domain, weight, had in zip(domains, weights, before, strict=True):
        # A turn takes a millisecond at least; the lightest have few of them.
        allowed = pytest.approx(span * weight / sum(weights), rel=0.02, abs=2 * MS)
        assert sim.cpu_time(domain) - had == allowed


def test_more_vcpus_do_not_mean_more_on_one_cpu_of_credit() -> None:
    """credit's weights are those of domains times active vCPUs, as in Xen 4.17."""
    got = shares("credit", [[Busy(), Busy()], [Busy()]], [Params(), Params()])
    assert got == pytest.approx([2 / 3, 1 / 3], rel=0.02)


@pytest.mark.parametrize("scheduler", FAIR)
@pytest.mark.parametrize("cap", [10, 25, 50, 90])
def test_caps_hold_within_2_percent_on_an_idle_machine(scheduler: str, cap: int) -> None:
    (share,) = shares(scheduler, [[Busy()]], [Params(cap=cap)])
    assert share == pytest.approx(cap / 100, rel=0.02)


@pytest.mark.parametrize("cap", [30, 100, 150, 250])
def test_caps_of_credit2_count_all_vcpus(cap: int) -> None:
    (share,) = shares("credit2", [[Busy() for _ in range(4)]], [Params(cap=cap)], cpus=4)
    assert share == pytest.approx(cap / 100, rel=0.02)


def test_a_cap_may_be_set_and_lifted_while_it_runs() -> None:
    sim = Checked("credit2")
    domain = sim.add_domain("d", [Busy()])
    sim.run(SECOND)
    sim.set_params(domain, Params(cap=20))
    sim.run(2 * SECOND)
    assert sim.cpu_time(domain) - SECOND == pytest.approx(0.2 * SECOND, rel=0.02)
    before = sim.cpu_time(domain)
    sim.set_params(domain, Params(cap=0))
    sim.run(3 * SECOND)
    assert sim.cpu_time(domain) - before == pytest.approx(SECOND, rel=0.02)


@pytest.mark.parametrize("scheduler", FAIR)
def test_nobody_starves(scheduler: str) -> None:
    """Each of 60 hogs on 4 CPUs runs in each second, with 20 that block beside them."""
    sim = Checked(scheduler, cpus=4)
    hogs = [sim.add_domain(f"h{i}", [Busy()], Params(weight=64 + i)) for i in range(60)]
    for i in range(20):
        sim.add_domain(f"b{i}", [Blocking(MS // 3, 7 * MS, seed=i)])
    had = [0] * 60
    for second in range(1, 11):
        sim.run(second * 2 * SECOND)
        now = [sim.cpu_time(hog) for hog in hogs]
        assert all(b > a for a, b in zip(had, now, strict=True))
        had = now
    assert sim.exact()


@pytest.mark.parametrize("scheduler", FAIR)
def test_no_wake_up_is_lost(scheduler: str) -> None:
    """All that block go on blocking and waking, as often as their lengths allow."""
    sim = Checked(scheduler, cpus=2)
    loads = [Blocking(MS, 9 * MS, start_ns=i * 777_777) for i in range(8)]
    for i, load in enumerate(loads):
        sim.add_domain(f"b{i}", [load])
    sim.run(10 * SECOND)
    for load in loads:
        assert len(load.latencies) > 900


@pytest.mark.parametrize("scheduler", FAIR)
def test_work_is_not_left_while_a_cpu_idles(scheduler: str) -> None:
    sim = Checked(scheduler, cpus=8)
    for i in range(8):
        sim.add_domain(f"h{i}", [Busy()])
    sim.run(SECOND)
    idle = sum(sim.core.total_idle_ns(cpu, sim.time) for cpu in range(8))
    assert idle < 0.01 * 8 * SECOND


def test_load_is_balanced_between_sockets() -> None:
    """Seven hogs on two sockets of two CPUs: nobody is always among the four."""
    sim = Checked("credit2", sockets=2, cores=2)
    domains = [sim.add_domain(f"h{i}", [Busy()]) for i in range(7)]
    sim.run(20 * SECOND)
    got = [sim.cpu_time(domain) / sim.time for domain in domains]
    assert sum(got) == pytest.approx(4)
    assert all(0.45 < share < 0.7 for share in got)
    sockets: dict[int, set[int]] = {}
    for _, cpu, domid, _ in sim.history:
        sockets.setdefault(domid, set()).add(cpu // 2)
    assert any(places == {0, 1} for places in sockets.values())


def test_a_queue_that_has_lost_its_load_takes_from_the_other() -> None:
    sim = Checked("credit2", sockets=2, cores=2)
    domains = [sim.add_domain(f"h{i}", [Busy()]) for i in range(8)]
    sim.run(SECOND)
    for domain in domains:
        if domain.units[0].cpu < 2:
            sim.remove_domain(domain)
    sim.run(10 * SECOND)
    for domain in sim.domains:
        assert sim.core.run_ns(domain.units[0], sim.time) > 8 * SECOND


def test_credit2_ratelimit_is_how_long_one_runs_at_least() -> None:
    sim = Checked("credit2")
    sim.pools.get(0).scheduler.set_global(GlobalParams(ratelimit_us=5000))
    for i in range(3):
        sim.add_domain(f"h{i}", [Busy()])
    sim.run(SECOND)
    starts = [time for time, *_ in sim.history]
    assert min(b - a for a, b in itertools.pairwise(starts[5:])) >= 5 * MS


def test_a_woken_vcpu_of_credit2_passes_a_hog_once_the_ratelimit_is_over() -> None:
    sim = Checked("credit2")
    sim.add_domain("hog", [Busy()])
    load = Blocking(MS // 10, 20 * MS)
    sim.add_domain("io", [load])
    sim.run(10 * SECOND)
    assert max(load.latencies[5:]) <= MS


def test_credit_boosts_who_wakes() -> None:
    sim = Checked("credit")
    for i in range(3):
        sim.add_domain(f"hog{i}", [Busy()])
    load = Blocking(MS // 10, 20 * MS)
    sim.add_domain("io", [load])
    sim.run(10 * SECOND)
    assert sorted(load.latencies)[len(load.latencies) * 9 // 10] <= MS


def test_soft_affinity_is_kept_as_long_as_there_is_room() -> None:
    sim = Checked("credit2", cpus=4)
    likes = sim.add_domain("likes", [Busy()], soft=0b1000)
    sim.run(SECOND)
    assert likes.units[0].cpu == 3
    for i in range(4):
        sim.add_domain(f"h{i}", [Busy()], hard=0b1000)
    sim.run(3 * SECOND)
    assert sim.cpu_time(likes) > 2.5 * SECOND


@pytest.mark.parametrize("scheduler", ["credit", "credit2", "rtds", "null"])
def test_runs_repeat(scheduler: str) -> None:
    def once() -> list[tuple[int, int, int, int]]:
        sim = Checked(scheduler, cpus=3)
        for i in range(7):
            sim.add_domain(f"d{i}", [Busy(), Blocking(MS, 2 * MS, seed=i)])
        sim.run(SECOND)
        return sim.history

    assert once() == once()


@pytest.mark.parametrize(
    ("by", "queues"), [("cpu", 16), ("core", 8), ("socket", 4), ("node", 2), ("all", 1)]
)
def test_who_shares_a_run_queue_of_credit2(by: str, queues: int) -> None:
    """As the boot option credit2_runqueue says; all are fair."""
    topology = Topology.of(nodes=2, sockets=2, cores=2, threads=2)
    sim = Simulator(topology, BY_NAME["credit2"].sched_id, by)
    scheduler = sim.pools.get(0).scheduler
    assert isinstance(scheduler, Credit2)
    assert len(scheduler.runqueues) == queues
    domains = [sim.add_domain(f"d{i}", [Busy()]) for i in range(32)]
    sim.run(5 * SECOND)
    assert sum(sim.cpu_time(domain) for domain in domains) > 0.99 * 16 * sim.time
    assert all(0.45 < sim.cpu_time(domain) / sim.time < 0.55 for domain in domains)


def test_a_run_queue_of_credit2_has_at_most_16_cpus() -> None:
    sim = Simulator(Topology.of(cores=40), BY_NAME["credit2"].sched_id)
    scheduler = sim.pools.get(0).scheduler
    assert isinstance(scheduler, Credit2)
    assert [rqd.cpus.bit_count() for rqd in scheduler.runqueues] == [16, 16, 8]
