# SPDX-License-Identifier: GPL-2.0-or-later
"""public/argo.h: messages between domains (HYPERVISOR_argo_op)."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.struct import Struct, domid_t, handle, octets, u16, u32, x16

# argo_op.
XEN_ARGO_OP_register_ring = 1
XEN_ARGO_OP_unregister_ring = 2
XEN_ARGO_OP_sendv = 3
XEN_ARGO_OP_notify = 4

# register_ring flags.
XEN_ARGO_REGISTER_FLAG_FAIL_EXIST = 1

# xen_argo_ring_data_ent.flags.
XEN_ARGO_RING_EXISTS = 1 << 0
XEN_ARGO_RING_SHARED = 1 << 1
XEN_ARGO_RING_EMPTY = 1 << 2
XEN_ARGO_RING_SUFFICIENT = 1 << 3
XEN_ARGO_RING_EMSGSIZE = 1 << 4
XEN_ARGO_RING_EBUSY = 1 << 5

# Limits.
XEN_ARGO_MAX_RING_SIZE = 0x1000000
XEN_ARGO_MAXIOV = 8
XEN_ARGO_MSG_SLOT_SIZE = 0x10

# A ring that takes messages from anybody.
XEN_ARGO_DOMID_ANY = 32756


class xen_argo_iov(Struct):
    """One piece of a message."""

    iov_hnd: handle
    iov_len: u32
    pad: u32


class xen_argo_addr(Struct):
    """A port of a domain."""

    aport: u32
    domain_id: domid_t
    pad: u16


class xen_argo_send_addr(Struct):
    """Sender and receiver."""

    src: xen_argo_addr
    dst: xen_argo_addr


class xen_argo_ring(Struct):
    """Header of a ring; its bytes follow."""

    rx_ptr: u32
    tx_ptr: u32
    reserved: Annotated[bytes, octets(56)]


class xen_argo_register_ring(Struct):
    """Register a ring of `len` bytes."""

    aport: u32
    partner_id: domid_t
    pad: u16
    len: u32


class xen_argo_unregister_ring(Struct):
    """Unregister a ring."""

    aport: u32
    partner_id: domid_t
    pad: u16


class xen_argo_ring_data_ent(Struct):
    """What is known of one ring: IN ring, space_required; OUT the rest."""

    ring: xen_argo_addr
    flags: x16
    pad: u16
    space_required: u32
    max_message_size: u32


class xen_argo_ring_data(Struct):
    """Header of a list of entries."""

    nent: u32
    pad: u32


class xen_argo_ring_message_header(Struct):
    """Header of a message in a ring; its bytes follow."""

    len: u32
    source: xen_argo_addr
    message_type: u32
