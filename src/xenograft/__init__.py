# SPDX-License-Identifier: GPL-2.0-or-later
r"""Xenograft: a user-space Xen.

It runs unmodified Xen guests with no Xen host, no root and no hardware virtualization:

>>> from xenograft import Machine
>>> with Machine(clock="virtual") as machine:
...     guest = machine.create_pvh(kernel="vmlinuz", ramdisk="initrd", cmdline="console=hvc0")
...     prompt = guest.console.expect("guest:~#")
...     sent = guest.console.send("exit\n")
...     guest.wait()
ShutdownReason.poweroff

`Machine` and `Domain` are those of `xenograft.toolstack.machine`; they're imported when first
used, so that `import xenograft` is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xenograft.toolstack.machine import Domain, Machine

__version__ = "0.1.0"
__all__ = ["Domain", "Machine", "__version__"]

_EXPORTS = {"Domain": "xenograft.toolstack.machine", "Machine": "xenograft.toolstack.machine"}


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        import importlib

        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'xenograft' has no attribute {name!r}")
