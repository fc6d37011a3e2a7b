/* test_ring_litmus.c - the races of the ring one by one, each as often a second as two threads
 * meet.
 *
 *   test_ring_litmus [SECONDS]     all in all, 2 when not given
 *
 * What is forbidden:
 *   join          a reader that has just joined is overrun, or starts with a wrong number
 *   reader_wake   a message is there, its reader said that it would sleep, and nobody wakes it
 *   writer_wake   the same for a writer and the room that a release makes
 *   bell_wake     a message is there, its reader parked on its doorbell, and nobody rings it
 *   both_pass     two readers pass a large message at once, and neither sees the other beyond it:
 *                 its file would stay
 *
 * The sleepers do not sleep but watch their word as the kernel would; that keeps the two sides so
 * close together that a missing fence shows even on x86, where only store-then-load needs one: those
 * of asp_park_notify_at, asp_ring_join, ask_readers and asp_ring_oldest. Those of asp_park_prepare and
 * asp_park_prepare_bell x86 cannot miss, as the locked instruction before them is a fence there, and
 * releases and acquires cost it nothing: for these there are tests/litmus and tests/models. */
#define _GNU_SOURCE /* CPU_SET */
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "atomics.h"
#include "check.h"
#include "clock.h"
#include "litmus.h"
#include "ring.h"
#include "ring_bytes.h"

#define CAPACITY 4096u
#define LONGEST (CAPACITY / 2) /* with these the writer asks its readers before every message */
#define NS_PER_S 1e9

typedef struct litmus {
    asp_ring ring;
    asp_ring_writer writer;
    uint64_t until_ns;
    uint64_t rounds;
    _Alignas(ASP_RING_LINE) uint64_t answered; /* by the thread that does not count the rounds */
    _Alignas(ASP_RING_LINE) uint32_t stop;
} litmus;

static void set_up(litmus *l, asp_overflow overflow, double seconds) {
    static _Alignas(ASP_RING_LINE) uint8_t memory[8192];
    char why[256];
    memset(memory, 0, sizeof memory);
    memset(l, 0, sizeof *l);
    CHECK(asp_ring_create(memory, sizeof memory, CAPACITY, 2, overflow, 1, 1, 1) == ASP_READY);
    CHECK_SAY(asp_ring_open(memory, sizeof memory, &l->ring, why, sizeof why) == ASP_READY, "%s",
              why);
    CHECK(asp_ring_writer_init(&l->writer, &l->ring) == ASP_READY);
    l->until_ns = asp_after(asp_now_ns(), (uint64_t)(seconds * NS_PER_S));
}

static bool go_on(litmus *l) {
    return ++l->rounds % 64 != 0 || asp_now_ns() < l->until_ns;
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

/* As in a batch, without a notify between a message and the next: its fence would hide that of ask_readers. */
static void *keep_writing(void *argument) {
    litmus *l = argument;
    static uint8_t message[LONGEST];
    stay_on(1);
    for (uint64_t n = 0; !asp_load_relaxed_u32(&l->stop);) {
        memcpy(message, &n, sizeof n);
        const asp_status status = asp_ring_append(&l->writer, message, LONGEST, ASP_FORMAT_BYTES);
        if (status == ASP_READY) {
            n++;
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
    set_up(&l, ASP_OVERFLOW_BLOCK, seconds);
    CHECK(pthread_create(&thread, NULL, keep_writing, &l) == 0);
    while (go_on(&l)) {
        asp_ring_reader reader;
        drift(&seed, LATE); /* time for the writer to get going */
        CHECK(asp_ring_join(&reader, &l.ring, 0, 1) == ASP_READY);
        for (unsigned i = 0; i < 2; i++) {
            const void *payload;
            uint32_t length;
            drift(&seed, LATE); /* and to overrun it */
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
    uint64_t seed = 7;
    stay_on(1);
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
            drift(&seed, EARLY);
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
    set_up(&l, ASP_OVERFLOW_BLOCK, seconds);
    CHECK(pthread_create(&thread, NULL, answer_messages, &l) == 0);
    wait_for_answer(&l, UINT64_MAX, "the reader does not join");
    while (go_on(&l)) {
        drift(&seed, LATE);
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
    uint64_t seed = 8;
    stay_on(1);
    for (uint64_t n = 0;;) {
        const asp_status status = asp_ring_send(&l->writer, &n, sizeof n, ASP_FORMAT_BYTES);
        if (status == ASP_READY) {
            asp_store_release_u64(&l->answered, ++n);
        } else {
            CHECK_SAY(status == ASP_WOULD_BLOCK, "status %d", (int)status);
            drift(&seed, EARLY);
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
    set_up(&l, ASP_OVERFLOW_BLOCK, seconds);
    CHECK(asp_ring_join(&reader, &l.ring, 0, 1) == ASP_READY);
    CHECK(pthread_create(&thread, NULL, answer_room, &l) == 0);
    const uint64_t room = CAPACITY / 64;
    wait_for_answer(&l, room, "the writer does not fill the ring");
    while (go_on(&l)) {
        const void *payload;
        uint32_t length;
        CHECK(acquire_bytes(&reader, &payload, &length) == ASP_READY);
        drift(&seed, LATE);
        asp_ring_release(&reader);
        wait_for_answer(&l, room + l.rounds, "the writer was not woken");
    }
    asp_store_relaxed_u32(&l.stop, 1);
    CHECK(pthread_join(thread, NULL) == 0);
    printf("writer_wake: %" PRIu64 " releases\n", l.rounds);
}

/* ---- bell_wake: as reader_wake, by a reader who parks on its bell ---- */

static char folder[] = "/tmp/aiospin-litmus-XXXXXX", prefix[sizeof folder + 8], fifo[sizeof prefix + 2];

static void *answer_bells(void *argument) {
    litmus *l = argument;
    asp_ring_reader reader;
    uint64_t seed = 9;
    stay_on(1);
    CHECK(asp_ring_join(&reader, &l->ring, 0, 1) == ASP_READY);
    const int fd = open(fifo, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    CHECK(fd >= 0);
    asp_ring_bell_request(&reader);
    asp_store_release_u64(&l->answered, UINT64_MAX); /* joined */
    for (;;) {
        uint64_t n;
        uint32_t length;
        const asp_status status = asp_ring_copy(&reader, &n, sizeof n, &length);
        if (status == ASP_READY) {
            asp_store_release_u64(&l->answered, n);
            continue;
        }
        CHECK_SAY(status == ASP_WOULD_BLOCK, "status %d", (int)status);
        drift(&seed, EARLY);
        const bool parked = asp_ring_bell_park(&reader);
        for (unsigned i = 1; parked && asp_ring_bell(&reader) == ASP_BELL_PARKED; i++) {
            if (i % SPINS == 0) {
                sched_yield();
            }
            if (asp_load_relaxed_u32(&l->stop)) {
                break;
            }
        }
        char bytes[64];
        if (parked && read(fd, bytes, sizeof bytes) < 0) {
            sched_yield(); /* it is on its way */
        }
        if (asp_load_relaxed_u32(&l->stop)) {
            close(fd);
            return NULL;
        }
    }
}

static void bell_wake(double seconds) {
    static litmus l;
    pthread_t thread;
    uint64_t seed = 4;
    set_up(&l, ASP_OVERFLOW_BLOCK, seconds);
    CHECK(mkdtemp(folder) != NULL);
    snprintf(prefix, sizeof prefix, "%s/bell", folder);
    snprintf(fifo, sizeof fifo, "%s0", prefix);
    CHECK(mkfifo(fifo, 0600) == 0);
    l.writer.bells = asp_bells_new(prefix, 2);
    CHECK(l.writer.bells != NULL);
    CHECK(pthread_create(&thread, NULL, answer_bells, &l) == 0);
    wait_for_answer(&l, UINT64_MAX, "the reader does not join");
    while (go_on(&l)) {
        drift(&seed, LATE);
        CHECK(asp_ring_send(&l.writer, &l.rounds, sizeof l.rounds, ASP_FORMAT_BYTES) == ASP_READY);
        wait_for_answer(&l, l.rounds, "the reader was not rung");
    }
    asp_store_relaxed_u32(&l.stop, 1);
    CHECK(pthread_join(thread, NULL) == 0);
    asp_bells_free(l.writer.bells);
    CHECK(unlink(fifo) == 0 && rmdir(folder) == 0);
    printf("bell_wake: %" PRIu64 " messages\n", l.rounds);
}

/* ---- both_pass: in drop_oldest mode, where going past a message does not notify, and so not fence either ---- */

/* The next large message, and then whether all are past it. */
static bool pass(asp_ring_reader *reader, uint64_t *seed) {
    asp_ring_message message;
    asp_status status;
    while ((status = asp_ring_peek(reader, &message)) == ASP_WOULD_BLOCK) {
    }
    CHECK_SAY(status == ASP_READY && message.large, "status %d", (int)status);
    drift(seed, LATE);
    asp_ring_pass(reader);
    return asp_ring_oldest(&reader->ring) > message.position;
}

typedef struct passing {
    litmus *l;
    uint32_t saw_all; /* stored before the answer */
} passing;

static void *pass_beside(void *argument) {
    passing *p = argument;
    asp_ring_reader reader;
    uint64_t seed = 5;
    stay_on(1);
    CHECK(asp_ring_join(&reader, &p->l->ring, 1, 1) == ASP_READY);
    asp_store_release_u64(&p->l->answered, UINT64_MAX); /* joined */
    for (uint64_t n = 1;; n++) {
        for (unsigned i = 1; asp_ring_lag(&reader) == 0; i++) {
            if (asp_load_relaxed_u32(&p->l->stop)) {
                return NULL;
            }
            if (i % SPINS == 0) {
                sched_yield();
            }
        }
        asp_store_relaxed_u32(&p->saw_all, pass(&reader, &seed));
        asp_store_release_u64(&p->l->answered, n);
    }
}

static void both_pass(double seconds) {
    static litmus l;
    passing other = {.l = &l};
    pthread_t thread;
    asp_ring_reader reader;
    uint64_t seed = 6, both = 0;
    set_up(&l, ASP_OVERFLOW_DROP_OLDEST, seconds);
    CHECK(asp_ring_join(&reader, &l.ring, 0, 1) == ASP_READY);
    CHECK(pthread_create(&thread, NULL, pass_beside, &other) == 0);
    wait_for_answer(&l, UINT64_MAX, "the other reader does not join");
    while (go_on(&l)) {
        CHECK(asp_ring_claim_large(&l.writer) == ASP_READY);
        CHECK(asp_ring_publish_large(&l.writer, 1, ASP_FORMAT_BYTES) == ASP_READY);
        const bool saw_all = pass(&reader, &seed);
        wait_for_answer(&l, l.rounds, "the other reader does not pass");
        const bool other_saw_all = asp_load_relaxed_u32(&other.saw_all);
        CHECK_SAY(saw_all || other_saw_all, "message %" PRIu64 ": nobody sees that both are past it",
                  l.rounds);
        both += saw_all && other_saw_all;
    }
    asp_store_relaxed_u32(&l.stop, 1);
    CHECK(pthread_join(thread, NULL) == 0);
    printf("both_pass: %" PRIu64 " messages, %" PRIu64 " that both saw to be passed\n", l.rounds, both);
}

int main(int argc, char **argv) {
    const double seconds = argc > 1 ? strtod(argv[1], NULL) : 2;
    CHECK_SAY(seconds > 0, "usage: %s [SECONDS]", argv[0]);
    stay_on(0);
    join(seconds * 3 / 8);
    reader_wake(seconds / 8);
    writer_wake(seconds / 8);
    bell_wake(seconds / 8);
    both_pass(seconds / 4);
    return 0;
}
