/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Event channels with the 2-level ABI, upcalls, VIRQs and timers on one vCPU
 * (public/event_channel.h).
 */
#include "apic.h"
#include "test.h"
#include "xen.h"

static volatile u32 seen[4096], seen_order[64], seen_total;

static void see(u32 port)
{
    seen[port]++;
    if (seen_total < ARRAY_SIZE(seen_order))
        seen_order[seen_total] = port;
    seen_total++;
}

static bool ready;

static void start(void)
{
    if (!ready)
        events_init();
    ready = true;
    cli();
    memset((void *)seen, 0, sizeof(seen));
    seen_total = 0;
}

static void open_window(void)
{
    asm volatile("sti; nop; nop; nop; cli" ::: "memory");
}

static long status_of(u32 port, struct evtchn_status *s)
{
    memset(s, 0, sizeof(*s));
    s->dom = DOMID_SELF;
    s->port = port;
    return event_op(EVTCHNOP_status, s);
}

static long close_port(u32 port)
{
    struct evtchn_port p = { port };

    return event_op(EVTCHNOP_close, &p);
}

static long alloc_unbound(u32 remote, u32 *port)
{
    struct evtchn_alloc_unbound a = { DOMID_SELF, (u16)remote, 0 };
    long rc = event_op(EVTCHNOP_alloc_unbound, &a);

    *port = a.port;
    return rc;
}

static long bind_interdomain(u32 remote_port, u32 *port)
{
    struct evtchn_bind_interdomain b = { DOMID_SELF, remote_port, 0 };
    long rc = event_op(EVTCHNOP_bind_interdomain, &b);

    *port = b.local_port;
    return rc;
}

static volatile u32 vector_upcalls;

static void own_vector(struct regs *r)
{
    vector_upcalls++;
    vcpu_infos[0]->evtchn_upcall_pending = 0;
    apic_eoi();
}

/* A vector per vCPU goes through the local APIC, and needs an EOI.  First, since the vector for all
 * vCPUs (which start() sets) would win, and a PVH guest can't take it back. */
TEST(upcall_vector_per_vcpu)
{
    struct xen_hvm_evtchn_upcall_vector v = { 0, 0x71 };
    u32 port, before = upcalls[0];

    if (ready)
        SKIP("it must come first");
    apic_enable();
    set_vector(0x71, own_vector);
    CHECK_RESULT(hvm_op(HVMOP_set_evtchn_upcall_vector, &v), 0);
    CHECK_RESULT(bind_ipi(0, &port), 0);
    unmask_event(port);
    vector_upcalls = 0;
    send_event(port);
    open_window();
    CHECK_EQUAL(vector_upcalls, 1);
    CHECK_EQUAL(upcalls[0], before);
    clear_event(port);
    vcpu_infos[0]->evtchn_pending_sel = 0;
    close_port(port);
    v.vector = 0;
    hvm_op(HVMOP_set_evtchn_upcall_vector, &v);
}

TEST(loopback_channel)
{
    u32 a, b;
    struct evtchn_status s;

    start();
    CHECK_RESULT(alloc_unbound(DOMID_SELF, &a), 0);
    CHECK_RESULT(status_of(a, &s), 0);
    CHECK_EQUAL(s.status, EVTCHNSTAT_unbound);
    CHECK_RESULT(bind_interdomain(a, &b), 0);
    CHECK(a != b);
    CHECK_RESULT(status_of(b, &s), 0);
    CHECK_EQUAL(s.status, EVTCHNSTAT_interdomain);
    CHECK_EQUAL(s.interdomain.port, a);
    on_event(a, see);
    on_event(b, see);
    /* Binding raises the local port, in case an event was lost before. */
    CHECK(event_pending(b));
    clear_event(b);
    unmask_event(a);
    unmask_event(b);
    CHECK_RESULT(send_event(b), 0);
    CHECK_EQUAL(seen[a], 0);
    open_window();
    CHECK_EQUAL(seen[a], 1);
    CHECK_RESULT(send_event(a), 0);
    open_window();
    CHECK_EQUAL(seen[b], 1);
    CHECK_RESULT(close_port(a), 0);
    CHECK_RESULT(status_of(b, &s), 0);
    CHECK_EQUAL(s.status, EVTCHNSTAT_unbound);
    CHECK_RESULT(close_port(b), 0);
    CHECK_RESULT(status_of(b, &s), 0);
    CHECK_EQUAL(s.status, EVTCHNSTAT_closed);
}

TEST(ipi_to_self)
{
    u32 port;
    struct evtchn_status s;

    start();
    CHECK_RESULT(bind_ipi(0, &port), 0);
    CHECK_RESULT(status_of(port, &s), 0);
    CHECK_EQUAL(s.status, EVTCHNSTAT_ipi);
    CHECK_EQUAL(s.vcpu, 0);
    on_event(port, see);
    unmask_event(port);
    CHECK_RESULT(send_event(port), 0);
    open_window();
    CHECK_EQUAL(seen[port], 1);
    CHECK_RESULT(close_port(port), 0);
}

TEST(masked_events_stay_pending)
{
    u32 port;

    start();
    CHECK_RESULT(bind_ipi(0, &port), 0);
    on_event(port, see);
    mask_event(port);
    CHECK_RESULT(send_event(port), 0);
    open_window();
    CHECK_EQUAL(seen[port], 0);
    CHECK(event_pending(port));
    unmask_event(port); /* by hypercall: raises what is pending */
    open_window();
    CHECK_EQUAL(seen[port], 1);
    close_port(port);
}

TEST(several_sends_are_one_event)
{
    u32 port;

    start();
    CHECK_RESULT(bind_ipi(0, &port), 0);
    on_event(port, see);
    unmask_event(port);
    for (u32 i = 0; i < 5; i++)
        CHECK_RESULT(send_event(port), 0);
    open_window();
    CHECK_EQUAL(seen[port], 1);
    close_port(port);
}

TEST(upcall_pending_is_a_level)
{
    u32 port, before;

    start();
    CHECK_RESULT(bind_ipi(0, &port), 0);
    on_event(port, see);
    unmask_event(port);
    send_event(port);
    CHECK_EQUAL(vcpu_infos[0]->evtchn_upcall_pending, 1);
    vcpu_infos[0]->evtchn_upcall_pending = 0; /* taken back before it entered */
    before = upcalls[0];
    open_window();
    CHECK_EQUAL(upcalls[0], before);
    vcpu_infos[0]->evtchn_upcall_pending = 1; /* the guest may set it itself */
    CHECK_RESULT(sched_op(SCHEDOP_yield, NULL), 0);
    open_window();
    CHECK_EQUAL(upcalls[0], before + 1);
    CHECK_EQUAL(seen[port], 1);
    close_port(port);
}

TEST(many_ports)
{
    static u32 ports[200];

    start();
    for (u32 i = 0; i < ARRAY_SIZE(ports); i++) {
        CHECK_RESULT(bind_ipi(0, &ports[i]), 0);
        on_event(ports[i], see);
        unmask_event(ports[i]);
    }
    for (u32 i = 0; i < ARRAY_SIZE(ports); i++)
        CHECK_RESULT(send_event(ports[i]), 0);
    open_window();
    for (u32 i = 0; i < ARRAY_SIZE(ports); i++)
        CHECK_EQUAL(seen[ports[i]], 1);
    for (u32 i = 0; i < ARRAY_SIZE(ports); i++)
        CHECK_RESULT(close_port(ports[i]), 0);
}

TEST(ports_run_out)
{
    static u32 ports[4096];
    u32 n = 0;
    long rc = 0;

    for (; n < ARRAY_SIZE(ports); n++) {
        rc = bind_ipi(0, &ports[n]);
        if (rc)
            break;
    }
    for (u32 i = 0; i < n; i++)
        close_port(ports[i]);
    CHECK(n > 100);
    CHECK_RESULT(rc, -ENOSPC);
}

TEST(bad_ports)
{
    struct evtchn_status s;
    u32 port;

    CHECK_RESULT(send_event(0), -EINVAL);
    CHECK_RESULT(send_event(3000), -EINVAL);
    CHECK_RESULT(send_event(0xffffffff), -EINVAL);
    CHECK_RESULT(close_port(3000), -EINVAL);
    CHECK_RESULT(close_port(0xffffffff), -EINVAL);
    CHECK_RESULT(status_of(0xffffffff, &s), -EINVAL);
    CHECK_RESULT(bind_ipi(4000, &port), -ENOENT);
    CHECK_RESULT(bind_interdomain(3000, &port), -EINVAL);
    CHECK_RESULT(event_op(99, &s), -ENOSYS);
}

TEST(other_domains_are_closed)
{
    struct evtchn_alloc_unbound a = { 500, DOMID_SELF, 0 };
    struct evtchn_bind_interdomain b = { 500, 1, 0 };
    long rc = event_op(EVTCHNOP_alloc_unbound, &a);

    if (rc != -ESRCH && rc != -EPERM)
        FAIL("alloc_unbound gave %ld", rc);
    rc = event_op(EVTCHNOP_bind_interdomain, &b);
    if (rc != -ESRCH && rc != -EPERM)
        FAIL("bind_interdomain gave %ld", rc);
}

TEST(virqs_are_bound_once)
{
    u32 port, second;
    struct evtchn_status s;

    CHECK_RESULT(bind_virq(VIRQ_DEBUG, 0, &port), 0);
    CHECK_RESULT(status_of(port, &s), 0);
    CHECK_EQUAL(s.status, EVTCHNSTAT_virq);
    CHECK_EQUAL(s.virq, VIRQ_DEBUG);
    CHECK_RESULT(bind_virq(VIRQ_DEBUG, 0, &second), -EEXIST);
    CHECK_RESULT(close_port(port), 0);
    CHECK_RESULT(bind_virq(VIRQ_DEBUG, 0, &port), 0);
    CHECK_RESULT(close_port(port), 0);
    CHECK_RESULT(bind_virq(99, 0, &port), -EINVAL);
    CHECK_RESULT(bind_virq(VIRQ_TIMER, 4000, &port), -ENOENT);
}

TEST(reset_closes_all)
{
    struct evtchn_reset r = { DOMID_SELF };
    struct evtchn_status s;
    u32 port;

    if (xen.console && !option("console_io", NULL, 0))
        SKIP("it would close the console's channel: run with console_io");
    CHECK_RESULT(bind_ipi(0, &port), 0);
    CHECK_RESULT(event_op(EVTCHNOP_reset, &r), 0);
    CHECK_RESULT(status_of(port, &s), 0);
    CHECK_EQUAL(s.status, EVTCHNSTAT_closed);
}

/* ---- timers ---- */

static volatile u64 fired_at;

static void fired(u32 port)
{
    fired_at = system_time();
    seen[port]++;
}

static u32 timer_port;

static bool wait_timer(u32 count)
{
    u64 begin = system_time();

    sti();
    while (seen[timer_port] < count && system_time() - begin < 3000000000ull)
        pause();
    cli();
    return seen[timer_port] >= count;
}

TEST(singleshot_timer)
{
    u64 deadline;

    start();
    if (!timer_port)
        CHECK_RESULT(bind_virq(VIRQ_TIMER, 0, &timer_port), 0);
    on_event(timer_port, fired);
    unmask_event(timer_port);
    vcpu_op(VCPUOP_stop_periodic_timer, 0, NULL);
    deadline = system_time() + 2000000;
    CHECK_RESULT(set_singleshot_timer(deadline, VCPU_SSHOTTMR_future), 0);
    CHECK(wait_timer(1));
    CHECK(fired_at >= deadline);
    CHECK_RESULT(set_singleshot_timer(1000, 0), 0); /* past: at once */
    CHECK(wait_timer(2));
    CHECK_RESULT(set_singleshot_timer(1000, VCPU_SSHOTTMR_future), 0); /* the flag is ignored */
    CHECK(wait_timer(3));
}

TEST(stopped_timer_stays_silent)
{
    u64 begin;

    start();
    CHECK_RESULT(set_singleshot_timer(system_time() + 1000000, 0), 0);
    CHECK_RESULT(vcpu_op(VCPUOP_stop_singleshot_timer, 0, NULL), 0);
    begin = system_time();
    sti();
    while (system_time() - begin < 3000000)
        pause();
    cli();
    CHECK_EQUAL(seen[timer_port], 0);
}

TEST(periodic_timer)
{
    u64 period = 2000000;

    start();
    CHECK_RESULT(vcpu_op(VCPUOP_set_periodic_timer, 0, &period), 0);
    CHECK(wait_timer(4));
    CHECK_RESULT(vcpu_op(VCPUOP_stop_periodic_timer, 0, NULL), 0);
    period = 10;
    CHECK_RESULT(vcpu_op(VCPUOP_set_periodic_timer, 0, &period), -EINVAL);
}

TEST(set_timer_op)
{
    u64 deadline;

    start();
    deadline = system_time() + 1000000;
#if BITS == 64
    CHECK_RESULT(hypercall(HYPERVISOR_set_timer_op, deadline, 0, 0, 0, 0), 0);
#else
    CHECK_RESULT(hypercall(HYPERVISOR_set_timer_op, (u32)deadline, (u32)(deadline >> 32), 0, 0, 0),
                 0);
#endif
    CHECK(wait_timer(1));
    CHECK(fired_at >= deadline);
}

TEST(block_wakes_on_an_event)
{
    start();
    CHECK_RESULT(set_singleshot_timer(system_time() + 3000000, 0), 0);
    while (!seen[timer_port]) {
        CHECK_RESULT(sched_op(SCHEDOP_block, NULL), 0);
        open_window();
    }
}

TEST(halt_wakes_on_an_event)
{
    start();
    CHECK_RESULT(set_singleshot_timer(system_time() + 3000000, 0), 0);
    while (!seen[timer_port]) {
        sti_hlt();
        cli();
    }
}

TEST(poll_returns_for_a_pending_port)
{
    u32 port;
    struct sched_poll p = { &port, 1, 0 };

    start();
    CHECK_RESULT(bind_ipi(0, &port), 0);
    mask_event(port);
    send_event(port);
    CHECK_RESULT(sched_op(SCHEDOP_poll, &p), 0);
    CHECK(event_pending(port));
    clear_event(port);
    close_port(port);
}

TEST(poll_times_out)
{
    u32 port;
    struct sched_poll p = { &port, 1, 0 };
    u64 deadline;

    start();
    CHECK_RESULT(bind_ipi(0, &port), 0);
    mask_event(port);
    deadline = system_time() + 2000000;
    p.timeout = deadline;
    CHECK_RESULT(sched_op(SCHEDOP_poll, &p), 0);
    CHECK(system_time() >= deadline);
    CHECK(!event_pending(port));
    close_port(port);
}

TEST(poll_refuses_too_many_ports)
{
    static u32 ports[200];
    struct sched_poll p = { ports, 129, 0 };

    CHECK_RESULT(sched_op(SCHEDOP_poll, &p), -EINVAL);
}

/* ---- time ---- */

TEST(system_time_never_goes_back)
{
    u64 last = system_time();

    for (u32 i = 0; i < 20000; i++) {
        u64 now = system_time();

        if (now < last)
            FAIL("%llu after %llu", now, last);
        last = now;
    }
}

TEST(time_info)
{
    volatile struct vcpu_time_info *t = &vcpu_infos[0]->time;
    u32 khz = cpuid(xen.cpuid_base + 3, 0).c, rest;
    u64 product;

    CHECK(!(t->version & 1));
    CHECK(t->tsc_to_system_mul);
    /* 10^6 kHz ticks make one second: mul and shift must say the same as CPUID. */
    product = (u64)t->tsc_to_system_mul * khz;
    product = t->tsc_shift < 0 ? product >> -t->tsc_shift : product << t->tsc_shift;
    product = div64(product >> 32, 10, &rest);
    CHECK(product >= 99900 && product <= 100100);
}

TEST(wall_clock)
{
    CHECK(!(shared_info.wc_version & 1));
    CHECK(shared_info.wc_version);
    CHECK(shared_info.wc_nsec < 1000000000);
}
