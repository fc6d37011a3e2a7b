/* py_ring_writer.c - RingWriter: the writing end of a broadcast ring. */
#include "py_ring.h"

#include <stdio.h>

#include "atomics.h"
#include "ring.h"

typedef struct asp_py_writer {
    asp_py_end end;
    asp_ring_writer ring;
    asp_bells *bells;
    uint64_t claimed; /* payload bytes of the open claim */
} asp_py_writer;

static const char SENDING[] = "sending to"; /* in the words of BusyResourceError */

static PyObject *writer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"buffer", "bells", NULL};
    PyObject *buffer;
    const char *bells = NULL;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O|z:RingWriter", names, &buffer, &bells)) return NULL;
    allocfunc allocate = PyType_GetSlot(type, Py_tp_alloc);
    asp_py_writer *self = (asp_py_writer *)allocate(type, 0);
    if (!self) return NULL;
    asp_ring ring;
    if (asp_py_end_open(&self->end, buffer, &ring, false)) {
        asp_status status = asp_ring_writer_init(&self->ring, &ring);
        if (status == ASP_READY && bells) {
            self->ring.bells = self->bells = asp_bells_new(bells, ring.max_readers);
            if (!self->bells) status = ASP_E_MEMORY;
        }
        if (status == ASP_READY) return (PyObject *)self;
        asp_raise(PyType_GetModuleState(type), status, "the ring's head is none that a writer leaves behind");
    }
    Py_DECREF((PyObject *)self);
    return NULL;
}

static void writer_dealloc(asp_py_writer *self) {
    asp_bells_free(self->bells);
    asp_py_end_dealloc(&self->end);
}

static PyObject *writer_release(asp_py_writer *self, PyObject *unused) {
    (void)unused;
    if (!asp_py_end_close(&self->end)) return NULL;
    asp_bells_close(self->bells);
    Py_RETURN_NONE;
}

static PyObject *writer_forget(asp_py_writer *self, PyObject *unused) {
    (void)unused;
    asp_bells_close(self->bells);
    return asp_py_end_forget(&self->end);
}

static PyObject *cannot_claim(asp_py_writer *self, asp_status status, uint64_t nbytes) {
    char what[200];
    if (status == ASP_E_TOO_LARGE) {
        snprintf(what, sizeof what, "%llu bytes do not fit into the ring, which takes messages of at most %llu",
                 (unsigned long long)nbytes, (unsigned long long)self->ring.ring.max_message);
    } else if (status == ASP_E_LAYOUT) {
        snprintf(what, sizeof what,
                 "the segment is corrupt: a reader's cursor or a record is none that a healthy peer writes");
    } else if (status == ASP_E_INVALID) { /* after close() */
        return asp_raise_closed(asp_module_of((PyObject *)self));
    } else {
        snprintf(what, sizeof what, "%s", SENDING);
    }
    return asp_raise(asp_module_of((PyObject *)self), status, what);
}

static PyObject *not_bytes(PyObject *data) {
    if (data)
        PyErr_Format(PyExc_TypeError, "a message is a bytes-like object, not %R: encode it first, or use send_object()",
                     (PyObject *)Py_TYPE(data));
    return NULL;
}

static bool get_format(PyObject *object, asp_format *format) {
    uint32_t number;
    if (!asp_u32(object, &number)) return false;
    *format = (asp_format)number;
    if (number <= ASP_FORMAT_LAST) return true;
    PyErr_Format(PyExc_ValueError, "there is no format %u", (unsigned)number);
    return false;
}

/* True, False: no room just now, or None: too large for the ring. */
static PyObject *send_as(asp_py_writer *self, PyObject *data, asp_format format) {
    Py_buffer pin;
    if (!PyObject_CheckBuffer(data)) return not_bytes(data);
    /* Before enter: an exporter may be Python code, which may come back here. */
    if (asp_get_buffer(data, &pin, false) < 0) return NULL;
    if (!asp_py_end_enter(&self->end, SENDING)) {
        PyBuffer_Release(&pin);
        return NULL;
    }
    uint64_t nbytes = (uint64_t)pin.len;
    asp_status status = asp_ring_send(&self->ring, pin.buf, nbytes, format);
    asp_py_end_leave(&self->end);
    PyBuffer_Release(&pin);
    if (status == ASP_READY) Py_RETURN_TRUE;
    if (status == ASP_WOULD_BLOCK) Py_RETURN_FALSE;
    if (status == ASP_E_TOO_LARGE) Py_RETURN_NONE;
    return cannot_claim(self, status, nbytes);
}

static PyObject *writer_send(asp_py_writer *self, PyObject *data) { return send_as(self, data, ASP_FORMAT_BYTES); }

static PyObject *writer_send_as(asp_py_writer *self, PyObject *const *args, Py_ssize_t count) {
    asp_format format;
    if (!asp_arguments("send_as", count, 2) || !get_format(args[1], &format)) return NULL;
    return send_as(self, args[0], format);
}

static PyObject *writer_send_many(asp_py_writer *self, PyObject *const *args, Py_ssize_t count) {
    uint64_t first;
    if (!asp_arguments("send_many", count, 2) || !asp_u64(args[1], &first)) return NULL;
    PyObject *messages = args[0];
    if (!PyList_Check(messages)) {
        PyErr_Format(PyExc_TypeError, "messages must be a list, not %R", (PyObject *)Py_TYPE(messages));
        return NULL;
    }
    for (uint64_t i = first; i < (uint64_t)PyList_Size(messages); i++) { /* before any of them is sent */
        PyObject *message = PyList_GetItem(messages, (Py_ssize_t)i);
        if (!message || (!PyBytes_Check(message) && !PyObject_CheckBuffer(message))) return not_bytes(message);
    }
    if (!asp_py_end_enter(&self->end, SENDING)) return NULL;
    asp_status status = ASP_READY;
    uint64_t nbytes = 0, sent = 0;
    bool failed = false;
    /* The size anew each time: an exporter may be Python code, which may change the list. */
    for (uint64_t i = first; i < (uint64_t)PyList_Size(messages); i++, sent++) {
        PyObject *message = Py_XNewRef(PyList_GetItem(messages, (Py_ssize_t)i));
        if (!message) {
            failed = true;
        } else if (PyBytes_Check(message)) {
            nbytes = (uint64_t)PyBytes_Size(message);
            status = asp_ring_append(&self->ring, PyBytes_AsString(message), nbytes, ASP_FORMAT_BYTES);
        } else {
            Py_buffer pin;
            failed = asp_get_buffer(message, &pin, false) < 0;
            if (!failed) {
                nbytes = (uint64_t)pin.len;
                status = asp_ring_append(&self->ring, pin.buf, nbytes, ASP_FORMAT_BYTES);
                PyBuffer_Release(&pin);
            }
        }
        Py_XDECREF(message);
        if (failed || status != ASP_READY) break;
    }
    if (sent) asp_ring_wake_readers(&self->ring);
    asp_py_end_leave(&self->end);
    if (failed) {
        if (!sent) return NULL;
        PyErr_Clear(); /* the next call begins with it, and says it again */
    } else if (!sent && status != ASP_READY && status != ASP_WOULD_BLOCK && status != ASP_E_TOO_LARGE) {
        return cannot_claim(self, status, nbytes);
    }
    return PyLong_FromUnsignedLongLong(sent);
}

static PyObject *writer_claim(asp_py_writer *self, PyObject *argument) {
    uint64_t nbytes;
    if (!asp_u64(argument, &nbytes) || !asp_py_end_enter(&self->end, SENDING)) return NULL;
    void *payload;
    PyObject *view = NULL;
    asp_status status = asp_ring_claim(&self->ring, nbytes, &payload);
    if (status == ASP_READY) {
        view = asp_py_end_message(&self->end, payload, nbytes);
        if (view) self->claimed = nbytes;
        else asp_ring_abandon(&self->ring);
    }
    asp_py_end_leave(&self->end);
    if (status == ASP_READY) return view;
    if (status == ASP_WOULD_BLOCK) Py_RETURN_NONE;
    return cannot_claim(self, status, nbytes);
}

static PyObject *published(asp_py_writer *self, asp_status status) {
    if (status == ASP_READY) Py_RETURN_NONE;
    /* pairs with the store in asp_ring_writer_close: by another thread, since the claim */
    if (asp_load_relaxed_u32(&self->ring.closed)) return asp_raise_closed(asp_module_of((PyObject *)self));
    return asp_raise(asp_module_of((PyObject *)self), ASP_E_INVALID, "nothing is claimed: claim before publish");
}

static PyObject *writer_publish(asp_py_writer *self, PyObject *const *args, Py_ssize_t count) {
    asp_format format = ASP_FORMAT_BYTES;
    if (count && (!asp_arguments("publish", count, 1) || !get_format(args[0], &format))) return NULL;
    if (!asp_py_end_enter(&self->end, NULL)) return NULL;
    asp_status status = asp_ring_publish(&self->ring, self->claimed, format);
    asp_py_end_leave(&self->end);
    return published(self, status);
}

static PyObject *writer_claim_large(asp_py_writer *self, PyObject *unused) {
    (void)unused;
    if (!asp_py_end_enter(&self->end, SENDING)) return NULL;
    asp_status status = asp_ring_claim_large(&self->ring);
    asp_py_end_leave(&self->end);
    if (status == ASP_READY) Py_RETURN_TRUE;
    if (status == ASP_WOULD_BLOCK) Py_RETURN_FALSE;
    return cannot_claim(self, status, 0);
}

static PyObject *writer_publish_large(asp_py_writer *self, PyObject *const *args, Py_ssize_t count) {
    asp_format format;
    uint64_t length;
    if (!asp_arguments("publish_large", count, 2) || !asp_u64(args[0], &length) || !get_format(args[1], &format))
        return NULL;
    if (!asp_py_end_enter(&self->end, NULL)) return NULL;
    asp_status status = asp_ring_publish_large(&self->ring, length, format);
    asp_py_end_leave(&self->end);
    return published(self, status);
}

static PyObject *writer_want_past(asp_py_writer *self, PyObject *argument) {
    uint64_t position;
    if (!asp_u64(argument, &position) || !asp_py_end_enter(&self->end, SENDING)) return NULL;
    asp_ring_want_past(&self->ring, position);
    asp_py_end_leave(&self->end);
    Py_RETURN_NONE;
}

static PyObject *writer_drop_before(asp_py_writer *self, PyObject *argument) {
    uint64_t position;
    if (!asp_u64(argument, &position) || !asp_py_end_enter(&self->end, SENDING)) return NULL;
    asp_status status = asp_ring_drop_before(&self->ring, position);
    asp_py_end_leave(&self->end);
    if (status == ASP_READY) Py_RETURN_NONE;
    if (status == ASP_E_LAYOUT) return cannot_claim(self, status, 0);
    return asp_raise(asp_module_of((PyObject *)self), status,
                     "only before a position that was head once, and in drop_oldest mode");
}

static PyObject *writer_abandon(asp_py_writer *self, PyObject *unused) {
    (void)unused;
    if (!asp_py_end_enter(&self->end, NULL)) return NULL;
    asp_ring_abandon(&self->ring);
    asp_py_end_leave(&self->end);
    Py_RETURN_NONE;
}

static PyObject *writer_guard(asp_py_writer *self, PyObject *lock_fd) {
    return asp_py_end_guard(&self->ring.ring, lock_fd);
}

static PyObject *writer_suspend(asp_py_writer *self, PyObject *unused) {
    (void)unused;
    return asp_py_end_suspend(&self->end, SENDING);
}

static PyObject *writer_active_readers(asp_py_writer *self, PyObject *unused) {
    (void)unused;
    if (!asp_py_end_enter(&self->end, NULL)) return NULL;
    uint32_t count = asp_ring_active_readers(&self->ring.ring);
    asp_py_end_leave(&self->end);
    return PyLong_FromUnsignedLong(count);
}

static PyObject *writer_slowest(asp_py_writer *self, PyObject *unused) {
    (void)unused;
    if (!asp_py_end_enter(&self->end, NULL)) return NULL;
    uint64_t cursor = 0, head = self->ring.head;
    int64_t slot = asp_ring_slowest(&self->ring.ring, &cursor);
    /* for people: another reader may have taken the slot meanwhile */
    uint32_t pid = slot < 0 ? 0 : asp_load_relaxed_u32(&self->ring.ring.readers[slot].pid);
    asp_py_end_leave(&self->end);
    if (slot < 0) Py_RETURN_NONE;
    return Py_BuildValue("(LIK)", (long long)slot, (unsigned)pid, (unsigned long long)(head > cursor ? head - cursor : 0));
}

/* What lies before it nobody will read any more. */
static PyObject *writer_oldest(asp_py_writer *self, void *unused) {
    (void)unused;
    if (!asp_py_end_enter(&self->end, NULL)) return NULL;
    const asp_ring *ring = &self->ring.ring;
    uint64_t oldest = asp_ring_oldest(ring);
    uint64_t tail = ring->overflow == ASP_OVERFLOW_DROP_OLDEST ? self->ring.limit - ring->capacity : 0;
    asp_py_end_leave(&self->end);
    return PyLong_FromUnsignedLongLong(oldest > tail ? oldest : tail);
}

static PyObject *writer_readers(asp_py_writer *self, PyObject *unused) {
    (void)unused;
    PyObject *list = PyList_New(0);
    if (!list || !asp_py_end_enter(&self->end, NULL)) {
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
    asp_py_end_leave(&self->end);
    return list;
}

static PyObject *writer_evict(asp_py_writer *self, PyObject *argument) {
    uint64_t slot;
    if (!asp_u64(argument, &slot) || !asp_py_end_enter(&self->end, NULL)) return NULL;
    bool known = slot < self->ring.ring.max_readers;
    if (known) asp_ring_evict(&self->ring.ring, (uint32_t)slot);
    asp_py_end_leave(&self->end);
    if (known) Py_RETURN_NONE;
    PyErr_Format(PyExc_ValueError, "there is no slot %llu", (unsigned long long)slot);
    return NULL;
}

static PyObject *writer_close(asp_py_writer *self, PyObject *unused) {
    (void)unused;
    if (!asp_py_end_enter(&self->end, NULL)) return NULL;
    asp_ring_writer_close(&self->ring);
    asp_py_end_leave(&self->end);
    Py_RETURN_NONE;
}

static PyObject *writer_wait(asp_py_writer *self, void *unused) {
    (void)unused;
    return asp_py_end_wait(&self->end, &self->ring.watch);
}

NUMBER(writer, capacity, self->ring.ring.capacity)
NUMBER(writer, max_message, self->ring.ring.max_message)
NUMBER(writer, max_readers, self->ring.ring.max_readers)
NUMBER(writer, overflow, self->ring.ring.overflow)
NUMBER(writer, head, self->ring.head)
NUMBER(writer, sequence, self->ring.sequence)
NUMBER(writer, id, self->ring.ring.id)

static PyMethodDef writer_methods[] = {
    ASP_METHOD("send", writer_send, METH_O, "Copy, publish, wake. False: no room just now; None: too large."),
    ASP_METHOD("send_as", writer_send_as, METH_FASTCALL, "The same with a format."),
    ASP_METHOD("send_many", writer_send_many, METH_FASTCALL, "Send from a list, from an index on; how many."),
    ASP_METHOD("claim", writer_claim, METH_O, "Room for one message, or None."),
    ASP_METHOD("publish", writer_publish, METH_FASTCALL, "Publish what was claimed."),
    ASP_METHOD("claim_large", writer_claim_large, METH_NOARGS, "Room for the record of a large message?"),
    ASP_METHOD("publish_large", writer_publish_large, METH_FASTCALL, "Publish that its file is complete."),
    ASP_METHOD("want_past", writer_want_past, METH_O, "Have the wait last until no reader is before that."),
    ASP_METHOD("drop_before", writer_drop_before, METH_O, "drop_oldest: drop what lies before that."),
    ASP_METHOD("abandon", writer_abandon, METH_NOARGS, "Drop the claim."),
    ASP_METHOD("guard", writer_guard, METH_O, "Have waits ask who lives, with this descriptor; None: no more."),
    ASP_METHOD("suspend", writer_suspend, METH_NOARGS, "Begin to wait for room."),
    ASP_METHOD("resume", asp_py_end_resume, METH_O, "End of suspend; learns from the wait."),
    ASP_METHOD("active_readers", writer_active_readers, METH_NOARGS, "How many readers there are."),
    ASP_METHOD("slowest", writer_slowest, METH_NOARGS, "(slot, pid, lag in bytes), or None."),
    ASP_METHOD("readers", writer_readers, METH_NOARGS, "(slot, pid, lag in messages) of each."),
    ASP_METHOD("evict", writer_evict, METH_O, "Free the slot of a dead reader."),
    ASP_METHOD("close", writer_close, METH_NOARGS, "Publish the end of the stream."),
    ASP_METHOD("release", writer_release, METH_NOARGS, "Unpin the buffer."),
    ASP_METHOD("forget", writer_forget, METH_NOARGS, "release(), in the child of a fork."),
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef writer_getset[] = {
    GETTER(writer, capacity, "Bytes of the record area."),
    GETTER(writer, max_message, "Bytes of the largest message in the ring."),
    GETTER(writer, max_readers, "Reader slots."),
    GETTER(writer, overflow, "0: block, 1: drop_oldest."),
    GETTER(writer, head, "Position of the end of what is published."),
    GETTER(writer, sequence, "Messages published."),
    GETTER(writer, id, "Of this segment."),
    GETTER(writer, oldest, "What lies before that nobody will read any more."),
    {"suspended", (getter)asp_py_end_suspended, NULL, "A caller waits: between suspend and resume.", NULL},
    GETTER(writer, wait, "Ready when there may be room for what last had none."),
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot writer_slots[] = {
    {Py_tp_new, writer_new},         {Py_tp_dealloc, writer_dealloc},
    {Py_tp_traverse, asp_py_end_traverse},  {Py_tp_clear, asp_py_end_clear},
    {Py_tp_methods, writer_methods}, {Py_tp_getset, writer_getset},
    {0, NULL},
};

PyType_Spec asp_ring_writer_spec = {
    .name = "aiospin._native.RingWriter",
    .basicsize = sizeof(asp_py_writer),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = writer_slots,
};
