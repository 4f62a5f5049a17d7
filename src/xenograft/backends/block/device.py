# SPDX-License-Identifier: GPL-2.0-or-later
"""The block device of a back end (``backend/vbd/<domid>/<number>``).

Which nodes there are and what they mean: public/io/blkif.h; who writes them: libxl's disk code
and Linux's blkback, whose features this back end offers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, ClassVar, TypeVar

from xenograft.abi.errno import Errno
from xenograft.abi.io.blkif import (
    BLKIF_OP_DISCARD,
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER,
    VDISK_CDROM,
    VDISK_READONLY,
    VDISK_REMOVABLE,
)
from xenograft.abi.io.xenbus import XenbusState
from xenograft.backends.block.images.image import Image, ImageError
from xenograft.backends.block.images.open import open_image, remote_parts
from xenograft.backends.block.images.qcow2.image import Qcow2Image
from xenograft.backends.block.images.raw import RawImage
from xenograft.backends.block.metrics import BlockMetrics
from xenograft.backends.block.persist import BlockState, QueueState
from xenograft.backends.block.protocol import (
    MAX_INDIRECT_SEGMENTS,
    SECTOR_SHIFT,
    SECTOR_SIZE,
    Request,
    layout_of,
)
from xenograft.backends.block.queue import BlockQueue, Located
from xenograft.backends.xenbus.device import DeviceError, XenbusDevice

if TYPE_CHECKING:
    from xenograft.backends.block.images.nbd import NbdImage
    from xenograft.backends.xenbus.host import BackendHost, EventChannel
    from xenograft.backends.xenbus.work import Outcome, WorkPool
    from xenograft.engine.protocol import MachineMemory

T = TypeVar("T")

MAX_QUEUES = 4
MAX_RING_PAGE_ORDER = 4

MAX_BYTES_UNDER_WAY = 32 << 20
"""What a device holds of its guest's data at most; further requests wait in the ring."""

MAX_REQUESTS_UNDER_WAY = 1024

IMMEDIATE_BYTES = 4 << 20
"""Bytes that a device reads at once before it leaves the rest to the host's threads."""

PATIENCE_NS = 2_000_000
"""How long a write into the host's memory may take on the machine's thread."""

DISTRUST_NS = 1_000_000_000
"""How long writes go to the host's threads after one that took longer."""

REMOTE_THREADS = 4
"""Threads of a device whose image isn't on this host."""

LOOK_AT_SIZE_NS = 100_000_000
"""How often an image's size is looked at while its guest uses it."""

_COST_NS = 80_000
_BYTES_PER_NS = 1
_LOGGED_ERRORS = 10

_ERRORS: dict[int, Callable[[int], str]] = {
    BLKIF_OP_READ: "read error at sector {}".format,
    BLKIF_OP_WRITE: "write error at sector {}".format,
    BLKIF_OP_DISCARD: "discard error at sector {}".format,
    BLKIF_OP_FLUSH_DISKCACHE: "a flush has failed".format,
    BLKIF_OP_WRITE_BARRIER: "a barrier has failed".format,
}

_FORMATS = {"aio": "raw", "raw": "raw", "tap": "raw", "qcow2": "qcow2"}
_UNKNOWN_FORMATS = ("qcow", "vhd", "vpc", "qed")


def parse_params(params: str) -> tuple[str, str]:
    """(path, format) of a `params` node: a path, or ``aio:PATH``, ``qcow2:PATH``.

    >>> parse_params("qcow2:/images/a.qcow2")
    ('/images/a.qcow2', 'qcow2')
    """
    prefix, colon, path = params.partition(":")
    if colon and (prefix in _FORMATS or prefix in _UNKNOWN_FORMATS):
        return path, _FORMATS.get(prefix, prefix)
    return params, "raw"


def _native(memory: MachineMemory) -> Callable[..., tuple[int, int, int, int, bool]] | None:
    """What does a batch of requests in the native core's memory; None for another memory."""
    from xenograft.engine import _core

    return partial(_core.blkif_batch, memory) if isinstance(memory, _core.Memory) else None


class BlockDevice(XenbusDevice):
    """A disk or CD drive that a guest sees."""

    kind: ClassVar[str] = "vbd"
    saved = BlockState

    def __init__(self, host: BackendHost, path: str, domid: int, devid: int) -> None:
        super().__init__(host, path, domid, devid)
        self.metrics = BlockMetrics()
        self.image: Image | None = None
        """What is in the drive; None: nothing."""
        self.sectors = 0
        self.readonly = False
        self.cdrom = False
        self.queues: list[BlockQueue] = []
        self.stalled: dict[BlockQueue, None] = {}
        """Queues with requests that had to wait for room."""
        self.lent = False
        """Whether another back end has the image; no requests are taken meanwhile."""
        self.provided: Image | None = None
        """An image that was opened already, for the next `offer`."""
        self._work: WorkPool = host.work
        self._remote: list[NbdImage] = []
        """Parts of the image that other hosts serve, who may keep us waiting."""
        self._params: str | None = None
        self._requests = 0
        self._writes = 0
        """Requests under way that change the disk: what a barrier has to wait for."""
        self._bytes = 0
        self._immediate = 0
        self._deferred: deque[tuple[BlockQueue, Request]] = deque()
        self._barrier = False
        self._starting = False
        self._look_again = 0
        self.batch = _native(host.memory)
        """`blkif_batch`, with what it needs of the machine."""
        self.write_through = False
        """Whether each write is flushed before it's answered: the guest may flush no more."""
        self._distrust = 0
        """Until when writes are none of the machine's thread."""

    # -- states ----------------------------------------------------------------------------------
    def offer(self) -> None:
        if self.image is None:
            self._open()
        self.write("hotplug-status", "connected")
        self.publish(
            {
                "feature-max-indirect-segments": MAX_INDIRECT_SEGMENTS,
                "multi-queue-max-queues": MAX_QUEUES,
                "max-ring-page-order": MAX_RING_PAGE_ORDER,
            }
        )
        if self._params is None:
            self._params = self.read("params", "")
            self.watch(f"{self.path}/params", lambda _path: self._params_changed())

    def _open(self) -> None:
        """Open the image that the nodes name."""
        self.cdrom = self.read("device-type") == "cdrom"
        self.readonly = self.cdrom or self.read("mode", "r") == "r"
        image, self.provided = self.provided, None
        if image is None:
            params = self.read("params", "") or ""
            if not params:
                if not self.cdrom:
                    raise DeviceError(Errno.ENOENT, f"{self.path}/params names no image")
                self.sectors = 0
                return
            try:
                image = open_image(*parse_params(params), self.readonly)
            except ImageError as error:
                raise DeviceError(Errno.EIO, str(error)) from None
        self._insert(image)

    def _insert(self, image: Image | None) -> None:
        self.image = image
        self.sectors = 0 if image is None else image.size >> SECTOR_SHIFT
        self._remote = [] if image is None else remote_parts(image)
        if self._remote and self._work is self.host.work:
            # Those who wait for a server that doesn't answer must not hold up other disks.
            self._work = self.host.own_pool(REMOTE_THREADS)
        if image is None:
            return
        nodes: dict[str, str | int] = {"node": image.path, "physical-device-path": image.path}
        if isinstance(image, RawImage) and image.is_device:
            nodes["physical-device"] = f"{image.device[0]:x}:{image.device[1]:x}"
        self.publish(nodes)

    def connect(self) -> None:
        layout = layout_of(self.read_frontend("protocol"))
        if layout is None:
            raise DeviceError(Errno.EINVAL, f"{self.frontend}/protocol is unknown")
        queues = self.frontend_number("multi-queue-num-queues", 1, MAX_QUEUES + 1)
        order = self.frontend_number("ring-page-order", 0, MAX_RING_PAGE_ORDER + 1)
        persistent = self.frontend_number("feature-persistent", 0) != 0
        if not queues:
            raise DeviceError(Errno.EINVAL, f"{self.frontend}/multi-queue-num-queues is 0")
        for index in range(queues):
            base = "" if queues == 1 else f"queue-{index}/"
            port = self.frontend_number(f"{base}event-channel")
            pages = self.host.map_pages(self.domid, self._ring_refs(base, order))
            try:
                queue = BlockQueue(self, index, layout, pages, port, persistent)
            except BaseException:
                pages.unmap()
                raise
            self.queues.append(queue)
        self.publish(self._properties())

    def _ring_refs(self, base: str, order: int) -> list[int]:
        first = self.read_frontend(f"{base}ring-ref0")
        if order == 0 and first is None:
            return [self.frontend_number(f"{base}ring-ref")]
        return [self.frontend_number(f"{base}ring-ref{i}") for i in range(1 << order)]

    def _properties(self) -> dict[str, str | int]:
        nodes: dict[str, str | int] = {
            "feature-flush-cache": 1,
            "feature-barrier": 1,
            # As in Xen's own back ends. Linux's one in a driver domain relies on it for its disk:
            # it hands on pages that it has mapped, which can't be granted, but are copied so.
            "feature-persistent": 1,
            "sectors": self.sectors,
            "info": self._info(),
            "sector-size": SECTOR_SIZE,
            "physical-sector-size": SECTOR_SIZE,
        }
        image = self.image
        granularity = 0 if image is None or self.readonly else image.discard_granularity
        if granularity and self.read("discard-enable", "1") != "0":
            nodes |= {
                "discard-granularity": granularity,
                "discard-alignment": 0,
                "discard-secure": 0,
                "feature-discard": 1,
            }
        return nodes

    def _info(self) -> int:
        cdrom = VDISK_CDROM | VDISK_REMOVABLE if self.cdrom else 0
        return cdrom | (VDISK_READONLY if self.readonly else 0)

    def connected(self) -> None:
        for queue in self.queues:
            queue.process()

    def disconnect(self) -> None:
        for queue in self.queues:
            queue.close()
        self.queues.clear()
        self.stalled.clear()
        self._deferred.clear()

    def busy(self) -> bool:
        return self._requests > 0

    def remove(self) -> None:
        super().remove()
        # Whom the answers were for is gone, and a server that doesn't answer isn't waited for.
        if self.busy():
            self._abort(self._remote)

    def _abort(self, parts: list[NbdImage]) -> None:
        for part in parts:
            part.abort()

    def release(self) -> None:
        image, self.image = self.image, None
        if image is not None:
            self._close_image(image)
        if self.provided is not None:
            self._close_image(self.provided)
            self.provided = None
        if self._work is not self.host.work:
            # We may be called by one of its jobs.
            pool, self._work = self._work, self.host.work
            self.host.soon(lambda: self.host.drop_pool(pool), 0)

    def _close_image(self, image: Image) -> None:
        try:
            image.close()
        except OSError as error:
            self.host.log(f"{self.path}: closing {image.path}: {error.strerror or error}")

    # -- changes while the guest runs ------------------------------------------------------------
    def _params_changed(self) -> None:
        """The toolstack has put another medium into the drive."""
        params = self.read("params", "") or ""
        if params == self._params or not self.cdrom:
            return
        self._params = params
        try:
            image = open_image(*parse_params(params), True) if params else None
        except ImageError as error:
            self.host.log(f"{self.path}: {error}")
            image = None
        self.change_medium(image)

    def change_medium(self, image: Image | None) -> None:
        """Put another image into a CD drive, or none.  Raises DeviceError for a disk."""
        if not self.cdrom:
            raise DeviceError(Errno.EINVAL, f"{self.path} is no CD drive")
        old, work = self.image, self._work
        self._abort(self._remote)
        self._insert(image)
        if old is not None:
            # Requests under way still read from the old one, and are done before this is.
            work.submit(
                old.close, lambda outcome: self._old_closed(old, outcome.error), exclusive=True
            )
        self._announce()

    def _old_closed(self, old: Image, error: BaseException | None) -> None:
        if error is not None:
            self.host.log(f"{self.path}: closing {old.path}: {error}")

    def look_at_size(self) -> None:
        """Do `resize` now and then, when the front end does something (as Linux's blkback)."""
        now = self.host.now()
        if now >= self._look_again:
            self._look_again = now + LOOK_AT_SIZE_NS
            self.resize()

    def grow(self, size: int) -> None:
        """Make the image longer, and tell the front end.  Raises OSError."""
        image = self.image
        if image is None or self.readonly or not isinstance(image, RawImage | Qcow2Image):
            raise OSError(Errno.EOPNOTSUPP, "its size can't be changed from here")
        if size < image.size or size % SECTOR_SIZE:
            raise OSError(Errno.EINVAL, f"it can only grow, from {image.size} bytes, by sectors")
        image.resize(size)
        self.resize()

    def resize(self) -> None:
        """The image may have another size by now: tell the front end."""
        if self.image is not None:
            sectors = self.image.refresh() >> SECTOR_SHIFT
            if sectors != self.sectors:
                self.sectors = sectors
                self._announce()

    def _announce(self) -> None:
        """Write the size, and the state again, which makes the front end look."""
        if self.state is XenbusState.Connected:
            self.publish({"sectors": self.sectors, "state": int(self.state)})

    def channels(self) -> list[EventChannel]:
        return [queue.channel for queue in self.queues]

    # -- requests --------------------------------------------------------------------------------
    @property
    def has_room(self) -> bool:
        """Whether more requests may be taken from a ring."""
        return (
            not self.lent
            and self._bytes < MAX_BYTES_UNDER_WAY
            and self._requests < MAX_REQUESTS_UNDER_WAY
            and len(self._deferred) < MAX_REQUESTS_UNDER_WAY
        )

    def order(self, queue: BlockQueue, request: Request) -> None:
        """Start a request when it may: not past a barrier, nor a barrier past what it follows."""
        if self._barrier or self._deferred or request.operation == BLKIF_OP_WRITE_BARRIER:
            self._deferred.append((queue, request))
            self._start_deferred()
        else:
            queue.start(request)

    def _start_deferred(self) -> None:
        if self._starting:
            return
        self._starting = True
        try:
            while self._deferred and not self._barrier:
                queue, request = self._deferred[0]
                if request.operation == BLKIF_OP_WRITE_BARRIER:
                    if self._writes:
                        break
                    self._barrier = True
                self._deferred.popleft()
                if queue.closed:
                    self.passed(request)
                    continue
                queue.start(request)
        finally:
            self._starting = False

    def read_now(self, offset: int, located: Located) -> bool:
        """Read what needs no waiting; on the virtual clock every request takes its time."""
        host, size = self.host, located.size
        if self._immediate >= IMMEDIATE_BYTES or host.hypervisor.clock.virtual:
            return False
        image, memory = self.image, host.memory
        assert image is not None  # without one there are no sectors to read
        if image.fill_now(offset, size, partial(memory.fill, located.pieces)) != size:
            data = image.read_now(offset, size)
            if data is None:
                return False
            memory.scatter(located.pieces, data)
        self._immediate += size
        return True

    @property
    def may_batch(self) -> bool:
        """Whether the native core may do requests: nobody watches, and none has to wait."""
        hypervisor = self.host.hypervisor
        instruments = hypervisor.instruments
        return (
            self.batch is not None
            and not (hypervisor.clock.virtual or self._barrier or self._deferred)
            and not self.delay_ns
            and instruments.ring is None
            and instruments.grant_op is None
            and self._immediate < IMMEDIATE_BYTES
        )

    @property
    def allowance(self) -> int:
        """Bytes that may still be moved at once in this turn."""
        return IMMEDIATE_BYTES - self._immediate

    @property
    def patience(self) -> int:
        """How long a write may take at once, in ns; negative: there may be none."""
        distrusted = self.host.now() < self._distrust
        return -1 if self.readonly or self.write_through or distrusted else PATIENCE_NS

    def batched(self, reads: int, read: int, writes: int, written: int, slow: bool) -> None:
        """The native core has done so many requests, of so many bytes."""
        metrics = self.metrics
        metrics.rd_req += reads
        metrics.rd_sect += read >> SECTOR_SHIFT
        metrics.wr_req += writes
        metrics.wr_sect += written >> SECTOR_SHIFT
        metrics.immediate += reads + writes
        self._immediate += read + written
        if slow:
            # The host is busy writing to its disk, and makes those wait who give it more.
            self._distrust = self.host.now() + DISTRUST_NS

    def new_turn(self) -> None:
        """The guest has run since: it may have something read at once again."""
        self._immediate = 0

    def submit(
        self,
        request: Request,
        work: Callable[[], T],
        done: Callable[[Outcome[T]], None],
        size: int,
    ) -> None:
        """Have the image do a request on a thread of the host's."""
        self.begun(request, size)
        self.run(work, done, size)

    def begun(self, request: Request, size: int) -> None:
        """A request is under way, until it is `finished`."""
        self._requests += 1
        self._writes += request.operation != BLKIF_OP_READ
        self._bytes += size

    def run(self, work: Callable[[], T], done: Callable[[Outcome[T]], None], size: int) -> None:
        """Do something on a thread of the host's."""
        self._work.submit(work, done, _COST_NS + size // _BYTES_PER_NS)

    def passed(self, request: Request) -> None:
        """A request is over without having been submitted."""
        if request.operation == BLKIF_OP_WRITE_BARRIER:
            self._barrier = False
            self._start_deferred()

    def finished(self, request: Request, size: int) -> None:
        """A request that was submitted is over."""
        self._requests -= 1
        self._writes -= request.operation != BLKIF_OP_READ
        self._bytes -= size
        self.passed(request)
        if self._deferred:
            self._start_deferred()
        if self.stalled and self.has_room:
            stalled, self.stalled = self.stalled, {}
            for queue in stalled:
                queue.process()
        if not self._requests and not self.queues:
            self.settled()

    def failed(self, request: Request, error: BaseException) -> None:
        """The image could not do a request."""
        self.metrics.errors += 1
        if self.metrics.errors <= _LOGGED_ERRORS:
            why = error.strerror if isinstance(error, OSError) and error.strerror else error
            self.host.log(f"{self.path}: {_ERRORS[request.operation](request.sector)}: {why}")

    # -- persistence -----------------------------------------------------------------------------
    def quiesce(self) -> None:
        for queue in self.queues:
            queue.push()

    def lend(self) -> None:
        image, self.image = self.image, None
        self.lent = True
        if image is not None:
            try:
                if not image.readonly:
                    image.flush()
            finally:
                image.close()

    def take_back(self) -> None:
        if not self.lent:
            return
        self._open()
        self.lent = False
        stalled, self.stalled = self.stalled, {}
        for queue in stalled:
            queue.process()

    def save(self) -> BlockState:
        """The device's state; nothing may be under way (`WorkPool.drain`).

        Raises ValueError if something is.
        """
        if self._requests or self._deferred or any(queue.delayed for queue in self.queues):
            raise ValueError(f"{self.path}: requests are under way")
        return BlockState(
            self.path,
            self.domid,
            self.devid,
            int(self.state),
            self.sectors,
            tuple(
                QueueState(queue.ring.save(), queue.grants.save(), queue.halted)
                for queue in self.queues
            ),
            self.write_through,
        )

    def restore(self, state: BlockState) -> None:
        """The rings go on by themselves; pages that were kept mapped are mapped when needed."""
        if len(state.queues) != len(self.queues):
            raise DeviceError(Errno.EINVAL, "the front end has other rings than when it was saved")
        for queue, saved in zip(self.queues, state.queues, strict=True):
            queue.halted = saved.halted
        self.write_through = state.write_through
        if state.sectors != self.sectors:
            self._announce()
