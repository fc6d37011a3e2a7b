/* clock.h - monotonic time, deadlines, and their conversion into counter ticks.
 *
 * Inside the core a point in time is always an absolute CLOCK_MONOTONIC nanosecond; relative
 * timeouts exist only at the public edge. ASP_FOREVER is the deadline that never comes. */
#ifndef ASP_CLOCK_H
#define ASP_CLOCK_H

#include <stdint.h>

#define ASP_FOREVER UINT64_MAX

uint64_t asp_now_ns(void);

/* CPU time of the calling thread: a system call. */
uint64_t asp_thread_cpu_ns(void);

/* How late the kernel may end this thread's timed sleeps, to group them: set it, and get what it was. Linux begins with
 * 50 us, which is longer than the spin that a predicted sleep precedes; 1 ns is the least. 0, and nothing
 * changes, where there is no such thing. */
uint64_t asp_timer_slack(uint64_t ns);

/* now + ns, saturating at ASP_FOREVER. */
static inline uint64_t asp_after(uint64_t now_ns, uint64_t ns) {
    return ns > ASP_FOREVER - now_ns ? ASP_FOREVER : now_ns + ns;
}

/* Nanoseconds left until the deadline, 0 when it has passed. */
static inline uint64_t asp_left(uint64_t deadline_ns, uint64_t now_ns) {
    return deadline_ns > now_ns ? deadline_ns - now_ns : 0;
}

/* ns nanoseconds in ticks of a counter of hz, saturating; the product is 128 bits wide,
 * because ns * hz overflows 64 bits after six seconds at 3 GHz (trap T7). */
uint64_t asp_ns_to_ticks(uint64_t ns, uint64_t hz);

#endif
