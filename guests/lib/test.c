/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The test runner: see test.h. */
#include "test.h"
#include "xen.h"

extern const struct test tests_start[], tests_end[];

static enum { PASSED, FAILED, SKIPPED } outcome;
static char why[256];

static void PRINTF(2, 3) note(struct text_buffer *to, const char *format, ...)
{
    __builtin_va_list args;

    __builtin_va_start(args, format);
    format_text(to, format, args);
    __builtin_va_end(args);
}

void test_failed(unsigned line, const char *format, ...)
{
    struct text_buffer to = { why, why + sizeof(why) - 1 };
    __builtin_va_list args;

    if (outcome == FAILED)
        return;
    outcome = FAILED;
    if (line)
        note(&to, "line %u: ", line);
    __builtin_va_start(args, format);
    format_text(&to, format, args);
    __builtin_va_end(args);
    *to.at = 0;
}

void test_skipped(const char *reason)
{
    struct text_buffer to = { why, why + sizeof(why) - 1 };

    outcome = SKIPPED;
    for (; *reason && to.at < to.end; reason++)
        *to.at++ = *reason;
    *to.at = 0;
}

void __attribute__((weak)) tests_init(void)
{
}

static void run(void *argument)
{
    ((const struct test *)argument)->fn();
}

void guest_main(void)
{
    char only[64] = "";
    unsigned counts[3] = { 0, 0, 0 };
    bool chosen = option("only", only, sizeof(only));

    print("Guest environment: %s\n", ENV_NAME);
    tests_init();
    for (const struct test *t = tests_start; t < tests_end; t++) {
        if (chosen && strcmp(only, t->name))
            continue;
        outcome = PASSED;
        trap_clear();
        if (!guarded(run, (void *)t) && outcome == PASSED)
            test_failed(0, "unexpected trap %u error %x at %lx cr2 %lx", trap.vector, trap.error,
                        trap.ip, trap.cr2);
        counts[outcome]++;
        if (outcome == PASSED)
            print("PASS %s\n", t->name);
        else
            print("%s %s: %s\n", outcome == FAILED ? "FAIL" : "SKIP", t->name, why);
    }
    print("Tests: %u passed, %u failed, %u skipped\n", counts[0], counts[1], counts[2]);
    print("Test result: %s\n", counts[FAILED] || !counts[PASSED] ? "FAILURE" : "SUCCESS");
    while (option("stay", NULL, 0))
        sched_op(SCHEDOP_block, NULL);
    power_off(counts[FAILED] != 0);
}
