# SPDX-License-Identifier: GPL-2.0-or-later
"""Paths: checked once, where they come in, and tuples of names from there on.

docs/misc/xenstore.txt: names are of ``A-Z a-z 0-9 - _ @``; no doubled or trailing slashes; a
path that doesn't begin with a slash is relative to the caller's /local/domain/<domid>.  The
special names @introduceDomain and @releaseDomain are nodes below the root, so that they can
have permissions.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.io.xs_wire import XENSTORE_ABS_PATH_MAX, XENSTORE_REL_PATH_MAX

Parts = tuple[str, ...]
"""A path as the names on the way from the root; the root itself is ()."""

INTRODUCE_DOMAIN = "@introduceDomain"
RELEASE_DOMAIN = "@releaseDomain"
SPECIALS = (INTRODUCE_DOMAIN, RELEASE_DOMAIN)

_VALID = re.compile(rb"/|(?:/[A-Za-z0-9_@-]+)+")
_VALID_SPECIAL = re.compile(rb"@[A-Za-z0-9_@/-]*")
_BASE = re.compile(r"/local/domain/[0-9]{1,5}/")


class WatchPath(NamedTuple):
    """What is watched, and the prefix that events sent to its owner lose ('' if absolute)."""

    path: str
    base: str


def base_path(domid: int) -> str:
    """The path that relative paths of a domain begin with."""
    return f"/local/domain/{domid}"


_CACHED_LENGTH = 128
"""Longer paths aren't remembered, so that nobody can fill the host's memory with them."""


def parse(raw: bytes, domid: int) -> Parts:
    """The parts of a path as a client of domain `domid` sent it.  Raises XenError(EINVAL)."""
    return _remembered(raw, domid) if len(raw) <= _CACHED_LENGTH else _parse(raw, domid)


def _parse(raw: bytes, domid: int) -> Parts:
    if raw[:1] == b"@":
        name = raw.decode("ascii", "replace")
        if name not in SPECIALS:
            raise XenError(Errno.EINVAL)
        return (name,)
    return split(absolute(raw, domid))


_remembered = lru_cache(maxsize=4096)(_parse)


def absolute(raw: bytes, domid: int) -> str:
    """A path in full, checked.  Raises XenError(EINVAL)."""
    if raw[:1] != b"/":
        if not raw:
            raise XenError(Errno.EINVAL)
        raw = base_path(domid).encode() + b"/" + raw
    if len(raw) > XENSTORE_ABS_PATH_MAX or _VALID.fullmatch(raw) is None:
        raise XenError(Errno.EINVAL)
    path = raw.decode("ascii")
    # Only what follows the domain's own part counts, or a path could become invalid when its
    # domain is restored under a longer number.
    own = _BASE.match(path)
    if len(path) - (own.end() if own else 0) > XENSTORE_REL_PATH_MAX:
        raise XenError(Errno.EINVAL)
    return path


def parse_watch(raw: bytes, domid: int) -> WatchPath:
    """A path to watch: a node's, or anything that begins with @.  Raises XenError(EINVAL)."""
    if raw[:1] == b"@":
        if len(raw) > XENSTORE_REL_PATH_MAX or _VALID_SPECIAL.fullmatch(raw) is None:
            raise XenError(Errno.EINVAL)
        return WatchPath(raw.decode("ascii"), "")
    base = "" if raw[:1] == b"/" else base_path(domid) + "/"
    return WatchPath(absolute(raw, domid), base)


def split(path: str) -> Parts:
    """The parts of an absolute path."""
    return tuple(path[1:].split("/")) if len(path) > 1 else ()


def join(parts: Parts) -> str:
    """The path of parts; the special names stand for themselves."""
    if len(parts) == 1 and parts[0] in SPECIALS:
        return parts[0]
    return "/" + "/".join(parts)
