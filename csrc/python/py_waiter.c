/* py_waiter.c - Waiter: the ticket table that one thread runs. */
#include "module.h"

#include "atomics.h"
#include "clock.h"
#include "py_wait.h"
#include "waiter.h"

typedef struct asp_py_waiter {
    PyObject_HEAD
    asp_waiter *waiter;
} asp_py_waiter;

static asp_py_wait *wait_of(asp_ticket *ticket) {
    return (asp_py_wait *)((char *)ticket - offsetof(asp_py_wait, ticket));
}

/* Operate on the table, and never wait for its lock with the GIL in hand: the waiter's thread may have been
 * descheduled with it, or a fork may hold it and want the GIL. */
#define OPERATE(self, call)                         \
    do {                                            \
        if (asp_waiter_try_enter((self)->waiter)) { \
            call;                                   \
            asp_waiter_leave((self)->waiter);       \
        } else {                                    \
            Py_BEGIN_ALLOW_THREADS                  \
            call;                                   \
            Py_END_ALLOW_THREADS                    \
        }                                           \
    } while (0)

static PyObject *waiter_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, ":Waiter", names)) return NULL;
    allocfunc allocate = PyType_GetSlot(type, Py_tp_alloc);
    asp_py_waiter *self = (asp_py_waiter *)allocate(type, 0);
    if (!self) return NULL;
    self->waiter = asp_waiter_new();
    if (!self->waiter) {
        Py_DECREF((PyObject *)self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static asp_py_wait *checked_wait(PyObject *self, PyObject *object) {
    PyTypeObject *type = asp_module_of(self)->wait_type;
    if (Py_TYPE(object) != type) {
        PyErr_Format(PyExc_TypeError, "a Wait is needed, not %R", (PyObject *)Py_TYPE(object));
        return NULL;
    }
    return (asp_py_wait *)object;
}

static PyObject *waiter_submit(asp_py_waiter *self, PyObject *const *args, Py_ssize_t count) {
    uint64_t deadline_ns, max_sleep_ns;
    if ((count < 6 || count > 8) && !asp_arguments("submit", count, 6)) return NULL;
    asp_py_wait *wait = checked_wait((PyObject *)self, args[0]);
    PyObject *token = args[1];
    if (!wait || !asp_u64(args[2], &deadline_ns) || !asp_u64(args[4], &max_sleep_ns)) return NULL;
    int hardware = PyObject_IsTrue(args[5]), counted = count > 6 ? PyObject_IsTrue(args[6]) : 1;
    int told = count > 7 ? PyObject_IsTrue(args[7]) : 0;
    if (hardware < 0 || counted < 0 || told < 0) return NULL;
    if (!asp_py_wait_enter(wait)) return NULL;
    asp_pace pace;
    if (!asp_py_wait_pace(wait, args[3], max_sleep_ns, hardware, &pace)) {
        asp_py_wait_leave(wait);
        return NULL;
    }
    pace.uncounted = !counted;
    pace.told = told;
    void *stale;
    asp_status status;
    /* The table holds the wait and the token until run, cancel or stop hands them back. */
    Py_INCREF((PyObject *)wait);
    Py_INCREF(token);
    OPERATE(self, status = asp_waiter_submit(self->waiter, &wait->ticket, wait->watch, token, &pace,
                                             deadline_ns, &stale));
    asp_py_wait_leave(wait);
    if (stale) {
        Py_DECREF((PyObject *)stale);
        Py_DECREF((PyObject *)wait);
    }
    if (status == ASP_READY) Py_RETURN_NONE;
    Py_DECREF(token);
    Py_DECREF((PyObject *)wait);
    if (status == ASP_E_MEMORY) return PyErr_NoMemory();
    PyErr_SetString(PyExc_RuntimeError, status == ASP_STOPPED ? "this waiter was closed"
                                                               : "this wait is submitted already");
    return NULL;
}

static PyObject *waiter_cancel(asp_py_waiter *self, PyObject *object) {
    asp_py_wait *wait = checked_wait((PyObject *)self, object);
    if (!wait) return NULL;
    void *token;
    bool won;
    OPERATE(self, won = asp_waiter_cancel(self->waiter, &wait->ticket, &token));
    if (token) {
        Py_DECREF((PyObject *)token);
        Py_DECREF((PyObject *)wait);
    }
    return PyBool_FromLong(won);
}

/* Everything that is complete, as a list of (token, status). The memory for a completion comes before it is
 * taken, so that running out of it leaves the completion in the table. */
static PyObject *take_all(asp_py_waiter *self) {
    PyObject *list = PyList_New(0);
    while (list) {
        PyObject *pair = PyTuple_New(2);
        if (!pair || PyList_Append(list, Py_None) < 0) {
            Py_XDECREF(pair);
            if (PyList_Size(list) > 0) PyErr_Clear(); /* hand over what there is; the rest comes next time */
            else Py_CLEAR(list);
            return list;
        }
        Py_ssize_t last = PyList_Size(list) - 1;
        void *token;
        asp_status status;
        asp_ticket *ticket;
        OPERATE(self, ticket = asp_waiter_take(self->waiter, &token, &status));
        if (!ticket) {
            Py_DECREF(pair);
            if (PyList_SetSlice(list, last, last + 1, NULL) < 0) Py_CLEAR(list);
            return list;
        }
        asp_py_wait *wait = wait_of(ticket);
        PyTuple_SetItem(pair, 0, (PyObject *)token);
        PyTuple_SetItem(pair, 1, PyLong_FromLong(status)); /* a small integer: it exists already */
        PyList_SetItem(list, last, pair);
        Py_DECREF((PyObject *)wait);
    }
    return NULL;
}

static PyObject *waiter_run(asp_py_waiter *self, PyObject *argument) {
    uint64_t idle_ns;
    if (!asp_u64(argument, &idle_ns)) return NULL;
    for (;;) {
        asp_status status;
        Py_BEGIN_ALLOW_THREADS
        status = asp_waiter_run(self->waiter, idle_ns);
        Py_END_ALLOW_THREADS
        if (status == ASP_STOPPED) Py_RETURN_NONE;
        if (status == ASP_BUSY) {
            PyErr_SetString(PyExc_RuntimeError, "another thread runs this waiter");
            return NULL;
        }
        PyObject *list = take_all(self);
        /* Empty after ASP_READY: a cancel or a new submit took the completion back meanwhile. */
        if (!list || status == ASP_TIMED_OUT || PyList_Size(list) > 0) return list;
        Py_DECREF(list);
    }
}

/* Drop every ticket. The tokens go into the list where there is one. */
static int drop_all(asp_py_waiter *self, PyObject *tokens, bool unpin) {
    int failed = 0;
    void *token;
    for (;;) {
        asp_ticket *ticket;
        OPERATE(self, ticket = asp_waiter_drop(self->waiter, &token));
        if (!ticket) break;
        if (tokens && PyList_Append(tokens, (PyObject *)token) < 0) failed = -1;
        if (unpin) asp_py_wait_let_go(wait_of(ticket));
        Py_DECREF((PyObject *)token);
        Py_DECREF((PyObject *)wait_of(ticket));
    }
    return failed;
}

static PyObject *waiter_stop(asp_py_waiter *self, PyObject *unused) {
    (void)unused;
    PyObject *tokens = PyList_New(0);
    if (!tokens) return NULL;
    OPERATE(self, asp_waiter_stop(self->waiter));
    if (drop_all(self, tokens, false) < 0) Py_CLEAR(tokens);
    return tokens;
}

static PyObject *waiter_before_fork(asp_py_waiter *self, PyObject *unused) {
    (void)unused;
    Py_BEGIN_ALLOW_THREADS
    asp_waiter_before_fork(self->waiter);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *waiter_after_fork_in_parent(asp_py_waiter *self, PyObject *unused) {
    (void)unused;
    asp_waiter_after_fork_in_parent(self->waiter);
    Py_RETURN_NONE;
}

static PyObject *waiter_after_fork_in_child(asp_py_waiter *self, PyObject *unused) {
    (void)unused;
    asp_waiter_after_fork_in_child(self->waiter);
    /* The frames that wait were copied too and hold their waits for ever: unpin for them. */
    drop_all(self, NULL, true);
    Py_RETURN_NONE;
}

static PyObject *waiter_live(asp_py_waiter *self, void *unused) {
    (void)unused;
    size_t live;
    OPERATE(self, live = asp_waiter_live(self->waiter));
    return PyLong_FromSize_t(live);
}

static void waiter_dealloc(asp_py_waiter *self) {
    if (self->waiter) {
        drop_all(self, NULL, false);
        asp_waiter_free(self->waiter);
    }
    asp_free_object((PyObject *)self);
}

static PyMethodDef waiter_methods[] = {
    ASP_METHOD("submit", waiter_submit, METH_FASTCALL, "Let run() wait for it."),
    ASP_METHOD("cancel", waiter_cancel, METH_O, "True: the cancel won."),
    ASP_METHOD("run", waiter_run, METH_O, "Wait, without the GIL, for completions."),
    ASP_METHOD("stop", waiter_stop, METH_NOARGS, "End run() for good and drop all tickets."),
    ASP_METHOD("before_fork", waiter_before_fork, METH_NOARGS, NULL),
    ASP_METHOD("after_fork_in_parent", waiter_after_fork_in_parent, METH_NOARGS, NULL),
    ASP_METHOD("after_fork_in_child", waiter_after_fork_in_child, METH_NOARGS, NULL),
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef waiter_getset[] = {
    {"live", (getter)waiter_live, NULL, "Tickets submitted and not yet completed.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

/* No GC support: what a submitted token refers to stays alive until its wait ends, by intent. */
static PyType_Slot waiter_slots[] = {
    {Py_tp_new, waiter_new},         {Py_tp_dealloc, waiter_dealloc},
    {Py_tp_methods, waiter_methods}, {Py_tp_getset, waiter_getset},
    {0, NULL},
};

PyType_Spec asp_waiter_spec = {
    .name = "aiospin._native.Waiter",
    .basicsize = sizeof(asp_py_waiter),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = waiter_slots,
};
