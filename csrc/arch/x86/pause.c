/* pause.c - PAUSE: every x86-64 CPU has it, none sleeps in it. It frees the core's other thread
 * for 10 to 140 cycles and spares the memory-order mis-speculation at the end of a spin. */
#include "arch.h"

#if defined(__x86_64__)

#include <x86intrin.h>

#include "x86.h"

static inline void pause_once(void) {
    _mm_pause();
}

void asp_x86_pause(uint64_t slice_ns) {
    asp_relax(slice_ns, pause_once);
}

const asp_backend asp_backend_pause = {
    .monitor = {.name = "pause", .pause = asp_x86_pause},
};

#endif
