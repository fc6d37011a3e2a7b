/* module.c - the extension module aiospin._native: multi-phase init, module state, shared helpers. */
#include "module.h"

#include <string.h>

#include "clock.h"
#include "closes.h"
#include "futex.h"
#include "monitor.h"
#include "tally.h"
#include "timer.h"
#include "wait.h"

asp_module *asp_module_of(PyObject *self) { return PyType_GetModuleState(Py_TYPE(self)); }

void asp_free_object(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF(type);
}

bool asp_arguments(const char *function, Py_ssize_t count, Py_ssize_t wanted) {
    if (count == wanted) return true;
    PyErr_Format(PyExc_TypeError, "%s() takes %zd arguments, not %zd", function, wanted, count);
    return false;
}

bool asp_u64(PyObject *object, uint64_t *value) {
    PyObject *integer = PyNumber_Index(object);
    if (!integer) return false;
    *value = PyLong_AsUnsignedLongLong(integer);
    bool failed = *value == UINT64_MAX && PyErr_Occurred();
    if (failed && PyErr_ExceptionMatches(PyExc_OverflowError))
        PyErr_Format(PyExc_ValueError, "%S is not from 0 to 2**64 - 1", integer);
    Py_DECREF(integer);
    return !failed;
}

bool asp_u32(PyObject *object, uint32_t *value) {
    uint64_t wide;
    if (!asp_u64(object, &wide)) return false;
    *value = (uint32_t)wide;
    if (wide <= UINT32_MAX) return true;
    PyErr_Format(PyExc_ValueError, "%llu is not from 0 to 2**32 - 1", (unsigned long long)wide);
    return false;
}

PyObject *asp_raise(asp_module *module, asp_status status, const char *what) {
    switch (status) {
    case ASP_END: PyErr_SetNone(module->end_of_stream); break;
    case ASP_BUSY: PyErr_Format(module->busy_error, "%s", what); break;
    case ASP_E_MEMORY: PyErr_NoMemory(); break;
    case ASP_E_UNSUPPORTED: PyErr_SetString(PyExc_ValueError, what); break;
    case ASP_E_LAYOUT: PyErr_SetString(module->layout_error, what); break;
    case ASP_E_INVALID:
    case ASP_E_TOO_LARGE: PyErr_SetString(PyExc_ValueError, what); break;
    default: PyErr_Format(PyExc_SystemError, "aiospin: unexpected status %d: %s", (int)status, what);
    }
    return NULL;
}

PyObject *asp_raise_closed(asp_module *module) {
    PyObject *error = PyObject_CallNoArgs(module->closed);
    if (error) PyErr_SetObject((PyObject *)Py_TYPE(error), error);
    Py_XDECREF(error);
    return NULL;
}

static PyObject *py_now_ns(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    return PyLong_FromUnsignedLongLong(asp_now_ns());
}

static PyObject *py_select_backend(PyObject *module, PyObject *name) {
    (void)module;
    const char *wanted = NULL;
    if (name != Py_None && !PyUnicode_Check(name)) {
        PyErr_Format(PyExc_TypeError, "the name of a backend is a string, not %R", (PyObject *)Py_TYPE(name));
        return NULL;
    }
    if (name != Py_None && !(wanted = PyUnicode_AsUTF8AndSize(name, NULL))) return NULL;
    asp_selection selection;
    if (asp_select(wanted, &selection) != ASP_READY) {
        PyErr_SetString(PyExc_ValueError, selection.why);
        return NULL;
    }
    /* Waits may be reading it: what is in use already is not written again. */
    if (selection.monitor != asp_current()->monitor) asp_use(&selection);
    Py_RETURN_NONE;
}

static PyObject *py_capabilities(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    const asp_selection *selection = asp_current();
    const char *names[16];
    size_t count = asp_supported(names, sizeof names / sizeof *names);
    PyObject *supported = PyTuple_New((Py_ssize_t)count);
    if (!supported) return NULL;
    for (size_t i = 0; i < count; i++) {
        PyObject *name = PyUnicode_FromString(names[i]);
        if (!name || PyTuple_SetItem(supported, (Py_ssize_t)i, name) < 0) {
            Py_DECREF(supported);
            return NULL;
        }
    }
    return Py_BuildValue("{sssssIsNsNsN}", "backend", selection->monitor->name, "why", selection->why,
                         "line_bytes", (unsigned)selection->line_bytes, "supported", supported,
                         "futex", PyBool_FromLong(asp_futex_available()), "futex_waitv",
                         PyBool_FromLong(asp_futex_waitv_available()));
}

static PyObject *py_statistics(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    const asp_tally sum = asp_tally_read();
#define FIELD(name) #name, (unsigned long long)sum.name
    return Py_BuildValue("{sKsKsKsKsKsKsKsKsKsKsKsKsKsK}", FIELD(waits), FIELD(ready), FIELD(spun),
                         FIELD(parked), FIELD(parks), FIELD(spurious), FIELD(predicted),
                         FIELD(timed_out), FIELD(cancelled), FIELD(notifies), FIELD(elided),
                         FIELD(spin_ns), FIELD(live_tickets), FIELD(pinned_buffers));
#undef FIELD
}

static PyObject *py_count(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    const char *name;
    if (!asp_arguments("count", count, 2) || !(name = PyUnicode_AsUTF8AndSize(args[0], NULL))) return NULL;
    long n = PyLong_AsLong(args[1]);
    if (n == -1 && PyErr_Occurred()) return NULL;
    if (strcmp(name, "waits") == 0) ASP_COUNT(waits, (uint64_t)n);
    else if (strcmp(name, "ready") == 0) ASP_COUNT(ready, (uint64_t)n);
    else if (strcmp(name, "parked") == 0) ASP_COUNT(parked, (uint64_t)n);
    else if (strcmp(name, "parks") == 0) ASP_COUNT(parks, (uint64_t)n);
    else if (strcmp(name, "spurious") == 0) ASP_COUNT(spurious, (uint64_t)n);
    else if (strcmp(name, "timed_out") == 0) ASP_COUNT(timed_out, (uint64_t)n);
    else if (strcmp(name, "cancelled") == 0) ASP_COUNT(cancelled, (uint64_t)n);
    else return PyErr_Format(PyExc_ValueError, "the package does not count %R", args[0]);
    Py_RETURN_NONE;
}

static PyObject *py_timer_open(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    int fd = asp_timer_open();
    return fd < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(fd);
}

static PyObject *py_timer_arm(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    uint64_t at_ns;
    if (!asp_arguments("timer_arm", count, 2) || !asp_u64(args[1], &at_ns)) return NULL;
    int fd = PyObject_AsFileDescriptor(args[0]);
    if (fd < 0) return NULL;
    if (!asp_timer_arm(fd, at_ns)) return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *py_closes_open(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    int fd = asp_closes_open();
    return fd < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(fd);
}

static PyObject *py_closes_watch(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (!asp_arguments("closes_watch", count, 2)) return NULL;
    int closes = PyObject_AsFileDescriptor(args[0]), file = closes < 0 ? -1 : PyObject_AsFileDescriptor(args[1]);
    if (file < 0) return NULL;
    int number = asp_closes_watch(closes, file);
    return number < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromLong(number);
}

static PyMethodDef functions[] = {
    ASP_METHOD("now_ns", py_now_ns, METH_NOARGS, "CLOCK_MONOTONIC in nanoseconds."),
    ASP_METHOD("select_backend", py_select_backend, METH_O, "Choose the monitor by name; None: the best."),
    ASP_METHOD("capabilities", py_capabilities, METH_NOARGS, "What was found at load."),
    ASP_METHOD("statistics", py_statistics, METH_NOARGS, "The counters of this process."),
    ASP_METHOD("count", py_count, METH_FASTCALL, "Add to a counter what only the package can know."),
    ASP_METHOD("timer_open", py_timer_open, METH_NOARGS, "A descriptor that is readable from a time on."),
    ASP_METHOD("timer_arm", py_timer_arm, METH_FASTCALL, "Readable from then on; 0: never."),
    ASP_METHOD("closes_open", py_closes_open, METH_NOARGS, "A descriptor that tells of closes of files."),
    ASP_METHOD("closes_watch", py_closes_watch, METH_FASTCALL, "Have it tell of those of this file."),
    ASP_METHOD("ring_bytes", asp_py_ring_bytes, METH_FASTCALL, "Bytes of a broadcast segment."),
    ASP_METHOD("ring_create", asp_py_ring_create, METH_FASTCALL, "Lay out an empty ring."),
    {NULL, NULL, 0, NULL},
};

static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **type) {
    *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *type ? PyModule_AddType(module, *type) : -1;
}

static int import_from(const char *module, const char *name, PyObject **into) {
    PyObject *found = PyImport_ImportModule(module);
    if (found) *into = PyObject_GetAttrString(found, name);
    Py_XDECREF(found);
    return *into ? 0 : -1;
}

static int import_python(asp_module *state) {
    static const char errors[] = "aiospin._errors";
    return import_from(errors, "LayoutError", &state->layout_error) < 0 ||
                   import_from(errors, "LaggedError", &state->lagged_error) < 0 ||
                   import_from(errors, "EndOfStream", &state->end_of_stream) < 0 ||
                   import_from(errors, "BusyResourceError", &state->busy_error) < 0 ||
                   import_from("aiospin._exit", "closed", &state->closed) < 0
               ? -1
               : 0;
}

static int module_exec(PyObject *module) {
    asp_module *state = PyModule_GetState(module);
    asp_selection selection;
    if (!asp_current()->monitor) { /* the first interpreter of this process */
        if (asp_select(NULL, &selection) != ASP_READY) {
            PyErr_SetString(PyExc_ImportError, selection.why);
            return -1;
        }
        asp_use(&selection);
    }
    if (import_python(state) < 0 || add_type(module, &asp_wait_spec, &state->wait_type) < 0 ||
        add_type(module, &asp_waiter_spec, &state->waiter_type) < 0 ||
        add_type(module, &asp_word_spec, &state->word_type) < 0 ||
        add_type(module, &asp_ring_writer_spec, &state->ring_writer_type) < 0 ||
        add_type(module, &asp_ring_reader_spec, &state->ring_reader_type) < 0 ||
        PyModule_AddIntConstant(module, "READY", ASP_READY) < 0 ||
        PyModule_AddIntConstant(module, "TIMED_OUT", ASP_TIMED_OUT) < 0 ||
        PyModule_AddIntConstant(module, "STOPPED", ASP_STOPPED) < 0)
        return -1;
    PyObject *forever = PyLong_FromUnsignedLongLong(ASP_FOREVER);
    int failed = forever ? PyModule_AddObjectRef(module, "FOREVER", forever) : -1;
    Py_XDECREF(forever);
    return failed;
}

#define EACH_REFERENCE(visit)      \
    visit(state->wait_type);       \
    visit(state->waiter_type);     \
    visit(state->word_type);       \
    visit(state->ring_writer_type); \
    visit(state->ring_reader_type); \
    visit(state->layout_error);    \
    visit(state->lagged_error);    \
    visit(state->end_of_stream);   \
    visit(state->busy_error);      \
    visit(state->closed)

static int module_traverse(PyObject *module, visitproc visit, void *arg) {
    asp_module *state = PyModule_GetState(module);
    EACH_REFERENCE(Py_VISIT);
    return 0;
}

static int module_clear(PyObject *module) {
    asp_module *state = PyModule_GetState(module);
    EACH_REFERENCE(Py_CLEAR);
    return 0;
}

static void module_free(void *module) { module_clear(module); }

/* Slots that Python 3.11, the oldest of the abi3 wheel, does not know are appended at run time; their
 * numbers and values are part of the stable ABI of the version that brought them. */
#define SLOT_MULTIPLE_INTERPRETERS 3 /* Py_mod_multiple_interpreters, 3.12 */
#define PER_INTERPRETER_GIL ((void *)2)
#define SLOT_GIL 4 /* Py_mod_gil, 3.13: importing must not switch the GIL back on (T11) */
#define GIL_NOT_USED ((void *)1)

static PyModuleDef_Slot slots[4] = {{Py_mod_exec, module_exec}};

static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "aiospin._native",
    .m_doc = "The compiled core of aiospin. Private: everything public is in aiospin.",
    .m_size = sizeof(asp_module),
    .m_methods = functions,
    .m_slots = slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__native(void) {
#if defined(Py_LIMITED_API) || PY_VERSION_HEX >= 0x030B0000
    unsigned long version = Py_Version;
#else
    unsigned long version = PY_VERSION_HEX;
#endif
    PyModuleDef_Slot *next = slots + 1;
    if (version >= 0x030C0000) *next++ = (PyModuleDef_Slot){SLOT_MULTIPLE_INTERPRETERS, PER_INTERPRETER_GIL};
    if (version >= 0x030D0000) *next++ = (PyModuleDef_Slot){SLOT_GIL, GIL_NOT_USED};
    *next = (PyModuleDef_Slot){0, NULL};
    return PyModuleDef_Init(&definition);
}
