/* zawrs.c - LR and WRS.STO: sleep until the reservation is lost, at most a short time.
 *
 * WRS.STO and not WRS.NTO, because STO ends by itself after a short time that the hart chooses,
 * while NTO waits without a bound and traps when the system says so. STO's time is not
 * ours to set, so a wait is usually shorter than its slice; the loop around it arms again. It does
 * not loop in here: after a wake nobody could tell the store from the time.
 *
 * A reservation that is gone already ends the wait at once, so a trap or an SC between arm and
 * wait costs a spurious wake and loses nothing. */
#include "arch.h"

#if defined(__riscv) && __riscv_xlen == 64

#include "riscv64.h"

/* What LR reserves for certain is what it loads. The real reservation set is mostly a cache line,
 * but a program cannot ask for its size, and to claim too much would lose wakes. */
#define ZAWRS_LINE_BYTES 8u

static void zawrs_arm(const void *address) {
    const uintptr_t word = (uintptr_t)address & ~(uintptr_t)(ZAWRS_LINE_BYTES - 1);
    uint64_t ignored;
    /* acquire, so that the look's loads are not satisfied before the reservation stands */
    __asm__ volatile("lr.d.aq %0, (%1)" : "=r"(ignored) : "r"(word) : "memory");
}

static void zawrs_wait(uint64_t slice_ns) {
    if (slice_ns == 0) {
        asp_riscv64_pause(0);
        return;
    }
    __asm__ volatile(".4byte 0x01d00073" ::: "memory"); /* WRS.STO as a number: old assemblers */
}

static uint32_t zawrs_line_bytes(void) {
    return ZAWRS_LINE_BYTES;
}

static const char *zawrs_missing(void) {
    return asp_riscv64_has_zawrs() ? NULL : "riscv_hwprobe reports no Zawrs";
}

const asp_backend asp_backend_zawrs = {
    .monitor = {.name = "zawrs",
                .watches = true,
                .arm = zawrs_arm,
                .wait = zawrs_wait,
                .pause = asp_riscv64_pause},
    .missing = zawrs_missing,
    .line_bytes = zawrs_line_bytes,
};

#endif
