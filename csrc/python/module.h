/* module.h - what the files of the binding share. The binding pins buffers, converts values and
 * maps status codes to exceptions; everything else is in csrc/core. */
#ifndef ASP_MODULE_H
#define ASP_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdbool.h>
#include <stdint.h>

#include "status.h"

typedef struct asp_module {
    PyTypeObject *wait_type;
    PyTypeObject *waiter_type;
    PyTypeObject *word_type;
    PyTypeObject *ring_writer_type;
    PyTypeObject *ring_reader_type;
    /* exceptions of aiospin._errors */
    PyObject *layout_error;
    PyObject *lagged_error;
    PyObject *end_of_stream;
    PyObject *busy_error;
    PyObject *closed; /* makes a ClosedResourceError, aiospin._exit */
} asp_module;

/* The state of the module that made this object's (final) type. */
asp_module *asp_module_of(PyObject *self);

/* Set the exception for a status of the core and return NULL. `what`: the sentence that the core wrote,
 * or what was being done. */
PyObject *asp_raise(asp_module *module, asp_status status, const char *what);

/* The end of a ring is closed. Outside of enter and leave (py_ring.h), as a daemon thread may stay here while the
 * interpreter ends. Returns NULL. */
PyObject *asp_raise_closed(asp_module *module);

/* ---- buffers (py_buffer.c) ---- */

/* Pin a contiguous buffer, counted in statistics. -1 with an exception set on failure. */
int asp_pin(PyObject *object, Py_buffer *pin, bool writable);
void asp_unpin(Py_buffer *pin);
/* The same for the length of one call, not counted: PyBuffer_Release ends it. */
int asp_get_buffer(PyObject *object, Py_buffer *pin, bool writable);

/* ---- converting and calling (module.c) ---- */

typedef PyObject *(*asp_fastcall)(PyObject *, PyObject *const *, Py_ssize_t);

/* False with TypeError set unless exactly `wanted` arguments came. */
bool asp_arguments(const char *function, Py_ssize_t count, Py_ssize_t wanted);
/* False with TypeError or ValueError set unless object is an integer of so many unsigned bits. */
bool asp_u64(PyObject *object, uint64_t *value);
bool asp_u32(PyObject *object, uint32_t *value);

/* Free an object of a heap type: the type's own free, and the reference to the type. */
void asp_free_object(PyObject *self);

/* ---- types (py_wait.c, py_waiter.c, py_word.c, py_ring.c) ---- */

extern PyType_Spec asp_wait_spec, asp_waiter_spec, asp_word_spec, asp_ring_writer_spec,
    asp_ring_reader_spec;
PyObject *asp_py_ring_bytes(PyObject *module, PyObject *const *args, Py_ssize_t count);
PyObject *asp_py_ring_create(PyObject *module, PyObject *const *args, Py_ssize_t count);

#define ASP_METHOD(name, function, flags, doc) {name, (PyCFunction)(void (*)(void))(function), flags, doc}

#endif
