/* mwaitx.c - MONITORX and MWAITX: a monitor wait with a timer, from user mode.
 *
 * The bound is a relative count of TSC ticks in EBX, 32 bits wide (T1), and it counts only when
 * bit 1 of the *extensions* in ECX is set (T2); without it nothing but a store or an interrupt
 * ends the wait. MONITORX is ordered as a load, so the look that follows it cannot be satisfied
 * from before it. */
#include "arch.h"

#if defined(__x86_64__)

#include <x86intrin.h>

#include "x86.h"

#define MWAITX_TIMER (1u << 1) /* ECX: EBX is a bound */

/* EAX bits 7:4: F is C0, 0 is C1. C0, since a wait that comes here is hot: it lasts microseconds
 * and its latency is what it is for, while leaving C1 costs about one. A long wait is parked, and
 * then the kernel chooses a state far deeper than C1. */
#define MWAITX_C0 0xf0u

__attribute__((target("mwaitx"))) static void mwaitx_arm(const void *address) {
    _mm_monitorx((void *)(uintptr_t)address, 0, 0); /* only loads: the cast is for its type */
}

__attribute__((target("mwaitx"))) static void mwaitx_wait(uint64_t slice_ns) {
    if (slice_ns == 0) {
        asp_x86_pause(0);
        return;
    }
    const uint32_t ticks = asp_count_ticks(asp_ns_to_ticks(slice_ns, asp_x86_tsc_hz()));
    _mm_mwaitx(MWAITX_TIMER, MWAITX_C0, ticks); /* ECX, EAX, EBX */
}

static const char *mwaitx_missing(void) {
    return asp_x86_has_mwaitx() ? NULL : "CPUID reports no MONITORX";
}

const asp_backend asp_backend_mwaitx = {
    .monitor = {.name = "mwaitx",
                .watches = true,
                .arm = mwaitx_arm,
                .wait = mwaitx_wait,
                .pause = asp_x86_pause},
    .missing = mwaitx_missing,
    .line_bytes = asp_x86_line_bytes,
};

#endif
