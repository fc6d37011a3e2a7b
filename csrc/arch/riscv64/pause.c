/* pause.c - PAUSE of Zihintpause. A hint: it is a FENCE that orders nothing, so a hart without
 * the extension runs it as a no-op and there is nothing to detect. */
#include "arch.h"

#if defined(__riscv) && __riscv_xlen == 64

#include "riscv64.h"

static inline void pause_once(void) {
    __asm__ volatile(".4byte 0x0100000f" ::: "memory"); /* as a number: old assemblers */
}

void asp_riscv64_pause(uint64_t slice_ns) {
    asp_relax(slice_ns, pause_once);
}

const asp_backend asp_backend_pause = {
    .monitor = {.name = "pause", .pause = asp_riscv64_pause},
};

#endif
