/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The engine's own functions that we call or replace.  setup.py finds the ones that both our
 * objects and the engine's archive define: ours win everywhere, the originals stay as real_*.
 */
#ifndef XG_QEMU_H
#define XG_QEMU_H

#include <stdbool.h>
#include <stdint.h>

#define NAME(x) x##_x86_64

typedef struct { uint32_t bits; } memory_attributes;
typedef uint64_t (*mmio_read)(void *uc, uint64_t offset, unsigned size, void *user);
typedef void (*mmio_write)(void *uc, uint64_t offset, unsigned size, uint64_t value, void *user);

/* the public interface (unicorn.h), as far as it is needed */
int uc_open(int arch, int mode, void **uc);
int uc_close(void *uc);
int uc_ctl(void *uc, int control, ...);
int uc_mem_map_ptr(void *uc, uint64_t address, uint64_t size, uint32_t permissions, void *ptr);
int uc_mmio_map(void *uc, uint64_t address, uint64_t size, mmio_read read, void *user_read,
                mmio_write write, void *user_write);
int uc_hook_add(void *uc, uintptr_t *hook, int type, void *callback, void *user, uint64_t begin,
                uint64_t end, ...);
int uc_reg_write(void *uc, int id, const void *value);
int uc_reg_read(void *uc, int id, void *value);
const char *uc_strerror(int code);

/* called as they are */
int NAME(cpu_exec)(void *uc, void *cs);
void NAME(tlb_init)(void *cs);
_Noreturn void NAME(cpu_loop_exit)(void *cs);
bool NAME(cpu_restore_state)(void *cs, uintptr_t pc, bool will_exit);
void NAME(tlb_flush)(void *cs);
void NAME(tlb_flush_page)(void *cs, uint64_t vaddr);
void NAME(tlb_reset_dirty)(void *cs, uint64_t host, uint64_t length);
void NAME(tb_invalidate_phys_page_range)(void *uc, uint64_t start, uint64_t end);
void NAME(tb_invalidate_phys_range)(void *uc, uint64_t start, uint64_t end);
void NAME(x86_cpu_do_interrupt)(void *cs);
void NAME(do_interrupt_x86_hardirq)(void *env, int vector, int is_hw);
_Noreturn void NAME(raise_exception_err_ra)(void *env, int vector, int error, uintptr_t retaddr);
uint64_t NAME(helper_cc_compute_all)(uint64_t dst, uint64_t src1, uint64_t src2, int op);
void NAME(helper_fldcw)(void *env, uint32_t value);
void NAME(helper_check_iob)(void *env, uint32_t port);
void NAME(helper_check_iow)(void *env, uint32_t port);
void NAME(helper_check_iol)(void *env, uint32_t port);
void NAME(cpu_x86_update_dr7)(void *env, uint32_t value);
void *NAME(tcg_const_i64)(void *tcg_ctx, int64_t value);
void *NAME(tcg_const_i32)(void *tcg_ctx, int32_t value);
void *NAME(tcg_temp_new_internal)(void *tcg_ctx, int type, bool local);
void *NAME(tcg_emit_op)(void *tcg_ctx, int opcode);
void NAME(tcg_gen_op1)(void *tcg_ctx, int opcode, uint64_t a);
void NAME(tcg_gen_op3)(void *tcg_ctx, int opcode, uint64_t a, uint64_t b, uint64_t c);
void NAME(tcg_gen_brcond_i64)(void *tcg_ctx, int condition, void *a, void *b, void *label);
void *NAME(gen_new_label)(void *tcg_ctx);
void *NAME(find_memory_mapping)(void *uc, uint64_t address);

/* replaced (mmu.c, overrides.c) */
void NAME(tb_flush)(void *cs);

/* replaced; the originals */
void NAME(real_tlb_set_page_with_attrs)(void *cs, uint64_t vaddr, uint64_t paddr,
    memory_attributes attrs, int prot, int mmu_idx, uint64_t size);
bool NAME(real_x86_cpu_tlb_fill)(void *cs, uint64_t addr, int size, int access, int mmu_idx,
                                 bool probe, uintptr_t retaddr);
void *NAME(real_tb_gen_code)(void *cs, uint64_t pc, uint64_t cs_base, uint32_t flags, int cflags);
void NAME(real_tb_flush)(void *cs);
void NAME(real_tlb_set_dirty)(void *cs, uint64_t vaddr);
void NAME(real_tb_invalidate_phys_page_fast)(void *uc, void *pages, uint64_t start, int length,
                                             uintptr_t retaddr);
void NAME(real_translator_loop)(const void *ops, void *db, void *cs, void *tb, int max_insns);
void NAME(real_tlb_flush_by_mmuidx)(void *cs, uint16_t modes);
void NAME(real_tlb_flush_page_by_mmuidx)(void *cs, uint64_t vaddr, uint16_t modes);
void *NAME(real_helper_lookup_tb_ptr)(void *env);
bool real_qht_remove(void *table, const void *tb, uint32_t hash);
void *NAME(real_address_space_translate_for_iotlb)(void *cs, int index, uint64_t address,
    uint64_t *offset, uint64_t *length, memory_attributes attrs, int *prot);
void *NAME(real_tcg_global_mem_new_internal)(void *ctx, int type, void *base, intptr_t offset,
                                             const char *name);
void NAME(real_tcg_gen_callN)(void *ctx, void *func, void *ret, int nargs, void **args);
uint64_t NAME(real_helper_read_crN)(void *env, int reg);
void NAME(real_helper_write_crN)(void *env, int reg, uint64_t value);
_Noreturn void NAME(real_raise_exception_err)(void *env, int vector, int error);
void NAME(real_helper_ldmxcsr)(void *env, uint32_t value);
void NAME(real_helper_set_dr)(void *env, int reg, uint64_t value);
uint64_t NAME(real_helper_get_dr)(void *env, int reg);
void NAME(real_helper_raise_interrupt)(void *env, int vector, int next_eip_addend);

#define RETADDR() ((uintptr_t)__builtin_return_address(0))

#endif
