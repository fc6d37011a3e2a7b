/* py_ring.c - what both ends of a broadcast ring in a pinned buffer have in common, and making one.
 *
 * One native call sends, one receives. An end is used by one thread at a time and by one caller that
 * waits: `busy` guards the former, `suspended` the latter, and a second one gets BusyResourceError. */
#include "py_ring.h"

#include <sched.h>

#include "atomics.h"
#include "clock.h"
#include "py_wait.h"

/* Beside the thread in `busy`, whose number is that of something aligned: it sends or receives. */
#define ACTION 1

/* So long another thread is waited for, ns; chosen. Nothing inside an operation blocks, so they take microseconds, and
 * seconds where they copy gigabytes; never giving up would hang the child of a fork, where that thread is no more. */
#define TURN_NS 5000000000

/* True: it is this thread's turn, from 0 in `busy` on. False: `busy` says whose it is instead. */
static bool take_turn(asp_py_end *self, uint64_t *busy, uint64_t mine) {
    *busy = 0;
    return asp_compare_exchange_u64(&self->busy, busy, mine); /* pairs with leave */
}

static uint64_t me(void) { return (uint64_t)PyThread_get_thread_ident() & ~(uint64_t)ACTION; }

/* What another thread is inside of is soon over. */
static void let_others_go_on(void) {
    Py_BEGIN_ALLOW_THREADS
    sched_yield();
    Py_END_ALLOW_THREADS
}

bool asp_py_end_enter(asp_py_end *self, const char *action) {
    asp_module *module = asp_module_of((PyObject *)self);
    const uint64_t mine = me();
    uint64_t busy, give_up_ns = 0;
    while (!take_turn(self, &busy, action ? mine | ACTION : mine)) {
        /* This thread, when it comes back into its own object: in a finaliser, or out of a buffer's own code. */
        const bool refused = (busy & ~(uint64_t)ACTION) == mine || (action && busy & ACTION);
        if (!give_up_ns) give_up_ns = asp_now_ns() + TURN_NS;
        if (refused || asp_now_ns() > give_up_ns) {
            asp_raise(module, ASP_BUSY, action ? action : "using");
            return false;
        }
        let_others_go_on();
    }
    if (self->open && !(action && asp_load_acquire_u32(&self->suspended))) return true;
    asp_py_end_leave(self);
    if (self->open) asp_raise(module, ASP_BUSY, action);
    else asp_raise_closed(module);
    return false;
}

void asp_py_end_leave(asp_py_end *self) { asp_store_release_u64(&self->busy, 0); /* pairs with take_turn */ }

void asp_py_end_step_out(asp_py_end *self) { asp_py_end_leave(self); }

void asp_py_end_step_in(asp_py_end *self) {
    uint64_t busy;
    while (!take_turn(self, &busy, me())) let_others_go_on();
}

bool asp_py_end_open(asp_py_end *self, PyObject *buffer, asp_ring *ring, bool readonly) {
    asp_module *module = asp_module_of((PyObject *)self);
    char why[200] = "";
    if (asp_pin(buffer, &self->pin, true) < 0) return false;
    self->open = true;
    asp_status status = asp_ring_open(self->pin.buf, (uint64_t)self->pin.len, ring, why, sizeof why);
    if (status != ASP_READY) {
        asp_raise(module, status, why);
        return false;
    }
    PyObject *view = PyMemoryView_FromObject(buffer);
    PyObject *bytes = view ? PyObject_CallMethod(view, "cast", "s", "B") : NULL;
    self->view = bytes && readonly ? PyObject_CallMethod(bytes, "toreadonly", NULL) : Py_XNewRef(bytes);
    Py_XDECREF(bytes);
    Py_XDECREF(view);
    return self->view != NULL;
}

/* False while the wait on this end is submitted. Sets no exception, since dealloc comes here with one set. */
static bool close_end(asp_py_end *self) {
    if (self->wait && !asp_py_wait_try_release((asp_py_wait *)self->wait)) return false;
    Py_CLEAR(self->wait);
    Py_CLEAR(self->view);
    bool was_open = self->open;
    self->open = false;
    if (was_open) asp_unpin(&self->pin);
    return true;
}

PyObject *asp_py_end_forget(asp_py_end *self) {
    /* Other threads that were inside did not come along. This one may be, and go on: below a signal's handler, say. So
     * what is in use stays mapped, and is refused from now on. */
    const bool inside = (asp_load_relaxed_u64(&self->busy) & ~(uint64_t)ACTION) == me();
    if (!inside) asp_py_end_leave(self);
    if (inside || !close_end(self)) self->open = false;
    Py_RETURN_NONE;
}

PyObject *asp_py_end_message(asp_py_end *self, const void *payload, uint64_t length) {
    Py_ssize_t start = (const char *)payload - (const char *)self->pin.buf;
    return PySequence_GetSlice(self->view, start, start + (Py_ssize_t)length);
}

PyObject *asp_py_end_wait(asp_py_end *self, asp_watch *watch) {
    if (!asp_py_end_enter(self, NULL)) return NULL;
    if (!self->wait) self->wait = asp_py_wait_on(asp_module_of((PyObject *)self), (PyObject *)self, watch);
    PyObject *wait = Py_XNewRef(self->wait);
    asp_py_end_leave(self);
    return wait;
}

PyObject *asp_py_end_guard(asp_ring *ring, PyObject *lock_fd) {
    uint32_t fd = ASP_CLOSED_LOCK_FD;
    if (lock_fd != Py_None && !asp_u32(lock_fd, &fd)) return NULL;
    return PyBool_FromLong(asp_ring_guard(ring, fd));
}

PyObject *asp_py_end_suspend(asp_py_end *self, const char *action) {
    if (!asp_py_end_enter(self, action)) return NULL;
    asp_store_release_u32(&self->suspended, 1);
    asp_py_end_leave(self);
    Py_RETURN_NONE;
}

PyObject *asp_py_end_resume(asp_py_end *self, PyObject *ready) {
    const bool rehearsal = ready == Py_None;
    const int is_ready = rehearsal ? 0 : PyObject_IsTrue(ready);
    if (is_ready < 0) return NULL;
    const bool told = !self->wait || asp_py_wait_ended((asp_py_wait *)self->wait, is_ready, rehearsal);
    asp_store_release_u32(&self->suspended, 0);
    asp_fence(); /* pairs with asp_py_end_suspended: its caller is asked next whether the end was closed meanwhile */
    if (!told) return NULL;
    Py_RETURN_NONE;
}

PyObject *asp_py_end_suspended(asp_py_end *self, void *unused) {
    (void)unused;
    asp_fence(); /* pairs with asp_py_end_resume: who closes an end says so first, and then asks this */
    return PyBool_FromLong(asp_load_acquire_u32(&self->suspended) != 0);
}

int asp_py_end_traverse(asp_py_end *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->pin.obj);
    Py_VISIT(self->view);
    Py_VISIT(self->wait);
    return 0;
}

int asp_py_end_clear(asp_py_end *self) {
    /* A submitted wait is referenced by its waiter, so garbage has none. */
    close_end(self);
    return 0;
}

void asp_py_end_dealloc(asp_py_end *self) {
    PyObject_GC_UnTrack((PyObject *)self);
    asp_py_end_clear(self);
    asp_free_object((PyObject *)self);
}

bool asp_py_end_close(asp_py_end *self) {
    if (!self->open) return true;
    if (!asp_py_end_enter(self, NULL)) return false;
    bool closed = close_end(self);
    asp_py_end_leave(self);
    if (!closed)
        PyErr_SetString(PyExc_RuntimeError, "the wait on this end is submitted: cancel it before the release");
    return closed;
}

/* ---- making a segment ---- */

PyObject *asp_py_ring_bytes(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    uint64_t capacity, max_readers;
    if (!asp_arguments("ring_bytes", count, 2) || !asp_u64(args[0], &capacity) || !asp_u64(args[1], &max_readers))
        return NULL;
    uint64_t bytes = max_readers <= UINT32_MAX ? asp_ring_bytes(capacity, (uint32_t)max_readers) : 0;
    if (bytes) return PyLong_FromUnsignedLongLong(bytes);
    PyErr_Format(PyExc_ValueError,
                 "a ring has a capacity of a power of two of at least %u bytes and 1 to %u readers, not "
                 "%llu bytes and %llu readers",
                 ASP_RING_MIN_CAPACITY, ASP_RING_MAX_READERS, (unsigned long long)capacity,
                 (unsigned long long)max_readers);
    return NULL;
}

PyObject *asp_py_ring_create(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    uint64_t capacity, max_readers, overflow, realtime_ns, id;
    uint32_t pid;
    if (!asp_arguments("ring_create", count, 7) || !asp_u64(args[1], &capacity) ||
        !asp_u64(args[2], &max_readers) || !asp_u64(args[3], &overflow) || !asp_u32(args[4], &pid) ||
        !asp_u64(args[5], &realtime_ns) || !asp_u64(args[6], &id))
        return NULL;
    Py_buffer pin;
    if (asp_pin(args[0], &pin, true) < 0) return NULL;
    asp_status status = ASP_E_INVALID;
    if (max_readers <= UINT32_MAX && overflow <= ASP_OVERFLOW_DROP_OLDEST)
        status = asp_ring_create(pin.buf, (uint64_t)pin.len, capacity, (uint32_t)max_readers,
                                 (asp_overflow)overflow, pid, realtime_ns, id);
    asp_unpin(&pin);
    if (status == ASP_READY) Py_RETURN_NONE;
    return asp_raise(PyModule_GetState(module), status, "the buffer is too small or not aligned to 128 bytes, or overflow is not 0 or 1, or the id is 0");
}
