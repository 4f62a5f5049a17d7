# SPDX-License-Identifier: GPL-2.0-or-later
"""What the store holds of a domain when it's created: pure, from facts to nodes.

Source: the tree that libxl of Xen 4.17 made (xenstore-paths.pandoc names most of it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from xenograft.abi.errno import Errno, XenError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xenograft.store.client import StoreClient, StoreView

Perms = tuple[str, ...]
"""As the store has them: ``("n0", "r3")``, the owner first."""

CONSOLE_LIMIT = 1 << 20
_GUESTS_OWN = (
    "control/shutdown",
    "control/feature-poweroff",
    "control/feature-reboot",
    "control/feature-suspend",
    "control/sysrq",
    "device/suspend/event-channel",
    "data",
    "drivers",
    "feature",
    "attr",
    "error",
)
"""Nodes below the domain's directory that the guest itself may write."""


class Node(NamedTuple):
    """One node: where, what, and who may do what."""

    path: str
    value: str
    perms: Perms


class DomainFacts(msgspec.Struct, frozen=True, kw_only=True):
    """All that the store tells about a domain. Sizes are in KiB."""

    domid: int
    name: str
    uuid: str
    kind: str
    """pv, pvh or hvm."""
    memory: int
    maxmem: int
    vcpus: int
    online: int
    start_time: float
    """Seconds since 1970."""
    store_gfn: int
    store_port: int
    console_gfn: int
    console_port: int
    kernel: str = ""
    ramdisk: str = ""
    cmdline: str = ""


def domain_path(domid: int) -> str:
    """``/local/domain/<domid>``."""
    return f"/local/domain/{domid}"


def domain_nodes(facts: DomainFacts) -> list[Node]:
    """The nodes of a new domain, parents before children."""
    domid, home, vm = facts.domid, domain_path(facts.domid), f"/vm/{facts.uuid}"
    ours: Perms = ("n0", f"r{domid}")
    theirs: Perms = (f"n{domid}",)

    def node(path: str, value: str | int = "", perms: Perms = ours) -> Node:
        return Node(path if path.startswith("/") else f"{home}/{path}", str(value), perms)

    nodes = [node(home), node(vm)]
    nodes += [node(name) for name in ("cpu", "memory", "device", "control", "device/suspend")]
    nodes += [node(name, "", theirs) for name in _GUESTS_OWN]
    nodes += [
        node(f"{vm}/uuid", facts.uuid),
        node(f"{vm}/name", facts.name),
        node(f"{vm}/start_time", f"{facts.start_time:.2f}"),
        node("vm", vm),
        node("name", facts.name),
        node("domid", domid),
        node("control/platform-feature-multiprocessor-suspend", 1),
        node("control/platform-feature-xs_reset_watches", 1),
        node("memory/static-max", facts.maxmem),
        node("memory/target", facts.memory),
        node("memory/videoram", 0),
    ]
    if facts.kernel:
        nodes += [
            node(f"{vm}/image"),
            node(f"{vm}/image/ostype", "linux"),
            node(f"{vm}/image/kernel", facts.kernel),
        ]
        for name, value in (("ramdisk", facts.ramdisk), ("cmdline", facts.cmdline)):
            if value:
                nodes.append(node(f"{vm}/image/{name}", value))
    for cpu in range(facts.vcpus):
        availability = "online" if cpu < facts.online else "offline"
        nodes += [node(f"cpu/{cpu}"), node(f"cpu/{cpu}/availability", availability)]
    nodes += [
        node("store"),
        node("store/ring-ref", facts.store_gfn),
        node("store/port", facts.store_port),
        *_console_nodes(facts),
        Node(f"/libxl/{domid}", "", ("n0",)),
        Node(f"/libxl/{domid}/type", facts.kind, ("n0",)),
        Node(f"/libxl/{domid}/dm-version", "qemu_xen", ("n0",)),
    ]
    return nodes


def _console_nodes(facts: DomainFacts) -> list[Node]:
    """The first console, which isn't on xenbus: its front end knows it from the start."""
    domid, home = facts.domid, domain_path(facts.domid)
    ours: Perms = ("n0", f"r{domid}")
    theirs: Perms = (f"n{domid}", "r0")
    backend = f"/local/domain/0/backend/console/{domid}/0"
    front = {
        "limit": CONSOLE_LIMIT,
        "output": "pty",
        "port": facts.console_port,
        "ring-ref": facts.console_gfn,
        "type": "xenconsoled",
    }
    back = {
        "frontend": f"{home}/console",
        "frontend-id": domid,
        "online": 1,
        "protocol": "vt100",
        "state": 1,
    }
    shadow = f"/libxl/{domid}/device/console/0"
    return [
        Node(f"{home}/console", "", ours),
        Node(f"{home}/console/backend", backend, ours),
        Node(f"{home}/console/backend-id", "0", theirs),
        *(Node(f"{home}/console/{name}", str(value), ours) for name, value in front.items()),
        Node(backend, "", ours),
        *(Node(f"{backend}/{name}", str(value), ours) for name, value in back.items()),
        Node(shadow, "", ("n0",)),
        Node(f"{shadow}/backend", backend, ("n0",)),
        *(Node(f"{shadow}/{name}", str(value), ("n0",)) for name, value in back.items()),
    ]


def machine_nodes(memory_kib: int) -> list[Node]:
    """What there is before the first guest."""
    private: Perms = ("n0",)
    home = domain_path(0)
    values = {
        f"{home}/domid": "0",
        f"{home}/name": "Domain-0",
        f"{home}/memory/static-max": str(memory_kib),
        f"{home}/memory/target": str(memory_kib),
        f"{home}/backend": "",
        "/local/pool/0/name": "Pool-0",
        "/libxl": "",
        "/vm": "",
        "/tool/xenstored": "",
    }
    return [Node(path, value, private) for path, value in values.items()]


def write_nodes(view: StoreView, nodes: Iterable[Node]) -> None:
    """Write nodes with their permissions.  Raises XenError."""
    for path, value, perms in nodes:
        view.write(path, value)
        view.set_perms(path, perms)


def remove_nodes(client: StoreClient, paths: Iterable[str]) -> None:
    """Remove subtrees; those that aren't there don't matter."""
    for path in paths:
        try:
            client.rm(path)
        except XenError as error:
            if error.errno is not Errno.ENOENT:
                raise


def forget_domain(client: StoreClient, domid: int) -> None:
    """Remove all that the store holds of a domain that was destroyed."""
    vm = client.get(f"{domain_path(domid)}/vm")
    paths = [domain_path(domid), f"/libxl/{domid}"]
    if vm is not None and vm.startswith("/vm/"):
        paths.append(vm)
    backends = f"{domain_path(0)}/backend"
    if client.exists(backends):
        paths += [f"{backends}/{kind}/{domid}" for kind in client.ls(backends)]
    remove_nodes(client, paths)
