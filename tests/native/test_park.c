/* test_park.c - prepare, look, commit against publish, notify: no wake is lost, and none is made when
 * nobody sleeps.
 *
 *   test_park [SECONDS [SEED]]     for each of the stresses, 0.3 when not given */
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
#include "park.h"

/* A sleep that lasts this long was one whose wake was lost. */
#define PATIENCE_NS UINT64_C(5000000000)

static void notify_is_free_while_nobody_sleeps(void) {
    uint32_t word = 8;
    CHECK(!asp_park_notify(&word) && word == 8);
}

static void notify_changes_the_word_of_a_sleeper(void) {
    uint32_t word = 8;
    const uint32_t expected = asp_park_prepare(&word);
    CHECK(expected == word && (word & 1));
    CHECK(asp_park_prepare(&word) == expected); /* a second sleeper waits for the same wake */
    CHECK(asp_park_notify(&word) && word != expected && !(word & 1));
    CHECK(!asp_park_notify(&word)); /* what a dead sleeper left behind costs one call, once */
    CHECK(asp_park_prepare(&word) != expected);
}

static void a_bell_is_told_to_the_notifier_and_does_not_touch_sleepers(void) {
    uint32_t word = 8;
    asp_park_prepare_bell(&word);
    CHECK(word == (8 | ASP_PARK_BELL));
    CHECK(asp_park_prepare(&word) == (8 | ASP_PARK_BELL | ASP_PARK_SLEEPER));
    CHECK(asp_park_notify(&word) == (ASP_PARK_BELL | ASP_PARK_SLEEPER) && word == 12);
    asp_park_prepare_bell(&word);
    CHECK(asp_park_notify(&word) == ASP_PARK_BELL && word == 16);
    CHECK(asp_park_notify(&word) == 0 && word == 16);
}

static void the_count_wraps(void) {
    uint32_t word = UINT32_MAX - 3;
    CHECK(asp_park_prepare(&word) == UINT32_MAX - 2);
    CHECK(asp_park_notify(&word) && word == 0);
    CHECK(asp_park_prepare(&word) == 1);
}

/* ---- the stress: one publishes numbers in turn with those who sleep until they see them ---- */

enum { SLEEPERS = 2 };

typedef struct arena {
    _Alignas(ASP_CACHE_LINE) uint64_t published;
    _Alignas(ASP_CACHE_LINE) uint32_t word; /* what the sleepers park on */
    _Alignas(ASP_CACHE_LINE) uint64_t answered[SLEEPERS];
    _Alignas(ASP_CACHE_LINE) uint32_t back; /* what the publisher parks on */
    _Alignas(ASP_CACHE_LINE) uint32_t stop;
    uint64_t sleeps[SLEEPERS + 1], calls, elided;
} arena;

static void drift(uint64_t *state) { /* up to a microsecond or two, never the same twice in a row */
    *state = *state * UINT64_C(6364136223846793005) + 1442695040888963407u;
    for (volatile uint64_t i = 0; i < *state >> 54; i = i + 1) {
    }
}

/* Sleep until *from is at least `number`; counts the sleeps. The look is a relaxed load: the park must
 * order it by itself. */
static void await(uint64_t *from, uint64_t number, uint32_t *word, uint64_t *sleeps, const char *who) {
    while (asp_load_relaxed_u64(from) < number) {
        const uint32_t expected = asp_park_prepare(word);
        if (asp_load_relaxed_u64(from) >= number) break;
        const asp_futex_word one = {word, expected};
        ++*sleeps;
        CHECK_SAY(asp_futex_wait(&one, 1, asp_after(asp_now_ns(), PATIENCE_NS)) != ASP_TIMED_OUT,
                  "%s: the wake for %" PRIu64 " was lost", who, number);
    }
}

static void sleep_and_answer(arena *a, unsigned self, uint64_t seed) {
    for (uint64_t number = 1;; number++) {
        await(&a->published, number, &a->word, &a->sleeps[self], "sleeper");
        if (asp_load_acquire_u32(&a->stop)) return;
        drift(&seed);
        asp_store_release_u64(&a->answered[self], number);
        asp_park_notify(&a->back);
    }
}

static uint64_t publish_all(arena *a, double seconds, uint64_t seed) {
    const uint64_t until_ns = asp_after(asp_now_ns(), (uint64_t)(seconds * 1e9));
    uint64_t number = 0;
    bool last = false;
    do {
        last = asp_now_ns() >= until_ns;
        if (last) asp_store_release_u32(&a->stop, 1);
        asp_store_release_u64(&a->published, ++number);
        if (asp_park_notify(&a->word)) a->calls++;
        else a->elided++;
        if (last) break;
        for (int i = 0; i < SLEEPERS; i++) await(&a->answered[i], number, &a->back, &a->sleeps[SLEEPERS], "publisher");
        drift(&seed);
    } while (true);
    return number;
}

static void report(const char *what, const arena *a, uint64_t rounds) {
    uint64_t sleeps = 0;
    for (int i = 0; i < SLEEPERS; i++) sleeps += a->sleeps[i];
    CHECK_SAY(rounds > 100 && sleeps > 0, "%" PRIu64 " rounds", rounds);
    printf("%s: %" PRIu64 " rounds, %" PRIu64 " sleeps, %" PRIu64 " wake calls, %" PRIu64 " elided\n", what, rounds,
           sleeps, a->calls, a->elided);
}

typedef struct job {
    arena *arena;
    unsigned self;
    uint64_t seed;
} job;

static void *sleeper_thread(void *argument) {
    job *j = argument;
    sleep_and_answer(j->arena, j->self, j->seed);
    return NULL;
}

static void between_threads(double seconds, uint64_t seed) {
    static arena a;
    pthread_t threads[SLEEPERS];
    job jobs[SLEEPERS];
    for (unsigned i = 0; i < SLEEPERS; i++) {
        jobs[i] = (job){&a, i, seed + i};
        CHECK(pthread_create(&threads[i], NULL, sleeper_thread, &jobs[i]) == 0);
    }
    const uint64_t rounds = publish_all(&a, seconds, ~seed);
    for (int i = 0; i < SLEEPERS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    report("threads", &a, rounds);
}

static void between_processes(double seconds, uint64_t seed) {
    arena *a = mmap(NULL, sizeof *a, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(a != MAP_FAILED);
    pid_t children[SLEEPERS];
    fflush(stdout);
    for (unsigned i = 0; i < SLEEPERS; i++) {
        CHECK((children[i] = fork()) >= 0);
        if (children[i] == 0) {
            sleep_and_answer(a, i, seed + i);
            _exit(0);
        }
    }
    const uint64_t rounds = publish_all(a, seconds, ~seed);
    for (int i = 0; i < SLEEPERS; i++) {
        int status;
        CHECK(waitpid(children[i], &status, 0) == children[i]);
        CHECK_SAY(WIFEXITED(status) && WEXITSTATUS(status) == 0, "wait status %d", status);
    }
    report("processes", a, rounds);
    CHECK(munmap(a, sizeof *a) == 0);
}

/* ---- the same race without the kernel: a million times a second instead of ten thousand ---- */

typedef struct dekker {
    _Alignas(ASP_CACHE_LINE) uint64_t published;
    _Alignas(ASP_CACHE_LINE) uint32_t word;
    _Alignas(ASP_CACHE_LINE) uint64_t answered;
    _Alignas(ASP_CACHE_LINE) uint32_t stop;
} dekker;

static void *watch_the_word(void *argument) {
    dekker *d = argument;
    for (uint64_t number = 1;; number++) {
        while (asp_load_relaxed_u64(&d->published) < number) {
            const uint32_t expected = asp_park_prepare(&d->word);
            if (asp_load_relaxed_u64(&d->published) >= number) break;
            /* asleep: nothing but a change of the word ends this */
            for (unsigned i = 1; asp_load_relaxed_u32(&d->word) == expected; i++) {
                if (asp_load_relaxed_u32(&d->stop)) return NULL;
                if (i % 1024 == 0) sched_yield();
            }
        }
        asp_store_release_u64(&d->answered, number);
    }
}

static void at_full_speed(double seconds, uint64_t seed) {
    static dekker d;
    pthread_t thread;
    const uint64_t until_ns = asp_after(asp_now_ns(), (uint64_t)(seconds * 1e9));
    CHECK(pthread_create(&thread, NULL, watch_the_word, &d) == 0);
    uint64_t number = 0, calls = 0;
    /* an emulator is slow: the time, and rounds enough to mean something */
    while (number <= 1000 || number % 64 || asp_now_ns() < until_ns) {
        asp_store_release_u64(&d.published, ++number);
        calls += asp_park_notify(&d.word) != 0;
        uint64_t patience_ns = 0;
        for (unsigned i = 1; asp_load_acquire_u64(&d.answered) != number; i++) {
            if (i % 4096) continue;
            if (!patience_ns) patience_ns = asp_after(asp_now_ns(), PATIENCE_NS);
            CHECK_SAY(asp_now_ns() < patience_ns, "the wake for %" PRIu64 " was lost", number);
            sched_yield();
        }
        if (number % 4 == 0) drift(&seed);
    }
    asp_store_relaxed_u32(&d.stop, 1);
    CHECK(pthread_join(thread, NULL) == 0);
    printf("full speed: %" PRIu64 " rounds, %" PRIu64 " wake calls\n", number, calls);
}

int main(int argc, char **argv) {
    const double seconds = argc > 1 ? atof(argv[1]) : 0.3;
    const uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    if (!asp_futex_available()) SKIP("this kernel has no futex that it lets us use");
    notify_is_free_while_nobody_sleeps();
    notify_changes_the_word_of_a_sleeper();
    a_bell_is_told_to_the_notifier_and_does_not_touch_sleepers();
    the_count_wraps();
    between_processes(seconds, seed);
    between_threads(seconds, seed);
    at_full_speed(seconds, seed);
    printf("test_park: passed\n");
    return 0;
}
