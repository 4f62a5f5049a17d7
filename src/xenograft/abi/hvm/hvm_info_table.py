# SPDX-License-Identifier: GPL-2.0-or-later
"""public/hvm/hvm_info_table.h: what an HVM guest's firmware learns of its domain."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.struct import Struct, chars, octets, u8, u32, x32

HVM_INFO_PFN = 0x09F
HVM_INFO_OFFSET = 0x800
HVM_INFO_PADDR = (HVM_INFO_PFN << 12) + HVM_INFO_OFFSET
HVM_MAX_VCPUS = 128


class hvm_info_table(Struct):
    """The table at HVM_INFO_PADDR; its bytes sum to 0."""

    signature: Annotated[bytes, chars(8)]
    length: u32
    checksum: u8
    apic_mode: u8
    nr_vcpus: u32
    low_mem_pgend: x32
    reserved_mem_pgstart: x32
    high_mem_pgend: x32
    vcpu_online: Annotated[bytes, octets(HVM_MAX_VCPUS // 8)]
