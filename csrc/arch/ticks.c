/* ticks.c - how fast a counter runs, found by watching it beside the monotonic clock.
 *
 * Measured and not looked up where the hardware's own statement may be missing or wrong: CPUID
 * leaf 15h is absent on AMD and on some WAITPKG parts (T6) and describes the host under a
 * hypervisor that scales the TSC; CNTFRQ_EL0 reads 0 under emulators. A slice needs no more than
 * a percent. */
#include "arch.h"

#define ASP_MEASURE_NS 100000u /* 100 us: ends read 100 ns apart are then 0.1 % of it */
#define ASP_MEASURE_TRIES 5    /* a preemption inside all five brackets is not expected */

typedef struct instant {
    uint64_t ns;
    uint64_t ticks;
} instant;

/* Counter and clock at the same time: of several tries the one with the tightest bracket, so
 * that a preemption between the reads does not count. */
static instant read_instant(uint64_t (*read_ticks)(void)) {
    instant best = {0, 0};
    uint64_t best_width = UINT64_MAX;
    for (int i = 0; i < ASP_MEASURE_TRIES; i++) {
        const uint64_t before_ns = asp_now_ns();
        const uint64_t ticks = read_ticks();
        const uint64_t width = asp_now_ns() - before_ns;
        if (width < best_width) {
            best_width = width;
            best = (instant){before_ns + width / 2, ticks};
        }
    }
    return best;
}

uint64_t asp_measure_hz(uint64_t (*read_ticks)(void)) {
    const instant start = read_instant(read_ticks);
    while (asp_now_ns() - start.ns < ASP_MEASURE_NS) {
        /* the clock is what is waited for */
    }
    const instant end = read_instant(read_ticks);
    /* 128 bits, because a stopped process may find seconds between the two instants (T7) */
    const unsigned __int128 hz =
        (unsigned __int128)(end.ticks - start.ticks) * 1000000000u / (end.ns - start.ns);
    return hz == 0 ? 1 : hz > UINT64_MAX ? UINT64_MAX : (uint64_t)hz;
}
