/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "pv.h"

PyObject *AccessError;

static PyMethodDef functions[] = {
    {"inet_sum", inet_sum, METH_O, NULL},
    {"blkif_batch", blkif_batch, METH_VARARGS, NULL},
    {"netif_put", netif_put, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_core", "The native core; _core.pyi describes it.", -1,
    functions, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__core(void);
PyMODINIT_FUNC PyInit__core(void)
{
    PyObject *protocol = PyImport_ImportModule("xenograft.engine.protocol");
    AccessError = protocol ? PyObject_GetAttrString(protocol, "AccessError") : NULL;
    Py_XDECREF(protocol);
    PyObject *module = AccessError ? PyModule_Create(&definition) : NULL;
    if (module && (memory_register(module) || space_register(module) || cpu_register(module) ||
                   pv_register(module)))
        Py_CLEAR(module);
    return module;
}
