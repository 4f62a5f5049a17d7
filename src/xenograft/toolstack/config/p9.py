# SPDX-License-Identifier: GPL-2.0-or-later
"""`p9=` specifications: a folder of the host shared with the guest (xl.cfg(5) of Xen 4.17)."""

from __future__ import annotations

import msgspec

from xenograft.toolstack.config.pairs import flag, pairs
from xenograft.toolstack.errors import UserError

_KEYS = ("tag", "path", "security_model", "backend", "readonly")
TAG_MAX = 255


class P9(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One shared folder."""

    tag: str
    """What the guest mounts it by."""
    path: str
    security_model: str = "none"
    backend: str = ""
    readonly: bool = False
    """Ours: xl has no such key."""


def parse_p9(text: str) -> P9:
    """One folder: ``tag=share,path=/folder,security_model=none``.  Raises UserError."""
    values = pairs("p9", text, _KEYS)
    for name in ("tag", "path"):
        if not values.get(name):
            raise UserError(f"p9 {text[:80]!r}: {name}= is missing; write tag=NAME,path=FOLDER")
    if len(values["tag"].encode()) > TAG_MAX or "/" in values["tag"]:
        raise UserError(f"p9: {values['tag'][:40]!r} can't be a tag (255 bytes at most, no /)")
    model = values.get("security_model", "none")
    if model != "none":
        raise UserError(
            f"p9 {values['tag']}: security_model={model[:40]} isn't supported; there is none"
        )
    return P9(
        values["tag"],
        values["path"],
        model,
        values.get("backend", ""),
        flag(f"p9 {values['tag']}: readonly", values.get("readonly", "0")),
    )
