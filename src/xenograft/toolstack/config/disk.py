# SPDX-License-Identifier: GPL-2.0-or-later
"""`disk=` specifications, as xl-disk-configuration(5) of Xen 4.17 describes them.

A specification is a list of parameters between commas: ``key=value``, flags, and up to four
positional ones (target, format, vdev, access); ``target=`` takes the rest of the text.  The
older ``format:target,vdev:devtype,access`` is understood too.

Device numbers: xen-vbd-interface(7).
"""

from __future__ import annotations

import re

import msgspec

from xenograft.toolstack.config.values import nearest
from xenograft.toolstack.errors import UserError

_FORMATS = ("raw", "qcow", "qcow2", "vhd", "qed", "empty")
_ACCESS = {"r": True, "ro": True, "w": False, "rw": False, "": False}
_BACKEND_TYPES = ("phy", "tap", "qdisk", "standalone")
_SPECIFICATIONS = ("xen", "virtio")
_FLAGS = {
    "direct-io-safe": ("direct_io_safe", True),
    "discard": ("discard", True),
    "no-discard": ("discard", False),
    "trusted": ("trusted", True),
    "untrusted": ("trusted", False),
}
_COLO = ("colo-host", "colo-port", "colo-export", "active-disk", "hidden-disk")
_KEYS = (
    "target",
    "format",
    "vdev",
    "access",
    "devtype",
    "backend",
    "backendtype",
    "script",
    "specification",
)
_OLD_FORMAT = re.compile(r"(raw|qcow2?|vhd):")
_OLD_SCRIPT = re.compile(r"(iscsi|e?nbd|drbd):")
_OLD_IGNORED = re.compile(r"(tapdisk|tap2?|aio|ioemu|file|phy):")
_OLD_ANY = re.compile(r"([a-z][a-z0-9]*):")

_VDEV_LETTERS = re.compile(r"(xvd|sd|hd)([a-z]{1,4})([0-9]{0,4})\Z")
_VDEV_NUMBERS = re.compile(r"d([0-9]{1,6})(?:p([0-9]{1,4}))?\Z")
_VDEV_PLAIN = re.compile(r"(0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10})\Z")


class Disk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One virtual disk."""

    target: str
    """Path of the image or device, "" for an empty CD drive."""
    vdev: str
    format: str = "raw"
    readonly: bool = False
    cdrom: bool = False
    backend: str = ""
    """Name of the domain that serves it, "" for domain 0."""
    backendtype: str = ""
    script: str = ""
    specification: str = "xen"
    direct_io_safe: bool = False
    discard: bool = True
    trusted: bool = True

    @property
    def device_number(self) -> int:
        """The number under which the guest finds it (the `virtual-device` of vbd)."""
        return device_number(self.vdev)


def device_number(vdev: str) -> int:
    """The VBD number of a name as xvda, sdb3, hdc, d5p2, or of a number. Raises UserError."""
    plain = _VDEV_PLAIN.match(vdev)
    if plain:
        text = plain.group(1)
        if text.lower().startswith("0x"):
            return int(text, 16)
        if text.startswith("0") and len(text) > 1:
            if not re.fullmatch(r"[0-7]+", text):
                raise UserError(f"disk: the device number {text} isn't octal (it begins with 0)")
            return int(text, 8)
        return int(text)
    numbers = _VDEV_NUMBERS.match(vdev)
    letters = _VDEV_LETTERS.match(vdev)
    if numbers:
        kind, disk, partition = "xvd", int(numbers[1]), int(numbers[2] or 0)
    elif letters:
        kind, disk, partition = letters[1], _letters(letters[2]), int(letters[3] or 0)
    else:
        raise UserError(f"disk: {vdev[:40]!r} isn't a device; use xvda, sda, hda and the like")
    if kind == "xvd" and disk <= 15 and partition <= 15:
        return 202 << 8 | disk << 4 | partition
    if kind == "xvd" and disk < 1 << 20 and partition <= 255:
        return 1 << 28 | disk << 8 | partition
    if kind == "sd" and disk <= 15 and partition <= 15:
        return 8 << 8 | disk << 4 | partition
    if kind == "hd" and disk <= 3 and partition <= 63:
        return (3 if disk < 2 else 22) << 8 | (disk & 1) << 6 | partition
    raise UserError(f"disk: there is no device {vdev}: its number is too high")


def _letters(letters: str) -> int:
    """a → 0, z → 25, aa → 26, …"""
    value = 0
    for letter in letters:
        value = value * 26 + ord(letter) - ord("a") + 1
    return value - 1


class _Spec:
    """The parameters of one specification while it is read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.values: dict[str, str] = {}
        self.flags: dict[str, bool] = {}
        self.cdrom = False
        self.old_prefix = False

    def error(self, what: str) -> UserError:
        return UserError(f"disk {self.text[:80]!r}: {what}")

    def set(self, key: str, value: str) -> None:
        if self.values.get(key):
            raise self.error(f"{key} is given twice")
        self.values[key] = value

    def named(self, key: str, value: str) -> None:
        if key == "devtype":
            if value not in ("cdrom", "disk"):
                raise self.error(f"unknown devtype {value!r}; it can be cdrom or disk")
            self.cdrom = value == "cdrom"
        elif key in _KEYS:
            self.set(key, value)
        elif key in _COLO:
            raise self.error("COLO replication isn't supported")
        else:
            raise self.error(f"unknown parameter {key!r}{nearest(key, _KEYS)}")

    def vdev(self, value: str) -> bool:
        """Set vdev; True if it was of the old form vdev:devtype."""
        name, colon, devtype = value.rpartition(":")
        if not colon:
            self.set("vdev", value)
            return False
        if devtype not in ("cdrom", "disk"):
            raise self.error(f"unknown device type {devtype!r}")
        self.set("vdev", name)
        self.cdrom = devtype == "cdrom"
        return True

    def positional(self, value: str) -> None:
        if "target" not in self.values:
            self.values["target"] = self.strip_prefixes(value)
        elif "format" not in self.values and not self.old_prefix:
            if not self.values["target"] and ":" in value:
                self.vdev(value)
                self.values["format"] = "empty"
            else:
                self.values["format"] = value
        elif "vdev" not in self.values:
            self.vdev(value)
        elif "access" not in self.values:
            self.values["access"] = value
        else:
            raise self.error(f"too many parameters: {value!r}")

    def strip_prefixes(self, value: str) -> str:
        while match := _OLD_ANY.match(value):
            word = match.group(1)
            if _OLD_FORMAT.match(value):
                self.set("format", word)
            elif _OLD_SCRIPT.match(value):
                self.set("script", f"block-{word}")
            elif not _OLD_IGNORED.match(value):
                raise self.error(f"unknown prefix {word!r}; write format=, target= and so on")
            self.old_prefix = True
            value = value[match.end() :]
        return value


def parse_disk(text: str) -> Disk:
    """One disk. Raises UserError with what is wrong in it."""
    spec = _Spec(text)
    rest = text.lstrip()
    while rest:
        if rest.startswith("target="):
            spec.set("target", rest.removeprefix("target="))
            break
        piece, _, rest = rest.partition(",")
        rest = rest.lstrip()
        key, equals, value = piece.partition("=")
        if equals and re.fullmatch(r"[a-z][-a-z0-9]*", key):
            spec.named(key, value)
        elif equals:
            raise spec.error(f"{piece[:40]!r} isn't understood; give such a path with target=")
        elif piece == "cdrom":
            spec.cdrom = True
        elif piece in _FLAGS:
            flag, on = _FLAGS[piece]
            spec.flags[flag] = on
        elif piece in ("colo", "no-colo"):
            raise spec.error("COLO replication isn't supported")
        else:
            spec.positional(piece)
    return _finish(spec)


def _finish(spec: _Spec) -> Disk:
    values = spec.values
    form = values.get("format") or "raw"
    if form not in _FORMATS:
        raise spec.error(f"unknown format {form!r}{nearest(form, _FORMATS)}")
    if not values.get("vdev"):
        raise spec.error("no device is named; add one, as in vdev=xvda")
    access = values.get("access", "")
    if access not in _ACCESS:
        raise spec.error(f"unknown access {access!r}; it can be rw or ro")
    for key, known in (("backendtype", _BACKEND_TYPES), ("specification", _SPECIFICATIONS)):
        if values.get(key) and values[key] not in known:
            raise spec.error(f"unknown {key} {values[key]!r}; it can be {', '.join(known)}")
    target = values.get("target", "")
    if not target and not spec.cdrom:
        raise spec.error("no target; name the image or device")
    if spec.cdrom and access in ("w", "rw"):
        raise spec.error("a CD can't be written; leave out the access")
    device_number(values["vdev"])
    return Disk(
        target=target,
        vdev=values["vdev"],
        format="empty" if not target else form,
        readonly=_ACCESS[access] or spec.cdrom,
        cdrom=spec.cdrom,
        backend=values.get("backend", ""),
        backendtype=values.get("backendtype", ""),
        script=values.get("script", ""),
        specification=values.get("specification") or "xen",
        **spec.flags,
    )
