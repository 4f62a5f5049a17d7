/* SPDX-License-Identifier: GPL-2.0-or-later */
/* kexec KERNEL RAMDISK CMDLINE: the running Linux gives way to another one. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/reboot.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    int kernel = open(argv[1], O_RDONLY), ramdisk = open(argv[2], O_RDONLY);
    if (kernel < 0 || ramdisk < 0 ||
        syscall(SYS_kexec_file_load, kernel, ramdisk, strlen(argv[3]) + 1, argv[3], 0L)) {
        perror("kexec");
        return 1;
    }
    syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_KEXEC, 0);
    perror("reboot");
    return 1;
}
