# SPDX-License-Identifier: GPL-2.0-or-later
"""The guests' tests can fail: each of these is run with the feature that it tests taken away.

One that passed all the same would be asserting nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.guests.support import run
from xenograft.abi.errno import Errno, XenError
from xenograft.arch.x86.platform.apic_bus import ApicBus
from xenograft.arch.x86.platform.hpet import Hpet
from xenograft.arch.x86.platform.ioapic import IoApic
from xenograft.arch.x86.platform.lapic import LocalApic
from xenograft.hypervisor import actions, loop
from xenograft.hypervisor.call import CpuAccess
from xenograft.hypervisor.events.channels import EventChannels
from xenograft.hypervisor.hvm.platform import HvmPlatform
from xenograft.hypervisor.hypercalls import dispatch
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.memory.p2m import P2m
from xenograft.hypervisor.vcpu import Vcpu

Guest = Callable[[str], Path]


def nothing(*_: Any, **__: Any) -> None:
    """Does nothing, in the place of something."""


def refuse(*_: Any, **__: Any) -> None:
    raise XenError(Errno.EINVAL)


def zero(*_: Any, **__: Any) -> int:
    return 0


METHODS: list[tuple[str, str, type, str, Any]] = [
    ("lapic", "timer_one_shot", LocalApic, "timer_expired", nothing),
    ("lapic", "timer_periodic", LocalApic, "timer_expired", nothing),
    ("lapic", "timer_tsc_deadline", LocalApic, "write_tsc_deadline", nothing),
    ("lapic", "in_service_blocks_lower_classes", LocalApic, "ppr", zero),
    ("lapic", "task_priority_holds_back", LocalApic, "_set_tpr", nothing),
    ("lapic", "cr8_and_tpr_are_one", LocalApic, "set_cr8", lambda *_: True),
    ("lapic", "logical_destination", LocalApic, "_matches_logical", lambda *_: False),
    ("lapic", "illegal_vector_sets_the_error_status", LocalApic, "_error", nothing),
    ("lapic", "x2apic_mode", LocalApic, "read_x2apic", lambda *_: None),
    ("lapic", "nmi_ignores_if", HvmPlatform, "apic_nmi", nothing),
    ("smp", "all_cpus_start", HvmPlatform, "apic_startup", nothing),
    ("smp", "event_ipis", EventChannels, "bind_ipi", refuse),
    ("smp", "channel_moves_between_vcpus", EventChannels, "bind_vcpu", refuse),
    ("events", "singleshot_timer", Vcpu, "send_timer_event", nothing),
    ("events", "periodic_timer", Vcpu, "_periodic", nothing),
    ("events", "poll_times_out", Vcpu, "_poll_timed_out", nothing),
    ("events", "loopback_channel", Vcpu, "mark_events_pending", nothing),
    ("events", "virqs_are_bound_once", EventChannels, "bind_virq", lambda *_: 7),
    ("fifo", "init_control", EventChannels, "init_control", refuse),
    ("fifo", "priorities", EventChannels, "set_priority", nothing),
    ("memory_op", "decrease_and_populate", P2m, "guest_remove_page", nothing),
    ("memory_op", "remove_from_physmap", P2m, "remove_page", nothing),
    ("hypercalls", "bad_pointers", CpuAccess, "read", lambda _self, _addr, size: bytes(size)),
    ("hypercalls", "read_only_result", CpuAccess, "write", nothing),
    ("vcpu", "runstate_info", Vcpu, "set_runstate", nothing),
    ("vcpu", "vcpu_info_moves_once", Vcpu, "map_vcpu_info", refuse),
    ("vcpu", "send_nmi", Vcpu, "send_nmi", nothing),
    ("vcpu", "down_and_up_again", Vcpu, "take_down", nothing),
    ("hvm_devices", "hpet_interrupt", Hpet, "timer_expired", nothing),
    ("hvm_devices", "hpet_periodic", Hpet, "_go_on", nothing),
    ("hvm_devices", "level_rings_until_it_is_cleared", IoApic, "eoi", nothing),
    ("hvm_devices", "masked_pin_holds_back", Hpet, "unmasked", nothing),
    ("hvm_devices", "foreign_routes_ring_nothing", Hpet, "_set_valid_route", nothing),
    ("hvm_devices", "another_cpu_takes_it", ApicBus, "lowest_priority", nothing),
    ("control", "cpuid_leaves", HvmPlatform, "cpuid", lambda *_: (0, 0, 0, 0)),
    ("control", "unknown_msrs_fault", HvmPlatform, "read_msr", zero),
]


SECONDS = 0.2
"""Of virtual time: several times what a whole guest takes, and short for one that spins."""


def fails(kernel: Path, test: str) -> bool:
    """Whether a guest's test doesn't pass: it fails, is skipped, or the guest never comes there."""
    return test not in run(kernel, seconds=SECONDS, patient=False).passed


@pytest.mark.parametrize(
    ("source", "test", "owner", "method", "instead"),
    METHODS,
    ids=[f"{source}.{test}" for source, test, *_ in METHODS],
)
def test_without(
    guest: Guest,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    test: str,
    owner: type,
    method: str,
    instead: Any,
) -> None:
    kernel = guest(f"{source}-64")
    assert not fails(kernel, test), "it fails with the feature, too"
    assert hasattr(owner, method)
    monkeypatch.setattr(owner, method, instead)
    assert fails(kernel, test)


@pytest.mark.parametrize(
    ("name", "number", "source", "test"),
    [
        ("vm_assist", 21, "hypercalls", "vm_assist"),
        ("multicall", 13, "hypercalls", "multicall"),
        ("xen_version", 17, "hypercalls", "extraversion"),
        ("set_timer_op", 15, "events", "set_timer_op"),
        ("vcpu_op", 24, "vcpu", "first_vcpu_is_up"),
        ("grant_table_op", 20, "grants", "size"),
        ("memory_op", 12, "memory_op", "memory_map"),
    ],
)
def test_without_a_hypercall(
    guest: Guest, monkeypatch: pytest.MonkeyPatch, name: str, number: int, source: str, test: str
) -> None:
    entries = dispatch._ENTRIES[GuestKind.PVH, 64]
    monkeypatch.setitem(entries, number, lambda _call, _args: -Errno.ENOSYS)
    if number == 12:  # the guest needs it to find its shared page
        memory_op = dispatch._ENTRIES[GuestKind.HVM, 64][number]
        monkeypatch.setitem(
            entries, number, lambda c, a: memory_op(c, a) if a[0] == 7 else -Errno.ENOSYS
        )
    assert fails(guest(f"{source}-64"), test)


def test_without_exits(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupts that are never asked for don't come; answers that aren't given are seen."""
    with monkeypatch.context() as patch:
        patch.setattr(loop.Loop, "_request_interrupt", nothing)
        assert fails(guest("lapic-64"), "hlt_wakes")
    real = actions.decide
    with monkeypatch.context() as patch:
        patch.setattr(
            actions,
            "decide",
            lambda exit_, context: (
                real(exit_, context)._replace(a=0)
                if exit_[0] == 3  # IO_IN
                else real(exit_, context)
            ),
        )
        assert fails(guest("io-64"), "empty_ports_read_as_ones")
