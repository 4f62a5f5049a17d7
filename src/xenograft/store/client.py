# SPDX-License-Identifier: GPL-2.0-or-later
"""The store from within this process: what the toolstack and the back ends use.

It is a connection like any other, with the rights of the domain it speaks for; requests go
through the same door.  Values are text here, unless asked for as bytes.

>>> from xenograft.store.service import Xenstore
>>> client = StoreClient(Xenstore())
>>> client.write("/tool/greeting", "hello")
>>> client.read("/tool/greeting"), client.ls("/tool")
('hello', ['greeting'])
>>> with client.transaction() as tx:
...     tx.write("/tool/count", "1")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeVar

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.io import xs_wire
from xenograft.store import wire
from xenograft.store.service import Xenstore

T = TypeVar("T")
WatchCallback = Callable[[str, str], None]
"""Called with (path that changed, token)."""

_RETRIES = 100


class StoreView:
    """Requests on the store, or inside a transaction.  All methods raise XenError."""

    def __init__(self, client: StoreClient, tx_id: int) -> None:
        self._client = client
        self._tx_id = tx_id

    def _ask(self, operation: int, payload: bytes) -> bytes:
        return self._client.request(operation, payload, self._tx_id)

    def read_bytes(self, path: str) -> bytes:
        """The value at `path`."""
        return self._ask(xs_wire.XS_READ, _z(path))

    def read(self, path: str) -> str:
        """The value at `path`, as text (what isn't UTF-8 is replaced)."""
        return self.read_bytes(path).decode("utf-8", "replace")

    def get(self, path: str, default: str | None = None) -> str | None:
        """The value at `path`, or `default` if there's no such node."""
        try:
            return self.read(path)
        except XenError as error:
            if error.errno is Errno.ENOENT:
                return default
            raise

    def exists(self, path: str) -> bool:
        return self.get(path) is not None

    def write(self, path: str, value: str | bytes | int) -> None:
        """Set a value; numbers are written in decimal."""
        data = value if isinstance(value, bytes) else str(value).encode()
        self._ask(xs_wire.XS_WRITE, _z(path) + data)

    def mkdir(self, path: str) -> None:
        self._ask(xs_wire.XS_MKDIR, _z(path))

    def rm(self, path: str) -> None:
        """Remove a node and all below it."""
        self._ask(xs_wire.XS_RM, _z(path))

    def ls(self, path: str) -> list[str]:
        """The names of a node's children, in order; however many there are."""
        while True:
            names, generation = b"", b""
            while True:
                part = self._ask(xs_wire.XS_DIRECTORY_PART, _z(path) + b"%d\0" % len(names))
                now, _, chunk = part.partition(b"\0")
                if generation and now != generation:
                    break
                generation = now
                if chunk.endswith(b"\0\0") or chunk == b"\0":
                    return [name.decode() for name in (names + chunk).split(b"\0") if name]
                names += chunk

    def tree(self, path: str) -> Iterator[tuple[str, str]]:
        """(path, value) of a node and all below it, each before its children."""
        pending = [path]
        while pending:
            where = pending.pop()
            yield where, self.read(where)
            pending.extend(f"{where.rstrip('/')}/{name}" for name in reversed(self.ls(where)))

    def get_perms(self, path: str) -> list[str]:
        """Permissions as in ``["n0", "r3"]``; the first names the owner."""
        return _strings(self._ask(xs_wire.XS_GET_PERMS, _z(path)))

    def set_perms(self, path: str, perms: Iterable[str]) -> None:
        self._ask(xs_wire.XS_SET_PERMS, _z(path) + b"".join(_z(word) for word in perms))


class StoreClient(StoreView):
    """A connection of this process.

    Callbacks of watches run when the request that made their event is done; never one inside
    another.  `schedule`, if given, is called instead of running them, and whoever owns the
    loop calls `run_callbacks` soon.
    """

    def __init__(
        self, store: Xenstore, domid: int = 0, schedule: Callable[[], None] | None = None
    ) -> None:
        super().__init__(self, 0)
        self.store = store
        self.connection = store.connect(domid)
        self.connection.notify = schedule if schedule is not None else self._deliver
        self._callbacks: dict[str, WatchCallback] = {}
        self._next_token = 0
        self._delivering = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def request(self, operation: int, payload: bytes, tx_id: int = 0) -> bytes:
        """Any operation of the wire protocol; returns the reply's payload."""
        return self.store.request(self.connection, operation, payload, tx_id)

    def close(self) -> None:
        """Take back all watches and transactions."""
        self.store.disconnect(self.connection)
        self._callbacks.clear()

    # -- transactions -----------------------------------------------------------------------
    @contextmanager
    def transaction(self) -> Iterator[StoreView]:
        """Requests that take effect together, or not at all if the block raises.

        Raises XenError(EAGAIN) at its end if it met a conflict: see `transact`.
        """
        tx_id = int(self.request(xs_wire.XS_TRANSACTION_START, b"\0").rstrip(b"\0"))
        try:
            yield StoreView(self, tx_id)
        except BaseException:
            self.request(xs_wire.XS_TRANSACTION_END, b"F\0", tx_id)
            raise
        self.request(xs_wire.XS_TRANSACTION_END, b"T\0", tx_id)

    def transact(self, work: Callable[[StoreView], T]) -> T:
        """Do `work` in a transaction, again after each conflict; returns what it returns.

        Raises XenError(EAGAIN) after a hundred conflicts.
        """
        for attempt in range(_RETRIES):
            try:
                with self.transaction() as view:
                    result = work(view)
                return result
            except XenError as error:
                if error.errno is not Errno.EAGAIN or attempt == _RETRIES - 1:
                    raise
        raise AssertionError("unreachable")

    # -- watches ----------------------------------------------------------------------------
    def watch(self, path: str, callback: WatchCallback) -> str:
        """Call `callback` now, and whenever something at or below `path` changes.

        Returns the token by which `unwatch` takes it back.
        """
        self._next_token += 1
        token = f"{path}#{self._next_token}"
        self._callbacks[token] = callback
        try:
            self.request(xs_wire.XS_WATCH, _z(path) + _z(token))
        except XenError:
            del self._callbacks[token]
            raise
        return token

    def unwatch(self, path: str, token: str) -> None:
        """Take a watch back; events of it that wait are dropped."""
        self._callbacks.pop(token, None)
        self.request(xs_wire.XS_UNWATCH, _z(path) + _z(token))

    def run_callbacks(self) -> None:
        """Run the callbacks of events that have come, unless one is running already."""
        self._deliver()

    def _deliver(self) -> None:
        if self._delivering:
            return
        self._delivering = True
        try:
            while (message := self.connection.take()) is not None:
                path, token = _strings(message[wire.HEADER_SIZE :])
                callback = self._callbacks.get(token)
                if callback is not None:
                    callback(path, token)
        finally:
            self._delivering = False

    # -- domains ----------------------------------------------------------------------------
    def introduce(self, domid: int, gfn: int, port: int) -> None:
        """Let the store talk to a domain, over the page `gfn` and its event channel `port`."""
        self.request(xs_wire.XS_INTRODUCE, _z(str(domid)) + _z(str(gfn)) + _z(str(port)))

    def release(self, domid: int) -> None:
        """Let the store forget a domain, and all that it owns."""
        self.request(xs_wire.XS_RELEASE, _z(str(domid)))

    def resume(self, domid: int) -> None:
        """Tell of the domain's shutdown again when it comes."""
        self.request(xs_wire.XS_RESUME, _z(str(domid)))

    def set_target(self, domid: int, target: int) -> None:
        """Give `domid` the rights of `target` beside its own."""
        self.request(xs_wire.XS_SET_TARGET, _z(str(domid)) + _z(str(target)))

    def is_introduced(self, domid: int) -> bool:
        return self.request(xs_wire.XS_IS_DOMAIN_INTRODUCED, _z(str(domid))) == b"T\0"

    def domain_path(self, domid: int) -> str:
        """``/local/domain/<domid>``."""
        return _strings(self.request(xs_wire.XS_GET_DOMAIN_PATH, _z(str(domid))))[0]


def _z(text: str) -> bytes:
    """Text as a string of the protocol.  Raises XenError(EINVAL) for a NUL in it."""
    if "\0" in text:
        raise XenError(Errno.EINVAL)
    return text.encode() + b"\0"


def _strings(payload: bytes) -> list[str]:
    return [word.decode("utf-8", "replace") for word in payload.split(b"\0")[:-1]]
