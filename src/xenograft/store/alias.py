# SPDX-License-Identifier: GPL-2.0-or-later
"""Paths of a guest that goes on under another domid than the one it knows.

A guest that was restored, migrated or forked without its cooperation still has the paths in its
memory that it was told in its last life: ``/local/domain/0/backend/vbd/OLD/51712``.  Its
requests are understood as if it had written its present number, and what it is told of its
watches begins with the path that it gave (`watches.Watch.shown`).  Values are left alone.

Only whole parts are changed, and only where xenstore-paths.pandoc has a domain's number: behind
``/local/domain``, and in another domain's ``backend/<kind>/``.
"""

from __future__ import annotations

import re

import msgspec

_OWN = re.compile(rb"(/local/domain/)(0|[1-9][0-9]{0,4})(?=/|$)")
_BACKEND = re.compile(
    rb"(/local/domain/[0-9]{1,5}/(?:error/)?backend/[A-Za-z0-9_@-]+/)(0|[1-9][0-9]{0,4})(?=/|$)"
)


class Alias(msgspec.Struct, frozen=True):
    """A domain's present number, and those that it may believe to have.

    >>> Alias(7, (3, 5)).inward(b"/local/domain/0/backend/vbd/5/51712/state")
    b'/local/domain/0/backend/vbd/7/51712/state'
    """

    now: int
    known: tuple[int, ...]

    def inward(self, raw: bytes) -> bytes:
        """A path of the guest's as it is in the store; others stay as they are."""
        for shape in (_BACKEND, _OWN):
            found = shape.match(raw)
            if found is not None:
                number = int(found[2])
                if number in self.known and number != self.now:
                    return b"%s%d%s" % (found[1], self.now, raw[found.end() :])
        return raw

    def next(self, domid: int) -> Alias:
        """That of a domain made from this one, under the number `domid`."""
        known = dict.fromkeys((*self.known, self.now))
        return Alias(domid, tuple(known))


def renumbered(path: str, old: int, new: int) -> str:
    """A path of the store in which one domain's number is another's.

    >>> renumbered("/libxl/3/device/vbd/51712", 3, 9), renumbered("/vm/3", 3, 9)
    ('/libxl/9/device/vbd/51712', '/vm/3')
    """
    if path.startswith(own := f"/local/domain/{old}/") and "/backend/" not in path:
        # Most are such, and need no look at each part (see `Alias.inward`).
        return f"/local/domain/{new}/{path[len(own) :]}"
    if path == (home := f"/libxl/{old}") or path.startswith(home + "/"):
        return f"/libxl/{new}{path[len(home) :]}"
    return Alias(new, (old,)).inward(path.encode()).decode()
