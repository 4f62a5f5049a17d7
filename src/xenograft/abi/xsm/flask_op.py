# SPDX-License-Identifier: GPL-2.0-or-later
"""public/xsm/flask_op.h: the FLASK security module (HYPERVISOR_xsm_op)."""

from __future__ import annotations

from xenograft.abi.struct import Struct, Union, evtchn_port_t, handle, selects, u8, u32, x8, x64

XEN_FLASK_INTERFACE_VERSION = 1

# xen_flask_op.cmd.
FLASK_LOAD = 1
FLASK_GETENFORCE = 2
FLASK_SETENFORCE = 3
FLASK_CONTEXT_TO_SID = 4
FLASK_SID_TO_CONTEXT = 5
FLASK_ACCESS = 6
FLASK_CREATE = 7
FLASK_RELABEL = 8
FLASK_USER = 9
FLASK_POLICYVERS = 10
FLASK_GETBOOL = 11
FLASK_SETBOOL = 12
FLASK_COMMITBOOLS = 13
FLASK_MLS = 14
FLASK_DISABLE = 15
FLASK_GETAVC_THRESHOLD = 16
FLASK_SETAVC_THRESHOLD = 17
FLASK_AVC_HASHSTATS = 18
FLASK_AVC_CACHESTATS = 19
FLASK_MEMBER = 20
FLASK_ADD_OCONTEXT = 21
FLASK_DEL_OCONTEXT = 22
FLASK_GET_PEER_SID = 23
FLASK_RELABEL_DOMAIN = 24
FLASK_DEVICETREE_LABEL = 25

_MEMBERS = {
    FLASK_LOAD: "load",
    FLASK_SETENFORCE: "enforce",
    FLASK_CONTEXT_TO_SID: "sid_context",
    FLASK_SID_TO_CONTEXT: "sid_context",
    FLASK_ACCESS: "access",
    FLASK_CREATE: "transition",
    FLASK_RELABEL: "transition",
    FLASK_MEMBER: "transition",
    FLASK_GETBOOL: "boolean",
    FLASK_SETBOOL: "boolean",
    FLASK_SETAVC_THRESHOLD: "setavc_threshold",
    FLASK_AVC_HASHSTATS: "hash_stats",
    FLASK_AVC_CACHESTATS: "cache_stats",
    FLASK_ADD_OCONTEXT: "ocontext",
    FLASK_DEL_OCONTEXT: "ocontext",
    FLASK_GET_PEER_SID: "peersid",
    FLASK_RELABEL_DOMAIN: "relabel",
    FLASK_DEVICETREE_LABEL: "devicetree_label",
}


class xen_flask_load(Struct):
    """Load a policy."""

    buffer: handle
    size: u32


class xen_flask_setenforce(Struct):
    """Enforce, or only report."""

    enforcing: u32


class xen_flask_sid_context(Struct):
    """A security id and its context string."""

    sid: u32
    size: u32
    context: handle


class xen_flask_access(Struct):
    """Ask for a decision. OUT: allowed to seqno."""

    ssid: u32
    tsid: u32
    tclass: u32
    req: u32
    allowed: u32
    audit_allow: u32
    audit_deny: u32
    seqno: u32


class xen_flask_transition(Struct):
    """Ask for the id of a new object. OUT: newsid."""

    ssid: u32
    tsid: u32
    tclass: u32
    newsid: u32


class xen_flask_boolean(Struct):
    """A boolean of the policy."""

    bool_id: u32
    enforcing: u8
    pending: u8
    new_value: x8
    commit: u8
    size: u32
    name: handle


class xen_flask_setavc_threshold(Struct):
    """Size of the decision cache."""

    threshold: u32


class xen_flask_hash_stats(Struct):
    """OUT: state of the decision cache."""

    entries: u32
    buckets_used: u32
    buckets_total: u32
    max_chain_len: u32


class xen_flask_cache_stats(Struct):
    """OUT: a CPU's use of the decision cache."""

    cpu: u32
    lookups: u32
    hits: u32
    misses: u32
    allocations: u32
    reclaims: u32
    frees: u32


class xen_flask_ocontext(Struct):
    """Label a range of an object class."""

    ocon: u32
    sid: u32
    low: x64
    high: x64


class xen_flask_peersid(Struct):
    """OUT: id of the other end of an event channel."""

    evtchn: evtchn_port_t
    sid: u32


class xen_flask_relabel(Struct):
    """Relabel a domain."""

    domid: u32
    sid: u32


class xen_flask_devicetree_label(Struct):
    """Label a device-tree node."""

    sid: u32
    length: u32
    path: handle


class _xen_flask_op_u(Union):
    load: xen_flask_load
    enforce: xen_flask_setenforce
    sid_context: xen_flask_sid_context
    access: xen_flask_access
    transition: xen_flask_transition
    boolean: xen_flask_boolean
    setavc_threshold: xen_flask_setavc_threshold
    hash_stats: xen_flask_hash_stats
    cache_stats: xen_flask_cache_stats
    ocontext: xen_flask_ocontext
    peersid: xen_flask_peersid
    relabel: xen_flask_relabel
    devicetree_label: xen_flask_devicetree_label


class xen_flask_op(Struct):
    """HYPERVISOR_xsm_op."""

    _selects_ = selects(u=("cmd", _MEMBERS))

    cmd: u32
    interface_version: u32
    u: _xen_flask_op_u
