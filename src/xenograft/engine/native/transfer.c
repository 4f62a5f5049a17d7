/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Scattered pieces of memory as one: what devices that move whole pages spend their time with.
 *
 * Pieces are kept as bytes, an array of `struct piece`, so that Python hands them around without
 * looking into them; each is checked again when it is used.
 */
#define _GNU_SOURCE
#include "grants.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#define SECTOR 512
#define SECTORS (PAGE_SIZE / SECTOR)
#define MAX_PIECES 512

struct piece {
    uint64_t maddr, size;
};

struct record {
    uint32_t key;
    uint8_t first, last, unused[2];
};

static uint8_t *host_at(struct memory *m, uint64_t maddr)
{
    return m->base + maddr;
}

/* The pieces in `data`: their number, or -1 with an exception. `total` is what they hold. */
static Py_ssize_t pieces_of(struct memory *m, Py_buffer *data, uint64_t *total)
{
    const struct piece *piece = data->buf;
    Py_ssize_t count = data->len / (Py_ssize_t)sizeof(*piece);
    uint64_t all = m->frames << PAGE_SHIFT;
    *total = 0;
    if (data->len % (Py_ssize_t)sizeof(*piece) || count > MAX_PIECES) {
        PyErr_SetString(PyExc_ValueError, "not an array of pieces");
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        if (!m->base || piece[i].maddr > all || piece[i].size > all - piece[i].maddr) {
            PyErr_SetString(PyExc_IndexError, "a piece is out of range");
            return -1;
        }
        *total += piece[i].size;
    }
    return count;
}

static void written(struct memory *m, const struct piece *piece)
{
    if (piece->size)
        for (uint64_t mfn = piece->maddr >> PAGE_SHIFT;
             mfn <= (piece->maddr + piece->size - 1) >> PAGE_SHIFT; mfn++)
            frame_written(m, mfn);
}

PyObject *memory_locate(struct memory *m, PyObject *args)
{
    Py_buffer records;
    PyObject *table, *described = Py_None;
    int write = 0;
    if (!PyArg_ParseTuple(args, "y*O!|Op", &records, &PyDict_Type, &table, &described, &write))
        return NULL;
    const struct record *record = records.buf;
    Py_ssize_t count = records.len / (Py_ssize_t)sizeof(*record), used = 0;
    struct piece pieces[MAX_PIECES];
    struct grants grants;
    uint64_t total = 0, maddr;
    bool fine = grants_open(&grants, m, table, described) && count <= MAX_PIECES;
    for (Py_ssize_t i = 0; fine && i < count; i++) {
        fine = record[i].first <= record[i].last && record[i].last < SECTORS &&
               grants_find(&grants, record[i].key, write, &maddr);
        if (!fine)
            break;
        maddr += record[i].first * SECTOR;
        uint64_t size = (uint64_t)(record[i].last - record[i].first + 1) * SECTOR;
        if (used && pieces[used - 1].maddr + pieces[used - 1].size == maddr)
            pieces[used - 1].size += size;
        else
            pieces[used++] = (struct piece){maddr, size};
        total += size;
    }
    grants_close(&grants);
    PyBuffer_Release(&records);
    if (PyErr_Occurred())
        return NULL;
    if (!fine)
        Py_RETURN_NONE;
    return Py_BuildValue("y#K", (char *)pieces, used * (Py_ssize_t)sizeof(*pieces),
                         (unsigned long long)total);
}

PyObject *memory_gather(struct memory *m, PyObject *arg)
{
    Py_buffer data;
    uint64_t total;
    if (PyObject_GetBuffer(arg, &data, PyBUF_SIMPLE) < 0)
        return NULL;
    Py_ssize_t count = pieces_of(m, &data, &total);
    PyObject *result = count < 0 ? NULL : PyBytes_FromStringAndSize(NULL, (Py_ssize_t)total);
    if (result) {
        char *to = PyBytes_AS_STRING(result);
        const struct piece *piece = data.buf;
        for (Py_ssize_t i = 0; i < count; to += piece[i].size, i++)
            memcpy(to, host_at(m, piece[i].maddr), piece[i].size);
    }
    PyBuffer_Release(&data);
    return result;
}

PyObject *memory_scatter(struct memory *m, PyObject *args)
{
    Py_buffer data, from;
    uint64_t total;
    if (!PyArg_ParseTuple(args, "y*y*", &data, &from))
        return NULL;
    Py_ssize_t count = pieces_of(m, &data, &total);
    if (count >= 0 && total != (uint64_t)from.len) {
        PyErr_SetString(PyExc_ValueError, "the pieces are of another size than the data");
        count = -1;
    }
    const struct piece *piece = data.buf;
    const char *at = from.buf;
    for (Py_ssize_t i = 0; i < count; at += piece[i].size, i++) {
        written(m, &piece[i]);
        memcpy(host_at(m, piece[i].maddr), at, piece[i].size);
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&from);
    if (count < 0)
        return NULL;
    Py_RETURN_NONE;
}

PyObject *memory_fill(struct memory *m, PyObject *args)
{
    Py_buffer data;
    int fd;
    long long offset;
    uint64_t total;
    if (!PyArg_ParseTuple(args, "y*iL", &data, &fd, &offset))
        return NULL;
    struct iovec vector[MAX_PIECES];
    Py_ssize_t count = pieces_of(m, &data, &total);
    const struct piece *piece = data.buf;
    for (Py_ssize_t i = 0; i < count; i++) {
        written(m, &piece[i]);
        vector[i] = (struct iovec){host_at(m, piece[i].maddr), piece[i].size};
    }
    PyBuffer_Release(&data);
    if (count < 0)
        return NULL;
    ssize_t got = preadv2(fd, vector, (int)count, offset, RWF_NOWAIT);
    if (got < 0)
        return errno == EAGAIN ? PyLong_FromLong(0) : PyErr_SetFromErrno(PyExc_OSError);
    return PyLong_FromSsize_t(got);
}
