/* py_ring_reader.c - RingReader: a reading end of a broadcast ring. */
#include "py_ring.h"

#include "ring.h"

typedef struct asp_py_reader {
    asp_py_end end;
    asp_ring_reader ring;
    PyObject *large;   /* opens the files of large messages, and removes those that all are past; or NULL */
    PyObject *error;   /* raised when a message had been taken already: the next call raises it */
    uint64_t skipped;  /* a lag found in the middle of a batch, to be reported by the next call */
    asp_format format; /* of the message last taken or acquired */
    bool opening;      /* Python code opens the file of the next message */
    bool holds_large;  /* the acquired message is in a file of its own */
    bool holds_copy;   /* drop_oldest: the acquired message is a private copy, or a file */
    bool lent;         /* the next receive or acquire releases the acquired message */
} asp_py_reader;

static const char RECEIVING[] = "receiving from"; /* in the words of BusyResourceError */

static PyObject *reader_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"buffer", "slot", "pid", "large", NULL};
    PyObject *buffer, *slot_object, *pid_object, *large = Py_None;
    uint32_t slot, pid;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO|O:RingReader", names, &buffer, &slot_object, &pid_object,
                                     &large) ||
        !asp_u32(slot_object, &slot) || !asp_u32(pid_object, &pid))
        return NULL;
    allocfunc allocate = PyType_GetSlot(type, Py_tp_alloc);
    asp_py_reader *self = (asp_py_reader *)allocate(type, 0);
    if (!self) return NULL;
    asp_ring ring;
    if (asp_py_end_open(&self->end, buffer, &ring, true)) {
        asp_status status = asp_ring_join(&self->ring, &ring, slot, pid);
        if (status == ASP_READY) {
            if (large != Py_None) self->large = Py_NewRef(large);
            return (PyObject *)self;
        }
        asp_raise(PyType_GetModuleState(type), status,
                  status == ASP_E_INVALID ? "there is no such slot" : "the ring's head is none that a writer leaves behind");
    }
    Py_DECREF((PyObject *)self);
    return NULL;
}

static int reader_traverse(asp_py_reader *self, visitproc visit, void *arg) {
    Py_VISIT(self->large);
    Py_VISIT(self->error);
    return asp_py_end_traverse(&self->end, visit, arg);
}

static int reader_clear(asp_py_reader *self) {
    Py_CLEAR(self->large);
    Py_CLEAR(self->error);
    return asp_py_end_clear(&self->end);
}

static void reader_dealloc(asp_py_reader *self) {
    PyObject_GC_UnTrack((PyObject *)self);
    Py_CLEAR(self->large);
    Py_CLEAR(self->error);
    asp_py_end_dealloc(&self->end);
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

/* ---- large messages ---- */

/* Keep the exception that is set for the next call. */
static void set_aside(asp_py_reader *self) {
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback) PyException_SetTraceback(value, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    Py_XDECREF(self->error);
    self->error = value;
}

/* Maybe since this thread stepped out: then the segment may be unmapped, and the slot another reader's. */
static bool is_closed(const asp_py_reader *self) { return !(self->end.open && self->ring.joined); }

/* The bytes of the file or a view of it; None: it is gone. Others may come in meanwhile, even to leave. */
static PyObject *open_large(asp_py_reader *self, const asp_ring_message *message, bool copy) {
    if (!self->large) {
        PyErr_SetString(PyExc_ValueError, "a large message came, and this end was made without a way to open it");
        return NULL;
    }
    self->opening = true;
    asp_py_end_step_out(&self->end);
    PyObject *opened = PyObject_CallMethod(self->large, "open", "KKKO", (unsigned long long)message->sequence,
                                           (unsigned long long)message->position,
                                           (unsigned long long)message->length, copy ? Py_True : Py_False);
    asp_py_end_step_in(&self->end);
    self->opening = false;
    if (opened && is_closed(self)) {
        Py_CLEAR(opened);
        asp_py_end_step_out(&self->end);
        asp_raise_closed(asp_module_of((PyObject *)self));
        asp_py_end_step_in(&self->end);
    }
    return opened;
}

/* The cursor went past a large message: whoever finds that it was the last removes the file. Afterwards the reader
 * may be closed. */
static void passed_large(asp_py_reader *self) {
    uint64_t oldest = asp_ring_oldest(&self->ring.ring);
    self->opening = true;
    asp_py_end_step_out(&self->end);
    PyObject *done = PyObject_CallMethod(self->large, "passed", "K", (unsigned long long)oldest);
    asp_py_end_step_in(&self->end);
    self->opening = false;
    if (done) Py_DECREF(done);
    else set_aside(self); /* the message is taken, and goes to the caller */
}

/* ---- receiving ---- */

static void release_held(asp_py_reader *self) {
    bool large = self->holds_large;
    self->lent = self->holds_large = false;
    if (self->holds_copy) {
        self->holds_copy = false;
    } else {
        asp_ring_release(&self->ring);
        if (large) passed_large(self);
    }
}

/* What enter_reader() does not find in a reader that simply goes on. */
static bool enter_after_all(asp_py_reader *self) {
    asp_module *module = asp_module_of((PyObject *)self);
    if (self->lent) release_held(self);
    if (is_closed(self)) return false;
    if (self->opening || self->holds_copy) {
        asp_raise(module, ASP_BUSY, RECEIVING);
    } else if (self->error) {
        PyErr_SetObject((PyObject *)Py_TYPE(self->error), self->error);
        Py_CLEAR(self->error);
    } else if (self->skipped) {
        raise_lagged(self, self->skipped);
        self->skipped = 0;
    } else {
        return true;
    }
    return false;
}

/* Begin to receive; the ring itself sees to a message that is acquired in it. */
static bool enter_reader(asp_py_reader *self) {
    if (!asp_py_end_enter(&self->end, RECEIVING)) return false;
    const bool joined = self->ring.joined;
    const bool goes_on = joined && !self->opening && !self->holds_copy && !self->lent && !self->error && !self->skipped;
    if (goes_on || (joined && enter_after_all(self))) return true;
    const bool closed = is_closed(self);
    asp_py_end_leave(&self->end);
    if (closed) asp_raise_closed(asp_module_of((PyObject *)self));
    return false;
}

/* Block mode: acquire the next message, as bytes or as a view of it where it lies. NULL without an exception
 * when *status says why; nothing is acquired then. */
static PyObject *acquire_in_place(asp_py_reader *self, bool copy, asp_status *status) {
    const void *payload;
    asp_ring_message message;
    PyObject *got;
    *status = asp_ring_acquire(&self->ring, &payload, &message);
    if (*status != ASP_READY) return NULL;
    if (message.large) got = open_large(self, &message, copy);
    else if (copy) got = PyBytes_FromStringAndSize(payload, (Py_ssize_t)message.length);
    else got = asp_py_end_message(&self->end, payload, message.length);
    if (got == Py_None) {
        Py_DECREF(got);
        got = NULL;
        *status = ASP_E_LAYOUT;
    }
    if (got) {
        self->format = message.format;
        self->holds_large = message.large;
    } else {
        self->ring.acquired = 0; /* it is still the next one */
    }
    return got;
}

/* The same for drop_oldest mode, and past it: as bytes in either case when it lies in the ring. At the end of the
 * batch too, if there is one: memory and place first, so that running out of either loses nothing. */
static PyObject *take_copy(asp_py_reader *self, bool copy, PyObject *batch, asp_status *status) {
    asp_ring_message message;
    uint64_t gone = UINT64_MAX; /* position of a message whose file was not there */
    while ((*status = asp_ring_peek(&self->ring, &message)) == ASP_READY) {
        uint32_t copied;
        PyObject *got;
        if (message.position == gone) { /* and the writer has not gone past it either */
            *status = ASP_E_LAYOUT;
            return NULL;
        }
        if (message.large) got = open_large(self, &message, copy);
        else got = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)message.length);
        if (!got) return NULL;
        if (got == Py_None) {
            Py_DECREF(got);
            gone = message.position;
            continue;
        }
        if (batch && PyList_Append(batch, got) < 0) {
            Py_DECREF(got);
            return NULL;
        }
        if (message.large) asp_ring_pass(&self->ring);
        else *status = asp_ring_copy(&self->ring, PyBytes_AsString(got), message.length, &copied);
        if (*status == ASP_READY) {
            self->format = message.format;
            if (message.large) passed_large(self);
            return got;
        }
        Py_DECREF(got);
        if (batch && PyList_SetSlice(batch, PyList_Size(batch) - 1, PyList_Size(batch), NULL) < 0) return NULL;
        if (*status != ASP_E_TOO_LARGE) break; /* else another one has taken its place */
    }
    return NULL;
}

/* The next message as bytes, and past it. */
static PyObject *take_next(asp_py_reader *self, PyObject *batch, asp_status *status) {
    if (self->ring.ring.overflow == ASP_OVERFLOW_DROP_OLDEST) return take_copy(self, true, batch, status);
    PyObject *bytes = acquire_in_place(self, true, status);
    if (bytes && batch && PyList_Append(batch, bytes) < 0) {
        self->ring.acquired = 0;
        Py_DECREF(bytes);
        return NULL;
    }
    if (bytes) release_held(self);
    return bytes;
}

static PyObject *reader_receive(asp_py_reader *self, PyObject *unused) {
    (void)unused;
    if (!enter_reader(self)) return NULL;
    asp_status status;
    PyObject *bytes = take_next(self, NULL, &status);
    asp_py_end_leave(&self->end);
    if (bytes || PyErr_Occurred()) return bytes;
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
    uint64_t count = 0;
    /* What passed_large() set aside ends the batch: there is room for one. */
    while (count < most && !self->error && !is_closed(self)) {
        PyObject *bytes = take_next(self, list, &status);
        if (!bytes) break;
        Py_DECREF(bytes); /* the list has it */
        count++;
    }
    /* What ended the batch is for the next call to find again, but what Python code raised, and a lag, is told
     * only once. */
    if (count && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_MemoryError)) PyErr_Clear();
        else set_aside(self);
    }
    if (count && status == ASP_LAGGED) self->skipped = self->ring.skipped;
    asp_py_end_leave(&self->end);
    if (count || !most || (status == ASP_WOULD_BLOCK && !PyErr_Occurred())) return list;
    Py_DECREF(list);
    return PyErr_Occurred() ? NULL : cannot_read(self, status);
}

static PyObject *reader_peek(asp_py_reader *self, PyObject *unused) {
    (void)unused;
    if (!enter_reader(self)) return NULL;
    asp_ring_message message;
    asp_status status = asp_ring_peek(&self->ring, &message);
    asp_py_end_leave(&self->end);
    if (status == ASP_READY) return PyLong_FromLong(message.format);
    if (status == ASP_WOULD_BLOCK) Py_RETURN_NONE;
    return cannot_read(self, status);
}

static PyObject *reader_acquire(asp_py_reader *self, PyObject *unused) {
    (void)unused;
    if (!enter_reader(self)) return NULL;
    asp_status status;
    PyObject *view;
    if (self->ring.ring.overflow == ASP_OVERFLOW_DROP_OLDEST) {
        PyObject *got = take_copy(self, false, NULL, &status);
        view = got ? PyMemoryView_FromObject(got) : NULL;
        Py_XDECREF(got);
        self->holds_copy = view != NULL;
    } else {
        view = acquire_in_place(self, false, &status);
    }
    asp_py_end_leave(&self->end);
    if (view || PyErr_Occurred()) return view;
    if (status == ASP_WOULD_BLOCK) Py_RETURN_NONE;
    return cannot_read(self, status);
}

static PyObject *reader_release_message(asp_py_reader *self, PyObject *unused) {
    (void)unused;
    if (!asp_py_end_enter(&self->end, NULL)) return NULL;
    release_held(self);
    asp_py_end_leave(&self->end);
    Py_RETURN_NONE;
}

static PyObject *reader_lend(asp_py_reader *self, PyObject *unused) {
    (void)unused;
    if (!asp_py_end_enter(&self->end, NULL)) return NULL;
    self->lent = true;
    asp_py_end_leave(&self->end);
    Py_RETURN_NONE;
}

static PyObject *reader_forget(asp_py_reader *self, PyObject *unused) {
    (void)unused;
    return asp_py_end_forget(&self->end);
}

/* ---- the doorbell ---- */

static PyObject *reader_bell_request(asp_py_reader *self, PyObject *unused) {
    (void)unused;
    if (!asp_py_end_enter(&self->end, NULL)) return NULL;
    asp_ring_bell_request(&self->ring);
    asp_py_end_leave(&self->end);
    Py_RETURN_NONE;
}

static PyObject *reader_bell(asp_py_reader *self, PyObject *unused) {
    (void)unused;
    if (!asp_py_end_enter(&self->end, NULL)) return NULL;
    asp_bell bell = asp_ring_bell(&self->ring);
    asp_py_end_leave(&self->end);
    return PyLong_FromLong((long)bell);
}

static PyObject *reader_bell_park(asp_py_reader *self, PyObject *unused) {
    (void)unused;
    if (!asp_py_end_enter(&self->end, NULL)) return NULL;
    bool parked = asp_ring_bell_park(&self->ring);
    asp_py_end_leave(&self->end);
    return PyBool_FromLong(parked);
}

static PyObject *reader_bell_unpark(asp_py_reader *self, PyObject *unused) {
    (void)unused;
    if (!asp_py_end_enter(&self->end, NULL)) return NULL;
    bool unparked = asp_ring_bell_unpark(&self->ring);
    asp_py_end_leave(&self->end);
    return PyBool_FromLong(unparked);
}

static PyObject *reader_guard(asp_py_reader *self, PyObject *lock_fd) {
    return asp_py_end_guard(&self->ring.ring, lock_fd);
}

static PyObject *reader_suspend(asp_py_reader *self, PyObject *unused) {
    (void)unused;
    return asp_py_end_suspend(&self->end, RECEIVING);
}

static PyObject *reader_leave(asp_py_reader *self, PyObject *unused) {
    (void)unused;
    if (!asp_py_end_enter(&self->end, NULL)) return NULL;
    asp_ring_leave(&self->ring);
    self->holds_large = self->holds_copy = self->lent = false;
    asp_py_end_leave(&self->end);
    Py_RETURN_NONE;
}

static PyObject *reader_release(asp_py_reader *self, PyObject *unused) {
    (void)unused;
    if (!asp_py_end_close(&self->end)) return NULL;
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

NUMBER(reader, id, self->ring.ring.id)
NUMBER(reader, format, self->format)

/* These read the segment, which must stay meanwhile. */
static PyObject *reader_lag(asp_py_reader *self, void *unused) {
    (void)unused;
    if (!asp_py_end_enter(&self->end, NULL)) return NULL;
    uint64_t lag = asp_ring_lag(&self->ring);
    asp_py_end_leave(&self->end);
    return PyLong_FromUnsignedLongLong(lag);
}

static PyObject *reader_oldest(asp_py_reader *self, void *unused) {
    (void)unused;
    if (!asp_py_end_enter(&self->end, NULL)) return NULL;
    uint64_t oldest = asp_ring_oldest(&self->ring.ring);
    asp_py_end_leave(&self->end);
    return PyLong_FromUnsignedLongLong(oldest);
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
    ASP_METHOD("peek", reader_peek, METH_NOARGS, "The format of the next message, or None."),
    ASP_METHOD("acquire", reader_acquire, METH_NOARGS, "The next message as a view, or None."),
    ASP_METHOD("release_message", reader_release_message, METH_NOARGS, "End of acquire."),
    ASP_METHOD("lend", reader_lend, METH_NOARGS, "Have the next receive or acquire release what is acquired."),
    ASP_METHOD("bell_request", reader_bell_request, METH_NOARGS, "Ask the writer to open the FIFO."),
    ASP_METHOD("bell", reader_bell, METH_NOARGS, "Where the doorbell stands, asp_bell."),
    ASP_METHOD("bell_park", reader_bell_park, METH_NOARGS, "Park on the bell; False: not now."),
    ASP_METHOD("bell_unpark", reader_bell_unpark, METH_NOARGS, "No longer parked; False: it was rung."),
    ASP_METHOD("forget", reader_forget, METH_NOARGS, "release(), in the child of a fork."),
    ASP_METHOD("guard", reader_guard, METH_O, "Have waits ask who lives, with this descriptor; None: no more."),
    ASP_METHOD("suspend", reader_suspend, METH_NOARGS, "Begin to wait for a message."),
    ASP_METHOD("resume", asp_py_end_resume, METH_O, "End of suspend; learns from the wait."),
    ASP_METHOD("leave", reader_leave, METH_NOARGS, "Give up the slot."),
    ASP_METHOD("release", reader_release, METH_NOARGS, "Unpin the buffer."),
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef reader_getset[] = {
    GETTER(reader, capacity, "Bytes of the record area."),
    GETTER(reader, max_message, "Bytes of the largest message in the ring."),
    GETTER(reader, overflow, "0: block, 1: drop_oldest."),
    GETTER(reader, slot, "The slot that this reader holds."),
    GETTER(reader, lag, "Messages published and not yet received."),
    GETTER(reader, sequence, "Number of the next message."),
    GETTER(reader, published_ns, "When the last message was published, CLOCK_MONOTONIC ns."),
    GETTER(reader, id, "Of this segment."),
    GETTER(reader, format, "Of the message last received or acquired."),
    GETTER(reader, oldest, "Where the slowest reader is; 2**64 - 1: there is none."),
    GETTER(reader, writer_pid, "Process id that the writer gave."),
    {"suspended", (getter)asp_py_end_suspended, NULL, "A caller waits: between suspend and resume.", NULL},
    GETTER(reader, wait, "Ready when there is something to receive."),
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot reader_slots[] = {
    {Py_tp_new, reader_new},         {Py_tp_dealloc, reader_dealloc},
    {Py_tp_traverse, reader_traverse}, {Py_tp_clear, reader_clear},
    {Py_tp_methods, reader_methods}, {Py_tp_getset, reader_getset},
    {0, NULL},
};

PyType_Spec asp_ring_reader_spec = {
    .name = "aiospin._native.RingReader",
    .basicsize = sizeof(asp_py_reader),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = reader_slots,
};
