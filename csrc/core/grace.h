/* grace.h - does spinning pay: the mean gap of what one object waited for before.
 *
 * The ski-rental argument: a spin that lasts as long as a park costs at most doubles the price of a
 * wait that could not be foreseen. When the past says that the wait will last longer than that, the spin
 * is lost for certain, so the grace is nothing. Pure functions of times; not thread-safe. */
#ifndef ASP_GRACE_H
#define ASP_GRACE_H

#include <stdint.h>

typedef struct asp_grace {
    uint64_t begun_ns; /* when the wait now under way began, 0 when none is */
    uint64_t mean_ns;  /* moving average of how long waits lasted */
    uint32_t seen;     /* waits in it, up to ASP_GRACE_MATURE */
} asp_grace;

#define ASP_GRACE_MATURE 4u /* waits; fewer say little, so until then it spins */
#define ASP_GRACE_WEIGHT 8u /* 1/8 a sample, the weight that TCP gives round trips (RFC 6298) */

static inline void asp_grace_begin(asp_grace *grace, uint64_t now_ns) { grace->begun_ns = now_ns; }

static inline void asp_grace_end(asp_grace *grace, uint64_t now_ns) {
    if (!grace->begun_ns) return;
    uint64_t gap = now_ns > grace->begun_ns ? now_ns - grace->begun_ns : 0;
    grace->begun_ns = 0;
    if (!grace->seen) grace->mean_ns = gap;
    else grace->mean_ns = grace->mean_ns - grace->mean_ns / ASP_GRACE_WEIGHT + gap / ASP_GRACE_WEIGHT;
    if (grace->seen < ASP_GRACE_MATURE) grace->seen++;
}

/* Nanoseconds to spin before parking: the whole allowance or nothing. */
static inline uint64_t asp_grace_budget(const asp_grace *grace, uint64_t max_spin_ns) {
    /* Twice: half of evenly spread arrivals still come within the allowance then. */
    if (grace->seen >= ASP_GRACE_MATURE && grace->mean_ns / 2 > max_spin_ns) return 0;
    return max_spin_ns;
}

#endif
