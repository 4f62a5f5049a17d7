# SPDX-License-Identifier: GPL-2.0-or-later
"""The ways in which a guest can end (`guests/shutdown`), as `xg run` tells them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.test_play import xg
from xenograft.abi.errno import Errno
from xenograft.abi.hvm.hvm_op import HVMOP_set_param, xen_hvm_param
from xenograft.abi.hvm.params import HVM_PARAM_TRIPLE_FAULT_REASON
from xenograft.abi.xen import __HYPERVISOR_hvm_op
from xenograft.cli.status import CRASHED, OK, REBOOTED
from xenograft.hypervisor.call import HostAccess
from xenograft.toolstack.machine import Domain, Machine, ShutdownReason

Guest = Callable[[str], Path]

WAYS: list[tuple[str, ShutdownReason]] = [
    ("poweroff", ShutdownReason.poweroff),
    ("reboot", ShutdownReason.reboot),
    ("suspend", ShutdownReason.suspend),
    ("crash", ShutdownReason.crash),
    ("watchdog", ShutdownReason.watchdog),
    ("soft_reset", ShutdownReason.soft_reset),
    ("halt", ShutdownReason.poweroff),
    ("triple", ShutdownReason.reboot),
    ("bite", ShutdownReason.watchdog),
    ("panic", ShutdownReason.crash),
]


@pytest.mark.parametrize("env", ["64", "pae"])
@pytest.mark.parametrize(("how", "reason"), WAYS, ids=[how for how, _ in WAYS])
def test_reason(guest: Guest, env: str, how: str, reason: ShutdownReason) -> None:
    with Machine(clock="virtual") as machine:
        domain = machine.create_pvh(
            kernel=guest(f"shutdown-{env}"), cmdline=f"how={how}", memory=32
        )
        assert domain.wait(timeout=30) is reason
        assert "Still here" not in domain.console.output


@pytest.mark.parametrize("cpus", [2, 5])
def test_the_last_vcpu_down_is_a_poweroff(guest: Guest, cpus: int) -> None:
    with Machine(clock="virtual") as machine:
        domain = machine.create_pvh(
            kernel=guest("shutdown-64"), cmdline=f"how=halt cpus={cpus}", memory=32, vcpus=cpus
        )
        assert domain.wait(timeout=30) is ShutdownReason.poweroff
        assert f"{cpus} CPUs" in domain.console.output


def set_param(machine: Machine, domain: Domain, index: int, value: int) -> int:
    """HVMOP_set_param from the control domain."""
    memory = HostAccess()
    param = xen_hvm_param(domid=domain.domid, pad=0, index=index, value=value)
    arg = memory.put(param.pack(64))
    number = __HYPERVISOR_hvm_op
    return machine.hypervisor.host_call(
        machine.control, number, HVMOP_set_param, arg, memory=memory
    )


@pytest.mark.parametrize("reason", [0, 1, 2, 3, 4, 5])
def test_what_a_triple_fault_means_is_a_parameter(guest: Guest, reason: int) -> None:
    with Machine(clock="virtual") as machine:
        domain = machine.create_pvh(
            kernel=guest("shutdown-64"), cmdline="how=triple", memory=32, paused=True
        )
        assert set_param(machine, domain, HVM_PARAM_TRIPLE_FAULT_REASON, reason) == 0
        domain.unpause()
        assert domain.wait(timeout=30) == reason
        assert domain.crash_report is not None
        assert f"HVM shutdown action {reason}" in domain.crash_report


def test_reasons_that_do_not_exist(guest: Guest) -> None:
    """The parameter takes none, and isn't the guest's own; SCHEDOP_shutdown ends it anyhow."""
    with Machine(clock="virtual") as machine:
        domain = machine.create_pvh(
            kernel=guest("shutdown-64"), cmdline="how=unknown triple_fault_reason=3", memory=32
        )
        assert set_param(machine, domain, HVM_PARAM_TRIPLE_FAULT_REASON, 99) == -Errno.EINVAL
        assert domain.wait(timeout=30) is ShutdownReason.unknown
        assert f"triple fault reason: -{Errno.EPERM:d}" in domain.console.output


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        ("poweroff", OK, r"^$"),
        ("halt", OK, r"^$"),
        ("suspend", OK, r"^xg: the guest suspended itself"),
        ("reboot", REBOOTED, r"^xg: the guest asked for a reboot"),
        ("crash", CRASHED, r"xg: the guest crashed \(crash\)$"),
        ("panic", CRASHED, r"xg: the guest crashed \(crash\)$"),
        ("bite", CRASHED, r"xg: the guest crashed \(watchdog\)$"),
        ("triple", REBOOTED, r"xg: the guest asked for a reboot"),
        ("block", CRASHED, r"^xg: the guest sleeps for ever"),
    ],
)
def test_exit_status(guest: Guest, how: str, status: int, said: str) -> None:
    done = xg(
        *("run", "--kernel", str(guest("shutdown-64")), "--cmdline", f"how={how}"),
        *("--memory", "32M", "--clock", "virtual", "--timeout", "100"),
    )
    error = done.stderr.decode()
    assert done.returncode == status, error
    assert re.search(said, error.rstrip("\n"), re.MULTILINE), error
    assert b"Ending by " in done.stdout


def test_a_triple_fault_is_reported(guest: Guest) -> None:
    """Registers, the code around RIP, the last hypercalls, symbols: though it's a reboot."""
    done = xg(
        *("run", "--kernel", str(guest("shutdown-64")), "--cmdline", "how=triple"),
        *("--memory", "32M", "--clock", "virtual", "--timeout", "100"),
    )
    report = done.stderr.decode()
    assert done.returncode == REBOOTED
    for what in (
        "Triple fault",
        "rip",
        "cr3",
        "guest_main",
        "ud2",
        "event_channel_op",
        "SHUTDOWN_reboot",
    ):
        assert what.lower() in report.lower(), f"no {what} in:\n{report}"
