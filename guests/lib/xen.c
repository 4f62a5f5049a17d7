/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Hypercalls, event upcalls, time and the console ring. */
#include "xen.h"

struct xen xen;
u8 hypercall_page[4096] PAGE_ALIGNED;
struct shared_info shared_info;
struct vcpu_info *vcpu_infos[MAX_CPUS];
volatile u32 upcalls[MAX_CPUS];
static event_fn event_fns[4096];

/* Each entry of the hypercall page is 32 bytes; arguments lie in registers. */
long hypercall(u32 number, ulong a1, ulong a2, ulong a3, ulong a4, ulong a5)
{
    long result;
    ulong entry = (ulong)hypercall_page + 32 * number;
#if BITS == 64
    register ulong r10 asm("r10") = a4;
    register ulong r8 asm("r8") = a5;

    asm volatile("call *%[entry]"
                 : "=a"(result), "+D"(a1), "+S"(a2), "+d"(a3), "+r"(r10), "+r"(r8)
                 : [entry] "0"(entry)
                 : "rcx", "r9", "r11", "memory", "cc");
#else
    asm volatile("call *%[entry]"
                 : "=a"(result), "+b"(a1), "+c"(a2), "+d"(a3), "+S"(a4), "+D"(a5)
                 : [entry] "0"(entry)
                 : "memory", "cc");
#endif
    return result;
}

void xen_shutdown(u32 reason)
{
    sched_op(SCHEDOP_shutdown, &reason);
    for (;;)
        asm volatile("cli; hlt");
}

void console_io_sink(const char *text, size_t n)
{
    console_io(CONSOLEIO_write, n, text);
}

/* ---- console ring (io/console.h) ---- */

static void console_put(char c)
{
    struct xencons_interface *ring = xen.console;

    /* A full ring is the back end's to empty: give it time, but don't wait for ever. */
    for (u32 tries = 0; ring->out_prod - ring->out_cons >= sizeof(ring->out); tries++) {
        send_event(xen.console_port);
        sched_op(SCHEDOP_yield, NULL);
        if (tries > 2000000)
            return;
    }
    ring->out[ring->out_prod % sizeof(ring->out)] = c;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    ring->out_prod++;
}

void console_write(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\n')
            console_put('\r');
        console_put(text[i]);
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    send_event(xen.console_port);
}

int console_read(void)
{
    struct xencons_interface *ring = xen.console;
    char c;

    if (!ring || ring->in_cons == ring->in_prod)
        return -1;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    c = ring->in[ring->in_cons % sizeof(ring->in)];
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    ring->in_cons++;
    if (ring->in_cons == ring->in_prod)
        send_event(xen.console_port);
    return (u8)c;
}

/* ---- events ---- */

#define PORT_WORD(port) ((port) / (sizeof(ulong) * 8))
#define PORT_BIT(port) (1ul << ((port) % (sizeof(ulong) * 8)))

void handle_events(struct regs *r)
{
    unsigned cpu = cpu_index();
    struct vcpu_info *info = vcpu_infos[cpu];

    (void)r;
    upcalls[cpu]++;
    info->evtchn_upcall_pending = 0;
    for (ulong words = __atomic_exchange_n(&info->evtchn_pending_sel, 0, __ATOMIC_SEQ_CST); words;
         words &= words - 1) {
        unsigned w = (unsigned)__builtin_ctzl(words);

        for (;;) {
            ulong bits = shared_info.evtchn_pending[w] & ~shared_info.evtchn_mask[w];
            u32 port;

            if (!bits)
                break;
            port = (u32)(w * sizeof(ulong) * 8 + (unsigned)__builtin_ctzl(bits));
            clear_event(port);
            if (event_fns[port])
                event_fns[port](port);
        }
    }
}

void on_event(u32 port, event_fn fn)
{
    event_fns[port] = fn;
}

long bind_virq(u32 virq, u32 vcpu, u32 *port)
{
    struct evtchn_bind_virq b = { virq, vcpu, 0 };
    long rc = event_op(EVTCHNOP_bind_virq, &b);

    *port = b.port;
    return rc;
}

long bind_ipi(u32 vcpu, u32 *port)
{
    struct evtchn_bind_ipi b = { vcpu, 0 };
    long rc = event_op(EVTCHNOP_bind_ipi, &b);

    *port = b.port;
    return rc;
}

long send_event(u32 port)
{
    struct evtchn_port p = { port };

    return event_op(EVTCHNOP_send, &p);
}

void mask_event(u32 port)
{
    __atomic_fetch_or(&shared_info.evtchn_mask[PORT_WORD(port)], PORT_BIT(port), __ATOMIC_SEQ_CST);
}

void unmask_event(u32 port)
{
    struct evtchn_port p = { port };

    event_op(EVTCHNOP_unmask, &p);
}

bool event_pending(u32 port)
{
    return shared_info.evtchn_pending[PORT_WORD(port)] & PORT_BIT(port);
}

void clear_event(u32 port)
{
    __atomic_fetch_and(&shared_info.evtchn_pending[PORT_WORD(port)], ~PORT_BIT(port),
                       __ATOMIC_SEQ_CST);
}

/* ---- time ---- */

/* (ticks * mul) >> 32 without a 128-bit product. */
static u64 scale(u64 ticks, u32 mul)
{
    return (ticks >> 32) * mul + (((ticks & 0xffffffffu) * mul) >> 32);
}

u64 system_time(void)
{
    volatile struct vcpu_time_info *t = &vcpu_infos[cpu_index()]->time;
    u32 version;
    u64 ticks, now;

    do {
        version = t->version & ~1u;
        barrier();
        ticks = rdtsc() - t->tsc_timestamp;
        ticks = t->tsc_shift < 0 ? ticks >> -t->tsc_shift : ticks << t->tsc_shift;
        now = t->system_time + scale(ticks, t->tsc_to_system_mul);
        barrier();
    } while (version != t->version);
    return now;
}

long set_singleshot_timer(u64 deadline, u32 flags)
{
    struct vcpu_set_singleshot_timer t = { deadline, flags };

    return vcpu_op(VCPUOP_set_singleshot_timer, cpu_index(), &t);
}
