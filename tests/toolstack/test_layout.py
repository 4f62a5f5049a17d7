# SPDX-License-Identifier: GPL-2.0-or-later
"""The nodes of a new domain are those that libxl of Xen 4.17 leaves."""

from __future__ import annotations

from xenograft.abi.errno import XenError
from xenograft.store.client import StoreClient
from xenograft.store.service import Xenstore
from xenograft.toolstack.layout import (
    DomainFacts,
    domain_nodes,
    forget_domain,
    machine_nodes,
    write_nodes,
)

UUID = "99895141-9eed-4b3b-84ea-6b1a028296a3"

FACTS = DomainFacts(
    domid=2,
    name="ref-pvh",
    uuid=UUID,
    kind="pvh",
    memory=131072,
    maxmem=131072,
    vcpus=2,
    online=1,
    start_time=1795339981.37,
    store_gfn=1044476,
    store_port=1,
    console_gfn=1044479,
    console_port=2,
)

# xenstore-ls -fp of a real host, for such a guest without devices, before its kernel has run.
EXPECTED = f"""
/libxl/2 = ""   (n0)
/libxl/2/device = ""   (n0)
/libxl/2/device/console = ""   (n0)
/libxl/2/device/console/0 = ""   (n0)
/libxl/2/device/console/0/backend = "/local/domain/0/backend/console/2/0"   (n0)
/libxl/2/device/console/0/frontend = "/local/domain/2/console"   (n0)
/libxl/2/device/console/0/frontend-id = "2"   (n0)
/libxl/2/device/console/0/online = "1"   (n0)
/libxl/2/device/console/0/protocol = "vt100"   (n0)
/libxl/2/device/console/0/state = "1"   (n0)
/libxl/2/dm-version = "qemu_xen"   (n0)
/libxl/2/type = "pvh"   (n0)
/local/domain/0/backend/console/2/0 = ""   (n0,r2)
/local/domain/0/backend/console/2/0/frontend = "/local/domain/2/console"   (n0,r2)
/local/domain/0/backend/console/2/0/frontend-id = "2"   (n0,r2)
/local/domain/0/backend/console/2/0/online = "1"   (n0,r2)
/local/domain/0/backend/console/2/0/protocol = "vt100"   (n0,r2)
/local/domain/0/backend/console/2/0/state = "1"   (n0,r2)
/local/domain/2 = ""   (n0,r2)
/local/domain/2/attr = ""   (n2)
/local/domain/2/console = ""   (n0,r2)
/local/domain/2/console/backend = "/local/domain/0/backend/console/2/0"   (n0,r2)
/local/domain/2/console/backend-id = "0"   (n2,r0)
/local/domain/2/console/limit = "1048576"   (n0,r2)
/local/domain/2/console/output = "pty"   (n0,r2)
/local/domain/2/console/port = "2"   (n0,r2)
/local/domain/2/console/ring-ref = "1044479"   (n0,r2)
/local/domain/2/console/type = "xenconsoled"   (n0,r2)
/local/domain/2/control = ""   (n0,r2)
/local/domain/2/control/feature-poweroff = ""   (n2)
/local/domain/2/control/feature-reboot = ""   (n2)
/local/domain/2/control/feature-suspend = ""   (n2)
/local/domain/2/control/platform-feature-multiprocessor-suspend = "1"   (n0,r2)
/local/domain/2/control/platform-feature-xs_reset_watches = "1"   (n0,r2)
/local/domain/2/control/shutdown = ""   (n2)
/local/domain/2/control/sysrq = ""   (n2)
/local/domain/2/cpu = ""   (n0,r2)
/local/domain/2/cpu/0 = ""   (n0,r2)
/local/domain/2/cpu/0/availability = "online"   (n0,r2)
/local/domain/2/cpu/1 = ""   (n0,r2)
/local/domain/2/cpu/1/availability = "offline"   (n0,r2)
/local/domain/2/data = ""   (n2)
/local/domain/2/device = ""   (n0,r2)
/local/domain/2/device/suspend = ""   (n0,r2)
/local/domain/2/device/suspend/event-channel = ""   (n2)
/local/domain/2/domid = "2"   (n0,r2)
/local/domain/2/drivers = ""   (n2)
/local/domain/2/error = ""   (n2)
/local/domain/2/feature = ""   (n2)
/local/domain/2/memory = ""   (n0,r2)
/local/domain/2/memory/static-max = "131072"   (n0,r2)
/local/domain/2/memory/target = "131072"   (n0,r2)
/local/domain/2/memory/videoram = "0"   (n0,r2)
/local/domain/2/name = "ref-pvh"   (n0,r2)
/local/domain/2/store = ""   (n0,r2)
/local/domain/2/store/port = "1"   (n0,r2)
/local/domain/2/store/ring-ref = "1044476"   (n0,r2)
/local/domain/2/vm = "/vm/{UUID}"   (n0,r2)
/vm/{UUID} = ""   (n0,r2)
/vm/{UUID}/name = "ref-pvh"   (n0,r2)
/vm/{UUID}/start_time = "1795339981.37"   (n0,r2)
/vm/{UUID}/uuid = "{UUID}"   (n0,r2)
"""


def listing(client: StoreClient, roots: list[str]) -> list[str]:
    """What `xenstore-ls -fp` would print of some subtrees."""
    return sorted(
        f'{path} = "{value}"   ({",".join(client.get_perms(path))})'
        for root in roots
        for path, value in client.tree(root)
    )


def fresh() -> StoreClient:
    client = StoreClient(Xenstore())
    client.transact(lambda view: write_nodes(view, machine_nodes(1 << 20)))
    return client


def test_a_domain_looks_as_libxl_leaves_it() -> None:
    client = fresh()
    client.transact(lambda view: write_nodes(view, domain_nodes(FACTS)))
    roots = ["/libxl/2", "/local/domain/0/backend/console/2/0", "/local/domain/2", f"/vm/{UUID}"]
    assert listing(client, roots) == sorted(EXPECTED.strip().splitlines())


def test_a_kernel_is_named_as_for_a_pv_guest() -> None:
    client = fresh()
    facts = {name: getattr(FACTS, name) for name in FACTS.__struct_fields__}
    facts |= {"kernel": "/boot/vmlinuz", "cmdline": "console=hvc0"}
    client.transact(lambda view: write_nodes(view, domain_nodes(DomainFacts(**facts))))
    image = f"/vm/{UUID}/image"
    assert client.ls(image) == ["cmdline", "kernel", "ostype"]
    assert client.read(f"{image}/kernel") == "/boot/vmlinuz"


def test_nothing_is_left_of_a_domain_that_is_forgotten() -> None:
    client = fresh()
    before = listing(client, ["/"])
    client.transact(lambda view: write_nodes(view, domain_nodes(FACTS)))
    forget_domain(client, 2)
    gone = [line for line in listing(client, ["/"]) if line not in before]
    # The folder of all consoles stays, as libxl leaves it.
    assert gone == ['/local/domain/0/backend/console = ""   (n0)']
    # A second time there's nothing to do.
    forget_domain(client, 2)


def test_a_vm_path_that_the_guest_has_made_up_is_left_alone() -> None:
    client = fresh()
    client.transact(lambda view: write_nodes(view, domain_nodes(FACTS)))
    client.write("/local/domain/2/vm", "/local/domain/0")
    forget_domain(client, 2)
    assert client.read("/local/domain/0/domid") == "0"
    try:
        client.read("/local/domain/2")
    except XenError:
        return
    raise AssertionError("the domain's nodes are still there")
