/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Formatted printing: %c %s %d %u %x %p with widths, zero padding, l and ll. */
#include "guest.h"

/* Xen's and QEMU's debug console port (XEN_HVM_DEBUGCONS_IOPORT). */
static void debug_port_sink(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out8(0xe9, (u8)text[i]);
}

void (*print_sink)(const char *text, size_t n) = debug_port_sink;

void put_text(const char *text, size_t n)
{
    print_sink(text, n);
}

static void put_char(struct text_buffer *to, char c)
{
    if (to->at < to->end)
        *to->at++ = c;
}

static void put_number(struct text_buffer *to, u64 value, u32 base, int width, char pad, bool minus)
{
    char digits[24];
    int n = 0;

    do {
        u32 rest;

        value = div64(value, base, &rest);
        digits[n++] = "0123456789abcdef"[rest];
    } while (value);
    if (minus && pad == '0')
        put_char(to, '-');
    for (int i = n + minus; i < width; i++)
        put_char(to, pad);
    if (minus && pad != '0')
        put_char(to, '-');
    while (n)
        put_char(to, digits[--n]);
}

static void put_padded(struct text_buffer *to, const char *s, int width, bool left)
{
    int n = (int)strlen(s);

    for (int i = n; !left && i < width; i++)
        put_char(to, ' ');
    while (*s)
        put_char(to, *s++);
    for (int i = n; left && i < width; i++)
        put_char(to, ' ');
}

void format_text(struct text_buffer *to, const char *format, __builtin_va_list args)
{
    for (; *format; format++) {
        int width = 0, longs = 0;
        char pad = ' ';
        bool left = false;

        if (*format != '%') {
            put_char(to, *format);
            continue;
        }
        format++;
        for (;; format++) {
            if (*format == '-')
                left = true;
            else if (*format == '0' && !width)
                pad = '0';
            else if (*format >= '0' && *format <= '9')
                width = width * 10 + *format - '0';
            else if (*format == 'l')
                longs++;
            else if (*format == 'z')
                longs = 1;
            else
                break;
        }
        switch (*format) {
        case 'c':
            put_char(to, (char)__builtin_va_arg(args, int));
            break;
        case 's':
            put_padded(to, __builtin_va_arg(args, const char *), width, left);
            break;
        case 'd': {
            s64 v = longs >= 2   ? __builtin_va_arg(args, s64)
                    : longs == 1 ? __builtin_va_arg(args, long)
                                 : __builtin_va_arg(args, int);

            put_number(to, v < 0 ? -(u64)v : (u64)v, 10, width, pad, v < 0);
            break;
        }
        case 'u':
        case 'x': {
            u64 v = longs >= 2   ? __builtin_va_arg(args, u64)
                    : longs == 1 ? __builtin_va_arg(args, ulong)
                                 : __builtin_va_arg(args, u32);

            put_number(to, v, *format == 'x' ? 16 : 10, width, pad, false);
            break;
        }
        case 'p':
            put_number(to, (ulong)__builtin_va_arg(args, void *), 16, width, '0', false);
            break;
        default:
            put_char(to, *format);
        }
    }
}

void print(const char *format, ...)
{
    char text[512];
    struct text_buffer to = { text, text + sizeof(text) };
    __builtin_va_list args;

    __builtin_va_start(args, format);
    format_text(&to, format, args);
    __builtin_va_end(args);
    put_text(text, (size_t)(to.at - text));
}
