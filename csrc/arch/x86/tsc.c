/* tsc.c - the frequency of the time stamp counter, in which UMWAIT, TPAUSE and MWAITX count. */
#include "arch.h"

#if defined(__x86_64__)

#include <x86intrin.h>

#include "atomics.h"
#include "x86.h"

static uint64_t read_tsc(void) {
    return __rdtsc();
}

uint64_t asp_x86_tsc_hz(void) {
    /* Written once or, when threads race to the first call, a few times with almost the same
     * value: the word carries no other data, so relaxed is enough and pairs with itself. */
    static uint64_t kept_hz;
    uint64_t hz = asp_load_relaxed_u64(&kept_hz);
    if (hz == 0) {
        hz = asp_measure_hz(read_tsc);
        asp_store_relaxed_u64(&kept_hz, hz);
    }
    return hz;
}

#endif
