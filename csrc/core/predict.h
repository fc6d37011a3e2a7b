/* predict.h - when to spin: what a reader plans from the gaps that it saw and from what waiting
 * cost it.
 *
 * One asp_predict per stream (a reader's messages, or a writer's waits for room). Pure functions
 * of the times that they are given: no clock, no system call, no allocation. Not thread-safe:
 * its one consumer calls them. predict.c has the derivation. All times are absolute
 * CLOCK_MONOTONIC nanoseconds.
 *
 * How a caller uses it (messages that are already there cost it asp_predict_arrival and nothing
 * else):
 *
 *     look; if there is a message: take it, go to `taken` with ASP_PREDICT_FOUND
 *     spun = 0
 *     for (;;) {
 *         plan = asp_predict_plan(p, now, &price)
 *         if (plan.spin_from_ns > now) {
 *             park until plan.spin_from_ns, notified at any time (ASP_FOREVER: without limit)
 *             look; if there is a message: outcome(ASP_PREDICT_WOKEN, spun), taken
 *             if the timer ended the sleep: due = plan.spin_from_ns; get ready to spin
 *         }
 *         with the first spin after a sleep: asp_predict_overslept(p, due, now)
 *         spin until plan.spin_until_ns; spun += what it took
 *         a message came: outcome(ASP_PREDICT_SPUN, spun), taken
 *     }
 *     the caller's deadline, a cancellation or an end of the stream in any of them:
 *         outcome(ASP_PREDICT_NOTHING, spun)
 *   taken:
 *     asp_predict_arrival(p, published) for every record, oldest first, before the next plan
 *
 * A plan may be asked for again at any time in a wait, and is the same as long as nothing was
 * learned; so a wake without a message (spurious, a signal) just goes round. A spin may be cut
 * into slices, and broken off; a caller that cannot spin (a busy loop) parks instead, and says
 * so by a spun time of 0. */
#ifndef ASP_PREDICT_H
#define ASP_PREDICT_H

#include <stdbool.h>
#include <stdint.h>

#include "clock.h"

/* Gaps remembered. 16 seldom hold three pauses between bursts of ten; 64 are not worth twice the
 * time to learn a new pace. The constants are those of benchmarks/predict_simulation.py: see
 * predict.c. */
#define ASP_PREDICT_GAPS 32u
/* Times in one wait at which a message is likely: the gap in a burst, the pause after it, one to
 * spare. */
#define ASP_PREDICT_WINDOWS 3u

/* Lengths of sleep whose ends are told apart: under 0.5, 2, 8, 32 ms, and longer. The longer the
 * sleep, the deeper sleeps the CPU (on a virtual machine whose idle CPUs are taken away 60 us after
 * 1 ms, 150 us after 40 ms), and in bursts both kinds take turns. */
#define ASP_PREDICT_LEADS 5u

/* What latency is worth; the policy's. */
typedef struct asp_price {
    /* Nanoseconds of CPU worth spending to save one of latency. 0: never spin (powersave).
     * ASP_PRICE_FREE: CPU is free for the first max_spin_ns of a wait (latency). */
    uint32_t cpu_per_latency;
    /* No spin of a plan lasts longer, 0: never spin. Set it to the longest spin that anybody
     * should see (some ms), not to the cost of a park: how long is worth it, the price says. */
    uint64_t max_spin_ns;
} asp_price;

#define ASP_PRICE_FREE UINT32_MAX

/* Park until spin_from_ns (the past or now: do not; ASP_FOREVER: without limit), then spin until
 * spin_until_ns, then ask again. The time that a sleep wakes late is already taken off. */
typedef struct asp_plan {
    uint64_t spin_from_ns;
    uint64_t spin_until_ns;
} asp_plan;

typedef enum asp_predict_end {
    ASP_PREDICT_FOUND,   /* it was there before the wait began; may be left unsaid */
    ASP_PREDICT_SPUN,    /* seen by a look of a spin */
    ASP_PREDICT_WOKEN,   /* seen after a park that the message ended */
    ASP_PREDICT_NOTHING, /* the wait ended without a message: deadline, cancellation, end */
} asp_predict_end;

typedef struct asp_predict_statistics {
    uint64_t predicted;      /* waits that ended in a spin, as planned */
    uint64_t early;          /* messages that came before the spin planned for them */
    uint64_t late;           /* waits whose spin ended without the message */
    uint64_t spun_caught_ns; /* spun in waits that ended in a spin */
    uint64_t spun_lost_ns;   /* spun in all others */
} asp_predict_statistics;

typedef struct asp_predict_window {
    uint64_t from_ns; /* begin to spin so long after the last arrival; 0: do not even park before */
    uint64_t until_ns;
} asp_predict_window;

typedef struct asp_predict {
    uint64_t last_ns;                   /* last publish time, 0 before the first */
    uint32_t sorted[ASP_PREDICT_GAPS];  /* the last gaps by length */
    uint32_t ordered[ASP_PREDICT_GAPS]; /* the same by age, a ring */
    uint32_t oldest;                    /* where it begins */
    bool stale;   /* a gap was learned since the windows were reckoned */
    bool waiting; /* a wait has asked for a plan and not yet told its outcome */
    bool trial;   /* it tries the way that seems to pay less */
    bool slept;   /* in it a timer has said how late it was */
    uint32_t window_count;
    asp_predict_window window[ASP_PREDICT_WINDOWS];
    int64_t worth_ns;      /* what the windows would have earned lately, acted upon or not */
    int64_t purse_ns;      /* what may still be spun for nothing */
    uint64_t begun_ns;     /* first plan of this wait */
    uint64_t due_ns;       /* end of the sleep now planned, ASP_FOREVER without a timer */
    uint64_t tried_ns;     /* last trial */
    asp_price price;       /* of the last plan */
    uint32_t park_ns;      /* publish to seen: woken from a park */
    uint32_t spin_ns;      /* publish to seen: spinning */
    uint32_t lead_ns[ASP_PREDICT_LEADS]; /* how late a timed sleep ends, about the latest of 16 */
    /* CPU of one park, its wake and the way back: what may be lost in a wait for something that
     * cannot be foreseen, and the shortest sleep worth a timer */
    uint32_t park_cpu_ns;
    uint32_t parks; /* so far */
    uint32_t since_parked, since_spun; /* waits since each of the two was measured */
    asp_predict_statistics statistics;
} asp_predict;

/* A stream of which nothing is known. */
void asp_predict_init(asp_predict *p);

/* A record was published then. O(1), some 25 ns. Times that stand still or go back are no gap.
 * What carries no publish time (room in a ring, a flag) counts from when it was seen. */
void asp_predict_arrival(asp_predict *p, uint64_t published_ns);

/* What to do from now on; begins a wait if none has begun. O(1): some 10 ns, or 100 ns when a
 * gap was learned since, which is time that is waited anyhow. */
asp_plan asp_predict_plan(asp_predict *p, uint64_t now_ns, const asp_price *price);

/* The sleep that should have ended at due_ns was ended by its timer, at woke_ns, and no message
 * was there. */
void asp_predict_overslept(asp_predict *p, uint64_t due_ns, uint64_t woke_ns);

/* Is the CPU of the park now planned to be measured, and told to asp_predict_park_cpu? */
bool asp_predict_wants_cpu(const asp_predict *p);

/* A park is over. */
void asp_predict_parked(asp_predict *p);

/* A park, its wake and the way back took so much of the thread's CPU. */
void asp_predict_park_cpu(asp_predict *p, uint64_t cpu_ns);

/* A wait ended. published_ns and seen_ns are those of the first message (0 with NOTHING),
 * spun_ns is what the wait spent spinning in all. Call it once per wait that asked for a plan. */
void asp_predict_outcome(asp_predict *p, asp_predict_end end, uint64_t published_ns,
                         uint64_t seen_ns, uint64_t spun_ns);

#endif
