# SPDX-License-Identifier: GPL-2.0-or-later
"""public/platform.h: what domain 0 tells and asks of the machine (HYPERVISOR_platform_op)."""

from __future__ import annotations

from typing import Annotated

from xenograft.abi.struct import (
    Struct,
    Union,
    bitfield,
    chars,
    handle,
    i8,
    i16,
    i32,
    octets,
    selects,
    u8,
    u16,
    u32,
    u64,
    ulong,
    x8,
    x32,
    x64,
    xen_pfn_t,
    xulong,
)

XENPF_INTERFACE_VERSION = 0x3000001

# platform_op.
XENPF_settime32 = 17
XENPF_settime64 = 62
XENPF_settime = 62
XENPF_add_memtype = 31
XENPF_del_memtype = 32
XENPF_read_memtype = 33
XENPF_microcode_update = 35
XENPF_platform_quirk = 39
XENPF_efi_runtime_call = 49
XENPF_firmware_info = 50
XENPF_enter_acpi_sleep = 51
XENPF_change_freq = 52
XENPF_getidletime = 53
XENPF_set_processor_pminfo = 54
XENPF_get_cpuinfo = 55
XENPF_get_cpu_version = 48
XENPF_cpu_online = 56
XENPF_cpu_offline = 57
XENPF_cpu_hotadd = 58
XENPF_mem_hotadd = 59
XENPF_core_parking = 60
XENPF_resource_op = 61
XENPF_get_symbol = 63

# xenpf_platform_quirk.quirk_id.
QUIRK_NOIRQBALANCING = 1
QUIRK_IOAPIC_BAD_REGSEL = 2
QUIRK_IOAPIC_GOOD_REGSEL = 3

# xenpf_efi_runtime_call.function.
XEN_EFI_get_time = 1
XEN_EFI_set_time = 2
XEN_EFI_get_wakeup_time = 3
XEN_EFI_set_wakeup_time = 4
XEN_EFI_get_next_high_monotonic_count = 5
XEN_EFI_get_variable = 6
XEN_EFI_set_variable = 7
XEN_EFI_get_next_variable_name = 8
XEN_EFI_query_variable_info = 9
XEN_EFI_query_capsule_capabilities = 10
XEN_EFI_update_capsule = 11

# Flags of EFI calls.
XEN_EFI_GET_TIME_SET_CLEARS_NS = 1
XEN_EFI_GET_WAKEUP_TIME_ENABLED = 1
XEN_EFI_GET_WAKEUP_TIME_PENDING = 2
XEN_EFI_SET_WAKEUP_TIME_ENABLE = 1
XEN_EFI_SET_WAKEUP_TIME_ENABLE_ONLY = 2
XEN_EFI_VARIABLE_NON_VOLATILE = 1
XEN_EFI_VARIABLE_BOOTSERVICE_ACCESS = 2
XEN_EFI_VARIABLE_RUNTIME_ACCESS = 4
XEN_EFI_VARINFO_BOOT_SNAPSHOT = 1

# xenpf_firmware_info.type; index of EFI information.
XEN_FW_DISK_INFO = 1
XEN_FW_DISK_MBR_SIGNATURE = 2
XEN_FW_VBEDDC_INFO = 3
XEN_FW_EFI_INFO = 4
XEN_FW_EFI_VERSION = 0
XEN_FW_EFI_CONFIG_TABLE = 1
XEN_FW_EFI_VENDOR = 2
XEN_FW_EFI_MEM_INFO = 3
XEN_FW_EFI_RT_VERSION = 4
XEN_FW_EFI_PCI_ROM = 5
XEN_FW_EFI_APPLE_PROPERTIES = 6
XEN_FW_KBD_SHIFT_FLAGS = 5

# xenpf_enter_acpi_sleep.flags.
XENPF_ACPI_SLEEP_EXTENDED = 1

# xenpf_set_processor_pminfo.
XEN_PROCESSOR_PM_CX = 1
XEN_PROCESSOR_PM_PX = 2
XEN_PROCESSOR_PM_TX = 4
XEN_PM_CX = 0
XEN_PM_PX = 1
XEN_PM_TX = 2
XEN_PM_PDC = 3
XEN_PX_PCT = 1
XEN_PX_PSS = 2
XEN_PX_PPC = 4
XEN_PX_PSD = 8
XEN_CPUPERF_SHARED_TYPE_HW = 1
XEN_CPUPERF_SHARED_TYPE_ALL = 2
XEN_CPUPERF_SHARED_TYPE_ANY = 3

# xenpf_pcpuinfo.flags.
XEN_PCPU_FLAGS_ONLINE = 1
XEN_PCPU_FLAGS_INVALID = 2

# xenpf_core_parking.type.
XEN_CORE_PARKING_SET = 1
XEN_CORE_PARKING_GET = 2

# xenpf_resource_entry.u.cmd.
XEN_RESOURCE_OP_MSR_READ = 0
XEN_RESOURCE_OP_MSR_WRITE = 1

_MEMBERS = {
    XENPF_settime32: "settime32",
    XENPF_settime64: "settime64",
    XENPF_add_memtype: "add_memtype",
    XENPF_del_memtype: "del_memtype",
    XENPF_read_memtype: "read_memtype",
    XENPF_microcode_update: "microcode",
    XENPF_platform_quirk: "platform_quirk",
    XENPF_efi_runtime_call: "efi_runtime_call",
    XENPF_firmware_info: "firmware_info",
    XENPF_enter_acpi_sleep: "enter_acpi_sleep",
    XENPF_change_freq: "change_freq",
    XENPF_getidletime: "getidletime",
    XENPF_set_processor_pminfo: "set_pminfo",
    XENPF_get_cpuinfo: "pcpu_info",
    XENPF_get_cpu_version: "pcpu_version",
    XENPF_cpu_online: "cpu_ol",
    XENPF_cpu_offline: "cpu_ol",
    XENPF_cpu_hotadd: "cpu_add",
    XENPF_mem_hotadd: "mem_add",
    XENPF_core_parking: "core_parking",
    XENPF_resource_op: "resource_op",
    XENPF_get_symbol: "symdata",
}

_FIRMWARE = {
    XEN_FW_DISK_INFO: "disk_info",
    XEN_FW_DISK_MBR_SIGNATURE: "disk_mbr_signature",
    XEN_FW_VBEDDC_INFO: "vbeddc_info",
    XEN_FW_EFI_INFO: "efi_info",
    XEN_FW_KBD_SHIFT_FLAGS: "kbd_shift_flags",
}


class xenpf_settime32(Struct):
    """Set wall-clock time, 32-bit seconds."""

    secs: u32
    nsecs: u32
    system_time: u64


class xenpf_settime64(Struct):
    """Set wall-clock time: seconds and ns at system_time."""

    secs: u64
    nsecs: u32
    mbz: u32
    system_time: u64


class xenpf_add_memtype(Struct):
    """Set the caching type of a range. OUT: handle, reg."""

    mfn: xen_pfn_t
    nr_mfns: x64
    type: u32
    handle: u32
    reg: u32


class xenpf_del_memtype(Struct):
    """Undo it."""

    handle: u32
    reg: u32


class xenpf_read_memtype(Struct):
    """OUT: range and type of an MTRR."""

    reg: u32
    mfn: xen_pfn_t
    nr_mfns: x64
    type: u32


class xenpf_microcode_update(Struct):
    """Load microcode."""

    data: handle
    length: u32


class xenpf_platform_quirk(Struct):
    """A fault of the chip set."""

    quirk_id: u32


class xenpf_efi_time(Struct):
    """EFI_TIME."""

    year: u16
    month: u8
    day: u8
    hour: u8
    min: u8
    sec: u8
    ns: u32
    tz: i16
    daylight: u8


class xenpf_efi_guid(Struct):
    """EFI_GUID."""

    data1: u32
    data2: u16
    data3: u16
    data4: Annotated[bytes, octets(8)]


class _xenpf_efi_runtime_call_u_get_time(Struct):
    time: xenpf_efi_time
    resolution: u32
    accuracy: u32


class _xenpf_efi_runtime_call_u_get_variable(Struct):
    name: handle
    size: ulong
    data: handle
    vendor_guid: xenpf_efi_guid


class _xenpf_efi_runtime_call_u_set_variable(Struct):
    name: handle
    size: ulong
    data: handle
    vendor_guid: xenpf_efi_guid


class _xenpf_efi_runtime_call_u_get_next_variable_name(Struct):
    size: ulong
    name: handle
    vendor_guid: xenpf_efi_guid


class _xenpf_efi_runtime_call_u_query_variable_info(Struct):
    attr: u32
    max_store_size: u64
    remain_store_size: u64
    max_size: u64


class _xenpf_efi_runtime_call_u_query_capsule_capabilities(Struct):
    capsule_header_array: handle
    capsule_count: xulong
    max_capsule_size: u64
    reset_type: u32


class _xenpf_efi_runtime_call_u_update_capsule(Struct):
    capsule_header_array: handle
    capsule_count: xulong
    sg_list: u64


class _xenpf_efi_runtime_call_u(Union):
    get_time: _xenpf_efi_runtime_call_u_get_time
    set_time: xenpf_efi_time
    get_wakeup_time: xenpf_efi_time
    set_wakeup_time: xenpf_efi_time
    get_variable: _xenpf_efi_runtime_call_u_get_variable
    set_variable: _xenpf_efi_runtime_call_u_set_variable
    get_next_variable_name: _xenpf_efi_runtime_call_u_get_next_variable_name
    query_variable_info: _xenpf_efi_runtime_call_u_query_variable_info
    query_capsule_capabilities: _xenpf_efi_runtime_call_u_query_capsule_capabilities
    update_capsule: _xenpf_efi_runtime_call_u_update_capsule


class xenpf_efi_runtime_call(Struct):
    """Call the EFI firmware."""

    function: u32
    misc: u32
    status: ulong
    u: _xenpf_efi_runtime_call_u


class _xenpf_firmware_info_u_disk_info(Struct):
    device: u8
    version: u8
    interface_support: u16
    legacy_max_cylinder: u16
    legacy_max_head: u8
    legacy_sectors_per_track: u8
    edd_params: handle


class _xenpf_firmware_info_u_disk_mbr_signature(Struct):
    device: u8
    mbr_signature: u32


class _xenpf_firmware_info_u_vbeddc_info(Struct):
    capabilities: x8
    edid_transfer_time: u8
    edid: handle


class _xenpf_efi_info_cfg(Struct):
    addr: x64
    nent: u32


class _xenpf_efi_info_vendor(Struct):
    revision: u32
    bufsz: u32
    name: handle


class _xenpf_efi_info_mem(Struct):
    addr: x64
    size: u64
    attr: u64
    type: u32


class _xenpf_efi_info_pci_rom(Struct):
    segment: u16
    bus: u8
    devfn: u8
    vendor: u16
    devid: u16
    address: x64
    size: ulong


class _xenpf_efi_info_apple_properties(Struct):
    address: x64
    size: ulong


class xenpf_efi_info(Union):
    """OUT: what EFI knows."""

    version: u32
    cfg: _xenpf_efi_info_cfg
    vendor: _xenpf_efi_info_vendor
    mem: _xenpf_efi_info_mem
    pci_rom: _xenpf_efi_info_pci_rom
    apple_properties: _xenpf_efi_info_apple_properties


class _xenpf_firmware_info_u(Union):
    disk_info: _xenpf_firmware_info_u_disk_info
    disk_mbr_signature: _xenpf_firmware_info_u_disk_mbr_signature
    vbeddc_info: _xenpf_firmware_info_u_vbeddc_info
    efi_info: xenpf_efi_info
    kbd_shift_flags: x8


class xenpf_firmware_info(Struct):
    """Ask for what the firmware knows."""

    _selects_ = selects(u=("type", _FIRMWARE))

    type: u32
    index: u32
    u: _xenpf_firmware_info_u


class xenpf_enter_acpi_sleep(Struct):
    """Enter a sleep state."""

    val_a: u16
    val_b: u16
    sleep_state: u32
    flags: x32


class xenpf_change_freq(Struct):
    """Set a CPU's frequency."""

    flags: x32
    cpu: u32
    freq: u64


class xenpf_getidletime(Struct):
    """OUT: idle time of CPUs (ns)."""

    cpumap_bitmap: handle
    cpumap_nr_cpus: u32
    idletime: handle
    now: u64


class xen_power_register(Struct):
    """A generic address."""

    space_id: u32
    bit_width: u32
    bit_offset: u32
    access_size: u32
    address: x64


class xen_processor_csd(Struct):
    """Dependency of idle states."""

    domain: u32
    coord_type: u32
    num: u32


class xen_processor_cx(Struct):
    """An idle state."""

    reg: xen_power_register
    type: u8
    latency: u32
    power: u32
    dpcnt: u32
    dp: handle


class xen_processor_flags(Struct):
    """Flags of idle states."""

    bm_control: Annotated[int, bitfield(u32, 1)]
    bm_check: Annotated[int, bitfield(u32, 1)]
    has_cst: Annotated[int, bitfield(u32, 1)]
    power_setup_done: Annotated[int, bitfield(u32, 1)]
    bm_rld_set: Annotated[int, bitfield(u32, 1)]


class xen_processor_power(Struct):
    """Idle states of a CPU."""

    count: u32
    flags: xen_processor_flags
    states: handle


class xen_pct_register(Struct):
    """A performance control register."""

    descriptor: u8
    length: u16
    space_id: u8
    bit_width: u8
    bit_offset: u8
    reserved: u8
    address: x64


class xen_processor_px(Struct):
    """A performance state."""

    core_frequency: u64
    power: u64
    transition_latency: u64
    bus_master_latency: u64
    control: u64
    status: u64


class xen_psd_package(Struct):
    """Dependency of performance states."""

    num_entries: u64
    revision: u64
    domain: u64
    coord_type: u64
    num_processors: u64


class xen_processor_performance(Struct):
    """Performance states of a CPU."""

    flags: x32
    platform_limit: u32
    control_register: xen_pct_register
    status_register: xen_pct_register
    state_count: u32
    states: handle
    domain_info: xen_psd_package
    shared_type: u32


class _xenpf_set_processor_pminfo_u(Union):
    power: xen_processor_power
    perf: xen_processor_performance
    pdc: handle


class xenpf_set_processor_pminfo(Struct):
    """ACPI power data of a CPU."""

    id: u32
    type: u32
    u: _xenpf_set_processor_pminfo_u


class xenpf_pcpuinfo(Struct):
    """OUT: state of a physical CPU."""

    xen_cpuid: u32
    max_present: u32
    flags: x32
    apic_id: u32
    acpi_id: u32


class xenpf_pcpu_version(Struct):
    """OUT: version of a physical CPU."""

    xen_cpuid: u32
    max_present: u32
    vendor_id: Annotated[bytes, chars(12)]
    family: u32
    model: u32
    stepping: u32


class xenpf_cpu_ol(Struct):
    """Bring a physical CPU up or down."""

    cpuid: u32


class xenpf_cpu_hotadd(Struct):
    """A physical CPU came."""

    apic_id: u32
    acpi_id: u32
    pxm: u32


class xenpf_mem_hotadd(Struct):
    """Memory came."""

    spfn: x64
    epfn: x64
    pxm: u32
    flags: x32


class xenpf_core_parking(Struct):
    """Park physical CPUs."""

    type: u32
    idle_nums: u32


class _xenpf_resource_entry_u(Union):
    cmd: u32
    ret: i32


class xenpf_resource_entry(Struct):
    """One access to a resource."""

    u: _xenpf_resource_entry_u
    rsvd: u32
    idx: x64
    val: u64


class xenpf_resource_op(Struct):
    """Access resources of a CPU."""

    nr_entries: u32
    cpu: u32
    entries: handle


class xenpf_symdata(Struct):
    """OUT: a symbol of Xen."""

    namelen: u32
    symnum: u32
    name: handle
    address: x64
    type: i8


class _xen_platform_op_u(Union):
    settime: xenpf_settime64
    settime32: xenpf_settime32
    settime64: xenpf_settime64
    add_memtype: xenpf_add_memtype
    del_memtype: xenpf_del_memtype
    read_memtype: xenpf_read_memtype
    microcode: xenpf_microcode_update
    platform_quirk: xenpf_platform_quirk
    efi_runtime_call: xenpf_efi_runtime_call
    firmware_info: xenpf_firmware_info
    enter_acpi_sleep: xenpf_enter_acpi_sleep
    change_freq: xenpf_change_freq
    getidletime: xenpf_getidletime
    set_pminfo: xenpf_set_processor_pminfo
    pcpu_info: xenpf_pcpuinfo
    pcpu_version: xenpf_pcpu_version
    cpu_ol: xenpf_cpu_ol
    cpu_add: xenpf_cpu_hotadd
    mem_add: xenpf_mem_hotadd
    core_parking: xenpf_core_parking
    resource_op: xenpf_resource_op
    symdata: xenpf_symdata
    pad: Annotated[bytes, octets(128)]


class xen_platform_op(Struct):
    """HYPERVISOR_platform_op."""

    _selects_ = selects(u=("cmd", _MEMBERS))

    cmd: u32
    interface_version: u32
    u: _xen_platform_op_u
