#include "clock.h"

#include <time.h>

uint64_t asp_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t asp_ns_to_ticks(uint64_t ns, uint64_t hz) {
    unsigned __int128 ticks = (unsigned __int128)ns * hz / 1000000000u;
    return ticks > UINT64_MAX ? UINT64_MAX : (uint64_t)ticks;
}
