/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * PV domains and the PV part of a Cpu, as Python sees them.
 */
#include "pv.h"
#include "qemu.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* -- PvDomain ------------------------------------------------------------------------------------- */

static PyObject *domain_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"memory", "space", "domid", NULL};
    PyObject *memory, *space;
    unsigned int domid;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O!OI", names, &Memory_Type, &memory, &space,
                                     &domid))
        return NULL;
    if (space != Py_None && !PyObject_TypeCheck(space, &Space_Type))
        return PyErr_Format(PyExc_TypeError, "space is a Space or None");
    struct pv_domain *d = (struct pv_domain *)type->tp_alloc(type, 0);
    if (!d)
        return NULL;
    d->memory = (struct memory *)memory;
    Py_INCREF(memory);
    if (space != Py_None) {
        d->space = (struct space *)space;
        Py_INCREF(space);
    }
    d->domid = domid;
    return (PyObject *)d;
}

static void domain_dealloc(struct pv_domain *d)
{
    Py_XDECREF(d->space);
    Py_XDECREF(d->memory);
    Py_TYPE(d)->tp_free((PyObject *)d);
}

static PyObject *domain_configure(struct pv_domain *d, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"compat", "m2p_l4e", "perdomain_l4e", "compat_l2", NULL};
    int compat;
    unsigned long long m2p, perdomain;
    Py_buffer l2;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "pKKy*", names, &compat, &m2p, &perdomain, &l2))
        return NULL;
    bool fine = l2.len == 0 || l2.len == sizeof(d->compat_l2);
    if (fine) {
        d->compat = compat;
        d->m2p_l4e = m2p;
        d->perdomain_l4e = perdomain;
        memset(d->compat_l2, 0, sizeof(d->compat_l2));
        memcpy(d->compat_l2, l2.buf, (size_t)l2.len);
    }
    PyBuffer_Release(&l2);
    if (!fine)
        return PyErr_Format(PyExc_ValueError, "Xen's entries of a 32-bit guest have %zu bytes",
                            sizeof(d->compat_l2));
    Py_RETURN_NONE;
}

static PyObject *domain_set_assist(struct pv_domain *d, PyObject *arg)
{
    unsigned long long assist = PyLong_AsUnsignedLongLong(arg);
    if (PyErr_Occurred())
        return NULL;
    d->vm_assist = assist;
    d->m2p_strict = assist >> 32 & 1;
    Py_RETURN_NONE;
}

static bool frame_known(struct pv_domain *d, unsigned long long mfn)
{
    if (mfn < d->memory->frames)
        return true;
    PyErr_Format(PyExc_IndexError, "no frame 0x%llx", mfn);
    return false;
}

static PyObject *domain_get_type(struct pv_domain *d, PyObject *args)
{
    unsigned long long mfn;
    unsigned int type;
    if (!PyArg_ParseTuple(args, "KI", &mfn, &type))
        return NULL;
    if (type < 1 || type > 7)
        return PyErr_Format(PyExc_ValueError, "types are 1 to 7");
    return PyLong_FromLong(pv_get_page_and_type(d, mfn, PGT_level(type)));
}

static PyObject *domain_put_type(struct pv_domain *d, PyObject *arg)
{
    unsigned long long mfn = PyLong_AsUnsignedLongLongMask(arg);
    if (PyErr_Occurred() || !frame_known(d, mfn))
        return NULL;
    if (!pv_count(d->memory, mfn))
        return PyErr_Format(PyExc_ValueError, "frame 0x%llx has no type", mfn);
    pv_put_page_and_type(d, mfn);
    Py_RETURN_NONE;
}

static PyObject *domain_pin(struct pv_domain *d, PyObject *args)
{
    unsigned long long mfn;
    int level;
    if (!PyArg_ParseTuple(args, "Ki", &mfn, &level))
        return NULL;
    if (level < 1 || level > 4)
        return PyErr_Format(PyExc_ValueError, "levels are 1 to 4");
    d->work = 0;
    return PyLong_FromLong(pv_pin(d, mfn, level));
}

static PyObject *domain_unpin(struct pv_domain *d, PyObject *arg)
{
    unsigned long long mfn = PyLong_AsUnsignedLongLongMask(arg);
    return PyErr_Occurred() ? NULL : PyLong_FromLong(pv_unpin(d, mfn));
}

static PyObject *domain_update(struct pv_domain *d, PyObject *args)
{
    unsigned long long ptr, val;
    unsigned int owner = d->domid;
    if (!PyArg_ParseTuple(args, "KK|I", &ptr, &val, &owner))
        return NULL;
    return PyLong_FromLong(pv_mmu_update(d, ptr, val, owner));
}

static PyObject *domain_update_descriptor(struct pv_domain *d, PyObject *args)
{
    unsigned long long maddr, descriptor;
    if (!PyArg_ParseTuple(args, "KK", &maddr, &descriptor))
        return NULL;
    return PyLong_FromLong(pv_update_descriptor(d, maddr, descriptor));
}

static PyObject *domain_check_descriptor(struct pv_domain *d, PyObject *arg)
{
    uint64_t descriptor = PyLong_AsUnsignedLongLongMask(arg);
    if (PyErr_Occurred())
        return NULL;
    if (!pv_check_descriptor(d, &descriptor))
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong(descriptor);
}

/*
 * Replace an L1 entry by one that a grant stands for: no reference is taken for the new one
 * (the grant holds it); the old one's are dropped.  Returns the old entry, or -errno.
 */
static PyObject *domain_swap_l1(struct pv_domain *d, PyObject *args)
{
    unsigned long long maddr, entry;
    int drop;
    if (!PyArg_ParseTuple(args, "KKp", &maddr, &entry, &drop))
        return NULL;
    struct memory *m = d->memory;
    uint64_t mfn = maddr >> PAGE_SHIFT;
    if (maddr & 7 || !pv_get_page(m, mfn, d->domid))
        return PyLong_FromLong(-PV_EINVAL);
    if (pv_type(m, mfn) != PGT_level(1) || !pv_count(m, mfn)) {
        pv_put_page(m, mfn);
        return PyLong_FromLong(-PV_EINVAL);
    }
    uint64_t *pte = (uint64_t *)(m->base + maddr), old = *pte;
    frame_written(m, mfn);
    *pte = entry;
    if (drop)
        pv_put_l1e(d, old);
    pv_put_page(m, mfn);
    return PyLong_FromUnsignedLongLong(old);
}

/* A dying domain's tables: drop what holds frames in circles. True when none is left. */
static PyObject *domain_relinquish(struct pv_domain *d, PyObject *extents)
{
    struct memory *m = d->memory;
    PyObject *iterator = PyObject_GetIter(extents), *item;
    while (iterator && (item = PyIter_Next(iterator))) {
        unsigned long long first, count;
        bool fine = PyArg_ParseTuple(item, "KK", &first, &count);
        Py_DECREF(item);
        if (!fine || first >= m->frames || count > m->frames - first)
            break;
        for (uint64_t mfn = first; mfn < first + count; mfn++)
            if (m->table[mfn].owner == d->domid && m->table[mfn].types & PGT_pinned)
                pv_unpin(d, mfn);
        /* What is still a table is held by other tables, in the end by one that maps itself. */
        for (uint64_t mfn = first; mfn < first + count; mfn++) {
            struct frame *f = &m->table[mfn];
            if (f->owner != d->domid || !(f->types & PGT_validated) || !(f->types & PGT_count_mask))
                continue;
            uint32_t type = f->types & PGT_type_mask;
            if (type < PGT_level(2) || type > PGT_level(4))
                continue;
            uint64_t *table = pv_table(m, mfn);
            for (int i = 0; i < 512; i++)
                if (table[i] & PTE_P && PTE_MFN(table[i]) < m->frames &&
                    pv_type(m, PTE_MFN(table[i])) == type && PTE_MFN(table[i]) != mfn) {
                    uint64_t entry = table[i];
                    table[i] = 0;
                    pv_put_lne(d, entry, (int)(type >> 29), mfn);
                }
        }
    }
    Py_XDECREF(iterator);
    if (PyErr_Occurred())
        return NULL;
    Py_RETURN_NONE;
}

#define METHOD(name, flags) {#name, (PyCFunction)(void (*)(void))domain_##name, flags, NULL}
static PyMethodDef domain_methods[] = {
    METHOD(configure, METH_VARARGS | METH_KEYWORDS), METHOD(set_assist, METH_O),
    METHOD(get_type, METH_VARARGS), METHOD(put_type, METH_O), METHOD(pin, METH_VARARGS),
    METHOD(unpin, METH_O), METHOD(update, METH_VARARGS), METHOD(update_descriptor, METH_VARARGS),
    METHOD(check_descriptor, METH_O), METHOD(swap_l1, METH_VARARGS), METHOD(relinquish, METH_O),
    {NULL, NULL, 0, NULL},
};

PyTypeObject PvDomain_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "xenograft.engine._core.PvDomain",
    .tp_basicsize = sizeof(struct pv_domain),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = domain_new,
    .tp_dealloc = (destructor)domain_dealloc,
    .tp_methods = domain_methods,
};

int pv_register(PyObject *module)
{
    return PyModule_AddType(module, &PvDomain_Type);
}

/* -- the PV part of a Cpu ----------------------------------------------------------------------------- */

enum field_kind { FIELD_64, FIELD_BOOL };
static const struct field {
    const char *name;
    enum field_kind kind;
    size_t offset;
} fields[] = {
#define F64(name) {#name, FIELD_64, offsetof(struct pv_vcpu, name)}
    F64(kernel_table), F64(user_table), F64(root), F64(kernel_ss), F64(kernel_sp), F64(event),
    F64(failsafe), F64(syscall), F64(syscall32), F64(sysenter), F64(event_cs), F64(failsafe_cs),
    F64(syscall32_cs), F64(sysenter_cs), F64(flags), F64(syscall32_masks), F64(sysenter_masks),
    F64(iopl), F64(cr4), F64(ldt_base), F64(ldt_entries), F64(gdt_entries), F64(reserved_gdt),
    F64(descriptors), F64(info), F64(hypercalls), F64(bounces), F64(irets), F64(window_writes),
    {"user", FIELD_BOOL, offsetof(struct pv_vcpu, user)},
    {"native", FIELD_BOOL, offsetof(struct pv_vcpu, native)},
    {"taskswitch", FIELD_BOOL, offsetof(struct pv_vcpu, taskswitch)},
    {NULL, FIELD_64, 0},
};

static bool is_pv(struct vcpu *v)
{
    if (v->pv && v->cs)
        return true;
    PyErr_SetString(PyExc_ValueError, "the CPU isn't a PV guest's");
    return false;
}

static const struct field *find_field(struct vcpu *v, const char *name)
{
    if (!name || !is_pv(v))
        return NULL;
    for (const struct field *f = fields; f->name; f++)
        if (!strcmp(f->name, name))
            return f;
    PyErr_Format(PyExc_KeyError, "no PV register '%s'", name);
    return NULL;
}

static PyObject *cpu_pv_attach(struct vcpu *v, PyObject *arg)
{
    if (!PyObject_TypeCheck(arg, &PvDomain_Type))
        return PyErr_Format(PyExc_TypeError, "a PvDomain is wanted");
    if (v->pv || !v->cs)
        return PyErr_Format(PyExc_ValueError, "the CPU is closed, or a PV guest's already");
    v->pv = calloc(1, sizeof(*v->pv));
    if (!v->pv)
        return PyErr_NoMemory();
    v->pv->domain = (struct pv_domain *)arg;
    v->pv->info = ~0ull;
    Py_INCREF(arg);
    Py_RETURN_NONE;
}

void pv_release(struct vcpu *v)
{
    if (!v->pv)
        return;
    ENV_HFLAGS(v->env) &= ~HF_PV_USER;
    Py_DECREF(v->pv->domain);
    free(v->pv);
    v->pv = NULL;
}

static PyObject *cpu_pv_get(struct vcpu *v, PyObject *arg)
{
    const struct field *f = find_field(v, PyUnicode_AsUTF8(arg));
    if (!f)
        return NULL;
    if (f->kind == FIELD_BOOL)
        return PyLong_FromLong(AT(bool, v->pv, f->offset));
    return PyLong_FromUnsignedLongLong(AT(uint64_t, v->pv, f->offset));
}

static PyObject *cpu_pv_set(struct vcpu *v, PyObject *args)
{
    const char *name;
    unsigned long long value;
    if (!PyArg_ParseTuple(args, "sK", &name, &value))
        return NULL;
    const struct field *f = find_field(v, name);
    if (!f)
        return NULL;
    if (f->kind == FIELD_BOOL)
        AT(bool, v->pv, f->offset) = value != 0;
    else
        AT(uint64_t, v->pv, f->offset) = value;
    Py_RETURN_NONE;
}

static PyObject *cpu_pv_trap(struct vcpu *v, PyObject *args)
{
    unsigned int vector, flags, cs;
    unsigned long long address;
    if (!PyArg_ParseTuple(args, "IIIK", &vector, &flags, &cs, &address) || !is_pv(v))
        return NULL;
    if (vector > 255)
        return PyErr_Format(PyExc_ValueError, "vectors are 0 to 255");
    v->pv->traps[vector] = (struct pv_trap){address, (uint16_t)cs, (uint8_t)flags};
    Py_RETURN_NONE;
}

static PyObject *cpu_pv_get_trap(struct vcpu *v, PyObject *arg)
{
    unsigned long vector = PyLong_AsUnsignedLong(arg);
    if (PyErr_Occurred() || !is_pv(v))
        return NULL;
    if (vector > 255)
        return PyErr_Format(PyExc_ValueError, "vectors are 0 to 255");
    struct pv_trap *t = &v->pv->traps[vector];
    return Py_BuildValue("IIK", t->flags, t->cs, t->address);
}

/* Take the frames of a GDT: all or nothing. -errno or 0. */
static PyObject *cpu_pv_set_gdt(struct vcpu *v, PyObject *args)
{
    PyObject *frames;
    unsigned long long entries, mfn[16];
    if (!PyArg_ParseTuple(args, "OK", &frames, &entries) || !is_pv(v))
        return NULL;
    struct pv_vcpu *p = v->pv;
    Py_ssize_t count = PySequence_Size(frames);
    if (count < 0)
        return NULL;
    if (entries > FIRST_RESERVED_GDT_ENTRY || (unsigned long long)count != (entries + 511) / 512)
        return PyLong_FromLong(-PV_EINVAL);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *frame = PySequence_GetItem(frames, i);
        mfn[i] = frame ? PyLong_AsUnsignedLongLongMask(frame) : 0;
        Py_XDECREF(frame);
        if (PyErr_Occurred())
            return NULL;
    }
    for (Py_ssize_t i = 0; i < count; i++)
        if (pv_get_page_and_type(p->domain, mfn[i], PGT_seg_desc_page)) {
            while (i-- > 0)
                pv_put_page_and_type(p->domain, mfn[i]);
            return PyLong_FromLong(-PV_EINVAL);
        }
    uint64_t *slots = (uint64_t *)(v->space->memory->base + p->descriptors);
    for (int i = 0; i < 14; i++) {
        uint64_t old = p->gdt_frames[i];
        p->gdt_frames[i] = i < count ? mfn[i] : 0;
        slots[i] = i < count ? mfn[i] << PAGE_SHIFT | PTE_P | PTE_RW | PTE_A | PTE_D | PTE_NX : 0;
        if (old)
            pv_put_page_and_type(p->domain, old);
    }
    p->gdt_entries = entries;
    p->flush = true;
    return PyLong_FromLong(0);
}

static PyObject *cpu_pv_gdt(struct vcpu *v, PyObject *unused)
{
    (void)unused;
    if (!is_pv(v))
        return NULL;
    PyObject *list = PyList_New(0);
    for (int i = 0; list && i < 16 && v->pv->gdt_frames[i]; i++) {
        PyObject *mfn = PyLong_FromUnsignedLongLong(v->pv->gdt_frames[i]);
        if (!mfn || PyList_Append(list, mfn) < 0)
            Py_CLEAR(list);
        Py_XDECREF(mfn);
    }
    return list;
}

/* One hypercall as the engine itself answers it: (answer, result); answer is that of pv.h. */
static PyObject *cpu_pv_call(struct vcpu *v, PyObject *args)
{
    unsigned long long number, a[6];
    if (!PyArg_ParseTuple(args, "KKKKKKK", &number, &a[0], &a[1], &a[2], &a[3], &a[4], &a[5]) ||
        !is_pv(v))
        return NULL;
    if (number == 23 || number == 13)
        return PyErr_Format(PyExc_ValueError, "a call that may not return");
    int64_t result = 0;
    uint64_t values[6];
    for (int i = 0; i < 6; i++)
        values[i] = a[i];
    v->pv->domain->work = 0;
    struct vcpu *outer = xg_current;
    xg_current = v;
    enum pv_answer answer = pv_hypercall(v, number, values, &result);
    xg_current = outer;
    v->pv->domain->work = 0;
    return Py_BuildValue("iLKK", (int)answer, (long long)result, values[0], values[1]);
}

/* update_va_mapping for pages of another domain. */
static PyObject *cpu_pv_load_segment(struct vcpu *v, PyObject *args)
{
    static const char *const names[] = {"es", "cs", "ss", "ds", "fs", "gs"};
    const char *name;
    unsigned int selector;
    if (!PyArg_ParseTuple(args, "sI", &name, &selector) || !is_pv(v))
        return NULL;
    for (int i = 0; i < 6; i++)
        if (!strcmp(names[i], name)) {
            bool fine = pv_load_segment(v, i, selector);
            vcpu_sync_hflags(v);
            return PyBool_FromLong(fine);
        }
    return PyErr_Format(PyExc_KeyError, "no segment '%s'", name);
}

/* Bring the tables into force that kernel_table, user_table and user say. */
static PyObject *cpu_pv_load_roots(struct vcpu *v, PyObject *unused)
{
    (void)unused;
    if (!is_pv(v))
        return NULL;
    pv_load_roots(v);
    v->pv->flush = true;
    Py_RETURN_NONE;
}

/* Take the tables that a new vCPU begins with, or (0, 0) give up all that it holds. */
static PyObject *cpu_pv_new_table(struct vcpu *v, PyObject *args)
{
    unsigned long long mfn;
    int user;
    if (!PyArg_ParseTuple(args, "Kp", &mfn, &user) || !is_pv(v))
        return NULL;
    return PyLong_FromLong(pv_new_baseptr(v, mfn, user));
}

/* Carry out an IRET when the CPU runs next. */
static PyObject *cpu_pv_iret(struct vcpu *v, PyObject *unused)
{
    (void)unused;
    if (!is_pv(v))
        return NULL;
    v->pending = false;
    v->pv->iret = true;
    v->fault = true;
    v->fault_has_cr2 = false;
    v->fault_vector = 2;
    v->fault_error = 0;
    Py_RETURN_NONE;
}

static PyObject *cpu_pv_drop(struct vcpu *v, PyObject *unused)
{
    (void)unused;
    if (!is_pv(v))
        return NULL;
    struct pv_vcpu *p = v->pv;
    pv_drop_ldt(v);
    for (int i = 0; i < 16; i++)
        if (p->gdt_frames[i]) {
            uint64_t mfn = p->gdt_frames[i];
            p->gdt_frames[i] = 0;
            pv_put_page_and_type(p->domain, mfn);
        }
    uint64_t tables[] = {p->kernel_table, p->user_table};
    p->kernel_table = p->user_table = 0;
    for (int i = 0; i < 2; i++)
        if (tables[i])
            pv_put_page_and_type(p->domain, tables[i]);
    Py_RETURN_NONE;
}

#define CPU_METHOD(name, flags) {#name, (PyCFunction)(void (*)(void))cpu_##name, flags, NULL}
PyMethodDef pv_cpu_methods[] = {
    CPU_METHOD(pv_attach, METH_O), CPU_METHOD(pv_get, METH_O), CPU_METHOD(pv_set, METH_VARARGS),
    CPU_METHOD(pv_trap, METH_VARARGS), CPU_METHOD(pv_get_trap, METH_O),
    CPU_METHOD(pv_set_gdt, METH_VARARGS), CPU_METHOD(pv_gdt, METH_NOARGS),
    CPU_METHOD(pv_call, METH_VARARGS), CPU_METHOD(pv_load_segment, METH_VARARGS),
    CPU_METHOD(pv_load_roots, METH_NOARGS), CPU_METHOD(pv_new_table, METH_VARARGS),
    CPU_METHOD(pv_drop, METH_NOARGS), CPU_METHOD(pv_iret, METH_NOARGS),
    {NULL, NULL, 0, NULL},
};
