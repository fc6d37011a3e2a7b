#include "wait.h"

#include <sched.h>

#include "clock.h"
#include "tally.h"

/* Looks between two readings of the clock while pausing. A look and a pause take 10 to 60 ns, a
 * reading 20 to 40 ns: with eight the clock costs a tenth and the overshoot stays under 1 us. */
#define LOOKS_PER_CLOCK 8

/* ns between two yields of a spinning thread. A system call of 0.2 to 0.6 us costs 2 to 6 % of what burns
 * anyhow, and a writer waits no longer than this for its CPU: benchmarks/constants.py, "yield". Where a
 * stranger computes on that CPU a yield costs a time slice of 3 ms; then a reader learns that a spin is slower than a
 * park. (To yield seldom after such a loss has been tried: it kept readers from learning that.) */
#define YIELD_NS 10000u

uint64_t asp_step_back(uint64_t *next_ns, uint64_t now_ns) {
    if (now_ns < *next_ns) return now_ns;
    sched_yield();
    now_ns = asp_now_ns();
    *next_ns = asp_after(now_ns, YIELD_NS);
    return now_ns;
}

static asp_selection current;

void asp_use(const asp_selection *selection) { current = *selection; }
const asp_selection *asp_current(void) { return &current; }

bool asp_one_line(const asp_watch *watch) {
    uintptr_t first = (uintptr_t)watch->address;
    return current.monitor->watches && watch->span &&
           first / current.line_bytes == (first + watch->span - 1) / current.line_bytes;
}

bool asp_spin_step(asp_watch *watch, bool armed, uint64_t slice_ns) {
    if (armed) {
        current.monitor->arm(watch->address);
        /* The re-check: a store before the arming would not end the wait (T3). */
        if (watch->look(watch)) return true;
        current.monitor->wait(slice_ns < ASP_SLICE_NS ? slice_ns : ASP_SLICE_NS);
        return watch->look(watch);
    }
    for (int i = 0; i < LOOKS_PER_CLOCK; i++) {
        if (watch->look(watch)) return true;
        current.monitor->pause(0);
    }
    return false;
}

bool asp_spin(asp_watch *watch, uint64_t until_ns, bool hardware) {
    bool armed = hardware && asp_one_line(watch);
    uint64_t start = asp_now_ns(), now = start, yield_ns = asp_after(start, YIELD_NS);
    bool ready;
    for (;;) {
        ready = asp_spin_step(watch, armed, asp_left(until_ns, now));
        now = asp_now_ns();
        if (ready || now >= until_ns) break;
        now = asp_step_back(&yield_ns, now);
    }
    ASP_COUNT(spin_ns, now - start);
    return ready;
}

asp_pace asp_pace_start(uint64_t now_ns, uint64_t spin_ns, uint64_t max_sleep_ns, bool hardware) {
    return (asp_pace){
        .spin_until_ns = spin_ns ? asp_after(now_ns, spin_ns) : 0,
        .sleep_ns = ASP_FIRST_SLEEP_NS,
        .max_sleep_ns = max_sleep_ns,
        .hardware = hardware,
    };
}

asp_pace asp_pace_predicted(asp_predict *predict, const asp_price *price, uint64_t max_sleep_ns,
                            bool hardware) {
    asp_pace pace = asp_pace_start(0, 0, max_sleep_ns, hardware);
    pace.predict = predict;
    pace.price = *price;
    return pace;
}

bool asp_pace_spins(asp_pace *pace, uint64_t now_ns) {
    if (pace->predict && now_ns >= pace->spin_until_ns) {
        const asp_plan plan = asp_predict_plan(pace->predict, now_ns, &pace->price);
        pace->spin_from_ns = plan.spin_from_ns;
        pace->spin_until_ns = plan.spin_until_ns;
    }
    return pace->spin_from_ns <= now_ns && now_ns < pace->spin_until_ns;
}

uint64_t asp_pace_sleep(asp_pace *pace) {
    if (pace->sleep_ns > pace->max_sleep_ns) pace->sleep_ns = pace->max_sleep_ns;
    uint64_t sleep_ns = pace->sleep_ns;
    pace->sleep_ns *= 2;
    return sleep_ns;
}

static asp_status satisfied(const asp_pace *pace) {
    /* Of those that did both, the way that ended it counts. */
    if (pace->parked && !pace->spinning) ASP_COUNT(parked, 1);
    else ASP_COUNT(spun, 1);
    return ASP_READY;
}

static uint64_t earlier(uint64_t a, uint64_t b) { return a < b ? a : b; }

bool asp_peers_live(asp_watch *watch) { return !watch->peers_live || watch->peers_live(watch); }

static asp_status timed_out(void) {
    ASP_COUNT(timed_out, 1);
    return ASP_TIMED_OUT;
}

/* pace->recheck_ns has come. */
static asp_status come_up(asp_watch *watch, asp_pace *pace) {
    pace->recheck_ns = 0;
    return asp_peers_live(watch) ? ASP_INTERRUPTED : timed_out();
}

asp_status asp_wait(asp_watch *watch, asp_pace *pace, uint64_t deadline_ns) {
    uint64_t now = asp_now_ns();
    if (!pace->recheck_ns) pace->recheck_ns = asp_after(now, ASP_RECHECK_NS);
    const uint64_t recheck = pace->recheck_ns;
    asp_futex_word words[ASP_WATCH_WORDS];
    for (;;) {
        while (asp_pace_spins(pace, now) && now < deadline_ns) {
            uint64_t until = earlier(pace->spin_until_ns, earlier(deadline_ns, recheck));
            pace->spinning = true;
            if (pace->due_ns) asp_predict_overslept(pace->predict, pace->due_ns, now);
            pace->due_ns = 0;
            bool ready = asp_spin(watch, until, pace->hardware);
            uint64_t begun = now;
            now = asp_now_ns();
            pace->spun_ns += now - begun;
            if (ready) return satisfied(pace);
            if (until == recheck) return come_up(watch, pace);
        }
        pace->spinning = false;
        unsigned count = watch->prepare ? watch->prepare(watch, words, ASP_WATCH_WORDS) : 0;
        if (watch->look(watch)) return satisfied(pace);
        if (now >= deadline_ns) return timed_out();
        if (now >= recheck) return come_up(watch, pace);
        uint64_t until = earlier(deadline_ns, recheck);
        bool until_spin = pace->spin_from_ns > now && pace->spin_from_ns < until;
        if (until_spin) until = pace->spin_from_ns;
        uint64_t slack_ns = until_spin ? asp_timer_slack(1) : 0;
        const uint64_t cpu = pace->predict && asp_predict_wants_cpu(pace->predict) ? asp_thread_cpu_ns() : 0;
        asp_status slept =
            count ? asp_futex_wait(words, count, until)
                  : asp_sleep_until(earlier(until, asp_after(now, asp_pace_sleep(pace))));
        if (slack_ns) asp_timer_slack(slack_ns);
        if (pace->predict) asp_predict_parked(pace->predict);
        if (cpu) asp_predict_park_cpu(pace->predict, asp_left(asp_thread_cpu_ns(), cpu));
        ASP_COUNT(parks, 1);
        pace->parked = true;
        if (watch->look(watch)) return satisfied(pace);
        if (slept == ASP_READY) ASP_COUNT(spurious, 1);
        if (slept == ASP_INTERRUPTED) return slept;
        now = asp_now_ns();
        if (until_spin && now >= until) {
            pace->due_ns = until;
            if (pace->rehearses) return ASP_DUE;
        }
    }
}
