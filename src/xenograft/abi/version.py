# SPDX-License-Identifier: GPL-2.0-or-later
"""public/version.h: HYPERVISOR_xen_version."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.struct import Struct, chars, octets, u32, x32, xulong

# xen_version.
XENVER_version = 0
XENVER_extraversion = 1
XENVER_compile_info = 2
XENVER_capabilities = 3
XENVER_changeset = 4
XENVER_platform_parameters = 5
XENVER_get_features = 6
XENVER_pagesize = 7
XENVER_guest_handle = 8
XENVER_commandline = 9
XENVER_build_id = 10

XEN_EXTRAVERSION_LEN = 16
XEN_CAPABILITIES_INFO_LEN = 1024
XEN_CHANGESET_INFO_LEN = 64
XEN_COMMANDLINE_LEN = 1024


class xen_extraversion(Struct):
    """xen_extraversion_t: what follows major.minor, ".7" for instance."""

    text: Annotated[bytes, chars(XEN_EXTRAVERSION_LEN)]


class xen_compile_info(Struct):
    """Who compiled Xen, with what, where and when."""

    compiler: Annotated[bytes, chars(64)]
    compile_by: Annotated[bytes, chars(16)]
    compile_domain: Annotated[bytes, chars(32)]
    compile_date: Annotated[bytes, chars(32)]


class xen_capabilities_info(Struct):
    """xen_capabilities_info_t: the guest ABIs that Xen runs, separated by blanks."""

    text: Annotated[bytes, chars(XEN_CAPABILITIES_INFO_LEN)]


class xen_changeset_info(Struct):
    """xen_changeset_info_t."""

    text: Annotated[bytes, chars(XEN_CHANGESET_INFO_LEN)]


class xen_platform_parameters(Struct):
    """Where Xen's own part of a PV guest's address space begins."""

    virt_start: xulong


class xen_feature_info(Struct):
    """One 32-bit map of XENFEAT_* bits. OUT: submap."""

    submap_idx: u32
    submap: x32


class xen_domain_handle(Struct):
    """xen_domain_handle_t: a domain's UUID."""

    handle: Annotated[bytes, octets(16)]


class xen_commandline(Struct):
    """xen_commandline_t: the hypervisor's command line."""

    text: Annotated[bytes, chars(XEN_COMMANDLINE_LEN)]


class xen_build_id(Struct):
    """Room for the build id; its bytes follow."""

    len: u32
