/* predict_model.h - a reader, its machine and its writer in simulated time, for what judges
 * predict.c.
 *
 * Shared by tests/native/test_predict.c, which asserts, and benchmarks/predict_simulation.c,
 * which compares. Everything is drawn from one generator with a fixed seed: the same figures on
 * every machine. */
#ifndef ASP_PREDICT_MODEL_H
#define ASP_PREDICT_MODEL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "predict.h"

#define US 1000.0
#define MS 1e6
#define SECOND 1e9
#define FOREVER 1e18

/* ---- chance ---- */

typedef struct chance {
    uint64_t state;
} chance;

static inline double uniform(chance *c) { /* [0, 1), splitmix64 */
    c->state += 0x9e3779b97f4a7c15u;
    uint64_t z = c->state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

/* After von Neumann, who needed nothing but comparisons: the native tests are linked without
 * libm. */
static inline double exponential(chance *c, double mean) {
    for (double whole = 0;; whole++) {
        double first = uniform(c), least = first;
        for (bool odd = true;; odd = !odd) {
            double next = uniform(c);
            if (next >= least) {
                if (odd) return (whole + first) * mean;
                break;
            }
            least = next;
        }
    }
}

static inline double normal(chance *c) { /* the sum of twelve, out to six standard deviations */
    double sum = -6;
    for (int i = 0; i < 12; i++) sum += uniform(c);
    return sum;
}

static inline double smaller(double a, double b) { return a < b ? a : b; }
static inline double larger(double a, double b) { return a > b ? a : b; }

/* ---- the machine: what each way of waiting costs ---- */

typedef struct machine {
    double park, park_tail; /* ns from publish to seen, woken from a park: least, mean above it */
    double spin, spin_tail; /* the same in a spin */
    double oversleep, oversleep_tail; /* how late a timed sleep ends */
    double park_cpu;                  /* CPU ns of a park and its wake */
    double handling;                  /* ns that the reader works on a message */
    double deep; /* how much later than that a sleep of more than 20 ms ends */
} machine;

/* benchmarks/wake_latency.py on two cores of a VM, and the figures in docs/internals.md */
static const machine event_loop = {16 * US, 6 * US, 1.5 * US, 300, 6 * US, 14 * US, 8 * US, 3 * US, 0};
/* a blocking reader on a futex */
static const machine futex_caller = {40 * US, 10 * US, 150, 50, 4 * US, 10 * US, 6 * US, 1 * US, 0};
/* a VM whose idle CPUs the host takes away: benchmarks/peers.py at 10 ms */
static const machine halting = {90 * US, 40 * US, 4 * US, 4 * US, 50 * US, 55 * US, 100 * US, 10 * US, 0};
/* two hyperthreads of one core: whoever spins slows the writer that it waits for */
static const machine one_core = {14 * US, 4 * US, 22 * US, 4 * US, 6 * US, 14 * US, 8 * US, 3 * US, 0};

/* ---- the writer: when messages are published ---- */

typedef struct arrivals {
    const char *name;
    enum { STEADY, SPREAD, GAUSS, CLOCKED, POISSON, BURSTS, CALLS, DECODE } kind;
    double mean; /* ns: period, or mean gap; in bursts from the begin of one to that of the next */
    double jitter; /* share of the mean: half width (SPREAD, CLOCKED), standard deviation (GAUSS);
                      in bursts the gap inside one as a share of the mean */
    unsigned burst;
    double within; /* jitter of the gaps inside a burst */
} arrivals;

/* The gap before message n. `phase` is the writer's own memory, 0 at the start. */
static inline double next_gap(const arrivals *a, chance *c, unsigned n, double *phase) {
    /* a writer that sleeps until it is due wakes some microseconds late, seldom many */
    double late = exponential(c, 3 * US) + (uniform(c) < 0.005 ? 60 * US : 0);
    double gap = 0;
    switch (a->kind) {
    case STEADY: /* by an absolute timer: what one message is late, the next gap is short */
        gap = a->mean + late - *phase;
        *phase = late;
        return gap;
    case SPREAD:
        gap = a->mean * (1 + a->jitter * (2 * uniform(c) - 1));
        break;
    case GAUSS:
        gap = a->mean * (1 + a->jitter * normal(c));
        break;
    case CLOCKED: { /* the jitter is one of the phase: it does not add up */
        double shift = a->mean * a->jitter * (2 * uniform(c) - 1);
        gap = a->mean + shift - *phase;
        *phase = shift;
        break;
    }
    case POISSON:
        gap = exponential(c, a->mean);
        break;
    case BURSTS: {
        double inside = a->mean * a->jitter;
        gap = n % a->burst ? inside : a->mean - inside * (a->burst - 1);
        gap *= 1 + a->within * (2 * uniform(c) - 1);
        break;
    }
    case CALLS: /* bursts after pauses of any length */
        gap = n % a->burst ? a->mean * a->jitter : exponential(c, a->mean);
        gap *= 1 + a->within * (2 * uniform(c) - 1);
        break;
    case DECODE: /* a step of decoding grows with the context, and now and then a prompt comes
                    between */
        gap = a->mean * (1 + 0.3 * (n % 400) / 400.0 + a->jitter * normal(c));
        if (uniform(c) < 0.02) gap *= 3 + 4 * uniform(c);
        break;
    }
    return larger(gap + late, 200);
}

/* ---- the reader ---- */

typedef struct strategy {
    const char *name;
    enum { FIXED, AVERAGE, PREDICT } kind;
    double spin;                     /* FIXED: how long after the begin of a wait, in ns */
    double block, shortest, longest; /* AVERAGE: clamp(block^2 / mean gap, shortest, longest) */
    asp_price price;                 /* PREDICT */
} strategy;

typedef struct outcome {
    double p50, p99, mean; /* publish to seen, ns, of the messages that were waited for */
    double cpu;            /* share of one core */
    double cpu_ns;         /* the same, in all */
    double spun_per_wait;  /* ns */
    unsigned waits, missed_by_spin;
} outcome;

typedef struct reader {
    const machine *machine;
    strategy strategy;
    asp_predict predict;
    chance chance;
    double mean_gap, last, ready; /* ready: when it looks for the next message */
    double spun, parks;           /* ns, count */
    unsigned lost;                /* spins in vain */
    bool caught;                  /* the last message was seen by a spin */
} reader;

static inline void reader_init(reader *r, const machine *m, const strategy *s, uint64_t seed) {
    memset(r, 0, sizeof *r);
    r->machine = m;
    r->strategy = *s;
    r->chance.state = seed;
    asp_predict_init(&r->predict);
}

/* One wait, for a message that is published at `published`; returns when it is seen. */
static inline double wait_predicted(reader *r, double published) {
    const machine *m = r->machine;
    double now = r->ready, spun = 0;
    uint64_t at = (uint64_t)published;
    for (;;) {
        asp_plan plan = asp_predict_plan(&r->predict, (uint64_t)now, &r->strategy.price);
        if (plan.spin_from_ns > (uint64_t)now) {
            double woken = published + m->park + exponential(&r->chance, m->park_tail);
            double timer = plan.spin_from_ns == ASP_FOREVER
                               ? FOREVER
                               : (double)plan.spin_from_ns + m->oversleep +
                                     ((double)plan.spin_from_ns - now > 20 * MS ? m->deep : 0) +
                                     exponential(&r->chance, m->oversleep_tail);
            r->parks++;
            if (asp_predict_wants_cpu(&r->predict))
                asp_predict_park_cpu(&r->predict, (uint64_t)m->park_cpu);
            asp_predict_parked(&r->predict);
            if (published < timer) {
                /* A message that comes while the timer is on its way does not wait for a wake of
                 * its own. */
                double seen = smaller(woken, larger(timer, published + m->spin));
                asp_predict_outcome(&r->predict, ASP_PREDICT_WOKEN, at, (uint64_t)seen,
                                    (uint64_t)spun);
                r->spun += spun;
                r->lost += spun > 0;
                return seen;
            }
            now = timer;
            asp_predict_overslept(&r->predict, plan.spin_from_ns, (uint64_t)now);
        }
        if ((double)plan.spin_until_ns <= now) continue;
        if (published < (double)plan.spin_until_ns) {
            double seen = published + m->spin + exponential(&r->chance, m->spin_tail);
            spun += seen - now;
            asp_predict_outcome(&r->predict, ASP_PREDICT_SPUN, at, (uint64_t)seen, (uint64_t)spun);
            r->spun += spun;
            r->caught = true;
            return seen;
        }
        spun += (double)plan.spin_until_ns - now;
        now = (double)plan.spin_until_ns;
    }
}

static inline double wait_fixed(reader *r, double published) {
    const machine *m = r->machine;
    double spin = r->strategy.spin;
    if (r->strategy.kind == AVERAGE) {
        spin = r->mean_gap > 0 ? r->strategy.block * r->strategy.block / r->mean_gap : 0;
        spin = smaller(larger(spin, r->strategy.shortest), r->strategy.longest);
    }
    if (published <= r->ready + spin) {
        double seen = published + m->spin + exponential(&r->chance, m->spin_tail);
        r->spun += seen - r->ready;
        r->caught = true;
        return seen;
    }
    r->spun += spin;
    r->lost += spin > 0;
    r->parks++;
    return published + m->park + exponential(&r->chance, m->park_tail);
}

/* Message at `published`: returns its latency, negative when it was there before the reader
 * looked. */
static inline double receive(reader *r, double published) {
    double latency = -1, seen = r->ready;
    r->caught = false;
    if (published > r->ready) {
        seen =
            r->strategy.kind == PREDICT ? wait_predicted(r, published) : wait_fixed(r, published);
        latency = seen - published;
    }
    asp_predict_arrival(&r->predict, (uint64_t)published);
    if (r->last > 0) {
        double gap = published - r->last;
        r->mean_gap = r->mean_gap > 0 ? r->mean_gap + (gap - r->mean_gap) / 8 : gap;
    }
    r->last = published;
    r->ready = seen + r->machine->handling;
    return latency;
}

/* What a run cost: latency at its price, and CPU. */
static inline double cost(const outcome *o, const asp_price *price) {
    return price->cpu_per_latency * o->mean * o->waits + o->cpu_ns;
}

static inline int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* `count` messages after `warm_up` others. */
static inline outcome simulate(const machine *m, const arrivals *a, const strategy *s,
                               unsigned warm_up, unsigned count, uint64_t seed) {
    reader r;
    reader_init(&r, m, s, seed);
    chance writer = {seed ^ 0x5bd1e995u};
    double *latency = malloc(count * sizeof *latency);
    if (!latency) abort();
    double now = SECOND, phase = 0, begun = 0, sum = 0;
    outcome o = {0};
    for (unsigned n = 0; n < warm_up + count; n++) {
        if (n == warm_up) {
            begun = now;
            r.spun = r.parks = 0;
            r.lost = 0;
        }
        now += next_gap(a, &writer, n, &phase);
        double took = receive(&r, now);
        if (n < warm_up || took < 0) continue;
        latency[o.waits++] = took;
        sum += took;
    }
    qsort(latency, o.waits, sizeof *latency, by_size);
    if (o.waits) {
        o.p50 = latency[o.waits / 2];
        o.p99 = latency[(unsigned)((double)o.waits * 0.99)];
        o.mean = sum / o.waits;
        o.spun_per_wait = r.spun / o.waits;
    }
    o.cpu_ns = r.spun + r.parks * m->park_cpu;
    o.cpu = o.cpu_ns / (now - begun);
    o.missed_by_spin = r.lost;
    free(latency);
    return o;
}

typedef struct named_machine {
    const char *name;
    const machine *machine;
} named_machine;

static const named_machine every_machine[] = {
    {"event loop", &event_loop},
    {"blocking caller", &futex_caller},
    {"halting VM", &halting},
    {"one core, two threads", &one_core},
};
#define MACHINES (sizeof every_machine / sizeof every_machine[0])

static const arrivals every_process[] = {
    {"0.1 ms steady", STEADY, 0.1 * MS, 0, 0, 0},
    {"0.1 ms, 20 % spread", SPREAD, 0.1 * MS, 0.20, 0, 0},
    {"1 ms steady", STEADY, 1 * MS, 0, 0, 0},
    {"1 ms, 5 % spread", SPREAD, 1 * MS, 0.05, 0, 0},
    {"1 ms, 20 % spread", SPREAD, 1 * MS, 0.20, 0, 0},
    {"7 ms steady", STEADY, 7 * MS, 0, 0, 0},
    {"7 ms, 1 % spread", SPREAD, 7 * MS, 0.01, 0, 0},
    {"7 ms, 5 % spread", SPREAD, 7 * MS, 0.05, 0, 0},
    {"7 ms, 5 % normal", GAUSS, 7 * MS, 0.05, 0, 0},
    {"7 ms, 5 % of the phase", CLOCKED, 7 * MS, 0.05, 0, 0},
    {"7 ms, 20 % spread", SPREAD, 7 * MS, 0.20, 0, 0},
    {"10 ms steady", STEADY, 10 * MS, 0, 0, 0},
    {"50 ms steady", STEADY, 50 * MS, 0, 0, 0},
    {"50 ms, 1 % spread", SPREAD, 50 * MS, 0.01, 0, 0},
    {"50 ms, 5 % spread", SPREAD, 50 * MS, 0.05, 0, 0},
    {"10 in a burst, steady", BURSTS, 50 * MS, 0.02, 10, 0.002},
    {"10 in a burst, 1 of 50 ms", BURSTS, 50 * MS, 0.02, 10, 0.02},
    {"10 in a burst, 0.1 of 5 ms", BURSTS, 5 * MS, 0.02, 10, 0.02},
    {"10 in a burst, 5 % jitter", BURSTS, 50 * MS, 0.02, 10, 0.05},
    {"10 in a burst, any pause", CALLS, 50 * MS, 0.02, 10, 0.02},
    {"decoding, 7 to 9 ms", DECODE, 7 * MS, 0.02, 0, 0},
    {"Poisson, mean 0.1 ms", POISSON, 0.1 * MS, 0, 0, 0},
    {"Poisson, mean 1 ms", POISSON, 1 * MS, 0, 0, 0},
    {"Poisson, mean 7 ms", POISSON, 7 * MS, 0, 0, 0},
    {"Poisson, mean 50 ms", POISSON, 50 * MS, 0, 0, 0},
};
#define PROCESSES (sizeof every_process / sizeof every_process[0])

#define BALANCED {.cpu_per_latency = 25, .max_spin_ns = 5000000}

static const strategy every_strategy[] = {
    {.name = "always spin", .kind = FIXED, .spin = FOREVER},
    {.name = "never spin", .kind = FIXED, .spin = 0},
    {.name = "50 us", .kind = FIXED, .spin = 50 * US},
    {.name = "2 ms", .kind = FIXED, .spin = 2 * MS},
    {.name = "1 s", .kind = FIXED, .spin = SECOND},
    /* The published moving average. B is what a park costs, as here: its CPU and its latency at
     * the price. */
    {.name = "B^2/T", .kind = AVERAGE, .block = 0.5 * MS, .shortest = 20 * US, .longest = 2 * MS},
    {.name = "predicted", .kind = PREDICT, .price = BALANCED},
};
#define STRATEGIES (sizeof every_strategy / sizeof every_strategy[0])

#endif
