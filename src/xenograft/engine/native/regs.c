/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Registers by architectural name, the whole state as plain values, and the mode bits that
 * follow from them.  Segment attributes have the form of Xen's vcpu_hvm_context: descriptor bits
 * 40-47 in bits 0-7, bits 52-55 in bits 8-11.
 */
#include "core.h"
#include "qemu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CR0_PE 1ull
#define CR0_PG (1ull << 31)
#define CR4_OSFXSR (1ull << 9)
#define CR4_SMAP (1ull << 21)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)
#define DESC_B (1u << 22)
#define DESC_L (1u << 21)
#define EFLAGS_VM 0x20000u

void vcpu_sync_hflags(struct vcpu *v)
{
    void *env = v->env;
    uint64_t cr0 = ENV_CR(env, 0), cr4 = ENV_CR(env, 4);
    uint32_t cs = ENV_SEG(env, SEG_CS)->flags, ss = ENV_SEG(env, SEG_SS)->flags;
    bool vm86 = cr0 & CR0_PE && ENV_EFLAGS(env) & EFLAGS_VM;
    uint32_t hflags = ENV_HFLAGS(env) & (HF_INHIBIT_IRQ | HF_PV_USER);
    if (cr0 & CR0_PE)
        hflags |= HF_PE | (vm86 ? 3u : (ss >> 13 & 3));
    hflags |= (uint32_t)(cr0 >> 1 & 1) * HF_MP | (uint32_t)(cr0 >> 2 & 1) * HF_EM |
              (uint32_t)(cr0 >> 3 & 1) * HF_TS;
    if (ENV_EFER(env) & EFER_LMA)
        hflags |= HF_LMA;
    if (cr4 & CR4_OSFXSR)
        hflags |= HF_OSFXSR;
    if (cr4 & CR4_SMAP)
        hflags |= HF_SMAP;
    if (hflags & HF_LMA && cs & DESC_L) {
        hflags |= HF_CS32 | HF_SS32 | HF_CS64;
    } else {
        if (cs & DESC_B)
            hflags |= HF_CS32;
        if (ss & DESC_B)
            hflags |= HF_SS32;
        bool based = ENV_SEG(env, SEG_DS)->base || ENV_SEG(env, SEG_ES)->base ||
                     ENV_SEG(env, SEG_SS)->base;
        if (!(cr0 & CR0_PE) || vm86 || !(hflags & HF_CS32) || based)
            hflags |= HF_ADDSEG;
    }
    ENV_HFLAGS(env) = hflags;
}

/* -- one register ------------------------------------------------------------------------------ */

enum kind {
    WORD64, WORD32, WORD16, EFLAGS, CR, EFER, SEL, BASE, LIMIT, ATTR, DR7, MXCSR, FPUC, SHADOW,
    NMI_MASK, COUNT, ENTROPY,
};

struct reg {
    const char *name;
    enum kind kind;
    uint32_t offset;
};

#define GPR(name, n) {name, WORD64, 8 * (n)}
#define SEGMENT(name, at)                                                                  \
    {name ".sel", SEL, at}, {name ".base", BASE, at}, {name ".limit", LIMIT, at},          \
    {name ".attr", ATTR, at}
#define TABLE(name, at) {name ".base", BASE, at}, {name ".limit", LIMIT, at}

static const struct reg registers[] = {
    GPR("rax", 0), GPR("rcx", 1), GPR("rdx", 2), GPR("rbx", 3), GPR("rsp", 4), GPR("rbp", 5),
    GPR("rsi", 6), GPR("rdi", 7), GPR("r8", 8), GPR("r9", 9), GPR("r10", 10), GPR("r11", 11),
    GPR("r12", 12), GPR("r13", 13), GPR("r14", 14), GPR("r15", 15),
    {"rip", WORD64, 128}, {"rflags", EFLAGS, 0},
    {"cr0", CR, 424}, {"cr2", WORD64, 440}, {"cr3", CR, 448}, {"cr4", CR, 456},
    {"efer", EFER, 592},
    SEGMENT("es", ENV_SEGS), SEGMENT("cs", ENV_SEGS + 24), SEGMENT("ss", ENV_SEGS + 48),
    SEGMENT("ds", ENV_SEGS + 72), SEGMENT("fs", ENV_SEGS + 96), SEGMENT("gs", ENV_SEGS + 120),
    SEGMENT("ldtr", ENV_LDT), SEGMENT("tr", ENV_TR), TABLE("gdtr", ENV_GDT),
    TABLE("idtr", ENV_IDT),
    {"dr0", WORD64, 5400}, {"dr1", WORD64, 5408}, {"dr2", WORD64, 5416}, {"dr3", WORD64, 5424},
    {"dr6", WORD64, 5448}, {"dr7", DR7, 5456},
    {"sysenter_cs", WORD32, 4800}, {"sysenter_esp", WORD64, 4808}, {"sysenter_eip", WORD64, 4816},
    {"star", WORD64, 4824}, {"lstar", WORD64, 4840}, {"cstar", WORD64, 4848},
    {"fmask", WORD64, 4856}, {"kernel_gs_base", WORD64, 4864}, {"tsc_aux", WORD64, 4896},
    {"xcr0", WORD64, 4904}, {"pat", WORD64, 5280}, {"pkru", WORD32, 5304},
    {"mxcsr", MXCSR, 816}, {"fpu_top", WORD32, 604}, {"fpu_status", WORD16, 608},
    {"fpu_control", FPUC, 610}, {"fpu_opcode", WORD16, 752}, {"fpu_ip", WORD64, 760},
    {"fpu_dp", WORD64, 768},
    {"interrupt_shadow", SHADOW, 0}, {"nmi_mask", NMI_MASK, 0},
    {"instructions", COUNT, 0}, {"entropy", ENTROPY, 0},
    {NULL, 0, 0},
};

static uint64_t get_register(struct vcpu *v, const struct reg *r)
{
    void *env = v->env;
    struct segment *s = ENV_TABLE(env, r->offset);
    switch (r->kind) {
    case WORD64: case CR: case EFER: case DR7: return AT(uint64_t, env, r->offset);
    case WORD32: case MXCSR: return AT(uint32_t, env, r->offset);
    case WORD16: case FPUC: return AT(uint16_t, env, r->offset);
    case EFLAGS: return vcpu_eflags(env);
    case SEL: return s->selector & 0xffff;
    case BASE: return s->base;
    case LIMIT: return s->limit;
    case ATTR: return (s->flags >> 8 & 0xff) | (s->flags >> 12 & 0xf00);
    case SHADOW: return (ENV_HFLAGS(env) & HF_INHIBIT_IRQ) != 0;
    case NMI_MASK: return (ENV_HFLAGS2(env) & HF2_NMI_MASK) != 0;
    case COUNT: return v->count;
    case ENTROPY: return v->entropy;
    }
    return 0;
}

static void set_register(struct vcpu *v, const struct reg *r, uint64_t value)
{
    void *env = v->env;
    struct segment *s = ENV_TABLE(env, r->offset);
    switch (r->kind) {
    case WORD64: AT(uint64_t, env, r->offset) = value; break;
    case WORD32: AT(uint32_t, env, r->offset) = (uint32_t)value; break;
    case WORD16: AT(uint16_t, env, r->offset) = (uint16_t)value; break;
    case CR: case EFER:
        AT(uint64_t, env, r->offset) = value;
        NAME(tlb_flush)(v->cs);
        break;
    case DR7:
        NAME(cpu_x86_update_dr7)(env, (uint32_t)value);
        break;
    case EFLAGS:
        /* Outside of a run the condition codes stand in both places. */
        vcpu_set_eflags(env, value);
        ENV_EFLAGS(env) = value | 2;
        break;
    case SEL: s->selector = (uint32_t)value & 0xffff; break;
    case BASE: s->base = value; break;
    case LIMIT: s->limit = (uint32_t)value; break;
    case ATTR: s->flags = (uint32_t)((value & 0xff) << 8 | (value & 0xf00) << 12); break;
    case MXCSR: NAME(real_helper_ldmxcsr)(env, (uint32_t)value); break;
    case FPUC: NAME(helper_fldcw)(env, (uint32_t)value); break;
    case SHADOW:
        ENV_HFLAGS(env) = (ENV_HFLAGS(env) & ~HF_INHIBIT_IRQ) | (value ? HF_INHIBIT_IRQ : 0);
        break;
    case NMI_MASK:
        ENV_HFLAGS2(env) = (ENV_HFLAGS2(env) & ~HF2_NMI_MASK) | (value ? HF2_NMI_MASK : 0);
        break;
    case COUNT: v->count = value; break;
    case ENTROPY: v->entropy = value; break;
    }
    vcpu_sync_hflags(v);
}

static const struct reg *find_register(const char *name)
{
    for (const struct reg *r = registers; r->name; r++)
        if (!strcmp(r->name, name))
            return r;
    PyErr_Format(PyExc_KeyError, "no register '%s'", name);
    return NULL;
}

PyObject *cpu_get(struct vcpu *v, PyObject *arg);
PyObject *cpu_get(struct vcpu *v, PyObject *arg)
{
    const char *name = PyUnicode_AsUTF8(arg);
    const struct reg *r = name ? find_register(name) : NULL;
    return r ? PyLong_FromUnsignedLongLong(get_register(v, r)) : NULL;
}

PyObject *cpu_set(struct vcpu *v, PyObject *args);
PyObject *cpu_set(struct vcpu *v, PyObject *args)
{
    const char *name;
    unsigned long long value;
    if (!PyArg_ParseTuple(args, "sK", &name, &value))
        return NULL;
    const struct reg *r = find_register(name);
    if (!r)
        return NULL;
    set_register(v, r, value);
    Py_RETURN_NONE;
}

/* -- all of it ----------------------------------------------------------------------------------- */

static bool put(PyObject *state, const char *name, PyObject *value)
{
    bool fine = value && PyDict_SetItemString(state, name, value) == 0;
    Py_XDECREF(value);
    return fine;
}

/* Answered accesses of an instruction that hasn't run again yet. */
static PyObject *save_log(struct vcpu *v)
{
    size_t left = v->log_pos < v->log_len ? (size_t)v->log_len : 0;
    return PyBytes_FromStringAndSize((char *)v->log, (Py_ssize_t)(left * sizeof(struct access)));
}

PyObject *cpu_save(struct vcpu *v, PyObject *unused);
PyObject *cpu_save(struct vcpu *v, PyObject *unused)
{
    (void)unused;
    PyObject *state = PyDict_New();
    bool fine = state != NULL;
    for (const struct reg *r = registers; fine && r->name; r++)
        fine = put(state, r->name, PyLong_FromUnsignedLongLong(get_register(v, r)));
    char xmm[256];
    for (int i = 0; i < 16; i++)
        memcpy(xmm + 16 * i, (char *)v->env + ENV_XMM(i), 16);
    fine = fine && put(state, "xmm", PyBytes_FromStringAndSize(xmm, sizeof(xmm))) &&
           put(state, "st", PyBytes_FromStringAndSize((char *)v->env + ENV_FPREGS, 128)) &&
           put(state, "fpu_tags", PyBytes_FromStringAndSize((char *)v->env + ENV_FPTAGS, 8)) &&
           put(state, "answers", save_log(v)) &&
           put(state, "nmi_pending", PyLong_FromLong(v->nmi)) &&
           put(state, "pauses", PyLong_FromUnsignedLong(v->pauses)) &&
           put(state, "dead", PyLong_FromLong(v->dead));
    if (!fine)
        Py_CLEAR(state);
    return state;
}

static PyObject *item(PyObject *state, const char *name)
{
    PyObject *value = PyMapping_GetItemString(state, name);
    if (!value) {
        PyErr_Clear();
        PyErr_Format(PyExc_ValueError, "the CPU's state lacks '%s'", name);
    }
    return value;
}

static bool take_number(PyObject *state, const char *name, uint64_t *to)
{
    PyObject *value = item(state, name);
    *to = value ? PyLong_AsUnsignedLongLong(value) : 0;
    Py_XDECREF(value);
    return !PyErr_Occurred();
}

static bool take_bytes(PyObject *state, const char *name, void *to, Py_ssize_t size)
{
    PyObject *value = item(state, name);
    bool fine = value && PyBytes_Check(value) && PyBytes_GET_SIZE(value) == size;
    if (fine)
        memcpy(to, PyBytes_AS_STRING(value), (size_t)size);
    else if (value)
        PyErr_Format(PyExc_ValueError, "'%s' must be %zd bytes", name, size);
    Py_XDECREF(value);
    return fine;
}

PyObject *cpu_restore(struct vcpu *v, PyObject *state);
PyObject *cpu_restore(struct vcpu *v, PyObject *state)
{
    uint64_t values[sizeof(registers) / sizeof(*registers)], nmi, pauses, dead;
    char xmm[256], st[128], tags[8];
    PyObject *answers = NULL;
    /* All is read and checked before any of it is used. */
    for (const struct reg *r = registers; r->name; r++)
        if (!take_number(state, r->name, &values[r - registers]))
            return NULL;
    if (!take_bytes(state, "xmm", xmm, 256) || !take_bytes(state, "st", st, 128) ||
        !take_bytes(state, "fpu_tags", tags, 8) || !take_number(state, "nmi_pending", &nmi) ||
        !take_number(state, "pauses", &pauses) || !take_number(state, "dead", &dead) ||
        !(answers = item(state, "answers")))
        return NULL;
    Py_ssize_t size = PyBytes_Check(answers) ? PyBytes_GET_SIZE(answers) : -1;
    if (size < 0 || size % (Py_ssize_t)sizeof(struct access) ||
        size > (Py_ssize_t)sizeof(v->log)) {
        Py_DECREF(answers);
        return PyErr_Format(PyExc_ValueError, "'answers' is malformed");
    }
    for (const struct reg *r = registers; r->name; r++)
        set_register(v, r, values[r - registers]);
    for (int i = 0; i < 16; i++)
        memcpy((char *)v->env + ENV_XMM(i), xmm + 16 * i, 16);
    memcpy((char *)v->env + ENV_FPREGS, st, 128);
    memcpy((char *)v->env + ENV_FPTAGS, tags, 8);
    memcpy(v->log, PyBytes_AS_STRING(answers), (size_t)size);
    Py_DECREF(answers);
    v->log_len = (int)(size / (Py_ssize_t)sizeof(struct access));
    v->log_pos = 0;
    v->nmi = nmi;
    v->pauses = (uint32_t)pauses;
    v->dead = dead;
    v->pending = v->fault = false;
    v->ends = v->ending = v->ended = false;
    v->reason = EXIT_NONE;
    ENV_OLD_EXCEPTION(v->env) = -1;
    NAME(tlb_flush)(v->cs);
    Py_RETURN_NONE;
}

/* What the engine's translator may accept; the CPUID policy shows no more than this. */
static void set_features(void *env)
{
    memset(&ENV_FEATURES(env, 0), 0, 34 * sizeof(uint64_t));
    /* FPU DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFLUSH MMX FXSR SSE
       SSE2 SS */
    ENV_FEATURES(env, FEAT_1_EDX) = 0x0f8bfbfd;
    /* SSE3 PCLMULQDQ SSSE3 CX16 SSE4.1 SSE4.2 MOVBE POPCNT AES XSAVE RDRAND hypervisor */
    ENV_FEATURES(env, FEAT_1_ECX) = 1u << 0 | 1u << 1 | 1u << 9 | 1u << 13 | 1u << 19 | 1u << 20 |
                                    1u << 22 | 1u << 23 | 1u << 25 | 1u << 26 | 1u << 30 | 1u << 31;
    /* FSGSBASE BMI1 SMEP BMI2 ERMS ADX SMAP CLFLUSHOPT CLWB */
    ENV_FEATURES(env, FEAT_7_0_EBX) = 1u << 0 | 1u << 3 | 1u << 7 | 1u << 8 | 1u << 9 | 1u << 19 |
                                      1u << 20 | 1u << 23 | 1u << 24;
    ENV_FEATURES(env, FEAT_7_0_ECX) = 1u << 3; /* PKU */
    /* the aliases of leaf 1, SYSCALL NX MMXEXT PDPE1GB RDTSCP LM 3DNOWEXT 3DNOW */
    ENV_FEATURES(env, FEAT_8000_0001_EDX) = 0x0183f3fd | 1u << 11 | 1u << 20 | 1u << 22 |
                                            1u << 26 | 1u << 27 | 1u << 29 | 1u << 30 | 1u << 31;
    /* LAHF_LM CR8LEGACY ABM SSE4A 3DNOWPREFETCH */
    ENV_FEATURES(env, FEAT_8000_0001_ECX) = 1u << 0 | 1u << 4 | 1u << 5 | 1u << 6 | 1u << 8;
    ENV_FEATURES(env, FEAT_XSAVE) = 1u << 0 | 1u << 2; /* XSAVEOPT XGETBV1 */
    ENV_FEATURES(env, FEAT_XSAVE_COMP_LO) = XCR0_VALID;
}

static void set_by_name(struct vcpu *v, const char *name, uint64_t value)
{
    set_register(v, find_register(name), value);
}

/* The state after INIT, as the manual's table of processor states has it. */
void vcpu_reset(struct vcpu *v)
{
    static const char *const segments[] = {"es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"};
    char name[24];
    set_features(v->env);
    for (const struct reg *r = registers; r->name; r++)
        set_register(v, r, 0);
    for (int i = 0; i < 8; i++) {
        snprintf(name, sizeof(name), "%s.limit", segments[i]);
        set_by_name(v, name, 0xffff);
        snprintf(name, sizeof(name), "%s.attr", segments[i]);
        set_by_name(v, name, i == 1 ? 0x9b : i < 6 ? 0x93 : i == 6 ? 0x82 : 0x8b);
    }
    set_by_name(v, "cs.sel", 0xf000);
    set_by_name(v, "cs.base", 0xffff0000);
    set_by_name(v, "rip", 0xfff0);
    set_by_name(v, "rflags", 2);
    set_by_name(v, "cr0", 0x60000010);
    set_by_name(v, "gdtr.limit", 0xffff);
    set_by_name(v, "idtr.limit", 0xffff);
    set_by_name(v, "dr6", 0xffff0ff0);
    set_by_name(v, "dr7", 0x400);
    set_by_name(v, "pat", 0x0007040600070406);
    set_by_name(v, "mxcsr", 0x1f80);
    set_by_name(v, "fpu_control", 0x37f);
    set_by_name(v, "xcr0", 1);
    memset((char *)v->env + ENV_FPTAGS, 1, 8);
    for (int i = 0; i < 32; i++)
        memset((char *)v->env + ENV_XMM(i), 0, 64);
    ENV_HFLAGS2(v->env) |= HF2_GIF;
    ENV_OLD_EXCEPTION(v->env) = -1;
    vcpu_sync_hflags(v);
}
