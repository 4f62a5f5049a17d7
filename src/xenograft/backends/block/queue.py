# SPDX-License-Identifier: GPL-2.0-or-later
"""One ring of a block device: takes requests, moves data between guest and image, answers.

Data are copied: those to be written before the image sees them, those read once they are there,
so that the guest's pages are touched on the machine's thread alone, between its slices, and only
while they are granted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.io.blkif import (
    BLKIF_OP_DISCARD,
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER,
    BLKIF_RSP_ERROR,
    BLKIF_RSP_OKAY,
)
from xenograft.backends.block.grants import GrantPages
from xenograft.backends.block.protocol import (
    SECTOR_SHIFT,
    SEGMENTS_PER_PAGE,
    BadRequest,
    Layout,
    Request,
    Segment,
    check_range,
    parse_segments,
    transfer_size,
)
from xenograft.backends.ring import BackRing, RingError
from xenograft.hypervisor.grants.status import GrantError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xenograft.backends.block.device import BlockDevice
    from xenograft.backends.block.grants import Page
    from xenograft.backends.xenbus.host import MappedPages
    from xenograft.backends.xenbus.work import Outcome

_SEGMENT_SIZE = 8
_PAGE = 1 << 12

Span = tuple[int, int]
"""(machine address, bytes) of a piece of guest memory."""


class BlockQueue:
    """A ring of `device` in the pages `pages`, whose event channel is bound on `remote_port`.

    Raises RingError, XenError; then nothing is held but `pages`.
    """

    def __init__(
        self,
        device: BlockDevice,
        index: int,
        layout: Layout,
        pages: MappedPages,
        remote_port: int,
        persistent: bool,
    ) -> None:
        self.device = device
        self.index = index
        self.layout = layout
        self.pages = pages
        self.ring = BackRing(pages, layout.slot_size)
        self.grants = GrantPages(device.host, device.domid, persistent)
        self.persistent = persistent
        self.closed = False
        self.halted = False
        """The front end has broken the ring: it isn't looked at any more."""
        self._processing = False
        self._to_push = False
        self.channel = device.host.bind(device.domid, remote_port, self.process)

    def close(self) -> None:
        """Let go of the front end's pages and port; what is under way is answered to nobody."""
        self.closed = True
        self.channel.close()
        self.grants.close()
        self.pages.unmap()

    # -- requests --------------------------------------------------------------------------------
    def process(self) -> None:
        """Take what requests there are, as far as the device has room for more."""
        device, ring = self.device, self.ring
        if self.closed or self.halted:
            return
        device.look_at_size()
        self._processing = True
        try:
            while True:
                if not device.has_room:
                    device.metrics.oo_req += 1
                    device.stalled[self] = None
                    break
                taken = ring.take(8, self.layout.request_size)
                for data in taken:
                    self._begin(data)
                if not taken and not ring.final_check():
                    break
        except RingError as error:
            self.halted = True
            device.host.log(f"{device.path}: bogus ring requests, halting the ring: {error}")
        finally:
            self._processing = False
        self.push()

    def _begin(self, data: bytes) -> None:
        try:
            request = self.layout.parse(data)
        except BadRequest as bad:
            self.device.metrics.refused += 1
            ident, operation = self.layout.identify(data)
            self.respond(ident, operation, bad.status)
            return
        self.device.order(self, request)

    def start(self, request: Request) -> None:
        """Do a request whose turn it is."""
        operation = request.operation
        try:
            if operation == BLKIF_OP_DISCARD:
                self._discard(request)
            elif operation == BLKIF_OP_READ:
                self._read(request)
            else:
                self._write(request)
        except BadRequest as bad:
            self._refuse(request, bad.status)
        except GrantError:
            self._refuse(request, BLKIF_RSP_ERROR)

    def _refuse(self, request: Request, status: int) -> None:
        self.device.metrics.refused += 1
        self.respond(request.id, request.operation, status)
        self.device.passed(request)

    def _segments(self, request: Request) -> tuple[Segment, ...]:
        """The segments of a request, out of its indirect pages if it has any."""
        if not request.indirect:
            return request.segments
        pages = self.grants.acquire(request.indirect, True)
        try:
            memory, left = self.device.host.memory, request.nr_segments
            segments: tuple[Segment, ...] = ()
            for page in pages:
                count = min(left, SEGMENTS_PER_PAGE)
                segments += parse_segments(memory.read(page.maddr, count * _SEGMENT_SIZE))
                left -= count
        finally:
            self.grants.release(pages)
        return segments

    def _spans(self, segments: Sequence[Segment], pages: Sequence[Page]) -> list[Span]:
        """Where the segments are in machine memory, neighbours as one."""
        spans: list[Span] = []
        start = end = 0
        for (_, first, last), page in zip(segments, pages, strict=True):
            at = page.maddr + (first << SECTOR_SHIFT)
            size = last - first + 1 << SECTOR_SHIFT
            if at == end:
                end += size
                continue
            if end:
                spans.append((start, end - start))
            start, end = at, at + size
        if end:
            spans.append((start, end - start))
        return spans

    # -- reading ---------------------------------------------------------------------------------
    def _read(self, request: Request) -> None:
        device = self.device
        segments = self._segments(request)
        size = transfer_size(segments)
        check_range(request.sector, size >> SECTOR_SHIFT, device.sectors)
        device.metrics.rd_req += 1
        device.metrics.rd_sect += size >> SECTOR_SHIFT
        pages = self.grants.acquire([segment[0] for segment in segments], False)
        spans = self._spans(segments, pages)
        offset = request.sector << SECTOR_SHIFT
        data = device.read_now(offset, size)
        if data is not None:
            device.metrics.immediate += 1
            self._fill(spans, data)
            self.grants.release(pages)
            self.respond(request.id, request.operation, BLKIF_RSP_OKAY)
            device.passed(request)
            return

        def done(outcome: Outcome[bytes | bytearray]) -> None:
            if not self.closed:
                if outcome.error is None:
                    self._fill(spans, outcome.get())
                self.grants.release(pages)
            self._finish(request, size, outcome.error)

        image = device.image
        assert image is not None  # without one there are no sectors to read
        device.submit(request, lambda: image.read(offset, size), done, size)

    def _fill(self, spans: Sequence[Span], data: bytes | bytearray) -> None:
        memory = self.device.host.memory
        if len(spans) == 1:
            memory.write(spans[0][0], data)
            return
        view, at = memoryview(data), 0
        for maddr, size in spans:
            memory.write(maddr, view[at : at + size])
            at += size

    # -- writing ---------------------------------------------------------------------------------
    def _write(self, request: Request) -> None:
        """Writes, flushes, barriers: a barrier is a write between two flushes."""
        device = self.device
        segments = self._segments(request)
        size = transfer_size(segments)
        check_range(request.sector if size else 0, size >> SECTOR_SHIFT, device.sectors)
        if device.readonly and size:
            raise BadRequest(BLKIF_RSP_ERROR, "the disk is read-only")
        before = request.operation in (BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_WRITE_BARRIER)
        after = request.operation == BLKIF_OP_WRITE_BARRIER and size > 0
        if before:
            device.metrics.f_req += 1
        if size:
            device.metrics.wr_req += request.operation == BLKIF_OP_WRITE
            device.metrics.wr_sect += size >> SECTOR_SHIFT
        pages = self.grants.acquire([segment[0] for segment in segments], True)
        try:
            memory = self.device.host.memory
            parts = [memory.read(maddr, length) for maddr, length in self._spans(segments, pages)]
        finally:
            self.grants.release(pages)
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        offset = request.sector << SECTOR_SHIFT
        image = device.image
        if image is None:
            raise BadRequest(BLKIF_RSP_ERROR, "no medium")

        def work() -> None:
            if before:
                image.flush()
            if data:
                image.write(offset, data)
            if after:
                image.flush()

        device.submit(request, work, lambda outcome: self._finish(request, size, outcome.error), size)

    def _discard(self, request: Request) -> None:
        device = self.device
        check_range(request.sector, request.nr_sectors, device.sectors)
        image = device.image
        if image is None or device.readonly:
            raise BadRequest(BLKIF_RSP_ERROR, "the disk is read-only")
        device.metrics.ds_req += 1
        offset, size = request.sector << SECTOR_SHIFT, request.nr_sectors << SECTOR_SHIFT
        device.submit(
            request,
            lambda: image.discard(offset, size),
            lambda outcome: self._finish(request, 0, outcome.error),
            0,
        )

    # -- answers ---------------------------------------------------------------------------------
    def _finish(self, request: Request, size: int, error: BaseException | None) -> None:
        """The image is done with a request."""
        device = self.device
        if error is not None:
            device.failed(request, error)
        if not self.closed:
            status = BLKIF_RSP_OKAY if error is None else BLKIF_RSP_ERROR
            self.respond(request.id, request.operation, status)
        device.finished(request, size)

    def respond(self, ident: int, operation: int, status: int) -> None:
        """Answer a request; the front end sees it after `push`, which follows by itself."""
        self.ring.respond(self.layout.response(ident, operation, status))
        # Outside `process` this is the end of a job, or what an end has set free.
        if not self._processing and not self._to_push:
            self._to_push = True
            self.device.host.work.after_batch(self.push)

    def push(self) -> None:
        """Show the front end the answers, and wake it if it wants that."""
        self._to_push = False
        if not self.closed and self.ring.push():
            self.channel.notify()
