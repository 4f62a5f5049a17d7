/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What HVM-type guests do to find Xen: CPUID, the hypercall page, parameters, shared info. */
#include "xen.h"

long hvm_get_param(u32 index, u64 *value)
{
    struct xen_hvm_param p = { .domid = DOMID_SELF, .index = index };
    long rc = hvm_op(HVMOP_get_param, &p);

    *value = p.value;
    return rc;
}

long hvm_set_param(u32 index, u64 value)
{
    struct xen_hvm_param p = { .domid = DOMID_SELF, .index = index, .value = value };

    return hvm_op(HVMOP_set_param, &p);
}

long add_to_physmap(u32 space, ulong idx, ulong gpfn)
{
    struct xen_add_to_physmap a = { DOMID_SELF, 0, space, idx, gpfn };

    return memory_op(XENMEM_add_to_physmap, &a);
}

static void find_xen(void)
{
    for (u32 base = 0x40000000; base < 0x40010000; base += 0x100) {
        struct cpuid r = cpuid(base, 0);

        if (r.b == 0x566e6558 && r.c == 0x65584d4d && r.d == 0x4d4d566e && r.a >= base + 2) {
            xen.present = true;
            xen.cpuid_base = base;
            r = cpuid(base + 1, 0);
            xen.major = r.a >> 16;
            xen.minor = r.a & 0xffff;
            xen.hypercall_msr = cpuid(base + 2, 0).b;
            return;
        }
    }
}

void xen_init(void)
{
    u64 value;

    find_xen();
    if (!xen.present)
        return;
    wrmsr(xen.hypercall_msr, (ulong)hypercall_page);
    print_sink = console_io_sink;
    if (add_to_physmap(XENMAPSPACE_shared_info, 0, (ulong)&shared_info >> PAGE_SHIFT))
        panic("shared info could not be mapped");
    for (unsigned i = 0; i < MAX_CPUS; i++)
        vcpu_infos[i] = &shared_info.vcpu_info[i];
    for (unsigned i = 0; i < ARRAY_SIZE(shared_info.evtchn_mask); i++)
        shared_info.evtchn_mask[i] = ~0ul;
    if (!hvm_get_param(HVM_PARAM_STORE_EVTCHN, &value))
        xen.store_port = (u32)value;
    if (!hvm_get_param(HVM_PARAM_CONSOLE_EVTCHN, &value) && value) {
        xen.console_port = (u32)value;
        if (!hvm_get_param(HVM_PARAM_CONSOLE_PFN, &value) && value) {
            xen.console = (struct xencons_interface *)(ulong)(value << PAGE_SHIFT);
            if (!option("console_io", NULL, 0))
                print_sink = console_write;
        }
    }
}

void events_init(void)
{
    set_vector(VEC_UPCALL, handle_events);
    if (hvm_set_param(HVM_PARAM_CALLBACK_IRQ, CALLBACK_VIA_VECTOR | VEC_UPCALL))
        panic("the event upcall vector was refused");
}
