# SPDX-License-Identifier: GPL-2.0-or-later
"""Domains from creation to destruction, and who is meant by a number."""

from __future__ import annotations

import pytest

from tests.hypervisor.support import ARG, PAGES, Bench, errno
from xenograft.abi.errno import Errno, XenError
from xenograft.abi.sched import SHUTDOWN_crash, SHUTDOWN_poweroff
from xenograft.abi.xen import DOMID_SELF, VIRQ_DOM_EXC, shared_info
from xenograft.engine.fake import halt
from xenograft.hypervisor.kinds import Dying, GuestKind
from xenograft.hypervisor.privilege import Xsm, allowed, check


class TestCreation:
    @pytest.mark.parametrize("vcpus", [0, 129, -1])
    def test_numbers_of_vcpus(self, vcpus: int) -> None:
        bench = Bench()
        with pytest.raises(XenError) as caught:
            bench.xen.create_domain(GuestKind.PVH, max_vcpus=vcpus)
        assert caught.value.errno is Errno.EINVAL

    @pytest.mark.parametrize("vcpus", [1, 32, 128])
    def test_as_many_vcpus_as_xen_has(self, vcpus: int) -> None:
        domain = Bench().xen.create_domain(GuestKind.PVH, max_vcpus=vcpus)
        assert len(domain.vcpus) == vcpus
        mapped = [vcpu.vcpu_info_maddr is not None for vcpu in domain.vcpus]
        assert mapped == [index < 32 for index in range(vcpus)]

    def test_domids_go_up_and_are_not_used_again_at_once(self) -> None:
        bench = Bench()
        first = bench.xen.create_domain(GuestKind.PVH)
        bench.xen.destroy_domain(first)
        second = bench.xen.create_domain(GuestKind.PVH)
        assert second.domid == first.domid + 1

    def test_a_domid_in_use_or_reserved(self) -> None:
        bench = Bench()
        for domid, expected in ((1, Errno.EEXIST), (0x7FF0, Errno.EINVAL), (-1, Errno.EINVAL)):
            with pytest.raises(XenError) as caught:
                bench.xen.create_domain(GuestKind.PVH, domid=domid)
            assert caught.value.errno is expected

    def test_without_memory_nothing_is_left(self) -> None:
        bench = Bench()
        free = bench.xen.memory.free_frames()
        hog = bench.xen.create_domain(GuestKind.PVH, max_pages=1 << 20)
        hog.p2m.populate(0, bench.xen.memory.free_frames())
        count = len(bench.xen.domains)
        with pytest.raises(XenError) as caught:
            bench.xen.create_domain(GuestKind.PVH)
        assert caught.value.errno is Errno.ENOMEM
        assert len(bench.xen.domains) == count
        bench.xen.destroy_domain(hog)
        assert bench.xen.memory.free_frames() == free

    def test_shared_info_has_the_time(self) -> None:
        bench = Bench()
        data = bench.xen.memory.read(bench.domain.shared_info_maddr, 4096)
        info = shared_info.unpack(data[: shared_info.sizeof()])
        assert info.wc_version % 2 == 0
        assert info.wc_sec | info.wc_sec_hi << 32 == bench.xen.clock.epoch_ns // 10**9
        time = info.vcpu_info[0].time
        assert time.version % 2 == 0
        assert (time.tsc_to_system_mul, time.tsc_shift) == (1 << 31, 1)

    def test_a_new_domain_is_paused(self) -> None:
        domain = Bench().add_domain()
        assert domain.pause_count == 1


class TestShutdown:
    def test_it_stays_as_it_was(self) -> None:
        bench = Bench()
        bench.domain.shutdown(SHUTDOWN_poweroff)
        bench.domain.shutdown(SHUTDOWN_crash)
        assert bench.domain.shutdown_reason == SHUTDOWN_poweroff
        assert bench.domain.vcpus[0].pause_count == 1

    def test_the_control_domain_is_told(self) -> None:
        bench = Bench()
        control = bench.xen.create_domain(
            GuestKind.PVH, domid=0, max_vcpus=1, is_privileged=True, host=True
        )
        told: list[int] = []
        port = control.events.bind_virq(VIRQ_DOM_EXC, 0)
        control.events.attach(port, told.append)
        bench.domain.shutdown(SHUTDOWN_poweroff)
        assert told == []
        bench.xen.run_host_events()
        assert told == [port]

    def test_listeners_hear_once(self) -> None:
        bench = Bench()
        heard: list[int | None] = []
        bench.domain.on_shutdown.append(lambda domain: heard.append(domain.shutdown_reason))
        bench.domain.shutdown(SHUTDOWN_poweroff)
        bench.domain.shutdown(SHUTDOWN_poweroff)
        assert heard == [SHUTDOWN_poweroff]

    def test_a_crash_overrides_what_was_said_before(self) -> None:
        bench = Bench()
        bench.domain.shutdown_code = SHUTDOWN_poweroff
        bench.domain.crash("because")
        assert bench.domain.shutdown_reason == SHUTDOWN_crash
        assert bench.domain.crash_report == "because"
        assert "domain_crash: because" in bench.xen.log.text()


class TestDestruction:
    def test_everything_is_given_back(self) -> None:
        bench = Bench([halt()], [halt()])
        free = bench.xen.memory.free_frames()
        other = bench.add_domain(vcpus=2)
        bench.start(other.vcpus[0])
        other.unpause()
        other.watchdogs.set(0, 5)
        other.vcpus[0].set_singleshot_timer(10**12)
        other.vcpus[0].set_periodic_timer(10**9)
        cpu = other.vcpus[0].cpu
        bench.xen.destroy_domain(other)
        assert other.dying_state is Dying.DEAD
        assert other.domid not in bench.xen.domains
        assert bench.xen.memory.free_frames() == free
        assert len(bench.xen.timers) == 0
        assert cpu is not None
        assert cpu.closed  # type: ignore[attr-defined]
        bench.xen.destroy_domain(other)

    def test_it_stays_dying_while_others_hold_its_frames(self) -> None:
        bench = Bench()
        other = bench.add_domain()
        mfn = other.space.lookup(5)[0]  # type: ignore[index]
        assert bench.xen.frames.get_page(mfn, other.domid)
        bench.xen.destroy_domain(other)
        assert other.dying_state is Dying.DYING
        assert bench.xen.domains[other.domid] is other
        with pytest.raises(XenError) as caught:
            bench.xen.resolve_remote_domid(bench.call(), other.domid)
        assert caught.value.errno is Errno.EINVAL
        bench.xen.frames.put_page(mfn)
        assert other.dying_state is Dying.DEAD
        assert other.domid not in bench.xen.domains

    def test_a_running_vcpu_is_forgotten(self) -> None:
        bench = Bench([halt()])
        bench.run(until=lambda: bench.domain.vcpus[0].blocked, deadline=1000)
        bench.xen.running = bench.domain.vcpus[0]
        bench.xen.destroy_domain(bench.domain)
        assert bench.xen.running is None

    def test_a_registered_vcpu_info_is_let_go(self) -> None:
        bench = Bench()
        free = bench.xen.memory.free_frames()
        other = bench.add_domain()
        other.vcpus[0].map_vcpu_info(5, 0, None)
        bench.xen.destroy_domain(other)
        assert bench.xen.memory.free_frames() == free


class TestWhoIsMeant:
    def test_the_caller(self) -> None:
        bench = Bench()
        call = bench.call()
        assert bench.xen.resolve_domid(call, DOMID_SELF) is bench.domain
        assert bench.xen.resolve_domid(call, bench.domain.domid) is bench.domain
        with pytest.raises(XenError) as caught:
            bench.xen.resolve_remote_domid(call, bench.domain.domid)
        assert caught.value.errno is Errno.EPERM

    def test_others(self) -> None:
        bench = Bench()
        other = bench.add_domain()
        call = bench.call()
        assert bench.xen.resolve_domid(call, other.domid) is other
        assert bench.xen.resolve_remote_domid(call, other.domid) is other
        for resolve in (bench.xen.resolve_domid, bench.xen.resolve_remote_domid):
            with pytest.raises(XenError) as caught:
                resolve(call, 99)
            assert caught.value.errno is Errno.ESRCH


class TestPrivilege:
    def test_the_table(self) -> None:
        bench = Bench()
        guest, other, model = bench.domain, bench.add_domain(), bench.add_domain()
        control, store = bench.add_domain(privileged=True), bench.add_domain()
        model.target = other
        store.is_xenstore = True
        rows = {
            # action: guest on itself, guest on other, model on its target, store, control
            Xsm.HOOK: (True, True, True, True, True),
            Xsm.TARGET: (True, False, True, True, True),
            Xsm.XS_PRIV: (False, False, True, True, True),
            Xsm.DM_PRIV: (False, False, True, False, True),
            Xsm.PRIV: (False, False, False, False, True),
        }
        for action, expected in rows.items():
            got = (
                allowed(action, guest, guest),
                allowed(action, guest, other),
                allowed(action, model, other),
                allowed(action, store, other),
                allowed(action, control, other),
            )
            assert got == expected, action
        check(Xsm.PRIV, control)
        with pytest.raises(XenError) as caught:
            check(Xsm.PRIV, guest)
        assert caught.value.errno is Errno.EPERM


def test_writable_frames_are_counted() -> None:
    bench = Bench()
    mfn = bench.domain.get_writable_frame(3)
    assert bench.xen.memory.refs(mfn) == 2
    bench.domain.put_frame(mfn)
    assert bench.xen.memory.refs(mfn) == 1
    for gfn in (PAGES, 1 << 40):
        with pytest.raises(XenError) as caught:
            bench.domain.get_writable_frame(gfn)
        assert caught.value.errno is Errno.EINVAL


def test_kinds() -> None:
    assert [kind.is_hvm_type for kind in GuestKind] == [False, True, True]
    assert errno(Bench().do("hvm_op", 5, ARG)) is Errno.EINVAL
