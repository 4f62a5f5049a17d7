# SPDX-License-Identifier: GPL-2.0-or-later
"""public/io/protocols.h: names of the layouts that a front end may use in its rings."""

from __future__ import annotations

XEN_IO_PROTO_ABI_X86_32 = "x86_32-abi"
XEN_IO_PROTO_ABI_X86_64 = "x86_64-abi"
XEN_IO_PROTO_ABI_ARM = "arm-abi"

PROTOCOL_BITS: dict[str, int] = {XEN_IO_PROTO_ABI_X86_32: 32, XEN_IO_PROTO_ABI_X86_64: 64}
"""Protocol to the `bits` of `xenograft.abi.struct.Struct`."""
