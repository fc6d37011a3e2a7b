/* litmus.h - for two threads that race a few steps of each, over and over. */
#ifndef ASP_LITMUS_H
#define ASP_LITMUS_H

#include <sched.h>
#include <stdint.h>

#define PATIENCE_NS UINT64_C(10000000000)
#define SPINS 1024u /* looks, some microseconds; after them the other side may want this core */

/* Turns for who begins as soon as it sees the other side, and for that other side, which is ahead of it by the
 * time that a line takes from core to core and back. */
#define LATE 128u
#define EARLY 2048u

/* Up to so many turns of half a nanosecond or more, never the same number twice in a row. */
static inline void drift(uint64_t *state, unsigned turns) {
    *state = *state * UINT64_C(6364136223846793005) + 1;
    for (volatile unsigned i = 0; i < (*state >> 32) % turns; i = i + 1) {
    }
}

/* Run on the first or the second of this process's CPUs, if there are two: beside a busy one the kernel would put
 * both threads on the other, where they take turns and never race. The main thread calls this first. */
static inline void stay_on(unsigned which) {
#ifdef CPU_SET
    static cpu_set_t all;
    static unsigned count;
    if (count == 0) {
        if (sched_getaffinity(0, sizeof all, &all) != 0) return;
        count = (unsigned)CPU_COUNT(&all);
    }
    if (count < 2) return;
    unsigned cpu = 0;
    for (unsigned seen = 0;; cpu++) {
        if (CPU_ISSET(cpu, &all) && seen++ == which) break;
    }
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one); /* denied: they run where they do */
#else
    (void)which;
#endif
}

#endif
