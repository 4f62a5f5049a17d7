# SPDX-License-Identifier: GPL-2.0-or-later
"""A server of 9P2000.L for one client and one folder: a message in, its answer out.

Whatever a client sends is answered, by Rlerror if it's nonsense; nothing that it sends reaches
anything outside the folder (`beneath`).  Requests may run on several threads at once.  Files
belong to whoever runs this process: owners that a guest wants are set where the host permits it
(security_model "none" of Xen's 9pfs).
"""

from __future__ import annotations

import copy
import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from xenograft.backends.block.images.qcow2.rwlock import SharedLock
from xenograft.backends.xen_9pfs import protocol as p
from xenograft.backends.xen_9pfs.attributes import Attributes
from xenograft.backends.xen_9pfs.beneath import (
    Folder,
    WouldBlock,
    check_name,
    create,
    fail,
    join,
    proc_path,
    reopen,
)
from xenograft.backends.xen_9pfs.dirents import read_entries
from xenograft.backends.xen_9pfs.fids import Fid, Fids, OpenFile, Xattr
from xenograft.backends.xen_9pfs.locks import END, Held, LockTable, Owner, TooManyLocks
from xenograft.backends.xen_9pfs.protocol import ProtocolError, Qid

MAX_OFFSET = (1 << 63) - 1
MAX_QUICK_SIZE = 4096
"""A longer request isn't even looked into on the machine's thread."""
_MODE_BITS = 0o1777
"""What a guest may set: no set-user-ID or set-group-ID program comes to be on the host."""

_OPEN_FLAGS = {
    p.DOTL_TRUNC: os.O_TRUNC,
    p.DOTL_APPEND: os.O_APPEND,
    p.DOTL_DIRECTORY: os.O_DIRECTORY,
    p.DOTL_DSYNC: os.O_DSYNC,
    p.DOTL_SYNC: os.O_SYNC,
}
_DT_TYPES = {4: p.QTDIR, 10: p.QTSYMLINK}

Handler = Callable[[Any, int, dict[str, Any]], bytes]


def _offset(value: int) -> int:
    if value > MAX_OFFSET:
        raise fail(errno.EINVAL)
    return value


def _text(value: bytes) -> bytes:
    if b"\0" in value:
        raise fail(errno.EINVAL)
    return value


class Agreed:
    """What a client and its server have agreed upon."""

    __slots__ = ("msize", "version")

    def __init__(self, msize: int) -> None:
        self.msize = msize
        """The largest message."""
        self.version = ""
        """Empty: nothing yet."""


class Server:
    """One client's connection.

    `max_msize`: the largest message that its transport carries.  `session`: a number that tells
    its locks from those of others in `locks`.
    """

    def __init__(
        self,
        folder: Folder,
        max_msize: int,
        *,
        readonly: bool = False,
        locks: LockTable | None = None,
        session: int = 0,
    ) -> None:
        self.folder = folder
        self.readonly = readonly
        self.fids = Fids()
        self.agreed = Agreed(min(max_msize, p.MIN_MSIZE))
        self._max_msize = max_msize
        self.locks = locks if locks is not None else LockTable()
        self.session = session
        self._names = SharedLock()
        self._attributes = Attributes(folder)
        self._is_cached = False
        self._quick = self._make_quick()

    def _make_quick(self) -> Server | None:
        """The same server, which says WouldBlock where this one would wait."""
        folder = self.folder.cached()
        if folder is None:
            return None
        quick = copy.copy(self)
        quick.folder = folder
        quick._is_cached = True
        return quick

    def close(self) -> None:
        """The client is gone."""
        self._reset()
        quick, self._quick = self._quick, None
        if quick is not None:
            quick.folder.close()

    def _reset(self) -> None:
        self.fids.clear()
        self.locks.drop(self.session)

    def handle_now(self, message: bytes) -> bytes | None:
        """The answer, if it needs no waiting for the host; else None, and nothing was done."""
        number, quick = message[4], self._quick
        if quick is None or number not in _QUICK or not self.agreed.version:
            return None
        if len(message) > MAX_QUICK_SIZE:
            return None
        if not self._names.try_shared():
            return None
        try:
            values = p.REQUESTS[number].unpack(message[p.HEADER_SIZE :])
            if not quick._is_quick(number, values):
                return None
            return _HANDLERS[number](quick, p.header(message).tag, values)
        except (ProtocolError, WouldBlock):
            return None
        except OSError as error:
            return p.error(p.header(message).tag, error.errno or errno.EIO)
        finally:
            self._names.release_shared()

    def _is_quick(self, number: int, m: dict[str, Any]) -> bool:
        """Whether a request asks for nothing that may make the host wait, look-ups aside."""
        name = p.REQUESTS[number].name
        if name == "Txattrwalk":
            return bool(m["name"]) and not m["name"].startswith(b"user.")
        if name == "Tlopen":
            return not m["flags"] & (p.DOTL_TRUNC | p.DOTL_ACCMODE)
        if name != "Tclunk":
            return True
        with self.fids.use(m["fid"]) as fid:
            # The last close of a file may have to free what it had on the disk.
            return fid.file is None and fid.xattr is None

    def handle(self, message: bytes) -> bytes:
        """The answer to a message of at least HEADER_SIZE bytes.  Raises nothing."""
        _, number, tag = p.header(message)
        shape = p.REQUESTS.get(number)
        handler = _HANDLERS.get(number)
        if shape is None or handler is None:
            return p.error(tag, errno.EOPNOTSUPP)
        try:
            values = shape.unpack(message[p.HEADER_SIZE :])
            if not self.agreed.version and number != p.TVERSION:
                raise fail(errno.EINVAL)
            if self.readonly and number in _CHANGES:
                raise fail(errno.EROFS)
            if number in _RENAMES:
                with self._names.alone():
                    return handler(self, tag, values)
            if number in _BY_DESCRIPTOR:
                return handler(self, tag, values)
            with self._names.shared():
                return handler(self, tag, values)
        except ProtocolError:
            return p.error(tag, errno.EINVAL)
        except OSError as error:
            return p.error(tag, error.errno or errno.EIO)

    # -- helpers ---------------------------------------------------------------------------------
    def qid(self, status: os.stat_result) -> Qid:
        """The identity of a file."""
        type_ = p.QTFILE
        if stat.S_ISDIR(status.st_mode):
            type_ = p.QTDIR
        elif stat.S_ISLNK(status.st_mode):
            type_ = p.QTSYMLINK
        version = (status.st_mtime_ns // 1_000_000 ^ status.st_size << 8) & 0xFFFFFFFF
        return Qid(type_, version, self._number(status.st_dev, status.st_ino))

    def _number(self, device: int, inode: int) -> int:
        # Inodes of another file system that's mounted in the folder must not look like ours.
        other = device ^ self.folder.device
        return (inode ^ other << 40 ^ (1 << 63 if other else 0)) & (1 << 64) - 1

    @contextmanager
    def _at(self, fid: Fid) -> Iterator[int]:
        """A descriptor of what a fid names: its own open file, or one to look with."""
        if fid.xattr is not None:
            raise fail(errno.EBADF)
        if fid.file is not None:
            yield fid.file.descriptor
            return
        with self.folder.at(fid.path) as found:
            yield found

    def _child(self, directory: int, name: bytes) -> bytes:
        """The path of a name in the directory of a fid."""
        with self.fids.use(directory) as fid:
            return join(fid.path, check_name(name))

    def _own(self, descriptor: int, uid: int, gid: int, mode: int | None) -> None:
        """Give something new the owner and mode that the guest wants, as far as we may."""
        path = proc_path(descriptor)
        with suppress(OSError, OverflowError):
            os.chown(path, uid, gid)
        if mode is not None:
            os.chmod(path, mode & _MODE_BITS)  # noqa: PTH101  # a descriptor has no Path

    def _new_node(
        self, dfid: int, name: bytes, gid: int, mode: int | None, make: Callable[[int, bytes], None]
    ) -> Qid:
        """Make something with a name that isn't a regular file; returns what it is."""
        with self.fids.use(dfid) as fid:
            path = join(fid.path, check_name(name))
            with self.folder.at(fid.path, True) as directory:
                make(directory, name)
            with self.folder.at(path) as made:
                self._own(made, fid.uid, gid, mode)
                return self.qid(os.fstat(made))

    # -- the session -----------------------------------------------------------------------------
    def _version(self, tag: int, m: dict[str, Any]) -> bytes:
        self._reset()
        known = m["version"] == p.VERSION.encode()
        if known and m["msize"] < p.MIN_MSIZE:
            raise fail(errno.EMSGSIZE)
        self.agreed.version = p.VERSION if known else ""
        self.agreed.msize = min(m["msize"], self._max_msize)
        answer = p.VERSION.encode() if known else b"unknown"
        return p.REPLIES[101].pack(tag, self.agreed.msize, answer)

    def _auth(self, tag: int, m: dict[str, Any]) -> bytes:
        raise fail(errno.EOPNOTSUPP)

    def _attach(self, tag: int, m: dict[str, Any]) -> bytes:
        if m["afid"] != p.NOFID:
            raise fail(errno.EINVAL)
        path = b""
        for name in _text(m["aname"]).split(b"/"):
            if name and name != b".":
                path = join(path, check_name(name))
        with self.folder.at(path, True) as found:
            qid = self.qid(os.fstat(found))
        self.fids.add(m["fid"], Fid(path, path, m["n_uname"]))
        return p.REPLIES[105].pack(tag, qid)

    def _flush(self, tag: int, m: dict[str, Any]) -> bytes:
        # Whoever calls has waited for the request of the other tag.
        return p.REPLIES[109].pack(tag)

    def _walk(self, tag: int, m: dict[str, Any]) -> bytes:
        names: list[bytes] = m["names"]
        if len(names) > p.MAX_WALK or m["newfid"] == p.NOFID:
            raise fail(errno.EINVAL)
        qids: list[Qid] = []
        with self.fids.use(m["fid"]) as fid:
            if fid.xattr is not None:
                raise fail(errno.EBADF)
            path = fid.path
            for name in names:
                if name == b"..":
                    step = path if path == fid.root else path.rpartition(b"/")[0]
                else:
                    step = join(path, check_name(name))
                try:
                    qids.append(self.qid(self.folder.stat(step)))
                except OSError:
                    if not qids:
                        raise
                    return p.REPLIES[111].pack(tag, qids)
                path = step
            new = Fid(path, fid.root, fid.uid)
            self.fids.add(m["newfid"], new, replaces=m["fid"] == m["newfid"])
        return p.REPLIES[111].pack(tag, qids)

    def _clunk(self, tag: int, m: dict[str, Any]) -> bytes:
        with self.fids.use(m["fid"]) as fid:
            self.fids.remove(m["fid"])
            if fid.xattr is not None and fid.xattr.name:
                with self._names.shared():
                    self._attributes.store(fid.path, fid.xattr)
        return p.REPLIES[121].pack(tag)

    # -- opening ---------------------------------------------------------------------------------
    def host_flags(self, flags: int) -> int:
        """open(2)'s flags from the protocol's, which are Linux's."""
        access = flags & p.DOTL_ACCMODE
        if access == p.DOTL_ACCMODE:
            raise fail(errno.EINVAL)
        if self.readonly and (access or flags & p.DOTL_TRUNC):
            raise fail(errno.EROFS)
        host = {0: os.O_RDONLY, p.DOTL_WRONLY: os.O_WRONLY, p.DOTL_RDWR: os.O_RDWR}[access]
        for dotl, own in _OPEN_FLAGS.items():
            # O_SYNC contains O_DSYNC in Linux's numbers.
            if flags & dotl:
                host |= own
        return host

    def _opened(self, fid: Fid, descriptor: int, flags: int) -> os.stat_result:
        status = os.fstat(descriptor)
        self.fids.set_file(fid, OpenFile(descriptor, flags, stat.S_ISDIR(status.st_mode)))
        return status

    def _lopen(self, tag: int, m: dict[str, Any]) -> bytes:
        flags = self.host_flags(m["flags"])
        with self.fids.use(m["fid"]) as fid:
            if fid.file is not None or fid.xattr is not None:
                raise fail(errno.EBUSY)
            status = self._opened(fid, self.folder.open(fid.path, flags), m["flags"])
            return p.REPLIES[13].pack(tag, self.qid(status), 0)

    def _lcreate(self, tag: int, m: dict[str, Any]) -> bytes:
        name, flags = check_name(m["name"]), self.host_flags(m["flags"])
        with self.fids.use(m["fid"]) as fid:
            if fid.file is not None or fid.xattr is not None:
                raise fail(errno.EBUSY)
            path = join(fid.path, name)
            with self.folder.at(fid.path, True) as directory:
                try:
                    descriptor = create(directory, name, flags & ~os.O_DIRECTORY)
                except FileExistsError:
                    if m["flags"] & p.DOTL_EXCL:
                        raise
                    descriptor = self.folder.open(path, flags)
                else:
                    try:
                        self._own(descriptor, fid.uid, m["gid"], m["mode"])
                    except OSError:
                        os.close(descriptor)
                        raise
            status = self._opened(fid, descriptor, m["flags"])
            self.fids.set_path(fid, path)
            return p.REPLIES[15].pack(tag, self.qid(status), 0)

    # -- reading and writing ---------------------------------------------------------------------
    def _file(self, fid: Fid, directory: bool = False) -> OpenFile:
        if fid.file is None:
            raise fail(errno.EBADF)
        if fid.file.directory != directory:
            raise fail(errno.ENOTDIR if directory else errno.EISDIR)
        return fid.file

    def _read(self, tag: int, m: dict[str, Any]) -> bytes:
        offset = _offset(m["offset"])
        count = min(m["count"], self.agreed.msize - p.READ_OVERHEAD)
        with self.fids.use(m["fid"]) as fid:
            if fid.xattr is not None:
                data = bytes(fid.xattr.data[offset : offset + count])
            else:
                data = self._pread(self._file(fid).descriptor, count, offset)
        return p.REPLIES[117].pack(tag, data)

    def _pread(self, descriptor: int, count: int, offset: int) -> bytes:
        if not self._is_cached:
            return os.pread(descriptor, count, offset)
        buffer = bytearray(count)
        try:
            got = os.preadv(descriptor, [buffer], offset, os.RWF_NOWAIT)
        except OSError:
            raise WouldBlock from None
        # Less than was asked for means the end of the file, not of what is in memory.
        if got < count and offset + got < os.fstat(descriptor).st_size:
            raise WouldBlock
        return bytes(buffer[:got])

    def _write(self, tag: int, m: dict[str, Any]) -> bytes:
        data, offset = m["data"], _offset(m["offset"])
        with self.fids.use(m["fid"]) as fid:
            if fid.xattr is not None:
                count = self._write_xattr(fid.xattr, offset, data)
            elif offset + len(data) > MAX_OFFSET:
                raise fail(errno.EFBIG)
            else:
                count = os.pwrite(self._file(fid).descriptor, data, offset)
        return p.REPLIES[119].pack(tag, count)

    def _write_xattr(self, xattr: Xattr, offset: int, data: bytes) -> int:
        if not xattr.name:
            raise fail(errno.EBADF)
        if offset != len(xattr.data) or offset + len(data) > xattr.size:
            raise fail(errno.ENOSPC)
        xattr.data += data
        return len(data)

    def _fsync(self, tag: int, m: dict[str, Any]) -> bytes:
        with self.fids.use(m["fid"]) as fid:
            if fid.file is None:
                raise fail(errno.EBADF)
            if m["datasync"]:
                os.fdatasync(fid.file.descriptor)
            else:
                os.fsync(fid.file.descriptor)
        return p.REPLIES[51].pack(tag)

    def _readdir(self, tag: int, m: dict[str, Any]) -> bytes:
        offset = _offset(m["offset"])
        room = min(m["count"], self.agreed.msize - p.READ_OVERHEAD)
        parts: list[bytes] = []
        with self.fids.use(m["fid"]) as fid:
            file = self._file(fid, directory=True)
            device = os.fstat(file.descriptor).st_dev
            with file.mutex:
                entries = read_entries(file.descriptor, offset, room)
            for entry in entries:
                qid = Qid(_DT_TYPES.get(entry.type, p.QTFILE), 0, self._number(device, entry.inode))
                part = p.DIRENT.pack(*qid, entry.after & (1 << 64) - 1, entry.type, len(entry.name))
                part += entry.name
                if len(part) > room:
                    break
                room -= len(part)
                parts.append(part)
        if entries and not parts:
            raise fail(errno.EINVAL)
        return p.REPLIES[41].pack(tag, b"".join(parts))

    # -- status ----------------------------------------------------------------------------------
    def _statfs(self, tag: int, m: dict[str, Any]) -> bytes:
        with self.fids.use(m["fid"]) as fid, self._at(fid) as found:
            s = os.fstatvfs(found)
        sizes = (s.f_bsize, s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree)
        return p.REPLIES[9].pack(tag, p.V9FS_MAGIC, *sizes, 0, s.f_namemax)

    def _getattr(self, tag: int, m: dict[str, Any]) -> bytes:
        with self.fids.use(m["fid"]) as fid, self._at(fid) as found:
            s = os.fstat(found)
        numbers = (s.st_nlink, s.st_rdev, s.st_size, s.st_blksize, s.st_blocks)
        times: list[int] = []
        for time in (s.st_atime_ns, s.st_mtime_ns, s.st_ctime_ns):
            seconds, nanoseconds = divmod(time, 1_000_000_000)
            times += [seconds & (1 << 64) - 1, nanoseconds]
        return p.REPLIES[25].pack(
            tag,
            p.GETATTR_BASIC,
            self.qid(s),
            s.st_mode,
            s.st_uid,
            s.st_gid,
            *numbers,
            *times,
            *(0, 0, 0, 0),
        )

    def _setattr(self, tag: int, m: dict[str, Any]) -> bytes:
        valid = m["valid"]
        with self.fids.use(m["fid"]) as fid, self._at(fid) as found:
            path = proc_path(found)
            link = stat.S_ISLNK(os.fstat(found).st_mode)
            if valid & p.SETATTR_MODE:
                if link:
                    raise fail(errno.EOPNOTSUPP)
                os.chmod(path, m["mode"] & _MODE_BITS)  # noqa: PTH101
            if valid & (p.SETATTR_UID | p.SETATTR_GID):
                self._attributes.chown(
                    path,
                    m["uid"] if valid & p.SETATTR_UID else -1,
                    m["gid"] if valid & p.SETATTR_GID else -1,
                )
            if valid & p.SETATTR_SIZE:
                self._truncate(fid, found, _offset(m["size"]))
            if valid & (p.SETATTR_ATIME | p.SETATTR_MTIME):
                self._attributes.set_times(found, link, valid, m)
        return p.REPLIES[27].pack(tag)

    def _truncate(self, fid: Fid, found: int, size: int) -> None:
        writable = fid.file is not None and fid.file.flags & p.DOTL_ACCMODE
        if writable and fid.file is not None and not fid.file.directory:
            os.ftruncate(found, size)
            return
        descriptor = reopen(found, os.O_WRONLY)
        try:
            os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)

    def _readlink(self, tag: int, m: dict[str, Any]) -> bytes:
        with self.fids.use(m["fid"]) as fid, self._at(fid) as found:
            if not stat.S_ISLNK(os.fstat(found).st_mode):
                raise fail(errno.EINVAL)
            # An empty name means what the descriptor itself names (readlinkat(2)).
            target = os.readlink(b"", dir_fd=found)
        return p.REPLIES[23].pack(tag, target)

    # -- names -----------------------------------------------------------------------------------
    def _symlink(self, tag: int, m: dict[str, Any]) -> bytes:
        target = _text(m["target"])

        def make(directory: int, name: bytes) -> None:
            os.symlink(target, name, dir_fd=directory)

        return p.REPLIES[17].pack(tag, self._new_node(m["dfid"], m["name"], m["gid"], None, make))

    def _mknod(self, tag: int, m: dict[str, Any]) -> bytes:
        kind = stat.S_IFMT(m["mode"])
        # A device node would be one of the host's devices for whoever finds it there.
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            raise fail(errno.EPERM)
        if kind not in (0, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK):
            raise fail(errno.EINVAL)

        def make(directory: int, name: bytes) -> None:
            os.mknod(name, kind | 0o600, dir_fd=directory)

        qid = self._new_node(m["dfid"], m["name"], m["gid"], m["mode"], make)
        return p.REPLIES[19].pack(tag, qid)

    def _mkdir(self, tag: int, m: dict[str, Any]) -> bytes:
        def make(directory: int, name: bytes) -> None:
            os.mkdir(name, 0o700, dir_fd=directory)

        qid = self._new_node(m["dfid"], m["name"], m["gid"], m["mode"], make)
        return p.REPLIES[73].pack(tag, qid)

    def _link(self, tag: int, m: dict[str, Any]) -> bytes:
        target = self._child(m["dfid"], m["name"])
        with (
            self.fids.use(m["fid"]) as fid,
            self.folder.parent(fid.path) as (source, old),
            self.folder.parent(target) as (directory, new),
        ):
            os.link(old, new, src_dir_fd=source, dst_dir_fd=directory, follow_symlinks=False)
        return p.REPLIES[71].pack(tag)

    def _move(self, old: bytes, new: bytes) -> None:
        with (
            self.folder.parent(old) as (source, name),
            self.folder.parent(new) as (directory, target),
        ):
            os.rename(name, target, src_dir_fd=source, dst_dir_fd=directory)
        self.fids.renamed(old, new)

    def _rename(self, tag: int, m: dict[str, Any]) -> bytes:
        with self.fids.use(m["fid"]) as fid:
            self._move(fid.path, self._child(m["dfid"], m["name"]))
        return p.REPLIES[21].pack(tag)

    def _renameat(self, tag: int, m: dict[str, Any]) -> bytes:
        old = self._child(m["olddirfid"], m["oldname"])
        self._move(old, self._child(m["newdirfid"], m["newname"]))
        return p.REPLIES[75].pack(tag)

    def _unlinkat(self, tag: int, m: dict[str, Any]) -> bytes:
        self._unlink(self._child(m["dirfd"], m["name"]), bool(m["flags"] & p.DOTL_AT_REMOVEDIR))
        return p.REPLIES[77].pack(tag)

    def _unlink(self, path: bytes, directory: bool) -> None:
        with self.folder.parent(path) as (parent, name):
            if directory:
                os.rmdir(name, dir_fd=parent)
            else:
                os.unlink(name, dir_fd=parent)

    def _remove(self, tag: int, m: dict[str, Any]) -> bytes:
        with self.fids.use(m["fid"]) as fid:
            # The fid goes even if what it names can't be removed.
            self.fids.remove(m["fid"])
            directory = stat.S_ISDIR(self.folder.stat(fid.path).st_mode)
            self._unlink(fid.path, directory)
        return p.REPLIES[123].pack(tag)

    # -- extended attributes -----------------------------------------------------------------------
    def _xattrwalk(self, tag: int, m: dict[str, Any]) -> bytes:
        name = _text(m["name"])
        with self.fids.use(m["fid"]) as fid:
            with self._at(fid) as found:
                data = self._attributes.load(found, name)
            new = Fid(fid.path, fid.root, fid.uid)
        if m["newfid"] == m["fid"]:
            raise fail(errno.EINVAL)
        self.fids.add(m["newfid"], new)
        try:
            self.fids.set_xattr(new, Xattr(data))
        except OSError:
            self.fids.remove(m["newfid"])
            raise
        return p.REPLIES[31].pack(tag, len(data))

    def _xattrcreate(self, tag: int, m: dict[str, Any]) -> bytes:
        name = self._attributes.check(_text(m["name"]), m["size"])
        with self.fids.use(m["fid"]) as fid:
            self.fids.set_xattr(fid, Xattr(b"", name, m["size"], m["flags"]))
        return p.REPLIES[33].pack(tag)

    # -- locks -----------------------------------------------------------------------------------
    def _wanted(self, m: dict[str, Any]) -> Held:
        start, length = m["start"], m["length"]
        end = min(start + length, END) if length else END
        if m["type"] not in (p.LOCK_TYPE_RDLCK, p.LOCK_TYPE_WRLCK, p.LOCK_TYPE_UNLCK):
            raise fail(errno.EINVAL)
        if len(m["client_id"]) > 256:
            raise fail(errno.EINVAL)
        return Held(Owner(self.session, m["client_id"], m["proc_id"]), m["type"], start, end)

    def _lock(self, tag: int, m: dict[str, Any]) -> bytes:
        wanted = self._wanted(m)
        with self.fids.use(m["fid"]) as fid:
            if fid.file is None:
                raise fail(errno.EBADF)
            status = os.fstat(fid.file.descriptor)
        try:
            done = self.locks.set((status.st_dev, status.st_ino), wanted)
        except TooManyLocks:
            raise fail(errno.ENOLCK) from None
        return p.REPLIES[53].pack(tag, p.LOCK_SUCCESS if done else p.LOCK_BLOCKED)

    def _getlock(self, tag: int, m: dict[str, Any]) -> bytes:
        wanted = self._wanted(m)
        with self.fids.use(m["fid"]) as fid:
            if fid.file is None:
                raise fail(errno.EBADF)
            status = os.fstat(fid.file.descriptor)
        held = self.locks.find((status.st_dev, status.st_ino), wanted)
        if held is None:
            return p.REPLIES[55].pack(
                tag, p.LOCK_TYPE_UNLCK, m["start"], m["length"], m["proc_id"], m["client_id"]
            )
        length = 0 if held.end == END else held.end - held.start
        owner = held.owner
        return p.REPLIES[55].pack(tag, held.type, held.start, length, owner.process, owner.client)


_HANDLERS: dict[int, Handler] = {
    number: getattr(Server, f"_{shape.name[1:]}") for number, shape in p.REQUESTS.items()
}


def _numbers(*names: str) -> frozenset[int]:
    wanted = {f"T{name}" for name in names}
    return frozenset(number for number, shape in p.REQUESTS.items() if shape.name in wanted)


_CHANGES = _numbers(
    *("lcreate", "symlink", "mknod", "rename", "setattr", "xattrcreate", "link", "mkdir"),
    *("renameat", "unlinkat", "write", "remove"),
)
"""What a read-only folder refuses."""
_RENAMES = _numbers("rename", "renameat")
_QUICK = _numbers("walk", "getattr", "clunk", "xattrwalk", "lopen", "read")
_BY_DESCRIPTOR = _numbers(
    *("version", "read", "write", "readdir", "fsync", "lock", "getlock", "flush", "clunk")
)
"""What needs no path: these go on while a slow look-up keeps others waiting."""
