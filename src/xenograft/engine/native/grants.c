/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Pages that a guest has granted, looked up without a mapping: see grants.h.
 *
 * Facts: public/grant_table.h (struct grant_entry_v1 and its flags).
 */
#include "grants.h"

#include <string.h>

#define GTF_TYPE_MASK 3u
#define GTF_PERMIT_ACCESS 1u
#define GTF_READONLY 4u
#define GTF_SUB_PAGE 0x100u

struct entry {
    uint16_t flags, domid;
    uint32_t frame;
};

#define PER_FRAME (PAGE_SIZE / sizeof(struct entry))

bool ring_check(struct ring_pages *ring)
{
    const uint64_t *maddr = ring->maddrs.buf;
    uint64_t count = (uint64_t)ring->maddrs.len / sizeof(*maddr);
    for (uint64_t i = 0; i < count; i++)
        if (maddr[i] % PAGE_SIZE || maddr[i] >> PAGE_SHIFT >= ring->memory->frames) {
            PyErr_SetString(PyExc_IndexError, "a page of the ring is out of range");
            return false;
        }
    ring->size = count * PAGE_SIZE;
    return true;
}

static uint64_t part_of(uint64_t offset, uint64_t size)
{
    uint64_t room = PAGE_SIZE - offset % PAGE_SIZE;
    return size < room ? size : room;
}

static uint64_t maddr_at(struct ring_pages *ring, uint64_t offset)
{
    return ((const uint64_t *)ring->maddrs.buf)[offset / PAGE_SIZE] + offset % PAGE_SIZE;
}

void ring_read(struct ring_pages *ring, uint64_t offset, void *to, uint64_t size)
{
    for (uint64_t part; size; size -= part, offset += part, to = (char *)to + part) {
        part = part_of(offset, size);
        memcpy(to, ring->memory->base + maddr_at(ring, offset), part);
    }
}

void ring_write(struct ring_pages *ring, uint64_t offset, const void *from, uint64_t size)
{
    for (uint64_t part; size; size -= part, offset += part, from = (const char *)from + part) {
        part = part_of(offset, size);
        uint64_t at = maddr_at(ring, offset);
        frame_written(ring->memory, at >> PAGE_SHIFT);
        memcpy(ring->memory->base + at, from, part);
    }
}

bool grants_open(struct grants *g, struct memory *m, PyObject *kept, PyObject *described)
{
    memset(g, 0, sizeof(*g));
    g->memory = m;
    g->kept = kept;
    if (described == Py_None)
        return true;
    if (!PyTuple_Check(described)) {
        PyErr_SetString(PyExc_TypeError, "no description of a grant table");
        return false;
    }
    return PyArg_ParseTuple(described, "O!y*O!O!II", &Space_Type, &g->space, &g->frames,
                            &PyDict_Type, &g->active, &PyDict_Type, &g->types, &g->owner,
                            &g->peer);
}

void grants_close(struct grants *g)
{
    if (g->frames.obj)
        PyBuffer_Release(&g->frames);
}

/* What a dict of small numbers holds under one, or NULL. */
static PyObject *dict_at(PyObject *dict, uint32_t key)
{
    if (!PyDict_GET_SIZE(dict))
        return NULL;
    PyObject *number = PyLong_FromUnsignedLong(key);
    PyObject *value = number ? PyDict_GetItemWithError(dict, number) : NULL;
    Py_XDECREF(number);
    return value;
}

static bool plain_page(struct grants *g, uint32_t frame, bool write, uint64_t *maddr)
{
    if (dict_at(g->types, frame))
        return false;
    uint64_t entry = space_lookup(g->space, frame), mfn = entry >> PAGE_SHIFT;
    if (!(entry & P2M_PRESENT) || mfn >= g->memory->frames)
        return false;
    if (write && (entry & (P2M_WRITE | P2M_COW)) != P2M_WRITE)
        return false;
    *maddr = mfn << PAGE_SHIFT;
    return g->memory->table[mfn].owner == g->owner;
}

bool grants_find(struct grants *g, uint32_t ref, bool write, uint64_t *maddr)
{
    PyObject *kept = dict_at(g->kept, ref);
    if (kept) {
        *maddr = PyLong_AsUnsignedLongLong(kept);
        return !PyErr_Occurred() && *maddr >> PAGE_SHIFT < g->memory->frames &&
               !(*maddr % PAGE_SIZE);
    }
    const uint64_t *frames = g->frames.buf;
    uint64_t count = g->space ? (uint64_t)g->frames.len / sizeof(*frames) : 0;
    if (ref / PER_FRAME >= count || frames[ref / PER_FRAME] >= g->memory->frames ||
        dict_at(g->active, ref))
        return false;
    struct entry entry; /* one copy: the guest may change it at any time */
    memcpy(&entry,
           g->memory->base + (frames[ref / PER_FRAME] << PAGE_SHIFT) +
               ref % PER_FRAME * sizeof(entry),
           sizeof(entry));
    uint32_t mask = GTF_TYPE_MASK | GTF_SUB_PAGE | (write ? GTF_READONLY : 0);
    return (entry.flags & mask) == GTF_PERMIT_ACCESS && entry.domid == g->peer &&
           plain_page(g, entry.frame, write, maddr);
}

#define MAX_PARTS 64

struct part {
    uint32_t ref;
    uint16_t offset, size;
};

/* Where the parts are, checked: their bytes in all, or -1 if Python is to look at them. */
static Py_ssize_t find_parts(struct grants *g, const Py_buffer *buffer, bool write, uint64_t *maddr)
{
    const struct part *part = buffer->buf;
    Py_ssize_t count = buffer->len / (Py_ssize_t)sizeof(*part), total = 0;
    if (count > MAX_PARTS || buffer->len % (Py_ssize_t)sizeof(*part))
        return -1;
    for (Py_ssize_t i = 0; i < count; i++) {
        if (part[i].offset + part[i].size > (int)PAGE_SIZE ||
            !grants_find(g, part[i].ref, write, &maddr[i]))
            return -1;
        maddr[i] += part[i].offset;
        total += part[i].size;
    }
    return total;
}

static void move_parts(struct memory *m, const Py_buffer *buffer, const uint64_t *maddr, char *data,
                       bool write)
{
    const struct part *part = buffer->buf;
    for (Py_ssize_t i = 0; i < buffer->len / (Py_ssize_t)sizeof(*part); data += part[i++].size) {
        if (!write) {
            memcpy(data, m->base + maddr[i], part[i].size);
        } else if (part[i].size) {
            frame_written(m, maddr[i] >> PAGE_SHIFT);
            memcpy(m->base + maddr[i], data, part[i].size);
        }
    }
}

PyObject *memory_exchange(struct memory *m, PyObject *args)
{
    PyObject *described, *none = PyDict_New(), *result = NULL;
    Py_buffer parts, data = {0};
    struct grants g;
    uint64_t maddr[MAX_PARTS];
    if (!none || !PyArg_ParseTuple(args, "Oy*|y*", &described, &parts, &data)) {
        Py_XDECREF(none);
        return NULL;
    }
    bool write = data.obj != NULL;
    Py_ssize_t total = -1;
    if (grants_open(&g, m, none, described))
        total = find_parts(&g, &parts, write, maddr);
    if (write && total != data.len)
        total = -1;
    if (!PyErr_Occurred() && total >= 0)
        result = PyBytes_FromStringAndSize(NULL, write ? 0 : total);
    if (result)
        move_parts(m, &parts, maddr, write ? data.buf : PyBytes_AS_STRING(result), write);
    else if (!PyErr_Occurred())
        result = Py_NewRef(Py_None);
    grants_close(&g);
    Py_DECREF(none);
    PyBuffer_Release(&parts);
    if (write)
        PyBuffer_Release(&data);
    return result;
}
