/* pause.c - ISB and YIELD, the instructions that pass time without sleeping.
 *
 * YIELD is a no-op on every core without hardware threads, that is nearly all; ISB empties the
 * pipeline and so costs tens of nanoseconds, which is what a spin loop wants of a pause. */
#include "arch.h"

#if defined(__aarch64__)

#include "aarch64.h"

static inline void isb_once(void) {
    __asm__ volatile("isb" ::: "memory");
}

void asp_aarch64_isb(uint64_t slice_ns) {
    asp_relax(slice_ns, isb_once);
}

static inline void yield_once(void) {
    __asm__ volatile("yield" ::: "memory");
}

static void yield_pause(uint64_t slice_ns) {
    asp_relax(slice_ns, yield_once);
}

const asp_backend asp_backend_isb = {
    .monitor = {.name = "isb", .pause = asp_aarch64_isb},
};

const asp_backend asp_backend_yield = {
    .monitor = {.name = "yield", .pause = yield_pause},
};

#endif
