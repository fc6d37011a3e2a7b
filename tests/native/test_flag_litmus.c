/* test_flag_litmus.c - a store and a notify against a waiter that goes to sleep on the word, as often a
 * second as two threads meet.
 *
 *   test_flag_litmus [SECONDS]     all in all, 1 when not given
 *
 * Forbidden: the word has changed, it was notified, and the waiter sleeps on. Of an element of 8 bytes
 * only the upper half changes, while the notify knocks at the lower word, as Flag.notify does.
 *
 * No fence of ours stands between the steps, so there is none whose absence x86 could show: the waiter's
 * loads are ordered by acquire, and the two system calls fence in the kernel. What shows is the order of
 * the steps: a waiter that looks first and takes the word's value afterwards sleeps through a store
 * between the two. The rest is tests/litmus/flag_sleep.litmus and flag_wide.litmus. */
#define _GNU_SOURCE /* CPU_SET */
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "atomics.h"
#include "check.h"
#include "clock.h"
#include "futex.h"
#include "litmus.h"
#include "predicate.h"
#include "word.h"

#define WORDS 2u /* under an element, at most */

typedef struct litmus {
    uint8_t width; /* bytes of the element */
    uint64_t rounds;
    _Alignas(ASP_CACHE_LINE) uint64_t element;
    _Alignas(ASP_CACHE_LINE) uint64_t answered;
} litmus;

/* Round n as the element has it: in the upper half of a wide one. */
static uint64_t bits_of(const litmus *l, uint64_t n) {
    return l->width == 8 ? n << 32 : (uint32_t)n;
}

/* The steps of asp_wait: the words, the look, the sleep; the deadline is of a wake that was lost. */
static void wait_past(const litmus *l, uint64_t n) {
    const uint64_t deadline_ns = asp_after(asp_now_ns(), PATIENCE_NS);
    for (;;) {
        asp_futex_word words[WORDS];
        const unsigned count = asp_words_over(&l->element, l->width, words, WORDS);
        if (asp_load_bits(&l->element, l->width) != bits_of(l, n)) {
            return;
        }
        const asp_status slept = asp_futex_wait(words, count, deadline_ns);
        CHECK_SAY(slept != ASP_TIMED_OUT, "%u bytes, round %" PRIu64 ": slept through a notify",
                  (unsigned)l->width, n + 1);
    }
}

static void *answer(void *argument) {
    litmus *l = argument;
    stay_on(1);
    for (uint64_t n = 0;;) {
        wait_past(l, n);
        const uint64_t now = asp_load_bits(&l->element, l->width);
        if (now == UINT64_MAX || now == UINT32_MAX) { /* the end */
            return NULL;
        }
        asp_store_release_u64(&l->answered, ++n);
    }
}

static void store_and_notify(litmus *l, uint64_t bits) {
    asp_futex_word words[WORDS];
    asp_store_bits(&l->element, l->width, bits);
    CHECK(asp_words_over(&l->element, l->width, words, WORDS) > 0);
    asp_futex_wake(words[0].word);
}

static void flag_wake(uint8_t width, double seconds) {
    static litmus l;
    pthread_t thread;
    uint64_t seed = width;
    const uint64_t until_ns = asp_after(asp_now_ns(), (uint64_t)(seconds * 1e9));
    l = (litmus){.width = width};
    CHECK(pthread_create(&thread, NULL, answer, &l) == 0);
    while (++l.rounds % 64 != 0 || asp_now_ns() < until_ns) {
        drift(&seed, LATE);
        store_and_notify(&l, bits_of(&l, l.rounds));
        const uint64_t deadline_ns = asp_after(asp_now_ns(), 2 * PATIENCE_NS);
        for (unsigned i = 1; asp_load_acquire_u64(&l.answered) != l.rounds; i++) {
            if (i % SPINS == 0) {
                CHECK_SAY(asp_now_ns() < deadline_ns, "round %" PRIu64 ": no answer", l.rounds);
                sched_yield();
            }
        }
    }
    store_and_notify(&l, UINT64_MAX);
    CHECK(pthread_join(thread, NULL) == 0);
    printf("flag_wake, %u bytes: %" PRIu64 " stores\n", (unsigned)width, l.rounds);
}

int main(int argc, char **argv) {
    const double seconds = argc > 1 ? strtod(argv[1], NULL) : 1;
    CHECK_SAY(seconds > 0, "usage: %s [SECONDS]", argv[0]);
    stay_on(0);
    flag_wake(4, seconds / 2);
    flag_wake(8, seconds / 2);
    return 0;
}
