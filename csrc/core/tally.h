/* tally.h - the counters behind aiospin.statistics(). Process-wide, relaxed: they order nothing. */
#ifndef ASP_TALLY_H
#define ASP_TALLY_H

#include "atomics.h"

typedef struct asp_tally {
    uint64_t waits;      /* waits begun */
    uint64_t ready;      /* satisfied by the first look */
    uint64_t spun;       /* satisfied while spinning */
    uint64_t parked;     /* satisfied after at least one park */
    uint64_t parks;      /* sleeps in the kernel */
    uint64_t spurious;   /* sleeps that ended with nothing to see */
    uint64_t predicted;  /* waits that went to sleep at once because spinning would not have paid */
    uint64_t timed_out;
    uint64_t cancelled;
    uint64_t notifies;   /* wake calls made by this process */
    uint64_t elided;     /* wake calls saved because nobody was parked */
    uint64_t spin_ns;    /* nanoseconds spent spinning */
    uint64_t live_tickets;   /* gauge: submitted and not yet completed or cancelled */
    uint64_t pinned_buffers; /* gauge: buffers held by waits and rings of this process */
} asp_tally;

extern asp_tally asp_counters;

#define ASP_COUNT(field, n) asp_add_relaxed_u64(&asp_counters.field, (n))

#define ASP_UNCOUNT(field, n) asp_add_relaxed_u64(&asp_counters.field, ~(uint64_t)(n) + 1)

#endif
