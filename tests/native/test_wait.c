/* test_wait.c - one blocking wait: it ends when ready, never before its deadline, and counts what it did. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sched_setaffinity */
#endif
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/time.h>

#include "atomics.h"
#include "check.h"
#include "clock.h"
#include "learnt_period.h"
#include "park.h"
#include "step_back.h"
#include "tally.h"
#include "wait.h"

#define MS UINT64_C(1000000)
#define PATIENCE_NS (UINT64_C(20000) * MS)

/* A watch over a flag, with an eventcount beside it as in the ring. */
typedef struct flag {
    asp_watch watch;
    uint32_t word, park;
    uint64_t looks, ready_at; /* with ready_at, the look of that number is true */
    unsigned asked, dies_at;  /* after its peer; with dies_at, the question of that number is answered with no */
} flag;

static bool peers_live(asp_watch *watch) {
    flag *f = (flag *)watch;
    return ++f->asked != f->dies_at;
}

static bool look(asp_watch *watch) {
    flag *f = (flag *)watch;
    uint64_t looks = asp_load_relaxed_u64(&f->looks) + 1;
    asp_store_relaxed_u64(&f->looks, looks);
    return asp_load_acquire_u32(&f->word) || looks == f->ready_at;
}

static unsigned prepare(asp_watch *watch, asp_futex_word *words, unsigned room) {
    flag *f = (flag *)watch;
    CHECK(room == ASP_WATCH_WORDS);
    words[0] = (asp_futex_word){&f->park, asp_park_prepare(&f->park)};
    return 1;
}

static void init(flag *f, bool notified) {
    *f = (flag){.watch = {.look = look, .prepare = notified ? prepare : NULL, .address = &f->word, .span = 4}};
}

static asp_status wait_through(asp_watch *watch, asp_pace *pace, uint64_t deadline_ns) {
    asp_status status;
    while ((status = asp_wait(watch, pace, deadline_ns)) == ASP_INTERRUPTED) {
    }
    return status;
}

/* Spinning, sleeping and parking, each to a deadline that nothing anticipates. */
static void never_ends_before_its_deadline(void) {
    for (int notified = 0; notified < 2; notified++)
        for (uint64_t spin_ms = 0; spin_ms <= 2000; spin_ms = spin_ms < 2 ? spin_ms + 1 : 1000 * spin_ms)
            for (uint64_t ms = 0; ms < 3; ms++) {
                flag f;
                init(&f, notified);
                const uint64_t timed_out = asp_tally_read().timed_out, now = asp_now_ns();
                asp_pace pace = asp_pace_start(now, spin_ms * MS, MS, true);
                CHECK(wait_through(&f.watch, &pace, now + ms * MS) == ASP_TIMED_OUT);
                const uint64_t took = asp_now_ns() - now;
                CHECK_SAY(took >= ms * MS && took < 1500 * MS, "%" PRIu64 " ns of %" PRIu64 " ms", took, ms);
                CHECK(asp_tally_read().timed_out == timed_out + 1);
            }
}

static void a_deadline_in_the_past_still_looks(void) {
    flag f;
    init(&f, false);
    asp_pace pace = asp_pace_start(asp_now_ns(), 0, MS, true);
    CHECK(asp_wait(&f.watch, &pace, 0) == ASP_TIMED_OUT);
    f.word = 1;
    CHECK(asp_wait(&f.watch, &pace, 0) == ASP_READY);
}

static void counts_how_it_was_satisfied(void) {
    for (uint64_t at = 1; at < 6; at++)
        for (int spins = 0; spins < 2; spins++) {
            flag f;
            init(&f, false);
            f.ready_at = at;
            const asp_tally before = asp_tally_read();
            asp_pace pace = asp_pace_start(asp_now_ns(), spins ? PATIENCE_NS : 0, MS, true);
            CHECK(wait_through(&f.watch, &pace, ASP_FOREVER) == ASP_READY);
            const uint64_t parks = asp_tally_read().parks - before.parks;
            CHECK(asp_tally_read().spun - before.spun == (parks ? 0 : 1));
            CHECK(asp_tally_read().parked - before.parked == (parks ? 1 : 0));
            CHECK(spins || at == 1 ? parks == 0 : parks > 0);
            CHECK((asp_tally_read().spin_ns > before.spin_ns) == (spins == 1));
            CHECK(f.looks == at); /* a look that was true is never followed by another */
        }
}

static void sleeps_double_up_to_their_limit(void) {
    asp_pace pace = asp_pace_start(0, 0, 10 * ASP_FIRST_SLEEP_NS, false);
    uint64_t want = ASP_FIRST_SLEEP_NS;
    for (int i = 0; i < 10; i++, want *= 2)
        CHECK(asp_pace_sleep(&pace) == (want < 10 * ASP_FIRST_SLEEP_NS ? want : 10 * ASP_FIRST_SLEEP_NS));
    pace = asp_pace_start(0, 0, 1, false);
    CHECK(asp_pace_sleep(&pace) == 1 && asp_pace_sleep(&pace) == 1);
}

static void a_long_wait_comes_up_for_signals(void) {
    for (int notified = 0; notified < 2; notified++)
        for (int spins = 0; spins < 2; spins++) {
            flag f;
            init(&f, notified);
            const uint64_t now = asp_now_ns();
            asp_pace pace = asp_pace_start(now, spins ? PATIENCE_NS : 0, PATIENCE_NS, true);
            pace.sleep_ns = PATIENCE_NS;
            CHECK(asp_wait(&f.watch, &pace, ASP_FOREVER) == ASP_INTERRUPTED);
            CHECK(asp_now_ns() - now >= ASP_RECHECK_NS);
        }
}

/* Asked when it comes up, whichever way it waits; the death ends it, long before its deadline. */
static void a_long_wait_asks_after_its_peers(void) {
    for (int notified = 0; notified < 2; notified++)
        for (int spins = 0; spins < 2; spins++) {
            flag f;
            init(&f, notified);
            f.watch.peers_live = peers_live;
            f.dies_at = 2;
            const uint64_t timed_out = asp_tally_read().timed_out;
            for (unsigned asked = 1; asked <= 2; asked++) {
                asp_pace pace = asp_pace_start(asp_now_ns(), spins ? PATIENCE_NS : 0, PATIENCE_NS, true);
                pace.sleep_ns = PATIENCE_NS;
                CHECK(asp_wait(&f.watch, &pace, ASP_FOREVER) == (asked < 2 ? ASP_INTERRUPTED : ASP_TIMED_OUT));
                CHECK(!pace.recheck_ns); /* the next time is reckoned anew */
                CHECK(f.asked == asked);
                CHECK(asp_tally_read().timed_out == timed_out + asked - 1);
            }
            asp_pace pace = asp_pace_start(asp_now_ns(), 0, MS, true);
            CHECK(asp_wait(&f.watch, &pace, asp_now_ns() + MS) == ASP_TIMED_OUT);
            CHECK(f.asked == 2); /* a short one asks nobody */
        }
}

/* A machine with other work may wake us when the time to spin is over, so it may take a few tries. */
#define TRIES 200

static void a_predicted_wait_sleeps_and_then_spins(void) {
    for (int notified = 0; notified < 2; notified++) {
        int tries = 0;
        for (bool spun = false, caught = false; !spun || !caught;) {
            CHECK(tries++ < TRIES);
            flag f;
            init(&f, notified);
            asp_predict predict;
            const asp_price price = {8, 2 * MS};
            learn_period(&predict, &price, 20 * MS);
            uint64_t parks = asp_tally_read().parks;
            asp_pace pace = asp_pace_predicted(&predict, &price, PATIENCE_NS, true);
            pace.sleep_ns = PATIENCE_NS;
            CHECK(wait_through(&f.watch, &pace, asp_now_ns() + 30 * MS) == ASP_TIMED_OUT);
            parks = asp_tally_read().parks - parks; /* before the spin, and after it */
            /* what others had of its CPU when it stepped back is in it too */
            spun |= parks >= 2 && pace.spun_ns > 0 && pace.spun_ns < 10 * MS;
            /* caught while spinning: the third look is before the first sleep or after it, the twelfth a spin's */
            learn_period(&predict, &price, 20 * MS);
            pace = asp_pace_predicted(&predict, &price, PATIENCE_NS, true);
            pace.sleep_ns = PATIENCE_NS;
            f.ready_at = f.looks + 12;
            if (wait_through(&f.watch, &pace, asp_now_ns() + 30 * MS) == ASP_READY && pace.spinning) {
                CHECK(pace.parked && pace.spun_ns > 0);
                caught = true;
            }
        }
    }
}

/* Whoever asks for it is told when the sleep is over, and goes on into the spin. */
static void a_planned_sleep_ends_in_a_rehearsal(void) {
    for (int notified = 0; notified < 2; notified++) {
        int tries = 0;
        for (bool spun = false; !spun;) {
            CHECK(tries++ < TRIES);
            flag f;
            init(&f, notified);
            asp_predict predict;
            const asp_price price = {8, 2 * MS};
            learn_period(&predict, &price, 20 * MS);
            const uint64_t deadline = asp_now_ns() + 30 * MS;
            asp_pace pace = asp_pace_predicted(&predict, &price, PATIENCE_NS, true);
            pace.sleep_ns = PATIENCE_NS;
            pace.rehearses = true;
            if (wait_through(&f.watch, &pace, deadline) != ASP_DUE) continue;
            CHECK(pace.due_ns <= asp_now_ns() && pace.due_ns > deadline - 30 * MS);
            CHECK(pace.parked && !pace.spun_ns);
            CHECK(!predict.slept); /* the rehearsal makes the spin late as well */
            asp_pace rest = asp_pace_predicted(&predict, &price, PATIENCE_NS, true);
            rest.sleep_ns = PATIENCE_NS;
            rest.rehearses = true;
            rest.due_ns = pace.due_ns;
            CHECK(wait_through(&f.watch, &rest, deadline) == ASP_TIMED_OUT);
            spun = rest.spun_ns > 0;
            if (spun) CHECK(predict.slept && !rest.due_ns);
        }
    }
}

static void on_alarm(int number) { (void)number; }

static void a_signal_ends_a_park(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_alarm;
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    const struct itimerval often = {{0, 2000}, {0, 2000}}, never = {{0, 0}, {0, 0}};
    flag f;
    init(&f, true);
    asp_pace pace = asp_pace_start(asp_now_ns(), 0, MS, true);
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    const uint64_t now = asp_now_ns();
    CHECK(asp_wait(&f.watch, &pace, ASP_FOREVER) == ASP_INTERRUPTED);
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
    CHECK(asp_now_ns() - now < ASP_RECHECK_NS);
    CHECK(wait_through(&f.watch, &pace, asp_now_ns()) == ASP_TIMED_OUT); /* and can be gone on with */
    /* Signals that come more often than it asks after its peers do not put that off. */
    f.watch.peers_live = peers_live;
    f.dies_at = 1;
    pace = asp_pace_start(asp_now_ns(), 0, MS, true);
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    CHECK(wait_through(&f.watch, &pace, asp_now_ns() + PATIENCE_NS) == ASP_TIMED_OUT);
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
    CHECK(f.asked == 1);
}

static void one_line_is_one_line(void) {
    const asp_selection before = *asp_current();
    const asp_monitor watching = {.name = "for this test", .watches = true};
    const asp_selection fake = {.monitor = &watching, .line_bytes = 64};
    static _Alignas(64) uint8_t memory[192];
    asp_use(&fake);
    for (unsigned at = 0; at < 128; at++)
        for (uint32_t span = 0; span <= 64; span++) {
            const asp_watch watch = {.look = look, .address = memory + at, .span = span};
            CHECK(asp_one_line(&watch) == (span && at % 64 + span <= 64));
        }
    asp_use(&before);
}

/* A monitor that is stored to while it is being armed: the store ends no wait of it. */
static uint32_t *stored_to;
static unsigned monitor_waits;

static void arm_too_late(const void *address) {
    CHECK(address == stored_to);
    *stored_to = 1;
}

static void wait_in_vain(uint64_t slice_ns) {
    CHECK(slice_ns <= ASP_SLICE_NS);
    monitor_waits++;
}

static void a_store_before_the_arming_is_seen(void) {
    const asp_selection before = *asp_current();
    const asp_monitor monitor = {
        .name = "for this test", .watches = true, .arm = arm_too_late, .wait = wait_in_vain};
    const asp_selection fake = {.monitor = &monitor, .line_bytes = 64};
    flag f;
    init(&f, false);
    stored_to = &f.word;
    asp_use(&fake);
    CHECK(asp_spin_step(&f.watch, true, ASP_FOREVER) && monitor_waits == 0);
    asp_use(&before);
}

/* ---- two threads ---- */

static void *raise_in_a_while(void *argument) {
    flag *f = argument;
    const uint64_t looks = asp_load_relaxed_u64(&f->looks), since = asp_now_ns();
    while (asp_load_relaxed_u64(&f->looks) < looks + 3) { /* it has begun, and sleeps or is about to */
        CHECK(asp_now_ns() - since < PATIENCE_NS);
        if (f->watch.prepare && asp_load_relaxed_u32(&f->park) & 1) break;
        sched_yield();
    }
    asp_store_release_u32(&f->word, 1);
    asp_park_notify(&f->park);
    return NULL;
}

static void is_woken_however_it_waits(void) {
    for (int round = 0; round < 40; round++) {
        const uint64_t spins[] = {0, MS / 10, PATIENCE_NS};
        for (int s = 0; s < 3; s++)
            for (int notified = 0; notified < 2; notified++) {
                flag f;
                pthread_t thread;
                init(&f, notified);
                asp_pace pace = asp_pace_start(asp_now_ns(), spins[s], MS, round % 2);
                CHECK(pthread_create(&thread, NULL, raise_in_a_while, &f) == 0);
                const uint64_t now = asp_now_ns();
                CHECK(wait_through(&f.watch, &pace, asp_after(now, PATIENCE_NS)) == ASP_READY);
                CHECK(pthread_join(thread, NULL) == 0);
            }
    }
}

/* ---- a writer that wants the CPU of the spinner ---- */

static void a_spinner_steps_back_for_its_writer(void) {
    for (int hardware = 0; hardware < 2; hardware++) {
        flag f;
        init(&f, false);
        stepping_back_stores = &f.word;
        CHECK(asp_spin(&f.watch, asp_now_ns() + 1000 * MS, hardware)); /* nobody else stores */
        stepping_back_stores = NULL;
    }
}

static void it_steps_back_no_more_than_once_in_10_us(void) {
    flag f;
    init(&f, false);
    const unsigned before = steps_back;
    const uint64_t now = asp_now_ns();
    CHECK(!asp_spin(&f.watch, now + 10 * MS, true));
    const uint64_t took = asp_now_ns() - now;
    CHECK_SAY(steps_back - before <= 1 + took / 10000, "%u in %" PRIu64 " ns", steps_back - before, took);
}

/* A CPU that goes to nobody else before its thread waits or steps back: SCHED_FIFO. Who may not have that still sees
 * that the two get along. */
static size_t shared_cpu;

static void share_the_cpu(void) {
    const struct sched_param lowest = {.sched_priority = 1};
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(shared_cpu, &one);
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
    pthread_setschedparam(pthread_self(), SCHED_FIFO, &lowest);
}

#define PUBLISHED 50

static void *sleep_and_publish(void *argument) {
    flag *f = argument;
    share_the_cpu();
    for (int i = 0; i < PUBLISHED;) {
        asp_sleep_until(asp_now_ns() + MS / 5);
        if (asp_load_acquire_u32(&f->word)) continue; /* not yet seen */
        asp_store_release_u32(&f->word, 1);
        i++;
    }
    return NULL;
}

static void *spin_for_each(void *argument) {
    flag *f = argument;
    unsigned caught = 0;
    share_the_cpu();
    for (int i = 0; i < PUBLISHED; i++) {
        caught += asp_spin(&f->watch, asp_now_ns() + 50 * MS, true);
        while (!look(&f->watch)) sched_yield();
        asp_store_release_u32(&f->word, 0);
    }
    CHECK_SAY(caught > PUBLISHED / 2, "%u of %d spins ended before their time", caught, PUBLISHED);
    return NULL;
}

static void a_writer_on_the_same_cpu_does_not_starve(void) {
    flag f;
    pthread_t writer, reader;
    init(&f, false);
    shared_cpu = (size_t)sched_getcpu();
    CHECK(pthread_create(&writer, NULL, sleep_and_publish, &f) == 0);
    CHECK(pthread_create(&reader, NULL, spin_for_each, &f) == 0);
    CHECK(pthread_join(writer, NULL) == 0);
    CHECK(pthread_join(reader, NULL) == 0);
}

int main(void) {
    asp_selection selection;
    CHECK_SAY(asp_select(NULL, &selection) == ASP_READY, "%s", selection.why);
    asp_use(&selection);
    never_ends_before_its_deadline();
    a_deadline_in_the_past_still_looks();
    counts_how_it_was_satisfied();
    sleeps_double_up_to_their_limit();
    a_long_wait_comes_up_for_signals();
    a_long_wait_asks_after_its_peers();
    a_signal_ends_a_park();
    one_line_is_one_line();
    a_store_before_the_arming_is_seen();
    a_predicted_wait_sleeps_and_then_spins();
    a_planned_sleep_ends_in_a_rehearsal();
    a_spinner_steps_back_for_its_writer();
    it_steps_back_no_more_than_once_in_10_us();
    a_writer_on_the_same_cpu_does_not_starve();
    is_woken_however_it_waits();
    printf("test_wait: passed\n");
    return 0;
}
