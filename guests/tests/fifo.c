/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Event channels with the FIFO ABI: the switch to it, queues, priorities, masks
 * (public/event_channel.h, and Xen's event channel FIFO design).
 */
#include "apic.h"
#include "test.h"
#include "xen.h"

static struct evtchn_fifo_control_block *control;
static volatile u32 *words[4]; /* pages of 1024 event words */
static volatile u32 order[64], order_count;

static volatile u32 *word_of(u32 port)
{
    return &words[port >> 10][port & 1023];
}

/* Takes the head of a queue, as a kernel does: clear LINKED and the link by compare-exchange. */
static u32 take_link(volatile u32 *word)
{
    u32 old = *word, next;

    do {
        next = old & ~((1u << EVTCHN_FIFO_LINKED) | EVTCHN_FIFO_LINK_MASK);
    } while (!__atomic_compare_exchange_n(word, &old, next, false, __ATOMIC_SEQ_CST,
                                          __ATOMIC_SEQ_CST));
    return old & EVTCHN_FIFO_LINK_MASK;
}

static void serve(void)
{
    u32 ready = __atomic_exchange_n(&control->ready, 0, __ATOMIC_SEQ_CST);

    while (ready) {
        u32 queue = (u32)__builtin_ctz(ready), head = control->head[queue], next;
        volatile u32 *word = word_of(head);

        next = take_link(word);
        if (!next)
            ready &= ~(1u << queue);
        control->head[queue] = next;
        if ((*word >> EVTCHN_FIFO_PENDING & 1) && !(*word >> EVTCHN_FIFO_MASKED & 1)) {
            __atomic_fetch_and(word, ~(1u << EVTCHN_FIFO_PENDING), __ATOMIC_SEQ_CST);
            if (order_count < ARRAY_SIZE(order))
                order[order_count++] = head;
        }
        ready |= __atomic_exchange_n(&control->ready, 0, __ATOMIC_SEQ_CST);
    }
}

static volatile u32 entered;

static void upcall(struct regs *r)
{
    entered++;
    vcpu_infos[0]->evtchn_upcall_pending = 0;
    serve();
}

static void open_window(void)
{
    asm volatile("sti; nop; nop; nop; cli" ::: "memory");
}

static void start(void)
{
    cli();
    order_count = 0;
    entered = 0;
}

static void unmask_word(u32 port)
{
    __atomic_fetch_and(word_of(port), ~(1u << EVTCHN_FIFO_MASKED), __ATOMIC_SEQ_CST);
}

static long set_priority(u32 port, u32 priority)
{
    struct evtchn_set_priority p = { port, priority };

    return event_op(EVTCHNOP_set_priority, &p);
}

static long close_port(u32 port)
{
    struct evtchn_port p = { port };

    return event_op(EVTCHNOP_close, &p);
}

static u32 early_port;

TEST(fifo_operations_before_init)
{
    struct evtchn_expand_array e = { (ulong)alloc_page() >> PAGE_SHIFT };

    CHECK_RESULT(bind_ipi(0, &early_port), 0);
    CHECK_RESULT(event_op(EVTCHNOP_expand_array, &e), -EOPNOTSUPP);
    CHECK_RESULT(set_priority(early_port, 3), -ENOSYS); /* the 2-level ABI has none */
}

TEST(init_control_checks)
{
    struct evtchn_init_control c = { (ulong)alloc_page() >> PAGE_SHIFT, 0, 4000, 0, { 0 } };

    CHECK_RESULT(event_op(EVTCHNOP_init_control, &c), -ENOENT);
    c.vcpu = 0;
    c.offset = 4096 - 64; /* must lie in one page */
    CHECK_RESULT(event_op(EVTCHNOP_init_control, &c), -EINVAL);
    c.offset = 4; /* and be aligned to 8 */
    CHECK_RESULT(event_op(EVTCHNOP_init_control, &c), -EINVAL);
    c.offset = 0;
    c.control_gfn = 0xfffff000u;
    CHECK_RESULT(event_op(EVTCHNOP_init_control, &c), -EINVAL);
}

TEST(init_control)
{
    u8 *page = alloc_page();
    struct evtchn_init_control c = { (ulong)page >> PAGE_SHIFT, 64, 0, 0, { 0 } };

    start();
    control = (void *)(page + 64);
    set_vector(VEC_UPCALL, upcall);
    CHECK_RESULT(hvm_set_param(HVM_PARAM_CALLBACK_IRQ, CALLBACK_VIA_VECTOR | VEC_UPCALL), 0);
    CHECK_RESULT(event_op(EVTCHNOP_init_control, &c), 0);
    CHECK_EQUAL(c.link_bits, 17);
    CHECK_RESULT(event_op(EVTCHNOP_init_control, &c), -EINVAL); /* only once */
}

TEST(expand_array)
{
    struct evtchn_expand_array e;

    words[0] = alloc_page();
    e.array_gfn = (ulong)words[0] >> PAGE_SHIFT;
    for (u32 i = 0; i < 1024; i++)
        words[0][i] = 1u << EVTCHN_FIFO_MASKED;
    CHECK_RESULT(event_op(EVTCHNOP_expand_array, &e), 0);
    e.array_gfn = 0xfffff000u;
    CHECK_RESULT(event_op(EVTCHNOP_expand_array, &e), -EINVAL);
    words[1] = alloc_page();
    for (u32 i = 0; i < 1024; i++)
        words[1][i] = 1u << EVTCHN_FIFO_MASKED;
    e.array_gfn = (ulong)words[1] >> PAGE_SHIFT;
    CHECK_RESULT(event_op(EVTCHNOP_expand_array, &e), 0);
}

TEST(event_through_a_queue)
{
    start();
    unmask_word(early_port);
    CHECK_RESULT(send_event(early_port), 0);
    CHECK(*word_of(early_port) >> EVTCHN_FIFO_PENDING & 1);
    CHECK(*word_of(early_port) >> EVTCHN_FIFO_LINKED & 1);
    CHECK_EQUAL(control->ready, 1 << 7); /* the default priority */
    CHECK_EQUAL(control->head[7], early_port);
    open_window();
    CHECK_EQUAL(entered, 1);
    CHECK_EQUAL(order_count, 1);
    CHECK_EQUAL(order[0], early_port);
    CHECK_EQUAL(*word_of(early_port) & ~EVTCHN_FIFO_LINK_MASK, 0);
}

TEST(events_keep_their_order)
{
    u32 ports[6];

    start();
    for (u32 i = 0; i < 6; i++) {
        CHECK_RESULT(bind_ipi(0, &ports[i]), 0);
        unmask_word(ports[i]);
    }
    for (u32 i = 0; i < 6; i++)
        CHECK_RESULT(send_event(ports[5 - i]), 0);
    CHECK_RESULT(send_event(ports[5]), 0); /* pending already: no second time */
    open_window();
    CHECK_EQUAL(order_count, 6);
    for (u32 i = 0; i < 6; i++)
        CHECK_EQUAL(order[i], ports[5 - i]);
    for (u32 i = 0; i < 6; i++)
        CHECK_RESULT(close_port(ports[i]), 0);
}

TEST(priorities)
{
    u32 low, high, middle;

    start();
    CHECK_RESULT(bind_ipi(0, &low), 0);
    CHECK_RESULT(bind_ipi(0, &middle), 0);
    CHECK_RESULT(bind_ipi(0, &high), 0);
    CHECK_RESULT(set_priority(low, 15), 0);
    CHECK_RESULT(set_priority(high, 0), 0);
    CHECK_RESULT(set_priority(high, 16), -EINVAL);
    unmask_word(low);
    unmask_word(middle);
    unmask_word(high);
    send_event(low);
    send_event(middle);
    send_event(high);
    CHECK_EQUAL(control->ready, 1 << 15 | 1 << 7 | 1 << 0);
    open_window();
    CHECK_EQUAL(order_count, 3);
    CHECK_EQUAL(order[0], high);
    CHECK_EQUAL(order[1], middle);
    CHECK_EQUAL(order[2], low);
    close_port(low);
    close_port(middle);
    close_port(high);
}

TEST(masked_word)
{
    u32 port;

    start();
    CHECK_RESULT(bind_ipi(0, &port), 0);
    *word_of(port) |= 1u << EVTCHN_FIFO_MASKED;
    CHECK_RESULT(send_event(port), 0);
    CHECK(*word_of(port) >> EVTCHN_FIFO_PENDING & 1);
    CHECK(!(*word_of(port) >> EVTCHN_FIFO_LINKED & 1));
    open_window();
    CHECK_EQUAL(order_count, 0);
    unmask_event(port); /* by hypercall: clears the mask and queues it */
    CHECK(!(*word_of(port) >> EVTCHN_FIFO_MASKED & 1));
    open_window();
    CHECK_EQUAL(order_count, 1);
    CHECK_EQUAL(order[0], port);
    close_port(port);
}

TEST(many_ports_beyond_one_page)
{
    static u32 ports[1500];
    u32 n = 0, got = 0;

    start();
    for (; n < ARRAY_SIZE(ports); n++) {
        long rc = bind_ipi(0, &ports[n]);

        if (rc == -ENOSPC)
            break; /* the domain's limit of event channels */
        CHECK_RESULT(rc, 0);
        unmask_word(ports[n]);
    }
    for (u32 i = 0; i < n; i++) {
        order_count = 0;
        CHECK_RESULT(send_event(ports[i]), 0);
        open_window();
        got += order_count == 1 && order[0] == ports[i];
    }
    CHECK_EQUAL(got, n);
    CHECK(n > 900);
    for (u32 i = 0; i < n; i++)
        close_port(ports[i]);
}

/* The words are the guest's to write: nonsense there must harm itself alone. */
TEST(nonsense_in_the_words)
{
    u32 a, b;

    start();
    CHECK_RESULT(bind_ipi(0, &a), 0);
    CHECK_RESULT(bind_ipi(0, &b), 0);
    unmask_word(a);
    unmask_word(b);
    send_event(a);
    *word_of(a) = 0xffffffff;
    control->head[7] = 0x1ffff;
    send_event(b);
    *word_of(a) = 0;
    *word_of(b) = 0;
    control->head[7] = 0;
    control->ready = 0;
    vcpu_infos[0]->evtchn_upcall_pending = 0;
    send_event(a);
    open_window();
    close_port(a);
    close_port(b);
}
