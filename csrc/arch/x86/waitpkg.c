/* waitpkg.c - UMONITOR, UMWAIT and TPAUSE: bounded waits from user mode.
 *
 * Both waits take an absolute TSC value in EDX:EAX (T1). The kernel limits each to 100000 ticks
 * (umwait_control/max_time) unless the administrator changed that, so long slices end early; the
 * wait loop looks again and goes on. UMONITOR is ordered as a load, so the look that follows it
 * cannot be satisfied from before it. */
#include "arch.h"

#if defined(__x86_64__)

#include <x86intrin.h>

#include "x86.h"

/* Bit 0 of the control register: 1 is C0.1, 0 is C0.2. C0.1 is left faster and saves less. We
 * take it, since a wait that comes here is hot, with its latency as its purpose, and a long one is
 * parked; also C0.2 is what the kernel's enable_c02 may forbid, so timings would depend on it. */
#define WAITPKG_C01 1u

static inline uint64_t deadline_after(uint64_t slice_ns) {
    const uint64_t ticks = asp_ns_to_ticks(slice_ns, asp_x86_tsc_hz());
    return asp_deadline_ticks(__rdtsc(), ticks);
}

__attribute__((target("waitpkg"))) static void waitpkg_arm(const void *address) {
    _umonitor((void *)(uintptr_t)address); /* only loads: the cast is for its type */
}

__attribute__((target("waitpkg"))) static void waitpkg_wait(uint64_t slice_ns) {
    if (slice_ns == 0) {
        asp_x86_pause(0);
        return;
    }
    _umwait(WAITPKG_C01, deadline_after(slice_ns));
}

__attribute__((target("waitpkg"))) static void waitpkg_pause(uint64_t slice_ns) {
    if (slice_ns == 0) {
        asp_x86_pause(0); /* shorter than entering and leaving C0.1 */
        return;
    }
    _tpause(WAITPKG_C01, deadline_after(slice_ns));
}

static const char *waitpkg_missing(void) {
    return asp_x86_has_waitpkg() ? NULL : "CPUID reports no WAITPKG";
}

const asp_backend asp_backend_umwait = {
    .monitor = {.name = "umwait",
                .watches = true,
                .arm = waitpkg_arm,
                .wait = waitpkg_wait,
                .pause = waitpkg_pause},
    .missing = waitpkg_missing,
    .line_bytes = asp_x86_line_bytes,
};

const asp_backend asp_backend_tpause = {
    .monitor = {.name = "tpause", .pause = waitpkg_pause},
    .missing = waitpkg_missing,
};

#endif
