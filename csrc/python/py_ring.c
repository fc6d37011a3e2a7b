/* py_ring.c - RingWriter and RingReader: the two ends of a broadcast ring in a pinned buffer.
 *
 * One native call sends, one receives. An end is used by one thread at a time and by one caller that
 * waits: `busy` guards the former, `suspended` the latter, and the second gets BusyResourceError. */
#include "module.h"

#include <stdio.h>
#include <string.h>

#include "atomics.h"
#include "py_wait.h"
#include "ring.h"
#include "tally.h"

typedef struct asp_py_end { /* what both ends have in common */
    PyObject_HEAD
    Py_buffer pin;
    bool open;
    PyObject *view; /* memoryview of the whole segment, that messages are slices of */
    PyObject *wait; /* the asp_py_wait on this end's watch, made on first use */
    uint32_t busy;      /* a thread is inside a method; pairs with itself */
    uint32_t suspended; /* a caller waits; set and cleared by suspend and resume */
} asp_py_end;

typedef struct asp_py_writer {
    asp_py_end end;
    asp_ring_writer ring;
    uint64_t claimed; /* payload bytes of the open claim */
} asp_py_writer;

typedef struct asp_py_reader {
    asp_py_end end;
    asp_ring_reader ring;
    uint64_t skipped;  /* a lag found in the middle of a batch, to be reported by the next call */
    bool holds_copy;   /* drop_oldest: the acquired message is a private copy */
} asp_py_reader;

static const char SENDING[] = "sending to", RECEIVING[] = "receiving from";

/* Begin an operation. `action` in the words of BusyResourceError; NULL for one that the suspended
 * caller's own cleanup makes too. */
static bool enter(asp_py_end *self, const char *action) {
    asp_module *module = asp_module_of((PyObject *)self);
    if (asp_exchange_u32(&self->busy, 1)) {
        asp_raise(module, ASP_BUSY, action ? action : "using");
        return false;
    }
    if (self->open && !(action && asp_load_acquire_u32(&self->suspended))) return true;
    asp_store_release_u32(&self->busy, 0);
    if (self->open) asp_raise(module, ASP_BUSY, action);
    else PyErr_SetNone(module->closed_error);
    return false;
}

static void leave(asp_py_end *self) { asp_store_release_u32(&self->busy, 0); /* pairs with enter */ }

/* Pin, check and keep a view. The ring's checked geometry is the result. */
static bool open_end(asp_py_end *self, PyObject *buffer, asp_ring *ring, bool readonly) {
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

static PyObject *message_view(asp_py_end *self, const void *payload, uint64_t length) {
    Py_ssize_t start = (const char *)payload - (const char *)self->pin.buf;
    return PySequence_GetSlice(self->view, start, start + (Py_ssize_t)length);
}

static PyObject *wait_of(asp_py_end *self, asp_watch *watch) {
    if (!enter(self, NULL)) return NULL;
    if (!self->wait) self->wait = asp_py_wait_on(asp_module_of((PyObject *)self), (PyObject *)self, watch);
    PyObject *wait = Py_XNewRef(self->wait);
    leave(self);
    return wait;
}

static PyObject *end_suspend(asp_py_end *self, const char *action) {
    if (!enter(self, action)) return NULL;
    asp_store_release_u32(&self->suspended, 1);
    leave(self);
    Py_RETURN_NONE;
}

static PyObject *end_resume(asp_py_end *self, PyObject *unused) {
    (void)unused;
    asp_store_release_u32(&self->suspended, 0);
    Py_RETURN_NONE;
}

static int end_traverse(asp_py_end *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->pin.obj);
    Py_VISIT(self->view);
    Py_VISIT(self->wait);
    return 0;
}

static int end_clear(asp_py_end *self) {
    /* A submitted wait is referenced by its waiter, so garbage has none. */
    close_end(self);
    return 0;
}

static void end_dealloc(asp_py_end *self) {
    PyObject_GC_UnTrack((PyObject *)self);
    end_clear(self);
    asp_free_object((PyObject *)self);
}

/* ---- the writer ---- */

static PyObject *writer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"buffer", NULL};
    PyObject *buffer;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:RingWriter", names, &buffer)) return NULL;
    allocfunc allocate = PyType_GetSlot(type, Py_tp_alloc);
    asp_py_writer *self = (asp_py_writer *)allocate(type, 0);
    if (!self) return NULL;
    asp_ring ring;
    if (open_end(&self->end, buffer, &ring, false)) {
        asp_status status = asp_ring_writer_init(&self->ring, &ring);
        if (status == ASP_READY) return (PyObject *)self;
        asp_raise(PyType_GetModuleState(type), status, "the ring's head is none that a writer leaves behind");
    }
    Py_DECREF((PyObject *)self);
    return NULL;
}

static PyObject *cannot_claim(asp_py_writer *self, asp_status status, uint64_t nbytes) {
    char what[200];
    if (status == ASP_E_TOO_LARGE) {
        snprintf(what, sizeof what,
                 "a message of %llu bytes is too large: this broadcast takes at most %llu (half its "
                 "capacity); create it with a larger capacity",
                 (unsigned long long)nbytes, (unsigned long long)self->ring.ring.max_message);
    } else if (status == ASP_E_LAYOUT) {
        snprintf(what, sizeof what,
                 "the segment is corrupt: a reader's cursor or a record is none that a healthy peer writes");
    } else if (status == ASP_E_INVALID) { /* after close() */
        PyErr_SetNone(asp_module_of((PyObject *)self)->closed_error);
        return NULL;
    } else {
        snprintf(what, sizeof what, "%s", SENDING);
    }
    return asp_raise(asp_module_of((PyObject *)self), status, what);
}

static PyObject *writer_send(asp_py_writer *self, PyObject *data) {
    Py_buffer pin;
    if (!PyObject_CheckBuffer(data)) {
        PyErr_Format(PyExc_TypeError, "a message is a bytes-like object, not %R: encode it first",
                     (PyObject *)Py_TYPE(data));
        return NULL;
    }
    if (!enter(&self->end, SENDING)) return NULL;
    if (asp_get_buffer(data, &pin, false) < 0) {
        leave(&self->end);
        return NULL;
    }
    uint64_t nbytes = (uint64_t)pin.len;
    asp_status status = asp_ring_send(&self->ring, pin.buf, nbytes);
    PyBuffer_Release(&pin);
    leave(&self->end);
    if (status == ASP_READY) Py_RETURN_TRUE;
    if (status == ASP_WOULD_BLOCK) Py_RETURN_FALSE;
    return cannot_claim(self, status, nbytes);
}

static PyObject *writer_claim(asp_py_writer *self, PyObject *argument) {
    uint64_t nbytes;
    if (!asp_u64(argument, &nbytes) || !enter(&self->end, SENDING)) return NULL;
    void *payload;
    PyObject *view = NULL;
    asp_status status = asp_ring_claim(&self->ring, nbytes, &payload);
    if (status == ASP_READY) {
        view = message_view(&self->end, payload, nbytes);
        if (view) self->claimed = nbytes;
        else asp_ring_abandon(&self->ring);
    }
    leave(&self->end);
    if (status == ASP_READY) return view;
    if (status == ASP_WOULD_BLOCK) Py_RETURN_NONE;
    return cannot_claim(self, status, nbytes);
}

static PyObject *writer_publish(asp_py_writer *self, PyObject *unused) {
    (void)unused;
    if (!enter(&self->end, NULL)) return NULL;
    asp_status status = asp_ring_publish(&self->ring, self->claimed);
    leave(&self->end);
    if (status == ASP_READY) Py_RETURN_NONE;
    return asp_raise(asp_module_of((PyObject *)self), ASP_E_INVALID, "nothing is claimed: claim before publish");
}

static PyObject *writer_abandon(asp_py_writer *self, PyObject *unused) {
    (void)unused;
    if (!enter(&self->end, NULL)) return NULL;
    asp_ring_abandon(&self->ring);
    leave(&self->end);
    Py_RETURN_NONE;
}

static PyObject *writer_suspend(asp_py_writer *self, PyObject *unused) {
    (void)unused;
    return end_suspend(&self->end, SENDING);
}

static PyObject *writer_active_readers(asp_py_writer *self, PyObject *unused) {
    (void)unused;
    if (!enter(&self->end, NULL)) return NULL;
    uint32_t count = asp_ring_active_readers(&self->ring.ring);
    leave(&self->end);
    return PyLong_FromUnsignedLong(count);
}

static PyObject *writer_slowest(asp_py_writer *self, PyObject *unused) {
    (void)unused;
    if (!enter(&self->end, NULL)) return NULL;
    uint64_t cursor = 0, head = self->ring.head;
    int64_t slot = asp_ring_slowest(&self->ring.ring, &cursor);
    /* for people: another reader may have taken the slot meanwhile */
    uint32_t pid = slot < 0 ? 0 : asp_load_relaxed_u32(&self->ring.ring.readers[slot].pid);
    leave(&self->end);
    if (slot < 0) Py_RETURN_NONE;
    return Py_BuildValue("(LIK)", (long long)slot, (unsigned)pid, (unsigned long long)(head > cursor ? head - cursor : 0));
}

static PyObject *writer_readers(asp_py_writer *self, PyObject *unused) {
    (void)unused;
    PyObject *list = PyList_New(0);
    if (!list || !enter(&self->end, NULL)) {
        Py_XDECREF(list);
        return NULL;
    }
    for (uint32_t slot = 0; list && slot < self->ring.ring.max_readers; slot++) {
        const asp_ring_reader_line *line = &self->ring.ring.readers[slot];
        if (asp_load_acquire_u32(&line->state) != ASP_READER_ACTIVE) continue; /* pairs with join */
        uint64_t sequence = asp_load_relaxed_u64(&line->sequence), sent = self->ring.sequence;
        PyObject *row = Py_BuildValue("(IIK)", (unsigned)slot, (unsigned)asp_load_relaxed_u32(&line->pid),
                                      (unsigned long long)(sent > sequence ? sent - sequence : 0));
        if (!row || PyList_Append(list, row) < 0) Py_CLEAR(list);
        Py_XDECREF(row);
    }
    leave(&self->end);
    return list;
}

static PyObject *writer_evict(asp_py_writer *self, PyObject *argument) {
    uint64_t slot;
    if (!asp_u64(argument, &slot) || !enter(&self->end, NULL)) return NULL;
    bool known = slot < self->ring.ring.max_readers;
    if (known) asp_ring_evict(&self->ring.ring, (uint32_t)slot);
    leave(&self->end);
    if (known) Py_RETURN_NONE;
    PyErr_Format(PyExc_ValueError, "there is no slot %llu", (unsigned long long)slot);
    return NULL;
}

static PyObject *writer_close(asp_py_writer *self, PyObject *unused) {
    (void)unused;
    if (!enter(&self->end, NULL)) return NULL;
    asp_ring_writer_close(&self->ring);
    leave(&self->end);
    Py_RETURN_NONE;
}

static PyObject *end_release(asp_py_end *self, PyObject *unused) {
    (void)unused;
    if (!self->open) Py_RETURN_NONE;
    if (!enter(self, NULL)) return NULL;
    bool closed = close_end(self);
    leave(self);
    if (closed) Py_RETURN_NONE;
    PyErr_SetString(PyExc_RuntimeError, "the wait on this end is submitted: cancel it before the release");
    return NULL;
}

static PyObject *writer_wait(asp_py_writer *self, void *unused) {
    (void)unused;
    return wait_of(&self->end, &self->ring.watch);
}

#define NUMBER(type, name, expression)                             \
    static PyObject *type##_##name(asp_py_##type *self, void *unused) { \
        (void)unused;                                              \
        return PyLong_FromUnsignedLongLong(expression);            \
    }

NUMBER(writer, capacity, self->ring.ring.capacity)
NUMBER(writer, max_message, self->ring.ring.max_message)
NUMBER(writer, max_readers, self->ring.ring.max_readers)
NUMBER(writer, overflow, self->ring.ring.overflow)
NUMBER(writer, head, self->ring.head)
NUMBER(writer, sequence, self->ring.sequence)
NUMBER(reader, capacity, self->ring.ring.capacity)
NUMBER(reader, max_message, self->ring.ring.max_message)
NUMBER(reader, overflow, self->ring.ring.overflow)
NUMBER(reader, slot, self->ring.slot)
NUMBER(reader, sequence, self->ring.sequence)
NUMBER(reader, published_ns, self->ring.published_ns)
NUMBER(reader, lag, self->end.open ? asp_ring_lag(&self->ring) : 0)
NUMBER(reader, writer_pid,
       self->end.open ? ((const asp_ring_header *)self->end.pin.buf)->writer_pid : 0)

static PyMethodDef writer_methods[] = {
    ASP_METHOD("send", writer_send, METH_O, "Copy, publish, wake. False: no room just now."),
    ASP_METHOD("claim", writer_claim, METH_O, "Room for one message, or None."),
    ASP_METHOD("publish", writer_publish, METH_NOARGS, "Publish what was claimed."),
    ASP_METHOD("abandon", writer_abandon, METH_NOARGS, "Drop the claim."),
    ASP_METHOD("suspend", writer_suspend, METH_NOARGS, "Begin to wait for room."),
    ASP_METHOD("resume", end_resume, METH_NOARGS, "End of suspend."),
    ASP_METHOD("active_readers", writer_active_readers, METH_NOARGS, "How many readers there are."),
    ASP_METHOD("slowest", writer_slowest, METH_NOARGS, "(slot, pid, lag in bytes), or None."),
    ASP_METHOD("readers", writer_readers, METH_NOARGS, "(slot, pid, lag in messages) of each."),
    ASP_METHOD("evict", writer_evict, METH_O, "Free the slot of a dead reader."),
    ASP_METHOD("close", writer_close, METH_NOARGS, "Publish the end of the stream."),
    ASP_METHOD("release", end_release, METH_NOARGS, "Unpin the buffer."),
    {NULL, NULL, 0, NULL},
};

#define GETTER(type, name, doc) {#name, (getter)type##_##name, NULL, doc, NULL}

static PyGetSetDef writer_getset[] = {
    GETTER(writer, capacity, "Bytes of the record area."),
    GETTER(writer, max_message, "Bytes of the largest message."),
    GETTER(writer, max_readers, "Reader slots."),
    GETTER(writer, overflow, "0: block, 1: drop_oldest."),
    GETTER(writer, head, "Position of the end of what is published."),
    GETTER(writer, sequence, "Messages published."),
    GETTER(writer, wait, "Ready when there may be room for what last had none."),
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot writer_slots[] = {
    {Py_tp_new, writer_new},         {Py_tp_dealloc, end_dealloc},
    {Py_tp_traverse, end_traverse},  {Py_tp_clear, end_clear},
    {Py_tp_methods, writer_methods}, {Py_tp_getset, writer_getset},
    {0, NULL},
};

PyType_Spec asp_ring_writer_spec = {
    .name = "aiospin._native.RingWriter",
    .basicsize = sizeof(asp_py_writer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = writer_slots,
};

/* ---- the reader ---- */

static PyObject *reader_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"buffer", "slot", "pid", NULL};
    PyObject *buffer;
    PyObject *slot_object, *pid_object;
    uint32_t slot, pid;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO:RingReader", names, &buffer, &slot_object, &pid_object) ||
        !asp_u32(slot_object, &slot) || !asp_u32(pid_object, &pid))
        return NULL;
    allocfunc allocate = PyType_GetSlot(type, Py_tp_alloc);
    asp_py_reader *self = (asp_py_reader *)allocate(type, 0);
    if (!self) return NULL;
    asp_ring ring;
    if (open_end(&self->end, buffer, &ring, true)) {
        asp_status status = asp_ring_join(&self->ring, &ring, slot, pid);
        if (status == ASP_READY) return (PyObject *)self;
        asp_raise(PyType_GetModuleState(type), status,
                  status == ASP_E_INVALID ? "there is no such slot" : "the ring's head is none that a writer leaves behind");
    }
    Py_DECREF((PyObject *)self);
    return NULL;
}

static PyObject *raise_lagged(asp_py_reader *self, uint64_t skipped) {
    PyObject *type = asp_module_of((PyObject *)self)->lagged_error;
    PyObject *error = PyObject_CallFunction(type, "K", (unsigned long long)skipped);
    if (error) {
        PyErr_SetObject(type, error);
        Py_DECREF(error);
    }
    return NULL;
}

static PyObject *cannot_read(asp_py_reader *self, asp_status status) {
    if (status == ASP_LAGGED) return raise_lagged(self, self->ring.skipped);
    return asp_raise(asp_module_of((PyObject *)self), status,
                     status == ASP_E_LAYOUT
                         ? "the segment is corrupt: the next record is none that a healthy writer makes"
                         : RECEIVING);
}

/* The next message as bytes: memory first, so that running out of it loses nothing. NULL without an
 * exception when *status says why. */
static PyObject *copy_next(asp_py_reader *self, asp_status *status) {
    uint32_t length;
    while ((*status = asp_ring_peek(&self->ring, &length)) == ASP_READY) {
        PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
        if (!bytes) return NULL;
        uint32_t copied;
        *status = asp_ring_copy(&self->ring, PyBytes_AsString(bytes), length, &copied);
        if (*status == ASP_READY && copied == length) return bytes;
        Py_DECREF(bytes);
        /* drop_oldest: another message has taken the place of the one peeked at */
        if (*status != ASP_E_TOO_LARGE) break;
    }
    return NULL;
}

/* Begin to receive: not while a private copy is acquired; the ring itself sees to the others. */
static bool enter_reader(asp_py_reader *self) {
    if (!enter(&self->end, RECEIVING)) return false;
    if (self->ring.joined && !self->holds_copy) return true;
    leave(&self->end);
    asp_module *module = asp_module_of((PyObject *)self);
    /* After leave() the slot may be another reader's. */
    if (!self->ring.joined) PyErr_SetNone(module->closed_error);
    else asp_raise(module, ASP_BUSY, RECEIVING);
    return false;
}

static PyObject *reader_receive(asp_py_reader *self, PyObject *unused) {
    (void)unused;
    if (!enter_reader(self)) return NULL;
    PyObject *bytes = NULL;
    asp_status status = ASP_LAGGED;
    uint64_t skipped = self->skipped;
    self->skipped = 0;
    if (!skipped) bytes = copy_next(self, &status);
    leave(&self->end);
    if (bytes || PyErr_Occurred()) return bytes;
    if (skipped) return raise_lagged(self, skipped);
    if (status == ASP_WOULD_BLOCK) Py_RETURN_NONE;
    return cannot_read(self, status);
}

static PyObject *reader_receive_many(asp_py_reader *self, PyObject *argument) {
    uint64_t most;
    if (!asp_u64(argument, &most)) return NULL;
    PyObject *list = PyList_New(0);
    if (!list || !enter_reader(self)) {
        Py_XDECREF(list);
        return NULL;
    }
    asp_status status = ASP_READY;
    uint64_t skipped = self->skipped, count = 0;
    self->skipped = 0;
    while (!skipped && count < most) {
        /* A place in the list first, so that running out of memory loses no message. */
        if (PyList_Append(list, Py_None) < 0) break;
        PyObject *bytes = copy_next(self, &status);
        if (!bytes) {
            PyObject *type, *value, *traceback;
            PyErr_Fetch(&type, &value, &traceback);
            PyList_SetSlice(list, (Py_ssize_t)count, (Py_ssize_t)count + 1, NULL); /* shrinking: cannot fail */
            PyErr_Restore(type, value, traceback);
            break;
        }
        PyList_SetItem(list, (Py_ssize_t)count++, bytes);
    }
    if (count && PyErr_Occurred()) PyErr_Clear(); /* hand over what there is; the next call will say it */
    /* What ended the batch is for the next call to find again, but a lag is told only once. */
    if (count && status == ASP_LAGGED) self->skipped = self->ring.skipped;
    leave(&self->end);
    if (list && !PyErr_Occurred() && !skipped && (count || !most || status == ASP_WOULD_BLOCK)) return list;
    Py_XDECREF(list);
    if (PyErr_Occurred()) return NULL;
    return skipped ? raise_lagged(self, skipped) : cannot_read(self, status);
}

static PyObject *reader_acquire(asp_py_reader *self, PyObject *unused) {
    (void)unused;
    if (!enter_reader(self)) return NULL;
    PyObject *view = NULL;
    asp_status status;
    uint64_t skipped = self->skipped;
    self->skipped = 0;
    if (skipped) {
        status = ASP_LAGGED;
    } else if (self->ring.ring.overflow == ASP_OVERFLOW_DROP_OLDEST) {
        PyObject *bytes = copy_next(self, &status);
        if (bytes) view = PyMemoryView_FromObject(bytes);
        Py_XDECREF(bytes);
        self->holds_copy = view != NULL;
    } else {
        const void *payload;
        uint32_t length;
        status = asp_ring_acquire(&self->ring, &payload, &length);
        if (status == ASP_READY) view = message_view(&self->end, payload, length);
    }
    leave(&self->end);
    if (view || PyErr_Occurred()) return view;
    if (status == ASP_WOULD_BLOCK) Py_RETURN_NONE;
    return skipped ? raise_lagged(self, skipped) : cannot_read(self, status);
}

static PyObject *reader_release_message(asp_py_reader *self, PyObject *unused) {
    (void)unused;
    if (!enter(&self->end, NULL)) return NULL;
    if (self->holds_copy) self->holds_copy = false;
    else asp_ring_release(&self->ring);
    leave(&self->end);
    Py_RETURN_NONE;
}

static PyObject *reader_suspend(asp_py_reader *self, PyObject *unused) {
    (void)unused;
    return end_suspend(&self->end, RECEIVING);
}

static PyObject *reader_leave(asp_py_reader *self, PyObject *unused) {
    (void)unused;
    if (!enter(&self->end, NULL)) return NULL;
    asp_ring_leave(&self->ring);
    leave(&self->end);
    Py_RETURN_NONE;
}

static PyObject *reader_wait(asp_py_reader *self, void *unused) {
    (void)unused;
    return wait_of(&self->end, &self->ring.watch);
}

static PyMethodDef reader_methods[] = {
    ASP_METHOD("receive", reader_receive, METH_NOARGS, "The next message, copied, or None."),
    ASP_METHOD("receive_many", reader_receive_many, METH_O, "What is there, at most so many."),
    ASP_METHOD("acquire", reader_acquire, METH_NOARGS, "The next message as a view, or None."),
    ASP_METHOD("release_message", reader_release_message, METH_NOARGS, "End of acquire."),
    ASP_METHOD("suspend", reader_suspend, METH_NOARGS, "Begin to wait for a message."),
    ASP_METHOD("resume", end_resume, METH_NOARGS, "End of suspend."),
    ASP_METHOD("leave", reader_leave, METH_NOARGS, "Give up the slot."),
    ASP_METHOD("release", end_release, METH_NOARGS, "Unpin the buffer."),
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef reader_getset[] = {
    GETTER(reader, capacity, "Bytes of the record area."),
    GETTER(reader, max_message, "Bytes of the largest message."),
    GETTER(reader, overflow, "0: block, 1: drop_oldest."),
    GETTER(reader, slot, "The slot that this reader holds."),
    GETTER(reader, lag, "Messages published and not yet received."),
    GETTER(reader, sequence, "Number of the next message."),
    GETTER(reader, published_ns, "When the last message was published, CLOCK_MONOTONIC ns."),
    GETTER(reader, writer_pid, "Process id that the writer gave."),
    GETTER(reader, wait, "Ready when there is something to receive."),
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot reader_slots[] = {
    {Py_tp_new, reader_new},         {Py_tp_dealloc, end_dealloc},
    {Py_tp_traverse, end_traverse},  {Py_tp_clear, end_clear},
    {Py_tp_methods, reader_methods}, {Py_tp_getset, reader_getset},
    {0, NULL},
};

PyType_Spec asp_ring_reader_spec = {
    .name = "aiospin._native.RingReader",
    .basicsize = sizeof(asp_py_reader),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = reader_slots,
};

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
    uint64_t capacity, max_readers, overflow, realtime_ns;
    uint32_t pid;
    if (!asp_arguments("ring_create", count, 6) || !asp_u64(args[1], &capacity) ||
        !asp_u64(args[2], &max_readers) || !asp_u64(args[3], &overflow) || !asp_u32(args[4], &pid) ||
        !asp_u64(args[5], &realtime_ns))
        return NULL;
    Py_buffer pin;
    if (asp_pin(args[0], &pin, true) < 0) return NULL;
    asp_status status = ASP_E_INVALID;
    if (max_readers <= UINT32_MAX && overflow <= ASP_OVERFLOW_DROP_OLDEST)
        status = asp_ring_create(pin.buf, (uint64_t)pin.len, capacity, (uint32_t)max_readers,
                                 (asp_overflow)overflow, pid, realtime_ns);
    asp_unpin(&pin);
    if (status == ASP_READY) Py_RETURN_NONE;
    return asp_raise(PyModule_GetState(module), status, "the buffer is too small or not aligned to 128 bytes, or overflow is not 0 or 1");
}
