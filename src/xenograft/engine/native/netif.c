/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A packet for a guest: from a buffer into the pages that its receive requests grant.
 *
 * All or nothing: a request that isn't plain leaves the packet to Python, and the ring as it was.
 *
 * Facts: public/io/netif.h (struct netif_rx_request, netif_rx_response, NETRXF_more_data).
 */
#include "grants.h"

#include <string.h>

#define SLOT 8
#define MORE_DATA 4
#define PAGES_MAX 32
#define EXTRAS_MAX 3

struct rx_request {
    uint16_t id, pad;
    uint32_t gref;
};

struct rx_response {
    uint16_t id, offset, flags;
    int16_t status;
};

struct put {
    struct ring_pages ring;
    struct grants grants;
    unsigned slots, consumer, producer, headroom, flags;
    Py_buffer extra, data;
};

static uint64_t slot_at(struct put *p, uint32_t index)
{
    return RING_HEADER + (uint64_t)(index & (p->slots - 1)) * SLOT;
}

/* How many slots it has taken, or 0. */
static unsigned put_packet(struct put *p)
{
    struct memory *m = p->grants.memory;
    struct rx_request request[PAGES_MAX];
    uint64_t maddr[PAGES_MAX], left = (uint64_t)p->data.len;
    unsigned extras = (unsigned)p->extra.len / SLOT;
    unsigned pages = (unsigned)((left + p->headroom + PAGE_SIZE - 1) / PAGE_SIZE);
    for (unsigned i = 0; i < pages; i++) {
        /* The slots behind the first are the extras'. */
        ring_read(&p->ring, slot_at(p, p->consumer + i + (i ? extras : 0)), &request[i], SLOT);
        if (!grants_find(&p->grants, request[i].gref, true, &maddr[i]))
            return 0;
    }
    const char *from = p->data.buf;
    uint32_t to = p->producer;
    for (unsigned i = 0; i < pages; i++) {
        uint64_t offset = i ? 0 : p->headroom, room = PAGE_SIZE - offset;
        uint64_t size = left < room ? left : room;
        frame_written(m, maddr[i] >> PAGE_SHIFT);
        memcpy(m->base + maddr[i] + offset, from, size);
        from += size;
        left -= size;
        uint16_t flags = (uint16_t)((i ? 0 : p->flags) | (left ? MORE_DATA : 0));
        struct rx_response response = {request[i].id, (uint16_t)offset, flags, (int16_t)size};
        ring_write(&p->ring, slot_at(p, to++), &response, SLOT);
        for (unsigned e = 0; !i && e < extras; e++)
            ring_write(&p->ring, slot_at(p, to++), (char *)p->extra.buf + e * SLOT, SLOT);
    }
    return pages + extras;
}

static bool sound(struct put *p)
{
    bool fine = p->slots && !(p->slots & (p->slots - 1)) &&
                slot_at(p, p->slots - 1) + SLOT <= p->ring.size && p->headroom < PAGE_SIZE &&
                p->data.len > 0 && p->data.len <= (Py_ssize_t)((PAGES_MAX - 1) * PAGE_SIZE) &&
                !(p->extra.len % SLOT) && p->extra.len <= EXTRAS_MAX * SLOT &&
                p->slots >= PAGES_MAX + EXTRAS_MAX;
    if (!fine)
        PyErr_SetString(PyExc_ValueError, "not a packet, or not a ring for one");
    return fine;
}

PyObject *netif_put(PyObject *self, PyObject *args)
{
    struct put p = {0};
    PyObject *described, *none = PyDict_New(), *result = NULL;
    (void)self;
    if (none && PyArg_ParseTuple(args, "O!y*IIIO!IIy*y*", &Memory_Type, &p.ring.memory,
                                 &p.ring.maddrs, &p.slots, &p.consumer, &p.producer, &PyTuple_Type,
                                 &described, &p.headroom, &p.flags, &p.extra, &p.data)) {
        if (ring_check(&p.ring) && sound(&p) &&
            grants_open(&p.grants, p.ring.memory, none, described)) {
            unsigned used = put_packet(&p);
            if (!PyErr_Occurred())
                result = PyLong_FromUnsignedLong(used);
        }
        grants_close(&p.grants);
        PyBuffer_Release(&p.ring.maddrs);
        PyBuffer_Release(&p.extra);
        PyBuffer_Release(&p.data);
    }
    Py_XDECREF(none);
    return result;
}
