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

/* Threads count in shards of their own, two cache lines each: on one line for all, a writer and a reader
 * in one process would pull it to and fro with every message. Threads beyond the shards share. */
#define ASP_TALLY_SHARDS 16
typedef struct asp_tally_shard {
    _Alignas(128) asp_tally counts;
} asp_tally_shard;

asp_tally *asp_tally_choose_shard(void);

/* initial-exec: one load, and no call that links the dynamic loader (8 bytes of static TLS) */
extern __thread asp_tally *asp_tally_mine __attribute__((tls_model("initial-exec")));

static inline asp_tally *asp_tally_here(void) {
    return asp_tally_mine ? asp_tally_mine : asp_tally_choose_shard();
}

#define ASP_COUNT(field, n) asp_add_relaxed_u64(&asp_tally_here()->field, (n))
/* A gauge may fall below zero in one shard; the sum over all is right, modulo 2^64. */
#define ASP_UNCOUNT(field, n) asp_add_relaxed_u64(&asp_tally_here()->field, ~(uint64_t)(n) + 1)

/* The sum over the shards; while others count, each field is one that it had at some moment. */
asp_tally asp_tally_read(void);

#endif
