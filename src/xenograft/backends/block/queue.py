# SPDX-License-Identifier: GPL-2.0-or-later
"""One ring of a block device: takes requests, moves data between guest and image, answers.

Data are copied: those to be written before the image sees them, those read once they are there,
so that the guest's pages are touched on the machine's thread alone, between its slices, and only
while they are granted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from xenograft.abi.io.blkif import (
    BLKIF_OP_DISCARD,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER,
    BLKIF_RSP_ERROR,
    BLKIF_RSP_OKAY,
)
from xenograft.backends.block.grants import GrantPages
from xenograft.backends.block.images.image import ZeroImage
from xenograft.backends.block.images.raw import RawImage
from xenograft.backends.block.protocol import (
    FLUSHES,
    SECTOR_SHIFT,
    SECTORS_PER_PAGE,
    SEGMENT_SIZE,
    SEGMENTS_PER_PAGE,
    BadRequest,
    Layout,
    Request,
    check_range,
    failure,
    pack_segments,
    parse_segments,
    transfer_size,
)
from xenograft.backends.block.show import request_shower, response_shower
from xenograft.backends.ring import BackRing, RingError
from xenograft.backends.tap import RingTap
from xenograft.hypervisor.grants.host import GrantCopier
from xenograft.hypervisor.grants.status import GrantError

if TYPE_CHECKING:
    from xenograft.backends.block.device import BlockDevice
    from xenograft.backends.block.grants import Page
    from xenograft.backends.xenbus.host import MappedPages
    from xenograft.backends.xenbus.work import Outcome
    from xenograft.engine.protocol import Granted

GATHER_NS = 200_000
"""How long requests, and answers, may gather in the ring while their guest is busy."""

GATHER_AT_MOST_NS = 1_000_000
"""How long requests may gather while there come more of them."""

TAKE_AT_ONCE = 16
"""Requests that are taken before the device is asked whether it has room for more."""

WRITES_AT_ONCE = 1 << 20
"""Bytes of writes that one job does at most: more of them go to several threads."""

NO_MEDIUM = ZeroImage(0)


class Located(NamedTuple):
    """The memory of a transfer: pieces as `MachineMemory.locate` gives them, and their size.

    `pages` are those to be released; None: the transfer uses pages that stay anyway, or, if
    there are `packed` segments, pages that are what they are until the guest runs again.
    """

    pieces: bytes
    size: int
    pages: list[Page] | None
    packed: bytes | None = None


def _error_of(work: Callable[[], None]) -> OSError | None:
    try:
        work()
    except OSError as error:
        return error
    return None


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
        name = f"queue {index}" if index else ""
        self.ring.tap = RingTap(device, name, request_shower(layout), response_shower(layout))
        self.grants = GrantPages(device.host, device.domid, persistent)
        self.persistent = persistent
        self.copier = GrantCopier(device.host.domain.grants, device.domid)
        self._maddrs = pages.packed
        self.closed = False
        self.halted = False
        """The front end has broken the ring: it isn't looked at any more."""
        self.delayed = 0
        """Answers that wait, since a test wants them late."""
        self._writes: list[tuple[Request, bytes]] = []
        """Writes that came together, and go to the image as one job."""
        self._writes_bytes = 0
        self._processing = False
        self._to_push = False
        self._called = False
        self._gathered = 0
        self._gather_until = 0
        self.channel = device.host.bind(device.domid, remote_port, self._call)

    def close(self) -> None:
        """Let go of the front end's pages and port; what is under way is answered to nobody."""
        self.closed = True
        self.channel.close()
        self.grants.close()
        self.pages.unmap()

    # -- requests --------------------------------------------------------------------------------
    def _call(self) -> None:
        """The front end has put something into the ring, and may go on doing so."""
        if not self._called:
            host = self.device.host
            self._called = True
            self._gathered = 0
            self._gather_until = host.now() + GATHER_AT_MOST_NS
            host.soon(self._answer_call, GATHER_NS)

    def _answer_call(self) -> None:
        """The guest has nothing more to do, or time is up: unless more and more requests come."""
        host = self.device.host
        if not self.closed and host.busy and host.now() < self._gather_until:
            waiting, before = self.ring.unchecked_waiting(), self._gathered
            if before < waiting < self.ring.slots // 2:
                self._gathered = waiting
                host.soon(self._answer_call, GATHER_NS)
                return
        self._called = False
        self.device.new_turn()
        self.process()

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
                if device.may_batch:
                    self._batch()
                taken = ring.take(TAKE_AT_ONCE, self.layout.request_size)
                for data in taken:
                    self._begin(data)
                if len(taken) < TAKE_AT_ONCE and not ring.final_check():
                    break
        except RingError as error:
            self.halted = True
            device.host.log(f"{device.path}: bogus ring requests, halting the ring: {error}")
        finally:
            self._processing = False
        self._submit_writes()
        self.push()

    def _batch(self) -> None:
        """Have the native core do the next requests, as far as they're plain and need no waiting.

        What it does is what `take`, `start` and `respond` would, with the same checks.
        """
        device, ring = self.device, self.ring
        image, count = device.image, ring.waiting()
        fd = image.cached_fd if isinstance(image, RawImage) else -1
        if not count or fd < 0 or device.batch is None:
            return
        reads, read, writes, written, slow = device.batch(
            self._maddrs,
            self.layout.bits,
            ring.slots,
            ring.req_cons,
            ring.rsp_prod_pvt,
            count,
            self.grants.maddrs,
            self.granted(),
            fd,
            device.sectors,
            device.allowance,
            device.patience,
        )
        ring.answered(reads + writes)
        device.batched(reads, read, writes, written, slow)

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
            elif operation == BLKIF_OP_WRITE:
                self._write(request)
            else:
                self._flush(request)
        except BadRequest as bad:
            self._refuse(request, bad.status)
        except GrantError:
            self._refuse(request, BLKIF_RSP_ERROR)

    def _refuse(self, request: Request, status: int) -> None:
        self.device.metrics.refused += 1
        self.respond(request.id, request.operation, status)
        self.device.passed(request)

    def _packed(self, request: Request) -> bytes:
        """The segments of a request, out of its indirect pages if it has any."""
        if not request.indirect:
            return request.packed
        left, parts = request.nr_segments, []
        for ref in request.indirect:
            count = min(left, SEGMENTS_PER_PAGE)
            left -= count
            parts.append(self._indirect_page(ref, count * SEGMENT_SIZE))
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _indirect_page(self, ref: int, size: int) -> bytes:
        memory = self.device.host.memory
        whole = pack_segments(((ref, 0, SECTORS_PER_PAGE - 1),))
        found = memory.locate(whole, self.grants.maddrs, self.granted())
        if found is not None:
            return memory.gather(found[0])[:size]
        pages = self.grants.acquire((ref,), True)
        data = memory.read(pages[0].maddr, size)
        self.grants.release(pages)
        return data

    def granted(self) -> Granted | None:
        """What tells the native core the pages that aren't kept; None: each is to be mapped."""
        return None if self.persistent else self.copier.describe()

    def _locate(self, request: Request, readonly: bool) -> Located:
        """Where the segments of a transfer are in memory; `let_go` gives the pages back.

        Raises BadRequest, GrantError.
        """
        packed = self._packed(request)
        memory, grants = self.device.host.memory, self.grants
        granted = self.granted()
        found = memory.locate(packed, grants.maddrs, granted, not readonly)
        if found is not None:
            check_range(request.sector, found[1] >> SECTOR_SHIFT, self.device.sectors)
            grants.held += 1
            return Located(*found, None, packed if granted is not None else None)
        segments = parse_segments(packed)
        size = transfer_size(segments)
        check_range(request.sector, size >> SECTOR_SHIFT, self.device.sectors)
        return self._acquire(packed, readonly)

    def _acquire(self, packed: bytes, readonly: bool) -> Located:
        """Map the pages of segments that are good.  Raises GrantError."""
        pages = self.grants.acquire([one[0] for one in parse_segments(packed)], readonly)
        maddrs = {page.ref: page.maddr for page in pages}
        found = self.device.host.memory.locate(packed, maddrs)
        assert found is not None  # the segments are good, and their pages mapped
        return Located(*found, pages)

    def _put(self, located: Located, data: bytes | bytearray) -> GrantError | None:
        """Put what was read where it belongs, if that is still granted; gives the pages back."""
        memory = self.device.host.memory
        if located.packed is not None:
            # Guests have run since: what was found then says nothing now.
            self._let_go(located)
            found = memory.locate(located.packed, self.grants.maddrs, self.granted(), True)
            if found is not None:
                memory.scatter(found[0], data)
                return None
            try:
                located = self._acquire(located.packed, False)
            except GrantError as error:
                return error
        memory.scatter(located.pieces, data)
        self._let_go(located)
        return None

    def _let_go(self, located: Located) -> None:
        if located.pages is None:
            self.grants.held -= 1
        else:
            self.grants.release(located.pages)

    # -- reading ---------------------------------------------------------------------------------
    def _read(self, request: Request) -> None:
        device = self.device
        located = self._locate(request, False)
        size = located.size
        device.metrics.rd_req += 1
        device.metrics.rd_sect += size >> SECTOR_SHIFT
        if device.read_now(request.sector << SECTOR_SHIFT, located):
            device.metrics.immediate += 1
            self._let_go(located)
            self.respond(request.id, request.operation, BLKIF_RSP_OKAY)
            device.passed(request)
            return

        def done(outcome: Outcome[bytes | bytearray]) -> None:
            error = outcome.error
            if not self.closed:
                if error is None:
                    error = self._put(located, outcome.get())
                else:
                    self._let_go(located)
            self._finish(request, size, error)

        image, offset = device.image, request.sector << SECTOR_SHIFT
        assert image is not None  # without one there are no sectors to read
        device.submit(request, lambda: image.read(offset, size), done, size)

    # -- writing ---------------------------------------------------------------------------------
    def _write(self, request: Request) -> None:
        """A plain write: it goes to the image together with others that came with it."""
        device = self.device
        if device.readonly:
            raise BadRequest(BLKIF_RSP_ERROR, "the disk is read-only")
        located = self._locate(request, True)
        data = device.host.memory.gather(located.pieces)
        self._let_go(located)
        device.metrics.wr_req += 1
        device.metrics.wr_sect += located.size >> SECTOR_SHIFT
        device.begun(request, located.size)
        self._writes.append((request, data))
        self._writes_bytes += located.size
        if self._writes_bytes >= WRITES_AT_ONCE or not self._processing:
            self._submit_writes()

    def _submit_writes(self) -> None:
        """Have the writes done that have come together."""
        writes, size = self._writes, self._writes_bytes
        if not writes:
            return
        self._writes, self._writes_bytes = [], 0
        device = self.device
        image = device.image
        if image is None:
            image = NO_MEDIUM

        through = device.write_through

        def work() -> list[OSError | None]:
            errors = [
                _error_of(partial(image.write, request.sector << SECTOR_SHIFT, data))
                for request, data in writes
            ]
            lost = _error_of(image.flush) if through else None
            return [error or lost for error in errors]

        def done(outcome: Outcome[list[OSError | None]]) -> None:
            errors = outcome.get()
            for (request, data), error in zip(writes, errors, strict=True):
                self._finish(request, len(data), error)

        device.run(work, done, size)

    def _flush(self, request: Request) -> None:
        """Flushes and barriers; a barrier with data is a write between two flushes."""
        device = self.device
        after = request.operation == BLKIF_OP_WRITE_BARRIER
        data = b""
        if request.packed:
            if device.readonly:
                raise BadRequest(BLKIF_RSP_ERROR, "the disk is read-only")
            located = self._locate(request, True)
            data = device.host.memory.gather(located.pieces)
            self._let_go(located)
            device.metrics.wr_sect += located.size >> SECTOR_SHIFT
        image = device.image
        if image is None:
            raise BadRequest(BLKIF_RSP_ERROR, "no medium")
        device.metrics.f_req += 1
        offset, size = request.sector << SECTOR_SHIFT, len(data)

        def work() -> None:
            image.flush()
            if data:
                image.write(offset, data)
                if after:
                    image.flush()

        device.submit(
            request, work, lambda outcome: self._finish(request, size, outcome.error), size
        )

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
        if request.operation in FLUSHES:
            # Linux sends no more of them after one that failed.
            device.write_through = error is not None
        if error is not None:
            device.failed(request, error)
        if not self.closed:
            status = BLKIF_RSP_OKAY if error is None else failure(request.operation)
            self.respond(request.id, request.operation, status)
        device.finished(request, size)

    def respond(self, ident: int, operation: int, status: int) -> None:
        """Answer a request; the front end sees it after `push`, which follows by itself."""
        if self.device.delay_ns:
            self._respond_later(ident, operation, status)
            return
        self._respond(ident, operation, status)

    def _respond_later(self, ident: int, operation: int, status: int) -> None:
        """Answer as late as a test wants it."""
        hypervisor = self.device.host.hypervisor
        self.delayed += 1

        def respond() -> None:
            self.delayed -= 1
            if not self.closed:
                self._respond(ident, operation, status)

        hypervisor.timers.add(hypervisor.clock.now() + self.device.delay_ns, respond)

    def _respond(self, ident: int, operation: int, status: int) -> None:
        self.ring.respond(self.layout.response(ident, operation, status))
        # Outside `process` this is the end of a job, or what an end has set free.
        if not self._processing and not self._to_push:
            self._to_push = True
            self.device.host.soon(self.push, GATHER_NS)

    def push(self) -> None:
        """Show the front end the answers, and wake it if it wants that."""
        self._to_push = False
        if not self.closed and self.ring.push():
            self.channel.notify()
