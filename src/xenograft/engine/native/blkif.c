/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A batch of blkif requests: plain reads and writes, between granted pages and a file.
 *
 * Requests are done in their order, up to the first that isn't plain, whose data the host doesn't
 * have in memory, or that is wrong: that one is as if it had not been looked at, and Python's.
 *
 * Facts: public/io/blkif.h (struct blkif_request, _indirect, _segment, struct blkif_response).
 */
#define _GNU_SOURCE
#include "grants.h"

#include <string.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <time.h>

#define OP_READ 0
#define OP_WRITE 1
#define OP_INDIRECT 6
#define SECTOR_SHIFT 9
#define SECTORS_PER_PAGE (PAGE_SIZE >> SECTOR_SHIFT)
#define DIRECT_MAX 11
#define INDIRECT_MAX 256
#define SLOT_MAX 112

struct part {
    uint32_t ref;
    uint8_t first, last, unused[2];
};

struct batch {
    struct ring_pages ring;
    struct grants grants;
    int fd, bits;
    unsigned slots, consumer, producer, count;
    unsigned long long sectors, budget;
    long long patience; /* ns: a write that takes longer is the last one; negative: no writes */
    uint64_t requests[2], bytes[2];
    bool slow;
};

struct request {
    uint8_t operation;
    uint64_t id, sector, size;
    unsigned pieces;
    struct iovec vector[INDIRECT_MAX];
};

static uint64_t slot_size(struct batch *b)
{
    return b->bits == 64 ? SLOT_MAX : SLOT_MAX - 4;
}

static uint64_t slot_offset(struct batch *b, uint32_t index)
{
    return RING_HEADER + (index & (b->slots - 1)) * slot_size(b);
}

/* The segments of a request, copied: their number, or 0 if it's not for us. */
static unsigned segments_of(struct batch *b, const uint8_t *slot, struct request *r,
                            struct part *segments)
{
    unsigned shift = b->bits == 64 ? 4 : 0, count = slot[1];
    memcpy(&r->id, slot + 4 + shift, 8);
    memcpy(&r->sector, slot + 12 + shift, 8);
    r->operation = slot[0];
    if (r->operation <= OP_WRITE) {
        if (count > DIRECT_MAX)
            return 0;
        memcpy(segments, slot + 20 + shift, count * sizeof(*segments));
        return count;
    }
    if (r->operation != OP_INDIRECT || slot[1] > OP_WRITE)
        return 0;
    r->operation = slot[1];
    uint16_t many;
    uint32_t ref;
    uint64_t maddr;
    memcpy(&many, slot + 2, 2);
    memcpy(&ref, slot + 24 + shift, 4);
    /* So many fit into the first page. */
    if (many > INDIRECT_MAX || !grants_find(&b->grants, ref, false, &maddr))
        return 0;
    memcpy(segments, b->grants.memory->base + maddr, many * sizeof(*segments));
    return many;
}

static bool locate(struct batch *b, struct request *r, const struct part *s, unsigned count)
{
    struct memory *m = b->grants.memory;
    bool write = r->operation == OP_READ;
    uint64_t sectors = 0, maddr;
    r->pieces = 0;
    for (unsigned i = 0; i < count; i++) {
        if (s[i].first > s[i].last || s[i].last >= SECTORS_PER_PAGE ||
            !grants_find(&b->grants, s[i].ref, write, &maddr))
            return false;
        uint8_t *at = m->base + maddr + ((uint64_t)s[i].first << SECTOR_SHIFT);
        size_t size = (size_t)(s[i].last - s[i].first + 1) << SECTOR_SHIFT;
        struct iovec *last = r->pieces ? &r->vector[r->pieces - 1] : NULL;
        if (last && (uint8_t *)last->iov_base + last->iov_len == at)
            last->iov_len += size;
        else
            r->vector[r->pieces++] = (struct iovec){at, size};
        sectors += size >> SECTOR_SHIFT;
    }
    r->size = sectors << SECTOR_SHIFT;
    return r->sector <= b->sectors && sectors <= b->sectors - r->sector && r->size <= b->budget;
}

static bool read_now(struct batch *b, struct request *r)
{
    struct memory *m = b->grants.memory;
    for (unsigned i = 0; i < r->pieces; i++) {
        uint64_t from = (uint64_t)((uint8_t *)r->vector[i].iov_base - m->base);
        for (uint64_t mfn = from >> PAGE_SHIFT;
             mfn <= (from + r->vector[i].iov_len - 1) >> PAGE_SHIFT; mfn++)
            frame_written(m, mfn);
    }
    ssize_t got = preadv2(b->fd, r->vector, (int)r->pieces, (off_t)(r->sector << SECTOR_SHIFT),
                          RWF_NOWAIT);
    return got == (ssize_t)r->size;
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000ll + now.tv_nsec;
}

/* How often this thread has gone to sleep by itself. */
static long sleeps(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_THREAD, &usage) ? 0 : usage.ru_nvcsw;
}

static bool write_now(struct batch *b, struct request *r)
{
    uint64_t offset = r->sector << SECTOR_SHIFT;
    /* Parts of pages may have to be read first. */
    if (b->patience < 0 || b->slow || (offset | r->size) % PAGE_SIZE)
        return false;
    long slept = sleeps();
    int64_t begin = now_ns();
    ssize_t done = pwritev(b->fd, r->vector, (int)r->pieces, (off_t)offset);
    /* Time alone says little: another process may have had the CPU. */
    b->slow = now_ns() - begin > b->patience && sleeps() != slept;
    return done == (ssize_t)r->size;
}

static bool serve(struct batch *b)
{
    uint8_t slot[SLOT_MAX], answer[16] = {0};
    struct part segments[INDIRECT_MAX];
    struct request r;
    ring_read(&b->ring, slot_offset(b, b->consumer), slot, slot_size(b));
    unsigned count = segments_of(b, slot, &r, segments);
    if (!count || !locate(b, &r, segments, count))
        return false;
    if (!(r.operation == OP_READ ? read_now(b, &r) : write_now(b, &r)))
        return false;
    memcpy(answer, &r.id, 8);
    answer[8] = r.operation; /* the status after it is 0: BLKIF_RSP_OKAY */
    ring_write(&b->ring, slot_offset(b, b->producer), answer, b->bits == 64 ? 16 : 12);
    b->consumer++;
    b->producer++;
    b->budget -= r.size;
    b->requests[r.operation]++;
    b->bytes[r.operation] += r.size;
    return true;
}

PyObject *blkif_batch(PyObject *self, PyObject *args)
{
    struct batch b = {0};
    PyObject *kept, *described;
    (void)self;
    if (!PyArg_ParseTuple(args, "O!y*iIIIIO!OiKKL", &Memory_Type, &b.ring.memory, &b.ring.maddrs,
                          &b.bits, &b.slots, &b.consumer, &b.producer, &b.count, &PyDict_Type,
                          &kept, &described, &b.fd, &b.sectors, &b.budget, &b.patience))
        return NULL;
    bool fine = ring_check(&b.ring) && grants_open(&b.grants, b.ring.memory, kept, described);
    if (fine && (!b.slots || b.slots & (b.slots - 1) || (b.bits != 32 && b.bits != 64) ||
                 slot_offset(&b, b.slots - 1) + slot_size(&b) > b.ring.size ||
                 b.sectors > INT64_MAX >> SECTOR_SHIFT)) {
        PyErr_SetString(PyExc_ValueError, "not a ring of block requests");
        fine = false;
    }
    if (fine)
        while (b.count-- && serve(&b))
            ;
    grants_close(&b.grants);
    PyBuffer_Release(&b.ring.maddrs);
    if (!fine || PyErr_Occurred())
        return NULL;
    return Py_BuildValue("KKKKO", b.requests[0], b.bytes[0], b.requests[1], b.bytes[1],
                         b.slow ? Py_True : Py_False);
}
