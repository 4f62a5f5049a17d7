# SPDX-License-Identifier: GPL-2.0-or-later
"""hvm_op: parameters with their checks and effects, upcall vectors, the rest."""

from __future__ import annotations

import pytest

from tests.hypervisor.support import ARG, Bench, errno
from xenograft.abi.errno import Errno
from xenograft.abi.hvm import hvm_op as abi
from xenograft.abi.hvm import params as p
from xenograft.abi.hvm.params import HVM_PARAM_NAMES
from xenograft.abi.sched import SHUTDOWN_crash, SHUTDOWN_reboot
from xenograft.abi.xen import DOMID_SELF, shared_info
from xenograft.engine.fake import FakeCpu
from xenograft.hypervisor.domain import Domain
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.time import DEFAULT_EPOCH_NS

VECTOR = p.HVM_PARAM_CALLBACK_TYPE_VECTOR << 56

GUEST_SETS = {
    p.HVM_PARAM_CALLBACK_IRQ: VECTOR | 0x30,
    p.HVM_PARAM_VM86_TSS: 0x1000,
    p.HVM_PARAM_VM86_TSS_SIZED: 200 << 32 | 0x1000,
    p.HVM_PARAM_ACPI_IOPORTS_LOCATION: 1,
    p.HVM_PARAM_VM_GENERATION_ID_ADDR: 0x5000,
    p.HVM_PARAM_STORE_EVTCHN: 3,
    p.HVM_PARAM_CONSOLE_EVTCHN: 4,
    p.HVM_PARAM_X87_FIP_WIDTH: 8,
}
GUEST_READS_ONLY = {p.HVM_PARAM_STORE_PFN, p.HVM_PARAM_CONSOLE_PFN, p.HVM_PARAM_ALTP2M}
DEPRECATED = {4, 13, 20, 21, 22, 23, 24, 25, 26, 30}


def set_param(
    bench: Bench, index: int, value: int, domid: int = DOMID_SELF, domain: Domain | None = None
) -> Errno | int:
    request = abi.xen_hvm_param(domid=domid, index=index, value=value)
    return errno(bench.do("hvm_op", abi.HVMOP_set_param, request, domain=domain))


def get_param(
    bench: Bench, index: int, domid: int = DOMID_SELF, domain: Domain | None = None
) -> Errno | int:
    request = abi.xen_hvm_param(domid=domid, index=index)
    result = bench.do("hvm_op", abi.HVMOP_get_param, request, domain=domain)
    if result:
        return errno(result)
    value: int = abi.xen_hvm_param.unpack((domain or bench.domain).space.read(ARG, 16)).value
    return value


class TestParams:
    @pytest.mark.parametrize(
        "index", range(p.HVM_NR_PARAMS), ids=lambda i: HVM_PARAM_NAMES.get(i, str(i))
    )
    def test_what_a_guest_may_set_and_read(self, index: int) -> None:
        bench = Bench()
        value = GUEST_SETS.get(index, 0)
        expected: Errno | int = 0
        if index in DEPRECATED:
            expected = Errno.EINVAL
        elif index not in GUEST_SETS:
            expected = Errno.EPERM
        assert set_param(bench, index, value) == expected
        if index in GUEST_SETS or index in GUEST_READS_ONLY:
            assert isinstance(get_param(bench, index), int)
        else:
            assert get_param(bench, index) == expected

    def test_what_is_set_is_read(self) -> None:
        bench = Bench()
        for index, value in GUEST_SETS.items():
            set_param(bench, index, value)
        assert get_param(bench, p.HVM_PARAM_STORE_EVTCHN) == 3
        assert get_param(bench, p.HVM_PARAM_CALLBACK_IRQ) == VECTOR | 0x30
        assert get_param(bench, p.HVM_PARAM_VM86_TSS) == 0x1000
        assert get_param(bench, p.HVM_PARAM_VM86_TSS_SIZED) == 200 << 32 | 0x1000

    def test_numbers_out_of_range(self) -> None:
        bench = Bench()
        assert set_param(bench, p.HVM_NR_PARAMS, 0) is Errno.EINVAL
        assert get_param(bench, p.HVM_NR_PARAMS) is Errno.EINVAL
        assert set_param(bench, 0xFFFFFFFF, 0) is Errno.EINVAL

    def test_of_other_domains(self) -> None:
        bench = Bench()
        other = bench.add_domain()
        index = p.HVM_PARAM_STORE_EVTCHN
        assert set_param(bench, index, 5, domid=other.domid) is Errno.EPERM
        assert get_param(bench, index, domid=other.domid) is Errno.EPERM
        assert set_param(bench, index, 5, domid=77) is Errno.ESRCH
        control = bench.add_domain(privileged=True)
        assert set_param(bench, index, 5, domid=other.domid, domain=control) == 0
        assert other.hvm_params[index] == 5
        pv = bench.xen.create_domain(GuestKind.PV, max_vcpus=1)
        assert set_param(bench, index, 5, domid=pv.domid, domain=control) is Errno.EINVAL

    @pytest.mark.parametrize(
        ("index", "good", "bad"),
        [
            (p.HVM_PARAM_TIMER_MODE, 3, 4),
            (p.HVM_PARAM_TRIPLE_FAULT_REASON, 5, 6),
            (p.HVM_PARAM_VIRIDIAN, 1, 2),
            (p.HVM_PARAM_VIRIDIAN, 0x1FFF, 0x2001),
            (p.HVM_PARAM_ALTP2M, 3, 4),
            (p.HVM_PARAM_NR_IOREQ_SERVER_PAGES, 64, 65),
            (p.HVM_PARAM_NR_IOREQ_SERVER_PAGES, 1, 0),
            (p.HVM_PARAM_X87_FIP_WIDTH, 4, 5),
            (p.HVM_PARAM_MCA_CAP, 1, 2),
            (p.HVM_PARAM_ACPI_S_STATE, 3, 1),
        ],
    )
    def test_values_are_checked(self, index: int, good: int, bad: int) -> None:
        bench = Bench()
        control = bench.add_domain(privileged=True)
        domid = bench.domain.domid
        assert set_param(bench, index, bad, domid=domid, domain=control) is Errno.EINVAL
        assert set_param(bench, index, good, domid=domid, domain=control) == 0
        assert get_param(bench, index, domid=domid, domain=control) == good

    @pytest.mark.parametrize("index", [p.HVM_PARAM_IOREQ_PFN, p.HVM_PARAM_BUFIOREQ_PFN])
    def test_some_are_set_only_once(self, index: int) -> None:
        bench = Bench()
        control = bench.add_domain(privileged=True)
        domid = bench.domain.domid
        assert set_param(bench, index, 7, domid=domid, domain=control) == 0
        assert set_param(bench, index, 7, domid=domid, domain=control) == 0
        assert set_param(bench, index, 8, domid=domid, domain=control) is Errno.EEXIST

    def test_a_tss_out_of_range_crashes_who_asked(self) -> None:
        bench = Bench()
        assert set_param(bench, p.HVM_PARAM_VM86_TSS, 1 << 32) is Errno.EINVAL
        assert bench.domain.shutdown_reason == SHUTDOWN_crash

    def test_a_tss_of_any_size_is_cut(self) -> None:
        bench = Bench()
        assert set_param(bench, p.HVM_PARAM_VM86_TSS_SIZED, 0xFFFFFFFF << 32 | 0x1000) == 0
        size = get_param(bench, p.HVM_PARAM_VM86_TSS_SIZED) >> 32
        assert size == 104 + 32 + 8192 + 1

    def test_sleeping_pauses_and_waking_unpauses(self) -> None:
        bench = Bench()
        control = bench.add_domain(privileged=True)
        state, domid = p.HVM_PARAM_ACPI_S_STATE, bench.domain.domid
        for value, paused in ((3, 1), (3, 1), (0, 0), (0, 0)):
            assert set_param(bench, state, value, domid=domid, domain=control) == 0
            assert bench.domain.pause_count == paused

    def test_bad_pointers(self) -> None:
        bench = Bench()
        for number in (abi.HVMOP_set_param, abi.HVMOP_get_param):
            assert errno(bench.do("hvm_op", number, 1 << 46)) is Errno.EFAULT

    def test_the_default_triple_fault_is_a_reboot(self) -> None:
        bench = Bench()
        assert bench.domain.hvm_params[p.HVM_PARAM_TRIPLE_FAULT_REASON] == SHUTDOWN_reboot


class TestCallback:
    def test_a_vector_is_watched_by_the_engine(self) -> None:
        bench = Bench()
        set_param(bench, p.HVM_PARAM_CALLBACK_IRQ, VECTOR | 0xF3)
        maddr = bench.domain.vcpus[0].vcpu_info_maddr
        assert ("set_line", (maddr, 0xF3)) in bench.cpu().calls

    def test_other_types_mean_nothing_to_a_guest_without_their_controllers(self) -> None:
        bench = Bench()
        set_param(bench, p.HVM_PARAM_CALLBACK_IRQ, VECTOR | 0xF3)
        assert set_param(bench, p.HVM_PARAM_CALLBACK_IRQ, 5) == 0
        assert bench.domain.callback_vector == 0xF3

    def test_the_width_of_the_caller_is_that_of_the_shared_structures(self) -> None:
        bench = Bench()
        request = abi.xen_hvm_param(domid=DOMID_SELF, index=0, value=VECTOR | 0x30)
        bench.do("hvm_op", abi.HVMOP_set_param, request, bits=32)
        assert bench.domain.bits == 32
        data = bench.xen.memory.read(bench.domain.shared_info_maddr, 4096)
        info = shared_info.unpack(data[: shared_info.sizeof(32)], 32)
        assert info.wc_sec == DEFAULT_EPOCH_NS // 10**9
        set_param(bench, 0, VECTOR | 0x30)
        assert bench.domain.bits == 64

    def test_an_upcall_vector_goes_through_the_local_apic(self) -> None:
        bench = Bench()
        apic = bench.domain.vcpus[0].lapic
        assert apic is not None
        apic.write_register(0xF0, 0x1FF)
        request = abi.xen_hvm_evtchn_upcall_vector(vcpu=0, vector=0x51)
        assert bench.do("hvm_op", abi.HVMOP_set_evtchn_upcall_vector, request) == 0
        assert apic.next_vector() == 0x51
        apic.acknowledge(0x51)
        apic.eoi()
        bench.domain.vcpus[0].mark_events_pending()
        assert apic.next_vector() == 0x51

    def test_upcall_vectors_are_checked(self) -> None:
        bench = Bench()
        number = abi.HVMOP_set_evtchn_upcall_vector
        low = abi.xen_hvm_evtchn_upcall_vector(vcpu=0, vector=0xF)
        absent = abi.xen_hvm_evtchn_upcall_vector(vcpu=9, vector=0x51)
        assert errno(bench.do("hvm_op", number, low)) is Errno.EINVAL
        assert errno(bench.do("hvm_op", number, absent)) is Errno.ENOENT


def test_flush_tlbs_of_all_vcpus() -> None:
    bench = Bench((), ())
    for index in (0, 1):
        bench.cpu(index).calls.clear()
    assert errno(bench.do("hvm_op", abi.HVMOP_flush_tlbs, ARG)) is Errno.EINVAL
    assert bench.do("hvm_op", abi.HVMOP_flush_tlbs, 0) == 0
    assert [("flush_tlb", ()) in bench.cpu(index).calls for index in (0, 1)] == [True, True]


def test_get_mem_type() -> None:
    bench = Bench()
    bench.domain.p2m.set_read_only(9)
    for pfn, expected in (
        (5, abi.HVMMEM_ram_rw),
        (9, abi.HVMMEM_ram_ro),
        (999, abi.HVMMEM_mmio_dm),
    ):
        request = abi.xen_hvm_get_mem_type(domid=DOMID_SELF, pfn=pfn)
        assert bench.do("hvm_op", abi.HVMOP_get_mem_type, request) == 0
        assert bench.got(abi.xen_hvm_get_mem_type).mem_type == expected
    other = bench.add_domain()
    request = abi.xen_hvm_get_mem_type(domid=other.domid, pfn=5)
    assert errno(bench.do("hvm_op", abi.HVMOP_get_mem_type, request)) is Errno.EPERM


def test_pagetable_dying_has_no_shadow_to_tell() -> None:
    bench = Bench()
    other = bench.add_domain()
    for domid, expected in (
        (DOMID_SELF, Errno.EINVAL),
        (other.domid, Errno.EOPNOTSUPP),
        (99, Errno.ESRCH),
    ):
        request = abi.xen_hvm_pagetable_dying(domid=domid)
        assert errno(bench.do("hvm_op", abi.HVMOP_pagetable_dying, request)) is expected


def test_get_time() -> None:
    bench = Bench()
    bench.xen.clock.advance_to(123_456)
    assert bench.do("hvm_op", abi.HVMOP_get_time, ARG) == 0
    assert bench.got(abi.xen_hvm_get_time).now == 123_456


def test_xentrace_reaches_who_listens() -> None:
    bench = Bench()
    heard: list[str] = []

    class Listener:
        def log(self, time: int, domid: int, line: str) -> None:
            heard.append(line)

    record = abi.xen_hvm_xentrace(event=0x123, extra_bytes=2, extra=b"\xab\xcd")
    assert bench.do("hvm_op", abi.HVMOP_xentrace, record) == 0
    with bench.xen.instruments.listening(Listener()):
        assert bench.do("hvm_op", abi.HVMOP_xentrace, record) == 0
    assert heard == ["xentrace 0x123 abcd"]
    for bad in (
        abi.xen_hvm_xentrace(event=0x1000),
        abi.xen_hvm_xentrace(event=1, extra_bytes=29),
    ):
        assert errno(bench.do("hvm_op", abi.HVMOP_xentrace, bad)) is Errno.EINVAL


def test_the_rest() -> None:
    bench = Bench()
    assert bench.do("hvm_op", abi.HVMOP_guest_request_vm_event, 0) == 0
    assert errno(bench.do("hvm_op", abi.HVMOP_guest_request_vm_event, 1)) is Errno.EINVAL
    assert errno(bench.do("hvm_op", abi.HVMOP_altp2m, ARG)) is Errno.EOPNOTSUPP
    assert errno(bench.do("hvm_op", abi.HVMOP_set_isa_irq_level, ARG)) is Errno.ENOSYS
    assert errno(bench.do("hvm_op", 999, ARG)) is Errno.ENOSYS


def test_the_guest_takes_its_upcalls() -> None:
    bench = Bench()
    set_param(bench, p.HVM_PARAM_CALLBACK_IRQ, VECTOR | 0xF3)
    cpu = bench.cpu()
    assert isinstance(cpu, FakeCpu)
    cpu.registers["rflags"] |= 1 << 9
    bench.domain.vcpus[0].mark_events_pending()
    bench.run()
    assert cpu.entered == [0xF3]
