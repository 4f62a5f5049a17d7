# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian root file system: debootstrap into a folder, then into an image of ext4.

The mirror is the one that this system's apt is configured with.  root logs in on the console
without a password, and over ssh with the key that lies beside the image; the network is set up
by DHCP.  debootstrap changes root into what it makes, so this takes root's rights.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from xenograft.toolstack.errors import UserError
from xenograft.toolstack.images.apt import Say, say_stderr
from xenograft.toolstack.images.tools import Program, program

SUITE = "bookworm"
PACKAGES = (
    "systemd-sysv",
    "udev",
    "login",
    "kmod",
    "iproute2",
    "iputils-ping",
    "openssh-server",
    "wget",
    "netcat-openbsd",
    "e2fsprogs",
)
SIZE = "2560M"
"""Of the file system; the image is sparse."""

_FILES = {
    "etc/hostname": "debian\n",
    "etc/hosts": "127.0.0.1 localhost debian\n::1 localhost\n",
    "etc/fstab": "/dev/xvda / ext4 defaults 0 1\n",
    "etc/resolv.conf": "nameserver 10.0.2.3\n",
    "etc/systemd/network/80-wired.network": "[Match]\nType=ether\n[Network]\nDHCP=yes\n",
}
_MASKED = (
    # They wait for a network that a guest need not have, or for devices that it hasn't.
    "systemd-networkd-wait-online.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
)
_STEPS = ("Retrieving", "Extracting", "Unpacking", "Configuring")
_STEP = re.compile(rf"I: ({'|'.join(_STEPS)}) ")


def recipe() -> str:
    """Changes when what is built would."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]


def build(made: Path, work: Path, cache: Path, say: Say = say_stderr) -> dict[str, Path]:
    """Make the image in the folder `made`; returns its files by role.

    `work` is a folder for what is needed in between, `cache` where tools are looked for.
    Raises UserError.
    """
    if os.geteuid() != 0:
        raise UserError("debian-root is made with debootstrap, which takes root: run this as root")
    mirror = find_mirror()
    debootstrap = program("debootstrap", cache, say)
    mke2fs = program("mke2fs", cache, say)
    root = work / "root"
    _debootstrap(debootstrap, root, mirror, say)
    key = _customize(root, made)
    image = made / "debian-root.img"
    say("making the file system")
    _run(
        [
            str(mke2fs.path),
            "-q",
            "-F",
            "-t",
            "ext4",
            "-L",
            "root",
            "-d",
            str(root),
            str(image),
            SIZE,
        ],
        "mke2fs failed",
        mke2fs.env,
    )
    return {"disk": image, "key": key}


def find_mirror() -> str:
    """The address of the archive that apt takes Debian's packages from.  Raises UserError."""
    query = ["apt-get", "indextargets", "--format", "$(REPO_URI)"]
    done = subprocess.run(
        [*query, "Created-By: Packages", f"Codename: {SUITE}"],
        capture_output=True,
        text=True,
        check=False,
    )
    words = done.stdout.split()
    if done.returncode or not words:
        raise UserError(f"apt isn't configured for Debian {SUITE}: debian-root can't be made here")
    return words[0]


def _debootstrap(tool: Program, root: Path, mirror: str, say: Say) -> None:
    """Install the system into `root`, showing how far it is."""
    environment = {**tool.env, "LC_ALL": "C"}
    folder = tool.path.parent.parent / "share" / "debootstrap"
    if folder.is_dir():
        environment["DEBOOTSTRAP_DIR"] = str(folder)
    argv = [str(tool.path), "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE]
    last: list[str] = []
    reached = -1
    with subprocess.Popen(
        [*argv, str(root), mirror],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last = [*last[-2:], line.strip()]
            found = _STEP.match(line)
            # The base system and the rest each go through all steps.
            if found and _STEPS.index(found[1]) > reached:
                reached = _STEPS.index(found[1])
                say(f"debootstrap: {found[1].lower()} packages ...")
    if process.returncode:
        raise UserError(f"debootstrap failed: {' / '.join(last) or 'it said nothing'}")


def _customize(root: Path, made: Path) -> Path:
    """What makes the system a guest; returns the key for root's ssh."""
    for name, text in _FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)
    units = root / "etc/systemd/system"
    for unit in _MASKED:
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
    wants = units / "multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    networkd = wants / "systemd-networkd.service"
    if not networkd.is_symlink():
        networkd.symlink_to("/lib/systemd/system/systemd-networkd.service")
    _chroot(root, "passwd", "--delete", "root")
    _chroot(root, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "/root/.ssh/id_ed25519")
    ssh = root / "root/.ssh"
    (ssh / "id_ed25519.pub").rename(ssh / "authorized_keys")
    key = made / "debian-root.key"
    shutil.move(ssh / "id_ed25519", key)
    key.chmod(0o600)
    for folder in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
        shutil.rmtree(root / folder, ignore_errors=True)
    return key


def _chroot(root: Path, *argv: str) -> None:
    _run(["chroot", str(root), *argv], f"{argv[0]} failed in the new system")


def _run(argv: list[str], what: str, env: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, env=env, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise UserError(f"{what}: {lines[-1]}")
