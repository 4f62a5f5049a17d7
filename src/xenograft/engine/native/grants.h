/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What the back ends' batches share: ring pages, and the pages that a guest has granted.
 *
 * A batch is over before a guest runs again, so that nobody could see the flags and counts that a
 * mapping needs: as in `hypervisor/grants/host.py`, of whose `GrantCopier` this is the native half.
 * Whatever isn't plain is left to Python: these functions then say false, and have done nothing.
 */
#ifndef XENOGRAFT_GRANTS_H
#define XENOGRAFT_GRANTS_H

#include "core.h"

#define RING_HEADER 64 /* bytes before the first slot (public/io/ring.h) */

struct ring_pages {
    struct memory *memory;
    Py_buffer maddrs; /* uint64_t each */
    uint64_t size;
};

/* False, with an exception: not pages of the memory. The buffer is to be released in any case. */
bool ring_check(struct ring_pages *ring);
/* Both may go over the ends of pages; the caller has checked that they lie in the ring. */
void ring_read(struct ring_pages *ring, uint64_t offset, void *to, uint64_t size);
void ring_write(struct ring_pages *ring, uint64_t offset, const void *from, uint64_t size);

struct grants {
    struct memory *memory;
    PyObject *kept;       /* dict: reference to the machine address of a page that stays mapped */
    struct space *space;  /* the granter's, or NULL: kept pages alone */
    Py_buffer frames;     /* frame numbers of its table of version 1, uint64_t each */
    PyObject *active;     /* dict: references that somebody has mapped */
    PyObject *types;      /* dict: guest frames that aren't ordinary memory */
    unsigned owner, peer; /* the granter, and to whom */
};

/* `described`: None, or (space, frames, active, types, owner, peer). False with an exception. */
bool grants_open(struct grants *g, struct memory *m, PyObject *kept, PyObject *described);
void grants_close(struct grants *g);
/* The machine address of a granted page that may be read (and written). */
bool grants_find(struct grants *g, uint32_t ref, bool write, uint64_t *maddr);

#endif
