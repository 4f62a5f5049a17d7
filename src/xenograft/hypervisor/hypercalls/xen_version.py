# SPDX-License-Identifier: GPL-2.0-or-later
"""xen_version: what the hypervisor is, and what it offers this guest.

Facts: public/version.h, public/features.h; Xen's do_xen_version() and xsm_xen_version().
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xenograft.abi import features, version
from xenograft.abi.errno import Errno, XenError
from xenograft.abi.xen import VMASST_TYPE_pae_extended_cr3
from xenograft.engine.protocol import PAGE_SIZE
from xenograft.hypervisor.kinds import GuestKind
from xenograft.hypervisor.ops import Op, dispatch_family, everyone, family
from xenograft.hypervisor.privilege import Xsm, allowed

if TYPE_CHECKING:
    from xenograft.hypervisor.call import Call
    from xenograft.hypervisor.domain import Domain

DENIED = "<denied>"
"""What Xen answers in place of strings that a guest may not read."""


def _put(call: Call, addr: int, text: str, size: int) -> int:
    data = text.encode()[: size - 1]
    call.write_bytes(addr, data.ljust(size, b"\0"))
    return 0


def xenver_version(call: Call, _arg: int) -> int:
    return call.hypervisor.xen_version.number


def extraversion(call: Call, arg: int) -> int:
    return _put(call, arg, call.hypervisor.xen_version.extra, version.XEN_EXTRAVERSION_LEN)


def compile_info(call: Call, arg: int) -> int:
    about = call.hypervisor.xen_version
    info = version.xen_compile_info(
        compiler=about.compiler.encode()[:63],
        compile_by=about.compile_by.encode()[:15],
        compile_domain=about.compile_domain.encode()[:31],
        compile_date=about.compile_date.encode()[:31],
    )
    call.write(arg, info)
    return 0


def capabilities(call: Call, arg: int) -> int:
    text = call.hypervisor.xen_version.capabilities
    return _put(call, arg, text, version.XEN_CAPABILITIES_INFO_LEN)


def changeset(call: Call, arg: int) -> int:
    return _put(call, arg, call.hypervisor.xen_version.changeset, version.XEN_CHANGESET_INFO_LEN)


def platform_parameters(call: Call, arg: int) -> int:
    """Where Xen's own part of the address space starts; nowhere for 32-bit HVM-type guests."""
    about = call.hypervisor.xen_version
    if call.bits == 64:
        start = about.virt_start
    else:
        start = 0 if call.domain.kind.is_hvm_type else about.virt_start_compat
    call.write(arg, version.xen_platform_parameters(virt_start=start))
    return 0


def feature_submap(domain: Domain) -> int:
    """The first (and only) 32 features, as XENVER_get_features gives them to this domain."""
    bits = [features.XENFEAT_memory_op_vnode_supported]
    if domain.kind is GuestKind.PV:
        bits += [
            features.XENFEAT_mmu_pt_update_preserve_ad,
            features.XENFEAT_highmem_assist,
            features.XENFEAT_gnttab_map_avail_bits,
            features.XENFEAT_direct_mapped,
        ]
        if domain.vm_assist >> VMASST_TYPE_pae_extended_cr3 & 1:
            bits.append(features.XENFEAT_pae_pgdir_above_4gb)
    else:
        bits += [
            features.XENFEAT_writable_page_tables,
            features.XENFEAT_auto_translated_physmap,
            features.XENFEAT_hvm_safe_pvclock,
            features.XENFEAT_hvm_callback_vector,
            features.XENFEAT_not_direct_mapped,
        ]
        if domain.has_pirq:
            bits.append(features.XENFEAT_hvm_pirqs)
    if domain.is_hardware:
        bits.append(features.XENFEAT_dom0)
    return sum(1 << bit for bit in bits)


def get_features(call: Call, arg: version.xen_feature_info) -> int:
    if arg.submap_idx:
        raise XenError(Errno.EINVAL)
    arg.submap = feature_submap(call.domain)
    return 0


def pagesize(_call: Call, arg: int) -> int:
    if arg:
        raise XenError(Errno.EINVAL)
    return PAGE_SIZE


def guest_handle(call: Call, arg: int) -> int:
    call.write_bytes(arg, call.domain.uuid)
    return 0


def commandline(call: Call, arg: int) -> int:
    if not allowed(Xsm.PRIV, call.domain, None):
        call.write_bytes(arg, DENIED.encode() + b"\0")
        return 0
    return _put(call, arg, call.hypervisor.xen_version.commandline, version.XEN_COMMANDLINE_LEN)


def build_id(call: Call, arg: int) -> int:
    """The build id's length; with an argument, its bytes too."""
    if not allowed(Xsm.PRIV, call.domain, None):
        raise XenError(Errno.EPERM)
    ident = call.hypervisor.xen_version.build_id
    if arg:
        size = call.read_ints(arg, 4, 1)[0]
        if size == 0:
            raise XenError(Errno.EINVAL)
        if len(ident) > size:
            raise XenError(Errno.ENOBUFS)
        call.write_bytes(arg + 4, ident)
    return len(ident)


VERSION_OPS = family(
    [
        Op(version.XENVER_version, "XENVER_version", None, everyone(xenver_version)),
        Op(version.XENVER_extraversion, "XENVER_extraversion", None, everyone(extraversion)),
        Op(version.XENVER_compile_info, "XENVER_compile_info", None, everyone(compile_info)),
        Op(version.XENVER_capabilities, "XENVER_capabilities", None, everyone(capabilities)),
        Op(version.XENVER_changeset, "XENVER_changeset", None, everyone(changeset)),
        Op(
            version.XENVER_platform_parameters,
            "XENVER_platform_parameters",
            None,
            everyone(platform_parameters),
        ),
        Op(
            version.XENVER_get_features,
            "XENVER_get_features",
            version.xen_feature_info,
            everyone(get_features),
            out=True,
        ),
        Op(version.XENVER_pagesize, "XENVER_pagesize", None, everyone(pagesize)),
        Op(version.XENVER_guest_handle, "XENVER_guest_handle", None, everyone(guest_handle)),
        Op(version.XENVER_commandline, "XENVER_commandline", None, everyone(commandline)),
        Op(version.XENVER_build_id, "XENVER_build_id", None, everyone(build_id)),
    ]
)


def xen_version(call: Call, cmd: int, arg: int) -> int:
    """__HYPERVISOR_xen_version."""
    return dispatch_family(VERSION_OPS, call, cmd, arg)
