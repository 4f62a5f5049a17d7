/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The Cpu type: runs guest instructions until an exit, and takes the answers.
 */
#include "pv.h"
#include "qemu.h"

#include <stdlib.h>
#include <string.h>

#define CHECK_CLOCK_EVERY 20000

static bool open_cpu(struct vcpu *v)
{
    if (v->cs)
        return true;
    PyErr_SetString(PyExc_ValueError, "the CPU is closed");
    return false;
}

/* -- running ------------------------------------------------------------------------------------ */

static void prepare(struct vcpu *v, uint64_t budget, int64_t deadline)
{
    struct engine *e = v->engine;
    void *cs = v->cs, *uc = e->uc;
    engine_catch_up(e);
    if (v->seen_generation != v->space->generation) {
        NAME(tlb_flush)(cs);
        v->seen_generation = v->space->generation;
    }
    v->reason = EXIT_NONE;
    v->watching = false; /* the instruction runs again, and meets its watched access again */
    v->watch_hits = 0;
    e->current = v;
    e->hard_limit = budget > UINT64_MAX - v->count ? UINT64_MAX : v->count + budget;
    e->deadline = deadline;
    e->limit = e->hard_limit - v->count > CHECK_CLOCK_EVERY ? v->count + CHECK_CLOCK_EVERY
                                                            : e->hard_limit;
    ENV_LEFT(v->env) = (int64_t)(e->limit - v->count);
    UC_CPU(uc) = cs;
    UC_NESTED_LEVEL(uc) = 1;
    UC_INVALID_ERROR(uc) = 0;
    UC_SIZE_RECUR_MEM(uc) = 0;
    CPU_HALTED(cs) = 0;
    CPU_STOP(cs) = CPU_STOPPED(cs) = 0;
    CPU_EXIT_REQUEST(cs) = 0;
    CPU_EXCEPTION_INDEX(cs) = -1;
    uint32_t request = 0;
    if (v->pv) {
        if (v->pv->flush)
            pv_flush(v);
        if (pv_event_due(v))
            request |= CPU_INTERRUPT_HARD;
    } else if (v->vector >= 0 || (v->line_vector >= 0 && v->space->memory->base[v->line]))
        request |= CPU_INTERRUPT_HARD;
    if (v->nmi)
        request |= CPU_INTERRUPT_NMI;
    CPU_INTERRUPT_REQUEST(cs) = request;
    if (v->fault) {
        v->fault = false;
        v->log_len = v->log_pos = 0;
        ENV_ERROR_CODE(v->env) = v->fault_error;
        ENV_EXCEPTION_IS_INT(v->env) = 0;
        ENV_OLD_EXCEPTION(v->env) = -1;
        if (v->fault_has_cr2)
            ENV_CR(v->env, 2) = (uint64_t)v->fault_cr2;
        CPU_EXCEPTION_INDEX(cs) = v->fault_vector;
        if (v->pv && !v->pv->iret)
            v->pv->deliver = true;
    }
}

static void execute(struct vcpu *v)
{
    struct engine *e = v->engine;
    xg_current = v;
    e->running = true;
    while (v->reason == EXIT_NONE) {
        NAME(cpu_exec)(e->uc, v->cs);
        if (v->reason == EXIT_NONE && UC_INVALID_ERROR(e->uc)) {
            v->args[0] = (uint64_t)UC_INVALID_ERROR(e->uc);
            v->args[1] = ENV_EIP(v->env);
            v->reason = EXIT_ERROR;
            v->dead = true;
        }
    }
    e->running = false;
    xg_current = NULL;
    UC_NESTED_LEVEL(e->uc) = 0;
    v->count = engine_count(e);
}

static uint32_t mode_flags(struct vcpu *v)
{
    uint32_t h = ENV_HFLAGS(v->env);
    uint32_t mode = h & HF_CS64 ? 3 : h & HF_PE ? (h & HF_CS32 ? 2 : 1) : 0;
    return (h & HF_CPL) | mode << 2;
}

static PyObject *cpu_run(struct vcpu *v, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs < 1 || nargs > 2)
        return PyErr_Format(PyExc_TypeError, "run() takes a budget and a deadline");
    unsigned long long budget = PyLong_AsUnsignedLongLong(args[0]);
    int far = 0;
    long long deadline = nargs > 1 ? PyLong_AsLongLongAndOverflow(args[1], &far) : 0;
    if (far > 0)
        deadline = INT64_MAX;
    if (PyErr_Occurred() || !open_cpu(v))
        return NULL;
    if (v->engine->running)
        return PyErr_Format(PyExc_RuntimeError, "another CPU of this space is running");
    if (!v->dead) {
        memset(v->args, 0, sizeof(v->args));
        if (atomic_exchange(&v->kicked, false)) {
            v->reason = EXIT_KICK;
        } else {
            v->pending = false;
            v->engine->busy = true;
            prepare(v, budget, deadline);
            Py_BEGIN_ALLOW_THREADS
            execute(v);
            Py_END_ALLOW_THREADS
            v->engine->busy = false;
            if (v->reason == EXIT_KICK)
                v->kicked = false;
        }
        v->flags = mode_flags(v);
    }
    PyObject *exit = PyTuple_New(8);
    if (!exit)
        return NULL;
    PyTuple_SET_ITEM(exit, 0, PyLong_FromLong(v->reason));
    PyTuple_SET_ITEM(exit, 1, PyLong_FromUnsignedLong(v->flags));
    for (int i = 0; i < 6; i++)
        PyTuple_SET_ITEM(exit, 2 + i, PyLong_FromUnsignedLongLong(v->args[i]));
    return exit;
}

static PyObject *cpu_complete(struct vcpu *v, PyObject *const *args, Py_ssize_t nargs)
{
    unsigned long long value[4] = {0};
    if (nargs > 4)
        return PyErr_Format(PyExc_TypeError, "complete() takes up to four values");
    for (Py_ssize_t i = 0; i < nargs; i++)
        value[i] = PyLong_AsUnsignedLongLongMask(args[i]);
    if (PyErr_Occurred())
        return NULL;
    if (!v->pending)
        return PyErr_Format(PyExc_RuntimeError, "no exit waits for an answer");
    v->pending = false;
    if (v->reason == EXIT_HYPERCALL) {
        bool wide = ENV_HFLAGS(v->env) & HF_CS64;
        ENV_REGS(v->env, R_EAX) = wide ? value[0] : (uint32_t)value[0];
        uint64_t next = ENV_EIP(v->env) + (uint64_t)v->call_length;
        ENV_EIP(v->env) = wide ? next : (uint32_t)next;
        if (v->pv && wide) { /* SYSCALL leaves these behind */
            ENV_REGS(v->env, R_ECX) = next;
            ENV_REGS(v->env, R_R11) = vcpu_eflags(v->env);
        }
        ENV_HFLAGS(v->env) &= ~HF_INHIBIT_IRQ;
    } else if (v->reason == EXIT_EXCEPTION) {
        ENV_EIP(v->env) += value[0]; /* carried out: its length */
        ENV_HFLAGS(v->env) &= ~HF_INHIBIT_IRQ;
    } else {
        for (int i = 0; i < 4; i++)
            v->log[v->log_len].value[i] = value[i];
        v->log_len++;
        v->log_pos = 0;
    }
    Py_RETURN_NONE;
}

static PyObject *cpu_retry(struct vcpu *v, PyObject *unused)
{
    (void)unused;
    v->pending = false;
    v->log_pos = 0;
    Py_RETURN_NONE;
}

static PyObject *cpu_fault(struct vcpu *v, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"vector", "error_code", "cr2", NULL};
    int vector, error = -1;
    PyObject *cr2 = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "i|iO", names, &vector, &error, &cr2))
        return NULL;
    if (vector < 0 || vector > 31)
        return PyErr_Format(PyExc_ValueError, "exceptions have vectors 0 to 31");
    v->fault_has_cr2 = false;
    if (cr2) {
        v->fault_cr2 = (int64_t)PyLong_AsUnsignedLongLongMask(cr2);
        if (PyErr_Occurred())
            return NULL;
        PyObject *minus = PyLong_FromLong(-1);
        v->fault_has_cr2 = minus && PyObject_RichCompareBool(cr2, minus, Py_EQ) == 0;
        Py_XDECREF(minus);
    }
    v->pending = false;
    v->fault = true;
    v->fault_vector = vector;
    v->fault_error = error < 0 ? 0 : error;
    Py_RETURN_NONE;
}

static PyObject *cpu_kick(struct vcpu *v, PyObject *unused)
{
    (void)unused;
    v->kicked = true;
    Py_RETURN_NONE;
}

static PyObject *cpu_instructions(struct vcpu *v, PyObject *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(v->count);
}

static PyObject *cpu_skip(struct vcpu *v, PyObject *arg)
{
    unsigned long long count = PyLong_AsUnsignedLongLong(arg);
    if (PyErr_Occurred())
        return NULL;
    v->count += count;
    Py_RETURN_NONE;
}

/* -- interrupts ---------------------------------------------------------------------------------- */

static PyObject *cpu_set_interrupt(struct vcpu *v, PyObject *args)
{
    int vector, ends = 0;
    if (!PyArg_ParseTuple(args, "i|p", &vector, &ends))
        return NULL;
    if (vector < -1 || vector > 255)
        return PyErr_Format(PyExc_ValueError, "vectors are -1 to 255");
    v->vector = vector;
    v->ends = ends;
    v->ending = false;
    Py_RETURN_NONE;
}

static PyObject *cpu_taken_interrupt(struct vcpu *v, PyObject *unused)
{
    (void)unused;
    int taken = v->taken;
    v->taken = -1;
    return PyLong_FromLong(taken);
}

static PyObject *cpu_ended_interrupt(struct vcpu *v, PyObject *unused)
{
    (void)unused;
    bool ended = v->ended;
    v->ended = false;
    return PyBool_FromLong(ended);
}

static PyObject *cpu_set_line(struct vcpu *v, PyObject *args)
{
    unsigned long long maddr;
    int vector;
    if (!PyArg_ParseTuple(args, "Ki", &maddr, &vector))
        return NULL;
    if (vector > 255 || maddr >= v->space->memory->frames << PAGE_SHIFT)
        return PyErr_Format(PyExc_ValueError, "the line's byte or vector is out of range");
    v->line = maddr;
    v->line_vector = vector < 0 ? -1 : vector;
    Py_RETURN_NONE;
}

/* Each run looks at the line when it begins. */
static PyObject *cpu_poke_line(struct vcpu *v, PyObject *unused)
{
    (void)v, (void)unused;
    Py_RETURN_NONE;
}

static PyObject *cpu_set_nmi(struct vcpu *v, PyObject *unused)
{
    (void)unused;
    v->nmi = true;
    Py_RETURN_NONE;
}

static PyObject *cpu_interruptible(struct vcpu *v, PyObject *unused)
{
    (void)unused;
    if (!open_cpu(v))
        return NULL;
    return PyBool_FromLong(ENV_EFLAGS(v->env) & 0x200 && !(ENV_HFLAGS(v->env) & HF_INHIBIT_IRQ));
}

static PyObject *cpu_injections(struct vcpu *v, PyObject *unused)
{
    (void)unused;
    PyObject *list = PyList_New(0);
    uint32_t from = v->injections > INJECTIONS ? v->injections - INJECTIONS : 0;
    for (uint32_t i = from; list && i < v->injections; i++) {
        uint32_t at = i % INJECTIONS;
        PyObject *item = Py_BuildValue("Kii", v->injected[at].count, v->injected[at].vector,
                                       v->injected[at].kind);
        if (!item || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    v->injections = 0;
    return list;
}

/* -- memory as the guest sees it ------------------------------------------------------------------ */

bool vcpu_read_virtual(struct vcpu *v, uint64_t gva, void *to, size_t size)
{
    while (size) {
        size_t part = PAGE_SIZE - (gva & (PAGE_SIZE - 1));
        part = part < size ? part : size;
        uint64_t gpa = vcpu_translate(v, gva);
        uint8_t *from = gpa == ~0ull ? NULL : space_host(v->space, gpa, false);
        if (!from)
            return false;
        memcpy(to, from, part);
        to = (char *)to + part, gva += part, size -= part;
    }
    return true;
}

static PyObject *access_error(uint64_t address)
{
    PyObject *error = PyObject_CallFunction(AccessError, "K", address);
    if (error)
        PyErr_SetObject(AccessError, error);
    Py_XDECREF(error);
    return NULL;
}

static PyObject *cpu_translate(struct vcpu *v, PyObject *arg)
{
    unsigned long long gva = PyLong_AsUnsignedLongLong(arg);
    if (PyErr_Occurred() || !open_cpu(v))
        return NULL;
    uint64_t gpa = vcpu_translate(v, gva);
    return gpa == ~0ull ? access_error(gva) : PyLong_FromUnsignedLongLong(gpa);
}

#define VIRTUAL_MAX (64ull << 20)

static PyObject *cpu_read(struct vcpu *v, PyObject *args)
{
    unsigned long long gva, size;
    if (!PyArg_ParseTuple(args, "KK", &gva, &size) || !open_cpu(v))
        return NULL;
    if (size > VIRTUAL_MAX)
        return access_error(gva);
    PyObject *result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (result && !vcpu_read_virtual(v, gva, PyBytes_AS_STRING(result), size)) {
        Py_DECREF(result);
        return access_error(gva);
    }
    return result;
}

static PyObject *cpu_write(struct vcpu *v, PyObject *args)
{
    unsigned long long gva;
    Py_buffer data;
    if (!PyArg_ParseTuple(args, "Ky*", &gva, &data))
        return NULL;
    if (v->pv) {
        bool done = v->cs && (uint64_t)data.len <= VIRTUAL_MAX &&
                    pv_copy_out(v, gva, data.buf, (uint64_t)data.len);
        PyBuffer_Release(&data);
        if (!done)
            return access_error(gva);
        Py_RETURN_NONE;
    }
    uint64_t start = gva, size = (uint64_t)data.len, part;
    const char *from = data.buf;
    bool fine = v->cs && size <= VIRTUAL_MAX;
    /* All pages are checked first: a bad pointer leaves nothing half written. */
    for (int commit = 0; fine && commit < 2; commit++) {
        uint64_t left = size;
        gva = start;
        while (fine && left) {
            part = PAGE_SIZE - (gva & (PAGE_SIZE - 1));
            part = part < left ? part : left;
            uint64_t gpa = vcpu_translate_write(v, gva);
            uint64_t need = P2M_PRESENT | P2M_WRITE;
            fine = gpa != ~0ull && (space_lookup(v->space, gpa >> PAGE_SHIFT) & need) == need;
            uint8_t *to = fine && commit ? space_host(v->space, gpa, true) : NULL;
            if (to)
                memcpy(to, from + (gva - start), part);
            if (fine)
                gva += part, left -= part;
        }
    }
    PyBuffer_Release(&data);
    if (!fine)
        return access_error(gva);
    Py_RETURN_NONE;
}

static PyObject *cpu_flush_tlb(struct vcpu *v, PyObject *unused)
{
    (void)unused;
    if (!open_cpu(v))
        return NULL;
    NAME(tlb_flush)(v->cs);
    Py_RETURN_NONE;
}

/* -- answered without an exit ---------------------------------------------------------------------- */

static PyObject *cpu_set_cpuid(struct vcpu *v, PyObject *table)
{
    if (!open_cpu(v))
        return NULL;
    Py_ssize_t rows = PySequence_Size(table);
    struct cpuid_row *copy = rows < 0 ? NULL : calloc((size_t)rows + 1, sizeof(*copy));
    for (Py_ssize_t i = 0; copy && i < rows; i++) {
        long long subleaf;
        PyObject *row = PySequence_GetItem(table, i);
        struct cpuid_row *r = &copy[i];
        if (row && PyArg_ParseTuple(row, "ILIIII", &r->leaf, &subleaf, &r->regs[0], &r->regs[1],
                                    &r->regs[2], &r->regs[3])) {
            r->subleaf_any = subleaf < 0;
            r->subleaf = (uint32_t)subleaf;
            /* SYSENTER in 64-bit mode exists on one vendor's CPUs only. */
            if (r->leaf == 0)
                ENV_CPUID_VENDOR1(v->env) = r->regs[1];
        }
        Py_XDECREF(row);
        if (PyErr_Occurred()) {
            free(copy);
            return NULL;
        }
    }
    if (!copy)
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    free(v->cpuid);
    v->cpuid = copy;
    v->cpuid_rows = (size_t)rows;
    Py_RETURN_NONE;
}

static PyObject *cpu_fast_hypercalls(struct vcpu *v, PyObject *table)
{
    Py_ssize_t rows = PySequence_Size(table);
    struct fast_row *copy = rows < 0 ? NULL : calloc((size_t)rows + 1, sizeof(*copy));
    for (Py_ssize_t i = 0; copy && i < rows; i++) {
        unsigned long long number = 0, arg = 0, result = 0;
        PyObject *row = PySequence_GetItem(table, i);
        if (row && PyArg_ParseTuple(row, "KKK", &number, &arg, &result))
            copy[i] = (struct fast_row){number, arg, result};
        Py_XDECREF(row);
        if (PyErr_Occurred()) {
            free(copy);
            return NULL;
        }
    }
    if (!copy)
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    free(v->fast);
    v->fast = copy;
    v->fast_rows = (size_t)rows;
    Py_RETURN_NONE;
}

static PyObject *cpu_pass_msrs(struct vcpu *v, PyObject *indices)
{
    Py_ssize_t count = PySequence_Size(indices);
    if (count < 0)
        return NULL;
    if (count > 32)
        return PyErr_Format(PyExc_ValueError, "at most 32 MSRs can be passed");
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *value = PySequence_GetItem(indices, i);
        v->msrs[i] = value ? (uint32_t)PyLong_AsUnsignedLongMask(value) : 0;
        Py_XDECREF(value);
        if (PyErr_Occurred())
            return NULL;
    }
    v->msr_count = (size_t)count;
    Py_RETURN_NONE;
}

static PyObject *cpu_limit_controls(struct vcpu *v, PyObject *args)
{
    unsigned long long cr4, efer, xcr0;
    if (!PyArg_ParseTuple(args, "KKK", &cr4, &efer, &xcr0) || !open_cpu(v))
        return NULL;
    v->cr4_valid = cr4 & CR4_VALID;
    v->efer_valid = efer & EFER_VALID;
    ENV_FEATURES(v->env, FEAT_XSAVE_COMP_LO) = xcr0 & XCR0_VALID;
    Py_RETURN_NONE;
}

static PyObject *cpu_trap_ports(struct vcpu *v, PyObject *args)
{
    unsigned int first, last;
    int trap;
    if (!PyArg_ParseTuple(args, "IIp", &first, &last, &trap))
        return NULL;
    if (last > 0xffff || first > last)
        return PyErr_Format(PyExc_ValueError, "ports are 0 to 0xffff");
    for (uint32_t p = first; p <= last; p++)
        v->ports[p / 8] = (uint8_t)((v->ports[p / 8] & ~(1u << p % 8)) | (unsigned)trap << p % 8);
    Py_RETURN_NONE;
}

static PyObject *cpu_set_tsc(struct vcpu *v, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"virtual", "khz", "offset", NULL};
    int is_virtual;
    unsigned long long khz;
    PyObject *offset;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "pKO", names, &is_virtual, &khz, &offset))
        return NULL;
    uint64_t wrapped = PyLong_AsUnsignedLongLongMask(offset);
    if (PyErr_Occurred())
        return NULL;
    v->tsc = (struct tsc){is_virtual, khz, (int64_t)wrapped};
    Py_RETURN_NONE;
}

static PyObject *cpu_tsc(struct vcpu *v, PyObject *unused)
{
    (void)unused;
    return PyLong_FromUnsignedLongLong(vcpu_tsc(v, v->count));
}

static PyObject *cpu_pause_exits(struct vcpu *v, PyObject *arg)
{
    unsigned long every = PyLong_AsUnsignedLong(arg);
    if (PyErr_Occurred())
        return NULL;
    v->pause_every = (uint32_t)every;
    Py_RETURN_NONE;
}

/* -- life ------------------------------------------------------------------------------------------- */

static PyObject *cpu_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"space", "index", NULL};
    PyObject *object;
    int index;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!i", names, &Space_Type, &object, &index))
        return NULL;
    struct space *s = (struct space *)object;
    char error[160] = "out of memory";
    if (!s->engine && !(s->engine = engine_open(s, error, sizeof(error))))
        return PyErr_Format(PyExc_RuntimeError, "%s", error);
    struct vcpu *v = (struct vcpu *)type->tp_alloc(type, 0);
    if (!v)
        return NULL;
    struct engine *e = s->engine;
    v->cs = e->spare ? e->spares[--e->spare] : engine_further_cpu(e);
    if (!v->cs) {
        Py_TYPE(v)->tp_free((PyObject *)v);
        return PyErr_NoMemory();
    }
    if (!jumps_open(v)) {
        e->spares[e->spare++] = v->cs;
        Py_TYPE(v)->tp_free((PyObject *)v);
        return PyErr_NoMemory();
    }
    CPU_VCPU(v->cs) = v;
    v->env = CPU_ENV_PTR(v->cs);
    v->space = s;
    Py_INCREF(s);
    v->engine = e;
    v->index = index;
    v->vector = v->taken = v->line_vector = -1;
    v->reason = EXIT_NONE;
    v->tsc = (struct tsc){false, 1000000, 0};
    v->cr4_valid = CR4_VALID;
    v->efer_valid = EFER_VALID;
    memset(v->ports, 0xff, sizeof(v->ports));
    v->next = e->vcpus;
    e->vcpus = v;
    vcpu_reset(v);
    return (PyObject *)v;
}

static void cpu_release(struct vcpu *v)
{
    if (!v->cs)
        return;
    pv_release(v);
    struct engine *e = v->engine;
    struct vcpu **link = &e->vcpus;
    while (*link != v)
        link = &(*link)->next;
    *link = v->next;
    /* The engine can't take a CPU away: the next one of this space gets it. */
    NAME(tlb_flush)(v->cs);
    CPU_VCPU(v->cs) = NULL;
    e->spares[e->spare++] = v->cs;
    v->cs = NULL;
    free(v->cpuid);
    free(v->fast);
    free(v->jumps);
    v->cpuid = NULL, v->fast = NULL, v->jumps = NULL;
    v->cpuid_rows = v->fast_rows = 0;
    Py_CLEAR(v->space);
}

static PyObject *cpu_close(struct vcpu *v, PyObject *unused)
{
    (void)unused;
    if (v->engine && v->engine->busy)
        return PyErr_Format(PyExc_RuntimeError, "a CPU of this space is running");
    cpu_release(v);
    Py_RETURN_NONE;
}

static void cpu_dealloc(struct vcpu *v)
{
    cpu_release(v);
    Py_TYPE(v)->tp_free((PyObject *)v);
}

PyObject *cpu_get(struct vcpu *v, PyObject *arg);
PyObject *cpu_set(struct vcpu *v, PyObject *args);
PyObject *cpu_save(struct vcpu *v, PyObject *unused);
PyObject *cpu_restore(struct vcpu *v, PyObject *state);

#define METHOD(name, flags) {#name, (PyCFunction)(void (*)(void))cpu_##name, flags, NULL}
static PyMethodDef methods[] = {
    METHOD(run, METH_FASTCALL), METHOD(complete, METH_FASTCALL), METHOD(retry, METH_NOARGS),
    METHOD(fault, METH_VARARGS | METH_KEYWORDS), METHOD(kick, METH_NOARGS),
    METHOD(instructions, METH_NOARGS), METHOD(skip, METH_O), METHOD(get, METH_O),
    METHOD(set, METH_VARARGS), METHOD(save, METH_NOARGS), METHOD(restore, METH_O),
    METHOD(set_interrupt, METH_VARARGS), METHOD(taken_interrupt, METH_NOARGS),
    METHOD(ended_interrupt, METH_NOARGS),
    METHOD(set_line, METH_VARARGS), METHOD(poke_line, METH_NOARGS), METHOD(set_nmi, METH_NOARGS),
    METHOD(interruptible, METH_NOARGS), METHOD(injections, METH_NOARGS),
    METHOD(translate, METH_O), METHOD(read, METH_VARARGS), METHOD(write, METH_VARARGS),
    METHOD(flush_tlb, METH_NOARGS), METHOD(set_cpuid, METH_O), METHOD(fast_hypercalls, METH_O),
    METHOD(pass_msrs, METH_O), METHOD(limit_controls, METH_VARARGS),
    METHOD(trap_ports, METH_VARARGS),
    METHOD(set_tsc, METH_VARARGS | METH_KEYWORDS), METHOD(tsc, METH_NOARGS),
    METHOD(pause_exits, METH_O), METHOD(close, METH_NOARGS),
    {NULL, NULL, 0, NULL},
};

PyTypeObject Cpu_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "xenograft.engine._core.Cpu",
    .tp_basicsize = sizeof(struct vcpu),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = cpu_new,
    .tp_dealloc = (destructor)cpu_dealloc,
    .tp_methods = methods,
};

int cpu_register(PyObject *module)
{
    size_t own = 0, more = 0;
    while (methods[own].ml_name)
        own++;
    while (pv_cpu_methods[more].ml_name)
        more++;
    static PyMethodDef all[128];
    if (own + more >= 128)
        return -1;
    memcpy(all, methods, own * sizeof(*all));
    memcpy(all + own, pv_cpu_methods, more * sizeof(*all));
    Cpu_Type.tp_methods = all;
    return PyModule_AddType(module, &Cpu_Type);
}
