/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A driver of the simplest kind: it keeps lines of text on a raw disk, one a sector.
 *
 *     diary add DISK TEXT      exit status 0 once TEXT is on the disk for good
 *     diary list DISK
 *
 * Built with -DBROKEN it says so before the disk has.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SECTOR 512
static const char magic[] = "DIARY1";

static int fail(const char *what)
{
    perror(what);
    return 1;
}

int main(int argc, char **argv)
{
    char sector[SECTOR];
    off_t at = 0;
    int add = argc == 4 && !strcmp(argv[1], "add");
    int disk = argc >= 3 ? open(argv[2], add ? O_RDWR : O_RDONLY) : -1;

    if (disk < 0)
        return fail("diary");
    for (;; at += SECTOR) {
        if (pread(disk, sector, SECTOR, at) != SECTOR)
            return fail("diary: reading");
        if (memcmp(sector, magic, sizeof magic))
            break;
        if (!add)
            puts(sector + sizeof magic);
    }
    if (!add)
        return 0;
    memset(sector, 0, SECTOR);
    memcpy(sector, magic, sizeof magic);
    strncpy(sector + sizeof magic, argv[3], SECTOR - sizeof magic - 1);
    if (pwrite(disk, sector, SECTOR, at) != SECTOR)
        return fail("diary: writing");
#ifndef BROKEN
    if (fsync(disk))
        return fail("diary: writing");
#endif
    puts("kept");
    return 0;
}
