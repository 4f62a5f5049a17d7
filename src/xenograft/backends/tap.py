# SPDX-License-Identifier: GPL-2.0-or-later
"""Ring traffic made visible: each request and response, decoded, while somebody listens.

A ring's tap costs one look at the instruments for a batch of requests, and one for a response.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xenograft.backends.xenbus.device import XenbusDevice

Show = Callable[[bytes], str]
"""A slot of the ring as a line."""


class RingTap:
    """The tap of one ring; `name` tells it from other rings of the device ("" if there's one)."""

    __slots__ = ("_clock", "_device", "_domid", "_instruments", "_request", "_response")

    def __init__(self, device: XenbusDevice, name: str, request: Show, response: Show) -> None:
        hypervisor = device.host.hypervisor
        self._instruments = hypervisor.instruments
        self._clock = hypervisor.clock
        self._domid = device.domid
        self._device = f"{device.kind}/{device.devid}{name and ' ' + name}"
        self._request = request
        self._response = response

    @property
    def active(self) -> bool:
        """Whether somebody listens."""
        return self._instruments.ring is not None

    def requests(self, slots: Sequence[bytes]) -> None:
        """These were taken."""
        if (hook := self._instruments.ring) is not None:
            now = self._clock.now()
            for slot in slots:
                hook(now, self._domid, self._device, f"> {self._request(slot)}")

    def responses(self, slots: Sequence[bytes]) -> None:
        """These were put in."""
        if (hook := self._instruments.ring) is not None:
            now = self._clock.now()
            for slot in slots:
                hook(now, self._domid, self._device, f"< {self._response(slot)}")
