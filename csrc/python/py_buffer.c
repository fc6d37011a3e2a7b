/* py_buffer.c - pinning: as long as a buffer is pinned its memory neither moves nor goes away. */
#include "module.h"

#include "tally.h"

/* With an exception set, which stays: is a failed request to be blamed on something else than gaps? */
static bool is_contiguous(PyObject *object) {
    PyObject *type, *value, *traceback;
    Py_buffer strided;
    PyErr_Fetch(&type, &value, &traceback);
    bool contiguous = true;
    if (PyObject_GetBuffer(object, &strided, PyBUF_STRIDES) == 0) {
        contiguous = PyBuffer_IsContiguous(&strided, 'C');
        PyBuffer_Release(&strided);
    }
    PyErr_Restore(type, value, traceback);
    return contiguous;
}

int asp_get_buffer(PyObject *object, Py_buffer *pin, bool writable) {
    if (!PyObject_CheckBuffer(object)) {
        PyErr_Format(PyExc_TypeError,
                     "a buffer is needed (SharedMemory.buf, mmap, bytearray, a NumPy array ...), not %R",
                     (PyObject *)Py_TYPE(object));
        return -1;
    }
    /* PyBUF_SIMPLE would make NumPy and memoryview refuse what is contiguous but has a shape. */
    if (PyObject_GetBuffer(object, pin, writable ? PyBUF_ND | PyBUF_WRITABLE : PyBUF_ND) < 0) {
        /* Exporters have words of their own for a buffer with gaps, NumPy even its own type of error. */
        if (is_contiguous(object)) return -1;
        PyErr_SetString(PyExc_BufferError,
                        "the buffer is not C-contiguous: pass a slice without a step, or a contiguous copy "
                        "(numpy.ascontiguousarray)");
        return -1;
    }
    return 0;
}

int asp_pin(PyObject *object, Py_buffer *pin, bool writable) {
    int failed = asp_get_buffer(object, pin, writable);
    if (!failed) ASP_COUNT(pinned_buffers, 1);
    return failed;
}

void asp_unpin(Py_buffer *pin) {
    ASP_UNCOUNT(pinned_buffers, 1);
    PyBuffer_Release(pin);
}
