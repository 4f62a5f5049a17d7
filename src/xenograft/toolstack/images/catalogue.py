# SPDX-License-Identifier: GPL-2.0-or-later
"""What `xg image` knows by name, and how each is made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Image:
    """One entry: files of a Debian package, or something built from another image.

    `follow` is a regex: the package is a metapackage, and the dependency that matches is meant.
    `files` maps a role (`kernel`, `ramdisk`, `binary`) to a pattern of the path in the package;
    the first role is what `xg image get` prints.  `base` names the image that one is built from,
    `kernel` the one whose modules are put into it.  `modules` are, of a kernel, patterns of those
    that are kept (what it has built in is missing); of a ramdisk, names of those that it loads,
    in their order.  `builder` is the module of this folder that makes it, if it isn't the usual.
    """

    name: str
    summary: str
    package: str = ""
    follow: str | None = None
    files: tuple[tuple[str, str], ...] = ()
    modules: tuple[str, ...] = ()
    base: str | None = None
    kernel: str | None = None
    builder: str = ""


_KERNEL = (("kernel", "boot/vmlinuz-*"), ("config", "boot/config-*"))
_XEN = ("xen-blkfront", "xen-netfront")
_BACKENDS = ("llc", "stp", "bridge", *_XEN, "xen-blkback", "xen-netback")
_9P = ("netfs", "fscache", "9pnet", "9p", "9pnet_xen")
"""In the order of their needs, as the others are; Debian's cloud kernel doesn't have them."""
_VIRTIO = (
    *("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci"),
    *("failover", "net_failover", "virtio_blk", "virtio_net"),
)
_MODULES = tuple(f"lib/modules/*/{name}.ko*" for name in (*_BACKENDS, *_VIRTIO, *_9P))

CATALOGUE: dict[str, Image] = {
    image.name: image
    for image in (
        Image(
            "debian-cloud",
            "Debian's kernel for virtual machines",
            "linux-image-cloud-amd64",
            r"linux-image-\d.*-cloud-amd64",
            _KERNEL,
            _MODULES,
        ),
        Image(
            "debian",
            "Debian's standard kernel",
            "linux-image-amd64",
            r"linux-image-\d.*-amd64",
            _KERNEL,
            _MODULES,
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
        Image(
            "driver-initrd",
            "the same, with drivers of debian-cloud for disks and networks",
            modules=_XEN,
            base="busybox",
            kernel="debian-cloud",
        ),
        Image(
            "virtio-initrd",
            "the same, with drivers for QEMU's virtio devices, to compare with",
            modules=_VIRTIO,
            base="busybox",
            kernel="debian-cloud",
        ),
        Image(
            "driver-initrd-debian",
            "the same, with those of debian, and its file system for shared folders",
            modules=(*_XEN, *_9P),
            base="busybox",
            kernel="debian",
        ),
        Image(
            "backend-initrd",
            "ramdisk of a driver domain, with Linux's block and network back ends",
            modules=_BACKENDS,
            base="busybox",
            kernel="debian-cloud",
            builder="backend_initrd",
        ),
        Image(
            "debian-root",
            "a disk with a Debian system, made by debootstrap (needs root)",
            builder="debian_root",
        ),
        # What user networking needs where the system has no libslirp: it, and what it needs.
        Image(
            "libslirp",
            "user networking's library",
            "libslirp0",
            files=(("library", "usr/lib/*/libslirp.so.0.*"),),
        ),
        Image(
            "libglib",
            "what libslirp needs",
            "libslirp0",
            r"libglib2\.0-0.*",
            (("library", "*lib/*/libglib-2.0.so.0.*"),),
        ),
        Image(
            "libpcre2",
            "what libglib needs",
            "libpcre2-8-0",
            files=(("library", "*lib/*/libpcre2-8.so.0.*"),),
        ),
    )
}
