# SPDX-License-Identifier: GPL-2.0-or-later
"""The commands of `xl` by name: where each lives, and its line in `xg --help`."""

from __future__ import annotations

from xenograft.cli.group import Lazy

_DOMAINS = "Domains (as in xl; they live in the host service)"
_RESOURCES = "Memory and CPUs"
_SCHEDULING = "Schedulers and CPU pools"
_DEVICES = "Devices"
_MACHINE = "The machine"
_SERVICE = "The host service"
_CANNOT = "Commands of xl that can't work here, and say why"


def _rows(module: str, section: str, **summaries: str) -> dict[str, Lazy]:
    """Commands of one module; a name's underscores are hyphens of the command."""
    return {
        name.strip("_").replace("_", "-"): Lazy(
            f"xenograft.cli.xl.{module}", name, summary, section
        )
        for name, summary in summaries.items()
    }


XL_COMMANDS: dict[str, Lazy] = {
    **_rows(
        "lifecycle",
        _DOMAINS,
        create="Create a domain from a configuration file and settings.",
    ),
    **_rows("listing", _DOMAINS, list_="List domains."),
    **_rows("console", _DOMAINS, console="Attach to a domain's console (Ctrl-] leaves)."),
    **_rows(
        "lifecycle",
        _DOMAINS,
        shutdown="Ask a guest to power off.",
        reboot="Ask a guest to reboot.",
        pause="Stop a domain's vCPUs.",
        unpause="Let them run again.",
        destroy="End a domain at once.",
        rename="Give a domain another name.",
        config_update="Change what a domain is built from when it reboots.",
    ),
    **_rows(
        "listing",
        _DOMAINS,
        domid="The number of the domain of a name.",
        domname="The name of the domain of a number.",
        uptime="How long domains have been running.",
        vm_list="Domains by UUID.",
    ),
    **_rows(
        "state",
        _DOMAINS,
        save="Save a domain's state to restore it later.",
        restore="Restore a domain from a saved state.",
        suspend="Have a guest suspend itself.",
        resume="Let it go on.",
    ),
    **_rows(
        "clones",
        _DOMAINS,
        fork="Clone a running domain.",
        snapshot="Remember a domain as it is now.",
        rewind="Take a domain back to a snapshot.",
    ),
    **_rows(
        "migrate",
        _DOMAINS,
        migrate="Migrate a domain to another host service.",
        migrate_receive="Take in a domain that comes by standard input.",
    ),
    **_rows(
        "host",
        _DOMAINS,
        trigger="Send a trigger (nmi, power …) to a domain.",
        sysrq="Send a magic SysRq key to a guest's kernel.",
        dump_core="Write a domain's memory and registers to a core file.",
        button_press="Press an ACPI button (deprecated: see trigger).",
    ),
    **_rows(
        "resources",
        _RESOURCES,
        mem_set="Set a guest's memory target.",
        mem_max="Set how much memory a domain may have.",
        vcpu_list="List vCPUs.",
        vcpu_set="Set how many of a guest's vCPUs are online.",
    ),
    **_rows("scheduling", _RESOURCES, vcpu_pin="Set which CPUs a vCPU may use."),
    **_rows("listing", _RESOURCES, claims="Memory that is claimed.", sharing="Memory shared."),
    **_rows(
        "scheduling",
        _SCHEDULING,
        sched_credit="Parameters of the credit scheduler.",
        sched_credit2="Parameters of the credit2 scheduler.",
        sched_rtds="Parameters of the real-time scheduler RTDS.",
    ),
    **_rows("arinc653", _SCHEDULING, sched_arinc653="Show and load ARINC 653 schedules."),
    **_rows(
        "scheduling",
        _SCHEDULING,
        cpupool_create="Create a CPU pool.",
        cpupool_list="List CPU pools.",
        cpupool_destroy="Destroy a CPU pool.",
        cpupool_rename="Give a CPU pool another name.",
        cpupool_cpu_add="Give a pool CPUs.",
        cpupool_cpu_remove="Take CPUs from a pool.",
        cpupool_migrate="Move a domain into a pool.",
        cpupool_numa_split="One pool for each NUMA node.",
    ),
    **_rows(
        "devices",
        _DEVICES,
        block_attach="Plug a disk.",
        block_list="List disks.",
        block_detach="Unplug a disk.",
        network_attach="Plug a network interface.",
        network_list="List network interfaces.",
        network_detach="Unplug a network interface.",
        cd_insert="Put a medium into a CD drive.",
        cd_eject="Take it out.",
        channel_list="List channels.",
        vtpm_list="List virtual TPMs.",
        vkb_attach="Plug a virtual keyboard.",
        vkb_list="List virtual keyboards.",
        vkb_detach="Unplug a virtual keyboard.",
        vdispl_list="List virtual displays.",
        vsnd_list="List virtual sound cards.",
    ),
    **_rows("screen", _DEVICES, screenshot="Write what a screen shows to a PNG file."),
    **_rows("bridge", _DEVICES, bridge="Bridges that network interfaces are plugged into."),
    **_rows("xenbus", _DEVICES, xenbus="Who must do what next, of each split device's ends."),
    **_rows(
        "host",
        _MACHINE,
        info="What the machine is, and which Xen it runs.",
        dmesg="The hypervisor's messages.",
        debug_keys="Have the hypervisor print what a debug key prints.",
        set_parameters="Change the hypervisor's parameters.",
    ),
    **_rows("top", _MACHINE, top="Watch domains in real time."),
    **_rows("meter", _MACHINE, meter="What domains have used in a period, and the bill."),
    **_rows("config", _MACHINE, config="Check configurations without building anything."),
    **_rows(
        "service",
        _SERVICE,
        service="Its state; start and stop it.",
        env="Variables for other programs that work with it.",
    ),
}
"""What works."""

CANNOT_COMMANDS: dict[str, Lazy] = {
    name: Lazy("xenograft.cli.xl.cannot", name.replace("-", "_"), "", _CANNOT)
    for name in (
        *("pci-attach", "pci-detach", "pci-list", "pci-assignable-add"),
        *("pci-assignable-remove", "pci-assignable-list", "vncviewer", "vtpm-attach"),
        *("vtpm-detach", "vdispl-attach", "vdispl-detach"),
        *("vsnd-attach", "vsnd-detach", "getenforce", "setenforce", "loadpolicy", "remus"),
        *("devd", "psr-hwinfo", "psr-cmt-attach", "psr-cmt-detach", "psr-cmt-show"),
        *("psr-cat-set", "psr-cat-show", "psr-mba-set", "psr-mba-show", "usbctrl-attach"),
        *("usbctrl-detach", "usbdev-attach", "usbdev-detach", "usb-list"),
        "qemu-monitor-command",
    )
}
"""What can't."""
