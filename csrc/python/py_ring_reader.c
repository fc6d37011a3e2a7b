/* py_ring_reader.c - RingReader: a reading end of a broadcast ring. */
#include "py_ring.h"

#include "ring.h"

typedef struct asp_py_reader {
    asp_py_end end;
    asp_ring_reader ring;
    uint64_t skipped;  /* a lag found in the middle of a batch, to be reported by the next call */
    bool holds_copy;   /* drop_oldest: the acquired message is a private copy */
} asp_py_reader;

static const char RECEIVING[] = "receiving from"; /* in the words of BusyResourceError */

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
    if (asp_py_end_open(&self->end, buffer, &ring, true)) {
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
    if (!asp_py_end_enter(&self->end, RECEIVING)) return false;
    if (self->ring.joined && !self->holds_copy) return true;
    asp_py_end_leave(&self->end);
    asp_module *module = asp_module_of((PyObject *)self);
    /* After asp_py_end_leave() the slot may be another reader's. */
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
    asp_py_end_leave(&self->end);
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
        uint32_t length, copied;
        status = asp_ring_peek(&self->ring, &length);
        if (status != ASP_READY) break;
        /* Memory and place first, so that running out of either loses no message. */
        PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)length);
        if (!bytes) break;
        int failed = PyList_Append(list, bytes);
        char *payload = PyBytes_AsString(bytes);
        Py_DECREF(bytes); /* the list has it */
        if (failed) break;
        status = asp_ring_copy(&self->ring, payload, length, &copied);
        if (status == ASP_READY) {
            count++;
        } else { /* drop_oldest: it was overwritten meanwhile */
            if (PyList_SetSlice(list, (Py_ssize_t)count, (Py_ssize_t)count + 1, NULL) < 0) Py_CLEAR(list);
            break;
        }
    }
    if (list && count && PyErr_Occurred()) PyErr_Clear(); /* hand over what there is; the next call will say it */
    /* What ended the batch is for the next call to find again, but a lag is told only once. */
    if (count && status == ASP_LAGGED) self->skipped = self->ring.skipped;
    asp_py_end_leave(&self->end);
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
        if (status == ASP_READY) view = asp_py_end_message(&self->end, payload, length);
    }
    asp_py_end_leave(&self->end);
    if (view || PyErr_Occurred()) return view;
    if (status == ASP_WOULD_BLOCK) Py_RETURN_NONE;
    return skipped ? raise_lagged(self, skipped) : cannot_read(self, status);
}

static PyObject *reader_release_message(asp_py_reader *self, PyObject *unused) {
    (void)unused;
    if (!asp_py_end_enter(&self->end, NULL)) return NULL;
    if (self->holds_copy) self->holds_copy = false;
    else asp_ring_release(&self->ring);
    asp_py_end_leave(&self->end);
    Py_RETURN_NONE;
}

static PyObject *reader_suspend(asp_py_reader *self, PyObject *unused) {
    (void)unused;
    return asp_py_end_suspend(&self->end, RECEIVING);
}

static PyObject *reader_leave(asp_py_reader *self, PyObject *unused) {
    (void)unused;
    if (!asp_py_end_enter(&self->end, NULL)) return NULL;
    asp_ring_leave(&self->ring);
    asp_py_end_leave(&self->end);
    Py_RETURN_NONE;
}

static PyObject *reader_wait(asp_py_reader *self, void *unused) {
    (void)unused;
    return asp_py_end_wait(&self->end, &self->ring.watch);
}

NUMBER(reader, capacity, self->ring.ring.capacity)
NUMBER(reader, max_message, self->ring.ring.max_message)
NUMBER(reader, overflow, self->ring.ring.overflow)
NUMBER(reader, slot, self->ring.slot)
NUMBER(reader, sequence, self->ring.sequence)
NUMBER(reader, published_ns, self->ring.published_ns)

/* These two read the segment, which must stay meanwhile. */
static PyObject *reader_lag(asp_py_reader *self, void *unused) {
    (void)unused;
    if (!asp_py_end_enter(&self->end, NULL)) return NULL;
    uint64_t lag = asp_ring_lag(&self->ring);
    asp_py_end_leave(&self->end);
    return PyLong_FromUnsignedLongLong(lag);
}

static PyObject *reader_writer_pid(asp_py_reader *self, void *unused) {
    (void)unused;
    if (!asp_py_end_enter(&self->end, NULL)) return NULL;
    uint32_t pid = ((const asp_ring_header *)self->end.pin.buf)->writer_pid;
    asp_py_end_leave(&self->end);
    return PyLong_FromUnsignedLong(pid);
}

static PyMethodDef reader_methods[] = {
    ASP_METHOD("receive", reader_receive, METH_NOARGS, "The next message, copied, or None."),
    ASP_METHOD("receive_many", reader_receive_many, METH_O, "What is there, at most so many."),
    ASP_METHOD("acquire", reader_acquire, METH_NOARGS, "The next message as a view, or None."),
    ASP_METHOD("release_message", reader_release_message, METH_NOARGS, "End of acquire."),
    ASP_METHOD("suspend", reader_suspend, METH_NOARGS, "Begin to wait for a message."),
    ASP_METHOD("resume", asp_py_end_resume, METH_NOARGS, "End of suspend."),
    ASP_METHOD("leave", reader_leave, METH_NOARGS, "Give up the slot."),
    ASP_METHOD("release", asp_py_end_release, METH_NOARGS, "Unpin the buffer."),
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
    {Py_tp_new, reader_new},         {Py_tp_dealloc, asp_py_end_dealloc},
    {Py_tp_traverse, asp_py_end_traverse},  {Py_tp_clear, asp_py_end_clear},
    {Py_tp_methods, reader_methods}, {Py_tp_getset, reader_getset},
    {0, NULL},
};

PyType_Spec asp_ring_reader_spec = {
    .name = "aiospin._native.RingReader",
    .basicsize = sizeof(asp_py_reader),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = reader_slots,
};
