/* py_word.c - Word: atomic operations on one element of a buffer.
 *
 * The buffer is pinned during each operation only, so that whoever holds a Flag does not keep its shared
 * memory from being closed. */
#include "module.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "futex.h"
#include "predicate.h"
#include "tally.h"
#include "word.h"

typedef struct asp_py_word {
    PyObject_HEAD
    PyObject *buffer;
    uint64_t offset; /* bytes */
    asp_kind kind;
    uint8_t width;
    bool swapped;
} asp_py_word;

static const char *dtype_name(const asp_py_word *self, char name[16]) {
    static const char *const names[] = {"uint", "int", "float"};
    if (self->kind == ASP_BOOL) return "bool";
    snprintf(name, 16, "%s%d", names[self->kind], 8 * self->width);
    return name;
}

/* Pin and find the element. NULL with an exception set. */
static void *reach(asp_py_word *self, Py_buffer *pin, bool writable) {
    if (asp_pin(self->buffer, pin, false) < 0) return NULL;
    uint64_t bytes = (uint64_t)pin->len;
    bool inside = self->offset <= bytes && bytes - self->offset >= self->width;
    void *address = inside ? (char *)pin->buf + self->offset : NULL;
    if (writable && pin->readonly) {
        PyErr_SetString(PyExc_TypeError, "the buffer is read-only: only load, wait and notify work on it");
    } else if (!inside) {
        PyErr_Format(PyExc_ValueError, "the buffer is too short: it has %llu bytes, and the word is %d bytes at offset %llu",
                     (unsigned long long)bytes, self->width, (unsigned long long)self->offset);
    } else if ((uintptr_t)address % self->width) {
        PyErr_Format(PyExc_ValueError,
                     "the element at offset %llu is unaligned: its address %p is no multiple of its "
                     "width %d, so it cannot be accessed atomically",
                     (unsigned long long)self->offset, address, self->width);
    } else {
        return address;
    }
    asp_unpin(pin);
    return NULL;
}

static PyObject *to_python(const asp_py_word *self, uint64_t bits) {
    asp_value value = asp_value_decode(bits, self->kind, self->width, self->swapped);
    switch (self->kind) {
    case ASP_SIGNED: return PyLong_FromLongLong(value.as.i);
    case ASP_FLOAT: return PyFloat_FromDouble(value.as.f);
    case ASP_BOOL: return PyBool_FromLong(value.as.u != 0);
    default: return PyLong_FromUnsignedLongLong(value.as.u);
    }
}

static uint64_t in_order(const asp_py_word *self, uint64_t bits) {
    return self->swapped ? __builtin_bswap64(bits) >> (64 - 8 * self->width) : bits;
}

/* The bits of a double as the element's float; false when a finite one does not fit. */
static bool float_bits(const asp_py_word *self, double number, uint64_t *bits) {
    if (self->width == 8) {
        memcpy(bits, &number, 8);
    } else if (self->width == 4) {
        float single = (float)number;
        uint32_t narrow;
        memcpy(&narrow, &single, 4);
        *bits = narrow;
        if (isinf(single) && !isinf(number)) return false;
    } else {
        *bits = asp_encode_half(number);
        if ((*bits & 0x7fff) == 0x7c00 && !isinf(number)) return false;
    }
    return true;
}

static bool from_python(const asp_py_word *self, PyObject *object, uint64_t *bits) {
    char name[16];
    bool fits;
    if (self->kind == ASP_FLOAT) {
        double number = PyFloat_AsDouble(object);
        bool failed = number == -1.0 && PyErr_Occurred();
        if (failed && !PyErr_ExceptionMatches(PyExc_OverflowError)) return false;
        if (failed) PyErr_Clear(); /* an integer beyond all floats; said better below */
        fits = !failed && float_bits(self, number, bits);
    } else {
        PyObject *integer = PyNumber_Index(object);
        if (!integer) return false;
        unsigned unused = 64u - 8u * self->width;
        if (self->kind == ASP_SIGNED) {
            int overflow;
            long long value = PyLong_AsLongLongAndOverflow(integer, &overflow);
            fits = !overflow && (long long)((uint64_t)value << unused) >> unused == value;
            *bits = (uint64_t)value << unused >> unused;
        } else {
            uint64_t most = self->kind == ASP_BOOL ? 1 : UINT64_MAX >> unused;
            *bits = PyLong_AsUnsignedLongLong(integer);
            bool failed = *bits == UINT64_MAX && PyErr_Occurred();
            if (failed) PyErr_Clear(); /* OverflowError: negative or too large; said better below */
            fits = !failed && *bits <= most;
        }
        Py_DECREF(integer);
    }
    if (!fits) PyErr_Format(PyExc_ValueError, "%R does not fit %s", object, dtype_name(self, name));
    *bits = in_order(self, *bits);
    return fits;
}

static PyObject *word_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"buffer", "offset", "width", "kind", "swapped", NULL};
    PyObject *buffer, *offset_object;
    uint64_t offset;
    int width, swapped;
    const char *kind;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOisp:Word", names, &buffer, &offset_object, &width, &kind,
                                     &swapped) ||
        !asp_u64(offset_object, &offset))
        return NULL;
    const char *found = kind[0] && !kind[1] ? strchr("uif?", kind[0]) : NULL;
    if (!found || !(width == 1 || width == 2 || width == 4 || width == 8) || (*found == 'f' && width == 1)) {
        PyErr_SetString(PyExc_ValueError, "kind is one of u i f ?, width one of 1 2 4 8, a float's not 1");
        return NULL;
    }
    allocfunc allocate = PyType_GetSlot(type, Py_tp_alloc);
    asp_py_word *self = (asp_py_word *)allocate(type, 0);
    if (!self) return NULL;
    self->buffer = Py_NewRef(buffer);
    self->offset = offset;
    self->kind = (asp_kind)(found - "uif?");
    self->width = (uint8_t)width;
    self->swapped = swapped;
    Py_buffer pin;
    if (!reach(self, &pin, false)) {
        Py_DECREF((PyObject *)self);
        return NULL;
    }
    asp_unpin(&pin);
    return (PyObject *)self;
}

static PyObject *word_load(asp_py_word *self, PyObject *unused) {
    (void)unused;
    Py_buffer pin;
    void *address = reach(self, &pin, false);
    if (!address) return NULL;
    uint64_t bits = asp_load_bits(address, self->width);
    asp_unpin(&pin);
    return to_python(self, bits);
}

static PyObject *word_store(asp_py_word *self, PyObject *value) {
    uint64_t bits;
    Py_buffer pin;
    if (!from_python(self, value, &bits)) return NULL;
    void *address = reach(self, &pin, true);
    if (!address) return NULL;
    asp_store_bits(address, self->width, bits);
    asp_unpin(&pin);
    Py_RETURN_NONE;
}

static PyObject *word_exchange(asp_py_word *self, PyObject *value) {
    uint64_t bits;
    Py_buffer pin;
    if (!from_python(self, value, &bits)) return NULL;
    void *address = reach(self, &pin, true);
    if (!address) return NULL;
    bits = asp_exchange_bits(address, self->width, bits);
    asp_unpin(&pin);
    return to_python(self, bits);
}

static PyObject *word_compare_exchange(asp_py_word *self, PyObject *const *args, Py_ssize_t count) {
    uint64_t expected, desired;
    Py_buffer pin;
    if (!asp_arguments("compare_exchange", count, 2) || !from_python(self, args[0], &expected) ||
        !from_python(self, args[1], &desired))
        return NULL;
    void *address = reach(self, &pin, true);
    if (!address) return NULL;
    bool swapped = asp_compare_exchange_bits(address, self->width, &expected, desired);
    asp_unpin(&pin);
    return PyBool_FromLong(swapped);
}

/* The sum, wrapped around like the machine's own; floats add in double and round once. */
static uint64_t sum_of(const asp_py_word *self, uint64_t seen, uint64_t integer, double number) {
    asp_value value = asp_value_decode(seen, self->kind, self->width, self->swapped);
    uint64_t bits;
    if (self->kind == ASP_FLOAT) float_bits(self, value.as.f + number, &bits);
    else bits = (value.as.u + integer) & UINT64_MAX >> (64 - 8 * self->width);
    return in_order(self, bits);
}

static PyObject *word_add(asp_py_word *self, PyObject *n) {
    uint64_t integer = 0;
    double number = 0;
    if (self->kind == ASP_BOOL) {
        PyErr_SetString(PyExc_TypeError, "a bool word cannot be added to: use exchange");
        return NULL;
    } else if (self->kind == ASP_FLOAT) {
        uint64_t unused;
        asp_py_word wide = *self;
        wide.width = 8;
        wide.swapped = false;
        if (!from_python(&wide, n, &unused)) return NULL;
        memcpy(&number, &unused, sizeof number);
    } else {
        PyObject *index = PyNumber_Index(n);
        if (!index) return NULL;
        integer = PyLong_AsUnsignedLongLongMask(index); /* modulo 2^64, as the sum is */
        Py_DECREF(index);
        if (integer == UINT64_MAX && PyErr_Occurred()) return NULL;
    }
    Py_buffer pin;
    void *address = reach(self, &pin, true);
    if (!address) return NULL;
    uint64_t seen = asp_load_bits(address, self->width);
    while (!asp_compare_exchange_bits(address, self->width, &seen, sum_of(self, seen, integer, number))) {
    }
    asp_unpin(&pin);
    return to_python(self, seen);
}

static PyObject *word_notify(asp_py_word *self, PyObject *unused) {
    (void)unused;
    Py_buffer pin;
    void *address = reach(self, &pin, false);
    if (!address) return NULL;
    asp_futex_word words[2];
    unsigned count = asp_words_over(address, self->width, words, 2);
    /* A waiter sleeps on every word of the element, so a knock at the first is enough. */
    if (count) asp_futex_wake(words[0].word);
    ASP_COUNT(notifies, 1);
    asp_unpin(&pin);
    Py_RETURN_NONE;
}

static int word_traverse(asp_py_word *self, visitproc visit, void *arg) {
    Py_VISIT(Py_TYPE((PyObject *)self));
    Py_VISIT(self->buffer);
    return 0;
}

static int word_clear(asp_py_word *self) {
    Py_CLEAR(self->buffer);
    return 0;
}

static void word_dealloc(asp_py_word *self) {
    PyObject_GC_UnTrack((PyObject *)self);
    Py_CLEAR(self->buffer);
    asp_free_object((PyObject *)self);
}

static PyMethodDef word_methods[] = {
    ASP_METHOD("load", word_load, METH_NOARGS, "The value; acquire."),
    ASP_METHOD("store", word_store, METH_O, "Set the value; release."),
    ASP_METHOD("add", word_add, METH_O, "Add and return what was there before."),
    ASP_METHOD("exchange", word_exchange, METH_O, "Set and return what was there before."),
    ASP_METHOD("compare_exchange", word_compare_exchange, METH_FASTCALL, "Set if it still is expected."),
    ASP_METHOD("notify", word_notify, METH_NOARGS, "Wake who waits for this word, in any process."),
    {NULL, NULL, 0, NULL},
};

static PyType_Slot word_slots[] = {
    {Py_tp_new, word_new},           {Py_tp_dealloc, word_dealloc}, {Py_tp_traverse, word_traverse},
    {Py_tp_clear, word_clear},       {Py_tp_methods, word_methods}, {0, NULL},
};

PyType_Spec asp_word_spec = {
    .name = "aiospin._native.Word",
    .basicsize = sizeof(asp_py_word),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = word_slots,
};
