/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Machine memory: one sparse memfd, mapped once, and a frame table beside it.
 */
#define _GNU_SOURCE
#include "pv.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PUNCH_RUN 16 /* from this length on, freed frames go back to the host at once */

static uint8_t *host_of(struct memory *m, uint64_t mfn)
{
    return m->base + (mfn << PAGE_SHIFT);
}

static void frame_take(struct memory *m, uint64_t mfn, uint32_t owner)
{
    struct frame *f = &m->table[mfn];
    if (f->flags & FRAME_SCRUB)
        memset(host_of(m, mfn), 0, PAGE_SIZE);
    f->owner = owner;
    f->refs = 1;
    f->writes = 0;
    f->types = 0;
    f->linear = 0;
    f->stamp = m->tlb_clock;
    f->flags = (f->flags & FRAME_CODE) | FRAME_USED;
    m->free--;
}

uint64_t frame_alloc(struct memory *m, uint32_t owner)
{
    for (uint64_t mfn = m->hint; mfn < m->frames; mfn++)
        if (!(m->table[mfn].flags & FRAME_USED)) {
            m->hint = mfn + 1;
            frame_take(m, mfn, owner);
            return mfn;
        }
    return 0;
}

static void frames_release(struct memory *m, uint64_t mfn, uint64_t count)
{
    bool punched = count >= PUNCH_RUN &&
                   madvise(host_of(m, mfn), count << PAGE_SHIFT, MADV_REMOVE) == 0;
    for (uint64_t i = mfn; i < mfn + count; i++) {
        struct frame *f = &m->table[i];
        frame_written(m, i);
        f->refs = 0;
        f->owner = 0;
        f->flags = (f->flags & FRAME_CODE) | (punched ? 0 : FRAME_SCRUB);
    }
    m->free += count;
    if (mfn < m->hint)
        m->hint = mfn;
}

void frame_put(struct memory *m, uint64_t mfn)
{
    if (--m->table[mfn].refs == 0)
        frames_release(m, mfn, 1);
}

void frame_written(struct memory *m, uint64_t mfn)
{
    struct frame *f = &m->table[mfn];
    if (m->log_dirty)
        f->flags |= FRAME_DIRTY;
    if (unlikely(f->flags & FRAME_CODE)) {
        pthread_mutex_lock(&m->lock);
        for (struct engine *e = m->engines; e; e = e->next)
            engine_queue(e, mfn);
        f->flags &= ~FRAME_CODE;
        pthread_mutex_unlock(&m->lock);
    }
}

static bool known_frame(struct memory *m, uint64_t mfn)
{
    if (mfn < m->frames)
        return true;
    PyErr_Format(PyExc_IndexError, "no frame 0x%llx", (unsigned long long)mfn);
    return false;
}

static bool used_frame(struct memory *m, uint64_t mfn)
{
    if (!known_frame(m, mfn))
        return false;
    if (m->table[mfn].flags & FRAME_USED)
        return true;
    PyErr_Format(PyExc_ValueError, "frame 0x%llx is free", (unsigned long long)mfn);
    return false;
}

static bool in_range(struct memory *m, uint64_t maddr, uint64_t size)
{
    uint64_t total = m->frames << PAGE_SHIFT;
    if (m->base && maddr <= total && size <= total - maddr)
        return true;
    PyErr_Format(PyExc_IndexError, "machine address 0x%llx out of range", (unsigned long long)maddr);
    return false;
}

/* -- methods ---------------------------------------------------------------------------- */

static PyObject *memory_alloc(struct memory *m, PyObject *args)
{
    unsigned long long owner, count = 1;
    if (!PyArg_ParseTuple(args, "K|K", &owner, &count))
        return NULL;
    if (!m->base || count > m->free)
        return PyErr_Format(PyExc_MemoryError, "the machine has %llu free frames, %llu wanted",
                            (unsigned long long)m->free, count);
    PyObject *list = PyList_New(0);
    uint64_t mfn = m->hint;
    while (list && count) {
        while (m->table[mfn].flags & FRAME_USED)
            mfn++;
        uint64_t first = mfn;
        while (count && mfn < m->frames && !(m->table[mfn].flags & FRAME_USED)) {
            frame_take(m, mfn++, (uint32_t)owner);
            count--;
        }
        PyObject *extent = Py_BuildValue("KK", first, mfn - first);
        if (!extent || PyList_Append(list, extent) < 0)
            Py_CLEAR(list);
        Py_XDECREF(extent);
    }
    m->hint = mfn;
    return list;
}

static PyObject *memory_free(struct memory *m, PyObject *args)
{
    unsigned long long mfn, count = 1;
    if (!PyArg_ParseTuple(args, "K|K", &mfn, &count))
        return NULL;
    if (count > m->frames)
        count = m->frames + 1;
    for (uint64_t i = mfn; i < mfn + count; i++) {
        if (!used_frame(m, i))
            return NULL;
        if (m->table[i].refs != 1)
            return PyErr_Format(PyExc_ValueError, "frame 0x%llx has %u references",
                                (unsigned long long)i, m->table[i].refs);
    }
    frames_release(m, mfn, count);
    Py_RETURN_NONE;
}

/* Negative numbers wrap, and are out of range then. */
#define FRAME_ARG(arg, mfn, check)                                               \
    unsigned long long mfn = PyLong_AsUnsignedLongLongMask(arg);                 \
    if (PyErr_Occurred() || !check(m, mfn))                                      \
        return NULL;

static PyObject *memory_free_frames(struct memory *m, PyObject *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(m->free);
}

static PyObject *memory_owner(struct memory *m, PyObject *arg)
{
    FRAME_ARG(arg, mfn, known_frame)
    return PyLong_FromUnsignedLong(m->table[mfn].owner);
}

static PyObject *memory_set_owner(struct memory *m, PyObject *args)
{
    unsigned long long mfn, owner;
    if (!PyArg_ParseTuple(args, "KK", &mfn, &owner) || !used_frame(m, mfn))
        return NULL;
    m->table[mfn].owner = (uint32_t)owner;
    Py_RETURN_NONE;
}

static PyObject *memory_get_ref(struct memory *m, PyObject *arg)
{
    FRAME_ARG(arg, mfn, used_frame)
    if (m->table[mfn].refs == UINT32_MAX)
        return PyErr_Format(PyExc_OverflowError, "too many references");
    return PyLong_FromUnsignedLong(++m->table[mfn].refs);
}

static PyObject *memory_put_ref(struct memory *m, PyObject *arg)
{
    FRAME_ARG(arg, mfn, used_frame)
    frame_put(m, mfn);
    return PyLong_FromUnsignedLong(m->table[mfn].refs);
}

static PyObject *memory_refs(struct memory *m, PyObject *arg)
{
    FRAME_ARG(arg, mfn, known_frame)
    return PyLong_FromUnsignedLong(m->table[mfn].refs);
}

static PyObject *memory_read(struct memory *m, PyObject *args)
{
    unsigned long long maddr, size;
    if (!PyArg_ParseTuple(args, "KK", &maddr, &size) || !in_range(m, maddr, size))
        return NULL;
    return PyBytes_FromStringAndSize((char *)m->base + maddr, (Py_ssize_t)size);
}

static void copy_out(struct memory *m, uint64_t maddr, const void *from, uint64_t size)
{
    if (!size)
        return;
    for (uint64_t mfn = maddr >> PAGE_SHIFT; mfn <= (maddr + size - 1) >> PAGE_SHIFT; mfn++)
        frame_written(m, mfn);
    memcpy(m->base + maddr, from, size);
}

static PyObject *memory_write(struct memory *m, PyObject *args)
{
    unsigned long long maddr;
    Py_buffer data;
    if (!PyArg_ParseTuple(args, "Ky*", &maddr, &data))
        return NULL;
    bool fine = in_range(m, maddr, (uint64_t)data.len);
    if (fine)
        copy_out(m, maddr, data.buf, (uint64_t)data.len);
    PyBuffer_Release(&data);
    if (!fine)
        return NULL;
    Py_RETURN_NONE;
}

#define WORD_METHODS(name, type)                                                          \
    static PyObject *memory_read_##name(struct memory *m, PyObject *arg)                  \
    {                                                                                     \
        unsigned long long maddr = PyLong_AsUnsignedLongLongMask(arg);                    \
        type value;                                                                       \
        if (PyErr_Occurred() || !in_range(m, maddr, sizeof(value)))                       \
            return NULL;                                                                  \
        memcpy(&value, m->base + maddr, sizeof(value));                                   \
        return PyLong_FromUnsignedLongLong(value);                                        \
    }                                                                                     \
    static PyObject *memory_write_##name(struct memory *m, PyObject *args)                \
    {                                                                                     \
        unsigned long long maddr, wide;                                                   \
        if (!PyArg_ParseTuple(args, "KK", &maddr, &wide) || !in_range(m, maddr, sizeof(type))) \
            return NULL;                                                                  \
        type value = (type)wide;                                                          \
        copy_out(m, maddr, &value, sizeof(value));                                        \
        Py_RETURN_NONE;                                                                   \
    }
WORD_METHODS(u32, uint32_t)
WORD_METHODS(u64, uint64_t)

static _Atomic uint32_t *bit_word(struct memory *m, PyObject *args, uint32_t *mask)
{
    unsigned long long maddr, bit;
    if (!PyArg_ParseTuple(args, "KK", &maddr, &bit))
        return NULL;
    uint64_t at = maddr + bit / 32 * 4;
    if (!in_range(m, bit < 1ull << 40 && maddr < m->frames << PAGE_SHIFT ? at : ~0ull, 4))
        return NULL;
    if (maddr % 4) {
        PyErr_SetString(PyExc_ValueError, "bitmaps are aligned to 4 bytes");
        return NULL;
    }
    frame_written(m, at >> PAGE_SHIFT);
    *mask = 1u << (bit % 32);
    return (_Atomic uint32_t *)(m->base + at);
}

static PyObject *memory_test_and_set_bit(struct memory *m, PyObject *args)
{
    uint32_t mask;
    _Atomic uint32_t *word = bit_word(m, args, &mask);
    return word ? PyBool_FromLong((atomic_fetch_or(word, mask) & mask) != 0) : NULL;
}

static PyObject *memory_test_and_clear_bit(struct memory *m, PyObject *args)
{
    uint32_t mask;
    _Atomic uint32_t *word = bit_word(m, args, &mask);
    return word ? PyBool_FromLong((atomic_fetch_and(word, ~mask) & mask) != 0) : NULL;
}

static PyObject *memory_compare_exchange_u32(struct memory *m, PyObject *args)
{
    unsigned long long maddr;
    unsigned int expected, value;
    if (!PyArg_ParseTuple(args, "KII", &maddr, &expected, &value) || !in_range(m, maddr, 4))
        return NULL;
    if (maddr % 4)
        return PyErr_Format(PyExc_ValueError, "the word is not aligned");
    frame_written(m, maddr >> PAGE_SHIFT);
    atomic_compare_exchange_strong((_Atomic uint32_t *)(m->base + maddr), &expected, value);
    return PyLong_FromUnsignedLong(expected);
}

static PyObject *memory_dirty_frames(struct memory *m, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"clear", NULL};
    int clear = 1;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|p", names, &clear))
        return NULL;
    PyObject *list = PyList_New(0);
    for (uint64_t mfn = RESERVED_FRAMES; list && mfn < m->frames; mfn++)
        if (m->table[mfn].flags & FRAME_DIRTY) {
            PyObject *value = PyLong_FromUnsignedLongLong(mfn);
            if (!value || PyList_Append(list, value) < 0)
                Py_CLEAR(list);
            Py_XDECREF(value);
            if (clear)
                m->table[mfn].flags &= ~FRAME_DIRTY;
        }
    /* A page is marked by its first store after a TLB fill: re-arm. */
    for (struct engine *e = m->engines; e && clear; e = e->next)
        e->flush_all = true;
    return list;
}

static PyObject *memory_set_dirty_logging(struct memory *m, PyObject *arg)
{
    int on = PyObject_IsTrue(arg);
    if (on < 0)
        return NULL;
    m->log_dirty = on;
    for (uint64_t mfn = 0; mfn < m->frames; mfn++)
        m->table[mfn].flags &= ~FRAME_DIRTY;
    for (struct engine *e = m->engines; e; e = e->next)
        e->flush_all = true;
    Py_RETURN_NONE;
}

bool memory_external(struct memory *m, uint32_t domid)
{
    return domid < 0x8000 && m->external[domid / 8] >> domid % 8 & 1;
}

void memory_set_m2p(struct memory *m, uint64_t mfn, uint64_t gpfn)
{
    uint32_t narrow = (uint32_t)gpfn;
    if (!m->m2p)
        return;
    memcpy(m->base + m->m2p + mfn * 8, &gpfn, 8);
    memcpy(m->base + m->m2p32 + mfn * 4, &narrow, 4);
}

static PyObject *memory_set_m2p_method(struct memory *m, PyObject *args)
{
    unsigned long long mfn, gfn, count;
    if (!PyArg_ParseTuple(args, "KKK", &mfn, &gfn, &count))
        return NULL;
    if (mfn > m->frames || count > m->frames - mfn)
        return PyErr_Format(PyExc_IndexError, "no frame 0x%llx", mfn);
    for (uint64_t i = 0; i < count; i++)
        memory_set_m2p(m, mfn + i, gfn == ~0ull ? gfn : gfn + i);
    Py_RETURN_NONE;
}

static PyObject *memory_m2p(struct memory *m, PyObject *arg)
{
    FRAME_ARG(arg, mfn, known_frame)
    uint64_t gfn = ~0ull;
    if (m->m2p)
        memcpy(&gfn, m->base + m->m2p + mfn * 8, 8);
    return PyLong_FromUnsignedLongLong(gfn);
}

static PyObject *memory_set_external(struct memory *m, PyObject *args)
{
    unsigned int domid;
    int external;
    if (!PyArg_ParseTuple(args, "Ip", &domid, &external))
        return NULL;
    if (domid >= 0x8000)
        return PyErr_Format(PyExc_ValueError, "domids have 15 bits");
    m->external[domid / 8] =
        (uint8_t)((m->external[domid / 8] & ~(1u << domid % 8)) | (unsigned)external << domid % 8);
    Py_RETURN_NONE;
}

static PyObject *memory_get_writable(struct memory *m, PyObject *arg)
{
    FRAME_ARG(arg, mfn, used_frame)
    return PyBool_FromLong(pv_get_writable(m, mfn));
}

static PyObject *memory_put_writable(struct memory *m, PyObject *arg)
{
    FRAME_ARG(arg, mfn, used_frame)
    if (pv_type(m, mfn) != PGT_writable_page || !pv_count(m, mfn))
        return PyErr_Format(PyExc_ValueError, "frame 0x%llx isn't used so", mfn);
    pv_put_writable(m, mfn);
    Py_RETURN_NONE;
}

/* Frames whose last reference is to be dropped; whoever keeps the accounts does. */
static PyObject *memory_take_zombies(struct memory *m, PyObject *unused)
{
    (void)unused;
    PyObject *list = PyList_New(0);
    while (list && m->zombies) {
        struct frame *f = &m->table[m->zombies];
        PyObject *mfn = PyLong_FromUnsignedLong(m->zombies);
        m->zombies = f->next_zombie;
        f->flags &= ~FRAME_ZOMBIE;
        if (!mfn || PyList_Append(list, mfn) < 0)
            Py_CLEAR(list);
        Py_XDECREF(mfn);
    }
    return list;
}

/* (type, count, validated, pinned) */
static PyObject *memory_types(struct memory *m, PyObject *arg)
{
    FRAME_ARG(arg, mfn, known_frame)
    uint32_t types = m->table[mfn].types;
    return Py_BuildValue("IINN", types >> 29, types & PGT_count_mask,
                         PyBool_FromLong((types & PGT_validated) != 0),
                         PyBool_FromLong((types & PGT_pinned) != 0));
}

static PyObject *memory_use_m2p(struct memory *m, PyObject *args)
{
    unsigned long long wide, narrow;
    if (!PyArg_ParseTuple(args, "KK", &wide, &narrow) || !in_range(m, wide, m->frames * 8) ||
        !in_range(m, narrow, m->frames * 4))
        return NULL;
    m->m2p = wide;
    m->m2p32 = narrow;
    Py_RETURN_NONE;
}

/* Which of some frames hold anything: those that were never touched aren't made by looking. */
static PyObject *memory_data(struct memory *m, PyObject *args)
{
    unsigned long long mfn, count = 1;
    if (!PyArg_ParseTuple(args, "K|K", &mfn, &count) ||
        !in_range(m, mfn << PAGE_SHIFT, count << PAGE_SHIFT))
        return NULL;
    off_t at = (off_t)(mfn << PAGE_SHIFT), end = (off_t)((mfn + count) << PAGE_SHIFT);
    PyObject *list = PyList_New(0);
    while (list && at < end) {
        off_t data = lseek(m->fd, at, SEEK_DATA);
        if (data < 0 || data >= end)
            break;
        at = lseek(m->fd, data, SEEK_HOLE);
        if (at < 0 || at > end)
            at = end;
        PyObject *run = Py_BuildValue("LL", (long long)(data >> PAGE_SHIFT),
                                      (long long)(((at + (off_t)PAGE_SIZE - 1) >> PAGE_SHIFT) -
                                                  (data >> PAGE_SHIFT)));
        if (!run || PyList_Append(list, run) < 0)
            Py_CLEAR(list);
        Py_XDECREF(run);
    }
    return list;
}

static PyObject *memory_digest(struct memory *m, PyObject *extents)
{
    PyObject *hashlib = PyImport_ImportModule("hashlib");
    PyObject *hash = hashlib ? PyObject_CallMethod(hashlib, "sha256", NULL) : NULL;
    PyObject *iterator = hash ? PyObject_GetIter(extents) : NULL;
    PyObject *item, *result = NULL;
    while (iterator && (item = PyIter_Next(iterator))) {
        unsigned long long mfn, count;
        bool fine = PyArg_ParseTuple(item, "KK", &mfn, &count) && count <= m->frames &&
                    in_range(m, mfn << PAGE_SHIFT, count << PAGE_SHIFT);
        Py_DECREF(item);
        PyObject *view = fine ? PyMemoryView_FromMemory((char *)host_of(m, mfn),
                                    (Py_ssize_t)(count << PAGE_SHIFT), PyBUF_READ) : NULL;
        PyObject *none = view ? PyObject_CallMethod(hash, "update", "O", view) : NULL;
        Py_XDECREF(view);
        Py_XDECREF(none);
        if (!none)
            break;
    }
    if (iterator && !PyErr_Occurred())
        result = PyObject_CallMethod(hash, "digest", NULL);
    Py_XDECREF(iterator);
    Py_XDECREF(hash);
    Py_XDECREF(hashlib);
    return result;
}

static void memory_unmap(struct memory *m)
{
    if (!m->base)
        return;
    munmap(m->base, m->frames << PAGE_SHIFT);
    munmap(m->table, m->frames * sizeof(struct frame));
    close(m->fd);
    m->base = NULL;
    m->frames = m->free = 0;
}

static PyObject *memory_close(struct memory *m, PyObject *unused)
{
    (void)unused;
    if (m->engines)
        return PyErr_Format(PyExc_ValueError, "close the CPUs' spaces before their memory");
    memory_unmap(m);
    Py_RETURN_NONE;
}

/*
 * A place for a large mapping, for the kernel to take or leave.  Left to itself it would put the
 * machine's memory next to the libraries, and code buffers out of reach of short calls to them.
 */
static void *far_away(size_t bytes)
{
    static _Atomic uintptr_t next;
    const uintptr_t distance = 1ull << 40;
    uintptr_t here = (uintptr_t)&next & ~((1ull << 30) - 1), at = next += (bytes | 0x1fffff) + 1;
    return here > distance + at ? (void *)(here - distance - at) : NULL;
}

static PyObject *memory_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"frames", NULL};
    unsigned long long frames;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "K", names, &frames))
        return NULL;
    if (frames <= RESERVED_FRAMES || frames > 1ull << 26)
        return PyErr_Format(PyExc_ValueError, "a machine has between %u and %u frames",
                            RESERVED_FRAMES + 1, 1u << 26);
    struct memory *m = (struct memory *)type->tp_alloc(type, 0);
    if (!m)
        return NULL;
    size_t bytes = frames << PAGE_SHIFT, table = frames * sizeof(struct frame);
    m->fd = memfd_create("xenograft-memory", MFD_CLOEXEC);
    void *base = m->fd >= 0 && ftruncate(m->fd, (off_t)bytes) == 0
        ? mmap(far_away(bytes), bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, m->fd, 0)
        : MAP_FAILED;
    m->table = mmap(NULL, table, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED || m->table == MAP_FAILED) {
        PyErr_SetFromErrno(PyExc_OSError);
        if (m->fd >= 0)
            close(m->fd);
        if (base != MAP_FAILED)
            munmap(base, bytes);
        if (m->table != MAP_FAILED)
            munmap(m->table, table);
        Py_DECREF(m);
        return NULL;
    }
    pthread_mutex_init(&m->lock, NULL);
    m->base = base;
    m->frames = frames;
    m->free = frames - RESERVED_FRAMES;
    m->hint = RESERVED_FRAMES;
    m->tlb_clock = 1;
    return (PyObject *)m;
}

static void memory_dealloc(struct memory *m)
{
    memory_unmap(m);
    Py_TYPE(m)->tp_free((PyObject *)m);
}

static PyObject *memory_frames(struct memory *m, void *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(m->frames);
}

#define METHOD(name, flags) {#name, (PyCFunction)(void (*)(void))memory_##name, flags, NULL}
static PyMethodDef methods[] = {
    METHOD(alloc, METH_VARARGS), METHOD(free, METH_VARARGS), METHOD(free_frames, METH_NOARGS),
    METHOD(owner, METH_O), METHOD(set_owner, METH_VARARGS), METHOD(get_ref, METH_O),
    METHOD(put_ref, METH_O), METHOD(refs, METH_O), METHOD(read, METH_VARARGS),
    METHOD(write, METH_VARARGS), METHOD(read_u32, METH_O), METHOD(write_u32, METH_VARARGS),
    METHOD(read_u64, METH_O), METHOD(write_u64, METH_VARARGS),
    METHOD(test_and_set_bit, METH_VARARGS), METHOD(test_and_clear_bit, METH_VARARGS),
    METHOD(compare_exchange_u32, METH_VARARGS), METHOD(dirty_frames, METH_VARARGS | METH_KEYWORDS),
    METHOD(locate, METH_VARARGS), METHOD(gather, METH_O), METHOD(scatter, METH_VARARGS),
    METHOD(fill, METH_VARARGS), METHOD(exchange, METH_VARARGS),
    METHOD(set_external, METH_VARARGS), METHOD(get_writable, METH_O),
    METHOD(put_writable, METH_O), METHOD(take_zombies, METH_NOARGS), METHOD(types, METH_O),
    METHOD(use_m2p, METH_VARARGS), METHOD(m2p, METH_O),
    {"set_m2p", (PyCFunction)(void (*)(void))memory_set_m2p_method, METH_VARARGS, NULL},
    METHOD(set_dirty_logging, METH_O), METHOD(digest, METH_O), METHOD(data, METH_VARARGS), METHOD(close, METH_NOARGS),
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"frames", (getter)memory_frames, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyTypeObject Memory_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "xenograft.engine._core.Memory",
    .tp_basicsize = sizeof(struct memory),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = memory_new,
    .tp_dealloc = (destructor)memory_dealloc,
    .tp_methods = methods,
    .tp_getset = properties,
};

int memory_register(PyObject *module)
{
    return PyModule_AddType(module, &Memory_Type);
}
