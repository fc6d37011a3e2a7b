/* test_waiter.c - the ticket table: every ticket ends exactly once, whoever is faster, and memory that
 * was cancelled is never looked at again.
 *
 *   test_waiter [SECONDS [SEED]]     for the stress at the end, 0.8 when not given */
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "atomics.h"
#include "check.h"
#include "clock.h"
#include "learnt_period.h"
#include "step_back.h"
#include "tally.h"
#include "waiter.h"

#define MS UINT64_C(1000000)
#define PATIENCE_NS (UINT64_C(20000) * MS)

/* A watch over one 32-bit flag: ready when it is not 0. */
typedef struct flag {
    asp_watch watch;
    asp_ticket ticket;
    uint32_t *word;
    uint64_t looks;
    unsigned asked, dies_at; /* after its peer; the question of that number is answered with no */
} flag;

static bool flag_peers_live(asp_watch *watch) {
    flag *f = (flag *)watch;
    return ++f->asked != f->dies_at;
}

static bool flag_look(asp_watch *watch) {
    flag *f = (flag *)watch;
    asp_add_relaxed_u64(&f->looks, 1);
    return asp_load_acquire_u32(f->word) != 0;
}

static unsigned flag_prepare(asp_watch *watch, asp_futex_word *words, unsigned room) {
    flag *f = (flag *)watch;
    if (!room) return 0;
    words[0] = (asp_futex_word){f->word, asp_load_acquire_u32(f->word)};
    return 1;
}

static void flag_init(flag *f, uint32_t *word, bool notified) {
    memset(f, 0, sizeof *f);
    f->word = word;
    f->watch = (asp_watch){
        .look = flag_look, .prepare = notified ? flag_prepare : NULL, .address = word, .span = 4};
}

static void raise_flag(uint32_t *word) {
    asp_store_release_u32(word, 1);
    asp_futex_wake(word);
}

static asp_status submit(asp_waiter *w, flag *f, void *token, uint64_t spin_ns, uint64_t timeout_ns) {
    void *stale;
    uint64_t now = asp_now_ns();
    asp_pace pace = asp_pace_start(now, spin_ns, MS, true);
    asp_status status = asp_waiter_submit(w, &f->ticket, &f->watch, token, &pace, asp_after(now, timeout_ns), &stale);
    CHECK(stale == NULL);
    return status;
}

static flag *take(asp_waiter *w, asp_status *status) {
    void *token = NULL;
    if (!asp_waiter_take(w, &token, status)) return NULL;
    return token;
}

static pthread_t start(void *(*body)(void *), void *argument) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, body, argument) == 0);
    return thread;
}

static void patient(uint64_t since) {
    CHECK(asp_now_ns() - since < PATIENCE_NS);
    sched_yield();
}

/* Until the thread has gone to sleep at least once more. */
static void until_parked(uint64_t parks_before) {
    uint64_t since = asp_now_ns();
    while (asp_tally_read().parks == parks_before) patient(since);
}

/* The thread sleeps until the spin is due, also beside a wait that nothing foretells. On a machine with other work
 * it may be woken when the time to spin is over, so it may take a few tries. */
#define TRIES 200

static void a_predicted_wait_sleeps_and_then_spins(void) {
    asp_waiter *w = asp_waiter_new();
    uint32_t word = 0, never = 0;
    flag f, other;
    asp_status status;
    void *stale, *token;
    flag_init(&other, &never, true);
    CHECK(submit(w, &other, &other, 0, ASP_FOREVER) == ASP_READY);
    int tries = 0;
    for (bool spun = false; !spun;) {
        CHECK(tries++ < TRIES);
        flag_init(&f, &word, true);
        asp_predict predict;
        const asp_price price = {8, 2 * MS};
        learn_period(&predict, &price, 20 * MS);
        asp_pace pace = asp_pace_predicted(&predict, &price, MS, true);
        const uint64_t now = asp_now_ns(), parks = asp_tally_read().parks;
        CHECK(asp_waiter_submit(w, &f.ticket, &f.watch, &f, &pace, now + 30 * MS, &stale) == ASP_READY);
        CHECK(asp_waiter_run(w, ASP_FOREVER) == ASP_READY);
        CHECK(take(w, &status) == &f && status == ASP_TIMED_OUT);
        /* what others had of its CPU when it stepped back is in it too */
        const uint64_t spun_ns = f.ticket.pace.spun_ns;
        spun = asp_tally_read().parks - parks >= 2 && spun_ns > 0 && spun_ns < 10 * MS;
    }
    CHECK(asp_waiter_cancel(w, &other.ticket, &token) && token == &other);
    asp_waiter_free(w);
}

/* A writer that wakes on the CPU of the thread gets it. */
static void a_spinning_waiter_steps_back(void) {
    enum { N = 3 }; /* one is spun for, several are scanned */
    static flag f[N];
    for (int count = 1; count <= N; count += N - 1) {
        asp_waiter *w = asp_waiter_new();
        uint32_t word = 0;
        asp_status status;
        for (int i = 0; i < count; i++) {
            flag_init(&f[i], &word, false);
            CHECK(submit(w, &f[i], &f[i], PATIENCE_NS, 1000 * MS) == ASP_READY);
        }
        stepping_back_stores = &word; /* nobody else stores */
        CHECK(asp_waiter_run(w, 0) == ASP_READY);
        stepping_back_stores = NULL;
        for (int i = 0; i < count; i++) CHECK(take(w, &status) && status == ASP_READY);
        asp_waiter_free(w);
    }
}

static void a_completion_is_taken_once(void) {
    asp_waiter *w = asp_waiter_new();
    uint32_t word = 1;
    flag f;
    asp_status status;
    flag_init(&f, &word, false);
    CHECK(submit(w, &f, &f, 0, ASP_FOREVER) == ASP_READY);
    CHECK(asp_waiter_live(w) == 1);
    CHECK(asp_waiter_run(w, 0) == ASP_READY);
    CHECK(asp_waiter_live(w) == 0);
    CHECK(take(w, &status) == &f && status == ASP_READY);
    CHECK(take(w, &status) == NULL);
    void *token;
    CHECK(!asp_waiter_cancel(w, &f.ticket, &token) && token == NULL);
    asp_waiter_free(w);
}

static void a_pass_completes_all_that_are_ready(void) {
    enum { N = 40 };
    asp_waiter *w = asp_waiter_new();
    static uint32_t words[N];
    static flag f[N];
    int seen[N] = {0};
    for (int i = 0; i < N; i++) {
        flag_init(&f[i], &words[i], false);
        words[i] = i % 3 != 0;
        CHECK(submit(w, &f[i], &f[i], i % 2 ? PATIENCE_NS : 0, ASP_FOREVER) == ASP_READY);
    }
    CHECK(asp_waiter_run(w, 0) == ASP_READY);
    asp_status status;
    for (flag *got; (got = take(w, &status)) != NULL;) {
        CHECK(status == ASP_READY);
        seen[got - f]++;
    }
    for (int i = 0; i < N; i++) CHECK(seen[i] == (i % 3 != 0));
    void *token;
    for (int i = 0; i < N; i += 3) CHECK(asp_waiter_cancel(w, &f[i].ticket, &token) && token == &f[i]);
    CHECK(asp_waiter_live(w) == 0);
    asp_waiter_free(w);
}

static void a_new_submit_takes_the_completion_back(void) {
    asp_waiter *w = asp_waiter_new();
    uint32_t word = 1;
    flag f, other;
    asp_status status;
    int first, second;
    void *stale;
    asp_pace pace = asp_pace_start(asp_now_ns(), 0, MS, false);
    flag_init(&f, &word, false);
    flag_init(&other, &word, false);
    CHECK(asp_waiter_submit(w, &f.ticket, &f.watch, &first, &pace, ASP_FOREVER, &stale) == ASP_READY && !stale);
    CHECK(asp_waiter_submit(w, &f.ticket, &f.watch, &second, &pace, ASP_FOREVER, &stale) == ASP_BUSY && !stale);
    CHECK(submit(w, &other, &other, 0, ASP_FOREVER) == ASP_READY);
    CHECK(asp_waiter_run(w, 0) == ASP_READY);
    word = 0;
    CHECK(asp_waiter_submit(w, &f.ticket, &f.watch, &second, &pace, ASP_FOREVER, &stale) == ASP_READY);
    CHECK(stale == &first);
    CHECK(take(w, &status) == &other);
    CHECK(take(w, &status) == NULL);
    void *token;
    CHECK(asp_waiter_cancel(w, &f.ticket, &token) && token == &second);
    asp_waiter_free(w);
}

static void a_cancel_takes_the_completion_back(void) {
    asp_waiter *w = asp_waiter_new();
    uint32_t word = 1;
    flag f[3];
    asp_status status;
    void *token;
    for (int i = 0; i < 3; i++) {
        flag_init(&f[i], &word, false);
        CHECK(submit(w, &f[i], &f[i], 0, ASP_FOREVER) == ASP_READY);
    }
    CHECK(asp_waiter_run(w, 0) == ASP_READY);
    CHECK(!asp_waiter_cancel(w, &f[1].ticket, &token) && token == &f[1]); /* from the middle of the list */
    CHECK(!asp_waiter_cancel(w, &f[1].ticket, &token) && token == NULL);
    flag *a = take(w, &status), *b = take(w, &status);
    CHECK(a && b && a != b && a != &f[1] && b != &f[1]);
    CHECK(take(w, &status) == NULL);
    asp_waiter_free(w);
}

static void a_ticket_belongs_to_one_waiter(void) {
    asp_waiter *mine = asp_waiter_new(), *yours = asp_waiter_new();
    uint32_t word = 0;
    flag f, kept;
    void *token, *stale;
    asp_status status;
    asp_pace pace = asp_pace_start(asp_now_ns(), 0, MS, false);
    flag_init(&f, &word, false);
    flag_init(&kept, &word, false);
    CHECK(submit(mine, &f, &f, 0, ASP_FOREVER) == ASP_READY);
    CHECK(submit(yours, &kept, &kept, 0, ASP_FOREVER) == ASP_READY);
    CHECK(!asp_waiter_cancel(yours, &f.ticket, &token) && token == NULL);
    CHECK(asp_waiter_submit(yours, &f.ticket, &f.watch, &f, &pace, ASP_FOREVER, &stale) == ASP_BUSY && !stale);
    CHECK(asp_waiter_live(mine) == 1 && asp_waiter_live(yours) == 1);
    word = 1;
    CHECK(asp_waiter_run(mine, 0) == ASP_READY);
    /* complete, and not taken: still the first one's */
    CHECK(!asp_waiter_cancel(yours, &f.ticket, &token) && token == NULL);
    CHECK(asp_waiter_submit(yours, &f.ticket, &f.watch, &f, &pace, ASP_FOREVER, &stale) == ASP_BUSY && !stale);
    CHECK(take(mine, &status) == &f && status == ASP_READY);
    CHECK(take(mine, &status) == NULL);
    /* free, so that anybody may have it */
    word = 0;
    CHECK(submit(yours, &f, &f, 0, ASP_FOREVER) == ASP_READY && asp_waiter_live(yours) == 2);
    CHECK(asp_waiter_cancel(yours, &f.ticket, &token) && token == &f);
    CHECK(asp_waiter_cancel(yours, &kept.ticket, &token) && token == &kept);
    CHECK(asp_waiter_live(mine) == 0 && asp_waiter_live(yours) == 0);
    asp_waiter_free(mine);
    asp_waiter_free(yours);
}

static void *enter_or_not(void *argument) {
    asp_waiter *w = argument;
    bool entered = asp_waiter_try_enter(w);
    if (entered) asp_waiter_leave(w);
    return entered ? argument : NULL;
}

static bool another_enters(asp_waiter *w) {
    void *entered;
    CHECK(pthread_join(start(enter_or_not, w), &entered) == 0);
    return entered != NULL;
}

static void one_thread_is_inside(void) {
    asp_waiter *w = asp_waiter_new();
    uint32_t word = 0;
    flag f;
    void *token;
    flag_init(&f, &word, false);
    CHECK(asp_waiter_try_enter(w));
    CHECK(!another_enters(w));
    /* operations enter by themselves, also inside */
    CHECK(submit(w, &f, &f, 0, ASP_FOREVER) == ASP_READY && asp_waiter_live(w) == 1);
    CHECK(asp_waiter_cancel(w, &f.ticket, &token) && token == &f);
    CHECK(!another_enters(w));
    asp_waiter_leave(w);
    CHECK(another_enters(w));
    asp_waiter_before_fork(w);
    CHECK(!another_enters(w));
    asp_waiter_after_fork_in_parent(w);
    CHECK(another_enters(w));
    asp_waiter_free(w);
}

static void deadlines_are_kept(void) {
    /* hot, cold, cold and notified; the last has nothing but its deadline to end its sleep */
    for (int kind = 0; kind < 3; kind++) {
        asp_waiter *w = asp_waiter_new();
        uint32_t word = 0;
        flag f;
        asp_status status;
        flag_init(&f, &word, kind == 2);
        uint64_t begun = asp_now_ns();
        CHECK(submit(w, &f, &f, kind ? 0 : PATIENCE_NS, 5 * MS) == ASP_READY);
        CHECK(asp_waiter_run(w, ASP_FOREVER) == ASP_READY);
        uint64_t took = asp_now_ns() - begun;
        CHECK(take(w, &status) == &f && status == ASP_TIMED_OUT);
        CHECK_SAY(took >= 5 * MS && took < PATIENCE_NS, "%" PRIu64 " ns", took);
        asp_waiter_free(w);
    }
}

/* The deadline of a cold wait holds when another cools down between two looks at the cold ones. */
static void a_deadline_is_kept_beside_one_that_cools(void) {
    for (int round = 0; round < 8; round++) {
        asp_waiter *w = asp_waiter_new();
        uint32_t word = 0;
        flag cold, hot;
        asp_status status;
        flag_init(&cold, &word, true);
        flag_init(&hot, &word, true);
        CHECK(submit(w, &cold, &cold, 0, 10 * MS) == ASP_READY);
        CHECK(submit(w, &hot, &hot, MS + (uint64_t)round * 7013, 500 * MS) == ASP_READY);
        uint64_t begun = asp_now_ns();
        CHECK(asp_waiter_run(w, ASP_FOREVER) == ASP_READY);
        CHECK(take(w, &status) == &cold && status == ASP_TIMED_OUT);
        CHECK(asp_now_ns() - begun < 400 * MS);
        void *token;
        CHECK(asp_waiter_cancel(w, &hot.ticket, &token));
        asp_waiter_free(w);
    }
}

/* A death ends a wait that has no deadline, cold or hot; the questions of all tickets fall together, so that they
 * cost one wake. */
static void asks_after_peers(void) {
    enum { N = 20 };
    for (int spins = 0; spins < 2; spins++) {
        asp_waiter *w = asp_waiter_new();
        uint32_t word = 0;
        flag f[N];
        const uint64_t begun = asp_now_ns(), parks = asp_tally_read().parks;
        asp_status status;
        for (int i = 0; i < N; i++) {
            flag_init(&f[i], &word, true);
            f[i].watch.peers_live = flag_peers_live;
            f[i].dies_at = i ? 0 : 3;
            CHECK(submit(w, &f[i], &f[i], spins ? PATIENCE_NS : 0, ASP_FOREVER) == ASP_READY);
        }
        CHECK(asp_waiter_run(w, ASP_FOREVER) == ASP_READY);
        const uint64_t took = asp_now_ns() - begun;
        CHECK(take(w, &status) == &f[0] && status == ASP_TIMED_OUT && f[0].asked == 3);
        CHECK_SAY(took > 2 * ASP_RECHECK_NS && took < PATIENCE_NS, "%" PRIu64 " ns", took);
        /* two or three, as a question falls on this side of the third or on the other */
        for (int i = 1; i < N; i++) CHECK_SAY(f[i].asked - 2u <= 1, "%u", f[i].asked);
        /* without futex_waitv, as under qemu, it looks by itself in between */
        if (!spins && asp_futex_waitv_available()) CHECK(asp_tally_read().parks - parks <= 6);
        void *token;
        for (int i = 1; i < N; i++) CHECK(asp_waiter_cancel(w, &f[i].ticket, &token));
        asp_waiter_free(w);
    }
}

/* Not for a ticket whose caller hears of a death. */
static void does_not_ask_for_one_who_is_told(void) {
    for (int spins = 0; spins < 2; spins++) {
        asp_waiter *w = asp_waiter_new();
        uint32_t word = 0;
        flag f;
        asp_status status;
        void *stale;
        flag_init(&f, &word, true);
        f.watch.peers_live = flag_peers_live;
        f.dies_at = 1;
        const uint64_t now = asp_now_ns(), deadline = now + 2 * ASP_RECHECK_NS;
        asp_pace pace = asp_pace_start(now, spins ? PATIENCE_NS : 0, MS, true);
        pace.told = true;
        CHECK(asp_waiter_submit(w, &f.ticket, &f.watch, &f, &pace, deadline, &stale) == ASP_READY);
        CHECK(asp_waiter_run(w, ASP_FOREVER) == ASP_READY);
        CHECK(asp_now_ns() >= deadline);
        CHECK(take(w, &status) == &f && status == ASP_TIMED_OUT && f.asked == 0);
        asp_waiter_free(w);
    }
}

static void idle_ends_the_run(void) {
    asp_waiter *w = asp_waiter_new();
    uint64_t begun = asp_now_ns();
    CHECK(asp_waiter_run(w, 3 * MS) == ASP_TIMED_OUT);
    CHECK(asp_now_ns() - begun >= 3 * MS);
    CHECK(asp_waiter_run(w, 0) == ASP_TIMED_OUT); /* and it can be run again */
    asp_waiter_free(w);
}

typedef struct runner {
    asp_waiter *waiter;
    asp_status status;
    uint64_t taken;
} runner;

static void *run_once(void *argument) {
    runner *r = argument;
    r->status = asp_waiter_run(r->waiter, ASP_FOREVER);
    return NULL;
}

static void one_thread_runs_it(void) {
    asp_waiter *w = asp_waiter_new();
    runner r = {.waiter = w};
    uint64_t parks = asp_tally_read().parks;
    uint32_t word = 0;
    flag f;
    /* an unnotified ticket makes it park again and again, so that a park is surely seen */
    flag_init(&f, &word, false);
    CHECK(submit(w, &f, &f, 0, ASP_FOREVER) == ASP_READY);
    pthread_t thread = start(run_once, &r);
    until_parked(parks);
    CHECK(asp_waiter_run(w, ASP_FOREVER) == ASP_BUSY);
    asp_waiter_stop(w);
    CHECK(pthread_join(thread, NULL) == 0 && r.status == ASP_STOPPED);
    /* stopped with a ticket: it is dropped, and nothing is accepted any more */
    void *token;
    CHECK(asp_waiter_drop(w, &token) == &f.ticket && token == &f);
    CHECK(asp_waiter_drop(w, &token) == NULL);
    CHECK(submit(w, &f, &f, 0, ASP_FOREVER) == ASP_STOPPED);
    CHECK(asp_waiter_run(w, ASP_FOREVER) == ASP_STOPPED);
    asp_waiter_free(w);
}

/* Without being let, whoever asks while the thread spins gets in by luck: it is woken when the lock is free, and finds that
 * it is not. Of one in a hundred that took thousands of looks. Here some may have to wait for their own CPU. */
static void who_asks_comes_in_at_the_next_pass(void) {
    enum { TIMES = 10000, SOON = 200 /* looks */, UNLUCKY = TIMES / 1000 };
    asp_waiter *w = asp_waiter_new();
    runner r = {.waiter = w};
    uint32_t word = 0;
    flag f;
    flag_init(&f, &word, false);
    CHECK(submit(w, &f, &f, ASP_FOREVER, ASP_FOREVER) == ASP_READY);
    pthread_t thread = start(run_once, &r);
    const uint64_t since = asp_now_ns();
    unsigned late = 0;
    for (unsigned i = 0; i < TIMES; i++) {
        /* at any time of its turn, and not always right after it yielded */
        const uint64_t from = asp_load_relaxed_u64(&f.looks) + i % 300;
        while (asp_load_relaxed_u64(&f.looks) < from) patient(since);
        const uint64_t looks = asp_load_relaxed_u64(&f.looks);
        CHECK(asp_waiter_live(w) == 1);
        late += asp_load_relaxed_u64(&f.looks) - looks > SOON;
    }
    CHECK_SAY(late <= UNLUCKY, "%u of %d", late, TIMES);
    asp_waiter_stop(w);
    CHECK(pthread_join(thread, NULL) == 0 && r.status == ASP_STOPPED);
    void *token;
    CHECK(asp_waiter_drop(w, &token) == &f.ticket);
    asp_waiter_free(w);
}

/* A parked waiter has no deadline and no notifier: only the control word can tell it anything. */
static void a_parked_waiter_hears_submit_and_stop(void) {
    asp_waiter *w = asp_waiter_new();
    uint32_t never = 0, ready = 1;
    flag sleeper, f;
    asp_status status;
    flag_init(&sleeper, &never, true);
    flag_init(&f, &ready, true);
    CHECK(submit(w, &sleeper, &sleeper, 0, ASP_FOREVER) == ASP_READY);
    for (int round = 0; round < 100; round++) {
        runner r = {.waiter = w};
        uint64_t looks = asp_load_relaxed_u64(&sleeper.looks), since = asp_now_ns();
        pthread_t thread = start(run_once, &r);
        while (asp_load_relaxed_u64(&sleeper.looks) - looks < 2) patient(since); /* about to park */
        for (volatile int i = 0; i < round * 200; i = i + 1) {
        }
        CHECK(submit(w, &f, &f, 0, ASP_FOREVER) == ASP_READY);
        CHECK(pthread_join(thread, NULL) == 0 && r.status == ASP_READY);
        CHECK(take(w, &status) == &f);
    }
    runner r = {.waiter = w};
    uint64_t looks = asp_load_relaxed_u64(&sleeper.looks), since = asp_now_ns();
    pthread_t thread = start(run_once, &r);
    while (asp_load_relaxed_u64(&sleeper.looks) - looks < 2) patient(since);
    asp_waiter_stop(w);
    CHECK(pthread_join(thread, NULL) == 0 && r.status == ASP_STOPPED);
    void *token;
    CHECK(asp_waiter_drop(w, &token) == &sleeper.ticket);
    asp_waiter_free(w);
}

/* More notified tickets than the kernel takes words: those beyond must be looked at by time. */
static void more_tickets_than_futex_words(void) {
    enum { N = 300 };
    asp_waiter *w = asp_waiter_new();
    static uint32_t words[N];
    static flag f[N];
    asp_status status;
    for (int i = 0; i < N; i++) {
        words[i] = 0;
        flag_init(&f[i], &words[i], true);
        CHECK(submit(w, &f[i], &f[i], 0, ASP_FOREVER) == ASP_READY);
    }
    for (int i = 0; i < N; i += 23) {
        runner r = {.waiter = w};
        uint64_t parks = asp_tally_read().parks;
        pthread_t thread = start(run_once, &r);
        until_parked(parks);
        raise_flag(&words[i]);
        CHECK(pthread_join(thread, NULL) == 0 && r.status == ASP_READY);
        CHECK(take(w, &status) == &f[i] && take(w, &status) == NULL);
    }
    void *token;
    while (asp_waiter_drop(w, &token)) {
    }
    CHECK(asp_waiter_live(w) == 0);
    asp_waiter_free(w);
}

/* Cold waits whose looks fall at different times must not keep the thread busy: it looks at all when
 * it looks at one, so it needs to wake once per max_sleep and not once per ticket. */
static void looks_of_cold_waits_fall_together(void) {
    enum { N = 64 };
    asp_waiter *w = asp_waiter_new();
    static uint32_t words[N];
    static flag f[N];
    uint32_t word = 0;
    flag last;
    asp_status status;
    for (int i = 0; i < N; i++) {
        words[i] = 0;
        flag_init(&f[i], &words[i], false);
        asp_pace pace = asp_pace_start(0, 0, 4 * MS, false);
        pace.sleep_ns = 4 * MS - (uint64_t)i * MS / 20; /* phases 50 us apart, as after N submits */
        void *stale;
        CHECK(asp_waiter_submit(w, &f[i].ticket, &f[i].watch, &f[i], &pace, ASP_FOREVER, &stale) == ASP_READY);
    }
    flag_init(&last, &word, true);
    CHECK(submit(w, &last, &last, 0, 80 * MS) == ASP_READY);
    uint64_t parks = asp_tally_read().parks;
    CHECK(asp_waiter_run(w, ASP_FOREVER) == ASP_READY);
    CHECK(take(w, &status) == &last && status == ASP_TIMED_OUT);
    /* 80 ms are 20 periods of 4 ms, or 26 of the shortest phase; each on its own would be 1,280 */
    CHECK_SAY(asp_tally_read().parks - parks < 200, "%" PRIu64 " parks", asp_tally_read().parks - parks);
    void *token;
    while (asp_waiter_drop(w, &token)) {
    }
    asp_waiter_free(w);
}

static void ten_thousand_tickets(void) {
    enum { N = 10000 };
    asp_waiter *w = asp_waiter_new();
    uint32_t *words = calloc(N, sizeof *words);
    flag *f = calloc(N, sizeof *f);
    asp_status status;
    void *token;
    uint64_t live = asp_tally_read().live_tickets;
    CHECK(words && f);
    for (int i = 0; i < N; i++) {
        flag_init(&f[i], &words[i], i % 2);
        CHECK(submit(w, &f[i], &f[i], i % 5 ? 0 : PATIENCE_NS, ASP_FOREVER) == ASP_READY);
    }
    CHECK(asp_waiter_live(w) == N && asp_tally_read().live_tickets - live == N);
    for (int i = 0; i < N; i += 3) words[i] = 1;
    for (int i = 1; i < N; i += 3)
        CHECK(asp_waiter_cancel(w, &f[i].ticket, &token) && token == &f[i]);
    int taken = 0;
    while (taken < (N + 2) / 3) {
        CHECK(asp_waiter_run(w, ASP_FOREVER) == ASP_READY);
        for (flag *got; (got = take(w, &status)) != NULL; taken++)
            CHECK((got - f) % 3 == 0 && status == ASP_READY);
    }
    CHECK(asp_waiter_live(w) == N / 3 && asp_tally_read().live_tickets - live == N / 3);
    int dropped = 0;
    for (; asp_waiter_drop(w, &token); dropped++) CHECK(((flag *)token - f) % 3 == 2);
    CHECK(dropped == N / 3 && asp_tally_read().live_tickets == live);
    asp_waiter_free(w);
    free(f);
    free(words);
}

static void *run_and_take(void *argument) {
    runner *r = argument;
    while ((r->status = asp_waiter_run(r->waiter, ASP_FOREVER)) == ASP_READY) {
        asp_status status;
        while (take(r->waiter, &status)) r->taken++;
    }
    return NULL;
}

/* The child of a fork has the tickets and not the thread; it drops them and starts anew. */
static void a_child_drops_and_reuses(void) {
    asp_waiter *w = asp_waiter_new();
    runner r = {.waiter = w};
    uint32_t hot_word = 0, cold_word = 0;
    flag hot, cold;
    flag_init(&hot, &hot_word, false);
    flag_init(&cold, &cold_word, true);
    pthread_t thread = start(run_and_take, &r);
    for (int round = 0; round < 20; round++) {
        CHECK(submit(w, &hot, &hot, PATIENCE_NS, ASP_FOREVER) == ASP_READY);
        CHECK(submit(w, &cold, &cold, 0, ASP_FOREVER) == ASP_READY);
        asp_waiter_before_fork(w);
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            asp_waiter_after_fork_in_child(w);
            void *token;
            int dropped = 0;
            while (asp_waiter_drop(w, &token)) dropped++;
            CHECK(dropped == 2 && asp_waiter_live(w) == 0);
            /* Run by this one thread: sanitizers and emulators allow such a child no further one. */
            asp_status status;
            CHECK(submit(w, &cold, &cold, 0, MS) == ASP_READY);
            CHECK(asp_waiter_run(w, ASP_FOREVER) == ASP_READY);
            CHECK(take(w, &status) == &cold && status == ASP_TIMED_OUT);
            cold_word = 1;
            CHECK(submit(w, &cold, &cold, 0, ASP_FOREVER) == ASP_READY);
            CHECK(asp_waiter_run(w, ASP_FOREVER) == ASP_READY);
            CHECK(take(w, &status) == &cold && status == ASP_READY);
            _exit(0);
        }
        asp_waiter_after_fork_in_parent(w);
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        CHECK_SAY(WIFEXITED(status) && WEXITSTATUS(status) == 0, "wait status %d", status);
        void *token;
        CHECK(asp_waiter_cancel(w, &hot.ticket, &token) && token == &hot);
        CHECK(asp_waiter_cancel(w, &cold.ticket, &token) && token == &cold);
    }
    asp_waiter_stop(w);
    CHECK(pthread_join(thread, NULL) == 0 && r.taken == 0);
    asp_waiter_free(w);
}

/* A watch whose look takes its time, so that a cancel most often arrives in the middle of one. */
typedef struct slow {
    asp_watch watch;
    asp_ticket ticket;
    uint32_t inside;
    uint64_t looks;
} slow;

static bool slow_look(asp_watch *watch) {
    slow *s = (slow *)watch;
    asp_store_relaxed_u32(&s->inside, 1);
    asp_add_relaxed_u64(&s->looks, 1);
    for (volatile int i = 0; i < 5000; i = i + 1) {
    }
    asp_store_relaxed_u32(&s->inside, 0);
    return false;
}

static void nothing_looks_after_a_cancel(void) {
    asp_waiter *w = asp_waiter_new();
    runner r = {.waiter = w};
    slow s = {.watch = {.look = slow_look, .address = &s, .span = 4}};
    pthread_t thread = start(run_and_take, &r);
    for (int round = 0; round < 200; round++) {
        void *stale, *token;
        const uint64_t begun = asp_now_ns(), looks = asp_load_relaxed_u64(&s.looks);
        asp_pace pace = asp_pace_start(begun, round % 2 ? PATIENCE_NS : 0, MS / 10, true);
        CHECK(asp_waiter_submit(w, &s.ticket, &s.watch, &s, &pace, ASP_FOREVER, &stale) == ASP_READY);
        while (asp_load_relaxed_u64(&s.looks) < looks + 2) patient(begun);
        CHECK(asp_waiter_cancel(w, &s.ticket, &token) && token == &s);
        CHECK(!asp_load_relaxed_u32(&s.inside));
    }
    asp_waiter_stop(w);
    CHECK(pthread_join(thread, NULL) == 0 && r.taken == 0);
    asp_waiter_free(w);
}

/* ---- the stress ---- */

enum { WORKERS = 3, FLAGS = 16 };

typedef struct storm {
    asp_waiter *waiter;
    uint64_t until_ns;
} storm;

typedef struct wait_of_storm {
    flag flag;      /* first, so that a token is both */
    uint32_t ended; /* how often the runner took it */
    asp_status status;
    void *page;     /* the watched memory: a mapping, or a block of malloc */
    bool mapped, raised, timed;
} wait_of_storm;

typedef struct worker {
    storm *storm;
    uint64_t random, waits, cancelled, ready, late;
} worker;

static uint64_t next(uint64_t *state) { /* xorshift64 */
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state >> 11;
}

static void *keep_running(void *argument) {
    storm *s = argument;
    while (asp_waiter_run(s->waiter, ASP_FOREVER) == ASP_READY) {
        asp_status status;
        for (wait_of_storm *got; (got = (wait_of_storm *)take(s->waiter, &status)) != NULL;) {
            got->status = status;
            asp_fetch_add_u32(&got->ended, 1); /* pairs with the load in end_one */
        }
    }
    return NULL;
}

static void begin_one(worker *me, wait_of_storm *wait) {
    uint64_t dice = next(&me->random);
    memset(wait, 0, sizeof *wait);
    wait->mapped = dice & 1;
    wait->page = wait->mapped ? mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)
                              : calloc(1, 4);
    CHECK(wait->page && wait->page != MAP_FAILED);
    flag_init(&wait->flag, wait->page, dice & 2);
    uint64_t spin_ns = dice & 4 ? next(&me->random) % 200000 : 0;
    wait->timed = dice & 8;
    uint64_t timeout_ns = wait->timed ? next(&me->random) % 300000 : ASP_FOREVER;
    CHECK(submit(me->storm->waiter, &wait->flag, wait, spin_ns, timeout_ns) == ASP_READY);
    me->waits++;
}

/* End the wait in one of all possible ways, check that it ended once, and pull its memory away. */
static void end_one(worker *me, wait_of_storm *wait) {
    uint64_t dice = next(&me->random), since = asp_now_ns();
    void *token = NULL;
    bool won = false;
    if (dice & 1) {
        wait->raised = true;
        if (dice & 2 || !wait->flag.watch.prepare) asp_store_release_u32(wait->flag.word, 1);
        if (wait->flag.watch.prepare) raise_flag(wait->flag.word);
    }
    for (volatile uint64_t i = 0; i < next(&me->random) % 4096; i = i + 1) {
    }
    if ((wait->raised || wait->timed) && dice & 4) { /* it ends by itself */
        while (!asp_load_acquire_u32(&wait->ended)) patient(since);
    }
    won = asp_waiter_cancel(me->storm->waiter, &wait->flag.ticket, &token);
    uint64_t looks = asp_load_relaxed_u64(&wait->flag.looks);
    if (wait->mapped) CHECK(munmap(wait->page, 4096) == 0);
    else free(wait->page);
    if (won) {
        CHECK(token == wait);
        me->cancelled++;
    } else if (!token) {
        while (!asp_load_acquire_u32(&wait->ended)) patient(since);
        CHECK(wait->status == ASP_READY ? wait->raised : wait->status == ASP_TIMED_OUT && wait->timed);
        if (wait->status == ASP_READY) me->ready++;
        else me->late++;
    }
    CHECK(asp_load_acquire_u32(&wait->ended) == (token ? 0 : 1));
    CHECK(asp_load_relaxed_u64(&wait->flag.looks) == looks);
}

static void *storm_on(void *argument) {
    worker *me = argument;
    static _Thread_local wait_of_storm waits[FLAGS];
    static _Thread_local bool live[FLAGS];
    while (asp_now_ns() < me->storm->until_ns) {
        unsigned i = (unsigned)(next(&me->random) % FLAGS);
        if (live[i]) end_one(me, &waits[i]);
        else begin_one(me, &waits[i]);
        live[i] = !live[i];
    }
    for (int i = 0; i < FLAGS; i++)
        if (live[i]) end_one(me, &waits[i]);
    return NULL;
}

static void stress(double seconds, uint64_t seed) {
    storm s = {.waiter = asp_waiter_new(), .until_ns = asp_after(asp_now_ns(), (uint64_t)(seconds * 1e9))};
    worker workers[WORKERS];
    pthread_t threads[WORKERS], waiter = start(keep_running, &s);
    for (unsigned i = 0; i < WORKERS; i++) {
        workers[i] = (worker){.storm = &s, .random = seed + UINT64_C(0x9e3779b97f4a7c15) * (i + 1)};
        threads[i] = start(storm_on, &workers[i]);
    }
    uint64_t waits = 0, cancelled = 0, ready = 0, late = 0;
    for (unsigned i = 0; i < WORKERS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
        waits += workers[i].waits;
        cancelled += workers[i].cancelled;
        ready += workers[i].ready;
        late += workers[i].late;
    }
    CHECK(asp_waiter_live(s.waiter) == 0);
    asp_waiter_stop(s.waiter);
    CHECK(pthread_join(waiter, NULL) == 0);
    asp_waiter_free(s.waiter);
    CHECK(cancelled && ready && late); /* every way was taken */
    printf("stress: %" PRIu64 " waits, %" PRIu64 " cancelled, %" PRIu64 " ready, %" PRIu64 " late\n", waits,
           cancelled, ready, late);
}

int main(int argc, char **argv) {
    asp_selection selection;
    CHECK(asp_select(NULL, &selection) == ASP_READY);
    asp_use(&selection);
    a_predicted_wait_sleeps_and_then_spins();
    a_spinning_waiter_steps_back();
    a_completion_is_taken_once();
    a_pass_completes_all_that_are_ready();
    a_new_submit_takes_the_completion_back();
    a_cancel_takes_the_completion_back();
    a_ticket_belongs_to_one_waiter();
    one_thread_is_inside();
    deadlines_are_kept();
    a_deadline_is_kept_beside_one_that_cools();
    asks_after_peers();
    does_not_ask_for_one_who_is_told();
    idle_ends_the_run();
    one_thread_runs_it();
    who_asks_comes_in_at_the_next_pass();
    a_parked_waiter_hears_submit_and_stop();
    more_tickets_than_futex_words();
    looks_of_cold_waits_fall_together();
    ten_thousand_tickets();
    a_child_drops_and_reuses();
    nothing_looks_after_a_cancel();
    stress(argc > 1 ? atof(argv[1]) : 0.8, argc > 2 ? strtoull(argv[2], NULL, 0) : 1);
    CHECK(asp_tally_read().live_tickets == 0);
    printf("test_waiter: passed\n");
    return 0;
}
