# SPDX-License-Identifier: GPL-2.0-or-later
"""The platform of HVM-type guests satisfies the protocol (mypy proves the types)."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from xenograft.arch.protocol import Arch
from xenograft.hypervisor.hvm.platform import HvmPlatform

if TYPE_CHECKING:
    from xenograft.hypervisor.call import Call
    from xenograft.hypervisor.vcpu import Vcpu


def checked(platform: HvmPlatform) -> Arch[Vcpu, Call]:
    """Only mypy reads this."""
    return platform


def test_the_platform_has_every_method_with_its_parameters() -> None:
    methods = [name for name in vars(Arch) if not name.startswith("_")]
    assert len(methods) >= 8
    for name in methods:
        wanted = inspect.signature(getattr(Arch, name)).parameters
        given = inspect.signature(getattr(HvmPlatform, name)).parameters
        assert list(given) == list(wanted), name
