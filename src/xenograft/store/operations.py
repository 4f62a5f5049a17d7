# SPDX-License-Identifier: GPL-2.0-or-later
"""The operations of the wire protocol (docs/misc/xenstore.txt): one table, one function each.

A function takes a `Request`, returns the payload of the reply, and raises XenError; what is to
happen once the reply is on its way goes into `Request.after`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.io import xs_wire
from xenograft.abi.io.xs_wire import XENSTORE_PAYLOAD_MAX
from xenograft.abi.xen import DOMID_SELF
from xenograft.store import path
from xenograft.store.control import control
from xenograft.store.perms import READ, Perms
from xenograft.store.watches import Watch

if TYPE_CHECKING:
    from xenograft.store.connection import Connection
    from xenograft.store.path import Parts
    from xenograft.store.service import Xenstore
    from xenograft.store.workspace import Workspace

OK = b"OK\0"
_DOMID_LIMIT = 0x7FF0  # DOMID_FIRST_RESERVED


class Request:
    """A request under way, on a workspace: its transaction's, or one of its own."""

    __slots__ = ("after", "connection", "payload", "store", "tx_id", "workspace")

    def __init__(
        self,
        store: Xenstore,
        connection: Connection,
        workspace: Workspace,
        payload: bytes,
        tx_id: int = 0,
    ) -> None:
        self.store = store
        self.connection = connection
        self.workspace = workspace
        self.payload = payload
        self.tx_id = tx_id
        self.after: list[Callable[[], None]] = []

    def only(self) -> bytes:
        """The one string of the payload.  Raises EINVAL."""
        payload = self.payload
        if payload.find(b"\0") != len(payload) - 1 or not payload:
            raise XenError(Errno.EINVAL)
        return payload[:-1]

    def strings(self, least: int, most: int) -> list[bytes]:
        """The payload's strings, each ended by a NUL.  Raises EINVAL for another number."""
        strings = self.payload.split(b"\0")[:-1]
        if not least <= len(strings) <= most:
            raise XenError(Errno.EINVAL)
        return strings

    def parts(self, raw: bytes) -> Parts:
        """A path of the caller's.  Raises EINVAL."""
        return path.parse(self.connection.understood(raw), self.connection.domid)


# -- nodes ----------------------------------------------------------------------------------
def do_directory(request: Request) -> bytes:
    parts = request.parts(request.only())
    return request.workspace.node(request.connection.who, parts, READ).children.listing()


def do_directory_part(request: Request) -> bytes:
    """As many whole names as fit, from a byte offset in the listing; a NUL ends the last part."""
    raw, offset_string = request.strings(2, 2)
    offset = _number(offset_string)
    node = request.workspace.node(request.connection.who, request.parts(raw), READ)
    listing = node.children.listing()
    generation = b"%d\0" % node.generation
    room = XENSTORE_PAYLOAD_MAX - len(generation) - 1
    if offset >= len(listing):
        return generation + b"\0"
    part = listing[offset : offset + room]
    if offset + len(part) < len(listing):
        return generation + part[: part.rfind(b"\0") + 1]
    return generation + part + b"\0"


def do_read(request: Request) -> bytes:
    return request.workspace.read(request.connection.who, request.parts(request.only()))


def do_write(request: Request) -> bytes:
    raw, separator, value = request.payload.partition(b"\0")
    if not separator:
        raise XenError(Errno.EINVAL)
    request.workspace.write(request.connection.who, request.parts(raw), value)
    return OK


def do_mkdir(request: Request) -> bytes:
    request.workspace.mkdir(request.connection.who, request.parts(request.only()))
    return OK


def do_rm(request: Request) -> bytes:
    request.workspace.remove(request.connection.who, request.parts(request.only()))
    return OK


def do_get_perms(request: Request) -> bytes:
    parts = request.parts(request.only())
    perms = request.workspace.node(request.connection.who, parts, READ).perms
    return b"".join(word.encode() + b"\0" for word in perms.words())


def do_set_perms(request: Request) -> bytes:
    raw, *words = request.strings(2, XENSTORE_PAYLOAD_MAX)
    perms = Perms.parse([word.decode("ascii", "replace") for word in words])
    request.workspace.set_perms(request.connection.who, request.parts(raw), perms)
    return OK


# -- watches --------------------------------------------------------------------------------
def do_watch(request: Request) -> bytes:
    raw, token, *depth = request.strings(2, 3)
    connection, store = request.connection, request.store
    where, base = path.parse_watch(connection.understood(raw), connection.domid)
    if (where, token) in connection.watches:
        raise XenError(Errno.EEXIST)
    # One more than the quota, as in xenstored_watch.c.
    if not connection.who.privileged and len(connection.watches) > store.quota.watches:
        raise XenError(Errno.E2BIG)
    # A client is told of the path that it gave, whatever we call it.
    shown = raw.decode() if not base and raw != where.encode() else None
    watch = Watch(connection, where, token, base, _number(depth[0]) if depth else None, shown)
    store.add_watch(watch)
    # Every watch fires once at first, so that a client needn't look before it listens.
    request.after.append(lambda: connection.send_event(watch, where))
    return OK


def do_unwatch(request: Request) -> bytes:
    raw, token = request.strings(2, 2)
    raw = request.connection.understood(raw)
    where, _ = path.parse_watch(raw, request.connection.domid)
    watch = request.connection.watches.get((where, token))
    if watch is None:
        raise XenError(Errno.ENOENT)
    request.store.remove_watch(watch)
    return OK


def do_reset_watches(request: Request) -> bytes:
    request.store.drop_watches_and_transactions(request.connection)
    return OK


# -- transactions ---------------------------------------------------------------------------
def do_transaction_start(request: Request) -> bytes:
    if request.tx_id:
        raise XenError(Errno.EBUSY)
    return b"%d\0" % request.store.start_transaction(request.connection)


def do_transaction_end(request: Request) -> bytes:
    commit = request.only()
    if commit not in (b"T", b"F"):
        raise XenError(Errno.EINVAL)
    if not request.tx_id:
        raise XenError(Errno.ENOENT)
    after = request.store.end_transaction(request.connection, request.tx_id, commit == b"T")
    request.after.append(after)
    return OK


# -- domains --------------------------------------------------------------------------------
def do_introduce(request: Request) -> bytes:
    domid, gfn, port, *_ = request.strings(3, XENSTORE_PAYLOAD_MAX)
    frame = _number(gfn.removeprefix(b"-"))
    # Frame numbers come as signed decimals: those with the top bit set look negative.
    signed = -frame if gfn.startswith(b"-") else frame
    request.store.introduce(_domid(domid), signed & (1 << 64) - 1, _number(port))
    return OK


def do_release(request: Request) -> bytes:
    domid = _domid(request.only())
    if not request.store.is_introduced(domid):
        raise XenError(Errno.ENOENT)
    request.store.release(domid)
    return OK


def do_get_domain_path(request: Request) -> bytes:
    return path.base_path(_number(request.only())).encode() + b"\0"


def do_is_domain_introduced(request: Request) -> bytes:
    domid = _number(request.only())
    known = domid in (0, DOMID_SELF) or request.store.is_introduced(domid)
    return b"T\0" if known else b"F\0"


def do_resume(request: Request) -> bytes:
    domid = _domid(request.only())
    if not request.store.is_introduced(domid):
        raise XenError(Errno.ENOENT)
    request.store.resume(domid)
    return OK


def do_set_target(request: Request) -> bytes:
    domid, target, *_ = (_number(word) for word in request.strings(2, XENSTORE_PAYLOAD_MAX))
    request.store.set_target(domid, target)
    return OK


def do_control(request: Request) -> bytes:
    command, *arguments = request.payload.rstrip(b"\0").split(b"\0")
    return control(request.store, command, arguments)


def _number(word: bytes) -> int:
    """A decimal number.  Raises EINVAL."""
    if not word.isdigit() or len(word) > 20:
        raise XenError(Errno.EINVAL)
    return int(word)


def _domid(word: bytes) -> int:
    """A real domain that isn't the control domain.  Raises EINVAL."""
    domid = _number(word)
    if not 0 < domid < _DOMID_LIMIT:
        raise XenError(Errno.EINVAL)
    return domid


class Operation(NamedTuple):
    """A row of the table.

    `privileged`: for domain 0 alone (EACCES).  `outside`: the transaction's id is ignored.
    `replayed`: a transaction remembers it, and does it again when it meets a conflict.
    """

    handler: Callable[[Request], bytes]
    privileged: bool = False
    outside: bool = False
    replayed: bool = False


OPERATIONS: dict[int, Operation] = {
    xs_wire.XS_CONTROL: Operation(do_control, privileged=True),
    xs_wire.XS_DIRECTORY: Operation(do_directory, replayed=True),
    xs_wire.XS_READ: Operation(do_read, replayed=True),
    xs_wire.XS_GET_PERMS: Operation(do_get_perms, replayed=True),
    xs_wire.XS_WATCH: Operation(do_watch, outside=True),
    xs_wire.XS_UNWATCH: Operation(do_unwatch, outside=True),
    xs_wire.XS_TRANSACTION_START: Operation(do_transaction_start),
    xs_wire.XS_TRANSACTION_END: Operation(do_transaction_end),
    xs_wire.XS_INTRODUCE: Operation(do_introduce, privileged=True),
    xs_wire.XS_RELEASE: Operation(do_release, privileged=True),
    xs_wire.XS_GET_DOMAIN_PATH: Operation(do_get_domain_path),
    xs_wire.XS_WRITE: Operation(do_write, replayed=True),
    xs_wire.XS_MKDIR: Operation(do_mkdir, replayed=True),
    xs_wire.XS_RM: Operation(do_rm, replayed=True),
    xs_wire.XS_SET_PERMS: Operation(do_set_perms, replayed=True),
    xs_wire.XS_IS_DOMAIN_INTRODUCED: Operation(do_is_domain_introduced, privileged=True),
    xs_wire.XS_RESUME: Operation(do_resume, privileged=True),
    xs_wire.XS_SET_TARGET: Operation(do_set_target, privileged=True),
    xs_wire.XS_RESET_WATCHES: Operation(do_reset_watches),
    xs_wire.XS_DIRECTORY_PART: Operation(do_directory_part, replayed=True),
}
"""Operations by XS_* number; all others answer ENOSYS."""
