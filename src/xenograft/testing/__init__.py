# SPDX-License-Identifier: GPL-2.0-or-later
"""Tests of Xen guests and drivers with pytest: fixtures, commands in guests, faults.

The plugin is there wherever Xenograft is installed (`plugin.py`); docs/testing.md is its
tutorial.  Names are imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xenograft.testing.guest import CommandFailed, Guest, Result
    from xenograft.testing.limits import HostTimeout
    from xenograft.testing.shell import GuestTimeout, ShellError
    from xenograft.toolstack.errors import UserError
    from xenograft.toolstack.faults import Fault, Faults
    from xenograft.toolstack.machine import Console, Domain, GuestEnded, Machine, ShutdownReason

__all__ = [
    "CommandFailed",
    "Console",
    "Domain",
    "Fault",
    "Faults",
    "Guest",
    "GuestEnded",
    "GuestTimeout",
    "HostTimeout",
    "Machine",
    "Result",
    "ShellError",
    "ShutdownReason",
    "UserError",
]

_HOMES = {
    "guest": ("CommandFailed", "Guest", "Result"),
    "limits": ("HostTimeout",),
    "shell": ("GuestTimeout", "ShellError"),
    "toolstack.errors": ("UserError",),
    "toolstack.faults": ("Fault", "Faults"),
    "toolstack.machine": ("Console", "Domain", "GuestEnded", "Machine", "ShutdownReason"),
}


def __getattr__(name: str) -> Any:
    import importlib

    for home, names in _HOMES.items():
        if name in names:
            module = f"xenograft.{home}" if "." in home else f"xenograft.testing.{home}"
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'xenograft.testing' has no attribute {name!r}")
