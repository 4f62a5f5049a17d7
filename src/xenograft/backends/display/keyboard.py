# SPDX-License-Identifier: GPL-2.0-or-later
"""Keyboard and pointer of a guest (``backend/vkbd/<domid>/<number>``; public/io/kbdif.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from xenograft.abi.errno import Errno
from xenograft.abi.io import kbdif
from xenograft.backends.display.page import EventPage, EventPageState, map_page
from xenograft.backends.xenbus.device import DeviceError, XenbusDevice

if TYPE_CHECKING:
    from xenograft.backends.xenbus.host import BackendHost, EventChannel, ForeignPage, MappedPages

KEYCODES = 0x2FF
"""The highest key code of Linux (KEY_MAX)."""

IN_RING = (kbdif.XENKBD_IN_RING_OFFS, kbdif.XENKBD_IN_RING_LEN)
OUT_RING = (kbdif.XENKBD_OUT_RING_OFFS, kbdif.XENKBD_OUT_RING_LEN)
_POLL_NS = 5_000_000


class KeyboardDevice(XenbusDevice):
    """A keyboard with a pointer."""

    kind: ClassVar[str] = "vkbd"
    saved = EventPageState

    def __init__(self, host: BackendHost, path: str, domid: int, devid: int) -> None:
        super().__init__(host, path, domid, devid)
        self.absolute = False
        """Whether the front end wants places instead of movements of the pointer."""
        self._page: MappedPages | ForeignPage | None = None
        self._events: EventPage | None = None
        self._channel: EventChannel | None = None
        self._polling = False

    # -- states ----------------------------------------------------------------------------------
    def offer(self) -> None:
        # The toolstack's nodes say what else there is; Linux reads them before InitWait.
        if self.read("feature-abs-pointer") is None:
            self.write("feature-abs-pointer", 1)

    def connect(self) -> None:
        self._page = map_page(self)
        self._events = EventPage(self._page, IN_RING, OUT_RING)
        self.absolute = bool(self.frontend_number("request-abs-pointer", 0))
        port = self.frontend_number("event-channel")
        self._channel = self.host.bind(self.domid, port, lambda: self.guard(self._event))

    def disconnect(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
        page, self._page = self._page, None
        self._events = None
        if page is not None:
            page.unmap()

    def release(self) -> None:
        pass

    def _event(self) -> None:
        if self._events is not None:
            # No event of the front end's has been given a meaning.
            self._events.take()
            self._flush()

    def _flush(self) -> None:
        events, channel = self._events, self._channel
        if events is None or channel is None:
            return
        if events.flush():
            channel.notify()
        if len(events) and not self._polling:
            # A front end needn't tell that it has read.
            self._polling = True
            self.host.hypervisor.timers.add(self.host.now() + _POLL_NS, self._poll)

    def _poll(self) -> None:
        self._polling = False
        self.guard(self._flush)

    # -- events to the guest -----------------------------------------------------------------------
    def _send(self, event: bytes) -> None:
        if self._events is None:
            raise DeviceError(Errno.ENODEV, "the guest hasn't connected its keyboard")
        if not self._events.send(event):
            raise DeviceError(Errno.ENOBUFS, "the guest doesn't read its keyboard")
        self._flush()

    def key(self, keycode: int, pressed: bool) -> None:
        """Press or release a key, or a button, by Linux's key code.  Raises DeviceError."""
        if not 0 < keycode <= KEYCODES:
            raise DeviceError(Errno.EINVAL, f"{keycode} is no key code")
        event = kbdif.xenkbd_key(type=kbdif.XENKBD_TYPE_KEY, pressed=pressed, keycode=keycode)
        self._send(event.pack())

    def move(self, x: int, y: int, wheel: int = 0) -> None:
        """Move the pointer by.  Raises DeviceError."""
        event = kbdif.xenkbd_motion(type=kbdif.XENKBD_TYPE_MOTION, rel_x=x, rel_y=y, rel_z=wheel)
        self._send(event.pack())

    def place(self, x: int, y: int, wheel: int = 0) -> None:
        """Put the pointer to a place.  Raises DeviceError, also if the guest wants movements."""
        if not self.absolute:
            raise DeviceError(Errno.EOPNOTSUPP, "the guest wants the pointer's movements alone")
        event = kbdif.xenkbd_position(type=kbdif.XENKBD_TYPE_POS, abs_x=x, abs_y=y, rel_z=wheel)
        self._send(event.pack())

    # -- persistence -----------------------------------------------------------------------------
    def save(self) -> EventPageState | None:
        """The state of its page, which says all; None: nobody is connected."""
        return None if self._events is None else self._events.save()

    def restore(self, state: EventPageState) -> None:
        """Go on where a saved device has stopped; the front end is connected already."""
        if self._events is not None:
            self._events.restore(state)
            self._flush()
