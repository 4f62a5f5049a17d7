# SPDX-License-Identifier: GPL-2.0-or-later
"""Every key of xl.cfg: what type its value has, and what Xenograft does with it.

Source: xl.cfg(5) of Xen 4.17, and the keys that its xl reads besides (tools/xl/xl_parse.c).
The decisions: a key is *done*; or *ignored*, with a warning that says what isn't done; or
*refused*, since a guest without it would be another guest.  A key with one of its `neutral`
values asks for nothing and passes in silence.
"""

from __future__ import annotations

from enum import Enum

import msgspec


class Type(Enum):
    """What a value has to look like."""

    STRING = "a string"
    NUMBER = "a number"
    BOOLEAN = "0 or 1"
    LIST = "a list of strings"
    STRING_OR_LIST = "a string or a list of strings"
    NESTED = "a list"
    ANY = "a string, a number or a list"


class Decision(Enum):
    """What happens to a key."""

    DONE = "done"
    IGNORED = "ignored"
    REFUSED = "refused"


class Key(msgspec.Struct, frozen=True):
    """One row of the table."""

    name: str
    type: Type
    decision: Decision
    reason: str = ""
    """For ignored and refused keys: what isn't done, or why."""
    neutral: tuple[str, ...] = ()


_OFF = ("0", "")
_HVM = "it is for HVM guests alone"
_HVM_DISPLAY = "it is for the display of HVM guests alone"
_ARM = "it is for Arm guests alone"
_PASSTHROUGH = "there is no host hardware to hand to a guest"
_STUBDOMAIN = "there is no device model in a domain of its own"
_DEVICE_MODEL = "no device model is run"
_SPICE = "there is no SPICE server"
_XSM = "there is no security policy (XSM)"
_SHIM = 'PV guests need no shim here; use type="pv"'


def _done(name: str, type_: Type) -> Key:
    return Key(name, type_, Decision.DONE)


def _ignored(name: str, type_: Type, reason: str, neutral: tuple[str, ...] = ()) -> Key:
    return Key(name, type_, Decision.IGNORED, reason, neutral)


def _refused(name: str, type_: Type, reason: str, neutral: tuple[str, ...] = ()) -> Key:
    return Key(name, type_, Decision.REFUSED, reason, neutral)


_TABLE = (
    # -- what it is
    _done("name", Type.STRING),
    _done("type", Type.STRING),
    _done("builder", Type.STRING),
    _done("uuid", Type.STRING),
    _ignored("seclabel", Type.STRING, _XSM),
    _ignored("init_seclabel", Type.STRING, _XSM),
    # -- CPUs
    _done("vcpus", Type.NUMBER),
    _done("maxvcpus", Type.NUMBER),
    _done("cpuid", Type.STRING_OR_LIST),
    _done("pool", Type.STRING),
    _done("cpus", Type.STRING_OR_LIST),
    _done("cpus_soft", Type.STRING_OR_LIST),
    _done("cpu_weight", Type.NUMBER),
    _done("cap", Type.NUMBER),
    _done("period", Type.NUMBER),
    _done("slice", Type.NUMBER),
    _ignored("latency", Type.NUMBER, "no scheduler of Xen 4.17 has it"),
    _done("extratime", Type.NUMBER),
    _refused("nestedhvm", Type.BOOLEAN, "guests of guests can't be run", _OFF),
    _refused("vpmu", Type.BOOLEAN, _ARM, _OFF),
    _refused("msr_relaxed", Type.BOOLEAN, "unknown MSRs always fault", _OFF),
    _ignored("mca_caps", Type.LIST, _HVM),
    _refused("vmtrace_buf_kb", Type.NUMBER, "there is no processor trace; use --trace", _OFF),
    # -- memory
    _done("memory", Type.NUMBER),
    _done("maxmem", Type.NUMBER),
    _refused("vnuma", Type.NESTED, "virtual NUMA nodes can't be made"),
    _ignored("shadow_memory", Type.NUMBER, "page tables of the second stage have no limit"),
    _ignored("hap", Type.BOOLEAN, "guests always have a second stage of page tables", ("1",)),
    _ignored("oos", Type.BOOLEAN, "there are no shadow page tables"),
    _refused(
        "altp2m", Type.ANY, "a guest has one set of second-stage page tables", ("0", "disabled", "")
    ),
    _refused("altp2mhvm", Type.BOOLEAN, "a guest has one set of second-stage page tables", _OFF),
    _done("max_grant_frames", Type.NUMBER),
    _done("max_maptrack_frames", Type.NUMBER),
    _done("max_grant_version", Type.NUMBER),
    _done("max_event_channels", Type.NUMBER),
    # -- what happens in the end
    _done("on_poweroff", Type.STRING),
    _done("on_reboot", Type.STRING),
    _done("on_watchdog", Type.STRING),
    _done("on_crash", Type.STRING),
    _done("on_soft_reset", Type.STRING),
    _done("nomigrate", Type.BOOLEAN),
    _refused("driver_domain", Type.BOOLEAN, "no device can be given to a driver domain", _OFF),
    _ignored("xend_suspend_evtchn_compat", Type.BOOLEAN, "xend isn't imitated", _OFF),
    # -- boot
    _done("kernel", Type.STRING),
    _done("ramdisk", Type.STRING),
    _done("cmdline", Type.STRING),
    _done("root", Type.STRING),
    _done("extra", Type.STRING),
    _refused("firmware", Type.STRING, "no firmware is at hand; name a kernel instead (kernel=)"),
    _refused(
        "bootloader",
        Type.STRING,
        "no boot loader is run outside the guest; name a kernel instead (kernel=)",
    ),
    _ignored("bootloader_args", Type.STRING_OR_LIST, "no boot loader is run outside the guest"),
    _refused("pvshim", Type.BOOLEAN, _SHIM, _OFF),
    _ignored("pvshim_path", Type.STRING, _SHIM),
    _ignored("pvshim_cmdline", Type.STRING, _SHIM),
    _ignored("pvshim_extra", Type.STRING, _SHIM),
    # -- time
    _done("tsc_mode", Type.STRING),
    _done("timer_mode", Type.STRING),
    _ignored(
        "localtime", Type.BOOLEAN, "the emulated clock of HVM guests alone has a time zone", _OFF
    ),
    _ignored(
        "rtc_timeoffset", Type.NUMBER, "the emulated clock of HVM guests alone has an offset", _OFF
    ),
    _ignored("vpt_align", Type.BOOLEAN, "there are no periodic platform timers", ("1",)),
    # -- devices
    _done("disk", Type.LIST),
    _done("vif", Type.LIST),
    _refused("vif2", Type.ANY, "it isn't supported by xl either"),
    _refused("vtpm", Type.LIST, "there is no virtual TPM"),
    _done("p9", Type.LIST),
    _refused("pvcalls", Type.LIST, "PV calls have no back end"),
    _done("channel", Type.LIST),
    _done("vfb", Type.LIST),
    _done("vkb", Type.LIST),
    _refused("vdispl", Type.LIST, "there is no virtual display"),
    _refused("vsnd", Type.NESTED, "there is no virtual sound card"),
    _refused("usbctrl", Type.LIST, "there is no USB"),
    _refused("usbdev", Type.LIST, "there is no USB"),
    _refused("pci", Type.LIST, _PASSTHROUGH),
    _refused("dtdev", Type.LIST, _PASSTHROUGH),
    _refused("ioports", Type.LIST, _PASSTHROUGH),
    _refused("iomem", Type.LIST, _PASSTHROUGH),
    _refused("irqs", Type.LIST, _PASSTHROUGH),
    _refused("gfx_passthru", Type.ANY, _PASSTHROUGH, _OFF),
    _refused("passthrough", Type.STRING, _PASSTHROUGH, ("disabled", "default")),
    _ignored("rdm", Type.STRING, _PASSTHROUGH),
    _ignored("rdm_mem_boundary", Type.NUMBER, _PASSTHROUGH),
    _ignored("pci_permissive", Type.BOOLEAN, _PASSTHROUGH, _OFF),
    _ignored("pci_msitranslate", Type.BOOLEAN, _PASSTHROUGH, _OFF),
    _ignored("pci_seize", Type.BOOLEAN, _PASSTHROUGH, _OFF),
    _ignored("pci_power_mgmt", Type.BOOLEAN, _PASSTHROUGH, _OFF),
    _refused("device_tree", Type.STRING, _ARM),
    _refused("tee", Type.STRING, _ARM, ("none",)),
    _refused("gic_version", Type.STRING, _ARM, ("default",)),
    _refused("vuart", Type.STRING, _ARM),
    # -- PV and HVM guests alone
    _refused("e820_host", Type.BOOLEAN, "there is no host memory map to show", _OFF),
    _ignored("boot", Type.STRING, _HVM),
    _ignored("hdtype", Type.STRING, _HVM),
    _ignored("bios", Type.STRING, _HVM),
    _ignored("bios_path_override", Type.STRING, _HVM),
    _ignored("firmware_override", Type.STRING, _HVM),
    _ignored("pae", Type.BOOLEAN, "PAE is decided by cpuid=", ("1",)),
    _ignored("nx", Type.BOOLEAN, "NX is decided by cpuid=", ("1",)),
    _ignored("acpi", Type.BOOLEAN, "a PVH guest always has its ACPI tables", ("1",)),
    _refused("apic", Type.BOOLEAN, "a guest without local APIC can't be made", ("1",)),
    _ignored("acpi_s3", Type.BOOLEAN, _HVM),
    _ignored("acpi_s4", Type.BOOLEAN, _HVM),
    _ignored("acpi_laptop_slate", Type.BOOLEAN, _HVM, _OFF),
    _ignored("acpi_firmware", Type.STRING, _HVM),
    _ignored("smbios_firmware", Type.STRING, _HVM),
    _ignored("hpet", Type.BOOLEAN, _HVM),
    _ignored("ms_vm_genid", Type.STRING, _HVM, ("none",)),
    _ignored("mmio_hole", Type.NUMBER, _HVM),
    _ignored("xen_platform_pci", Type.BOOLEAN, _HVM),
    _ignored("viridian", Type.ANY, _HVM, _OFF),
    _ignored("vendor_device", Type.STRING, _HVM, ("none",)),
    _ignored("serial", Type.STRING_OR_LIST, _HVM),
    _ignored("soundhw", Type.STRING, _HVM),
    _ignored("usb", Type.BOOLEAN, _HVM, _OFF),
    _ignored("usbversion", Type.NUMBER, _HVM, _OFF),
    _ignored("usbdevice", Type.STRING_OR_LIST, _HVM),
    _ignored("vkb_device", Type.BOOLEAN, _HVM),
    # -- the display of HVM guests
    _ignored("videoram", Type.NUMBER, _HVM_DISPLAY),
    _ignored("stdvga", Type.BOOLEAN, _HVM_DISPLAY, _OFF),
    _ignored("vga", Type.STRING, _HVM_DISPLAY, ("none",)),
    _ignored("vnc", Type.BOOLEAN, _HVM_DISPLAY, _OFF),
    _ignored("vnclisten", Type.STRING, _HVM_DISPLAY),
    _ignored("vncdisplay", Type.NUMBER, _HVM_DISPLAY),
    _ignored("vncunused", Type.BOOLEAN, _HVM_DISPLAY),
    _ignored("vncpasswd", Type.STRING, _HVM_DISPLAY),
    _ignored("vncviewer", Type.ANY, _HVM_DISPLAY),
    _ignored("keymap", Type.STRING, _HVM_DISPLAY),
    _ignored("sdl", Type.BOOLEAN, _HVM_DISPLAY, _OFF),
    _ignored("opengl", Type.BOOLEAN, _HVM_DISPLAY, _OFF),
    _ignored("display", Type.STRING, _HVM_DISPLAY),
    _ignored("xauthority", Type.STRING, _HVM_DISPLAY),
    _ignored("nographic", Type.BOOLEAN, _HVM_DISPLAY, ("0", "1")),
    _ignored("spice", Type.BOOLEAN, _SPICE, _OFF),
    _ignored("spicehost", Type.STRING, _SPICE),
    _ignored("spiceport", Type.NUMBER, _SPICE),
    _ignored("spicetls_port", Type.NUMBER, _SPICE),
    _ignored("spicedisable_ticketing", Type.BOOLEAN, _SPICE),
    _ignored("spicepasswd", Type.STRING, _SPICE),
    _ignored("spiceagent_mouse", Type.BOOLEAN, _SPICE),
    _ignored("spicevdagent", Type.BOOLEAN, _SPICE),
    _ignored("spice_clipboard_sharing", Type.BOOLEAN, _SPICE),
    _ignored("spiceusbredirection", Type.NUMBER, _SPICE),
    _ignored("spice_image_compression", Type.STRING, _SPICE),
    _ignored("spice_streaming_video", Type.STRING, _SPICE),
    # -- device models
    _ignored("device_model", Type.STRING, _DEVICE_MODEL),
    _ignored("device_model_version", Type.STRING, _DEVICE_MODEL),
    _ignored("device_model_override", Type.STRING, _DEVICE_MODEL),
    _ignored("device_model_args", Type.LIST, _DEVICE_MODEL),
    _ignored("device_model_args_pv", Type.LIST, _DEVICE_MODEL),
    _ignored("device_model_args_hvm", Type.LIST, _DEVICE_MODEL),
    _ignored("device_model_user", Type.STRING, _DEVICE_MODEL),
    _ignored("dm_restrict", Type.BOOLEAN, _DEVICE_MODEL, _OFF),
    _ignored("device_model_stubdomain_override", Type.BOOLEAN, _STUBDOMAIN, _OFF),
    _ignored("device_model_stubdomain_seclabel", Type.STRING, _STUBDOMAIN),
    _ignored("stubdomain_kernel", Type.STRING, _STUBDOMAIN),
    _ignored("stubdomain_cmdline", Type.STRING, _STUBDOMAIN),
    _ignored("stubdomain_ramdisk", Type.STRING, _STUBDOMAIN),
    _ignored("stubdomain_memory", Type.NUMBER, _STUBDOMAIN),
)

KEYS: dict[str, Key] = {key.name: key for key in _TABLE}
"""The table, by name."""
