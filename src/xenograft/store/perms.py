# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may do what to a node (docs/misc/xenstore.txt, SET_PERMS).

The first entry of a node's permissions names its owner, who may do everything, and what those
may do that no other entry names.  Domain 0 may do everything everywhere, as may a domain whose
target is domain 0.  A domain with a target has its target's rights beside its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

from xenograft.abi.errno import Errno, XenError

NONE = 0
READ = 1
WRITE = 2

_LETTERS = "nrwb"  # indexed by READ | WRITE
_DOMID_MAX = 0xFFFF


class Who:
    """The rights of a connection: its domain's, and those of the domain that it targets."""

    __slots__ = ("domid", "ids", "privileged", "target")

    def __init__(self, domid: int, target: int | None = None) -> None:
        self.domid = domid
        self.target = target
        self.ids = (domid,) if target is None else (domid, target)
        self.privileged = 0 in self.ids

    def __repr__(self) -> str:
        return f"Who({self.domid}, {self.target})"


class Perms(NamedTuple):
    """The permissions of a node; `other` and the accesses in `acl` are READ | WRITE masks."""

    owner: int
    other: int = NONE
    acl: tuple[tuple[int, int], ...] = ()

    @classmethod
    def parse(cls, words: Sequence[str]) -> Self:
        """Permissions from strings like ``n0``, ``r3``.  Raises XenError(EINVAL)."""
        entries = [_parse_word(word) for word in words]
        if not entries:
            raise XenError(Errno.EINVAL)
        owner, other = entries[0]
        return cls(owner, other, tuple(entries[1:]))

    def words(self) -> list[str]:
        """The strings that `parse` takes."""
        return [f"{_LETTERS[access]}{domid}" for domid, access in self.entries()]

    def entries(self) -> tuple[tuple[int, int], ...]:
        """(domid, access) of all entries, the owner's first."""
        return ((self.owner, self.other), *self.acl)

    def owned_by(self, who: Who) -> bool:
        """Whether `who` has an owner's rights."""
        return who.privileged or self.owner in who.ids

    def allow(self, who: Who, access: int) -> bool:
        """Whether `who` has all of `access` (READ, WRITE or both)."""
        if who.privileged or self.owner in who.ids:
            return True
        granted = NONE
        for domid in who.ids:
            granted |= self._access_of(domid)
        return granted & access == access

    def _access_of(self, domid: int) -> int:
        for named, access in self.acl:
            if named == domid:
                return access
        return self.other

    def inherited_by(self, who: Who) -> Perms:
        """The permissions of a node that `who` creates below one with these.

        Domains without privilege own what they create.
        """
        if who.privileged or self.owner == who.domid:
            return self
        return self._replace(owner=who.domid)

    def without(self, domid: int) -> Perms:
        """These permissions after the end of a domain that isn't the owner."""
        if all(named != domid for named, _ in self.acl):
            return self
        return self._replace(acl=tuple(entry for entry in self.acl if entry[0] != domid))


def _parse_word(word: str) -> tuple[int, int]:
    number = word[1:]
    # isdecimal() alone would take digits of other scripts.
    if word[:1] not in ("n", "r", "w", "b") or not (number.isascii() and number.isdecimal()):
        raise XenError(Errno.EINVAL)
    if len(number) > 5 or int(number) > _DOMID_MAX:
        raise XenError(Errno.EINVAL)
    return int(number), _LETTERS.index(word[0])
