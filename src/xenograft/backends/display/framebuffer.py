# SPDX-License-Identifier: GPL-2.0-or-later
"""The frame buffer of a guest (``backend/vfb/<domid>/<number>``; public/io/fbif.h).

The pixels lie in the guest's memory, in frames that the shared page lists by their gfns: the
protocol is older than grants, and stands on the back end's right to map any page of its guest.
Nothing is mapped here but the shared page: who wants a picture reads the frames at that moment.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import msgspec

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.io import fbif
from xenograft.abi.io.protocols import XEN_IO_PROTO_ABI_X86_32
from xenograft.backends.display.page import EventPage, EventPageState, map_page
from xenograft.backends.display.picture import DEPTHS, Picture, to_rgb
from xenograft.backends.xenbus.device import DeviceError, XenbusDevice
from xenograft.engine.protocol import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from xenograft.backends.ring import SharedPages
    from xenograft.backends.xenbus.host import BackendHost, EventChannel, ForeignPage, MappedPages

MAX_BYTES = 64 << 20
MAX_EDGE = 16384

IN_RING = (fbif.XENFB_IN_RING_OFFS, fbif.XENFB_IN_RING_LEN)
OUT_RING = (fbif.XENFB_OUT_RING_OFFS, fbif.XENFB_OUT_RING_LEN)


class Mode(NamedTuple):
    """How pixels lie in the frame buffer; `offset` and `stride` are bytes."""

    width: int
    height: int
    stride: int
    depth: int
    offset: int
    size: int
    """Bytes of the whole buffer."""


class FramebufferState(msgspec.Struct, frozen=True):
    """A `Mode`, and the events' state."""

    mode: tuple[int, ...]
    page: EventPageState


def check_mode(mode: Mode) -> Mode:
    """The mode, if all its pixels are inside the buffer.  Raises DeviceError."""
    sizes = 0 < mode.width <= MAX_EDGE and 0 < mode.height <= MAX_EDGE
    if not sizes or mode.depth not in DEPTHS or not 0 < mode.size <= MAX_BYTES:
        raise DeviceError(
            Errno.EINVAL,
            f"a frame buffer of {mode.width} by {mode.height}, depth {mode.depth},"
            f" in {mode.size} bytes",
        )
    row = mode.width * mode.depth // 8
    last = mode.offset + (mode.height - 1) * mode.stride + row
    if mode.stride < row or mode.offset < 0 or last > mode.size:
        raise DeviceError(
            Errno.EINVAL,
            f"{mode.width} by {mode.height} pixels with a stride of {mode.stride} at"
            f" {mode.offset} don't fit into {mode.size} bytes",
        )
    return mode


class FramebufferDevice(XenbusDevice):
    """A screen."""

    kind: ClassVar[str] = "vfb"
    saved = FramebufferState

    def __init__(self, host: BackendHost, path: str, domid: int, devid: int) -> None:
        super().__init__(host, path, domid, devid)
        self.mode: Mode | None = None
        """None: nobody is connected."""
        self.keeps_last = False
        """Whether the last picture is kept when the guest lets its frame buffer go."""
        self.last: Picture | None = None
        self.updates = 0
        """How often the guest has told of a change."""
        self.on_update: list[Callable[[int, int, int, int], None]] = []
        """Called with (x, y, width, height) of what has changed."""
        self._page: MappedPages | ForeignPage | None = None
        self._events: EventPage | None = None
        self._channel: EventChannel | None = None
        self._word = 8

    # -- states ----------------------------------------------------------------------------------
    def offer(self) -> None:
        self.publish({"feature-resize": 1})

    def connect(self) -> None:
        protocol = self.read_frontend("protocol")
        self._word = 4 if protocol == XEN_IO_PROTO_ABI_X86_32 else 8
        self._page = map_page(self)
        self.mode = check_mode(self._read_mode(self._page))
        self._events = EventPage(self._page, IN_RING, OUT_RING)
        port = self.frontend_number("event-channel")
        self._channel = self.host.bind(self.domid, port, lambda: self.guard(self._event))
        if self.frontend_number("feature-update", 0):
            self.write("request-update", 1)

    def _read_mode(self, page: SharedPages) -> Mode:
        head = fbif.xenfb_page.unpack(page.read(0, fbif.xenfb_page.sizeof()))
        return Mode(head.width, head.height, head.line_length, head.depth, 0, head.mem_length)

    def disconnect(self) -> None:
        if self.keeps_last and self.mode is not None:
            # Whatever the guest has in the way of that hurts its picture alone.
            with suppress(DeviceError, XenError):
                self.last = self._read_picture()
        self.mode = None
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
        page, self._page = self._page, None
        self._events = None
        if page is not None:
            page.unmap()

    def release(self) -> None:
        pass

    # -- events ----------------------------------------------------------------------------------
    def _event(self) -> None:
        if self._events is None or self.mode is None:
            return
        for data in self._events.take():
            if data[0] == fbif.XENFB_TYPE_UPDATE:
                update = fbif.xenfb_update.unpack(data)
                self.updates += 1
                for callback in list(self.on_update):
                    callback(update.x, update.y, update.width, update.height)
            elif data[0] == fbif.XENFB_TYPE_RESIZE:
                new = fbif.xenfb_resize.unpack(data)
                size = self.mode.size
                self.mode = check_mode(
                    Mode(new.width, new.height, new.stride, new.depth, new.offset, size)
                )
        if self._channel is not None:
            self._channel.notify()

    # -- persistence -----------------------------------------------------------------------------
    def save(self) -> FramebufferState | None:
        """The mode that the guest has set last, and its page; None: nobody is connected."""
        if self.mode is None or self._events is None:
            return None
        return FramebufferState(tuple(self.mode), self._events.save())

    def restore(self, state: FramebufferState) -> None:
        """Go on where a saved device has stopped; the front end is connected already."""
        if self._events is not None:
            self.mode = check_mode(Mode(*state.mode))
            self._events.restore(state.page)

    # -- the picture -----------------------------------------------------------------------------
    def picture(self) -> Picture:
        """What the screen shows, or has shown last.

        Raises DeviceError if there's nothing to show, XenError if it lies nowhere.
        """
        if self.mode is None and self.last is not None:
            return self.last
        return self._read_picture()

    def _read_picture(self) -> Picture:
        mode = self.mode
        if mode is None or self._page is None:
            raise DeviceError(Errno.ENODEV, "the guest hasn't set up its frame buffer")
        frames = _Frames(self, self._page, self._word)
        row = mode.width * mode.depth // 8
        rows = [
            to_rgb(frames.read(mode.offset + y * mode.stride, row), mode.depth)
            for y in range(mode.height)
        ]
        return Picture(mode.width, mode.height, b"".join(rows))


class _Frames:
    """The frame buffer's bytes, read where the shared page says that they are."""

    def __init__(self, device: FramebufferDevice, page: SharedPages, word: int) -> None:
        self._device = device
        self._page = page
        self._word = word
        self._directories: dict[int, bytes] = {}
        self._cached: dict[int, bytes] = {}

    def read(self, offset: int, size: int) -> bytes:
        parts = []
        while size:
            at = offset % PAGE_SIZE
            part = min(size, PAGE_SIZE - at)
            parts.append(self._frame(offset >> PAGE_SHIFT)[at : at + part])
            offset += part
            size -= part
        return b"".join(parts)

    def _frame(self, index: int) -> bytes:
        data = self._cached.get(index)
        if data is None:
            data = self._read_gfn(self._gfn(index))
            # Rows are read in their order: no earlier frame is needed again.
            self._cached = {index: data}
        return data

    def _gfn(self, index: int) -> int:
        number, at = divmod(index, PAGE_SIZE // self._word)
        directory = self._directories.get(number)
        if directory is None:
            first = fbif.xenfb_page.offsetof("pd", 8 * self._word)
            entry = self._page.read(first + number * self._word, self._word)
            directory = self._read_gfn(int.from_bytes(entry, "little"))
            self._directories[number] = directory
        entry = directory[at * self._word : (at + 1) * self._word]
        return int.from_bytes(entry, "little")

    def _read_gfn(self, gfn: int) -> bytes:
        held = self._device.host.map_foreign(self._device.domid, gfn)
        try:
            return held.read(0, PAGE_SIZE)
        finally:
            held.unmap()
