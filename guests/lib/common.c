/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The command line, and the ways to end. */
#include "guest.h"
#include "xen.h"

const char *cmdline = "";

bool option(const char *name, char *value, size_t size)
{
    size_t n = strlen(name);

    for (const char *at = cmdline; *at;) {
        while (*at == ' ')
            at++;
        if (!strncmp(at, name, n) && (!at[n] || at[n] == ' ' || at[n] == '=')) {
            size_t used = 0;

            at += n;
            if (*at == '=')
                at++;
            for (; *at && *at != ' ' && used + 1 < size; at++)
                value[used++] = *at;
            if (size)
                value[used] = 0;
            return true;
        }
        while (*at && *at != ' ')
            at++;
    }
    return false;
}

u64 option_number(const char *name, u64 fallback)
{
    char value[32];

    return option(name, value, sizeof(value)) ? parse_number(value, fallback) : fallback;
}

/* Without Xen we are under QEMU: its isa-debug-exit device turns v into status 2v + 1. */
void power_off(int failed)
{
    if (xen.present)
        xen_shutdown(SHUTDOWN_poweroff);
    out32(0xf4, (u32)failed);
    for (;;)
        asm volatile("cli; hlt");
}

void panic(const char *format, ...)
{
    char text[256];
    struct text_buffer to = { text, text + sizeof(text) };
    __builtin_va_list args;

    __builtin_va_start(args, format);
    format_text(&to, format, args);
    __builtin_va_end(args);
    put_text("PANIC: ", 7);
    put_text(text, (size_t)(to.at - text));
    put_text("\n", 1);
    if (xen.present)
        xen_shutdown(SHUTDOWN_crash);
    power_off(1);
}
