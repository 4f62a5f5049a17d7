/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How hypercalls are made, by whom, and the small ones: xen_version, console_io, multicall,
 * vm_assist, hvm_op, sched_op, bad pointers and unknown numbers.
 */
#include "test.h"
#include "xen.h"

#define DEFINE_DIRECT_CALL(name, insn)                                                            \
    static long name(u32 number, ulong a1, ulong a2)                                              \
    {                                                                                             \
        long result = number;                                                                     \
        asm volatile(MAY_TRAP(insn)                                                               \
                     : "+a"(result), FIRST(a1), SECOND(a2)                                        \
                     :                                                                            \
                     : "memory", "cc");                                                           \
        return result;                                                                            \
    }
#if BITS == 64
#define FIRST(v) "+D"(v)
#define SECOND(v) "+S"(v)
#else
#define FIRST(v) "+b"(v)
#define SECOND(v) "+c"(v)
#endif
DEFINE_DIRECT_CALL(by_vmcall, "vmcall")
DEFINE_DIRECT_CALL(by_vmmcall, "vmmcall")

static bool intel(void)
{
    return cpuid(0, 0).b == 0x756e6547;
}

TEST(hypercall_page_calls)
{
    long version = version_op(XENVER_version, NULL);

    CHECK_EQUAL(version >> 16, 4);
    CHECK_EQUAL(version >> 16, xen.major);
    CHECK_EQUAL(version & 0xffff, xen.minor);
}

/* The page holds a stub per number: iret's is special, the others end in a return. */
TEST(hypercall_page_can_move)
{
    u8 *second = alloc_page();

    wrmsr(xen.hypercall_msr, (ulong)second);
    CHECK_EQUAL(memcmp(second, hypercall_page, 4096), 0);
    CHECK_EQUAL(second[32 * HYPERVISOR_xen_version], 0xb8); /* mov $number, %eax */
    CHECK_EQUAL(*(u32 *)(second + 32 * HYPERVISOR_xen_version + 1), HYPERVISOR_xen_version);
}

TEST(hypercall_page_number_beyond_the_last)
{
    try_wrmsr(xen.hypercall_msr, (ulong)alloc_page() | 5);
    CHECK_TRAP(VEC_GP, 0);
}

/* Unmodified kernels use either instruction, by the maker that CPUID names. */
TEST(direct_instruction)
{
    long result = intel() ? by_vmcall(HYPERVISOR_xen_version, XENVER_version, 0)
                          : by_vmmcall(HYPERVISOR_xen_version, XENVER_version, 0);

    CHECK_NO_TRAP();
    CHECK_EQUAL(result, version_op(XENVER_version, NULL));
}

TEST(unknown_numbers)
{
    static const u32 numbers[] = { 0, 1, 9, 11, 31, 37, 43, 47, 55, 63, 100 };

    for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++) {
        long result = numbers[i] < 64 ? hypercall(numbers[i], 0, 0, 0, 0, 0)
                      : intel()       ? by_vmcall(numbers[i], 0, 0)
                                      : by_vmmcall(numbers[i], 0, 0);

        if (result != -ENOSYS)
            FAIL("hypercall %u gave %ld", numbers[i], result);
    }
    CHECK_RESULT(by_vmcall(0xffffffff, 0, 0), -ENOSYS);
}

/* PV's own hypercalls don't exist for a guest with hardware paging. */
TEST(pv_hypercalls_are_absent)
{
    static const u32 numbers[] = { 0, 1, 2, 3, 4, 5, 8, 9, 10, 14, 22, 25, 28, 30 };

    for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++)
        CHECK_RESULT(hypercall(numbers[i], 0, 0, 0, 0, 0), -ENOSYS);
    /* iret's place in the hypercall page holds an invalid instruction. */
    CHECK_EQUAL(*(u16 *)(hypercall_page + 32 * 23), 0x0b0f);
}

#if BITS == 64
#define USER_HYPERCALL "mov $17, %eax; xor %edi, %edi; xor %esi, %esi; vmcall"
#else
#define USER_HYPERCALL "mov $17, %eax; xor %ebx, %ebx; xor %ecx, %ecx; vmcall"
#endif
asm(".pushsection .user, \"ax\"\nuser_hypercall: " USER_HYPERCALL "\nint $0x80\n.popsection");
extern const u8 user_hypercall[];

TEST(ring_3_is_refused)
{
    CHECK_RESULT(run_user(user_hypercall, 0, 0), -EPERM);
    CHECK_NO_TRAP();
}

/* ---- xen_version ---- */

TEST(extraversion)
{
    char text[17];

    memset(text, 'x', sizeof(text));
    CHECK_RESULT(version_op(XENVER_extraversion, text), 0);
    CHECK_EQUAL(text[0], '.');
    CHECK_EQUAL(text[15], 0);
    CHECK_EQUAL(text[16], 'x');
}

TEST(capabilities_name_this_guest)
{
    static char text[1025];
    const char *wanted = BITS == 64 ? "hvm-3.0-x86_64" : "hvm-3.0-x86_32p";

    memset(text, 'x', sizeof(text));
    CHECK_RESULT(version_op(XENVER_capabilities, text), 0);
    CHECK_EQUAL(text[1024], 'x');
    for (const char *p = text; *p; p++)
        if (!strncmp(p, wanted, strlen(wanted)))
            return;
    FAIL("%s lacks %s", text, wanted);
}

TEST(features)
{
    struct xen_feature_info info = { 0, 0xffffffff };

    CHECK_RESULT(version_op(XENVER_get_features, &info), 0);
    CHECK(info.submap >> XENFEAT_auto_translated_physmap & 1);
    CHECK(info.submap >> XENFEAT_hvm_callback_vector & 1);
    CHECK(info.submap >> XENFEAT_hvm_safe_pvclock & 1);
    CHECK(!(info.submap >> XENFEAT_dom0 & 1));
    CHECK(!(info.submap >> XENFEAT_hvm_pirqs & 1));
    info.submap_idx = 1;
    CHECK_RESULT(version_op(XENVER_get_features, &info), -EINVAL);
}

TEST(page_size_and_unknown_commands)
{
    CHECK_RESULT(version_op(XENVER_pagesize, NULL), 4096);
    CHECK_RESULT(version_op(99, NULL), -ENOSYS);
}

TEST(domain_handle)
{
    u8 handle[17];

    memset(handle, 0x77, sizeof(handle));
    CHECK_RESULT(version_op(XENVER_guest_handle, handle), 0);
    CHECK_EQUAL(handle[16], 0x77);
}

/* ---- bad pointers ---- */

#define NOWHERE 0xd0000000ul

TEST(bad_pointers)
{
    CHECK_RESULT(version_op(XENVER_extraversion, (void *)NOWHERE), -EFAULT);
    CHECK_RESULT(version_op(XENVER_get_features, (void *)NOWHERE), -EFAULT);
    CHECK_RESULT(event_op(EVTCHNOP_send, (void *)NOWHERE), -EFAULT);
    CHECK_RESULT(memory_op(XENMEM_add_to_physmap, (void *)NOWHERE), -EFAULT);
    CHECK_RESULT(sched_op(SCHEDOP_poll, (void *)NOWHERE), -EFAULT);
    CHECK_RESULT(hvm_op(HVMOP_get_param, (void *)NOWHERE), -EFAULT);
    CHECK_RESULT(vcpu_op(VCPUOP_set_singleshot_timer, 0, (void *)NOWHERE), -EFAULT);
}

#if PAGING_LEVELS
TEST(unmapped_pointers)
{
    map_page(WINDOW_BASE, 0, 0);
    CHECK_RESULT(event_op(EVTCHNOP_send, (void *)WINDOW_BASE), -EFAULT);
    CHECK_RESULT(version_op(XENVER_extraversion, (void *)WINDOW_BASE), -EFAULT);
    CHECK_NO_TRAP();
}

TEST(read_only_result)
{
    map_page(WINDOW_BASE, (ulong)alloc_page(), PTE_P);
    CHECK_RESULT(version_op(XENVER_extraversion, (void *)WINDOW_BASE), -EFAULT);
    CHECK_NO_TRAP();
}

TEST(structure_across_pages)
{
    u8 *a = alloc_page(), *b = alloc_page();
    struct xen_feature_info *info = (void *)(WINDOW_BASE + 4096ul - 4);

    map_page(WINDOW_BASE, (ulong)b, PTE_P | PTE_W); /* not neighbours in physical memory */
    map_page(WINDOW_BASE + 4096, (ulong)a, PTE_P | PTE_W);
    info->submap_idx = 0;
    CHECK_RESULT(version_op(XENVER_get_features, info), 0);
    CHECK(info->submap);
    map_page(WINDOW_BASE + 4096, 0, 0);
    CHECK_RESULT(version_op(XENVER_get_features, info), -EFAULT);
}
#endif

#if BITS == 64
TEST(non_canonical_pointers)
{
    CHECK_RESULT(version_op(XENVER_extraversion, (void *)0x8000000000000000ul), -EFAULT);
    CHECK_RESULT(event_op(EVTCHNOP_send, (void *)~0ul), -EFAULT);
}
#endif

/* ---- console_io ---- */

TEST(console_io_read_is_for_dom0)
{
    char text[4];
    long result = console_io(CONSOLEIO_read, 4, text);

    if (result != -EPERM && result != -ENOSYS)
        FAIL("%ld", result);
}

/* ---- multicall ---- */

TEST(multicall)
{
    static struct multicall_entry calls[3];
    struct xen_feature_info info = { 0, 0 };

    calls[0] = (struct multicall_entry){ .op = HYPERVISOR_xen_version, .args = { XENVER_version } };
    calls[1] = (struct multicall_entry){ .op = HYPERVISOR_xen_version,
                                         .args = { XENVER_get_features, (ulong)&info } };
    calls[2] = (struct multicall_entry){ .op = HYPERVISOR_xen_version, .args = { 99 } };
    CHECK_RESULT(hypercall(HYPERVISOR_multicall, (ulong)calls, 3, 0, 0, 0), 0);
    CHECK_EQUAL(calls[0].result >> 16, 4);
    CHECK_EQUAL(calls[1].result, 0);
    CHECK(info.submap);
    CHECK_RESULT(calls[2].result, -ENOSYS);
}

TEST(multicall_in_a_multicall)
{
    static struct multicall_entry outer, inner;

    inner = (struct multicall_entry){ .op = HYPERVISOR_xen_version };
    outer = (struct multicall_entry){ .op = HYPERVISOR_multicall, .args = { (ulong)&inner, 1 } };
    CHECK_RESULT(hypercall(HYPERVISOR_multicall, (ulong)&outer, 1, 0, 0, 0), 0);
    CHECK_RESULT(outer.result, -EINVAL);
}

TEST(multicall_bad_list)
{
    CHECK_RESULT(hypercall(HYPERVISOR_multicall, NOWHERE, 1, 0, 0, 0), -EFAULT);
    CHECK_RESULT(hypercall(HYPERVISOR_multicall, NOWHERE, 0, 0, 0, 0), 0);
}

/* ---- vm_assist ---- */

TEST(vm_assist)
{
    CHECK_RESULT(hypercall2(HYPERVISOR_vm_assist, VMASST_CMD_enable,
                            (void *)(ulong)VMASST_TYPE_runstate_update_flag), 0);
    CHECK_RESULT(hypercall2(HYPERVISOR_vm_assist, VMASST_CMD_disable,
                            (void *)(ulong)VMASST_TYPE_runstate_update_flag), 0);
    CHECK_RESULT(hypercall2(HYPERVISOR_vm_assist, VMASST_CMD_enable, (void *)100), -EINVAL);
    CHECK_RESULT(hypercall2(HYPERVISOR_vm_assist, 7,
                            (void *)(ulong)VMASST_TYPE_runstate_update_flag), -ENOSYS);
}

/* ---- hvm_op ---- */

TEST(hvm_params)
{
    u64 value;

    CHECK_RESULT(hvm_get_param(HVM_PARAM_CONSOLE_PFN, &value), 0);
    CHECK_EQUAL(value, (ulong)xen.console >> PAGE_SHIFT);
    CHECK_RESULT(hvm_get_param(HVM_PARAM_STORE_EVTCHN, &value), 0);
    CHECK_RESULT(hvm_get_param(1000, &value), -EINVAL);
    CHECK_RESULT(hvm_set_param(HVM_PARAM_CONSOLE_PFN, 1), -EPERM);
    CHECK_RESULT(hvm_set_param(1000, 1), -EINVAL);
}

TEST(hvm_params_of_others)
{
    struct xen_hvm_param p = { .domid = 77, .index = HVM_PARAM_STORE_PFN };
    long result = hvm_op(HVMOP_get_param, &p);

    if (result != -ESRCH && result != -EPERM)
        FAIL("%ld", result);
}

TEST(hvm_mem_type)
{
    struct xen_hvm_get_mem_type t = { .domid = DOMID_SELF, .pfn = (ulong)image_start >> PAGE_SHIFT };

    CHECK_RESULT(hvm_op(HVMOP_get_mem_type, &t), 0);
    CHECK_EQUAL(t.mem_type, 0); /* HVMMEM_ram_rw */
}

TEST(hvm_flush_tlbs)
{
    CHECK_RESULT(hvm_op(HVMOP_flush_tlbs, NULL), 0);
    CHECK_RESULT(hvm_op(HVMOP_flush_tlbs, (void *)0x1000), -EINVAL);
    CHECK_RESULT(hvm_op(99, NULL), -ENOSYS);
}

TEST(upcall_vector_below_16_is_refused)
{
    struct xen_hvm_evtchn_upcall_vector v = { 0, 0x0f };

    CHECK_RESULT(hvm_op(HVMOP_set_evtchn_upcall_vector, &v), -EINVAL);
    v.vcpu = 5000;
    v.vector = 0x40;
    CHECK_RESULT(hvm_op(HVMOP_set_evtchn_upcall_vector, &v), -ENOENT);
}

/* ---- sched_op, and what a guest has no right to ---- */

TEST(sched_op_small_ones)
{
    CHECK_RESULT(sched_op(SCHEDOP_yield, NULL), 0);
    CHECK_RESULT(sched_op(99, NULL), -ENOSYS);
    CHECK_RESULT(sched_op(SCHEDOP_shutdown, (void *)NOWHERE), -EFAULT);
}

TEST(watchdog_identifiers)
{
    struct sched_watchdog w = { 0, 60 };
    long id = sched_op(SCHEDOP_watchdog, &w);

    CHECK(id == 1 || id == 2);
    w.id = (u32)id;
    w.timeout = 0;
    CHECK_RESULT(sched_op(SCHEDOP_watchdog, &w), 0);
    w.id = 50;
    w.timeout = 1;
    CHECK_RESULT(sched_op(SCHEDOP_watchdog, &w), -EINVAL);
}

TEST(control_operations_are_refused)
{
    static u64 buffer[32];
    long result;

    memset(buffer, 0, sizeof(buffer));
    result = hypercall(HYPERVISOR_domctl, (ulong)buffer, 0, 0, 0, 0);
    if (result != -EACCES && result != -EPERM && result != -ENOSYS && result != -EINVAL)
        FAIL("domctl gave %ld", result);
    result = hypercall(HYPERVISOR_sysctl, (ulong)buffer, 0, 0, 0, 0);
    if (result != -EACCES && result != -EPERM && result != -ENOSYS && result != -EINVAL)
        FAIL("sysctl gave %ld", result);
}

TEST(physdev_op_of_a_pvh_guest)
{
    static const u32 commands[] = { 12, 13, 14, 15, 16, 17, 20, 23, 24, 25, 26 };

    for (unsigned i = 0; i < ARRAY_SIZE(commands); i++)
        CHECK_RESULT(hypercall2(HYPERVISOR_physdev_op, commands[i], NULL), -ENOSYS);
}
