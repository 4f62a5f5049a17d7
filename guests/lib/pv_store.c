/* SPDX-License-Identifier: GPL-2.0-or-later */
/* xenstore, one request at a time (io/xs_wire.h). */
#include "pv.h"

struct xenstore_ring {
    char req[1024], rsp[1024];
    volatile u32 req_cons, req_prod, rsp_cons, rsp_prod;
};
struct xsd_sockmsg {
    u32 type, req_id, tx_id, len;
};
#define XS_READ 2
#define XS_WRITE 11

static u32 put(struct xenstore_ring *ring, u32 at, const void *data, u32 n)
{
    for (u32 i = 0; i < n; i++)
        ring->req[at++ % sizeof(ring->req)] = ((const char *)data)[i];
    return at;
}

/* One request, whose body is `path` with its end and then `value`; the answer's length, or -1. */
static int request(u32 type, const char *path, const char *value, char *answer, u32 size)
{
    struct xenstore_ring *ring = (void *)(pfn_of(pv_start_info->store_mfn) << PAGE_SHIFT);
    u32 path_size = (u32)strlen(path) + 1, value_size = (u32)strlen(value);
    struct xsd_sockmsg msg = { type, 7, 0, path_size + value_size };
    u32 at = put(ring, ring->req_prod, &msg, sizeof(msg));

    at = put(ring, at, path, path_size);
    at = put(ring, at, value, value_size);
    barrier();
    ring->req_prod = at;
    send_event(pv_start_info->store_evtchn);
    for (u32 tries = 0; ring->rsp_prod - ring->rsp_cons < sizeof(msg); tries++) {
        if (tries > 1000000)
            return -1;
        sched_op(SCHEDOP_yield, NULL);
    }
    for (u32 i = 0; i < sizeof(msg); i++)
        ((char *)&msg)[i] = ring->rsp[(ring->rsp_cons + i) % sizeof(ring->rsp)];
    while (ring->rsp_prod - ring->rsp_cons < sizeof(msg) + msg.len)
        sched_op(SCHEDOP_yield, NULL);
    for (u32 i = 0; i < msg.len && i < size; i++)
        answer[i] = ring->rsp[(ring->rsp_cons + sizeof(msg) + i) % sizeof(ring->rsp)];
    ring->rsp_cons += sizeof(msg) + msg.len;
    send_event(pv_start_info->store_evtchn);
    return msg.type == type && msg.req_id == 7 ? (int)msg.len : -1;
}

int store_read(const char *path, char *answer, u32 size)
{
    return request(XS_READ, path, "", answer, size);
}

bool store_write(const char *path, const char *value)
{
    char answer[4];

    return request(XS_WRITE, path, value, answer, sizeof(answer)) >= 0;
}
