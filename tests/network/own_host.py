# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest behind user networking on a host with a name server of its own.

Run as a program in namespaces of its own, since the host's name server is in /etc/resolv.conf:
`unshare -rmn python -m tests.network.own_host FOLDER KERNEL RAMDISK`
"""

from __future__ import annotations

import fcntl
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

from tests.network.conftest import Lab, Shell

NAME, ADDRESS = "box.example", "192.0.2.77"
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


def loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))


def serve_names(server: socket.socket, asked: list[str]) -> None:
    """Answer questions for NAME (RFC 1035); others don't exist."""
    while True:
        query, peer = server.recvfrom(512)
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        question = query[12 : at + 5]
        name, (kind,) = ".".join(labels), struct.unpack_from(">H", query, at + 1)
        asked.append(name)
        found = name == NAME and kind == 1
        head = query[:2] + struct.pack(
            ">HHHHH", 0x8180 | (0 if name == NAME else 3), 1, int(found), 0, 0
        )
        answer = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton(ADDRESS)
        server.sendto(head + question + (answer if found else b""), peer)


def main(folder: Path, kernel: str, ramdisk: str) -> None:
    loopback_up()
    resolver = folder / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\n")
    subprocess.run(["mount", "--bind", str(resolver), "/etc/resolv.conf"], check=True)
    asked: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))
        threading.Thread(target=serve_names, args=(server, asked), daemon=True).start()
        images = {"debian-cloud": Path(kernel), "driver-initrd": Path(ramdisk)}
        lab = Lab(images.__getitem__)
        try:
            look(lab.guest("guest", "bridge=user", net="dhcp"), asked)
        finally:
            lab.machine.close()
    print("as it should be")


def look(guest: Shell, asked: list[str]) -> None:
    """What a guest finds out by the name server, DHCP and router advertisements."""
    assert f"Address: {ADDRESS}" in guest.run(f"nslookup -type=a {NAME} 10.0.2.3")
    assert NAME in asked
    status, _ = guest.try_("nslookup -type=a nonesuch.example 10.0.2.3")
    assert status != 0
    lease = guest.run("udhcpc -f -q -n -i eth0 2>&1")
    assert "10.0.2.15 obtained from 10.0.2.2" in lease, lease
    assert "default via 10.0.2.2" in guest.run("ip route")
    guest.run("until ip -6 address show eth0 | grep -q 'inet6 fec0:'; do sleep 0.2; done")
    assert "2 packets received" in guest.run("ping -6 -c 2 -W 5 fec0::2")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
