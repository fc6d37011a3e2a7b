/* py_ring.h - what py_ring_writer.c and py_ring_reader.c share: an end of a ring as a Python object. */
#ifndef ASP_PY_RING_H
#define ASP_PY_RING_H

#include "module.h"
#include "ring.h"
#include "watch.h"

typedef struct asp_py_end { /* what both ends have in common */
    PyObject_HEAD
    Py_buffer pin;
    bool open;
    PyObject *view; /* memoryview of the whole segment, that messages are slices of */
    PyObject *wait; /* the asp_py_wait on this end's watch, made on first use */
    uint64_t busy;      /* the thread that is inside a method, or 0; pairs with itself */
    uint32_t suspended; /* a caller waits; set and cleared by suspend and resume */
} asp_py_end;

/* Begin an operation. `action` in the words of BusyResourceError, which it raises where it meets another action;
 * NULL for one that the suspended caller's own cleanup makes too, or that only asks. These wait for their turn, and
 * actions wait for them. False with an exception set. */
bool asp_py_end_enter(asp_py_end *self, const char *action);
void asp_py_end_leave(asp_py_end *self);
/* In the middle of an operation, around a call of Python code, which may take long: let others in, who must not
 * find what this operation has begun. Afterwards the end may be released: see `open`. */
void asp_py_end_step_out(asp_py_end *self);
void asp_py_end_step_in(asp_py_end *self);

/* Pin, check and keep a view. The ring's checked geometry is the result. */
bool asp_py_end_open(asp_py_end *self, PyObject *buffer, asp_ring *ring, bool readonly);
/* A message as a slice of that view. */
PyObject *asp_py_end_message(asp_py_end *self, const void *payload, uint64_t length);
/* The Wait on this end's watch; always the same. */
PyObject *asp_py_end_wait(asp_py_end *self, asp_watch *watch);

/* The method forget of both ends. */
PyObject *asp_py_end_forget(asp_py_end *self);
/* The method guard of both ends. */
PyObject *asp_py_end_guard(asp_ring *ring, PyObject *lock_fd);
PyObject *asp_py_end_suspend(asp_py_end *self, const char *action);
PyObject *asp_py_end_resume(asp_py_end *self, PyObject *ready);
PyObject *asp_py_end_suspended(asp_py_end *self, void *unused);
/* Unpin, drop the views. False with an exception set: the wait on it is submitted. */
bool asp_py_end_close(asp_py_end *self);
int asp_py_end_traverse(asp_py_end *self, visitproc visit, void *arg);
int asp_py_end_clear(asp_py_end *self);
void asp_py_end_dealloc(asp_py_end *self);

#define NUMBER(type, name, expression)                             \
    static PyObject *type##_##name(asp_py_##type *self, void *unused) { \
        (void)unused;                                              \
        return PyLong_FromUnsignedLongLong(expression);            \
    }

#define GETTER(type, name, doc) {#name, (getter)type##_##name, NULL, doc, NULL}

#endif
