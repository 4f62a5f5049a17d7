# SPDX-License-Identifier: GPL-2.0-or-later
"""The control ring: how packets are hashed and spread over queues (public/io/netif.h)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from xenograft.abi.io import netif
from xenograft.abi.io.netif import xen_netif_ctrl_request, xen_netif_ctrl_response
from xenograft.backends.net.headers import Headers
from xenograft.backends.net.toeplitz import flow_of, steer, toeplitz
from xenograft.engine.protocol import PAGE_SIZE
from xenograft.hypervisor.grants.status import GrantError

MAX_HASH_KEY_SIZE = 40
MAX_HASH_MAPPING_SIZE = 128
"""Both as in Linux's back end."""

CTRL_ENTRY_SIZE = max(xen_netif_ctrl_request.sizeof(), xen_netif_ctrl_response.sizeof())

HASH_TYPES = (
    netif.XEN_NETIF_CTRL_HASH_TYPE_IPV4
    | netif.XEN_NETIF_CTRL_HASH_TYPE_IPV4_TCP
    | netif.XEN_NETIF_CTRL_HASH_TYPE_IPV6
    | netif.XEN_NETIF_CTRL_HASH_TYPE_IPV6_TCP
)

_SUCCESS = netif.XEN_NETIF_CTRL_STATUS_SUCCESS
_NOT_SUPPORTED = netif.XEN_NETIF_CTRL_STATUS_NOT_SUPPORTED
_INVALID = netif.XEN_NETIF_CTRL_STATUS_INVALID_PARAMETER
_OVERFLOW = netif.XEN_NETIF_CTRL_STATUS_BUFFER_OVERFLOW


class GrantReader(Protocol):
    """Reads the first bytes of a page that the front end has granted.  Raises GrantError."""

    def __call__(self, ref: int, size: int, /) -> bytes: ...


class PacketHash(msgspec.Struct, frozen=True):
    """A packet's hash as the front end wants it: type, algorithm, value."""

    type: int
    algorithm: int
    value: int


class Hashing(msgspec.Struct):
    """What a front end has set up; nothing at first."""

    algorithm: int = netif.XEN_NETIF_CTRL_HASH_ALGORITHM_NONE
    types: int = 0
    key: bytes = b""
    mapping: list[int] = []

    def hash(self, frame: bytes, headers: Headers | None = None) -> PacketHash | None:
        """The hash of a packet; None if it isn't of a type that is hashed."""
        if self.algorithm == netif.XEN_NETIF_CTRL_HASH_ALGORITHM_NONE or not self.types:
            return None
        flow = flow_of(frame, self.types, headers)
        if flow is None:
            return None
        return PacketHash(flow[0], self.algorithm, toeplitz(self.key, flow[1]))

    def queue(self, frame: bytes, hashed: PacketHash | None, queues: int) -> int:
        """The queue that a packet goes to."""
        if queues == 1:
            return 0
        if hashed is None:
            off = self.algorithm == netif.XEN_NETIF_CTRL_HASH_ALGORITHM_NONE or not self.types
            return steer(frame) % queues if off else 0
        if self.mapping:
            return self.mapping[hashed.value % len(self.mapping)] % queues
        return hashed.value % queues


class Control:
    """Answers control requests.  `queues`: how many the front end has."""

    def __init__(self, hashing: Hashing, queues: int, read_grant: GrantReader) -> None:
        self.hashing = hashing
        self._queues = queues
        self._read_grant = read_grant

    def answer(self, request: xen_netif_ctrl_request) -> xen_netif_ctrl_response:
        """The response to a request, whatever it holds."""
        handler = _HANDLERS.get(request.type)
        status, data = (_NOT_SUPPORTED, 0)
        if handler is not None:
            try:
                status, data = handler(self, *request.data)
            except (GrantError, IndexError):
                status, data = _INVALID, 0
        return xen_netif_ctrl_response(id=request.id, type=request.type, status=status, data=data)

    def _set_algorithm(self, algorithm: int, _1: int, _2: int) -> tuple[int, int]:
        known = (
            netif.XEN_NETIF_CTRL_HASH_ALGORITHM_NONE,
            netif.XEN_NETIF_CTRL_HASH_ALGORITHM_TOEPLITZ,
        )
        if algorithm not in known:
            return _INVALID, 0
        self.hashing.algorithm = algorithm
        return _SUCCESS, 0

    @property
    def _off(self) -> bool:
        return self.hashing.algorithm == netif.XEN_NETIF_CTRL_HASH_ALGORITHM_NONE

    def _get_flags(self, _0: int, _1: int, _2: int) -> tuple[int, int]:
        return (_NOT_SUPPORTED, 0) if self._off else (_SUCCESS, HASH_TYPES)

    def _set_flags(self, flags: int, _1: int, _2: int) -> tuple[int, int]:
        if flags & ~HASH_TYPES or self._off:
            return _INVALID, 0
        self.hashing.types = flags
        return _SUCCESS, 0

    def _set_key(self, ref: int, size: int, _2: int) -> tuple[int, int]:
        if size > MAX_HASH_KEY_SIZE:
            return _OVERFLOW, 0
        self.hashing.key = self._read_grant(ref, size) if size else b""
        return _SUCCESS, 0

    def _get_mapping_size(self, _0: int, _1: int, _2: int) -> tuple[int, int]:
        return _SUCCESS, MAX_HASH_MAPPING_SIZE

    def _set_mapping_size(self, size: int, _1: int, _2: int) -> tuple[int, int]:
        if size > MAX_HASH_MAPPING_SIZE:
            return _INVALID, 0
        self.hashing.mapping = [0] * size
        return _SUCCESS, 0

    def _set_mapping(self, ref: int, count: int, offset: int) -> tuple[int, int]:
        mapping = self.hashing.mapping
        if count * 4 > PAGE_SIZE or offset + count > len(mapping):
            return _OVERFLOW, 0
        data = self._read_grant(ref, count * 4) if count else b""
        entries = [int.from_bytes(data[at : at + 4], "little") for at in range(0, count * 4, 4)]
        if any(entry >= self._queues for entry in entries):
            return _INVALID, 0
        mapping[offset : offset + count] = entries
        return _SUCCESS, 0


# Mapping of grants beforehand is offered by no back end that we know of, Linux's among them.
_HANDLERS: dict[int, Callable[[Control, int, int, int], tuple[int, int]]] = {
    netif.XEN_NETIF_CTRL_TYPE_SET_HASH_ALGORITHM: Control._set_algorithm,
    netif.XEN_NETIF_CTRL_TYPE_GET_HASH_FLAGS: Control._get_flags,
    netif.XEN_NETIF_CTRL_TYPE_SET_HASH_FLAGS: Control._set_flags,
    netif.XEN_NETIF_CTRL_TYPE_SET_HASH_KEY: Control._set_key,
    netif.XEN_NETIF_CTRL_TYPE_GET_HASH_MAPPING_SIZE: Control._get_mapping_size,
    netif.XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING_SIZE: Control._set_mapping_size,
    netif.XEN_NETIF_CTRL_TYPE_SET_HASH_MAPPING: Control._set_mapping,
}
