# SPDX-License-Identifier: GPL-2.0-or-later
"""From an xl.cfg file to a `DomainConfig`.

What the keys do is decided in `keys.KEYS`; their meaning is that of xl 4.17 (xl.cfg(5)): no
type means PV, no memory 32 MiB, root= and extra= make a command line unless cmdline= is given.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from xenograft.toolstack.config.channel import parse_channel
from xenograft.toolstack.config.disk import parse_disk
from xenograft.toolstack.config.display import parse_vfb, parse_vkb
from xenograft.toolstack.config.domain import DomainConfig, TimerMode, TscMode
from xenograft.toolstack.config.keys import KEYS, Decision, Key, Type
from xenograft.toolstack.config.p9 import parse_p9
from xenograft.toolstack.config.syntax import MAX_SIZE, Setting, Value, parse_settings
from xenograft.toolstack.config.values import nearest, number
from xenograft.toolstack.config.vif import parse_vif
from xenograft.toolstack.errors import UserError

_DEFAULT_MEMORY_MIB = 32
_BUILDERS = {"generic": "pv", "hvm": "hvm"}
# timer_mode's and tsc_mode's old form is a number: the position in the list of names.
_NUMBERED = {"tsc_mode": get_args(TscMode), "timer_mode": get_args(TimerMode)}


def _texts(value: Value, what: str, expected: Type) -> list[str]:
    if not isinstance(value, list):
        raise UserError(f"{what}: {expected.value} is expected; write it in [ ]")
    texts = [item for item in value if isinstance(item, str)]
    if len(texts) != len(value):
        raise UserError(f"{what}: {expected.value} is expected, without lists in it")
    return texts


def _convert(key: Key, setting: Setting) -> Any:
    """The value in Python's types, checked against the key's."""
    value = setting.value
    if key.type in (Type.NESTED, Type.ANY):
        if key.type is Type.NESTED and not isinstance(value, list):
            raise UserError(f"{key.name}: {key.type.value} is expected; write it in [ ]")
        return value
    if key.type is Type.LIST or (key.type is Type.STRING_OR_LIST and isinstance(value, list)):
        return tuple(_texts(value, key.name, key.type))
    if isinstance(value, list):
        raise UserError(f"{key.name}: {key.type.value} is expected, not a list")
    if key.type in (Type.NUMBER, Type.BOOLEAN):
        if setting.appended:
            raise UserError(f"{key.name}: numbers can't be appended to (+=)")
        parsed = number(value, key.name)
        return bool(parsed) if key.type is Type.BOOLEAN else parsed
    return value


def _is_neutral(key: Key, value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return not value
    if isinstance(value, bool):
        value = int(value)
    return str(value) in key.neutral


def _cmdline(values: dict[str, Any], warn: Callable[[str], None]) -> str:
    root, extra = values.get("root"), values.get("extra")
    if "cmdline" in values:
        if root is not None or extra is not None:
            warn("root= and extra= are ignored, since there is cmdline=")
        return str(values["cmdline"])
    parts = [f"root={root}"] if root is not None else []
    return " ".join([*parts, extra] if extra is not None else parts)


def _kind(values: dict[str, Any]) -> str:
    builder = values.get("builder")
    if builder is None:
        return str(values.get("type", "pv"))
    if builder not in _BUILDERS:
        raise UserError(f"builder: {builder[:40]!r} is unknown; use type= instead")
    kind = _BUILDERS[builder]
    if values.get("type", kind) != kind:
        raise UserError(f"builder={builder!r} and type={values['type']!r} contradict each other")
    return kind


# These go into the record as they are.
_PLAIN = (
    "name",
    "kernel",
    "ramdisk",
    "memory",
    "maxmem",
    "vcpus",
    "maxvcpus",
    "cpuid",
    "pool",
    "cpus",
    "cpus_soft",
    "cpu_weight",
    "cap",
    "period",
    "slice",
    "on_poweroff",
    "on_reboot",
    "on_watchdog",
    "on_crash",
    "on_soft_reset",
    "tsc_mode",
    "timer_mode",
    "nomigrate",
    "max_grant_frames",
    "max_maptrack_frames",
    "max_grant_version",
    "max_event_channels",
)


def parse_config(text: str, source: str = "configuration") -> tuple[DomainConfig, list[str]]:
    """A configuration's text; returns the record and warnings, a line each.

    Raises UserError, one line that begins with `source` and, where there is one, the number of
    the line at fault.
    """
    settings = parse_settings(text, source)
    warnings: list[str] = []
    values: dict[str, Any] = {}
    for name, setting in settings.items():
        where = f"{source}:{setting.line}: "
        key = KEYS.get(name)
        if key is None:
            raise UserError(f"{where}unknown key {name[:40]}{nearest(name, KEYS)}")
        try:
            value = _convert(key, setting)
        except UserError as error:
            raise UserError(f"{where}{error}") from error
        if key.decision is Decision.DONE:
            values[name] = value
        elif not _is_neutral(key, value):
            if key.decision is Decision.REFUSED:
                raise UserError(f"{where}{name} can't be honoured: {key.reason}")
            warnings.append(f"{where}{name} is ignored: {key.reason}")

    def warn(what: str) -> None:
        warnings.append(f"{source}: {what}")

    try:
        return _record(values, warn), warnings
    except UserError as error:
        raise UserError(f"{_where(source, settings, str(error))}{error}") from error


def _where(source: str, settings: dict[str, Setting], message: str) -> str:
    """`source:line: ` if the message is about a key that was set."""
    words = message.replace(":", " ").replace("=", " ").split()
    setting = settings.get(words[0]) if words else None
    return f"{source}:{setting.line}: " if setting else f"{source}: "


def _record(values: dict[str, Any], warn: Callable[[str], None]) -> DomainConfig:
    if "name" not in values:
        raise UserError('it has no name; add name="…"')
    for what, names in _NUMBERED.items():
        text = values.get(what, "")
        if text.isdecimal() and len(text) < 4 and int(text) < len(names):
            values[what] = names[int(text)]
            warn(f"{what}={text}: the number is an old form; write {what}={names[int(text)]!r}")
    fields = {name: values[name] for name in _PLAIN if name in values}
    if "timer_mode" in fields and _kind(values) == "pv":
        raise UserError("timer_mode: PV guests have no virtual platform timers; leave it out")
    if fields.get("tsc_mode") == "native":
        warn("tsc_mode=native: the TSC is always emulated, at the machine's one frequency")
    fields.setdefault("memory", _DEFAULT_MEMORY_MIB)
    if "extratime" in values:
        fields["extratime"] = bool(values["extratime"])
    if "uuid" in values:
        fields["uuid"] = values["uuid"].lower()
    fields["type"] = _kind(values)
    vfbs = tuple(parse_vfb(spec) for spec in values.get("vfb", ()))
    if any(vfb.vnc for vfb in vfbs):
        warn("vfb: vnc=1 is ignored: there is no VNC server; take screenshots instead")
    return DomainConfig(
        **fields,
        cmdline=_cmdline(values, warn),
        disk=tuple(parse_disk(spec) for spec in values.get("disk", ())),
        vif=tuple(parse_vif(spec) for spec in values.get("vif", ())),
        p9=tuple(parse_p9(spec) for spec in values.get("p9", ())),
        channel=tuple(parse_channel(spec) for spec in values.get("channel", ())),
        vfb=vfbs,
        vkb=tuple(parse_vkb(spec) for spec in values.get("vkb", ())),
    )


def load_config(path: str | Path) -> tuple[DomainConfig, list[str]]:
    """Read and parse a configuration file. Raises UserError."""
    name = str(path)
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise UserError(f"{name}: {(error.strerror or str(error)).lower()}") from error
    if b"\0" in data:
        raise UserError(f"{name}: not a configuration (it holds NUL bytes)")
    return parse_config(data.decode("utf-8", "surrogateescape"), name)
