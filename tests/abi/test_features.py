# SPDX-License-Identifier: GPL-2.0-or-later
"""CPU features, Xen's CPUID leaves, PCI addresses: facts that other layers lean on."""

from __future__ import annotations

import struct

from xenograft.abi import xen
from xenograft.abi.arch_x86 import cpufeatureset, cpuid
from xenograft.abi.hvm.dm_op import DMOP_NAMES, XEN_DMOP_PCI_SBDF
from xenograft.abi.hvm.e820 import e820entry
from xenograft.abi.hvm.ioreq import buf_ioreq, buffered_iopage, ioreq
from xenograft.abi.memory import XENMEMF_address_bits, XENMEMF_node


def test_signature_spells_xen() -> None:
    text = struct.pack(
        "<III",
        cpuid.XEN_CPUID_SIGNATURE_EBX,
        cpuid.XEN_CPUID_SIGNATURE_ECX,
        cpuid.XEN_CPUID_SIGNATURE_EDX,
    )
    assert text == b"XenVMMXenVMM"
    assert cpuid.XEN_CPUID_LEAF(4) == 0x40000004


def test_features_are_unique_and_ordered() -> None:
    numbers = [feature.number for feature in cpufeatureset.FEATURES]
    assert numbers == sorted(set(numbers))
    assert len(cpufeatureset.X86_FEATURE) == len(numbers)
    assert max(numbers) < 32 * cpufeatureset.FEATURESET_NR_ENTRIES


def test_known_features() -> None:
    by_name = {feature.name: feature for feature in cpufeatureset.FEATURES}
    for name, leaf, subleaf, register, bit in (
        ("FPU", 1, None, "edx", 0),
        ("HYPERVISOR", 1, None, "ecx", 31),
        ("SYSCALL", 0x80000001, None, "edx", 11),
        ("FSGSBASE", 7, 0, "ebx", 0),
        ("SSBD", 7, 0, "edx", 31),
        ("XSAVEC", 0xD, 1, "eax", 1),
        ("ITSC", 0x80000007, None, "edx", 8),
    ):
        feature = by_name[name]
        word = cpufeatureset.FEATURE_WORDS[feature.word]
        assert (word.leaf, word.subleaf, word.register, feature.bit) == (
            leaf,
            subleaf,
            register,
            bit,
        )
    assert cpufeatureset.FEATURE_WORDS[by_name["RDCL_NO"].word].msr


def test_hypercall_names() -> None:
    assert xen.HYPERCALLS[32] == "event_channel_op"
    assert xen.HYPERCALLS[0] == "set_trap_table"
    assert len(xen.HYPERCALLS) == 50


def test_shared_info_bitmaps_are_as_wide_as_the_guest() -> None:
    for bits, words in ((64, 64), (32, 32)):
        shared = xen.shared_info()
        assert len(shared.evtchn_pending.words(bits)) == words
        start = xen.shared_info.offsetof("evtchn_pending", bits)
        end = xen.shared_info.offsetof("evtchn_mask", bits)
        assert end - start == words * bits // 8


def test_pci_address() -> None:
    assert XEN_DMOP_PCI_SBDF(1, 2, 3, 4) == 0x1021C


def test_dm_op_names() -> None:
    assert DMOP_NAMES[1] == "create_ioreq_server"
    assert len(DMOP_NAMES) == 20


def test_memory_flags() -> None:
    assert XENMEMF_address_bits(0x0120) == 0x20
    assert XENMEMF_node(0x0120) == 0
    assert XENMEMF_node(0x20) is None


def test_e820_entries_have_20_bytes() -> None:
    assert e820entry.sizeof(64) == e820entry.sizeof(32) == 20


def test_ioreq_bits() -> None:
    request = ioreq(state=2, data_is_ptr=1, dir=1, df=0)
    assert request.pack()[30] == 0b0011_0010
    buffered = buf_ioreq(type=1, dir=1, size=2, addr=0xABCDE, data=7)
    assert buffered.pack() == struct.pack("<II", 0xABCDE << 12 | 2 << 10 | 1 << 9 | 1, 7)
    page = buffered_iopage(buf_ioreq=bytes(8) + buffered.pack() + bytes(8 * 509))
    assert page.slot(1) == buffered
    assert page.slot(512) == buffered
