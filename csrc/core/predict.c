/* predict.c - when to spin, in three steps: what would have been best, is it so, and can it be
 * afforded.
 *
 * Everything is counted in nanoseconds of CPU. A message caught by a spin is worth
 *
 *     prize = (latency after a park - latency in a spin) x price
 *
 * and both latencies are measured (asp_predict_outcome), so where a spin slows its own writer
 * the prize goes, and spinning with it. A spin costs what it lasts. A sleep with a timer ends
 * late, so it must be due early, which is spun; else it costs nothing, as its timer ends the
 * park that the message would have ended.
 *
 * 1. What would have been best: a dynamic programme over the last 32 gaps, sorted. As time
 *    passes them one after the other, a reader is parked or spins. From gap i - 1 to gap i a
 *    spin costs (gap[i] - gap[i - 1]) for each of the gaps not yet over, and wins one prize; a
 *    park costs and wins nothing; to begin a spin costs the lead for each gap not yet over.
 *    Going backwards from the longest gap this gives the best of all plans in 32 steps: none for
 *    a stream without a rhythm, one window about the period, from the start for a gap shorter
 *    than the lead, two for bursts: the gap inside, then the pause (of those who still wait
 *    then, nearly all wait for its end). It is the rule of the hazard rate, spin while the
 *    chance of an arrival per nanosecond times the prize is above 1, with the cost of switching.
 *    A plan fitted to a sample flatters itself: the first and the last gap of a window are in it
 *    only because it was drawn around them. So they win nothing, as in a leave-one-out estimate,
 *    and the window is drawn wider: before the first by the mean spacing, as the next arrival
 *    comes before the first of k others with a chance of 1 / (k + 1); after the last by half of
 *    what the gaps not in it could still win, as ski rental says where nothing is known: wait
 *    for as long as there is to win.
 * 2. Is it so: the windows are held against each arrival after them, acted upon or not, since a
 *    publish time says what a spin would have caught and cost. So a plan is tested for nothing,
 *    and never on the arrivals that it was drawn from. The account of what it would have earned
 *    forgets over 16 arrivals; a plan is acted upon while it is more than one prize up. This
 *    keeps a reader of Poisson arrivals, who by chance sees clusters everywhere, from spinning
 *    at them; it lets a plan begin after some three arrivals that it foresaw, and does not end
 *    it for a late message.
 * 3. Can it be afforded: a purse. Each wait puts in what a park costs in CPU, each catch what it
 *    saved; each spin takes out what it lasted, and one that the purse and a credit of eight
 *    prizes cannot pay is not begun. So for any arrivals, those of an adversary who knows every
 *    plan included,
 *
 *        spun in all <= waits x CPU of a park + latency saved x price + 8 prizes
 *
 *    which where nothing is caught is the ski-rental bound: no more than the parks cost that
 *    were made.
 *
 * Sources: Karlin, Li, Manasse and Owicki, "Empirical studies of competitive spinning for a
 * shared-memory multiprocessor" (SOSP 1991), for spinning as ski rental and for deciding it by
 * past waits; Purohit, Svitkina and Kumar, "Improving online algorithms via ML predictions"
 * (NeurIPS 2018), for trusting a prediction under a bound that holds without it; Dawid,
 * "Statistical theory: the prequential approach" (1984), for judging a forecaster by the
 * forecasts that it made.
 *
 * The constants were chosen by benchmarks/predict_simulation.py, which prints what each of them
 * and each step gains. Its merit is price x latency + CPU over that of the better of always and
 * never spinning, as a mean over 25 arrival processes on 3 machines: 0.64 here, 1.22 for the
 * next best, a moving average. */
#include "predict.h"

#include <string.h>

/* ns. Nobody parks for a gap that handling a message outlasts, and a batch published at once would
 * push everything else out of the memory. By that reason, not by the simulation. */
#define SHORTEST_GAP_NS 2000u
/* The gap that says nothing: 4.3 s or more, or not seen yet. */
#define SILENCE UINT32_MAX
/* Price of one ns of latency, in ns of CPU, where it is higher or CPU is free: keeps sums in 64
 * bits. */
#define HIGHEST_PRICE 1000u
/* Arrivals that the account remembers. 4 costs a reader of Poisson arrivals a quarter more CPU
 * than parking, 64 gains nothing. */
#define WORTH_MEMORY 16
/* Prizes that the account must be above. With 0 that reader pays 1.4 times the CPU, without an
 * account 4. */
#define WORTH_LEAST 1
/* Waits that a measured latency remembers. 4 to 16 are equal. */
#define LATENCY_MEMORY 8
/* The lead rises at once to a sleep that ends later, and falls by this share of its excess with
 * one that ends earlier. 8 has the higher p99, 64 the higher CPU: on a virtual machine each sleep
 * that the host stretches is spun for that much longer. */
#define OVERSLEEP_MEMORY 16
/* The share that is spun on for after the last gap of a window: half. Without it, p99 rises by a
 * fifth and the merit to 0.69. */
#define BEYOND 2
/* A way of waiting that so many waits have not measured, for so long (ns), is tried once. 128
 * keeps it out of the 99th percentile, a second out of the cost of fast streams. */
#define TRIAL_WAITS 128u
#define TRIAL_NS 1000000000u
/* Prizes that the purse may be short of: what lets a stream begin that has earned nothing yet;
 * and that it holds: what was saved long ago does not pay for errors today. The account is the
 * stricter judge of all that is simulated, so these bind against adversaries only:
 * test_predict.c. */
#define CREDIT 8
#define PURSE_HOLDS 64
/* First guesses, ns; the first waits correct them: a wake through a loop's poll, a spin, a timer
 * with the kernel's 50 us of slack (benchmarks/wake_latency.py). */
#define GUESS_PARK_NS 25000
#define GUESS_SPIN_NS 1000
#define GUESS_OVERSLEEP_NS 60000u
#define GUESS_PARK_CPU_NS 7000u
/* One park of so many is measured: two system calls, one of them before a message that has come.
 * 16 keeps them to some 50 ns of each. */
#define PARKS_PER_SAMPLE 16u
/* Shares of the difference to a sample that are taken over: the mean settles where a third of the
 * samples is below. By that reason, not by a measurement. */
#define PARK_CPU_FALLS 4
#define PARK_CPU_RISES 8
/* ns. A park takes 7 us of CPU on a quiet machine, and 130 us on a virtual one whose idle CPUs are
 * taken away (benchmarks/peers.py: the eventfd at 10 ms); but in a loop that always has other work that
 * is in every sample. So no more is believed than a wait without a plan may spin: max_spin. */
#define MOST_PARK_CPU_NS 50000u
/* ns. The shortest sleeps: see ASP_PREDICT_LEADS. */
#define SHORT_SLEEP_NS 500000u
/* ns. No latency and no lead is taken for more: a stopped process says nothing about waiting. */
#define MOST_NS 100000000u

static const asp_plan park_for_good = {ASP_FOREVER, ASP_FOREVER};

void asp_predict_init(asp_predict *p) {
    *p = (asp_predict){
        .park_ns = GUESS_PARK_NS,
        .spin_ns = GUESS_SPIN_NS,
        .park_cpu_ns = GUESS_PARK_CPU_NS,
    };
    for (unsigned i = 0; i < ASP_PREDICT_LEADS; i++) p->lead_ns[i] = GUESS_OVERSLEEP_NS;
    for (unsigned i = 0; i < ASP_PREDICT_GAPS; i++) p->sorted[i] = p->ordered[i] = SILENCE;
}

/* Less than an eighth is not worth the CPU at any price, and may be noise. */
static bool spinning_pays(const asp_predict *p) { return p->spin_ns + p->park_ns / 8 < p->park_ns; }

static int64_t price_of(const asp_predict *p, uint32_t latency_ns) {
    uint32_t price = p->price.cpu_per_latency;
    return (int64_t)latency_ns * (price < HIGHEST_PRICE ? price : HIGHEST_PRICE);
}

static int64_t prize(const asp_predict *p) {
    /* While spinning does not pay there are windows for trials, as if it were to be all that one
     * hopes. */
    return price_of(p, spinning_pays(p) ? p->park_ns - p->spin_ns : p->park_ns);
}

/* ---- step 2: hold the windows against an arrival ---- */

static void judge(asp_predict *p, uint32_t gap) {
    int64_t earned = 0;
    for (uint32_t i = 0; i < p->window_count; i++) {
        const asp_predict_window w = p->window[i];
        if (gap < w.from_ns) break;
        /* The park that a timer ended stands for the one that the message would have ended. */
        if (gap <= w.until_ns) earned += prize(p) - (int64_t)(gap - w.from_ns);
        else earned -= (int64_t)(w.until_ns - w.from_ns);
    }
    /* An arrival that no window was there for is no evidence. */
    if (earned) p->worth_ns += earned - p->worth_ns / WORTH_MEMORY;
}

/* ---- the memory ---- */

/* How many of the sorted gaps are shorter: always over all of them, which compilers make a few
 * vector instructions of. */
static uint32_t rank(const uint32_t *sorted, uint32_t gap) {
    uint32_t at = 0;
    for (uint32_t i = 0; i < ASP_PREDICT_GAPS; i++) at += sorted[i] < gap;
    return at;
}

static void remember_gap(asp_predict *p, uint32_t gap) {
    uint32_t *oldest = &p->ordered[p->oldest], *sorted = p->sorted;
    uint32_t gone = rank(sorted, *oldest), at = rank(sorted, gap);
    if (at > gone) {
        at--; /* the one that goes is counted in it */
        memmove(sorted + gone, sorted + gone + 1, (at - gone) * sizeof *sorted);
    } else {
        memmove(sorted + at + 1, sorted + at, (gone - at) * sizeof *sorted);
    }
    sorted[at] = *oldest = gap;
    p->oldest = (p->oldest + 1) % ASP_PREDICT_GAPS;
    p->stale = true;
}

void asp_predict_arrival(asp_predict *p, uint64_t published_ns) {
    uint64_t last = p->last_ns;
    p->last_ns = published_ns;
    uint64_t gap = asp_left(published_ns, last);
    if (!last || gap < SHORTEST_GAP_NS) return;
    uint32_t kept = gap < SILENCE ? (uint32_t)gap : SILENCE;
    judge(p, kept);
    remember_gap(p, kept);
}

/* ---- step 1: the windows ---- */

/* For a sleep that ends so long after the last arrival. */
static uint32_t *lead_of(asp_predict *p, uint64_t elapsed_ns) {
    unsigned i = 0;
    while (i < ASP_PREDICT_LEADS - 1 && elapsed_ns >= (uint64_t)SHORT_SLEEP_NS << 2 * i) i++;
    return &p->lead_ns[i];
}

/* Spin from gap `first` to gap `last` of `count`; from the start on where `through`. */
static void add_window(asp_predict *p, uint32_t first, uint32_t last, uint32_t count,
                       bool through) {
    const uint32_t *gap = p->sorted;
    const uint64_t spacing = last > first ? (gap[last] - gap[first]) / (last - first) : 0;
    const uint64_t lead = *lead_of(p, gap[first]) + spacing;
    uint64_t from = through || gap[first] <= lead ? 0 : gap[first] - lead;
    uint64_t until = gap[last] + (uint64_t)prize(p) / (count - last) / BEYOND;
    /* Each ends later than the one before: its last gap is longer, and there is more to win for
     * each after. */
    if (p->window_count && from < p->window[p->window_count - 1].until_ns) {
        from = p->window[p->window_count - 1].until_ns;
    }
    if (p->window_count == ASP_PREDICT_WINDOWS) return;
    /* What is cut short is still held against the arrivals, and does not pass if it catches too
     * few. */
    if (until - from > p->price.max_spin_ns) until = from + p->price.max_spin_ns;
    p->window[p->window_count++] = (asp_predict_window){from, until};
}

static void reckon(asp_predict *p) {
    const uint32_t *gap = p->sorted;
    const uint32_t count = rank(gap, SILENCE);
    const int64_t won = prize(p);
    bool enter[ASP_PREDICT_GAPS]; /* parked before gap i: begin to spin for it */
    bool leave[ASP_PREDICT_GAPS]; /* spinning at gap i: end it there */
    /* What the gaps from i on earn a reader that is parked, or spins, when gap i - 1 is over. */
    int64_t parked = 0, spinning = INT64_MIN / 2;
    for (uint32_t i = count; i-- > 0;) {
        const int64_t waiting = count - i, lead = *lead_of(p, gap[i]);
        leave[i] = spinning <= parked - won; /* the last one of a window wins nothing */
        int64_t from_here = leave[i] ? parked - won : spinning;
        spinning = from_here + won - waiting * (gap[i] - (i ? gap[i - 1] : 0));
        enter[i] = from_here - waiting * lead > parked; /* nor does the first */
        if (enter[i]) parked = from_here - waiting * lead;
    }
    p->window_count = 0;
    p->stale = false;
    bool spins = spinning > parked, through = spins;
    uint32_t first = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (!spins && enter[i]) {
            spins = true;
            first = i;
        }
        if (spins && leave[i]) {
            add_window(p, first, i, count, through);
            spins = through = false;
        }
    }
}

/* ---- step 3: the plan, and what became of it ---- */

/* This wait takes the way that seems to pay less, for once, to see whether it still does. */
static bool begin_trial(asp_predict *p, uint64_t now_ns) {
    uint32_t unmeasured = spinning_pays(p) ? p->since_parked : p->since_spun;
    if (unmeasured < TRIAL_WAITS || asp_left(now_ns, p->tried_ns) < TRIAL_NS) return false;
    p->tried_ns = now_ns;
    return true;
}

static void set_price(asp_predict *p, const asp_price *price) {
    if (p->price.cpu_per_latency == price->cpu_per_latency &&
        p->price.max_spin_ns == price->max_spin_ns) {
        return;
    }
    p->price = *price;
    p->stale = true;
}

asp_plan asp_predict_plan(asp_predict *p, uint64_t now_ns, const asp_price *price) {
    set_price(p, price);
    p->due_ns = ASP_FOREVER;
    if (!p->waiting) {
        p->waiting = true;
        p->begun_ns = now_ns;
        p->since_parked++;
        p->since_spun++;
        p->trial = begin_trial(p, now_ns);
        p->slept = false;
    }
    if (!price->cpu_per_latency || !price->max_spin_ns) return park_for_good;
    const bool is_free = price->cpu_per_latency == ASP_PRICE_FREE;
    if (is_free) {
        /* From the begin of the wait, or, where the clock went back, from now. */
        uint64_t from = p->begun_ns < now_ns ? p->begun_ns : now_ns;
        uint64_t until = asp_after(from, price->max_spin_ns);
        if (now_ns < until) return (asp_plan){now_ns, until};
    }
    if (p->stale) reckon(p);
    if (spinning_pays(p) == p->trial || p->worth_ns <= WORTH_LEAST * prize(p)) return park_for_good;
    /* A record from the future makes it longer than any window. */
    const uint64_t elapsed = now_ns - p->last_ns;
    int64_t cost = 0;
    for (uint32_t i = 0; i < p->window_count; i++) {
        const asp_predict_window w = p->window[i];
        cost += (int64_t)(w.until_ns - w.from_ns);
        if (elapsed >= w.until_ns) continue;
        if (!is_free && cost > p->purse_ns + CREDIT * prize(p)) return park_for_good;
        /* A sleep that saves less than a park costs is none. */
        uint64_t from = elapsed + p->park_cpu_ns < w.from_ns ? w.from_ns : elapsed;
        const asp_plan plan = {asp_after(p->last_ns, from), asp_after(p->last_ns, w.until_ns)};
        if (from > elapsed) p->due_ns = plan.spin_from_ns;
        return plan;
    }
    return park_for_good;
}

void asp_predict_overslept(asp_predict *p, uint64_t due_ns, uint64_t woke_ns) {
    uint32_t *known = lead_of(p, asp_left(due_ns, p->last_ns));
    const uint64_t late = asp_left(woke_ns, due_ns), lead = *known;
    uint64_t next = lead - asp_left(lead, late) / OVERSLEEP_MEMORY;
    /* One freak does not move it far. */
    if (late > lead) next = late < 2 * lead ? late : 2 * lead + 1000;
    *known = next < MOST_NS ? (uint32_t)next : MOST_NS;
    p->slept = true;
}

void asp_predict_parked(asp_predict *p) { p->parks++; }

bool asp_predict_wants_cpu(const asp_predict *p) { return p->parks % PARKS_PER_SAMPLE == 0; }

void asp_predict_park_cpu(asp_predict *p, uint64_t cpu_ns) {
    /* Whatever else the thread did meanwhile is in it as well, so the mean follows the cheaper
     * ones: down fast, up slowly. */
    const uint64_t mean = p->park_cpu_ns, most = mean < MOST_PARK_CPU_NS / 2 ? 2 * mean + 1000 : MOST_PARK_CPU_NS;
    if (cpu_ns > most) cpu_ns = most;
    p->park_cpu_ns = (uint32_t)(cpu_ns < mean ? mean - (mean - cpu_ns) / PARK_CPU_FALLS
                                              : mean + (cpu_ns - mean) / PARK_CPU_RISES);
}

/* A moving mean in which no sample counts for more than four times as much. */
static void remember_latency(uint32_t *mean, uint64_t sample) {
    const uint64_t most = 4 * (uint64_t)*mean + 100;
    if (sample > most) sample = most;
    const uint64_t next = *mean + sample / LATENCY_MEMORY - *mean / LATENCY_MEMORY;
    *mean = next < MOST_NS ? (uint32_t)next : MOST_NS;
}

void asp_predict_outcome(asp_predict *p, asp_predict_end end, uint64_t published_ns,
                         uint64_t seen_ns, uint64_t spun_ns) {
    if (!p->waiting) return;
    p->waiting = false;
    const uint64_t latency = asp_left(seen_ns, published_ns);
    /* Of a message that was there before it began a way of waiting says nothing. */
    const bool waited_for = published_ns >= p->begun_ns;
    int64_t saved = 0;
    if (end == ASP_PREDICT_SPUN) {
        p->statistics.predicted++;
        p->statistics.spun_caught_ns += spun_ns;
        if (waited_for && latency <= spun_ns) {
            remember_latency(&p->spin_ns, latency);
            p->since_spun = 0;
        }
        if (latency < p->park_ns) saved = price_of(p, p->park_ns - (uint32_t)latency);
    } else {
        p->statistics.late += spun_ns != 0;
        p->statistics.spun_lost_ns += spun_ns;
    }
    if (end == ASP_PREDICT_WOKEN) {
        if (published_ns >= p->due_ns) {
            /* The timer was late, and would have been later still: left out, the latest would
             * never be learned from. How long the message waited says nothing about parks. */
            asp_predict_overslept(p, p->due_ns, seen_ns);
        } else {
            p->statistics.early += p->due_ns != ASP_FOREVER;
            if (waited_for) {
                remember_latency(&p->park_ns, latency);
                p->since_parked = 0;
            }
        }
    }
    /* A lead too long for any sleep to be planned is not measured again: it goes back to the
     * guess. */
    for (unsigned i = 0; !p->slept && i < ASP_PREDICT_LEADS; i++) {
        const uint32_t above = p->lead_ns[i] - GUESS_OVERSLEEP_NS;
        if (p->lead_ns[i] > GUESS_OVERSLEEP_NS) p->lead_ns[i] -= above / OVERSLEEP_MEMORY;
    }
    const int64_t spun = spun_ns < INT64_MAX / 4 ? (int64_t)spun_ns : INT64_MAX / 4;
    const int64_t most = PURSE_HOLDS * prize(p);
    int64_t purse = p->purse_ns + saved + p->park_cpu_ns;
    if (purse > most) purse = most;
    p->purse_ns = purse > INT64_MIN / 4 ? purse - spun : purse; /* not below what 64 bits hold */
}
