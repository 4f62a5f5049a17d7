/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A guest-physical space: the second stage, four levels of 512 entries.
 *
 * The engine's page walker and TLB fill come here (overrides.c); a change of an entry that a
 * TLB may hold raises the space's generation, and each vCPU flushes before it runs again.
 */
#include "core.h"

#include <stdlib.h>
#include <string.h>

uint64_t *space_entry(struct space *s, uint64_t gfn, bool create)
{
    if (gfn >> GFN_BITS)
        return NULL;
    void **level = (void **)s->root;
    for (int shift = 27; shift > 0; shift -= 9) {
        void **slot = &level[(gfn >> shift) & 511];
        if (!*slot) {
            if (!create || !(*slot = calloc(512, sizeof(uint64_t))))
                return NULL;
        }
        level = *slot;
    }
    return (uint64_t *)level + (gfn & 511);
}

uint64_t space_lookup(struct space *s, uint64_t gfn)
{
    uint64_t *entry = space_entry(s, gfn, false);
    return entry ? *entry : 0;
}

static void entry_changes(struct space *s, uint64_t old)
{
    if (old & P2M_FILLED || (!(old & P2M_PRESENT) && s->holes_filled))
        s->generation++;
}

bool space_unshare(struct space *s, uint64_t *entry)
{
    struct memory *m = s->memory;
    uint64_t old = *entry >> PAGE_SHIFT, mfn = old;
    if (m->table[old].refs > 1) {
        mfn = frame_alloc(m, s->owner);
        if (!mfn)
            return false;
        memcpy(m->base + (mfn << PAGE_SHIFT), m->base + (old << PAGE_SHIFT), PAGE_SIZE);
        m->table[old].refs--;
        if (m->log_dirty)
            m->table[mfn].flags |= FRAME_DIRTY;
    }
    m->table[mfn].owner = s->owner;
    entry_changes(s, *entry);
    *entry = mfn << PAGE_SHIFT | (*entry & P2M_FLAGS & ~P2M_COW);
    return true;
}

uint8_t *space_host(struct space *s, uint64_t gpa, bool write)
{
    uint64_t *entry = space_entry(s, gpa >> PAGE_SHIFT, false);
    if (!entry || !(*entry & P2M_PRESENT))
        return NULL;
    if (write) {
        if (!(*entry & P2M_WRITE))
            return NULL;
        if (*entry & P2M_COW && !space_unshare(s, entry))
            return NULL;
        frame_written(s->memory, *entry >> PAGE_SHIFT);
    }
    return s->memory->base + (*entry & ~(PAGE_SIZE - 1)) + (gpa & (PAGE_SIZE - 1));
}

static PyObject *access_error(uint64_t address)
{
    PyObject *value = PyLong_FromUnsignedLongLong(address);
    if (value) {
        PyObject *error = PyObject_CallOneArg(AccessError, value);
        if (error)
            PyErr_SetObject(AccessError, error);
        Py_XDECREF(error);
        Py_DECREF(value);
    }
    return NULL;
}

static bool range_of_gfns(unsigned long long gfn, unsigned long long count)
{
    if (count <= 1ull << GFN_BITS && gfn + count <= 1ull << GFN_BITS)
        return true;
    PyErr_Format(PyExc_IndexError, "gfn 0x%llx out of range", gfn);
    return false;
}

static PyObject *space_map(struct space *s, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"gfn", "mfn", "count", "flags", NULL};
    unsigned long long gfn, mfn, count = 1, flags = P2M_PRESENT | P2M_WRITE | P2M_EXEC;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "KK|KK", names, &gfn, &mfn, &count, &flags) ||
        !range_of_gfns(gfn, count))
        return NULL;
    if (!(flags & P2M_PRESENT) || flags & ~P2M_FLAGS)
        return PyErr_Format(PyExc_ValueError, "flags must hold P2M_PRESENT and no unknown bit");
    if (mfn >= s->memory->frames || count > s->memory->frames - mfn)
        return PyErr_Format(PyExc_IndexError, "no frame 0x%llx", mfn);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t *entry = space_entry(s, gfn + i, true);
        if (!entry)
            return PyErr_NoMemory();
        entry_changes(s, *entry);
        *entry = (mfn + i) << PAGE_SHIFT | (flags & P2M_FLAGS) | P2M_PRESENT;
    }
    Py_RETURN_NONE;
}

static PyObject *space_unmap(struct space *s, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"gfn", "count", NULL};
    unsigned long long gfn, count = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "K|K", names, &gfn, &count) ||
        !range_of_gfns(gfn, count))
        return NULL;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t *entry = space_entry(s, gfn + i, false);
        if (!entry)
            continue;
        if (*entry & P2M_FILLED)
            s->generation++;
        *entry = 0;
    }
    Py_RETURN_NONE;
}

static PyObject *space_lookup_method(struct space *s, PyObject *arg)
{
    unsigned long long gfn = PyLong_AsUnsignedLongLongMask(arg);
    if (PyErr_Occurred())
        return NULL;
    uint64_t entry = space_lookup(s, gfn);
    if (!(entry & P2M_PRESENT))
        Py_RETURN_NONE;
    return Py_BuildValue("KK", entry >> PAGE_SHIFT, entry & P2M_FLAGS);
}

/* Entries that go on from each other, gathered for a list of (gfn, mfn, count, flags). */
struct run {
    PyObject *list;
    uint64_t gfn, mfn, count, flags;
};

static bool flush_run(struct run *r)
{
    if (!r->count)
        return true;
    PyObject *item = Py_BuildValue("KKKK", r->gfn, r->mfn, r->count, r->flags);
    bool fine = item && PyList_Append(r->list, item) == 0;
    Py_XDECREF(item);
    r->count = 0;
    return fine;
}

static bool run_add(struct run *r, uint64_t gfn, uint64_t entry, uint64_t count)
{
    uint64_t mfn = entry >> PAGE_SHIFT, flags = entry & P2M_FLAGS;
    if (r->count && gfn == r->gfn + r->count && mfn == r->mfn + r->count && flags == r->flags) {
        r->count += count;
        return true;
    }
    if (!flush_run(r))
        return false;
    r->gfn = gfn, r->mfn = mfn, r->count = count, r->flags = flags;
    return true;
}

static PyObject *run_done(struct run *r, bool fine)
{
    if (!r->list || !fine || !flush_run(r))
        Py_CLEAR(r->list);
    return r->list;
}

static bool collect(struct run *r, void **level, int shift, uint64_t gfn)
{
    for (uint64_t i = 0; shift && i < 512; i++)
        if (level[i] && !collect(r, level[i], shift - 9, gfn | i << shift))
            return false;
    uint64_t *entries = (uint64_t *)level, count;
    for (uint64_t i = 0; !shift && i < 512; i += count) {
        uint64_t entry = entries[i] & ~P2M_FILLED;
        /* Most entries go on from the one before: this loop sees nearly all of them. */
        for (count = 1; i + count < 512; count++)
            if ((entries[i + count] & ~P2M_FILLED) != entry + (count << PAGE_SHIFT))
                break;
        if (entry & P2M_PRESENT && !run_add(r, gfn | i, entry, count))
            return false;
    }
    return true;
}

static PyObject *space_entries(struct space *s, PyObject *unused)
{
    (void)unused;
    struct run r = {.list = PyList_New(0)};
    return run_done(&r, r.list && collect(&r, (void **)s->root, 27, 0));
}

static PyObject *space_read(struct space *s, PyObject *args)
{
    unsigned long long gpa, size;
    if (!PyArg_ParseTuple(args, "KK", &gpa, &size))
        return NULL;
    if (size > s->memory->frames << PAGE_SHIFT || gpa + size < gpa)
        return access_error(gpa);
    for (uint64_t page = gpa & ~(PAGE_SIZE - 1); size && page < gpa + size; page += PAGE_SIZE)
        if (!(space_lookup(s, page >> PAGE_SHIFT) & P2M_PRESENT))
            return access_error(page > gpa ? page : gpa);
    PyObject *result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    char *to = result ? PyBytes_AS_STRING(result) : NULL;
    while (to && size) {
        uint64_t part = PAGE_SIZE - (gpa & (PAGE_SIZE - 1));
        part = part < size ? part : size;
        memcpy(to, space_host(s, gpa, false), part);
        to += part, gpa += part, size -= part;
    }
    return result;
}

static PyObject *space_write(struct space *s, PyObject *args)
{
    unsigned long long gpa;
    Py_buffer data;
    if (!PyArg_ParseTuple(args, "Ky*", &gpa, &data))
        return NULL;
    uint64_t size = (uint64_t)data.len, bad = 0;
    bool fine = gpa + size >= gpa;
    for (uint64_t page = gpa & ~(PAGE_SIZE - 1); fine && size && page < gpa + size;
         page += PAGE_SIZE) {
        uint64_t entry = space_lookup(s, page >> PAGE_SHIFT);
        fine = (entry & (P2M_PRESENT | P2M_WRITE)) == (P2M_PRESENT | P2M_WRITE);
        bad = page > gpa ? page : gpa;
    }
    const char *from = data.buf;
    while (fine && size) {
        uint64_t part = PAGE_SIZE - (gpa & (PAGE_SIZE - 1));
        part = part < size ? part : size;
        uint8_t *to = space_host(s, gpa, true);
        if (!to) {
            PyErr_NoMemory();
            break;
        }
        memcpy(to, from, part);
        from += part, gpa += part, size -= part;
    }
    PyBuffer_Release(&data);
    if (!fine)
        return access_error(bad);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

/* -- copy-on-write ------------------------------------------------------------------------- */

struct sharing {
    struct space *from, *to;
    uint32_t shared;
    struct run fresh, left;
};

static bool share_level(struct sharing *h, void **level, int shift, uint64_t gfn)
{
    for (uint64_t i = 0; shift && i < 512; i++)
        if (level[i] && !share_level(h, level[i], shift - 9, gfn | i << shift))
            return false;
    if (shift)
        return true;
    struct frame *table = h->from->memory->table;
    uint64_t *entries = (uint64_t *)level, *others = space_entry(h->to, gfn, true);
    if (!others) {
        PyErr_NoMemory();
        return false;
    }
    for (uint64_t i = 0; i < 512; i++) {
        uint64_t entry = entries[i];
        if (!(entry & P2M_PRESENT))
            continue;
        struct frame *f = &table[entry >> PAGE_SHIFT];
        if (!(entry & P2M_COW)) {
            if (f->owner != h->from->owner || f->refs != 1) {
                /* It is somebody else's, or somebody has hold of it under its number. */
                if (!run_add(&h->left, gfn | i, entry, 1))
                    return false;
                continue;
            }
            if (entry & P2M_FILLED)
                h->from->generation++;
            entries[i] = entry |= P2M_COW;
            f->owner = h->shared;
            if (!run_add(&h->fresh, gfn | i, entry, 1))
                return false;
        }
        f->refs++;
        others[i] = entry & ~P2M_FILLED;
    }
    return true;
}

static PyObject *space_share(struct space *s, PyObject *args)
{
    struct sharing h = {.from = s};
    unsigned int owner, other, shared;
    PyObject *to;
    if (!PyArg_ParseTuple(args, "O!III", &Space_Type, &to, &owner, &other, &shared))
        return NULL;
    h.to = (struct space *)to;
    h.shared = shared;
    if (h.to == s || h.to->memory != s->memory)
        return PyErr_Format(PyExc_ValueError, "frames are shared between two spaces of a memory");
    s->owner = owner;
    h.to->owner = other;
    h.fresh.list = PyList_New(0);
    h.left.list = PyList_New(0);
    bool fine = h.fresh.list && h.left.list && share_level(&h, (void **)s->root, 27, 0);
    PyObject *fresh = run_done(&h.fresh, fine), *left = run_done(&h.left, fine);
    PyObject *both = fresh && left ? PyTuple_Pack(2, fresh, left) : NULL;
    Py_XDECREF(fresh);
    Py_XDECREF(left);
    return both;
}

static PyObject *space_unshare_method(struct space *s, PyObject *arg)
{
    unsigned long long gfn = PyLong_AsUnsignedLongLong(arg);
    if (PyErr_Occurred())
        return NULL;
    uint64_t *entry = space_entry(s, gfn, false);
    return PyBool_FromLong(!entry || !(*entry & P2M_COW) || space_unshare(s, entry));
}

/* Of entries that were shared: those that have a frame of their own by now. */
static PyObject *space_private(struct space *s, PyObject *args)
{
    unsigned long long gfn, count;
    if (!PyArg_ParseTuple(args, "KK", &gfn, &count) || !range_of_gfns(gfn, count))
        return NULL;
    struct run r = {.list = PyList_New(0)};
    bool fine = r.list;
    for (uint64_t i = gfn; fine && i < gfn + count; i++) {
        uint64_t entry = space_lookup(s, i);
        if (entry & P2M_PRESENT && !(entry & P2M_COW))
            fine = run_add(&r, i, entry & ~(PAGE_SIZE - 1), 1);
    }
    return run_done(&r, fine);
}

static PyObject *space_drop_shared(struct space *s, PyObject *args)
{
    unsigned long long gfn, count;
    if (!PyArg_ParseTuple(args, "KK", &gfn, &count) || !range_of_gfns(gfn, count))
        return NULL;
    for (uint64_t i = gfn; i < gfn + count; i++) {
        uint64_t *entry = space_entry(s, i, false);
        if (!entry || !(*entry & P2M_COW))
            continue;
        frame_put(s->memory, *entry >> PAGE_SHIFT);
        if (*entry & P2M_FILLED)
            s->generation++;
        *entry = 0;
    }
    Py_RETURN_NONE;
}

#define TRIM_LEAST (8ull << 20)

static PyObject *space_trim(struct space *s, PyObject *args)
{
    unsigned long long least = TRIM_LEAST;
    if (!PyArg_ParseTuple(args, "|K", &least))
        return NULL;
    return PyLong_FromUnsignedLongLong(s->engine ? engine_trim(s->engine, least) : 0);
}

static void free_level(void **level, int shift)
{
    for (int i = 0; shift && i < 512; i++)
        if (level[i])
            free_level(level[i], shift - 9);
    free(level);
}

static void space_clear(struct space *s)
{
    if (s->engine)
        engine_close(s->engine);
    s->engine = NULL;
    for (int i = 0; i < 512; i++)
        if (s->root[i]) {
            free_level((void **)s->root[i], 18);
            s->root[i] = NULL;
        }
}

static PyObject *space_close(struct space *s, PyObject *unused)
{
    (void)unused;
    if (s->engine && s->engine->vcpus)
        return PyErr_Format(PyExc_ValueError, "close the CPUs before their space");
    space_clear(s);
    Py_RETURN_NONE;
}

static PyObject *space_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"memory", NULL};
    PyObject *memory;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!", names, &Memory_Type, &memory))
        return NULL;
    struct space *s = (struct space *)type->tp_alloc(type, 0);
    if (s) {
        s->memory = (struct memory *)memory;
        Py_INCREF(memory);
    }
    return (PyObject *)s;
}

static void space_dealloc(struct space *s)
{
    space_clear(s);
    Py_XDECREF(s->memory);
    Py_TYPE(s)->tp_free((PyObject *)s);
}

static PyMethodDef methods[] = {
    {"map", (PyCFunction)(void (*)(void))space_map, METH_VARARGS | METH_KEYWORDS, NULL},
    {"unmap", (PyCFunction)(void (*)(void))space_unmap, METH_VARARGS | METH_KEYWORDS, NULL},
    {"lookup", (PyCFunction)space_lookup_method, METH_O, NULL},
    {"entries", (PyCFunction)space_entries, METH_NOARGS, NULL},
    {"read", (PyCFunction)space_read, METH_VARARGS, NULL},
    {"write", (PyCFunction)space_write, METH_VARARGS, NULL},
    {"share", (PyCFunction)space_share, METH_VARARGS, NULL},
    {"unshare", (PyCFunction)space_unshare_method, METH_O, NULL},
    {"private", (PyCFunction)space_private, METH_VARARGS, NULL},
    {"drop_shared", (PyCFunction)space_drop_shared, METH_VARARGS, NULL},
    {"trim", (PyCFunction)space_trim, METH_VARARGS, NULL},
    {"close", (PyCFunction)space_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

PyTypeObject Space_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "xenograft.engine._core.Space",
    .tp_basicsize = sizeof(struct space),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = space_new,
    .tp_dealloc = (destructor)space_dealloc,
    .tp_methods = methods,
};

int space_register(PyObject *module)
{
    return PyModule_AddType(module, &Space_Type);
}
