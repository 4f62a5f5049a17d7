# SPDX-License-Identifier: GPL-2.0-or-later
"""The parameters of HVM-type domains: who may set and read which, and what setting one does.

Facts: public/hvm/params.h; Xen's hvm_allow_set_param(), hvm_set_param() and
hvm_allow_get_param() of 4.17.  Values are kept in `Domain.hvm_params`; absent ones are 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi.errno import Errno, XenError
from xenograft.abi.hvm import params as p
from xenograft.abi.sched import SHUTDOWN_MAX
from xenograft.abi.xen import DOMID_SELF
from xenograft.hypervisor.guest_time import update_wallclock
from xenograft.hypervisor.hvm.callback import set_callback_via
from xenograft.hypervisor.privilege import Xsm, check

if TYPE_CHECKING:
    from xenograft.hypervisor.call import Call
    from xenograft.hypervisor.domain import Domain

_GUEST_SETS = frozenset(
    (
        p.HVM_PARAM_CALLBACK_IRQ,
        p.HVM_PARAM_VM86_TSS,
        p.HVM_PARAM_VM86_TSS_SIZED,
        p.HVM_PARAM_ACPI_IOPORTS_LOCATION,
        p.HVM_PARAM_VM_GENERATION_ID_ADDR,
        p.HVM_PARAM_STORE_EVTCHN,
        p.HVM_PARAM_CONSOLE_EVTCHN,
        p.HVM_PARAM_X87_FIP_WIDTH,
    )
)
_GUEST_READS = _GUEST_SETS | {
    p.HVM_PARAM_STORE_PFN,
    p.HVM_PARAM_CONSOLE_PFN,
    p.HVM_PARAM_ALTP2M,
}
_DEPRECATED = frozenset(
    (
        p.HVM_PARAM_PAE_ENABLED,
        p.HVM_PARAM_DM_DOMAIN,
        p.HVM_PARAM_MEMORY_EVENT_CR0,
        p.HVM_PARAM_MEMORY_EVENT_CR3,
        p.HVM_PARAM_MEMORY_EVENT_CR4,
        p.HVM_PARAM_MEMORY_EVENT_INT3,
        p.HVM_PARAM_NESTEDHVM,
        p.HVM_PARAM_MEMORY_EVENT_SINGLE_STEP,
        p.HVM_PARAM_BUFIOREQ_EVTCHN,
        p.HVM_PARAM_MEMORY_EVENT_MSR,
    )
)
_ONCE = frozenset(
    (
        p.HVM_PARAM_VIRIDIAN,
        p.HVM_PARAM_IOREQ_PFN,
        p.HVM_PARAM_BUFIOREQ_PFN,
        p.HVM_PARAM_IOREQ_SERVER_PFN,
        p.HVM_PARAM_NR_IOREQ_SERVER_PAGES,
        p.HVM_PARAM_ALTP2M,
        p.HVM_PARAM_MCA_CAP,
    )
)

TSS32_SIZE = 104
_TSS_LIMIT = TSS32_SIZE + 0x100 // 8 + 0x10000 // 8 + 1
"""A TSS with the largest interrupt and I/O bitmaps that make sense."""

IOREQ_PAGES_LIMIT = 64


def get_param(call: Call, domain: Domain, index: int) -> int:
    """HVMOP_get_param. `index` is below HVM_NR_PARAMS; raises XenError."""
    check(Xsm.TARGET, call.domain, domain)
    _check_index(call, domain, index, _GUEST_READS)
    if index == p.HVM_PARAM_VM86_TSS:
        return domain.hvm_params.get(p.HVM_PARAM_VM86_TSS_SIZED, 0) & 0xFFFFFFFF
    return domain.hvm_params.get(index, 0)


def set_param(call: Call, domain: Domain, index: int, value: int) -> None:
    """HVMOP_set_param. `index` is below HVM_NR_PARAMS; raises XenError."""
    check(Xsm.TARGET, call.domain, domain)
    _check_index(call, domain, index, _GUEST_SETS)
    old = domain.hvm_params.get(index, 0)
    if index in _ONCE and old not in (0, value):
        raise XenError(Errno.EEXIST)
    effect = _EFFECTS.get(index)
    if effect is not None:
        index, value = effect(call, domain, index, value)
    domain.hvm_params[index] = value


def _check_index(call: Call, domain: Domain, index: int, own: frozenset[int]) -> None:
    if index in own:
        return
    if index in _DEPRECATED:
        raise XenError(Errno.EINVAL)
    if domain is call.domain:
        raise XenError(Errno.EPERM)


# -- what setting one does: returns the (index, value) to keep ------------------------------
def _callback_irq(call: Call, domain: Domain, index: int, value: int) -> tuple[int, int]:
    set_callback_via(domain, value)
    if call.domain is domain and call.vcpu is not None:
        latch_shinfo_size(domain, call.bits)
    return index, value


def latch_shinfo_size(domain: Domain, bits: int) -> None:
    """Take the caller's width for that of the shared structures, at the first steps of its drivers.

    Xen's hvm_latch_shinfo_size().
    """
    domain.bits = bits
    update_wallclock(domain)


def _at_most(limit: int) -> _Effect:
    def effect(_call: Call, _domain: Domain, index: int, value: int) -> tuple[int, int]:
        if value > limit:
            raise XenError(Errno.EINVAL)
        return index, value

    return effect


def _viridian(_call: Call, _domain: Domain, index: int, value: int) -> tuple[int, int]:
    if value & ~p.HVMPV_feature_mask or not value & p.HVMPV_base_freq:
        raise XenError(Errno.EINVAL)
    return index, value


def _dm_domain(call: Call, _domain: Domain, index: int, value: int) -> tuple[int, int]:
    if value != DOMID_SELF:
        raise XenError(Errno.EINVAL)
    return index, call.domain.domid


def _acpi_s_state(_call: Call, domain: Domain, index: int, value: int) -> tuple[int, int]:
    """3 suspends the guest to memory, 0 wakes it."""
    if value not in (0, 3):
        raise XenError(Errno.EINVAL)
    asleep = domain.hvm_params.get(index, 0) == 3
    if value == 3 and not asleep:
        domain.pause()
    elif value == 0 and asleep:
        domain.unpause()
    return index, value


def _acpi_ioports(_call: Call, _domain: Domain, index: int, value: int) -> tuple[int, int]:
    if value not in (0, 1):
        raise XenError(Errno.EINVAL)
    return index, value


def _ioreq_pages(_call: Call, _domain: Domain, index: int, value: int) -> tuple[int, int]:
    if not 1 <= value <= IOREQ_PAGES_LIMIT:
        raise XenError(Errno.EINVAL)
    return index, value


def _fip_width(_call: Call, _domain: Domain, index: int, value: int) -> tuple[int, int]:
    if value not in (0, 4, 8):
        raise XenError(Errno.EINVAL)
    return index, value


def _vm86_tss(call: Call, domain: Domain, _index: int, value: int) -> tuple[int, int]:
    if value >> 32:
        _crash_own(call, domain)
    if value:
        value |= 128 << 32  # what old firmware takes for granted
    return p.HVM_PARAM_VM86_TSS_SIZED, value


def _vm86_tss_sized(call: Call, domain: Domain, index: int, value: int) -> tuple[int, int]:
    size = value >> 32
    if size < TSS32_SIZE:
        _crash_own(call, domain)
    return index, min(size, _TSS_LIMIT) << 32 | value & 0xFFFFFFFF


def _crash_own(call: Call, domain: Domain) -> None:
    if domain is call.domain:
        domain.crash("it gave itself a VM86 TSS that is too small, or lies too high")
    raise XenError(Errno.EINVAL)


def _altp2m(call: Call, domain: Domain, index: int, value: int) -> tuple[int, int]:
    check(Xsm.PRIV, call.domain, domain)
    if value > p.XEN_ALTP2M_limited:
        raise XenError(Errno.EINVAL)
    return index, value


def _mca_cap(_call: Call, _domain: Domain, index: int, value: int) -> tuple[int, int]:
    if value & ~p.XEN_HVM_MCA_CAP_MASK:
        raise XenError(Errno.EINVAL)
    return index, value


if TYPE_CHECKING:
    from collections.abc import Callable

    _Effect = Callable[[Call, Domain, int, int], tuple[int, int]]

_EFFECTS: dict[int, _Effect] = {
    p.HVM_PARAM_CALLBACK_IRQ: _callback_irq,
    p.HVM_PARAM_TIMER_MODE: _at_most(p.HVMPTM_one_missed_tick_pending),
    p.HVM_PARAM_VIRIDIAN: _viridian,
    p.HVM_PARAM_DM_DOMAIN: _dm_domain,
    p.HVM_PARAM_ACPI_S_STATE: _acpi_s_state,
    p.HVM_PARAM_ACPI_IOPORTS_LOCATION: _acpi_ioports,
    p.HVM_PARAM_ALTP2M: _altp2m,
    p.HVM_PARAM_TRIPLE_FAULT_REASON: _at_most(SHUTDOWN_MAX),
    p.HVM_PARAM_NR_IOREQ_SERVER_PAGES: _ioreq_pages,
    p.HVM_PARAM_X87_FIP_WIDTH: _fip_width,
    p.HVM_PARAM_VM86_TSS: _vm86_tss,
    p.HVM_PARAM_VM86_TSS_SIZED: _vm86_tss_sized,
    p.HVM_PARAM_MCA_CAP: _mca_cap,
}
