# SPDX-License-Identifier: GPL-2.0-or-later
"""Scheduling and pools by hypercall, as the embedded toolstack uses them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hypervisor.support import OPEN, Bench, errno
from tests.hypervisor.test_loop import Spin
from xenograft.abi import domctl, sysctl
from xenograft.abi.errno import Errno, XenError
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.sched.arinc653 import MinorFrame, Schedule
from xenograft.hypervisor.sched.scheduler import GlobalParams, Params
from xenograft.hypervisor.sched.topology import Place, Topology
from xenograft.toolstack.errors import UserError
from xenograft.toolstack.sched.control import SchedControl
from xenograft.toolstack.sched.cpulist import parse_cpu_list, parse_topology

MS = 1_000_000


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()


class Machine(Bench):
    """A machine of four CPUs in two nodes, with a toolstack, and a guest (domid 1)."""

    def __init__(self, vcpus: int = 1, **more: object) -> None:
        topology = Topology.of(nodes=2, cores=2)
        super().__init__(*[Spin() for _ in range(vcpus)], topology=topology, **more)
        dom0 = self.xen.create_domain(
            GuestKind.PVH, domid=0, max_vcpus=0, is_privileged=True, host=True
        )
        self.control = SchedControl(self.xen, dom0)


class TestPools:
    def test_there_is_one_with_all_cpus(self) -> None:
        (pool,) = Machine().control.pools()
        assert (pool.name, pool.sched, pool.domains, pool.cpus) == (
            "Pool-0", "credit2", 2, (0, 1, 2, 3)
        )  # fmt: skip

    def test_a_pool_is_made_used_and_destroyed(self) -> None:
        machine = Machine()
        control = machine.control
        with pytest.raises(UserError, match="cpu 3 illegal or not free"):
            control.create_pool("rt", "rtds", [3])
        control.remove_cpu("Pool-0", 3)
        assert control.free_cpus() == (3,)
        control.create_pool("rt", "rtds", [3])
        assert control.pool("rt").sched == "rtds"
        control.move_domain(1, "rt")
        machine.run(deadline=MS)
        assert control.vcpu_info(1, 0).cpu == 3
        with pytest.raises(UserError, match="Can't destroy cpupool 'rt'"):
            control.destroy_pool("rt")
        with pytest.raises(UserError, match="last CPU"):
            control.remove_cpu("rt", 3)
        control.rename_pool("rt", "other")
        control.move_domain(1, "Pool-0")
        machine.run(deadline=2 * MS)
        control.destroy_pool("other")
        control.add_cpu("Pool-0", 3)
        assert control.pool("Pool-0").cpus == (0, 1, 2, 3)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda c: c.remove_cpu("Pool-0", 0), "the boot CPU stays"),
            (lambda c: c.add_cpu("Pool-0", 99), "CPUs 0 to 3"),
            (lambda c: c.add_cpu("Pool-0", 1), "isn't free"),
            (lambda c: c.pool("nosuch"), "unknown cpupool 'nosuch'"),
            (lambda c: c.create_pool("p", "bogus", [1]), "no scheduler is called 'bogus'"),
            (lambda c: c.create_pool("Pool-0", None, [1]), "exists already"),
            (lambda c: c.destroy_pool("Pool-0"), "Can't destroy"),
            (lambda c: c.move_domain(77, "Pool-0"), "no such domain"),
            (lambda c: c.move_domain(0, "Pool-0"), "not permitted"),
        ],
    )
    def test_what_is_refused_is_said_in_a_line(self, call: object, message: str) -> None:
        assert callable(call)
        with pytest.raises(UserError, match=message) as caught:
            call(Machine().control)
        assert "\n" not in str(caught.value)

    def test_numa_split(self) -> None:
        control = Machine().control
        assert control.topology()[2] == Place(core=0, socket=1, node=1)
        pools = control.numa_split()
        assert [(pool.name, pool.cpus) for pool in pools] == [
            ("Pool-node0", (0, 1)),
            ("Pool-node1", (2, 3)),
        ]
        with pytest.raises(UserError, match="already cpupools in use"):
            control.numa_split()


class TestParameters:
    def test_credit2(self) -> None:
        control = Machine().control
        assert control.get_params(1, "credit2") == Params(weight=256, cap=0)
        control.set_params(1, "credit2", Params(weight=512))
        control.set_params(1, "credit2", Params(cap=50))
        assert control.get_params(1, "credit2") == Params(weight=512, cap=50)
        with pytest.raises(UserError, match="valid values are within range from 1 to 65535"):
            control.set_params(1, "credit2", Params(weight=0))
        with pytest.raises(UserError, match="from 0 to 100"):
            control.set_params(1, "credit2", Params(cap=101))
        with pytest.raises(XenError, match="EINVAL"):
            control.get_params(1, "credit")

    def test_a_cap_is_kept_by_a_guest(self) -> None:
        machine = Machine()
        machine.control.set_params(1, "credit2", Params(cap=25))
        machine.run(deadline=400 * MS)
        assert machine.control.vcpu_info(1, 0).time_ns == pytest.approx(100 * MS, rel=0.02)

    def test_rtds(self) -> None:
        control = Machine(2).control
        control.remove_cpu("Pool-0", 3)
        control.create_pool("rt", "rtds", [3])
        control.move_domain(1, "rt")
        default = Params(period_us=10_000, budget_us=4_000)
        assert control.get_params(1, "rtds") == default
        mine = Params(period_us=20_000, budget_us=5_000, extratime=False)
        control.set_vcpu_params(1, {1: mine})
        assert control.get_vcpu_params(1, [0, 1]) == [
            Params(period_us=10_000, budget_us=4_000, extratime=True),
            mine,
        ]
        control.set_params(1, "rtds", Params(period_us=100, budget_us=10))
        assert control.get_vcpu_params(1, [0])[0].period_us == 100
        for period, budget in ((9, 9), (100, 9), (10, 11), (None, 10)):
            with pytest.raises(UserError, match=r"budget|period"):
                control.set_params(1, "rtds", Params(period_us=period, budget_us=budget))
        with pytest.raises(XenError, match="EINVAL"):
            control.get_vcpu_params(1, [7])

    def test_parameters_of_schedulers(self) -> None:
        control = Machine().control
        pool = control.pool("Pool-0")
        assert control.get_global(pool) == GlobalParams(ratelimit_us=1000)
        control.set_global(pool, GlobalParams(ratelimit_us=500))
        assert control.get_global(pool).ratelimit_us == 500
        for bad in (99, 500_001):
            with pytest.raises(UserError, match="100 to 500000"):
                control.set_global(pool, GlobalParams(ratelimit_us=bad))
        control.remove_cpu("Pool-0", 3)
        credit = control.create_pool("c", "credit", [3])
        assert control.get_global(credit) == GlobalParams(1000, 30, 0)
        control.set_global(credit, GlobalParams(tslice_ms=10, ratelimit_us=500))
        assert control.get_global(credit) == GlobalParams(500, 10, 0)
        with pytest.raises(UserError, match="not over tslice"):
            control.set_global(credit, GlobalParams(tslice_ms=1, ratelimit_us=5000))

    def test_arinc653(self) -> None:
        machine = Machine()
        control = machine.control
        control.remove_cpu("Pool-0", 3)
        pool = control.create_pool("flight", "arinc653", [3])
        assert control.get_arinc653(pool) == Schedule(0, ())
        control.move_domain(1, "flight")
        table = Schedule(10 * MS, (MinorFrame(machine.domain.uuid, 0, 3 * MS),))
        control.set_arinc653(pool, table)
        assert control.get_arinc653(pool) == table
        start = machine.now
        machine.run(deadline=start + 100 * MS)
        assert control.vcpu_info(1, 0).time_ns == 30 * MS
        with pytest.raises(UserError, match="major frame"):
            control.set_arinc653(pool, Schedule(MS, table.frames))
        with pytest.raises(UserError, match="not arinc653"):
            control.set_arinc653(control.pool("Pool-0"), table)


class TestAffinity:
    def test_pins(self) -> None:
        machine = Machine()
        control = machine.control
        assert control.vcpu_info(1, 0).hard == 0b1111
        control.set_affinity(1, 0, hard=0b0100)
        machine.run(deadline=MS)
        info = control.vcpu_info(1, 0)
        assert (info.cpu, info.hard, info.soft) == (2, 0b0100, 0b1111)
        assert (info.online, info.blocked, info.running) == (True, False, True)
        control.set_affinity(1, 0, hard=0b1111, soft=0b0010)
        machine.run(deadline=2 * MS)
        assert control.vcpu_info(1, 0).cpu == 1

    def test_errors(self) -> None:
        control = Machine().control
        with pytest.raises(UserError, match="vcpu hard affinity map is empty"):
            control.set_affinity(1, 0, hard=1 << 99)
        with pytest.raises(UserError, match="Could not set affinity for vcpu `7'"):
            control.set_affinity(1, 7, hard=1)
        with pytest.raises(UserError, match="no such domain"):
            control.set_affinity(9, 0, hard=1)

    def test_a_kernels_own_pin_is_undone_by_force(self) -> None:
        machine = Machine()
        machine.xen.sched.pin_override(machine.domain.vcpus[0].unit, 3, 0)
        with pytest.raises(UserError, match="--force"):
            machine.control.set_affinity(1, 0, hard=1)
        machine.control.set_affinity(1, 0, hard=1, force=True)
        assert machine.control.vcpu_info(1, 0).hard == 1

    @pytest.mark.parametrize(
        ("text", "mask"),
        [("all", 0xF), ("0", 1), ("0-2", 7), ("0-3,^1", 0xD), ("all,^3", 7), ("node:1", 0xC)],
    )
    def test_lists_of_cpus(self, text: str, mask: int) -> None:
        assert parse_cpu_list(text, 0xF, {0: 3, 1: 0xC}) == mask

    @pytest.mark.parametrize("text", ["none", "", "1-", "3-1", "-1", "x", "99999999999", "node:"])
    def test_bad_lists_of_cpus(self, text: str) -> None:
        with pytest.raises(UserError, match="Invalid pcpu range"):
            parse_cpu_list(text, 0xF, {})


class TestMachine:
    def test_the_machine_as_a_whole(self) -> None:
        machine = Machine()
        info = machine.control.physinfo()
        assert (info.nr_cpus, info.max_cpu_id, info.nr_nodes) == (4, 3, 2)
        assert (info.cores_per_socket, info.threads_per_core) == (2, 1)
        assert info.total_pages == machine.xen.memory.frames
        assert info.free_pages == machine.xen.memory.free_frames() < info.total_pages
        assert info.hw_cap[0] & 1  # an FPU

    def test_nodes_have_memory_and_distances(self) -> None:
        machine = Machine()
        nodes = machine.control.numa()
        assert [node.distances for node in nodes] == [(10, 20), (20, 10)]
        assert sum(node.memory for node in nodes) == machine.xen.memory.frames << 12

    def test_a_domains_nodes_follow_its_vcpus_unless_they_are_named(self) -> None:
        control = Machine().control
        assert control.node_affinity(1) == (0, 1)
        control.set_affinity(1, 0, hard=0b1000)
        assert control.node_affinity(1) == (1,)
        control.set_node_affinity(1, [0])
        assert control.node_affinity(1) == (0,)
        control.set_node_affinity(1, None)
        assert control.node_affinity(1) == (1,)
        with pytest.raises(XenError, match="EINVAL"):
            control.set_node_affinity(1, [5])
        with pytest.raises(XenError, match="ESRCH"):
            control.set_node_affinity(9, [0])

    @pytest.mark.parametrize(
        ("text", "cpus", "nodes"),
        [("4", 4, 1), ("nodes=2,cores=3", 6, 2), ("sockets=2, threads=2", 4, 1)],
    )
    def test_topologies(self, text: str, cpus: int, nodes: int) -> None:
        found = parse_topology(text, "--cpus")
        assert (found.cpus, found.nodes) == (cpus, nodes)

    @pytest.mark.parametrize("text", ["", "0", "-1", "x", "1025", "cores=2,cores=2", "dies=2"])
    def test_bad_topologies(self, text: str) -> None:
        with pytest.raises(UserError, match="--cpus") as caught:
            parse_topology(text, "--cpus")
        assert "\n" not in str(caught.value)


class TestHypercalls:
    """The same operations from a guest's own code: pointers, versions and permission."""

    @staticmethod
    def op(cmd: int, **more: int) -> sysctl.xen_sysctl:
        call = sysctl.xen_sysctl(cmd=cmd, interface_version=sysctl.XEN_SYSCTL_INTERFACE_VERSION)
        for name, value in more.items():
            setattr(call.u.cpupool_op, name, value)
        return call

    def test_a_guest_may_not(self) -> None:
        bench = Bench([])
        assert errno(bench.do("sysctl", self.op(sysctl.XEN_SYSCTL_sched_id))) is Errno.EPERM

    def test_a_control_domain_may(self) -> None:
        bench = Bench([], privileged=True)
        assert bench.do("sysctl", self.op(sysctl.XEN_SYSCTL_sched_id)) == 0
        assert bench.got(sysctl.xen_sysctl).u.sched_id.sched_id == domctl.XEN_SCHEDULER_CREDIT2

    def test_the_machine_by_a_control_domains_own_code(self) -> None:
        bench = Bench([], privileged=True)
        assert bench.do("sysctl", self.op(sysctl.XEN_SYSCTL_physinfo)) == 0
        assert bench.got(sysctl.xen_sysctl).u.physinfo.nr_cpus == 1
        assert errno(Bench([]).do("sysctl", self.op(sysctl.XEN_SYSCTL_physinfo))) is Errno.EPERM

    def test_bad_bitmaps(self) -> None:
        bench = Bench([], privileged=True)
        op = self.op(sysctl.XEN_SYSCTL_cpupool_op, op=sysctl.XEN_SYSCTL_CPUPOOL_OP_INFO)
        op.u.cpupool_op.cpumap.bitmap, op.u.cpupool_op.cpumap.nr_bits = 1 << 46, 8
        assert errno(bench.do("sysctl", op)) is Errno.EFAULT
        assert errno(bench.do("sysctl", self.op(sysctl.XEN_SYSCTL_cpupool_op, op=99))) is (
            Errno.ENOSYS
        )

    def test_a_wide_bitmap_is_cleared_to_its_end(self) -> None:
        bench = Bench([], privileged=True)
        bench.domain.space.write(0x9000, b"\xff" * 32)
        op = self.op(sysctl.XEN_SYSCTL_cpupool_op, op=sysctl.XEN_SYSCTL_CPUPOOL_OP_INFO)
        op.u.cpupool_op.cpumap.bitmap, op.u.cpupool_op.cpumap.nr_bits = 0x9000, 200
        assert bench.do("sysctl", op) == 0
        assert bench.domain.space.read(0x9000, 32) == b"\1" + bytes(24) + b"\xff" * 7

    def test_unknown_domains_and_commands(self) -> None:
        bench = Bench([], privileged=True)

        def ask(domid: int, cmd: int, sched: int) -> Errno | int:
            op = domctl.xen_domctl(
                cmd=domctl.XEN_DOMCTL_scheduler_op,
                interface_version=domctl.XEN_DOMCTL_INTERFACE_VERSION,
                domain=domid,
            )
            op.u.scheduler_op.cmd, op.u.scheduler_op.sched_id = cmd, sched
            return errno(bench.do("domctl", op))

        credit2 = domctl.XEN_SCHEDULER_CREDIT2
        assert ask(99, 1, credit2) is Errno.ESRCH
        assert ask(1, 1, domctl.XEN_SCHEDULER_RTDS) is Errno.EINVAL
        assert ask(1, 9, credit2) is Errno.EINVAL
        assert ask(1, domctl.XEN_DOMCTL_SCHEDOP_getvcpuinfo, credit2) is Errno.EINVAL
        assert ask(1, domctl.XEN_DOMCTL_SCHEDOP_getinfo, credit2) == 0
