/* generic.c - the backend for any CPU: relaxing without a pause instruction.
 *
 * Exists on every architecture, so that there is always something to select and something to
 * compare with. It never yields to the scheduler: parking is the wait loop's decision. */
#include "arch.h"

static inline void generic_pause_once(void) {
    /* no instruction, but the compiler must look at memory again afterwards */
    __asm__ volatile("" ::: "memory");
}

static void generic_pause(uint64_t slice_ns) {
    asp_relax(slice_ns, generic_pause_once);
}

const asp_backend asp_backend_generic = {
    .monitor = {.name = "generic", .pause = generic_pause},
};
