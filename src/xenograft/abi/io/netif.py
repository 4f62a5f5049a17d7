# SPDX-License-Identifier: GPL-2.0-or-later
"""public/io/netif.h: the network protocol's ring entries and control messages."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.struct import (
    Struct,
    Union,
    array,
    grant_ref_t,
    i16,
    octets,
    selects,
    u8,
    u16,
    u32,
    x8,
    x16,
)

# netif_tx_request.flags.
NETTXF_csum_blank = 1
NETTXF_data_validated = 2
NETTXF_more_data = 4
NETTXF_extra_info = 8

# netif_rx_response.flags.
NETRXF_data_validated = 1
NETRXF_csum_blank = 2
NETRXF_more_data = 4
NETRXF_extra_info = 8
NETRXF_gso_prefix = 0x10

# Status of a response.
NETIF_RSP_DROPPED = -2
NETIF_RSP_ERROR = -1
NETIF_RSP_OKAY = 0
NETIF_RSP_NULL = 1

# netif_extra_info.
XEN_NETIF_EXTRA_TYPE_NONE = 0
XEN_NETIF_EXTRA_TYPE_GSO = 1
XEN_NETIF_EXTRA_TYPE_MCAST_ADD = 2
XEN_NETIF_EXTRA_TYPE_MCAST_DEL = 3
XEN_NETIF_EXTRA_TYPE_HASH = 4
XEN_NETIF_EXTRA_TYPE_XDP = 5
XEN_NETIF_EXTRA_TYPE_MAX = 6
XEN_NETIF_EXTRA_FLAG_MORE = 1
XEN_NETIF_GSO_TYPE_NONE = 0
XEN_NETIF_GSO_TYPE_TCPV4 = 1
XEN_NETIF_GSO_TYPE_TCPV6 = 2

# Limits.
XEN_NETIF_NR_SLOTS_MIN = 18
XEN_NETIF_MAX_TX_SIZE = 0xFFFF

# Control ring.
XEN_NETIF_CTRL_HASH_TYPE_IPV4 = 1
XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP = 2
XEN_NETIF_CTRL_HASH_TYPE_IPV6 = 4
XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP = 8
XEN_NETIF_CTRL_HASH_ALGORITHM_NONE = 0
XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ = 1
XEN_NETIF_CTRL_TYPE_INVALID = 0
XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS = 1
XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS = 2
XEN_NETIF_CTRL_TYPE_SET_HASH_KEY = 3
XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE = 4
XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE = 5
XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING = 6
XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM = 7
XEN_NETIF_CTRL_TYPE_GET_GREF_MAPPING_SIZE = 8
XEN_NETIF_CTRL_TYPE_ADD_GREF_MAPPING = 9
XEN_NETIF_CTRL_TYPE_DEL_GREF_MAPPING = 10
XEN_NETIF_CTRL_STATUS_SUCCESS = 0
XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED = 1
XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER = 2
XEN_NETIF_CTRL_STATUS_BUFFER_OVERFLOW = 3
XEN_NETIF_CTRLF_GREF_readonly = 1


class xen_netif_ctrl_request(Struct):
    """Control: XEN_NETIF_CTRL_TYPE_* and operands."""

    id: u16
    type: u16
    data: Annotated[list[int], array(u32, 3)]


class xen_netif_ctrl_response(Struct):
    """Answer to a control request."""

    id: u16
    type: u16
    status: u32
    data: u32


class xen_netif_gref(Struct):
    """A grant to map beforehand."""

    ref: grant_ref_t
    flags: x16
    status: u16


class netif_tx_request(Struct):
    """A packet, or a part of one, from the guest."""

    gref: grant_ref_t
    offset: u16
    flags: x16
    id: u16
    size: u16


class _netif_extra_info_u_gso(Struct):
    size: u16
    type: u8
    pad: u8
    features: x16


class _netif_extra_info_u_mcast(Struct):
    addr: Annotated[bytes, octets(6)]


class _netif_extra_info_u_hash(Struct):
    type: u8
    algorithm: u8
    value: Annotated[bytes, octets(4)]


class _netif_extra_info_u_xdp(Struct):
    headroom: u16
    pad: Annotated[list[int], array(u16, 2)]


class _netif_extra_info_u(Union):
    gso: _netif_extra_info_u_gso
    mcast: _netif_extra_info_u_mcast
    hash: _netif_extra_info_u_hash
    xdp: _netif_extra_info_u_xdp
    pad: Annotated[list[int], array(u16, 3)]


class netif_extra_info(Struct):
    """What else there is to know of a packet."""

    _selects_ = selects(u=("type", {1: "gso", 2: "mcast", 3: "mcast", 4: "hash", 5: "xdp"}))

    type: u8
    flags: x8
    u: _netif_extra_info_u


class netif_tx_response(Struct):
    """The packet was sent."""

    id: u16
    status: i16


class netif_rx_request(Struct):
    """A page for a packet to the guest."""

    id: u16
    pad: u16
    gref: grant_ref_t


class netif_rx_response(Struct):
    """A packet, or a part of one, to the guest; status: bytes, or an error."""

    id: u16
    offset: u16
    flags: x16
    status: i16
