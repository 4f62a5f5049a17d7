# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of keys: that none of xl.cfg(5) is missing, and that each has its decision."""

from __future__ import annotations

import pytest

from xenograft.toolstack.config import keys as module
from xenograft.toolstack.config.keys import KEYS, Decision, Key, Type
from xenograft.toolstack.config.xlcfg import parse_config
from xenograft.toolstack.errors import UserError

# Every key that xl.cfg(5) of Xen 4.17 has as an item, or that its xl reads (xl_parse.c).
XL_KEYS = """
    acpi acpi_firmware acpi_laptop_slate acpi_s3 acpi_s4 altp2m altp2mhvm apic bios
    bios_path_override boot bootloader bootloader_args builder cap channel cmdline cpu_weight cpuid
    cpus cpus_soft device_model device_model_args device_model_args_hvm device_model_args_pv
    device_model_override device_model_stubdomain_override device_model_stubdomain_seclabel
    device_model_user device_model_version device_tree disk display dm_restrict driver_domain dtdev
    e820_host extra extratime firmware firmware_override gfx_passthru gic_version hap hdtype hpet
    init_seclabel iomem ioports irqs kernel keymap latency localtime max_event_channels
    max_grant_frames max_grant_version max_maptrack_frames maxmem maxvcpus mca_caps memory mmio_hole
    ms_vm_genid msr_relaxed name nestedhvm nographic nomigrate nx on_crash on_poweroff on_reboot
    on_soft_reset on_watchdog oos opengl p9 pae passthrough pci pci_msitranslate pci_permissive
    pci_power_mgmt pci_seize period pool pvcalls pvshim pvshim_cmdline pvshim_extra pvshim_path
    ramdisk rdm rdm_mem_boundary root rtc_timeoffset sdl seclabel serial shadow_memory slice
    smbios_firmware soundhw spice spice_clipboard_sharing spice_image_compression
    spice_streaming_video spiceagent_mouse spicedisable_ticketing spicehost spicepasswd spiceport
    spicetls_port spiceusbredirection spicevdagent stdvga stubdomain_cmdline stubdomain_kernel
    stubdomain_memory stubdomain_ramdisk tee timer_mode tsc_mode type usb usbctrl usbdev usbdevice
    usbversion uuid vcpus vdispl vendor_device vfb vga videoram vif vif2 viridian vkb vkb_device
    vmtrace_buf_kb vnc vncdisplay vnclisten vncpasswd vncunused vncviewer vnuma vpmu vpt_align vsnd
    vtpm vuart xauthority xen_platform_pci xend_suspend_evtchn_compat
"""

SAMPLES = {
    Type.STRING: "'x'",
    Type.NUMBER: "7",
    Type.BOOLEAN: "1",
    Type.LIST: "['x']",
    Type.STRING_OR_LIST: "['x']",
    Type.NESTED: "[['x']]",
    Type.ANY: "'x'",
}
NOT_DONE = [key for key in KEYS.values() if key.decision is not Decision.DONE]


def test_table_is_that_of_xl() -> None:
    assert set(KEYS) == set(XL_KEYS.split())
    assert len(module._TABLE) == len(KEYS), "a key is in the table twice"


def test_every_decision_has_its_reason() -> None:
    for key in KEYS.values():
        assert bool(key.reason) == (key.decision is not Decision.DONE), key.name
        assert not key.neutral or key.decision is not Decision.DONE


def config(key: Key, value: str) -> list[str]:
    return parse_config(f"name='x'\n{key.name}={value}\n", "x.cfg")[1]


@pytest.mark.parametrize("key", NOT_DONE, ids=lambda key: key.name)
def test_keys_that_are_not_done(key: Key) -> None:
    sample = SAMPLES[key.type]
    if key.type is Type.BOOLEAN and "1" in key.neutral:
        sample = "0"
    if sample.strip("'") in key.neutral:
        assert config(key, sample) == []
    elif key.decision is Decision.REFUSED:
        with pytest.raises(UserError, match=f"x.cfg:2: {key.name} can't be honoured: ") as caught:
            config(key, sample)
        assert key.reason in str(caught.value)
    else:
        assert config(key, sample) == [f"x.cfg:2: {key.name} is ignored: {key.reason}"]
    for neutral in key.neutral:
        text = neutral if key.type in (Type.NUMBER, Type.BOOLEAN) and neutral else f"'{neutral}'"
        if neutral or key.type not in (Type.NUMBER, Type.BOOLEAN):
            assert config(key, text) == []


@pytest.mark.parametrize("key", KEYS.values(), ids=lambda key: key.name)
def test_wrong_types_are_refused(key: Key) -> None:
    if key.type is Type.ANY:
        return  # whatever it is, xl takes it
    wrong = {
        Type.STRING: "['x']",
        Type.NUMBER: "'many'",
        Type.BOOLEAN: "'yes'",
        Type.LIST: "'x'",
        Type.STRING_OR_LIST: "[['x']]",
        Type.NESTED: "'x'",
    }[key.type]
    with pytest.raises(UserError, match=f"x.cfg:2: {key.name}: "):
        config(key, wrong)
