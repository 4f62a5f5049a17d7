/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The guest that the package carries: shows what a PVH guest finds in its world, ticks a timer,
 * then serves a small prompt on the Xen console.
 *
 * Command line: `noprompt` powers off after the tour; `console_io` prints by hypercall.
 */
#include "xen.h"

static volatile u32 ticks;

static const char *const map_types[] = { "?",   "RAM",      "reserved", "ACPI data",
                                         "NVS", "unusable", "disabled", "persistent" };

static const char *const feature_names[] = {
    "writable_page_tables", "writable_descriptor_tables", "auto_translated_physmap",
    "supervisor_mode_kernel", "pae_pgdir_above_4gb", "mmu_pt_update_preserve_ad",
    "highmem_assist", "gnttab_map_avail_bits", "hvm_callback_vector", "hvm_safe_pvclock",
    "hvm_pirqs", "dom0", "grant_map_identity", "memory_op_vnode_supported",
    "ARM_SMCCC_supported", "linux_rsdp_unrestricted",
};

static void print_time(const char *label, u64 ns)
{
    u32 rest;
    u64 seconds = div64(ns, 1000000000, &rest);

    print("%s%llu.%06u s", label, seconds, rest / 1000);
}

static void show_start_info(void)
{
    print("start_info    at 0x%x: version %u, %u module(s), RSDP at 0x%llx\n", start_info_paddr,
          start_info->version, start_info->nr_modules, start_info->rsdp_paddr);
    print("command line  \"%s\"\n", cmdline);
}

static void show_memory(void)
{
    const struct memory_map_entry *map = (const void *)(ulong)start_info->memmap_paddr;
    u64 ram = 0;

    print("memory map\n");
    for (u32 i = 0; i < start_info->memmap_entries; i++) {
        print("  %012llx - %012llx  %s\n", map[i].addr, map[i].addr + map[i].size - 1,
              map_types[map[i].type < ARRAY_SIZE(map_types) ? map[i].type : 0]);
        if (map[i].type == 1)
            ram += map[i].size;
    }
    print("  %llu KiB of RAM; ", ram >> 10);
    if (xen.present) {
        u16 self = DOMID_SELF;

        print("%ld pages now, %ld at most", memory_op(XENMEM_current_reservation, &self),
              memory_op(XENMEM_maximum_reservation, &self));
    }
    print("\n");
}

static void show_cpu(void)
{
    struct cpuid r = cpuid(0, 0);
    char vendor[13], brand[49];

    memcpy(vendor, &r.b, 4);
    memcpy(vendor + 4, &r.d, 4);
    memcpy(vendor + 8, &r.c, 4);
    vendor[12] = 0;
    for (u32 i = 0; i < 3; i++) {
        struct cpuid b = cpuid(0x80000002 + i, 0);

        memcpy(brand + 16 * i, &b, 16);
    }
    brand[48] = 0;
    r = cpuid(1, 0);
    print("processor     %s, family %u model %u stepping %u, APIC id %u\n", vendor,
          (r.a >> 8 & 15) + ((r.a >> 8 & 15) == 15 ? r.a >> 20 & 255 : 0),
          (r.a >> 4 & 15) | (r.a >> 12 & 0xf0), r.a & 15, r.b >> 24);
    print("              %s\n", brand);
    print("              long mode %s, NX %s, 1 GiB pages %s, x2APIC %s\n",
          cpuid(0x80000001, 0).d >> 29 & 1 ? "yes" : "no",
          cpuid(0x80000001, 0).d >> 20 & 1 ? "yes" : "no",
          cpuid(0x80000001, 0).d >> 26 & 1 ? "yes" : "no", r.c >> 21 & 1 ? "yes" : "no");
}

static void show_xen(void)
{
    char extra[17] = "", capabilities[1025] = "";
    struct xen_feature_info features = { 0, 0 };
    struct cpuid r;

    version_op(XENVER_extraversion, extra);
    version_op(XENVER_capabilities, capabilities);
    version_op(XENVER_get_features, &features);
    print("hypervisor    Xen %u.%u%s, CPUID leaves at %x\n", xen.major, xen.minor, extra,
          xen.cpuid_base);
    print("capabilities  %s\n", capabilities);
    r = cpuid(xen.cpuid_base + 4, 0);
    if (r.a >> 4 & 1)
        print("domain        %u\n", r.c);
    if (r.a >> 3 & 1)
        print("vcpu          %u\n", r.b);
    r = cpuid(xen.cpuid_base + 3, 0);
    print("TSC           %u kHz, mode %u\n", r.c, r.b);
    print("features     ");
    for (u32 i = 0; i < ARRAY_SIZE(feature_names); i++)
        if (features.submap >> i & 1)
            print(" %s", feature_names[i]);
    print("\nconsole       page %lx, event channel %u\n", (ulong)xen.console >> PAGE_SHIFT,
          xen.console_port);
}

static void tick(u32 port)
{
    (void)port;
    ticks++;
}

static void show_ticks(u32 count)
{
    print("timer        ");
    for (u32 i = 0; i < count; i++) {
        u32 before = ticks;
        u64 asked = system_time() + 100000000;

        set_singleshot_timer(asked, 0);
        cli();
        while (ticks == before) {
            sti_hlt();
            cli();
        }
        sti();
        print_time(" tick at ", system_time());
    }
    print("\n");
}

static void woken(u32 port)
{
    (void)port;
}

static int wait_for_key(void)
{
    int c;

    cli();
    while ((c = console_read()) < 0) {
        sti_hlt();
        cli();
    }
    sti();
    return c;
}

static void read_line(char *line, size_t size)
{
    size_t n = 0;

    for (;;) {
        int c = wait_for_key();

        if (c == '\r' || c == '\n')
            break;
        if (c == 4 && !n) { /* Ctrl-D: the end of what is typed */
            memcpy(line, "halt", 5);
            print("\n");
            return;
        }
        if ((c == 8 || c == 127) && n) {
            n--;
            print("\b \b");
        } else if (c >= ' ' && c < 127 && n + 1 < size) {
            line[n++] = (char)c;
            print("%c", c);
        }
    }
    line[n] = 0;
    print("\n");
}

static void show_now(void)
{
    u32 seconds = shared_info.wc_sec;

    print_time("up ", system_time());
    print(", booted at %u s after the epoch, %u upcalls\n", seconds, upcalls[0]);
}

static void help(void)
{
    print("  help    this list\n"
          "  info    what was shown at the start\n"
          "  time    system time and wall clock\n"
          "  mem     the memory map\n"
          "  cpu     the processor\n"
          "  halt    power off\n"
          "  reboot  restart\n"
          "  crash   tell Xen that this guest has crashed\n");
}

static void tour(void)
{
    show_start_info();
    show_memory();
    show_cpu();
    show_xen();
}

static void prompt(void)
{
    char line[80];

    for (;;) {
        print("xenograft> ");
        read_line(line, sizeof(line));
        if (!strcmp(line, "help"))
            help();
        else if (!strcmp(line, "info"))
            tour();
        else if (!strcmp(line, "time"))
            show_now();
        else if (!strcmp(line, "mem"))
            show_memory();
        else if (!strcmp(line, "cpu"))
            show_cpu();
        else if (!strcmp(line, "halt") || !strcmp(line, "exit"))
            return;
        else if (!strcmp(line, "reboot"))
            xen_shutdown(SHUTDOWN_reboot);
        else if (!strcmp(line, "crash"))
            xen_shutdown(SHUTDOWN_crash);
        else if (line[0])
            print("unknown command \"%s\": try help\n", line);
    }
}

void guest_main(void)
{
    u32 timer = 0;

    print("\nXenograft's own guest: a PVH kernel of a few kilobytes\n\n");
    if (!xen.present) {
        show_start_info();
        show_memory();
        show_cpu();
        print("There is no Xen under this guest.\n");
        return;
    }
    tour();
    events_init();
    if (bind_virq(VIRQ_TIMER, 0, &timer))
        panic("VIRQ_TIMER could not be bound");
    on_event(timer, tick);
    unmask_event(timer);
    if (xen.console) {
        on_event(xen.console_port, woken);
        unmask_event(xen.console_port);
    }
    sti();
    show_ticks(3);
    if (xen.console && !option("noprompt", NULL, 0)) {
        print("\nType help for the commands, halt to power off.\n");
        prompt();
    }
    print("Powering off.\n");
    xen_shutdown(SHUTDOWN_poweroff);
}
