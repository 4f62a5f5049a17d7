# SPDX-License-Identifier: GPL-2.0-or-later
"""Hypercalls of PV guests: what they set, and what they refuse."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hypervisor.pv.support import NUMBERS, PvGuest, pv_guest
from xenograft.abi import callback, physdev, xen
from xenograft.abi.arch_x86.xen import trap_info, vcpu_guest_context, vcpu_guest_context_32
from xenograft.abi.errno import Errno
from xenograft.abi.nmi import xennmi_callback
from xenograft.abi.vcpu import VCPUOP_initialise, VCPUOP_up
from xenograft.abi.xen import DOMID_IO, DOMID_SELF, mmu_update, mmuext_op
from xenograft.engine.pv import PV_AGAIN, PV_PASS
from xenograft.hypervisor.call import Continuation, NoReturn
from xenograft.hypervisor.kinds import GuestKind

FAR = 1 << 47
"""No canonical address."""


@pytest.fixture
def guest() -> Iterator[PvGuest]:
    with pv_guest() as made:
        yield made


@pytest.fixture
def narrow() -> Iterator[PvGuest]:
    with pv_guest(32) as made:
        yield made


# -- traps and callbacks -----------------------------------------------------------------------
def test_set_trap_table(guest: PvGuest) -> None:
    traps = [
        trap_info(vector=14, flags=4, cs=0x10, address=0x1000),
        trap_info(vector=3, flags=3, cs=0xE033, address=0x2000),
        trap_info(),
        trap_info(vector=5, address=0x9000),
    ]
    assert guest.call("set_trap_table", guest.put(*traps)) == 0
    assert guest.cpu.pv_traps == {14: (4, 0x13, 0x1000), 3: (3, 0xE033, 0x2000)}
    bad = guest.put(trap_info(vector=1, address=FAR), trap_info())
    assert guest.call("set_trap_table", bad) == -Errno.EINVAL
    assert guest.call("set_trap_table", 5) == -Errno.EFAULT
    assert guest.call("set_trap_table", 0) == 0
    assert guest.cpu.pv_get_trap(14) == (0, 0, 0)


def test_selectors_have_the_kernels_privilege(narrow: PvGuest) -> None:
    narrow.call(
        "set_trap_table",
        narrow.put(trap_info(vector=1, cs=0x60, address=1), trap_info(vector=2, cs=3, address=1)),
    )
    assert [narrow.cpu.pv_get_trap(vector)[1] for vector in (1, 2)] == [0x61, 3]


@pytest.mark.parametrize(
    ("type_", "name", "flag"),
    [
        (callback.CALLBACKTYPE_event, "event", 0),
        (callback.CALLBACKTYPE_failsafe, "failsafe", 8),
        (callback.CALLBACKTYPE_syscall, "syscall", 16),
        (callback.CALLBACKTYPE_syscall32, "syscall32", -1),
        (callback.CALLBACKTYPE_sysenter, "sysenter", -1),
    ],
)
def test_callbacks(guest: PvGuest, type_: int, name: str, flag: int) -> None:
    def register(flags: int, address: int) -> int:
        entry = callback.callback_register(type=type_, flags=flags, address=address)
        return guest.call("callback_op", callback.CALLBACKOP_register, guest.put(entry))

    assert register(1, 0x1234) == 0
    assert guest.cpu.pv_get(name) == 0x1234
    if flag > 0:
        assert guest.cpu.pv_get("flags") == flag
        assert register(0, 0x1234) == 0
        assert guest.cpu.pv_get("flags") == 0
    elif flag < 0:
        assert guest.cpu.pv_get(f"{name}_masks") == 1
    assert register(0, FAR) == -Errno.EINVAL
    entry = guest.put(callback.callback_unregister(type=type_))
    assert guest.call("callback_op", callback.CALLBACKOP_unregister, entry) == -Errno.EINVAL


def test_nmi_callbacks(guest: PvGuest) -> None:
    entry = callback.callback_register(type=callback.CALLBACKTYPE_nmi, address=0x1234)
    assert guest.call("callback_op", 0, guest.put(entry)) == 0
    assert guest.cpu.pv_get_trap(2) == (4, 0xE033, 0x1234)
    gone = guest.put(callback.callback_unregister(type=callback.CALLBACKTYPE_nmi))
    assert guest.call("callback_op", 1, gone) == 0
    assert guest.cpu.pv_get_trap(2)[2] == 0
    assert guest.call("nmi_op", 0, guest.put(xennmi_callback(handler_address=0x77))) == 0
    assert guest.cpu.pv_get_trap(2)[2] == 0x77
    assert guest.call("nmi_op", 1, 0) == 0
    assert guest.call("nmi_op", 2, 0) == guest.call("callback_op", 9, 0) == -Errno.ENOSYS
    unknown = guest.put(callback.callback_register(type=99))
    assert guest.call("callback_op", 0, unknown) == -Errno.ENOSYS


def test_set_callbacks_leaves_out_what_is_none(guest: PvGuest) -> None:
    assert guest.call("set_callbacks", 0x1000, FAR, 0x3000) == 0
    assert [guest.cpu.pv_get(n) for n in ("event", "failsafe", "syscall")] == [0x1000, 0, 0x3000]


def test_set_callbacks_of_32_bit_guests(narrow: PvGuest) -> None:
    assert narrow.call("set_callbacks", 0x60, 0x1000, 0x68, 0x2000) == 0
    names = ("event_cs", "event", "failsafe_cs", "failsafe")
    assert [narrow.cpu.pv_get(name) for name in names] == [0x61, 0x1000, 0x69, 0x2000]


# -- descriptors, debug registers --------------------------------------------------------------
def test_set_gdt(guest: PvGuest) -> None:
    frames = guest.put(*(mfn.to_bytes(8, "little") for mfn in guest.frames[:2]))
    assert guest.call("set_gdt", frames, 513) == 0
    assert guest.cpu.pv_gdt() == guest.frames[:2]
    assert guest.call("set_gdt", frames, 7169) == -Errno.EINVAL
    assert guest.call("set_gdt", 5, 1) == -Errno.EFAULT
    assert guest.call("set_gdt", 0, 0) == 0
    assert guest.cpu.pv_gdt() == []


def test_debug_registers(guest: PvGuest) -> None:
    assert guest.call("set_debugreg", 0, 0x1000) == 0
    assert guest.call("get_debugreg", 0) == 0x1000
    assert guest.call("set_debugreg", 1, 0xFFFF800000000000) == -Errno.EPERM
    assert guest.call("set_debugreg", 6, 1 << 32) == -Errno.EINVAL
    assert guest.call("set_debugreg", 6, 0) == 0
    assert guest.call("get_debugreg", 4) == 0xFFFF0FF0
    assert guest.call("set_debugreg", 7, 1 << 13) == -Errno.EPERM
    assert guest.call("set_debugreg", 7, 2 << 16 | 1) == -Errno.EPERM  # ports, without CR4.DE
    assert guest.call("set_debugreg", 5, 1) == 0
    assert guest.call("get_debugreg", 7) == 0x401
    assert guest.call("set_debugreg", 8, 0) == guest.call("get_debugreg", -1) == -Errno.ENODEV
    guest.cpu.pv_set("cr4", 8)
    assert guest.call("get_debugreg", 4) == guest.call("set_debugreg", 5, 0) == -Errno.ENODEV
    assert guest.call("set_debugreg", 7, 2 << 16 | 3) == 0
    assert guest.call("get_debugreg", 7) == 2 << 16 | 0x400


# -- page tables -------------------------------------------------------------------------------
def updates(guest: PvGuest, *pairs: tuple[int, int]) -> int:
    return guest.put(*(mmu_update(ptr=ptr, val=val) for ptr, val in pairs))


def test_own_tables_are_the_engines(guest: PvGuest) -> None:
    number = NUMBERS["mmu_update"]
    assert guest.call("mmu_update", 0x1000, 3, 0, DOMID_SELF) == 0
    assert guest.cpu.pv_calls == [(number, 0x1000, 3, 0, DOMID_SELF, 0, 0)]
    guest.cpu.pv_answers[number] = (PV_AGAIN, 0, 0x1010, 0x80000002)
    with pytest.raises(Continuation) as rest:
        guest.call("mmu_update", 0x1000, 3, 0, DOMID_SELF)
    assert rest.value.arguments[:2] == (0x1010, 0x80000002)


def test_other_domains_pages_need_the_right(guest: PvGuest) -> None:
    guest.cpu.pv_answers[NUMBERS["mmu_update"]] = (PV_PASS, 0, 0, 0)
    other = guest.xen.create_domain(GuestKind.PV, max_pages=4)
    ((mfn, _),) = other.p2m.populate(0)
    ureqs = updates(guest, (guest.frames[0] << 12, mfn << 12 | 3))
    for foreign, error in (
        (other.domid, Errno.EPERM),
        (guest.domain.domid, Errno.ESRCH),
        (77, Errno.ESRCH),
        (78 << 16 | DOMID_SELF, Errno.ESRCH),
    ):
        assert guest.call("mmu_update", ureqs, 1, 0, foreign) == -error
    assert guest.pages.calls == []


def test_a_control_domain_maps_what_it_wants() -> None:
    with pv_guest(privileged=True) as guest:
        guest.cpu.pv_answers[NUMBERS["mmu_update"]] = (PV_PASS, 0, 0, 0)
        other = guest.xen.create_domain(GuestKind.PVH, max_pages=4)
        ((mfn, _),) = other.p2m.populate(9)
        done = guest.put(b"")
        slot = guest.frames[0] << 12
        assert guest.call("mmu_update", updates(guest, (slot, 9 << 12 | 3)), 1, done, 2) == 0
        assert guest.pages.calls == [("update", (slot, mfn << 12 | 3, 2))]  # by gfn
        assert guest.memory.read(done, 4) == b"\1\0\0\0"
        assert guest.domain.space.lookup(mfn) is not None
        assert guest.call("mmu_update", updates(guest, (slot, 77 << 12 | 3)), 1, 0, 2) < 0
        machphys = updates(guest, (slot | 1, 5))
        assert guest.call("mmu_update", machphys, 1, 0, 2) == -Errno.EINVAL
        guest.pages.results["update"] = -Errno.EBUSY
        pair = (slot, 9 << 12 | 3)
        assert guest.call("mmu_update", updates(guest, pair), 1, done, 2) == -Errno.EBUSY
        assert guest.memory.read(done, 4) == bytes(4)


def test_pins_of_other_domains() -> None:
    with pv_guest(privileged=True) as guest:
        guest.cpu.pv_answers[NUMBERS["mmuext_op"]] = (PV_PASS, 0, 0, 0)
        other = guest.xen.create_domain(GuestKind.PV, max_pages=4)
        pages = other.arch.pages  # type: ignore[union-attr]

        def ext(cmd: int, domid: int = other.domid) -> int:
            op = mmuext_op(cmd=cmd)
            op.arg1.mfn = 0x123
            return guest.call("mmuext_op", guest.put(op), 1, 0, domid)

        assert ext(xen.MMUEXT_PIN_L4_TABLE) == ext(xen.MMUEXT_UNPIN_TABLE) == 0
        assert pages.calls == [("pin", (0x123, 4)), ("unpin", (0x123,))]
        assert ext(xen.MMUEXT_NEW_BASEPTR) == -Errno.EPERM
        assert ext(xen.MMUEXT_PIN_L1_TABLE, DOMID_IO) == -Errno.EPERM
        translated = guest.xen.create_domain(GuestKind.PVH)
        assert ext(xen.MMUEXT_PIN_L1_TABLE, translated.domid) == -Errno.EOPNOTSUPP


def test_iret_in_a_list_does_not_return(guest: PvGuest) -> None:
    with pytest.raises(NoReturn):
        guest.call("iret")
    assert guest.cpu.pv_calls == [(23,)]


def test_assists_reach_the_page_tables(guest: PvGuest) -> None:
    assert guest.call("vm_assist", 0, xen.VMASST_TYPE_writable_pagetables) == 0
    assert guest.pages.assist == 1 << 2
    assert guest.call("vm_assist", 1, xen.VMASST_TYPE_writable_pagetables) == 0
    assert guest.pages.assist == 0


# -- physdev -----------------------------------------------------------------------------------
def test_physdev(guest: PvGuest) -> None:
    iopl = physdev.physdev_set_iopl(iopl=1)
    assert guest.call("physdev_op", physdev.PHYSDEVOP_set_iopl, guest.put(iopl)) == 0
    assert guest.cpu.pv_get("iopl") == 0x1000
    iopl.iopl = 4
    number = physdev.PHYSDEVOP_set_iopl
    assert guest.call("physdev_op", number, guest.put(iopl)) == -Errno.EINVAL
    ports = guest.put(physdev.physdev_set_iobitmap(nr_ports=70000))
    assert guest.call("physdev_op", physdev.PHYSDEVOP_set_iobitmap, ports) == -Errno.EINVAL
    assert guest.call("physdev_op", physdev.PHYSDEVOP_apic_read, 0) == -Errno.EPERM
    compat = number.to_bytes(4, "little").ljust(physdev.physdev_op.offsetof("u"), b"\0")
    compat += (2).to_bytes(4, "little")
    assert guest.call("physdev_op_compat", guest.put(compat)) == 0
    assert guest.cpu.pv_get("iopl") == 0x2000


# -- further vCPUs -----------------------------------------------------------------------------
def test_initialise_a_vcpu() -> None:
    with pv_guest(vcpus=2) as guest:
        context = vcpu_guest_context(flags=4, kernel_sp=0x9000, kernel_ss=0x18, gdt_ents=8)
        context.user_regs.rip, context.user_regs.rsp = 0x5000, 0x8000
        context.user_regs.rflags = 0x3000
        context.user_regs.rdi = 7
        context.ctrlreg[3] = guest.frames[3] << 12
        context.gdt_frames[0] = guest.frames[4]
        context.event_callback_eip, context.fs_base = 0x1111, 0x2222
        context.gs_base_kernel, context.gs_base_user = 0x3333, 0x4444
        context.trap_ctxt[14].address = 0x7777
        arg = guest.put(context)
        assert guest.call("vcpu_op", VCPUOP_up, 1, 0) == -Errno.EINVAL
        assert guest.call("vcpu_op", VCPUOP_initialise, 1, arg) == 0
        assert guest.call("vcpu_op", VCPUOP_initialise, 1, arg) == -Errno.EEXIST
        cpu = guest.domain.vcpus[1].cpu
        assert cpu is not None
        names = ("rip", "rsp", "rdi", "rflags", "fs.base", "gs.base", "kernel_gs_base")
        found = [cpu.get(name) for name in names]
        assert found == [0x5000, 0x8000, 7, 0x202, 0x2222, 0x3333, 0x4444]
        fake = guest.engine.cpus[1]
        assert fake.pv_get("kernel_table") == guest.frames[3]
        assert (fake.pv_gdt(), fake.pv_get("event")) == ([guest.frames[4]], 0x1111)
        assert (fake.pv_get("iopl"), fake.pv_get("kernel_ss")) == (0x3000, 0x1B)
        assert fake.pv_get_trap(14)[2] == 0x7777
        assert guest.call("vcpu_op", VCPUOP_up, 1, 0) == 0


def test_initialise_a_32_bit_vcpu() -> None:
    with pv_guest(32, vcpus=2) as guest:
        context = vcpu_guest_context_32(event_callback_cs=0x60, event_callback_eip=0x1111)
        context.user_regs.eip, context.user_regs.esp = 0x5000, 0x8000
        mfn = guest.frames[3]
        context.ctrlreg[3] = (mfn << 12 | mfn >> 20) & 0xFFFFFFFF
        assert guest.call("vcpu_op", VCPUOP_initialise, 1, guest.put(context)) == 0
        fake = guest.engine.cpus[1]
        assert fake.pv_get("kernel_table") == mfn
        assert (fake.pv_get("event_cs"), fake.get("rip")) == (0x61, 0x5000)


@pytest.mark.parametrize(
    "spoil",
    [
        {"event_callback_eip": FAR},
        {"fs_base": FAR},
        {"ldt_ents": 8193},
        {"ldt_ents": 1, "ldt_base": 5},
        {"gdt_ents": 7169},
    ],
)
def test_contexts_that_are_refused(spoil: dict[str, int]) -> None:
    with pv_guest(vcpus=2) as guest:
        arg = guest.put(vcpu_guest_context(**spoil))
        assert guest.call("vcpu_op", VCPUOP_initialise, 1, arg) == -Errno.EINVAL
        assert not guest.domain.vcpus[1].initialised
