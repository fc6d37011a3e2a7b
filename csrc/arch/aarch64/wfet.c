/* wfet.c - exclusive load and WFET: as wfe.c, but bounded by a time of our own.
 *
 * WFET takes an absolute value of the virtual counter CNTVCT_EL0 (T1). */
#include "arch.h"

#if defined(__aarch64__)

#include "aarch64.h"
#include "atomics.h"

/* Not preceded by an ISB, so it may be read a little early: then the wait is a little shorter. */
static uint64_t read_counter(void) {
    uint64_t ticks;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
    return ticks;
}

static uint64_t counter_hz(void) {
    uint64_t hz;
    __asm__("mrs %0, cntfrq_el0" : "=r"(hz));
    if (hz != 0) {
        return hz;
    }
    /* Firmware or an emulator did not fill it in. Written once or, when threads race to the first
     * call, a few times with almost the same value: relaxed is enough and pairs with itself. */
    static uint64_t kept_hz;
    hz = asp_load_relaxed_u64(&kept_hz);
    if (hz == 0) {
        hz = asp_measure_hz(read_counter);
        asp_store_relaxed_u64(&kept_hz, hz);
    }
    return hz;
}

static void wfet_wait(uint64_t slice_ns) {
    if (slice_ns == 0) {
        asp_aarch64_isb(0);
        return;
    }
    const uint64_t ticks = asp_ns_to_ticks(slice_ns, counter_hz());
    register uint64_t deadline __asm__("x0") = asp_deadline_ticks(read_counter(), ticks);
    /* WFET X0 as a number: assemblers want armv8.7-a for the name */
    __asm__ volatile(".inst 0xd5031000" ::"r"(deadline) : "memory");
}

static const char *wfet_missing(void) {
    return asp_aarch64_has_wfxt() ? NULL : "the kernel reports no WFXT";
}

const asp_backend asp_backend_wfet = {
    .monitor = {.name = "wfet",
                .watches = true,
                .arm = asp_aarch64_arm,
                .wait = wfet_wait,
                .pause = asp_aarch64_isb},
    .missing = wfet_missing,
    .line_bytes = asp_aarch64_granule_bytes,
};

#endif
