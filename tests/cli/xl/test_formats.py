# SPDX-License-Identifier: GPL-2.0-or-later
"""The tables, letter for letter as xl 4.17 of Debian 12 printed them on a real Xen."""

from __future__ import annotations

import doctest
import json

import msgspec
import pytest

from xenograft.cli.xl import base, devices, host, listing, resources, top
from xenograft.cli.xl.base import duration, kib
from xenograft.cli.xl.devices import block_lines, network_lines
from xenograft.cli.xl.host import info_rows
from xenograft.cli.xl.listing import list_lines
from xenograft.cli.xl.resources import cpu_ranges, vcpu_lines
from xenograft.cli.xl.top import top_lines
from xenograft.toolstack.config.libxl_json import domain_json, dump
from xenograft.toolstack.config.xlcfg import parse_config
from xenograft.toolstack.errors import Failure
from xenograft.toolstack.service.messages import (
    CpuRow,
    DeviceRow,
    DomainInfo,
    HostInfo,
    NodeRow,
    Usage,
    VcpuInfo,
)

IDLE = DomainInfo(
    domid=1,
    name="ref-pv",
    uuid="8d096b8d-d2aa-40ee-97ca-312c9ff9c0d3",
    kind="pv",
    running=False,
    blocked=True,
    paused=False,
    shutdown=False,
    dying=False,
    shutdown_reason=None,
    memory_kib=131072,
    max_kib=132096,
    shared_kib=0,
    vcpus=1,
    max_vcpus=1,
    cpu_time_ns=9_500_000_000,
    age_ns=127 * 10**9,
    pool="Pool-0",
)
CONTROL = msgspec.structs.replace(
    IDLE,
    domid=0,
    name="Domain-0",
    uuid="00000000-0000-0000-0000-000000000000",
    running=True,
    blocked=False,
    memory_kib=524288,
    cpu_time_ns=124_100_000_000,
)


def same(lines: list[str], text: str) -> None:
    assert "\n".join(lines) == text.removeprefix("\n").rstrip("\n")


@pytest.mark.parametrize("module", [base, devices, host, listing, resources, top])
def test_examples(module: object) -> None:
    assert not doctest.testmod(module).failed  # type: ignore[arg-type]


def test_list() -> None:
    same(
        list_lines([CONTROL, IDLE]),
        """
Name                                        ID   Mem VCPUs\tState\tTime(s)
Domain-0                                     0   512     1     r-----     124.1
ref-pv                                       1   128     1     -b----       9.5
""",
    )


def test_list_v() -> None:
    zeros = "00000000-0000-0000-0000-000000000000"
    same(
        list_lines([CONTROL, IDLE], verbose=True),
        "Name                                        ID   Mem VCPUs\tState\tTime(s)"
        "   UUID                            Reason-Code\tSecurity Label\n"
        "Domain-0                                     0   512     1     r-----     124.1"
        f" {zeros}        -                -\n"
        "ref-pv                                       1   128     1     -b----       9.5"
        " 8d096b8d-d2aa-40ee-97ca-312c9ff9c0d3        -                -",
    )


def test_list_of_a_crashed_domain() -> None:
    crashed = msgspec.structs.replace(IDLE, blocked=False, shutdown=True, shutdown_reason=3)
    line = list_lines([crashed], verbose=True)[1]
    assert "     ---sc-  " in line
    assert line.endswith("        3                -")


@pytest.mark.parametrize(
    ("pool", "line"),
    [
        (
            "Pool-0",
            "ref-pv                                       1   128     1     -b----       9.5"
            "          Pool-0",
        ),
        (
            "pool-credit2",
            "ref-pv                                       1   128     1     -b----       9.5"
            "    pool-credit2",
        ),
    ],
)
def test_list_c(pool: str, line: str) -> None:
    same(
        list_lines([msgspec.structs.replace(IDLE, pool=pool)], pool=True),
        "Name                                        ID   Mem VCPUs\tState\tTime(s)"
        f"         Cpupool\n{line}",
    )


def test_claims() -> None:
    same(
        list_lines([CONTROL], claim=True),
        "Name                                        ID   Mem VCPUs\tState\tTime(s)  Claimed\n"
        "Domain-0                                     0   512     1     r-----     124.1     0",
    )


def test_vcpu_list() -> None:
    def vcpu(**more: object) -> VcpuInfo:
        values = {
            "domid": 1,
            "name": "ref-pv",
            "vcpu": 0,
            "cpu": 1,
            "online": True,
            "running": False,
            "blocked": True,
            "paused": False,
            "time_ns": 28_800_000_000,
            "hard": [1],
            "soft": [1],
        }
        return VcpuInfo(**{**values, **more})  # type: ignore[arg-type]

    control = vcpu(domid=0, name="Domain-0", cpu=2, running=True, blocked=False, hard=None)
    same(
        vcpu_lines(
            [
                msgspec.structs.replace(control, soft=None, time_ns=205_900_000_000),
                vcpu(),
                vcpu(vcpu=1, cpu=None, online=False, time_ns=3_900_000_000, hard=None, soft=None),
            ]
        ),
        """
Name                                ID  VCPU   CPU State   Time(s) Affinity (Hard / Soft)
Domain-0                             0     0    2   r--     205.9  all / all
ref-pv                               1     0    1   -b-      28.8  1 / 1
ref-pv                               1     1    -   --p       3.9  all / all
""",
    )


@pytest.mark.parametrize(
    ("cpus", "text"),
    [(None, "all"), ([], "none"), ([0], "0"), ([0, 1], "0-1"), ([5, 0, 2, 1, 7], "0-2,5,7")],
)
def test_cpu_ranges(cpus: list[int] | None, text: str) -> None:
    assert cpu_ranges(cpus) == text


def test_block_list() -> None:
    row = DeviceRow(
        kind="vbd",
        devid=51712,
        backend_domid=0,
        frontend_domid=1,
        state=4,
        event_channel=8,
        rings=[8],
        backend="/local/domain/0/backend/vbd/1/51712",
        frontend="",
        error=None,
        nodes={},
    )
    same(
        block_lines([row, msgspec.structs.replace(row, devid=51728, event_channel=11, rings=[9])]),
        "Vdev  BE  handle state evt-ch ring-ref BE-path                       \n"
        "51712 0   1      4     8      8        /local/domain/0/backend/vbd/1/51712\n"
        "51728 0   1      4     11     9        /local/domain/0/backend/vbd/1/51712",
    )


def test_network_list() -> None:
    row = DeviceRow(
        kind="vif",
        devid=0,
        backend_domid=0,
        frontend_domid=1,
        state=4,
        event_channel=-1,
        rings=[522, 523],
        backend="/local/domain/0/backend/vif/1/0",
        frontend="",
        error=None,
        nodes={"mac": "00:16:3e:00:00:01"},
    )
    header = (
        "Idx BE Mac Addr.         handle state evt-ch   tx-/rx-ring-ref"
        " BE-path                       \n"
    )
    same(
        network_lines([row, msgspec.structs.replace(row, devid=1, rings=[1035, 1036])]),
        header + "0   0  00:16:3e:00:00:01     0     4     -1   522/523        "
        " /local/domain/0/backend/vif/1/0\n"
        "1   0  00:16:3e:00:00:01     1     4     -1  1035/1036       "
        " /local/domain/0/backend/vif/1/0",
    )


def test_long_list() -> None:
    config, _ = parse_config(
        'name="ref-pvh"\ntype="pvh"\nkernel="/boot/vmlinuz-cloud"\nramdisk="/boot/stay.gz"\n'
        'extra="console=hvc0"\nmemory=128\nvcpus=1\n'
        "disk=['/images/pvh.img,raw,xvda,rw']\n"
        "vif=['mac=00:16:3e:00:00:02,bridge=xenbr0']\n"
        'on_poweroff="destroy"\non_reboot="restart"\non_crash="destroy"\n'
    )
    text = dump([domain_json(config, 2, "99895141-9eed-4b3b-84ea-6b1a028296a3")])
    assert text == _LONG
    assert json.loads(text)[0]["config"]["b_info"]["avail_vcpus"] == [0]


_LONG = """\
[
    {
        "domid": 2,
        "config": {
            "c_info": {
                "type": "pvh",
                "name": "ref-pvh",
                "domid": 4294967295,
                "uuid": "99895141-9eed-4b3b-84ea-6b1a028296a3",
                "run_hotplug_scripts": "True"
            },
            "b_info": {
                "max_vcpus": 1,
                "avail_vcpus": [
                    0
                ],
                "max_memkb": 131072,
                "target_memkb": 131072,
                "video_memkb": 0,
                "sched_params": {
                    "sched": "credit2",
                    "weight": 256,
                    "cap": 0
                },
                "claim_mode": "True",
                "kernel": "/boot/vmlinuz-cloud",
                "cmdline": "console=hvc0",
                "ramdisk": "/boot/stay.gz",
                "type.pvh": {

                },
                "arch_arm": {

                },
                "arch_x86": {
                    "msr_relaxed": "False"
                }
            },
            "disks": [
                {
                    "pdev_path": "/images/pvh.img",
                    "vdev": "xvda",
                    "format": "raw",
                    "readwrite": 1,
                    "colo_restore_enable": "False"
                }
            ],
            "nics": [
                {
                    "devid": 0,
                    "mac": "00:16:3e:00:00:02",
                    "bridge": "xenbr0",
                    "nictype": "vif"
                }
            ],
            "on_reboot": "restart",
            "on_soft_reset": "soft_reset"
        }
    }
]
"""

_INFO_NAMES = """
host release version machine nr_cpus max_cpu_id nr_nodes cores_per_socket threads_per_core cpu_mhz
hw_caps virt_caps total_memory free_memory sharing_freed_memory sharing_used_memory
outstanding_claims free_cpus xen_major xen_minor xen_extra xen_version xen_caps xen_scheduler
xen_pagesize platform_params xen_changeset xen_commandline cc_compiler cc_compile_by
cc_compile_domain cc_compile_date build_id xend_config_format
"""


def test_info() -> None:
    info = HostInfo(
        host="refxen",
        release="6.1.0",
        version="#1",
        machine="x86_64",
        nr_cpus=2,
        max_cpu_id=1,
        nr_nodes=1,
        cores_per_socket=2,
        threads_per_core=1,
        cpu_mhz=2596.143,
        hw_caps=[0x1FCBF3FD, 0xF6D8320B, 0, 0x77, 5, 0, 0x204, 0],
        virt_caps=["pv", "hvm"],
        total_memory_mib=2047,
        free_memory_mib=1254,
        free_cpus=0,
        xen_major=4,
        xen_minor=17,
        xen_extra=".7",
        xen_caps="xen-3.0-x86_64 ",
        xen_scheduler="credit2",
        xen_pagesize=4096,
        virt_start=0xFFFF800000000000,
        xen_changeset="",
        xen_commandline="",
        cc_compiler="",
        cc_compile_by="",
        cc_compile_domain="",
        cc_compile_date="",
        build_id="15",
        now_ns=0,
        cpus=[CpuRow(0, 0, 0), CpuRow(1, 0, 0)],
        nodes=[NodeRow(2047, 1254, [10])],
    )
    rows = dict(info_rows(info, numa=False))
    assert list(rows) == _INFO_NAMES.split()
    assert rows["hw_caps"].startswith("1fcbf3fd:f6d8320b:00000000:00000077:")
    assert rows["cpu_mhz"] == "2596.143"
    assert rows["platform_params"] == "virt_start=0xffff800000000000"
    text = "".join(f"{name}{value}\n" for name, value in info_rows(info, numa=True)[18:21])
    assert (
        text
        == """\
cpu_topology           :
cpu:    core    socket     node
  0:       0        0        0
  1:       1        0        0
device topology        :
device           node
No device topology data available
numa_info              :
node:    memsize    memfree    distances
   0:      2047       1254      10
"""
    )


def test_top() -> None:
    lines = top_lines(
        [
            Usage(domain=msgspec.structs.replace(CONTROL, cpu_time_ns=136 * 10**9, max_kib=524288)),
            Usage(
                domain=IDLE,
                networks=1,
                net_tx=2100,
                disks=1,
                disk_reads=2,
                sectors_read=40,
            ),
        ],
        2096624,
        {1: 9_000_000_000},
        10**9,
    )
    assert lines[0] == (
        "      NAME  STATE   CPU(sec) CPU(%)     MEM(k) MEM(%)  MAXMEM(k) MAXMEM(%) VCPUS NETS"
        " NETTX(k) NETRX(k) VBDS   VBD_OO   VBD_RD   VBD_WR  VBD_RSECT  VBD_WSECT SSID"
    )
    assert lines[1] == (
        "  Domain-0 -----r        136    0.0     524288   25.0     524288      25.0     1    0"
        "        0        0    0        0        0        0          0          0    0"
    )
    assert lines[2] == (
        "    ref-pv --b---          9   50.0     131072    6.3     132096       6.3     1    1"
        "        2        0    1        0        2        0         40          0    0"
    )


@pytest.mark.parametrize(
    ("seconds", "short", "text"),
    [
        (161, False, " 0:02:41"),
        (86399, False, "23:59:59"),
        (86400, False, "1 day,  0:00:00"),
        (3 * 86400 + 3600, False, "3 days,  1:00:00"),
        (161, True, " 0:02"),
        (2 * 86400, True, "2 days,  0:00"),
        (-5, False, " 0:00:00"),
    ],
)
def test_durations(seconds: int, short: bool, text: str) -> None:
    assert duration(seconds * 10**9, short) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("256", 256 << 10),
        ("256m", 256 << 10),
        ("256M", 256 << 10),
        ("1g", 1 << 20),
        ("1048576k", 1048576),
        ("2048b", 2),
        ("1t", 1 << 30),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert kib(text) == size


@pytest.mark.parametrize("text", ["", "m", "-1", "1x", "1mm", "1.5g", "²", "0x10", "9" * 16])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(Failure, match="invalid memory size"):
        kib(text)
