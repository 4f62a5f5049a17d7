/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Tests inside a guest: `TEST(name) { ... }` with checks; the library runs them all, prints
 * `PASS name`, `FAIL name: why` or `SKIP name: why` for each, `Tests: passed/failed/skipped`,
 * and last `Test result: SUCCESS` or `Test result: FAILURE`.
 * `only=name` on the command line runs one of them; with `stay` the guest blocks at its end.
 */
#ifndef GUEST_TEST_H
#define GUEST_TEST_H

#include "guest.h"

struct test {
    const char *name;
    void (*fn)(void);
};

#define TEST(n)                                                                                   \
    static void n(void);                                                                          \
    static const struct test __attribute__((section(".tests"), used, aligned(sizeof(void *))))    \
    test_##n = { #n, n };                                                                         \
    static void n(void)

void test_failed(unsigned line, const char *format, ...) PRINTF(2, 3);
void test_skipped(const char *why);
void tests_init(void); /* a guest may define it: set-up before the first test */

#define FAIL(...)                                                                                 \
    do {                                                                                          \
        test_failed(__LINE__, __VA_ARGS__);                                                       \
        return;                                                                                   \
    } while (0)
#define CHECK(cond)                                                                               \
    do {                                                                                          \
        if (!(cond))                                                                              \
            FAIL("%s", #cond);                                                                    \
    } while (0)
#define CHECK_EQUAL(a, b)                                                                         \
    do {                                                                                          \
        u64 a_ = (u64)(a), b_ = (u64)(b);                                                         \
        if (a_ != b_)                                                                             \
            FAIL("%s is %llx, not %s = %llx", #a, a_, #b, b_);                                    \
    } while (0)
/* A hypercall's result: negative ones are shown as such. */
#define CHECK_RESULT(call, expected)                                                              \
    do {                                                                                          \
        long r_ = (long)(call), e_ = (long)(expected);                                            \
        if (r_ != e_)                                                                             \
            FAIL("%s gave %ld, not %ld", #call, r_, e_);                                          \
    } while (0)
#define CHECK_TRAP(v, e)                                                                          \
    do {                                                                                          \
        if (!trap.count)                                                                          \
            FAIL("no trap, expected vector %d", (int)(v));                                        \
        if (trap.vector != (u32)(v) || trap.error != (u32)(e))                                    \
            FAIL("trap %u error %x at %lx, expected %u error %x", trap.vector, trap.error,        \
                 trap.ip, (u32)(v), (u32)(e));                                                    \
    } while (0)
#define CHECK_NO_TRAP()                                                                           \
    do {                                                                                          \
        if (trap.count)                                                                           \
            FAIL("trap %u error %x at %lx cr2 %lx", trap.vector, trap.error, trap.ip, trap.cr2);  \
    } while (0)
#define SKIP(why)                                                                                 \
    do {                                                                                          \
        test_skipped(why);                                                                        \
        return;                                                                                   \
    } while (0)

#endif
