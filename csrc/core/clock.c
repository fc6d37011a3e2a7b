#include "clock.h"

#include <time.h>

#ifdef __linux__
#include <sys/prctl.h>
#endif

static uint64_t read_clock(clockid_t clock) {
    struct timespec t = {0};
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t asp_now_ns(void) { return read_clock(CLOCK_MONOTONIC); }
uint64_t asp_thread_cpu_ns(void) { return read_clock(CLOCK_THREAD_CPUTIME_ID); }

uint64_t asp_ns_to_ticks(uint64_t ns, uint64_t hz) {
    unsigned __int128 ticks = (unsigned __int128)ns * hz / 1000000000u;
    return ticks > UINT64_MAX ? UINT64_MAX : (uint64_t)ticks;
}

uint64_t asp_timer_slack(uint64_t ns) {
#ifdef __linux__
    int before = prctl(PR_GET_TIMERSLACK);
    if (before < 0 || prctl(PR_SET_TIMERSLACK, (unsigned long)ns) != 0) return 0;
    return (uint64_t)before;
#else
    (void)ns;
    return 0;
#endif
}
