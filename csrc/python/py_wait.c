/* py_wait.c - Wait: one wait at a time on a predicate, a change of bytes, or an end of a ring. */
#include "py_wait.h"

#include "atomics.h"
#include "clock.h"
#include "tally.h"
#include "wait.h"

/* A Wait is used by one thread at a time; the second is told, not raced with. */
bool asp_py_wait_enter(asp_py_wait *self) {
    if (asp_exchange_u32(&self->busy, 1)) {
        PyErr_SetString(PyExc_RuntimeError, "another thread is using this wait");
        return false;
    }
    if (!self->watch) {
        asp_store_release_u32(&self->busy, 0);
        PyErr_SetString(PyExc_RuntimeError, "this wait was released");
        return false;
    }
    return true;
}

void asp_py_wait_leave(asp_py_wait *self) { asp_store_release_u32(&self->busy, 0); /* pairs with asp_py_wait_enter */ }

static PyObject *wait_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"buffer", "program", "notified", NULL};
    PyObject *buffer, *program;
    int notified;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOp:Wait", names, &buffer, &program, &notified))
        return NULL;
    asp_module *module = PyType_GetModuleState(type);
    allocfunc allocate = PyType_GetSlot(type, Py_tp_alloc);
    asp_py_wait *self = (asp_py_wait *)allocate(type, 0);
    if (!self) return NULL;
    if (asp_pin(buffer, &self->pin, false) < 0) goto failed;
    asp_status status;
    char why[200] = "";
    if (program == Py_None) {
        self->is_change = true;
        status = asp_changed_init(&self->on.changed, self->pin.buf, (uint64_t)self->pin.len, notified);
        if (status == ASP_READY) self->watch = &self->on.changed.watch;
    } else {
        char *bytes;
        Py_ssize_t length;
        if (PyBytes_AsStringAndSize(program, &bytes, &length) < 0) goto unpin;
        status = asp_predicate_init(&self->on.predicate, (const uint8_t *)bytes, (size_t)length,
                                    self->pin.buf, (uint64_t)self->pin.len, notified, why, sizeof why);
        if (status == ASP_READY) self->watch = &self->on.predicate.watch;
    }
    if (status == ASP_READY) return (PyObject *)self;
    asp_raise(module, status, why);
unpin:
    asp_unpin(&self->pin);
failed:
    Py_DECREF((PyObject *)self);
    return NULL;
}

PyObject *asp_py_wait_on(asp_module *module, PyObject *owner, asp_watch *watch) {
    allocfunc allocate = PyType_GetSlot(module->wait_type, Py_tp_alloc);
    asp_py_wait *self = (asp_py_wait *)allocate(module->wait_type, 0);
    if (!self) return NULL;
    self->owner = Py_NewRef(owner);
    self->watch = watch;
    return (PyObject *)self;
}

void asp_py_wait_let_go(asp_py_wait *self) {
    if (!self->watch) return;
    self->watch = NULL;
    if (self->owner) {
        Py_CLEAR(self->owner);
    } else {
        if (self->is_change) asp_changed_free(&self->on.changed);
        asp_unpin(&self->pin);
    }
}

/* Is a waiter looking at it, so that the memory must stay? The package cancels first. */
static bool is_live(const asp_py_wait *self) { return self->ticket.state == ASP_TICKET_LIVE; }

bool asp_py_wait_try_release(asp_py_wait *self) {
    if (asp_exchange_u32(&self->busy, 1)) return false; /* pairs with asp_py_wait_leave */
    bool live = is_live(self);
    if (!live) asp_py_wait_let_go(self);
    asp_py_wait_leave(self);
    return !live;
}

static PyObject *wait_release(asp_py_wait *self, PyObject *unused) {
    (void)unused;
    if (asp_py_wait_try_release(self)) Py_RETURN_NONE;
    PyErr_SetString(PyExc_RuntimeError,
                    "this wait is submitted, or in use by another thread: cancel it before its release");
    return NULL;
}

/* Begin a method that looks. A submitted wait is the waiter's: another look would take a change from it. */
static bool enter_to_look(asp_py_wait *self) {
    if (!asp_py_wait_enter(self)) return false;
    if (!is_live(self)) return true;
    asp_py_wait_leave(self);
    PyErr_SetString(PyExc_RuntimeError, "this wait is submitted: cancel it first");
    return false;
}

static PyObject *wait_look(asp_py_wait *self, PyObject *unused) {
    (void)unused;
    if (!enter_to_look(self)) return NULL;
    bool ready = self->watch->look(self->watch);
    /* What its rehearsal found ended the last one, which was not told. */
    if (self->planned) asp_predict_outcome(self->watch->predict, ASP_PREDICT_FOUND, 0, 0, self->spun_ns);
    self->planned = false;
    ASP_COUNT(waits, 1);
    if (ready) ASP_COUNT(ready, 1);
    self->spun_ns = 0;
    self->caught = false;
    self->due_ns = 0;
    self->recheck_ns = 0;
    asp_py_wait_leave(self);
    return PyBool_FromLong(ready);
}

static PyObject *wait_spin(asp_py_wait *self, PyObject *const *args, Py_ssize_t count) {
    uint64_t budget_ns;
    if (!asp_arguments("spin", count, 2) || !asp_u64(args[0], &budget_ns)) return NULL;
    int hardware = PyObject_IsTrue(args[1]);
    if (hardware < 0 || !enter_to_look(self)) return NULL;
    bool ready;
    Py_BEGIN_ALLOW_THREADS
    uint64_t begun = asp_now_ns();
    if (self->due_ns) {
        if (self->planned) asp_predict_overslept(self->watch->predict, self->due_ns, begun);
        self->due_ns = 0;
    }
    ready = asp_spin(self->watch, asp_after(begun, budget_ns), hardware);
    const uint64_t ended = asp_now_ns();
    self->spun_ns += ended - begun;
    if (!ready) asp_step_back(&self->yield_ns, ended); /* a slice is too short for asp_spin to */
    Py_END_ALLOW_THREADS
    if (ready) {
        ASP_COUNT(spun, 1);
        self->caught = true;
    }
    asp_py_wait_leave(self);
    return PyBool_FromLong(ready);
}

/* What a pace that is over has spent, and how it ended. */
static void note_pace(asp_py_wait *self, const asp_pace *pace) {
    self->spun_ns += pace->spun_ns;
    self->caught = pace->spinning;
    self->due_ns = pace->due_ns;
    self->recheck_ns = pace->recheck_ns;
}

/* What a waiter has spent on it, once nobody else writes it down any more. */
static void note_ticket(asp_py_wait *self) {
    if (self->ticket.pace.predict && !is_live(self)) {
        note_pace(self, &self->ticket.pace);
        self->ticket.pace.predict = NULL;
    }
}

bool asp_py_wait_pace(asp_py_wait *self, PyObject *spin, uint64_t max_sleep_ns, bool hardware, asp_pace *pace) {
    uint64_t spin_ns;
    note_ticket(self);
    if (spin != Py_None) {
        if (!asp_u64(spin, &spin_ns)) return false;
        *pace = asp_pace_start(asp_now_ns(), spin_ns, max_sleep_ns, hardware);
    } else if (self->planned) {
        *pace = asp_pace_predicted(self->watch->predict, &self->price, max_sleep_ns, hardware);
        pace->due_ns = self->due_ns;
    } else {
        PyErr_SetString(PyExc_RuntimeError, "this wait has no plan: ask for one, or give it a time to spin");
        return false;
    }
    pace->recheck_ns = self->recheck_ns;
    return true;
}

static PyObject *wait_run(asp_py_wait *self, PyObject *const *args, Py_ssize_t count) {
    uint64_t deadline_ns, max_sleep_ns;
    if (!asp_arguments("run", count, 4) || !asp_u64(args[0], &deadline_ns) || !asp_u64(args[2], &max_sleep_ns))
        return NULL;
    int hardware = PyObject_IsTrue(args[3]);
    if (hardware < 0 || !enter_to_look(self)) return NULL;
    asp_pace pace;
    if (!asp_py_wait_pace(self, args[1], max_sleep_ns, hardware, &pace)) {
        asp_py_wait_leave(self);
        return NULL;
    }
    pace.rehearses = true;
    asp_status status;
    do {
        Py_BEGIN_ALLOW_THREADS
        status = asp_wait(self->watch, &pace, deadline_ns);
        Py_END_ALLOW_THREADS
        if (status == ASP_INTERRUPTED && PyErr_CheckSignals() < 0) {
            note_pace(self, &pace);
            asp_py_wait_leave(self);
            return NULL;
        }
    } while (status == ASP_INTERRUPTED);
    note_pace(self, &pace);
    asp_py_wait_leave(self);
    if (status == ASP_DUE) Py_RETURN_NONE;
    return PyBool_FromLong(status == ASP_READY);
}

static PyObject *wait_plan(asp_py_wait *self, PyObject *const *args, Py_ssize_t count) {
    uint32_t cpu_per_latency;
    uint64_t max_spin_ns;
    if (!asp_arguments("plan", count, 2) || !asp_u32(args[0], &cpu_per_latency) || !asp_u64(args[1], &max_spin_ns) ||
        !enter_to_look(self))
        return NULL;
    if (!self->watch->predict) {
        asp_py_wait_leave(self);
        PyErr_SetString(PyExc_RuntimeError, "nothing is learned of what this waits for");
        return NULL;
    }
    self->price = (asp_price){cpu_per_latency, max_spin_ns};
    self->planned = true;
    const uint64_t now = asp_now_ns();
    asp_plan plan = asp_predict_plan(self->watch->predict, now, &self->price);
    /* To the next woken(), if a park follows. */
    const bool measure = plan.spin_from_ns > now && asp_predict_wants_cpu(self->watch->predict);
    self->cpu_begun_ns = measure ? asp_thread_cpu_ns() : 0;
    asp_py_wait_leave(self);
    return Py_BuildValue("(KK)", (unsigned long long)plan.spin_from_ns, (unsigned long long)plan.spin_until_ns);
}

static PyObject *wait_woken(asp_py_wait *self, PyObject *argument) {
    uint64_t due_ns;
    if (!asp_u64(argument, &due_ns) || !enter_to_look(self)) return NULL;
    bool ready = self->watch->look(self->watch);
    self->caught = false;
    if (self->watch->predict) asp_predict_parked(self->watch->predict);
    if (self->cpu_begun_ns && self->watch->predict) {
        asp_predict_park_cpu(self->watch->predict, asp_left(asp_thread_cpu_ns(), self->cpu_begun_ns));
        self->cpu_begun_ns = 0;
    }
    ASP_COUNT(parks, 1);
    if (ready) ASP_COUNT(parked, 1);
    else if (!due_ns) ASP_COUNT(spurious, 1);
    else if (self->planned && due_ns != ASP_FOREVER) self->due_ns = due_ns;
    asp_py_wait_leave(self);
    return PyBool_FromLong(ready);
}

bool asp_py_wait_ended(asp_py_wait *self, bool ready, bool rehearsal) {
    if (!enter_to_look(self)) return false;
    note_ticket(self);
    asp_watch *watch = self->watch;
    if (rehearsal && self->planned) ready = watch->look(watch);
    /* It may be ready for another reason than a message, such as the end: then nothing was published. */
    uint64_t seen_ns = asp_now_ns(), published_ns = ready && self->planned ? watch->published(watch) : 0;
    if (self->planned && (published_ns || !rehearsal)) {
        asp_predict_outcome(watch->predict,
                            !published_ns  ? ASP_PREDICT_NOTHING
                            : self->caught ? ASP_PREDICT_SPUN
                                           : ASP_PREDICT_WOKEN,
                            published_ns, seen_ns, self->spun_ns);
        self->planned = false;
        if (published_ns && self->caught) ASP_COUNT(predicted, 1);
    }
    asp_py_wait_leave(self);
    return true;
}

static PyObject *wait_prediction(asp_py_wait *self, void *unused) {
    (void)unused;
    /* Not entered: somebody may be waiting on it for long, and is asked about here. Its owner, whom the caller has, keeps
     * the memory. */
    asp_predict_statistics found = {0};
    const asp_watch *watch = self->watch;
    if (watch && watch->predict) found = watch->predict->statistics;
    return Py_BuildValue("(KKKKK)", (unsigned long long)found.predicted, (unsigned long long)found.early,
                         (unsigned long long)found.late, (unsigned long long)found.spun_caught_ns,
                         (unsigned long long)found.spun_lost_ns);
}

static PyObject *wait_predicts(asp_py_wait *self, void *unused) {
    (void)unused;
    return PyBool_FromLong(self->watch && self->watch->predict);
}

static PyObject *wait_value(asp_py_wait *self, void *unused) {
    (void)unused;
    if (self->owner || self->is_change || !self->watch) Py_RETURN_NONE;
    asp_value value = self->on.predicate.value;
    switch (value.kind) {
    case ASP_SIGNED: return PyLong_FromLongLong(value.as.i);
    case ASP_FLOAT: return PyFloat_FromDouble(value.as.f);
    case ASP_BOOL: return PyBool_FromLong(value.as.u != 0);
    default: return PyLong_FromUnsignedLongLong(value.as.u);
    }
}

static int wait_traverse(asp_py_wait *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->owner);
    Py_VISIT(self->pin.obj);
    return 0;
}

static int wait_clear(asp_py_wait *self) {
    asp_py_wait_let_go(self); /* a submitted wait is referenced by its waiter and never comes here */
    return 0;
}

static void wait_dealloc(asp_py_wait *self) {
    PyObject_GC_UnTrack((PyObject *)self);
    asp_py_wait_let_go(self);
    asp_free_object((PyObject *)self);
}

static PyMethodDef wait_methods[] = {
    ASP_METHOD("look", wait_look, METH_NOARGS, "The first look of a wait."),
    ASP_METHOD("spin", wait_spin, METH_FASTCALL, "Spin without the GIL for at most so many ns."),
    ASP_METHOD("run", wait_run, METH_FASTCALL, "Wait in this thread; False: the deadline passed; None: rehearse."),
    ASP_METHOD("plan", wait_plan, METH_FASTCALL, "When to spin: from, until."),
    ASP_METHOD("woken", wait_woken, METH_O, "The look after a park on a bell."),
    ASP_METHOD("release", wait_release, METH_NOARGS, "Unpin the buffer."),
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef wait_getset[] = {
    {"predicts", (getter)wait_predicts, NULL, "Whether it learns when it turns ready.", NULL},
    {"prediction", (getter)wait_prediction, NULL, "predicted, early, late, spun_caught_ns, spun_lost_ns.", NULL},
    {"value", (getter)wait_value, NULL, "What the last successful look observed.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot wait_slots[] = {
    {Py_tp_new, wait_new},           {Py_tp_dealloc, wait_dealloc},
    {Py_tp_traverse, wait_traverse}, {Py_tp_clear, wait_clear},
    {Py_tp_methods, wait_methods},   {Py_tp_getset, wait_getset},
    {0, NULL},
};

PyType_Spec asp_wait_spec = {
    .name = "aiospin._native.Wait",
    .basicsize = sizeof(asp_py_wait),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = wait_slots,
};
