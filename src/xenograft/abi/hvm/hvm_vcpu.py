# SPDX-License-Identifier: GPL-2.0-or-later
"""public/hvm/hvm_vcpu.h: state of a new vCPU of an HVM or PVH domain (VCPUOP_initialise)."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.struct import Struct, Union, octets, selects, u32, x16, x32, x64

# vcpu_hvm_context.mode.
VCPU_HVM_MODE_32B = 0
VCPU_HVM_MODE_64B = 1


class vcpu_hvm_x86_32(Struct):
    """Start in 32-bit or compatibility mode: registers, cached segments, attributes."""

    eax: x32
    ecx: x32
    edx: x32
    ebx: x32
    esp: x32
    ebp: x32
    esi: x32
    edi: x32
    eip: x32
    eflags: x32
    cr0: x32
    cr3: x32
    cr4: x32
    pad1: u32
    efer: x64
    cs_base: x32
    ds_base: x32
    ss_base: x32
    es_base: x32
    tr_base: x32
    cs_limit: x32
    ds_limit: x32
    ss_limit: x32
    es_limit: x32
    tr_limit: x32
    cs_ar: x16
    ds_ar: x16
    ss_ar: x16
    es_ar: x16
    tr_ar: x16
    pad2: Annotated[bytes, octets(6)]


class vcpu_hvm_x86_64(Struct):
    """Start in 64-bit mode."""

    rax: x64
    rcx: x64
    rdx: x64
    rbx: x64
    rsp: x64
    rbp: x64
    rsi: x64
    rdi: x64
    rip: x64
    rflags: x64
    cr0: x64
    cr3: x64
    cr4: x64
    efer: x64


class _cpu_regs(Union):
    x86_32: vcpu_hvm_x86_32
    x86_64: vcpu_hvm_x86_64


class vcpu_hvm_context(Struct):
    """Argument of VCPUOP_initialise for HVM-type guests."""

    _selects_ = selects(
        cpu_regs=("mode", {VCPU_HVM_MODE_32B: "x86_32", VCPU_HVM_MODE_64B: "x86_64"})
    )

    mode: u32
    pad: u32
    cpu_regs: _cpu_regs
