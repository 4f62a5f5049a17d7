# SPDX-License-Identifier: GPL-2.0-or-later
"""What `xg image` knows by name, and how each is made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Image:
    """One entry: files of a Debian package, or something built from another image.

    `follow` is a regex: the package is a metapackage, and the dependency that matches is meant.
    `files` maps a role (`kernel`, `ramdisk`, `binary`) to a pattern of the path in the package;
    the first role is what `xg image get` prints.  `base` names the image that one is built from.
    """

    name: str
    summary: str
    package: str = ""
    follow: str | None = None
    files: tuple[tuple[str, str], ...] = ()
    base: str | None = None


_KERNEL = (("kernel", "boot/vmlinuz-*"), ("config", "boot/config-*"))

CATALOGUE: dict[str, Image] = {
    image.name: image
    for image in (
        Image(
            "debian-cloud",
            "Debian's kernel for virtual machines",
            "linux-image-cloud-amd64",
            r"linux-image-\d.*-cloud-amd64",
            _KERNEL,
        ),
        Image(
            "debian",
            "Debian's standard kernel",
            "linux-image-amd64",
            r"linux-image-\d.*-amd64",
            _KERNEL,
        ),
        Image(
            "debian-rt",
            "Debian's real-time kernel",
            "linux-image-rt-amd64",
            r"linux-image-\d.*-rt-amd64",
            _KERNEL,
        ),
        Image(
            "grub-pvh",
            "GRUB as a PVH guest",
            "grub-xen-host",
            files=(("kernel", "usr/lib/grub-xen/grub-i386-xen_pvh.bin"),),
        ),
        Image(
            "grub-pv64",
            "GRUB as a 64-bit PV guest",
            "grub-xen-host",
            files=(("kernel", "usr/lib/grub-xen/grub-x86_64-xen.bin"),),
        ),
        Image(
            "grub-pv32",
            "GRUB as a 32-bit PV guest",
            "grub-xen-host",
            files=(("kernel", "usr/lib/grub-xen/grub-i386-xen.bin"),),
        ),
        Image(
            "busybox",
            "the usual commands in one static binary",
            "busybox-static",
            files=(("binary", "bin/busybox"),),
        ),
        Image("demo-initrd", "ramdisk with a busybox shell, built here", base="busybox"),
    )
}
