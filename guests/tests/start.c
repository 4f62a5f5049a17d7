/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a PVH guest is handed at its start (public/arch-x86/hvm/start_info.h).
 *
 * `modules=N` on the command line: there are N modules, where module i holds 5000 * i + 1 bytes
 * of the value i + 1 and has the command line "module i"; otherwise there is none.
 */
#include "test.h"

static const struct module *modules(void)
{
    return (const struct module *)(ulong)start_info->modlist_paddr;
}

static const struct memory_map_entry *map(void)
{
    return (const struct memory_map_entry *)(ulong)start_info->memmap_paddr;
}

static u64 expected_modules(void)
{
    return option_number("modules", 0);
}

/* Whether the range is RAM of the memory map, all of it. */
static bool in_ram(u64 from, u64 size)
{
    for (u32 i = 0; i < start_info->memmap_entries; i++)
        if (map()[i].type == 1 && from >= map()[i].addr &&
            from + size <= map()[i].addr + map()[i].size)
            return true;
    return false;
}

TEST(header)
{
    CHECK_EQUAL(start_info->magic, START_MAGIC);
    CHECK_EQUAL(start_info->version, 1);
    CHECK_EQUAL(start_info->flags, 0); /* neither privileged nor the initial domain */
    CHECK_EQUAL(start_info->reserved, 0);
    CHECK(in_ram(start_info_paddr, sizeof(*start_info)));
}

TEST(command_line)
{
    CHECK(start_info->cmdline_paddr);
    CHECK(in_ram(start_info->cmdline_paddr, strlen(cmdline) + 1));
    CHECK(option("word", NULL, 0));
}

TEST(memory_map)
{
    u64 ram = 0;

    CHECK(start_info->memmap_entries > 1);
    for (u32 i = 0; i < start_info->memmap_entries; i++) {
        const struct memory_map_entry *e = &map()[i];

        CHECK(e->size);
        CHECK_EQUAL(e->reserved, 0);
        CHECK_EQUAL(e->type == 1 ? (e->addr | e->size) & 4095 : 0, 0);
        for (u32 j = 0; j < i; j++)
            CHECK(e->addr >= map()[j].addr + map()[j].size || e->addr + e->size <= map()[j].addr);
        if (e->type == 1)
            ram += e->size;
    }
    CHECK_EQUAL(ram >> 20, option_number("memory", 64));
    CHECK(!in_ram(0xfee00000, 1));
}

TEST(modules_are_there)
{
    CHECK_EQUAL(start_info->nr_modules, expected_modules());
    for (u32 i = 0; i < start_info->nr_modules; i++) {
        const struct module *m = &modules()[i];
        const u8 *data = (const u8 *)(ulong)m->paddr;

        CHECK_EQUAL(m->size, 5000 * i + 1);
        CHECK_EQUAL(m->reserved, 0);
        CHECK_EQUAL(m->paddr & 4095, 0);
        CHECK(in_ram(m->paddr, m->size));
        for (u32 at = 0; at < m->size; at++)
            CHECK_EQUAL(data[at], i + 1);
    }
}

TEST(modules_have_command_lines)
{
    CHECK_EQUAL(start_info->nr_modules, expected_modules());
    for (u32 i = 0; i < start_info->nr_modules; i++) {
        const char *text = (const char *)(ulong)modules()[i].cmdline_paddr;

        CHECK(text);
        CHECK_EQUAL(strncmp(text, "module ", 7), 0);
        CHECK_EQUAL(parse_number(text + 7, ~0ull), i);
    }
}

TEST(nothing_overlaps)
{
    for (u32 i = 0; i < start_info->nr_modules; i++) {
        const struct module *m = &modules()[i];

        CHECK(m->paddr >= (ulong)image_end || m->paddr + m->size <= (ulong)image_start);
        CHECK(start_info_paddr >= m->paddr + m->size ||
              start_info_paddr + sizeof(*start_info) <= m->paddr);
        for (u32 j = 0; j < i; j++)
            CHECK(modules()[j].paddr >= m->paddr + m->size ||
                  modules()[j].paddr + modules()[j].size <= m->paddr);
    }
}
