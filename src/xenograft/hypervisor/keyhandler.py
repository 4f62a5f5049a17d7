# SPDX-License-Identifier: GPL-2.0-or-later
"""What Xen's debug keys print into the hypervisor's log (xl debug-keys, Xen's keyhandler.c).

h lists them.  The lines are laid out as Xen 4.17 lays them out; what has no meaning here (dirty
CPUs, range sets) is left out.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from xenograft.hypervisor.events.channel import ChannelState
from xenograft.hypervisor.vcpu import UPCALL_MASK, UPCALL_PENDING

if TYPE_CHECKING:
    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.hypervisor import Hypervisor
    from xenograft.hypervisor.vcpu import Vcpu

Dump = Callable[["Hypervisor"], Iterator[str]]


class Key(NamedTuple):
    """One key: what it prints, and its line in the help."""

    dump: Dump
    description: str


def press(hypervisor: Hypervisor, key: str) -> None:
    """Print what a key prints. A key without a meaning prints nothing, as in Xen."""
    found = KEYS.get(key)
    if found is not None:
        for line in found.dump(hypervisor):
            hypervisor.log.write(line)


def _domains(hypervisor: Hypervisor) -> list[Domain]:
    return [domain for _, domain in sorted(hypervisor.domains.items())]


def _help(_hypervisor: Hypervisor) -> Iterator[str]:
    yield "'h' pressed -> showing installed handlers"
    for key, entry in sorted(KEYS.items()):
        yield f" key '{key}' (ascii '{ord(key):02x}') => {entry.description}"


def _dump_domains(hypervisor: Hypervisor) -> Iterator[str]:
    yield f"'q' pressed -> dumping domain info (now = {hypervisor.clock.now()})"
    for domain in _domains(hypervisor):
        domid = domain.domid
        yield f"General information for domain {domid}:"
        yield f"    dying={int(domain.dying_state)} pause_count={domain.pause_count}"
        yield (
            f"    nr_pages={domain.pool.tot_pages} xenheap_pages={len(domain.pool.special)}"
            f" max_pages={domain.pool.max_pages}"
        )
        yield (f"    handle={uuid.UUID(bytes=domain.uuid)} vm_assist={domain.vm_assist:08x}")
        yield f"VCPU information and callbacks for domain {domid}:"
        for vcpu in domain.vcpus:
            yield from _dump_vcpu(hypervisor, vcpu)


def _dump_vcpu(hypervisor: Hypervisor, vcpu: Vcpu) -> Iterator[str]:
    maddr = vcpu.vcpu_info_maddr
    info = b"\0\0" if maddr is None else vcpu.domain.memory.read(maddr, 2)
    running = "T" if vcpu is hypervisor.running else "F"
    polls = vcpu.poll_ports or ()
    yield (
        f"    VCPU{vcpu.vcpu_id}: CPU0 [has={running}] poll={next(iter(polls), 0)}"
        f" upcall_pend={info[UPCALL_PENDING]:02x} upcall_mask={info[UPCALL_MASK]:02x}"
    )
    # Bits of Xen's VPF_blocked and VPF_down.
    flags = int(vcpu.blocked) | int(vcpu.down) << 1
    yield f"    pause_count={vcpu.pause_count} pause_flags={flags:x}"
    if vcpu.period_ns:
        hertz, period = 1_000_000_000 // vcpu.period_ns, vcpu.period_ns // 1_000_000
        yield f"    {hertz} Hz periodic timer (period {period} ms)"
    else:
        yield "No periodic timer"


def _dump_events(hypervisor: Hypervisor) -> Iterator[str]:
    yield "'e' pressed -> dumping event-channel info"
    for domain in _domains(hypervisor):
        yield f"Event channel information for domain {domain.domid}:"
        polling = ",".join(str(v.vcpu_id) for v in domain.vcpus if v.poll_ports is not None)
        yield f"Polling vCPUs: {{{polling}}}"
        yield "    port [p/m/s]"
        for channel in domain.events.bound():
            pending = int(domain.events.is_pending(channel.port))
            masked = int(domain.events.is_masked(channel.port))
            line = (
                f"    {channel.port:4d} [{pending}/{masked}/  -   ]: s={int(channel.state)}"
                f" n={channel.notify_vcpu_id} x={int(channel.consumer is not None)}"
            )
            if channel.state is ChannelState.UNBOUND:
                line += f" d={channel.remote_domid}"
            elif channel.state is ChannelState.INTERDOMAIN:
                line += f" d={channel.remote_domid} p={channel.remote_port}"
            elif channel.state is ChannelState.PIRQ:
                line += f" p={channel.pirq}"
            elif channel.state is ChannelState.VIRQ:
                line += f" v={channel.virq}"
            yield line


def _dump_grants(hypervisor: Hypervisor) -> Iterator[str]:
    yield "gnttab_usage_print_all [ key 'g' pressed"
    for domain in _domains(hypervisor):
        yield "      -------- active --------       -------- shared --------"
        yield "[ref] localdom mfn      pin          localdom gmfn     flags"
        table = domain.grants
        yield f"grant-table for remote d{domain.domid} (v{table.version})"
        yield f"  {table.nr_frames} frames, {len(table.maptrack)} mappings of others' grants"
        active = table.active_grants()
        if not active:
            yield "no active grant table entries"
        for grant in active:
            yield (
                f"[{grant.ref:#05x}]  {grant.domid:5d} {grant.mfn:#07x} {grant.pin:#010x}"
                f"      {grant.domid:5d} {grant.gfn:#08x}"
            )
    yield "gnttab_usage_print_all ] done"


def _dump_timers(hypervisor: Hypervisor) -> Iterator[str]:
    due = hypervisor.timers.next_deadline()
    yield f"Dumping timer queues: NOW={hypervisor.clock.now()}"
    yield "  no timer is set" if due is None else f"  the next is due at {due}"


KEYS: dict[str, Key] = {
    "h": Key(_help, "show this message"),
    "q": Key(_dump_domains, "dump domain (and guest debug) info"),
    "e": Key(_dump_events, "dump evtchn info"),
    "g": Key(_dump_grants, "print grant table usage"),
    "a": Key(_dump_timers, "dump timer queues"),
}
"""The keys. Xen has others for hardware that isn't there."""
