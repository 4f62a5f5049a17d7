# SPDX-License-Identifier: GPL-2.0-or-later
"""A device as the toolstack describes it in the store: pure, from facts to nodes.

Source: what libxl of Xen 4.17 writes for a device (both ends, and its own copy below /libxl).
"""

from __future__ import annotations

import msgspec

from xenograft.abi.io.xenbus import XenbusState
from xenograft.toolstack.layout import Node, domain_path


class DeviceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One device: its kind (``vbd``), its number, and the nodes of both ends."""

    kind: str
    devid: int
    domid: int
    """The guest that it's for."""
    backend: dict[str, str]
    """Nodes of the back end's directory, beside those that every device has."""
    frontend: dict[str, str]
    """Nodes of the front end's directory that the guest owns, beside the usual ones."""
    readonly: dict[str, str] = {}
    """Nodes of the front end's directory that the guest may only read."""
    backend_domid: int = 0
    backend_kind: str = ""
    """The back end's kind, where it isn't called as the front end's."""

    @property
    def frontend_path(self) -> str:
        return f"{domain_path(self.domid)}/device/{self.kind}/{self.devid}"

    @property
    def backend_path(self) -> str:
        kind = self.backend_kind or self.kind
        return f"{domain_path(self.backend_domid)}/backend/{kind}/{self.domid}/{self.devid}"

    @property
    def libxl_path(self) -> str:
        return f"/libxl/{self.domid}/device/{self.kind}/{self.devid}"

    def nodes(self) -> list[Node]:
        """All nodes, to be written in one transaction; the states come last."""
        domid, server = self.domid, self.backend_domid
        initialising = str(int(XenbusState.Initialising))
        back = {
            "frontend": self.frontend_path,
            "frontend-id": str(domid),
            "online": "1",
            **self.backend,
            "state": initialising,
        }
        front = {
            "backend": self.backend_path,
            "backend-id": str(server),
            **self.frontend,
            "state": initialising,
        }
        front_perms, back_perms = (f"n{domid}", f"r{server}"), (f"n{server}", f"r{domid}")
        private = ("n0",)
        parent = self.frontend_path.rpartition("/")[0]
        nodes = [
            Node(parent, "", ("n0", f"r{domid}")),
            Node(self.frontend_path, "", front_perms),
            Node(self.backend_path, "", back_perms),
            Node(self.libxl_path, "", private),
            Node(f"{self.libxl_path}/backend", self.backend_path, private),
        ]
        for name, value in back.items():
            nodes.append(Node(f"{self.libxl_path}/{name}", value, private))
            nodes.append(Node(f"{self.backend_path}/{name}", value, back_perms))
        readonly = ("n0", f"r{domid}")
        for name, value in self.readonly.items():
            nodes.append(Node(f"{self.frontend_path}/{name}", value, readonly))
        nodes += [
            Node(f"{self.frontend_path}/{name}", value, front_perms)
            for name, value in front.items()
        ]
        return nodes

    @property
    def paths(self) -> tuple[str, str, str]:
        """The directories that go when the device goes."""
        return self.frontend_path, self.backend_path, self.libxl_path
