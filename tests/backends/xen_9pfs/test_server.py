# SPDX-License-Identifier: GPL-2.0-or-later
"""9P2000.L from a client's side, on real files."""

from __future__ import annotations

import errno
import os
import stat
import struct
from pathlib import Path

import pytest

from tests.backends.scene import open_descriptors
from tests.backends.xen_9pfs.client import NOFID, Client, refused
from tests.backends.xen_9pfs.conftest import SECRET, ask
from xenograft.backends.xen_9pfs.beneath import Folder
from xenograft.backends.xen_9pfs.fids import MAX_XATTRS
from xenograft.backends.xen_9pfs.locks import LockTable
from xenograft.backends.xen_9pfs.persist import restore_server, save_server
from xenograft.backends.xen_9pfs.server import Server

O_RDWR, O_CREAT, O_EXCL, O_TRUNC, O_APPEND = 2, 0o100, 0o200, 0o1000, 0o2000
RDLCK, WRLCK, UNLCK = 0, 1, 2
TIME = 1234 * 10**9 + 5


# -- the session ----------------------------------------------------------------------------------
def test_version(client: Client) -> None:
    assert client.version(1 << 20) == "9P2000.L"
    assert client.msize == 1 << 17
    assert client.version(8192) == "9P2000.L"
    assert client.msize == 8192
    with refused(errno.EMSGSIZE):
        client.version(100)


@pytest.mark.parametrize("version", ["9P2000", "9P2000.u", "", "9P2000.LX"])
def test_other_versions_are_unknown(client: Client, version: str) -> None:
    assert client.version(8192, version) == "unknown"
    with refused(errno.EINVAL):
        client.attach()


def test_nothing_works_before_a_version(client: Client) -> None:
    with refused(errno.EINVAL):
        client.attach()


def test_a_new_version_ends_the_session(client: Client, server: Server, root: int) -> None:
    client.create(client.walk(root), "a")
    assert server.fids.open_files == 1
    client.version()
    assert (len(server.fids), server.fids.open_files) == (0, 0)
    with refused(errno.EBADF):
        client.getattr(root)


def test_attach_below(client: Client, share: Path) -> None:
    (share / "a" / "b").mkdir(parents=True)
    client.version()
    fid = client.attach("/a")
    assert client.names(fid) == {b"b"}
    # Its ".." leads no higher.
    assert client.names(client.walk(fid, "..", "..")) == {b"b"}
    with refused(errno.ENOENT):
        client.attach("/none")
    with refused(errno.EINVAL):
        client.attach("/a/../..")


def test_no_authentication(client: Client, root: int) -> None:
    with refused(errno.EOPNOTSUPP):
        client.call(102, struct.pack("<I", 9) + bytes(4) + struct.pack("<I", 0))
    with refused(errno.EINVAL):
        client.call(104, struct.pack("<II", 9, root) + bytes(4) + struct.pack("<I", 0))


# -- walking --------------------------------------------------------------------------------------
def test_walk(client: Client, root: int, share: Path) -> None:
    (share / "a").mkdir()
    (share / "a" / "f").write_bytes(b"data")
    fid = client.walk(root, "a", "f")
    attr = client.getattr(fid)
    assert attr.size == 4
    assert attr.qid_path == (share / "a" / "f").stat().st_ino
    assert client.getattr(client.walk(root, "a", "..", "a")).qid_type == 0x80


def test_walk_stops_where_there_is_nothing(client: Client, root: int, share: Path) -> None:
    (share / "a").mkdir()
    with refused(errno.ENOENT):
        client.walk(root, "none")
    with pytest.raises(FileNotFoundError):
        client.walk(root, "a", "none", new=77)
    # Then the new fid hasn't come to be.
    with refused(errno.EBADF):
        client.getattr(77)


@pytest.mark.parametrize("name", ["", ".", "a/b", "../secret", "a\0b"])
def test_walk_takes_names_alone(client: Client, root: int, name: str) -> None:
    with refused(errno.EINVAL):
        client.walk(root, name)


def test_walk_rules(client: Client, root: int) -> None:
    with refused(errno.EBADF):
        client.walk(999)
    with refused(errno.EBADF):
        client.walk(root, new=client.walk(root))
    with refused(errno.EINVAL):
        client.walk(root, new=NOFID)
    with refused(errno.EINVAL):
        client.walk(root, *[".."] * 17)
    assert client.walk(root, new=root) == root


def test_no_way_out(client: Client, root: int, share: Path) -> None:
    (share / "link").symlink_to("..")
    assert client.getattr(client.walk(root, "..", "..", "..")).qid_path == share.stat().st_ino
    fid = client.walk(root, "link")
    assert client.readlink(fid) == b".."
    with refused(errno.ELOOP):
        client.open(fid)
    with pytest.raises(FileNotFoundError):
        client.walk(root, "link", "secret")
    with refused(errno.ENOTDIR, errno.ELOOP):
        client.create(client.walk(root, "link"), "made")
    with refused(errno.ENOTDIR, errno.ELOOP):
        client.unlink(fid, "secret")
    with refused(errno.EINVAL):
        client.unlink(root, "../secret")
    with refused(errno.EINVAL):
        client.renameat(root, "link", root, "../gone")
    client.symlink(root, "abs", "/etc/passwd")
    with refused(errno.ELOOP):
        client.setattr(client.walk(root, "abs"), 8, size=0)
    assert (share.parent / "secret").read_bytes() == SECRET


# -- files ----------------------------------------------------------------------------------------
def test_create_write_read(client: Client, root: int, share: Path) -> None:
    fid = client.walk(root)
    client.create(fid, "new", O_RDWR, 0o640)
    assert client.write(fid, b"hello") == 5
    assert client.write(fid, b"world", 1 << 20) == 5
    assert client.read(fid, 0, 5) == b"hello"
    assert client.read(fid, (1 << 20) + 2) == b"rld"
    assert client.read(fid, 1 << 21) == b""
    client.fsync(fid)
    client.fsync(fid, 1)
    client.clunk(fid)
    assert (share / "new").stat().st_mode & 0o7777 == 0o640
    assert (share / "new").stat().st_size == (1 << 20) + 5


def test_create_modes_of_existing_files(client: Client, root: int, share: Path) -> None:
    (share / "old").write_bytes(b"contents")
    with refused(errno.EEXIST):
        client.create(client.walk(root), "old", O_RDWR | O_CREAT | O_EXCL)
    fid = client.walk(root)
    client.create(fid, "old", O_RDWR | O_CREAT)
    assert client.read(fid) == b"contents"
    client.create(client.walk(root), "old", O_RDWR | O_CREAT | O_TRUNC)
    assert (share / "old").read_bytes() == b""


def test_append(client: Client, root: int, share: Path) -> None:
    (share / "log").write_bytes(b"one")
    fid = client.walk(root, "log")
    client.open(fid, 1 | O_APPEND)
    client.write(fid, b"two", 0)
    assert (share / "log").read_bytes() == b"onetwo"
    with refused(errno.EBADF):
        client.read(fid)


def test_large_counts_are_cut(client: Client, root: int, share: Path) -> None:
    (share / "big").write_bytes(bytes(1 << 18))
    fid = client.walk(root, "big")
    client.open(fid)
    assert len(client.read(fid, 0, 0xFFFFFFFF)) == client.msize - 11


def test_offsets_out_of_range(client: Client, root: int) -> None:
    fid = client.walk(root)
    client.create(fid, "f")
    for offset in (1 << 63, (1 << 64) - 1):
        with refused(errno.EINVAL):
            client.read(fid, offset)
        with refused(errno.EINVAL):
            client.write(fid, b"x", offset)
    with refused(errno.EFBIG):
        client.write(fid, b"x", (1 << 63) - 1)
    with refused(errno.EINVAL):
        client.setattr(fid, 8, size=1 << 63)


def test_open_rules(client: Client, root: int, share: Path) -> None:
    (share / "f").write_bytes(b"")
    fid = client.walk(root, "f")
    with refused(errno.EBADF):
        client.read(fid)
    with refused(errno.EINVAL):
        client.open(fid, 3)
    client.open(fid)
    with refused(errno.EBUSY):
        client.open(fid)
    with refused(errno.ENOTDIR):
        client.readdir(fid)
    directory = client.walk(root)
    with refused(errno.EISDIR):
        client.open(directory, 1)
    client.open(directory)
    with refused(errno.EISDIR):
        client.read(directory)


def test_a_fifo_is_not_opened(client: Client, root: int, share: Path) -> None:
    client.mknod(root, "fifo", stat.S_IFIFO | 0o600)
    client.mknod(root, "sock", stat.S_IFSOCK | 0o600)
    client.mknod(root, "plain", stat.S_IFREG | 0o600)
    assert stat.S_ISFIFO((share / "fifo").stat().st_mode)
    with refused(errno.ENXIO):
        client.open(client.walk(root, "fifo"))
    with refused(errno.ENXIO):
        client.create(client.walk(root), "fifo", O_RDWR | O_CREAT)


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
def test_no_devices(client: Client, root: int, share: Path, kind: int) -> None:
    with refused(errno.EPERM):
        client.mknod(root, "device", kind | 0o666)
    assert not (share / "device").exists()


def test_no_set_user_id_programs(client: Client, root: int, share: Path) -> None:
    fid = client.walk(root)
    client.create(fid, "program", O_RDWR, 0o6755)
    client.setattr(fid, 1, mode=0o6755)
    assert (share / "program").stat().st_mode & 0o7777 == 0o755


def test_an_unlinked_file_stays_while_it_is_open(client: Client, root: int) -> None:
    fid = client.walk(root)
    client.create(fid, "f")
    client.write(fid, b"data")
    client.unlink(root, "f")
    assert client.read(fid) == b"data"
    assert client.getattr(fid).nlink == 0
    client.setattr(fid, 8 | 1, mode=0o600, size=2)
    assert client.getattr(fid).size == 2


def test_clunked_descriptors_are_closed(client: Client, root: int) -> None:
    before = open_descriptors()
    for number in range(20):
        fid = client.walk(root)
        client.create(fid, f"f{number}")
        client.clunk(fid)
    assert open_descriptors() == before


# -- attributes -----------------------------------------------------------------------------------
def test_setattr(client: Client, root: int, share: Path) -> None:
    (share / "f").write_bytes(b"12345")
    fid = client.walk(root, "f")
    client.setattr(fid, 1 | 8, mode=0o600, size=3)
    client.setattr(fid, 0x20 | 0x100, mtime=1234, mtime_ns=5)
    status = (share / "f").stat()
    assert (status.st_mode & 0o777, status.st_size, status.st_mtime_ns) == (
        0o600,
        3,
        1234 * 10**9 + 5,
    )
    client.setattr(fid, 0x10 | 0x80, atime=99)
    assert (share / "f").stat().st_atime == 99
    assert (share / "f").stat().st_mtime_ns == TIME
    client.setattr(fid, 0x10 | 0x20)
    assert (share / "f").stat().st_mtime > 10**9
    assert client.getattr(fid).valid == 0x7FF


def test_setattr_out_of_range(client: Client, root: int, share: Path) -> None:
    (share / "f").write_bytes(b"")
    fid = client.walk(root, "f")
    with refused(errno.EINVAL):
        client.setattr(fid, 0x20 | 0x100, mtime=1 << 62)
    with refused(errno.EINVAL):
        client.setattr(fid, 0x20 | 0x100, mtime_ns=10**9)
    with refused(errno.EINVAL):
        client.setattr(fid, 2, uid=0xFFFFFFFF)
    client.setattr(fid, 0x20 | 0x100, mtime=(1 << 64) - 5)
    assert (share / "f").stat().st_mtime == -5
    assert client.getattr(fid).mtime == ((1 << 64) - 5, 0)


def test_owners_are_kept_where_the_host_says_no(client: Client, root: int, share: Path) -> None:
    (share / "f").write_bytes(b"")
    client.setattr(client.walk(root, "f"), 2 | 4, uid=12345, gid=54321)
    owner = (share / "f").stat().st_uid
    assert owner == (12345 if os.geteuid() == 0 else os.geteuid())


def test_statfs(client: Client, root: int) -> None:
    kind, block, *_, longest = client.statfs(root)
    assert (kind, longest) == (0x01021997, 255)
    assert block > 0


def test_xattr(client: Client, root: int, share: Path) -> None:
    (share / "f").write_bytes(b"")
    try:
        os.setxattr(share / "f", b"user.probe", b"1")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    fid = client.walk(root, "f")
    client.setxattr(fid, "user.colour", b"blue")
    assert os.getxattr(share / "f", "user.colour") == b"blue"
    assert client.getxattr(fid, "user.colour") == b"blue"
    assert set(client.getxattr(fid, "").split(b"\0")) == {b"user.probe", b"user.colour", b""}
    client.setxattr(fid, "user.probe", b"")
    with refused(errno.ENODATA):
        client.getxattr(fid, "user.probe")
    with refused(errno.EEXIST):
        client.setxattr(fid, "user.colour", b"red", 1)
    for name in ("security.capability", "trusted.x", "system.posix_acl_access"):
        with refused(errno.ENODATA):
            client.getxattr(fid, name)
        with refused(errno.EOPNOTSUPP):
            client.setxattr(fid, name, b"x")
    with refused(errno.E2BIG):
        client.setxattr(fid, "user.big", bytes((64 << 10) + 1))


def test_xattrs_are_bounded(client: Client, root: int, share: Path) -> None:
    (share / "f").write_bytes(b"")
    fid = client.walk(root, "f")
    for _ in range(MAX_XATTRS):
        new = client.walk(fid)
        client.call(32, struct.pack("<I", new) + b"\x06\0user.x" + struct.pack("<QI", 10, 0))
    with refused(errno.ENFILE):
        new = client.walk(fid)
        client.call(32, struct.pack("<I", new) + b"\x06\0user.x" + struct.pack("<QI", 10, 0))
    with refused(errno.ENOSPC):
        client.write(new - 1, b"more than ten bytes")


# -- directories ----------------------------------------------------------------------------------
def test_readdir(client: Client, root: int, share: Path) -> None:
    names = {b"file%d" % number for number in range(300)}
    for name in names:
        (share / os.fsdecode(name)).write_bytes(b"")
    (share / "dir").mkdir()
    (share / "link").symlink_to("x")
    fid = client.walk(root)
    client.open(fid)
    entries, offset = [], 0
    while part := client.readdir(fid, offset, 400):
        entries += part
        offset = part[-1][2]
    kinds = {name: kind for name, kind, _ in entries}
    assert len(kinds) == len(entries) == 304
    assert kinds.keys() == names | {b".", b"..", b"dir", b"link"}
    assert (kinds[b"dir"], kinds[b"link"], kinds[b"file0"]) == (4, 10, 8)
    # From the middle again, and from the start.
    middle = entries[100][2]
    assert client.readdir(fid, middle, 400)[0][0] == entries[101][0]
    assert client.readdir(fid, 0, 400)[0] == entries[0]
    with refused(errno.EINVAL):
        client.readdir(fid, 0, 10)
    with refused(errno.EINVAL):
        client.readdir(fid, 1 << 63)


def test_make_and_remove(client: Client, root: int, share: Path) -> None:
    client.mkdir(root, "d", 0o1751)
    assert (share / "d").stat().st_mode & 0o7777 == 0o1751
    with refused(errno.EEXIST):
        client.mkdir(root, "d")
    directory = client.walk(root, "d")
    client.create(client.walk(directory), "f")
    with refused(errno.ENOTEMPTY):
        client.unlink(root, "d", 0x200)
    with refused(errno.EISDIR, errno.EPERM):
        client.unlink(root, "d")
    client.unlink(directory, "f")
    client.unlink(root, "d", 0x200)
    assert list(share.iterdir()) == []
    with refused(errno.ENOENT):
        client.getattr(directory)


def test_remove_takes_the_fid(client: Client, root: int, share: Path) -> None:
    (share / "f").write_bytes(b"")
    fid = client.walk(root, "f")
    client.remove(fid)
    assert not (share / "f").exists()
    with refused(errno.EBADF):
        client.clunk(fid)
    with refused(errno.EBUSY):
        client.remove(client.walk(root))


def test_links(client: Client, root: int, share: Path) -> None:
    client.symlink(root, "sym", "any where")
    assert client.readlink(client.walk(root, "sym")) == b"any where"
    assert client.getattr(client.walk(root, "sym")).qid_type == 0x02
    (share / "f").write_bytes(b"x")
    client.link(root, client.walk(root, "f"), "hard")
    assert (share / "hard").samefile(share / "f")
    # A hard link to a symbolic one is one to the link itself.
    client.link(root, client.walk(root, "sym"), "hardsym")
    assert (share / "hardsym").is_symlink()
    with refused(errno.EINVAL):
        client.readlink(client.walk(root, "f"))
    with refused(errno.EINVAL):
        client.symlink(root, "bad", b"a\0b")


def test_rename_takes_fids_along(client: Client, root: int, share: Path) -> None:
    (share / "a" / "b").mkdir(parents=True)
    (share / "a" / "b" / "f").write_bytes(b"x")
    (share / "ab").write_bytes(b"y")
    deep, other = client.walk(root, "a", "b", "f"), client.walk(root, "ab")
    client.renameat(root, "a", root, "moved")
    assert client.getattr(deep).qid_path == (share / "moved" / "b" / "f").stat().st_ino
    assert client.getattr(other).qid_path == (share / "ab").stat().st_ino
    client.rename(deep, root, "g")
    client.open(deep)
    assert client.read(deep) == b"x"
    assert (share / "g").exists()
    with refused(errno.ENOENT):
        client.renameat(root, "none", root, "x")


# -- locks ----------------------------------------------------------------------------------------
def test_locks_between_processes_and_guests(folder: Folder, share: Path) -> None:
    (share / "f").write_bytes(b"")
    table = LockTable()
    servers = [Server(folder, 1 << 16, locks=table, session=number) for number in (1, 2)]
    a, b = (Client(lambda message, one=one: ask(one, message)) for one in servers)  # type: ignore[misc]
    fids = []
    for client in (a, b):
        fid = client.walk(client.start(), "f")
        with refused(errno.EBADF):
            client.lock(fid, RDLCK, 0, 0)
        client.open(fid, O_RDWR)
        fids.append(fid)
    assert a.lock(fids[0], WRLCK, 10, 10) == 0
    assert b.lock(fids[1], RDLCK, 15, 1) == 1
    assert b.lock(fids[1], RDLCK, 20, 1) == 0
    assert a.lock(fids[0], WRLCK, 0, 0, pid=2) == 1
    assert b.getlock(fids[1], WRLCK, 0, 0, pid=7) == (WRLCK, 10, 10, 1)
    assert b.getlock(fids[1], WRLCK, 30, 5, pid=7) == (UNLCK, 30, 5, 7)
    servers[0].close()
    assert b.lock(fids[1], WRLCK, 0, 0) == 0
    with refused(errno.EINVAL):
        b.lock(fids[1], 9, 0, 0)
    servers[1].close()


# -- read-only ------------------------------------------------------------------------------------
def test_readonly(folder: Folder, share: Path) -> None:
    (share / "f").write_bytes(b"x")
    server = Server(folder, 1 << 16, readonly=True)
    client = Client(lambda message: ask(server, message))
    root = client.start()
    fid = client.walk(root, "f")
    attempts = (
        lambda: client.create(client.walk(root), "new"),
        lambda: client.mkdir(root, "d"),
        lambda: client.symlink(root, "s", "x"),
        lambda: client.mknod(root, "n", 0o644),
        lambda: client.link(root, fid, "l"),
        lambda: client.rename(fid, root, "g"),
        lambda: client.renameat(root, "f", root, "g"),
        lambda: client.unlink(root, "f"),
        lambda: client.remove(client.walk(root, "f")),
        lambda: client.setattr(fid, 1, mode=0),
        lambda: client.setxattr(fid, "user.x", b"1"),
        lambda: client.open(client.walk(root, "f"), 1),
        lambda: client.open(client.walk(root, "f"), O_TRUNC),
    )
    for attempt in attempts:
        with refused(errno.EROFS):
            attempt()
    client.open(fid)
    assert client.read(fid) == b"x"
    assert [path.name for path in share.iterdir()] == ["f"]
    server.close()


# -- persistence ----------------------------------------------------------------------------------
def test_save_and_restore(client: Client, server: Server, root: int, share: Path) -> None:
    fid = client.walk(root)
    client.create(fid, "f", O_RDWR | O_TRUNC)
    client.write(fid, b"kept")
    gone = client.walk(root)
    client.create(gone, "gone")
    state = save_server(server)
    server.close()
    (share / "gone").unlink()
    again = Server(Folder(str(share)), 1 << 17)
    assert restore_server(again, state) == ["gone: ENOENT"]
    other = Client(lambda message: ask(again, message))
    other.msize = state.msize
    assert other.read(fid) == b"kept"
    other.write(fid, b"more", 4)
    assert (share / "f").read_bytes() == b"keptmore"
    with refused(errno.EBADF):
        other.read(gone)
    assert save_server(again).fids == tuple(one for one in state.fids if one.number != gone)
    again.close()
    again.folder.close()


def test_attributes_of_a_link_are_its_own(client: Client, root: int, share: Path) -> None:
    """What's set through a descriptor of a link doesn't reach what the link names."""
    secret = share.parent / "secret"
    os.utime(secret, (5, 5))
    before = secret.stat()
    (share / "link").symlink_to("../secret")
    fid = client.walk(root, "link")
    client.setattr(fid, 2 | 4, uid=4321, gid=4321)
    client.setattr(fid, 0x20 | 0x100, mtime=77)
    with refused(errno.EOPNOTSUPP):
        client.setattr(fid, 1, mode=0o777)
    with refused(errno.EPERM, errno.EOPNOTSUPP, errno.EACCES):
        client.setxattr(fid, "user.x", b"1")
    with refused(errno.ENODATA, errno.EPERM, errno.EOPNOTSUPP, errno.EACCES):
        client.getxattr(fid, "user.x")
    assert client.getxattr(fid, "") == b""
    client.symlink(root, "made", "../secret")
    client.mknod(root, "plain", stat.S_IFREG | 0o600)
    after = secret.stat()
    assert (after.st_uid, after.st_mode, after.st_mtime) == (before.st_uid, before.st_mode, 5)
    assert (share / "link").lstat().st_mtime == 77
    if os.geteuid() == 0:
        assert (share / "link").lstat().st_uid == 4321
    with pytest.raises(OSError, match=r"No data|not supported"):
        os.getxattr(secret, b"user.x")
