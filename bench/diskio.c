/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Runs in the guest: sequential or random direct I/O on a block device, so many at once; or
 * sequential I/O through the guest's cache, as most programs do it.
 *
 *     diskio DEVICE read|write BYTES-EACH COUNT DEPTH seq|random|cached
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MAX_DEPTH 64

static void die(const char *what)
{
    perror(what);
    exit(1);
}

int main(int argc, char **argv)
{
    if (argc != 7)
        return 2;
    int writes = !strcmp(argv[2], "write"), random = !strcmp(argv[6], "random");
    long each = atol(argv[3]), count = atol(argv[4]), depth = atol(argv[5]);
    int direct = strcmp(argv[6], "cached") ? O_DIRECT : 0;
    int fd = open(argv[1], (writes ? O_RDWR : O_RDONLY) | direct);
    if (fd < 0)
        die(argv[1]);
    long places = lseek(fd, 0, SEEK_END) / each;
    aio_context_t context = 0;
    if (syscall(SYS_io_setup, MAX_DEPTH, &context))
        die("io_setup");
    static struct iocb blocks[MAX_DEPTH];
    struct iocb *first[MAX_DEPTH];
    uint64_t state = 88172645463325252ull;
    char *buffer = aligned_alloc(4096, depth * each);
    memset(buffer, 0x5a, depth * each);
    long submitted = 0, done = 0;
    long idle[MAX_DEPTH], idles = 0;
    for (long i = 0; i < depth; i++)
        idle[idles++] = i;
    while (done < count) {
        long n = 0;
        while (idles && submitted < count) {
            long i = idle[--idles];
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
            uint64_t place = (random ? state : (uint64_t)submitted) % places;
            blocks[i] = (struct iocb){
                .aio_lio_opcode = writes ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
                .aio_fildes = fd,
                .aio_buf = (uint64_t)(uintptr_t)(buffer + i * each),
                .aio_nbytes = each,
                .aio_offset = place * each,
                .aio_data = i,
            };
            first[n++] = &blocks[i];
            submitted++;
        }
        if (n && syscall(SYS_io_submit, context, n, first) != n)
            die("io_submit");
        struct io_event events[MAX_DEPTH];
        long came = syscall(SYS_io_getevents, context, 1, MAX_DEPTH, events, NULL);
        if (came < 1)
            die("io_getevents");
        for (long i = 0; i < came; i++) {
            if (events[i].res != each) {
                fprintf(stderr, "a transfer ended with %ld\n", (long)events[i].res);
                return 1;
            }
            idle[idles++] = events[i].data;
        }
        done += came;
    }
    if (writes && fsync(fd))
        die("fsync");
    return 0;
}
