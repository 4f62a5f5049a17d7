# SPDX-License-Identifier: GPL-2.0-or-later
"""Policies: what guests see by default, at most, and after edits."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenograft.arch.x86.cpuid import engine
from xenograft.arch.x86.cpuid.features import BY_NAME
from xenograft.arch.x86.cpuid.leaves import HypervisorInfo
from xenograft.arch.x86.cpuid.parse import parse
from xenograft.arch.x86.cpuid.policy import (
    CR4_OSXSAVE,
    CR4_PKE,
    EAX,
    EBX,
    ECX,
    EDX,
    CpuPolicy,
    Edit,
    PolicyRecord,
    VcpuView,
    default_features,
    maximum_features,
)

EMPTY = (0, 0, 0, 0)


@pytest.fixture
def policy() -> CpuPolicy:
    return CpuPolicy.make()


def test_the_default_is_a_part_of_the_maximum() -> None:
    for hvm in (True, False):
        assert default_features(hvm) < maximum_features(hvm)
    assert default_features(hvm=False) < default_features(hvm=True)


def test_what_is_hidden_by_default_can_be_had() -> None:
    hidden = frozenset(engine.HIDDEN_BY_DEFAULT)
    assert hidden <= engine.ENGINE_FEATURES
    assert not hidden & CpuPolicy.make().features
    options = "host," + ",".join(f"{name}=1" for name in sorted(hidden))
    assert hidden <= CpuPolicy.make(edits=parse(options)).features


def test_what_a_kernel_needs_is_there(policy: CpuPolicy) -> None:
    needed = (
        "fpu tsc msr pae cx8 pge cmov pat fxsr sse sse2 cx16 lm nx syscall apic x2apic hypervisor"
    )
    assert set(needed.split()) <= policy.features


def test_what_the_engine_lacks_is_absent() -> None:
    lacking = "avx avx2 fma pcid invpcid monitor vmx svm umip mpx vme cr8-legacy"
    assert not set(lacking.split()) & CpuPolicy.make(maximum=True).features


def test_the_cpu_is_one_without_speculation(policy: CpuPolicy) -> None:
    assert policy.vendor == "GenuineIntel"
    assert policy.signature == 0x30661
    assert policy.arch_capabilities == 0


def test_highest_leaves_and_what_lies_beyond(policy: CpuPolicy) -> None:
    assert policy.cpuid(0)[EAX] == 0x16
    assert policy.cpuid(0x80000000)[EAX] == 0x80000008
    for leaf in (
        0x17,
        0x1234,
        0x80000009,
        0x4FFFFFFF,
        0x40000006,
        0x400000FF,
        0xFFFFFFFF,
        0xC0000000,
    ):
        assert policy.cpuid(leaf) == EMPTY, hex(leaf)
    assert policy.cpuid(7, 1) == EMPTY
    assert policy.cpuid(4, 3) == EMPTY
    assert policy.cpuid(4, 9) == EMPTY


def test_each_vcpu_has_its_apic_id() -> None:
    policy = CpuPolicy.make(vcpus=40)
    for vcpu_id in (0, 1, 39):
        view = VcpuView(vcpu_id=vcpu_id)
        assert policy.cpuid(1, 0, view)[EBX] >> 24 == 2 * vcpu_id
        assert policy.cpuid(0xB, 1, view) == (0, 0, 1, 2 * vcpu_id)
        assert policy.cpuid(0x40000004, 0, view)[EBX] == vcpu_id
    # Ids beyond 8 bits are in leaf 0xb alone.
    assert policy.cpuid(1, 0, VcpuView(vcpu_id=130))[EBX] >> 24 == 260 & 0xFF
    assert policy.cpuid(0xB, 0, VcpuView(vcpu_id=130))[EDX] == 260


def test_all_vcpus_are_cores_of_one_package() -> None:
    policy = CpuPolicy.make(vcpus=4)
    assert policy.cpuid(1)[EBX] >> 16 & 0xFF == 8
    eax, ebx, ecx, _ = policy.cpuid(4, 0)
    assert (eax >> 26) + 1 == 8
    assert eax >> 14 & 0xFFF == 0
    assert ((ebx >> 22) + 1) * ((ebx & 0xFFF) + 1) * (ecx + 1) == 24 << 10


def test_osxsave_and_ospke_follow_cr4(policy: CpuPolicy) -> None:
    assert not policy.cpuid(1)[ECX] >> 27 & 1
    assert policy.cpuid(1, 0, VcpuView(cr4=CR4_OSXSAVE))[ECX] >> 27 & 1
    assert not policy.cpuid(7)[ECX] >> 4 & 1
    assert policy.cpuid(7, 0, VcpuView(cr4=CR4_PKE))[ECX] >> 4 & 1


def test_the_apic_bit_follows_apic_base(policy: CpuPolicy) -> None:
    assert policy.cpuid(1)[EDX] >> 9 & 1
    assert not policy.cpuid(1, 0, VcpuView(apic_enabled=False))[EDX] >> 9 & 1


def test_intel_shows_syscall_in_long_mode_alone(policy: CpuPolicy) -> None:
    assert policy.cpuid(0x80000001)[EDX] >> 11 & 1
    assert not policy.cpuid(0x80000001, 0, VcpuView(long_mode=False))[EDX] >> 11 & 1


def test_xsave_sizes() -> None:
    policy = CpuPolicy.make()
    assert policy.xcr0_mask == 0x203
    assert policy.cpuid(0xD, 0)[ECX] == 2696
    assert policy.cpuid(0xD, 0)[EBX] == 576
    assert policy.cpuid(0xD, 0, VcpuView(xcr0=0x203))[EBX] == 2696
    assert policy.cpuid(0xD, 9)[:2] == (8, 2688)
    assert policy.cpuid(0xD, 2) == EMPTY
    without = CpuPolicy.make(edits=parse("host,pku=0"))
    assert without.cpuid(0xD, 0) == (3, 576, 576, 0)
    none = CpuPolicy.make(edits=parse("host,xsave=0"))
    assert none.cpuid(0xD, 0) == EMPTY
    assert none.xcr0_mask == 0
    assert not none.has("pku")


# -- edits -----------------------------------------------------------------------------------


def test_turning_a_feature_off_takes_its_dependents_along() -> None:
    policy = CpuPolicy.make(edits=parse("host,sse3=0"))
    assert not policy.has("ssse3")
    assert not policy.has("sse4-2")
    assert policy.has("sse2")
    assert policy.ignored == ()


def test_what_no_guest_can_have_is_ignored_and_named() -> None:
    policy = CpuPolicy.make(edits=parse("host,avx=1,vmx=1,sse3=1"))
    assert policy.ignored == ("vmx", "avx")
    assert not policy.has("avx")


def test_pv_guests_have_less() -> None:
    policy = CpuPolicy.make(hvm=False)
    assert not policy.has("x2apic")
    assert not policy.has("smep")
    assert policy.has("cx16")
    assert CpuPolicy.make(hvm=False, edits=parse("host,smep=1")).ignored == ("smep",)


def test_default_and_maximum_wishes() -> None:
    assert CpuPolicy.make(edits=parse("host,erms=k")).has("erms")
    assert not CpuPolicy.make(edits=parse("host,erms=1,erms=x")).has("erms")
    assert not CpuPolicy.make(edits=parse("host,avx=k")).has("avx")


def test_identity_can_be_edited() -> None:
    policy = CpuPolicy.make(edits=parse("host,family=6,model=26,stepping=5"))
    assert policy.signature == 0x106A5
    policy = CpuPolicy.make(edits=parse("host,family=23,model=49,stepping=0"))
    assert policy.signature == 0x830F10


def test_limits_can_be_lowered_not_raised() -> None:
    assert CpuPolicy.make(edits=parse("host,maxleaf=13")).cpuid(0)[EAX] == 13
    low = CpuPolicy.make(edits=parse("host,maxleaf=4"))
    assert low.cpuid(7) == EMPTY
    assert not low.has("xsave")
    assert CpuPolicy.make(edits=parse("host,maxleaf=0xff")).cpuid(0)[EAX] == 0x16
    assert CpuPolicy.make(edits=parse("host,maxhvleaf=3")).cpuid(0x40000000)[EAX] == 0x40000003


def test_the_cache_line_is_the_engines() -> None:
    assert CpuPolicy.make(edits=parse("host,clflush=4")).cpuid(1)[EBX] >> 8 & 0xFF == 8


def test_an_amd_vendor_moves_what_amd_has_elsewhere() -> None:
    def words(text: bytes) -> str:
        return f"{int.from_bytes(text, 'little'):032b}"

    vendor = f"0:ebx={words(b'Auth')},edx={words(b'enti')},ecx={words(b'cAMD')}"
    policy = CpuPolicy.make(edits=parse([vendor, "host,family=23"]))
    assert policy.vendor == "AuthenticAMD"
    assert policy.cpuid(0)[EAX] == 0xD
    assert policy.cpuid(4) == EMPTY
    assert policy.cpuid(0x80000000)[1:] == policy.cpuid(0)[1:]
    assert policy.cpuid(0x80000001)[EAX] == policy.signature
    assert policy.cpuid(0x80000001)[EDX] & 0x0183F3FF == policy.cpuid(1)[EDX] & 0x0183F3FF
    assert policy.cpuid(0x80000001, 0, VcpuView(long_mode=False))[EDX] >> 11 & 1


def test_speculation_controls() -> None:
    policy = CpuPolicy.make(edits=parse("host,ibrsb=1,stibp=1,arch-caps=1,rdcl-no=1,its-no=1"))
    assert policy.cpuid(7)[EDX] >> 26 & 3 == 3
    assert policy.arch_capabilities == 1 | 1 << 62
    hidden = CpuPolicy.make(edits=parse("host,stibp=1,rdcl-no=1"))
    assert not hidden.has("stibp")
    assert hidden.arch_capabilities == 0


names = st.sampled_from(sorted(BY_NAME))


@given(st.dictionaries(names, st.sampled_from("01xk")), st.booleans())
def test_no_edit_gives_more_than_the_maximum(wishes: dict[str, str], hvm: bool) -> None:
    option = "host" + "".join(
        f",{name}={wish}" for name, wish in wishes.items() if name != "clflush"
    )
    policy = CpuPolicy.make(hvm=hvm, edits=parse(option))
    assert policy.features <= maximum_features(hvm)
    for name, wish in wishes.items():
        if wish == "0" and name != "clflush":
            assert not policy.has(name)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 2, 4, 7, 13, 0x80000000, 0x80000001, 0x80000008, 0x15]),
            st.integers(-1, 3),
            st.integers(0, 3),
            st.text("01xk", min_size=32, max_size=32),
        )
    )
)
def test_any_bits_give_a_policy_within_the_maximum(rows: list[tuple[int, int, int, str]]) -> None:
    edits = [Edit(*row) for row in rows]
    policy = CpuPolicy.make(edits=edits)
    assert policy.features <= maximum_features(hvm=True)
    assert policy.cpuid(0)[EAX] <= 0x16
    assert 36 <= policy.phys_bits <= 40
    for vcpu_id in (0, 3):
        for leaf, subleaf, *_ in policy.native_table(vcpu_id):
            assert all(0 <= word < 1 << 32 for word in policy.cpuid(leaf, max(subleaf, 0)))
    assert CpuPolicy.restore(policy.save()).save() == policy.save()


# -- forms ------------------------------------------------------------------------------------


@pytest.mark.parametrize("vcpu_id", [0, 3])
@pytest.mark.parametrize("hvm", [True, False])
def test_the_native_table_says_what_cpuid_says(vcpu_id: int, hvm: bool) -> None:
    policy = CpuPolicy.make(hvm=hvm, vcpus=4, hypervisor=HypervisorInfo(domid=3, hvm=hvm))
    table = policy.native_table(vcpu_id)
    places = [(leaf, subleaf) for leaf, subleaf, *_ in table]
    assert len(set(places)) == len(places)
    view = VcpuView(vcpu_id=vcpu_id)
    for leaf, subleaf, *regs in table:
        for one in (subleaf,) if subleaf >= 0 else (0, 1, 77):
            assert policy.cpuid(leaf, one, view) == tuple(regs), (hex(leaf), one)


def test_the_native_table_leaves_out_what_depends_on_registers(policy: CpuPolicy) -> None:
    places = {(leaf, subleaf) for leaf, subleaf, *_ in policy.native_table(0)}
    leaves = {leaf for leaf, _ in places}
    assert not {1, 0xB, 0x80000001} & leaves
    assert not {(7, 0), (0xD, 0)} & places
    assert {0, 2, 4, 0x15, 0x16, 0x40000000, 0x40000004, 0x80000000, 0x80000008} <= leaves


def test_save_and_restore() -> None:
    info = HypervisorInfo(domid=9, tsc_khz=2_000_000)
    policy = CpuPolicy.make(edits=parse("host,arch-caps=1,rdcl-no=1,avx=1"), hypervisor=info)
    data = msgspec.msgpack.encode(policy.save())
    copy = CpuPolicy.restore(msgspec.msgpack.decode(data, type=PolicyRecord))
    assert copy.leaves == policy.leaves
    assert copy.hypervisor == info
    assert copy.arch_capabilities == 1
    assert copy.ignored == ("avx",)


def test_policies_do_not_depend_on_the_order_of_sets() -> None:
    first, second = CpuPolicy.make(maximum=True), CpuPolicy.make(maximum=True)
    assert list(first.leaves.items()) == list(second.leaves.items())
    assert list(first.leaves) == sorted(first.leaves)
