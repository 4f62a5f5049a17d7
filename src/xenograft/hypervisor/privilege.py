# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may do what to whom: Xen's default security policy (xen/include/xsm/dummy.h).

Each check names the weakest relation that suffices.  A control domain (`is_privileged`) may do
everything; a device model's domain may act on the domain that it serves (its `target`).
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError

if TYPE_CHECKING:
    from xenograft.hypervisor.domain import Domain


class Xsm(Enum):
    """Xen's xsm_default_t."""

    HOOK = auto()
    """Anybody."""
    TARGET = auto()
    """The domain itself, the device model that serves it, the control domain."""
    XS_PRIV = auto()
    """The xenstore domain, the device model, the control domain."""
    DM_PRIV = auto()
    """The device model that serves the domain, the control domain."""
    PRIV = auto()
    """The control domain alone."""


def allowed(action: Xsm, source: Domain, target: Domain | None) -> bool:
    """Whether `source` may do to `target` (None: to nobody in particular) what needs `action`."""
    if action is Xsm.HOOK or source.is_privileged:
        return True
    if action is Xsm.TARGET and source is target:
        return True
    if action in (Xsm.TARGET, Xsm.XS_PRIV) and source.is_xenstore:
        return True
    return action is not Xsm.PRIV and target is not None and source.target is target


def check(action: Xsm, source: Domain, target: Domain | None = None) -> None:
    """Raises XenError(EPERM) unless `allowed`."""
    if not allowed(action, source, target):
        raise XenError(Errno.EPERM)
