# SPDX-License-Identifier: GPL-2.0-or-later
"""Archives in cpio's "newc" format, as Linux takes them for its initial file system.

The format is described in Linux's Documentation/driver-api/early-userspace/
buffer-format.rst: a header of 110 characters, the name, the data, each padded to four bytes,
and a member called ``TRAILER!!!`` at the end.  No root is needed, device nodes included, and
the same members give the same bytes: times and owners are zero, inodes are counted up.
"""

from __future__ import annotations

import stat

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"
_LIMIT = 0xFFFFFFFF


def _pad(length: int) -> bytes:
    return b"\0" * (-length % 4)


class Archive:
    """An archive under construction; paths are relative to the root, without a leading slash."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inode = 0
        self._names: set[str] = set()

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Add a directory, and those above it that aren't there yet."""
        parent = path.rpartition("/")[0]
        if parent and parent not in self._names:
            self.directory(parent)
        if path not in self._names:
            self._member(path, stat.S_IFDIR | mode, b"", links=2)

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        self._member(path, stat.S_IFREG | mode, data)

    def symlink(self, path: str, target: str) -> None:
        """Add a symbolic link at `path` to `target`."""
        self._member(path, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device node."""
        self._member(path, stat.S_IFCHR | mode, b"", device=(major, minor))

    def finish(self) -> bytes:
        """The whole archive."""
        return b"".join(self._parts) + self._encode(_TRAILER, 0, b"", 1, (0, 0), 0)

    def _member(
        self,
        path: str,
        mode: int,
        data: bytes,
        links: int = 1,
        device: tuple[int, int] = (0, 0),
    ) -> None:
        if not path or path.startswith("/") or "\0" in path or path == _TRAILER:
            raise ValueError(f"bad path in an archive: {path!r}")
        if path in self._names:
            raise ValueError(f"path is in the archive already: {path}")
        self._names.add(path)
        self._inode += 1
        self._parts.append(self._encode(path, mode, data, links, device, self._inode))

    @staticmethod
    def _encode(
        path: str, mode: int, data: bytes, links: int, device: tuple[int, int], inode: int
    ) -> bytes:
        name = path.encode() + b"\0"
        if len(data) > _LIMIT:
            raise ValueError(f"too large for this format: {path}")
        fields = (inode, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(name), 0)
        header = _MAGIC + b"".join(b"%08X" % field for field in fields) + name
        return header + _pad(len(header)) + data + _pad(len(data))
