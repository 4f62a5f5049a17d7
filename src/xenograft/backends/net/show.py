# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests and responses of netif as lines for people.

A slot with extra information looks like any other: whether it is one is told by the slot before
it, so a shower sees the slots of its ring in their order.
"""

from __future__ import annotations

from xenograft.abi.io import netif

_TX_FLAGS = {
    netif.NETTXF_csum_blank: "csum_blank",
    netif.NETTXF_data_validated: "data_validated",
    netif.NETTXF_more_data: "more_data",
    netif.NETTXF_extra_info: "extra_info",
}
_RX_FLAGS = {
    netif.NETRXF_csum_blank: "csum_blank",
    netif.NETRXF_data_validated: "data_validated",
    netif.NETRXF_more_data: "more_data",
    netif.NETRXF_extra_info: "extra_info",
    netif.NETRXF_gso_prefix: "gso_prefix",
}
_STATUS = {
    netif.NETIF_RSP_OKAY: "OKAY",
    netif.NETIF_RSP_ERROR: "ERROR",
    netif.NETIF_RSP_NULL: "NULL",
    netif.NETIF_RSP_DROPPED: "DROPPED",
}


def _flags(names: dict[int, str], value: int) -> str:
    return "|".join(name for bit, name in names.items() if value & bit) or "0"


class _Extras:
    """Follows the flags from slot to slot."""

    def __init__(self) -> None:
        self._next = False

    def take(self, slot: bytes) -> str | None:
        """The text of a slot that is an extra."""
        if not self._next:
            return None
        extra = netif.netif_extra_info.unpack(slot)
        self._next = bool(extra.flags & netif.XEN_NETIF_EXTRA_FLAG_MORE)
        return f"extra type={extra.type} {slot[2:8].hex()}"

    def expect(self, coming: bool) -> None:
        self._next = coming


class TxRequests:
    """Shows what a guest sends: ``gref=9 offset=66 size=54 flags=csum_blank id=3``."""

    def __init__(self) -> None:
        self._extras = _Extras()

    def __call__(self, slot: bytes) -> str:
        if (text := self._extras.take(slot)) is not None:
            return text
        one = netif.netif_tx_request.unpack(slot)
        self._extras.expect(bool(one.flags & netif.NETTXF_extra_info))
        flags = _flags(_TX_FLAGS, one.flags)
        return f"gref={one.gref} offset={one.offset} size={one.size} flags={flags} id={one.id}"


def tx_response(slot: bytes) -> str:
    """What a guest is told of what it has sent."""
    one = netif.netif_tx_response.unpack(slot)
    return f"id={one.id} {_STATUS.get(one.status, one.status)}"


def rx_request(slot: bytes) -> str:
    """A buffer that a guest gives."""
    one = netif.netif_rx_request.unpack(slot)
    return f"gref={one.gref} id={one.id}"


class RxResponses:
    """Shows what a guest receives: ``id=1 offset=0 size=60 flags=data_validated``."""

    def __init__(self) -> None:
        self._extras = _Extras()

    def __call__(self, slot: bytes) -> str:
        if (text := self._extras.take(slot)) is not None:
            return text
        one = netif.netif_rx_response.unpack(slot)
        self._extras.expect(bool(one.flags & netif.NETRXF_extra_info))
        size = f"size={one.status}" if one.status >= 0 else _STATUS.get(one.status, "?")
        return f"id={one.id} offset={one.offset} {size} flags={_flags(_RX_FLAGS, one.flags)}"
