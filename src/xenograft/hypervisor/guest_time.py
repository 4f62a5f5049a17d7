# SPDX-License-Identifier: GPL-2.0-or-later
"""What guests read of time: vcpu_time_info, wall clock, runstate areas.

Facts: public/xen.h (struct vcpu_time_info, shared_info.wc_*), public/vcpu.h (struct
vcpu_runstate_info, XEN_RUNSTATE_UPDATE); Xen's __update_vcpu_system_time(),
update_domain_wallclock_time() and update_runstate_area().  A record changes under an odd
version number, so that a reader on another vCPU never takes half of it.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from xenograft.abi.vcpu import vcpu_runstate_info
from xenograft.abi.xen import VMASST_TYPE_runstate_update_flag, shared_info, vcpu_info
from xenograft.arch.x86.pvclock import time_record, version_update_begin, version_update_end
from xenograft.engine.protocol import AccessError

if TYPE_CHECKING:
    from xenograft.hypervisor.domain import Domain
    from xenograft.hypervisor.vcpu import Vcpu

XEN_RUNSTATE_UPDATE = 1 << 63

STAMP_PERIOD_NS = 1_000_000_000
"""A time record older than this is renewed when its vCPU is switched in (Xen calibrates once a
second): the factor has 32 bits, so that an old record would drift."""

# struct vcpu_runstate_info (public/vcpu.h), whose 64-bit members i386 aligns to 4 bytes.
_RUNSTATE = {64: struct.Struct("<i4xQ4Q"), 32: struct.Struct("<iQ4Q")}
_ENTRY_TIME = {bits: vcpu_runstate_info.offsetof("state_entry_time", bits) for bits in (32, 64)}
# Everything of struct vcpu_time_info but the version and its padding (public/xen.h).
_TIME = struct.Struct("<QQIbB2x")
_TIME_OFFSET = {bits: vcpu_info.offsetof("time", bits) for bits in (32, 64)}
_WC_OFFSET = {bits: shared_info.offsetof("wc_version", bits) for bits in (32, 64)}
# wc_sec_hi follows wc_nsec in the 64-bit layout, and lies in arch_shared_info for 32 bits.
_WC_SEC_HI = {
    64: shared_info.offsetof("wc_sec_hi", 64),
    32: shared_info.offsetof("arch.wc_sec_hi", 32),
}


def update_vcpu_time(vcpu: Vcpu, force: bool = False) -> None:
    """Renew the vCPU's time record if it's due, or `force`."""
    domain = vcpu.domain
    now = domain.hypervisor.clock.now()
    if not force and now - vcpu.time_stamped < STAMP_PERIOD_NS:
        return
    vcpu.time_stamped = now
    record = time_record(vcpu.tsc, now)._replace(system_time=now + domain.time_shift)
    body = _TIME.pack(*record)
    if vcpu.vcpu_info_maddr is not None:
        memory = domain.memory
        at = vcpu.vcpu_info_maddr + _TIME_OFFSET[domain.bits]
        version = version_update_begin(memory.read_u32(at))
        memory.write_u32(at, version)
        memory.write(at + 8, body)
        memory.write_u32(at, version_update_end(version))
    if vcpu.time_area and vcpu.cpu is not None:
        try:
            cpu, at = vcpu.cpu, vcpu.time_area
            version = version_update_begin(int.from_bytes(cpu.read(at, 4), "little"))
            cpu.write(at, struct.pack("<II", version, 0) + body)
            cpu.write(at, version_update_end(version).to_bytes(4, "little"))
        except AccessError:
            pass  # as in Xen: an area that's not mapped now is left alone


def update_wallclock(domain: Domain) -> None:
    """Write the wall-clock time at which the domain's system time was 0 into shared_info."""
    memory, bits = domain.memory, domain.bits
    zero = domain.hypervisor.clock.epoch_ns - domain.time_shift
    seconds, nanoseconds = divmod(zero, 1_000_000_000)
    seconds += domain.time_offset_seconds
    at = domain.shared_info_maddr + _WC_OFFSET[bits]
    version = version_update_begin(memory.read_u32(at))
    memory.write_u32(at, version)
    memory.write_u32(at + 4, seconds & 0xFFFFFFFF)
    memory.write_u32(at + 8, nanoseconds)
    memory.write_u32(domain.shared_info_maddr + _WC_SEC_HI[bits], seconds >> 32 & 0xFFFFFFFF)
    memory.write_u32(at, version_update_end(version))


def runstate_record(vcpu: Vcpu) -> vcpu_runstate_info:
    """The vCPU's runstate up to now."""
    state, since, times = vcpu.runstate_now()
    since += vcpu.domain.time_shift
    return vcpu_runstate_info(state=state, state_entry_time=since, time=times)


def update_runstate_area(vcpu: Vcpu) -> None:
    """Write the registered runstate area, if there is one and it is mapped now."""
    cpu, area = vcpu.cpu, vcpu.runstate_area
    if not area or cpu is None:
        return
    domain = vcpu.domain
    layout = _RUNSTATE[domain.bits]
    since = (vcpu.runstate_since + domain.time_shift) % XEN_RUNSTATE_UPDATE
    flagged = domain.vm_assist >> VMASST_TYPE_runstate_update_flag & 1
    marked = since | XEN_RUNSTATE_UPDATE if flagged else since
    # As in Xen: an area that's not mapped now is left alone.
    with suppress(AccessError):
        if flagged:
            at = area + _ENTRY_TIME[domain.bits]
            cpu.write(at, marked.to_bytes(8, "little"))
        cpu.write(area, layout.pack(vcpu.runstate, marked, *vcpu.runstate_times))
        if flagged:
            cpu.write(at, since.to_bytes(8, "little"))
