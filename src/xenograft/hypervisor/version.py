# SPDX-License-Identifier: GPL-2.0-or-later
"""What the hypervisor says about itself (XENVER_*): that of the Xen release that we present."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class XenVersion:
    """The answers of xen_version, and what `xl info` shows of them.

    `capabilities` ends with a blank, as Xen's does.
    """

    major: int = 4
    minor: int = 17
    extra: str = ".7"
    compiler: str = "none (interpreted)"
    compile_by: str = "xenograft"
    compile_domain: str = ""
    compile_date: str = ""
    changeset: str = ""
    capabilities: str = (
        "xen-3.0-x86_64 xen-3.0-x86_32p hvm-3.0-x86_32 hvm-3.0-x86_32p hvm-3.0-x86_64 "
    )
    commandline: str = ""
    build_id: bytes = b"xenograft presents 4"
    virt_start: int = 0xFFFF_8000_0000_0000
    virt_start_compat: int = 0xF580_0000

    @property
    def number(self) -> int:
        """XENVER_version's result."""
        return self.major << 16 | self.minor

    @property
    def text(self) -> str:
        """The version as people write it: "4.17.7"."""
        return f"{self.major}.{self.minor}{self.extra}"
