/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The Internet checksum's sum (RFC 1071): at 64 KiB a packet, too much work for Python. */
#include "core.h"

static uint64_t add(uint64_t sum, uint64_t word)
{
    sum += word;
    return sum + (sum < word);
}

/* The one's complement sum of the 16-bit words in memory order, folded. */
static uint16_t sum_words(const uint8_t *data, size_t size)
{
    uint64_t sum = 0, word;
    for (; size >= 8; data += 8, size -= 8) {
        memcpy(&word, data, 8);
        sum = add(sum, word);
    }
    if (size) {
        word = 0;
        memcpy(&word, data, size);
        sum = add(sum, word);
    }
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

PyObject *inet_sum(PyObject *self, PyObject *argument)
{
    Py_buffer view;
    (void)self;
    if (PyObject_GetBuffer(argument, &view, PyBUF_SIMPLE))
        return NULL;
    uint16_t sum = sum_words(view.buf, view.len);
    PyBuffer_Release(&view);
    return PyLong_FromLong((uint16_t)(sum << 8 | sum >> 8));
}
