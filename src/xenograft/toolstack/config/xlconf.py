# SPDX-License-Identifier: GPL-2.0-or-later
"""xl.conf(5): defaults of the toolstack itself, read from the user's own xl.conf.

The file is ``$XDG_CONFIG_HOME/xenograft/xl.conf`` (``~/.config/…``), or what ``XG_CONF`` names.
Its grammar is that of domain configurations.  As for their keys, each key of Xen 4.17's
xl.conf(5) is done, or ignored with a warning that says what isn't done.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from xenograft.toolstack.config.domain import DomainConfig
from xenograft.toolstack.config.keys import Decision, Key, Type
from xenograft.toolstack.config.syntax import MAX_SIZE, parse_settings
from xenograft.toolstack.config.values import nearest, number
from xenograft.toolstack.errors import UserError

_SCRIPTS = "no hotplug scripts are run"
_HOST_CPUS = "vCPUs aren't tied to host CPUs by masks"
_REPLICATION = "Remus and COLO aren't supported"


def _done(name: str, type_: Type) -> Key:
    return Key(name, type_, Decision.DONE)


def _ignored(name: str, type_: Type, reason: str, neutral: tuple[str, ...] = ()) -> Key:
    return Key(name, type_, Decision.IGNORED, reason, neutral)


_TABLE = (
    _ignored(
        "autoballoon",
        Type.ANY,
        "domain 0 has no memory that it could give away",
        ("0", "off", "auto"),
    ),
    _ignored("run_hotplug_scripts", Type.BOOLEAN, _SCRIPTS, ("0",)),
    _ignored("lockfile", Type.STRING, "the host service needs no lock between commands"),
    _ignored("claim_mode", Type.BOOLEAN, "memory is found or not before a guest starts", ("1",)),
    _done("max_grant_frames", Type.NUMBER),
    _done("max_maptrack_frames", Type.NUMBER),
    _done("vif.default.bridge", Type.STRING),
    _done("vif.default.backend", Type.STRING),
    _done("vif.default.script", Type.STRING),
    _done("vif.default.gatewaydev", Type.STRING),
    _done("defaultbridge", Type.STRING),
    _done("vifscript", Type.STRING),
    _ignored("remus.default.netbufscript", Type.STRING, _REPLICATION),
    _ignored("colo.default.proxyscript", Type.STRING, _REPLICATION),
    _ignored("output_format", Type.STRING, "long lists are always JSON", ("json",)),
    _ignored("blkdev_start", Type.STRING, "no device names are given to domain 0"),
    _ignored("vm.cpumask", Type.STRING, _HOST_CPUS),
    _ignored("vm.hvm.cpumask", Type.STRING, _HOST_CPUS),
    _ignored("vm.pv.cpumask", Type.STRING, _HOST_CPUS),
)
KEYS: dict[str, Key] = {key.name: key for key in _TABLE}
"""The keys, by name."""

_OLD = {"defaultbridge": "vif.default.bridge", "vifscript": "vif.default.script"}


class XlConf(msgspec.Struct, frozen=True):
    """Defaults for domains whose configuration doesn't say."""

    max_grant_frames: int | None = None
    max_maptrack_frames: int | None = None
    bridge: str = ""
    backend: str = ""
    script: str = ""
    gatewaydev: str = ""


def parse_conf(text: str, source: str = "xl.conf") -> tuple[XlConf, list[str]]:
    """The defaults and warnings, a line each.  Raises UserError."""
    values: dict[str, str] = {}
    warnings = []
    for name, setting in parse_settings(text, source).items():
        where = f"{source}:{setting.line}: "
        key = KEYS.get(name)
        if key is None:
            raise UserError(f"{where}unknown key {name[:40]}{nearest(name, KEYS)}")
        value = setting.value
        if isinstance(value, list):
            raise UserError(f"{where}{name}: {key.type.value} is expected, not a list")
        if key.decision is Decision.DONE:
            values[_OLD.get(name, name)] = value
        elif value not in key.neutral:
            warnings.append(f"{where}{name} is ignored: {key.reason}")

    def limit(name: str) -> int | None:
        return number(values[name], f"{source}: {name}") if name in values else None

    conf = XlConf(
        max_grant_frames=limit("max_grant_frames"),
        max_maptrack_frames=limit("max_maptrack_frames"),
        bridge=values.get("vif.default.bridge", ""),
        backend=values.get("vif.default.backend", ""),
        script=values.get("vif.default.script", ""),
        gatewaydev=values.get("vif.default.gatewaydev", ""),
    )
    return conf, warnings


def conf_path() -> Path:
    """Where the user's xl.conf is."""
    if given := os.environ.get("XG_CONF"):
        return Path(given)
    base = os.environ.get("XDG_CONFIG_HOME", "")
    home = Path(base) if base.startswith("/") else Path.home() / ".config"
    return home / "xenograft" / "xl.conf"


def user_conf() -> tuple[XlConf, list[str]]:
    """The user's xl.conf; all defaults if there's none.  Raises UserError."""
    path = conf_path()
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_SIZE + 1)
    except FileNotFoundError:
        return XlConf(), []
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    return parse_conf(data.decode("utf-8", "surrogateescape"), str(path))


def apply_defaults(config: DomainConfig, conf: XlConf) -> DomainConfig:
    """The configuration with defaults where it says nothing."""
    plain = DomainConfig()
    changes: dict[str, object] = {}
    for name in ("max_grant_frames", "max_maptrack_frames"):
        default = getattr(conf, name)
        if default is not None and getattr(config, name) == getattr(plain, name):
            changes[name] = default
    fields = ("bridge", "backend", "script", "gatewaydev")
    changes["vif"] = tuple(
        msgspec.structs.replace(
            vif,
            **{
                name: getattr(conf, name)
                for name in fields
                if not getattr(vif, name) and getattr(conf, name)
            },
        )
        for vif in config.vif
    )
    return msgspec.structs.replace(config, **changes)
