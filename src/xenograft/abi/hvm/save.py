# SPDX-License-Identifier: GPL-2.0-or-later
"""public/hvm/save.h, public/arch-x86/hvm/save.h: the framing of HVM save records.

A saved context is a sequence of `hvm_save_descriptor` and record, from HEADER to END.
"""

from __future__ import annotations

from xenograft.abi.struct import Struct, u16, u32, x32, x64

HVM_FILE_MAGIC = 0x54381286
HVM_FILE_VERSION = 1

# hvm_save_descriptor.typecode.
HVM_SAVE_END = 0
HVM_SAVE_HEADER = 1
HVM_SAVE_CPU = 2
HVM_SAVE_PIC = 3
HVM_SAVE_IOAPIC = 4
HVM_SAVE_LAPIC = 5
HVM_SAVE_LAPIC_REGS = 6
HVM_SAVE_PCI_IRQ = 7
HVM_SAVE_ISA_IRQ = 8
HVM_SAVE_PCI_LINK = 9
HVM_SAVE_PIT = 10
HVM_SAVE_RTC = 11
HVM_SAVE_HPET = 12
HVM_SAVE_PMTIMER = 13
HVM_SAVE_MTRR = 14
HVM_SAVE_VIRIDIAN_DOMAIN = 15
HVM_SAVE_CPU_XSAVE = 16
HVM_SAVE_VIRIDIAN_VCPU = 17
HVM_SAVE_VMCE_VCPU = 18
HVM_SAVE_TSC_ADJUST = 19
HVM_SAVE_CPU_MSR = 20
HVM_SAVE_CODE_MAX = 20


class hvm_save_descriptor(Struct):
    """Kind, instance (vCPU) and length of the record that follows."""

    typecode: u16
    instance: u16
    length: u32


class hvm_save_header(Struct):
    """Who saved the context."""

    magic: x32
    version: u32
    changeset: x64
    cpuid: x32
    gtsc_khz: u32


class hvm_vmce_vcpu(Struct):
    """Machine-check state of a vCPU."""

    caps: x64
    mci_ctl2_bank0: x64
    mci_ctl2_bank1: x64
    mcg_ext_ctl: x64


class hvm_tsc_adjust(Struct):
    """A vCPU's IA32_TSC_ADJUST."""

    tsc_adjust: x64
