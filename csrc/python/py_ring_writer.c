/* py_ring_writer.c - RingWriter: the writing end of a broadcast ring. */
#include "py_ring.h"

#include <stdio.h>

#include "atomics.h"
#include "ring.h"

typedef struct asp_py_writer {
    asp_py_end end;
    asp_ring_writer ring;
    uint64_t claimed; /* payload bytes of the open claim */
} asp_py_writer;

static const char SENDING[] = "sending to"; /* in the words of BusyResourceError */

static PyObject *writer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"buffer", NULL};
    PyObject *buffer;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:RingWriter", names, &buffer)) return NULL;
    allocfunc allocate = PyType_GetSlot(type, Py_tp_alloc);
    asp_py_writer *self = (asp_py_writer *)allocate(type, 0);
    if (!self) return NULL;
    asp_ring ring;
    if (asp_py_end_open(&self->end, buffer, &ring, false)) {
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
    /* Before enter: an exporter may be Python code, which may come back here. */
    if (asp_get_buffer(data, &pin, false) < 0) return NULL;
    if (!asp_py_end_enter(&self->end, SENDING)) {
        PyBuffer_Release(&pin);
        return NULL;
    }
    uint64_t nbytes = (uint64_t)pin.len;
    asp_status status = asp_ring_send(&self->ring, pin.buf, nbytes);
    asp_py_end_leave(&self->end);
    PyBuffer_Release(&pin);
    if (status == ASP_READY) Py_RETURN_TRUE;
    if (status == ASP_WOULD_BLOCK) Py_RETURN_FALSE;
    return cannot_claim(self, status, nbytes);
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

static PyObject *writer_publish(asp_py_writer *self, PyObject *unused) {
    (void)unused;
    if (!asp_py_end_enter(&self->end, NULL)) return NULL;
    asp_status status = asp_ring_publish(&self->ring, self->claimed);
    asp_py_end_leave(&self->end);
    if (status == ASP_READY) Py_RETURN_NONE;
    return asp_raise(asp_module_of((PyObject *)self), ASP_E_INVALID, "nothing is claimed: claim before publish");
}

static PyObject *writer_abandon(asp_py_writer *self, PyObject *unused) {
    (void)unused;
    if (!asp_py_end_enter(&self->end, NULL)) return NULL;
    asp_ring_abandon(&self->ring);
    asp_py_end_leave(&self->end);
    Py_RETURN_NONE;
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
static PyMethodDef writer_methods[] = {
    ASP_METHOD("send", writer_send, METH_O, "Copy, publish, wake. False: no room just now."),
    ASP_METHOD("claim", writer_claim, METH_O, "Room for one message, or None."),
    ASP_METHOD("publish", writer_publish, METH_NOARGS, "Publish what was claimed."),
    ASP_METHOD("abandon", writer_abandon, METH_NOARGS, "Drop the claim."),
    ASP_METHOD("suspend", writer_suspend, METH_NOARGS, "Begin to wait for room."),
    ASP_METHOD("resume", asp_py_end_resume, METH_NOARGS, "End of suspend."),
    ASP_METHOD("active_readers", writer_active_readers, METH_NOARGS, "How many readers there are."),
    ASP_METHOD("slowest", writer_slowest, METH_NOARGS, "(slot, pid, lag in bytes), or None."),
    ASP_METHOD("readers", writer_readers, METH_NOARGS, "(slot, pid, lag in messages) of each."),
    ASP_METHOD("evict", writer_evict, METH_O, "Free the slot of a dead reader."),
    ASP_METHOD("close", writer_close, METH_NOARGS, "Publish the end of the stream."),
    ASP_METHOD("release", asp_py_end_release, METH_NOARGS, "Unpin the buffer."),
    {NULL, NULL, 0, NULL},
};

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
    {Py_tp_new, writer_new},         {Py_tp_dealloc, asp_py_end_dealloc},
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
