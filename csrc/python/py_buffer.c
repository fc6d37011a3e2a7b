/* py_buffer.c - pinning: as long as a buffer is pinned its memory neither moves nor goes away. */
#include "module.h"

#include "tally.h"

int asp_pin(PyObject *object, Py_buffer *pin, bool writable) {
    if (!PyObject_CheckBuffer(object)) {
        PyErr_Format(PyExc_TypeError,
                     "a buffer is needed (SharedMemory.buf, mmap, bytearray, a NumPy array ...), not %R",
                     (PyObject *)Py_TYPE(object));
        return -1;
    }
    /* PyBUF_SIMPLE would make NumPy and memoryview refuse what is contiguous but has a shape. */
    if (PyObject_GetBuffer(object, pin, writable ? PyBUF_ND | PyBUF_WRITABLE : PyBUF_ND) < 0) {
        return -1;
    }
    ASP_COUNT(pinned_buffers, 1);
    return 0;
}

void asp_unpin(Py_buffer *pin) {
    ASP_UNCOUNT(pinned_buffers, 1);
    PyBuffer_Release(pin);
}
