# SPDX-License-Identifier: GPL-2.0-or-later
"""Which end of which device a path of the store belongs to."""

from __future__ import annotations

import re
from typing import NamedTuple

_FRONT = re.compile(r"/local/domain/(\d+)/device/([^/]+)/(\d+)(?:/(.*))?")
_BACK = re.compile(r"/local/domain/(\d+)/backend/([^/]+)/(\d+)/(\d+)(?:/(.*))?")
_ERROR = re.compile(r"(/local/domain/\d+)/error/((?:device|backend)/.*)/error")


class Place(NamedTuple):
    """A directory of one end, and the name of a node in it ("": the directory itself)."""

    directory: str
    backend: bool
    domid: int
    """The domain of this end."""
    kind: str
    devid: int
    name: str


def locate(path: str) -> Place | None:
    """The end that a path is in, if any."""
    if (match := _FRONT.fullmatch(path)) is not None:
        domid, kind, devid, name = match.groups()
        directory = f"/local/domain/{domid}/device/{kind}/{devid}"
        return Place(directory, False, int(domid), kind, int(devid), name or "")
    if (match := _BACK.fullmatch(path)) is not None:
        domid, kind, front, devid, name = match.groups()
        directory = f"/local/domain/{domid}/backend/{kind}/{front}/{devid}"
        return Place(directory, True, int(domid), kind, int(devid), name or "")
    return None


def error_of(path: str) -> str | None:
    """The directory of the end that an error node is about."""
    match = _ERROR.fullmatch(path)
    return None if match is None else f"{match[1]}/{match[2]}"


def absolute(path: str, domid: int) -> str:
    """A path as the store knows it: a guest's relative ones are below its own directory."""
    return path if path.startswith(("/", "@")) else f"/local/domain/{domid}/{path}"
