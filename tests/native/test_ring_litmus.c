/* test_ring_litmus.c - the races of the ring one by one, each as often a second as two threads
 * meet.
 *
 *   test_ring_litmus [SECONDS]     all in all, 2 when not given
 *
 * What is forbidden:
 *   join          a reader that has just joined is overrun, or starts with a wrong number
 *   reader_wake   a message is there, its reader said that it would sleep, and nobody wakes it
 *   writer_wake   the same for a writer and the room that a release makes
 *
 * The sleepers do not sleep but watch their word as the kernel would; that keeps the two sides so
 * close together that a missing fence shows even on x86, where only store-then-load needs one. */
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "atomics.h"
#include "check.h"
#include "clock.h"
#include "ring.h"
#include "ring_bytes.h"

#define CAPACITY 4096u
#define LONGEST (CAPACITY / 2) /* with these the writer asks its readers before every message */
#define PATIENCE_NS UINT64_C(10000000000)
#define NS_PER_S 1e9
#define SPINS 1024u /* looks, some microseconds; after them the other side may want this core */

typedef struct litmus {
    asp_ring ring;
    asp_ring_writer writer;
    uint64_t until_ns;
    uint64_t rounds;
    _Alignas(ASP_RING_LINE) uint64_t answered; /* by the thread that does not count the rounds */
    _Alignas(ASP_RING_LINE) uint32_t stop;
} litmus;

static void set_up(litmus *l, double seconds) {
    static _Alignas(ASP_RING_LINE) uint8_t memory[8192];
    char why[256];
    memset(memory, 0, sizeof memory);
    memset(l, 0, sizeof *l);
    CHECK(asp_ring_create(memory, sizeof memory, CAPACITY, 1, ASP_OVERFLOW_BLOCK, 1, 1, 1) ==
          ASP_READY);
    CHECK_SAY(asp_ring_open(memory, sizeof memory, &l->ring, why, sizeof why) == ASP_READY, "%s",
              why);
    CHECK(asp_ring_writer_init(&l->writer, &l->ring) == ASP_READY);
    l->until_ns = asp_after(asp_now_ns(), (uint64_t)(seconds * NS_PER_S));
}

static bool go_on(litmus *l) {
    return ++l->rounds % 64 != 0 || asp_now_ns() < l->until_ns;
}

/* A few to a few hundred nanoseconds, never the same twice in a row. */
static void drift(uint64_t *state) {
    *state = *state * UINT64_C(6364136223846793005) + 1;
    for (volatile unsigned i = 0; i < *state >> 57; i = i + 1) {
    }
}

static void wait_for_answer(litmus *l, uint64_t round, const char *what) {
    const uint64_t deadline_ns = asp_after(asp_now_ns(), PATIENCE_NS);
    for (unsigned i = 1; asp_load_acquire_u64(&l->answered) != round; i++) {
        if (i % SPINS == 0) {
            CHECK_SAY(asp_now_ns() < deadline_ns, "round %" PRIu64 ": %s", round, what);
            sched_yield();
        }
    }
}

/* Prepare, look, commit; the commit is to watch the word. False when told to stop meanwhile. */
static bool sleep_on(litmus *l, asp_watch *watch) {
    asp_futex_word word;
    CHECK(watch->prepare(watch, &word, 1) == 1);
    if (!watch->look(watch)) {
        for (unsigned i = 1; asp_load_relaxed_u32(word.word) == word.expected; i++) {
            if (asp_load_relaxed_u32(&l->stop)) {
                return false;
            }
            if (i % SPINS == 0) {
                sched_yield();
            }
        }
    }
    return true;
}

/* ---- join ---- */

static void *keep_writing(void *argument) {
    litmus *l = argument;
    for (uint64_t n = 0; !asp_load_relaxed_u32(&l->stop);) {
        void *payload;
        const asp_status status = asp_ring_claim(&l->writer, LONGEST, &payload);
        if (status == ASP_READY) {
            memcpy(payload, &n, sizeof n);
            n++;
            CHECK(asp_ring_publish(&l->writer, LONGEST, ASP_FORMAT_BYTES) == ASP_READY);
        } else {
            CHECK_SAY(status == ASP_WOULD_BLOCK, "message %" PRIu64 ": status %d", n, (int)status);
        }
    }
    return NULL;
}

static void join(double seconds) {
    static litmus l;
    pthread_t thread;
    uint64_t seed = 1, messages = 0;
    set_up(&l, seconds);
    CHECK(pthread_create(&thread, NULL, keep_writing, &l) == 0);
    while (go_on(&l)) {
        asp_ring_reader reader;
        drift(&seed); /* time for the writer to get going */
        CHECK(asp_ring_join(&reader, &l.ring, 0, 1) == ASP_READY);
        for (unsigned i = 0; i < 2; i++) {
            const void *payload;
            uint32_t length;
            drift(&seed); /* and to overrun it */
            const asp_status status = acquire_bytes(&reader, &payload, &length);
            if (status == ASP_WOULD_BLOCK) {
                continue;
            }
            CHECK_SAY(status == ASP_READY, "join %" PRIu64 ": status %d", l.rounds, (int)status);
            uint64_t n;
            memcpy(&n, payload, sizeof n);
            CHECK_SAY(n == reader.sequence,
                      "join %" PRIu64 ": message %" PRIu64 ", expected %" PRIu64, l.rounds, n,
                      reader.sequence);
            asp_ring_release(&reader);
            messages++;
        }
        asp_ring_leave(&reader);
    }
    asp_store_relaxed_u32(&l.stop, 1);
    CHECK(pthread_join(thread, NULL) == 0);
    printf("join: %" PRIu64 " joins, %" PRIu64 " messages\n", l.rounds, messages);
    CHECK(messages > 0);
}

/* ---- reader_wake: one message at a time, the next only after the answer ---- */

static void *answer_messages(void *argument) {
    litmus *l = argument;
    asp_ring_reader reader;
    CHECK(asp_ring_join(&reader, &l->ring, 0, 1) == ASP_READY);
    asp_store_release_u64(&l->answered, UINT64_MAX); /* joined */
    for (;;) {
        uint64_t n;
        uint32_t length;
        const asp_status status = asp_ring_copy(&reader, &n, sizeof n, &length);
        if (status == ASP_READY) {
            asp_store_release_u64(&l->answered, n);
        } else {
            CHECK_SAY(status == ASP_WOULD_BLOCK, "status %d", (int)status);
            if (!sleep_on(l, &reader.watch)) {
                return NULL;
            }
        }
    }
}

static void reader_wake(double seconds) {
    static litmus l;
    pthread_t thread;
    uint64_t seed = 2;
    set_up(&l, seconds);
    CHECK(pthread_create(&thread, NULL, answer_messages, &l) == 0);
    wait_for_answer(&l, UINT64_MAX, "the reader does not join");
    while (go_on(&l)) {
        drift(&seed);
        CHECK(asp_ring_send(&l.writer, &l.rounds, sizeof l.rounds, ASP_FORMAT_BYTES) == ASP_READY);
        wait_for_answer(&l, l.rounds, "the reader was not woken");
    }
    asp_store_relaxed_u32(&l.stop, 1);
    CHECK(pthread_join(thread, NULL) == 0);
    printf("reader_wake: %" PRIu64 " messages\n", l.rounds);
}

/* ---- writer_wake: room for one message at a time, the next release only after the answer ---- */

static void *answer_room(void *argument) {
    litmus *l = argument;
    for (uint64_t n = 0;;) {
        const asp_status status = asp_ring_send(&l->writer, &n, sizeof n, ASP_FORMAT_BYTES);
        if (status == ASP_READY) {
            asp_store_release_u64(&l->answered, ++n);
        } else {
            CHECK_SAY(status == ASP_WOULD_BLOCK, "status %d", (int)status);
            if (!sleep_on(l, &l->writer.watch)) {
                return NULL;
            }
        }
    }
}

static void writer_wake(double seconds) {
    static litmus l;
    pthread_t thread;
    asp_ring_reader reader;
    uint64_t seed = 3;
    set_up(&l, seconds);
    CHECK(asp_ring_join(&reader, &l.ring, 0, 1) == ASP_READY);
    CHECK(pthread_create(&thread, NULL, answer_room, &l) == 0);
    const uint64_t room = CAPACITY / 64;
    wait_for_answer(&l, room, "the writer does not fill the ring");
    while (go_on(&l)) {
        const void *payload;
        uint32_t length;
        CHECK(acquire_bytes(&reader, &payload, &length) == ASP_READY);
        drift(&seed);
        asp_ring_release(&reader);
        wait_for_answer(&l, room + l.rounds, "the writer was not woken");
    }
    asp_store_relaxed_u32(&l.stop, 1);
    CHECK(pthread_join(thread, NULL) == 0);
    printf("writer_wake: %" PRIu64 " releases\n", l.rounds);
}

int main(int argc, char **argv) {
    const double seconds = argc > 1 ? strtod(argv[1], NULL) : 2;
    CHECK_SAY(seconds > 0, "usage: %s [SECONDS]", argv[0]);
    join(seconds / 2);
    reader_wake(seconds / 4);
    writer_wake(seconds / 4);
    return 0;
}
