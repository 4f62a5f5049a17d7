/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Is the engine the one that layout.h describes?  Each check compares a place in a structure
 * with a value that the engine itself put there by its own code.
 */
#include "core.h"
#include "qemu.h"

#include <string.h>

/* numbers of registers in the engine's public header (x86.h) */
enum { REG_RAX = 35, REG_CR2 = 52, REG_R15 = 113 };

static bool register_at(void *uc, void *env, int id, size_t offset, uint64_t value)
{
    uint64_t before, found;
    if (uc_reg_read(uc, id, &before) || uc_reg_write(uc, id, &value))
        return false;
    memcpy(&found, (char *)env + offset, sizeof(found));
    uc_reg_write(uc, id, &before);
    return found == value;
}

const char *selfcheck(struct engine *e)
{
    static const char *const unknown =
        "this build of the CPU engine isn't the one that Xenograft was made for: "
        "run 'make setup' to build the native core anew";
    void *uc = e->uc, *cs = UC_CPU(uc);
    if (UC_MEMORY_MAPPING(uc) != (void *)NAME(find_memory_mapping) ||
        !cs || CPU_UC(cs) != uc ||
        CPU_ENV_PTR(cs) != (char *)cs + CPU_TO_ENV || UC_NESTED_LEVEL(uc) != 0 ||
        UC_INVALID_ERROR(uc) != 0 ||
        TRANSLATOR_NEXT(UC_TRANSLATOR(uc)) < TRANSLATOR_BUFFER(UC_TRANSLATOR(uc)) ||
        TRANSLATOR_NEXT(UC_TRANSLATOR(uc)) > TRANSLATOR_END(UC_TRANSLATOR(uc)) ||
        UC_CODE_ALIGN(uc) < 16 || UC_CODE_ALIGN(uc) > 256)
        return unknown;
    void *env = CPU_ENV_PTR(cs);
    NAME(helper_fldcw)(env, 0x37e);
    NAME(real_helper_ldmxcsr)(env, 0x1f81);
    if (!register_at(uc, env, REG_RAX, 0, 0x1122334455667788) ||
        !register_at(uc, env, REG_R15, 120, 0x99aabbccddeeff00) ||
        !register_at(uc, env, REG_CR2, 440, 0x123456789abcdef0) ||
        ENV_FPUC(env) != 0x37e || ENV_MXCSR(env) != 0x1f81 || ENV_PAT(env) != 0x0007040600070406 ||
        ENV_DR(env, 7) != 0x400 || ENV_DR(env, 6) != 0xffff0ff0)
        return unknown;
    return NULL;
}
