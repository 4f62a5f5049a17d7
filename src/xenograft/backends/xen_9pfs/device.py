# SPDX-License-Identifier: GPL-2.0-or-later
"""The 9pfs device of a back end (``backend/9pfs/<domid>/<number>``).

Which nodes there are: public/io/9pfs.h and docs/misc/9pfs.pandoc.  `path` and `security_model`
are libxl's; `readonly` is ours.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, TypeVar

from xenograft.abi.errno import Errno
from xenograft.backends.ring import RingError
from xenograft.backends.xen_9pfs import protocol
from xenograft.backends.xen_9pfs.beneath import Folder
from xenograft.backends.xen_9pfs.locks import LockTable
from xenograft.backends.xen_9pfs.metrics import P9Metrics
from xenograft.backends.xen_9pfs.persist import P9State, restore_server, save_server
from xenograft.backends.xen_9pfs.ring import FlexRing, read_order, read_refs
from xenograft.backends.xen_9pfs.server import Server
from xenograft.backends.xenbus.device import DeviceError, XenbusDevice

if TYPE_CHECKING:
    from xenograft.backends.xenbus.host import BackendHost, EventChannel, MappedPages
    from xenograft.backends.xenbus.work import Outcome, WorkPool
    from xenograft.hypervisor.timers import Timer

T = TypeVar("T")

MAX_RINGS = 4
MAX_RING_PAGE_ORDER = 6
"""64 data pages in a ring: messages of up to 128 KiB, which is what Linux asks for by default."""

MAX_UNDER_WAY = 64
MAX_BYTES_UNDER_WAY = 8 << 20
"""What a device holds of its guest's requests at most; further ones wait in the ring."""

MAX_QUICK = 8
"""Requests that are answered at once before the machine goes on."""

THREADS = 2
"""Of a device: a folder on a slow network holds up nobody but its own guests."""

_POLL_NS = 1_000_000
"""How often a ring without room for an answer is looked at: a front end needn't tell."""
_COST_NS = 40_000
_LOGGED = 10


class Ring:
    """One ring of a device, and its event channel."""

    def __init__(self, device: P9Device, index: int) -> None:
        self._device = device
        host, number = device.host, device.frontend_number
        self._interface = host.map_pages(device.domid, [number(f"ring-ref{index}")])
        self._data: MappedPages | None = None
        self._channel: EventChannel | None = None
        self._answers: deque[bytes] = deque()
        self._timer: Timer | None = None
        self.under_way: dict[int, int] = {}
        """Requests by tag."""
        self.flushes: dict[int, list[int]] = {}
        """Tags of Tflush messages by the tag of the request that they wait for."""
        self.closed = False
        try:
            order = read_order(self._interface, MAX_RING_PAGE_ORDER)
            self._data = host.map_pages(device.domid, read_refs(self._interface, order))
            self.ring = FlexRing(self._interface, self._data, order)
            port = number(f"event-channel-{index}")
            self._channel = host.bind(device.domid, port, lambda: device.guard(self.process))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the front end's pages and port; what is under way is answered to nobody."""
        self.closed = True
        self._device.host.hypervisor.timers.cancel(self._timer)
        self._timer = None
        self._answers.clear()
        if self._channel is not None:
            self._channel.close()
        if self._data is not None:
            self._data.unmap()
        self._interface.unmap()

    def process(self) -> None:
        """Take what requests there are, as far as the device has room.  Raises RingError."""
        device = self._device
        if self._answers:
            self._push()
        while not self.closed:
            if not device.has_room:
                device.metrics.held += 1
                device.stalled[self] = None
                return
            message = self.ring.take()
            if message is None:
                return
            self._begin(message)

    def _begin(self, message: bytes) -> None:
        device, (size, number, tag) = self._device, protocol.header(message)
        device.metrics.requests += 1
        device.metrics.bytes_in += size
        device.show(message)
        if number == protocol.TFLUSH and size == protocol.HEADER_SIZE + 2:
            old = int.from_bytes(message[protocol.HEADER_SIZE :], "little")
            if old in self.under_way:
                self.flushes.setdefault(old, []).append(tag)
                return
        reply = device.answer_now(message)
        if reply is not None:
            self._add(reply)
            self._push()
            return
        self.under_way[tag] = self.under_way.get(tag, 0) + 1
        device.submit(self, tag, message)

    def answer(self, tag: int, reply: bytes) -> None:
        """A request has its answer."""
        count = self.under_way.pop(tag) - 1
        if count:
            self.under_way[tag] = count
        if self.closed:
            return
        self._add(reply)
        # One that flushed another may itself have been flushed: each frees the next.
        freed = [] if count else self.flushes.pop(tag, [])
        while freed:
            flush = freed.pop(0)
            self._add(protocol.REPLIES[protocol.TFLUSH + 1].pack(flush))
            if flush not in self.under_way:
                freed += self.flushes.pop(flush, [])
        self._push()

    def _add(self, reply: bytes) -> None:
        metrics = self._device.metrics
        metrics.bytes_out += len(reply)
        metrics.errors += reply[4] == protocol.RLERROR.number
        self._device.show(reply)
        self._answers.append(reply)

    def _push(self) -> None:
        pushed = False
        while self._answers and self.ring.put(self._answers[0]):
            self._answers.popleft()
            pushed = True
        if pushed and self._channel is not None:
            self._channel.notify()
        if self._answers and self._timer is None:
            self._device.metrics.full += 1
            host = self._device.host
            self._timer = host.hypervisor.timers.add(host.now() + _POLL_NS, self._poll)

    @property
    def unsent(self) -> tuple[bytes, ...]:
        """Answers that wait for room."""
        return tuple(self._answers)

    @unsent.setter
    def unsent(self, answers: tuple[bytes, ...]) -> None:
        self._answers = deque(answers)

    @property
    def waiting(self) -> int:
        """Answers that wait for room, and flushes that wait for a request."""
        return len(self._answers) + sum(map(len, self.flushes.values()))

    def _poll(self) -> None:
        self._timer = None
        if not self.closed:
            self._push()
            self._device.resume()


class P9Device(XenbusDevice):
    """A folder that a guest mounts (``mount -t 9p -o trans=xen TAG …``)."""

    kind: ClassVar[str] = "9pfs"
    saved = P9State

    def __init__(
        self, locks: LockTable, host: BackendHost, path: str, domid: int, devid: int
    ) -> None:
        super().__init__(host, path, domid, devid)
        self.metrics = P9Metrics()
        self.rings: list[Ring] = []
        self.stalled: dict[Ring, None] = {}
        """Rings with requests that wait for room."""
        self.server: Server | None = None
        self._locks = locks
        self._folder: Folder | None = None
        self._readonly = False
        self._requests = 0
        self._bytes = 0
        self._pool: WorkPool | None = None
        self._logged = 0
        self._quick = 0

    # -- states ----------------------------------------------------------------------------------
    def offer(self) -> None:
        path = self.read("path")
        model = self.read("security_model", "none")
        if not path:
            raise DeviceError(Errno.ENOENT, f"{self.path}/path names no folder")
        if model != "none":
            raise DeviceError(Errno.EOPNOTSUPP, f"security_model {model!r}; there is 'none'")
        self._readonly = self.read("readonly", "0") == "1"
        if self._folder is None:
            try:
                self._folder = Folder(path)
            except OSError as error:
                raise DeviceError(Errno.ENOENT, f"{path}: {error.strerror}") from None
        self.publish(
            {
                "versions": "1",
                "max-rings": MAX_RINGS,
                "max-ring-page-order": MAX_RING_PAGE_ORDER,
            }
        )

    def connect(self) -> None:
        if (version := self.read_frontend("version")) != "1":
            raise DeviceError(Errno.EINVAL, f"{self.frontend}/version is {version}; there is 1")
        count = self.frontend_number("num-rings")
        if not 1 <= count <= MAX_RINGS:
            raise DeviceError(Errno.EINVAL, f"{count} rings; there can be 1 to {MAX_RINGS}")
        assert self._folder is not None  # opened before InitWait
        for index in range(count):
            self.rings.append(Ring(self, index))
        self.server = Server(
            self._folder,
            min(ring.ring.size for ring in self.rings),
            readonly=self._readonly,
            locks=self._locks,
            session=self.domid << 32 | self.devid,
        )

    def connected(self) -> None:
        self.resume(self.rings)

    def disconnect(self) -> None:
        for ring in self.rings:
            ring.close()
        self.rings.clear()
        self.stalled.clear()
        server, self.server = self.server, None
        if server is not None:
            # Others may have its locks from now on: the same guest's, taken back to a moment, too.
            server.locks.drop(server.session)
            # Closing files may take as long as anything else that's done with them.
            self._submit(server.close, lambda _outcome: None, 0, exclusive=True)

    def busy(self) -> bool:
        return self._requests > 0

    def release(self) -> None:
        if self._folder is not None:
            self._folder.close()
            self._folder = None
        pool, self._pool = self._pool, None
        if pool is not None:
            self.host.drop_pool(pool)

    # -- requests --------------------------------------------------------------------------------
    @property
    def has_room(self) -> bool:
        """Whether more requests may be taken from a ring."""
        under_way = self._requests + sum(ring.waiting for ring in self.rings)
        return under_way < MAX_UNDER_WAY and self._bytes < MAX_BYTES_UNDER_WAY

    def show(self, message: bytes) -> None:
        """Let those who listen see a message."""
        if (hook := self.host.hypervisor.instruments.ring) is not None:
            way = "<" if message[4] in protocol.REPLIES else ">"
            text = f"{way} {protocol.describe(message)}"
            hook(self.host.now(), self.domid, f"{self.kind}/{self.devid}", text)

    @property
    def pool(self) -> WorkPool:
        """Threads of the device's own; on the virtual clock there's one order for all devices."""
        if self._pool is None:
            self._pool = self.host.own_pool(THREADS)
        return self._pool

    def answer_now(self, message: bytes) -> bytes | None:
        """The answer to what the host has in memory; on the virtual clock all takes its time."""
        hypervisor = self.host.hypervisor
        if self.server is None or self._quick >= MAX_QUICK or hypervisor.clock.virtual:
            return None
        reply = self.server.handle_now(message)
        if reply is not None:
            self.metrics.quick += 1
            if not self._quick:
                hypervisor.door.post(self._allow_quick)
            self._quick += 1
        return reply

    def _allow_quick(self) -> None:
        self._quick = 0

    def submit(self, ring: Ring, tag: int, message: bytes) -> None:
        """Have a request answered on a thread of the host's."""
        server = self.server
        assert server is not None  # rings are there

        def done(outcome: Outcome[bytes]) -> None:
            try:
                reply = outcome.get()
            except Exception as bug:
                # The guest gets an error, and whoever looks at the log something to report.
                self._complain(f"{protocol.describe(message)}: {type(bug).__name__}: {bug}")
                reply = protocol.error(tag, errno.EIO)
            self.guard(lambda: ring.answer(tag, reply))
            self.guard(self.resume)

        # An answer may be as long as was agreed upon, whatever the request's length.
        self._submit(lambda: server.handle(message), done, max(len(message), 4096))

    def _submit(
        self,
        work: Callable[[], T],
        done: Callable[[Outcome[T]], None],
        size: int,
        exclusive: bool = False,
    ) -> None:
        self._requests += 1
        self._bytes += size

        def finished(outcome: Outcome[T]) -> None:
            self._requests -= 1
            self._bytes -= size
            done(outcome)
            if not self._requests and not self.rings:
                self.settled()

        self.pool.submit(work, finished, _COST_NS + size, exclusive=exclusive)

    def resume(self, rings: list[Ring] | None = None) -> None:
        """Look at rings again whose requests had to wait.  Raises RingError."""
        stalled = rings if rings is not None else list(self.stalled)
        for ring in stalled:
            if rings is None and not self.has_room:
                return
            self.stalled.pop(ring, None)
            ring.process()

    def _complain(self, line: str) -> None:
        self._logged += 1
        if self._logged <= _LOGGED:
            self.host.log(f"{self.path}: {line}")

    # -- persistence -----------------------------------------------------------------------------
    def save(self) -> P9State | None:
        """The device's state; None if nobody is connected.

        Nothing may be under way (`WorkPool.drain`): else ValueError.
        """
        if self.server is None:
            return None
        if self._requests:
            raise ValueError(f"{self.path}: requests are under way")
        rings = tuple(ring.ring.save() for ring in self.rings)
        state = int(self.state)
        answers = tuple(ring.unsent for ring in self.rings)
        server = save_server(self.server)
        return P9State(self.path, self.domid, self.devid, state, server, rings, answers)

    def restore(self, state: P9State) -> None:
        """Go on where a saved device has stopped; the front end is connected already.

        Raises RingError if there are other rings than then.
        """
        if self.server is None or len(state.rings) != len(self.rings):
            raise RingError("the front end has other rings than when it was saved")
        if state.server.msize > min(ring.ring.size for ring in self.rings):
            raise RingError(f"messages of {state.server.msize} bytes don't fit into the rings")
        for ring, indices in zip(self.rings, state.rings, strict=True):
            ring.ring.restore(indices)
        for ring, answers in zip(self.rings, state.answers, strict=False):
            ring.unsent = answers
        try:
            lost = restore_server(self.server, state.server)
        except OSError as error:
            raise DeviceError(Errno.EINVAL, f"its fids: {error.strerror}") from None
        for line in lost:
            self._complain(f"can't be opened again: {line}")
