# SPDX-License-Identifier: GPL-2.0-or-later
"""A PV Linux under pressure: memory and vCPUs that come and go, forks, signals, full memory.

At random moments all uses of its frames are counted anew and compared with the counts kept.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hypervisor.pv.audit import Audit
from xenograft.store.client import StoreClient
from xenograft.toolstack.config.domain import DomainConfig
from xenograft.toolstack.machine import Domain, Machine

PAGES_PER_MIB = 256
SLACK = 300
"""Pages that a domain has beyond its target: Xen's own, and what the balloon driver rounds."""

STRESS = """
while_() { while [ -e /tmp/go ]; do "$1"; done 2> /dev/null; }
forks() { (ls -l /proc/self/fd | cat > /dev/null); echo 1 >> /tmp/forks; }
signals() {
    (trap 'echo 1 >> /tmp/signals; exit' USR1; sleep 5 & wait) & p=$!
    usleep 20000; kill -USR1 $p; wait $p; }
pressure() {
    dd if=/dev/zero of=/tmp/big bs=1M count=12; md5sum /tmp/big >> /tmp/sums; rm /tmp/big; }
mappings() { seq 1 1000 | sort -r | tail -n 1 >> /tmp/sorted; }
touch /tmp/go; for what in forks signals pressure mappings; do while_ $what & done
"""


class Linux:
    """The guest, with what the test does to it."""

    def __init__(self, machine: Machine, domain: Domain) -> None:
        self.machine, self.domain = machine, domain
        self.store = StoreClient(machine.services.store)
        self.home = f"/local/domain/{domain.domid}"
        self.pool = domain.xen.pool

    def run(self, command: str, timeout: float = 100) -> str:
        """What a command prints."""
        self.domain.console.send(f"{command}; echo do''ne.\n")
        return self.domain.console.expect(r"(?s)do''ne\.\s(.*?)done\.", timeout).group(1)

    def until(self, condition: Callable[[], bool], timeout: float = 60) -> None:
        for _ in range(int(timeout * 5)):
            if condition():
                return
            self.machine.run(timeout=0.2)
        raise AssertionError("it didn't happen")

    def pages(self) -> int:
        return len(self.pool.pages) + len(self.pool.special)

    def target(self, mib: int) -> None:
        self.pool.max_pages = mib * PAGES_PER_MIB + PAGES_PER_MIB
        self.store.write(f"{self.home}/memory/target", str(mib << 10))

    def vcpu(self, index: int, state: str) -> None:
        self.store.write(f"{self.home}/cpu/{index}/availability", state)

    def total(self) -> int:
        """MemTotal, in MiB."""
        found = re.search(r"MemTotal: +(\d+) kB", self.run("grep MemTotal /proc/meminfo"))
        assert found is not None
        return int(found.group(1)) >> 10

    def audit(self) -> Audit:
        audit = Audit(self.domain.xen)
        audit.check()
        return audit


@pytest.fixture
def linux(image: Callable[[str], Path]) -> Iterator[Linux]:
    config = DomainConfig(
        name="linux",
        type="pv",
        kernel=str(image("debian-cloud")),
        ramdisk=str(image("demo-initrd")),
        cmdline="console=hvc0 quiet",
        memory=160,
        maxmem=224,
        vcpus=1,
        maxvcpus=2,
    )
    with Machine(clock="virtual") as machine:
        domain = machine.create(config)
        domain.console.expect("guest:~# ", 100)
        yield Linux(machine, domain)


def test_memory_comes_and_goes(linux: Linux) -> None:
    before, audit = linux.total(), linux.audit()
    assert audit.tables > 50
    assert abs(linux.pages() - 160 * PAGES_PER_MIB) <= SLACK
    linux.target(120)
    linux.until(lambda: linux.pages() <= 120 * PAGES_PER_MIB + SLACK)
    assert abs(before - linux.total() - 40) <= 1
    linux.audit()
    linux.target(208)  # more than it was built with
    linux.until(lambda: linux.pages() >= 208 * PAGES_PER_MIB)
    assert abs(linux.total() - before - 48) <= 1
    assert "24+0 records out" in linux.run("dd if=/dev/zero of=/tmp/x bs=1M count=24 2>&1")
    linux.audit()
    # A count that is off by one doesn't escape the audit.
    table = linux.domain.xen.vcpus[0].cpu.pv_get("kernel_table")  # type: ignore[union-attr]
    linux.domain.xen.memory.get_ref(table)
    with pytest.raises(AssertionError, match=rf"{table:#x}.*references; counted"):
        linux.audit()
    linux.domain.xen.memory.put_ref(table)
    # The limit holds whatever the guest asks for.
    linux.store.write(f"{linux.home}/memory/target", str(224 << 10))
    linux.pool.max_pages = 209 * PAGES_PER_MIB
    linux.machine.run(timeout=2)
    assert linux.pages() <= 209 * PAGES_PER_MIB + SLACK
    linux.audit()


def test_vcpus_come_and_go(linux: Linux) -> None:
    cpus = linux.domain.xen.vcpus
    assert not cpus[1].online
    online = "/sys/devices/system/cpu/cpu1/online"
    for _ in range(3):
        linux.vcpu(1, "online")
        # Linux makes the device; switching it on is left to a rule of udev's.
        linux.run(f"until [ -e {online} ]; do usleep 100000; done; echo 1 > {online}")
        assert "2" in linux.run("nproc")
        assert cpus[1].online
        assert linux.run("taskset 2 cat /proc/self/stat | cut -d' ' -f39").split()[-1] == "1"
        linux.audit()
        linux.vcpu(1, "offline")
        linux.until(lambda: not cpus[1].online)
        assert "1" in linux.run("nproc")
        linux.audit()


@pytest.mark.timeout(280)
def test_stress(linux: Linux) -> None:
    dice = random.Random(42)
    linux.vcpu(1, "online")
    online = "/sys/devices/system/cpu/cpu1/online"
    linux.run(f"until [ -e {online} ]; do usleep 100000; done; echo 1 > {online}")
    for line in STRESS.strip().splitlines():
        linux.domain.console.send(line + "\n")
    tables = set()
    for turn in range(60):
        linux.machine.run(timeout=dice.uniform(0.005, 0.1))
        tables.add(linux.audit().tables)
        if turn % 4 == 0:
            linux.target(dice.choice((120, 136, 160, 184, 208)))
        if turn % 15 == 7:
            linux.vcpu(1, dice.choice(("online", "offline")))
    assert len(tables) > 20  # processes were coming and going all the while
    linux.target(160)
    linux.run("rm /tmp/go; wait", 100)
    for name in ("forks", "signals", "sums", "sorted"):
        assert int(linux.run(f"wc -l < /tmp/{name}").split()[-1]) >= 2, name
    zeros = hashlib.md5(bytes(12 << 20)).hexdigest()
    assert set(re.findall(r"[0-9a-f]{32}", linux.run("sort -u /tmp/sums"))) == {zeros}
    assert linux.run("sort -u /tmp/sorted").split()[-1] == "1"
    assert not re.search(r"BUG:|WARNING:|Call Trace|Oops", linux.run("dmesg"))
    linux.audit()
