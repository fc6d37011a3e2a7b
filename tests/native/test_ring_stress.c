/* test_ring_stress.c - a writer and readers that join and leave at random, on as many threads.
 *
 *   test_ring_stress [SECONDS [SEED]]     2 s and seed 1 when not given; half the time a mode
 *
 * Message n holds n and bytes derived from it, so a reader sees whether anything was lost, torn or
 * out of order: in block mode nothing is, in drop_oldest mode exactly what ASP_LAGGED says. Whoever
 * has nothing to do parks; a wake that got lost shows as a park that lasts for PATIENCE_NS. */
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

#define READERS 3u
#define CAPACITY 4096u
#define MAX_MESSAGE (CAPACITY / 2)
#define WORDS (MAX_MESSAGE / 8)
#define PATIENCE_NS UINT64_C(30000000000)
#define NS_PER_S 1e9

typedef struct stress {
    asp_ring ring;
    uint64_t seed;
    uint64_t until_ns;
    /* the writer's numbers around each publish: what a reader that joins may start with */
    _Alignas(ASP_RING_LINE) uint64_t begun;
    uint64_t done;
} stress;

typedef struct reading {
    _Alignas(ASP_RING_LINE) stress *stress;
    uint32_t slot;
    uint64_t joins, messages, lost, waits;
} reading;

/* splitmix64 */
static uint64_t random_u64(uint64_t *state) {
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint64_t word_of(uint64_t n, uint64_t i) {
    return i == 0 ? n : (n + i) * UINT64_C(0x9e3779b97f4a7c15);
}

static void fill(uint64_t *to, uint64_t n, uint32_t nbytes) {
    for (uint32_t i = 0; i < nbytes / 8; i++) {
        to[i] = word_of(n, i);
    }
    const uint64_t last = word_of(n, nbytes / 8);
    memcpy(to + nbytes / 8, &last, nbytes % 8);
}

static void check_payload(const uint64_t *payload, uint64_t n, uint32_t nbytes) {
    for (uint32_t i = 0; i < nbytes / 8; i++) {
        CHECK_SAY(payload[i] == word_of(n, i),
                  "message %" PRIu64 " of %u bytes: word %u is %" PRIx64 ", should be %" PRIx64, n,
                  nbytes, i, payload[i], word_of(n, i));
    }
    const uint64_t last = word_of(n, nbytes / 8);
    CHECK_SAY(memcmp(payload + nbytes / 8, &last, nbytes % 8) == 0,
              "message %" PRIu64 " of %u bytes: its end is wrong", n, nbytes);
}

/* Look a few hundred times or not at all, then park: prepare, look, commit. Spinning keeps both
 * sides running at once, where the races are; parking is the other half of the test. */
static void wait_for(asp_watch *watch, uint64_t dice, const char *who) {
    for (unsigned i = 0; i < dice % 512; i++) {
        if (watch->look(watch)) {
            return;
        }
    }
    asp_futex_word word;
    CHECK(watch->prepare(watch, &word, 1) == 1);
    if (!watch->look(watch)) {
        const asp_status status = asp_futex_wait(&word, 1, asp_after(asp_now_ns(), PATIENCE_NS));
        CHECK_SAY(status != ASP_TIMED_OUT, "%s was not woken, and there is %s", who,
                  watch->look(watch) ? "something to wake it for" : "nothing to wake it for");
    }
}

/* Be late now and then, by up to two thousand turns or by a time slice. */
static void dawdle(uint64_t dice) {
    if (dice % 64 == 0) {
        sched_yield();
    } else if (dice % 64 == 1) {
        for (volatile unsigned i = 0; i < (dice >> 8) % 2000; i = i + 1) {
        }
    }
}

static void *read_all(void *argument) {
    reading *r = argument;
    stress *s = r->stress;
    const bool lossy = s->ring.overflow == ASP_OVERFLOW_DROP_OLDEST;
    uint64_t seed = s->seed * 1000 + r->slot, least = 0;
    for (;;) {
        asp_ring_reader reader;
        const uint64_t done = asp_load_acquire_u64(&s->done);
        CHECK(asp_ring_join(&reader, &s->ring, r->slot, 1) == ASP_READY);
        const uint64_t begun = asp_load_acquire_u64(&s->begun);
        r->joins++;
        /* starts at the newest: not before what was published when it asked, not after what is */
        CHECK_SAY(reader.sequence >= done && reader.sequence <= begun && reader.sequence >= least,
                  "joined at %" PRIu64 ", of %" PRIu64 " to %" PRIu64, reader.sequence, done,
                  begun);
        const uint64_t stay = random_u64(&seed);
        for (uint64_t left = (stay >> 8) % (stay & 1 ? 400 : 8); left > 0;) {
            uint64_t data[WORDS];
            const void *payload = data;
            uint32_t length;
            const uint64_t dice = random_u64(&seed);
            const uint64_t n = reader.sequence;
            const bool in_place = !lossy && dice & 1;
            const asp_status status = in_place
                                          ? acquire_bytes(&reader, &payload, &length)
                                          : asp_ring_copy(&reader, data, sizeof data, &length);
            dawdle(dice >> 8);
            if (status == ASP_READY) {
                check_payload(payload, n, length);
                asp_ring_release(&reader);
                CHECK(reader.sequence == n + 1);
                r->messages++;
                left--;
            } else if (status == ASP_LAGGED) {
                CHECK(lossy && reader.skipped > 0 && reader.sequence == n + reader.skipped);
                r->lost += reader.skipped;
            } else if (status == ASP_WOULD_BLOCK) {
                r->waits++;
                wait_for(&reader.watch, dice >> 16, "a reader");
            } else if (status == ASP_END) {
                CHECK_SAY(reader.sequence == s->done, "the end came at %" PRIu64 " of %" PRIu64,
                          reader.sequence, s->done);
                asp_ring_leave(&reader);
                return NULL;
            } else {
                CHECK_SAY(false, "message %" PRIu64 ": status %d", n, (int)status);
            }
        }
        least = reader.sequence;
        asp_ring_leave(&reader);
    }
}

static uint64_t write_all(stress *s) {
    uint64_t seed = s->seed, n = 0, waits = 0;
    asp_ring_writer writer;
    CHECK(asp_ring_writer_init(&writer, &s->ring) == ASP_READY);
    while (n % 64 != 0 || asp_now_ns() < s->until_ns) {
        const uint64_t dice = random_u64(&seed);
        const uint32_t most = dice % 16 < 9 ? 128 : dice % 16 < 15 ? 1024 : MAX_MESSAGE;
        const uint32_t nbytes = 8 + (uint32_t)(dice >> 32) % (most - 7);
        asp_status status;
        asp_store_release_u64(&s->begun, n + 1);
        if (writer.ring.overflow == ASP_OVERFLOW_DROP_OLDEST) {
            uint64_t data[WORDS];
            fill(data, n, nbytes);
            status = asp_ring_send(&writer, data, nbytes, ASP_FORMAT_BYTES);
        } else { /* in place, now and then more than is published, now and then for nothing */
            void *payload;
            const uint32_t room = dice >> 4 & 3 ? nbytes : nbytes + (MAX_MESSAGE - nbytes) / 2;
            status = asp_ring_claim(&writer, room, &payload);
            if (status == ASP_READY && (dice >> 6 & 15) == 0) {
                memset(payload, 0xee, room);
                asp_ring_abandon(&writer);
                continue;
            }
            if (status == ASP_READY) {
                fill(payload, n, nbytes);
                status = asp_ring_publish(&writer, nbytes, ASP_FORMAT_BYTES);
            }
        }
        dawdle(dice >> 10);
        if (status == ASP_READY) {
            asp_store_release_u64(&s->done, ++n);
        } else {
            CHECK_SAY(status == ASP_WOULD_BLOCK, "message %" PRIu64 ": status %d, suspect %" PRId64,
                      n, (int)status, writer.suspect);
            waits++;
            wait_for(&writer.watch, dice >> 16, "the writer");
        }
    }
    asp_ring_writer_close(&writer);
    return waits;
}

static void run(asp_overflow overflow, double seconds, uint64_t seed) {
    static stress s;
    static reading readings[READERS];
    const uint64_t bytes = asp_ring_bytes(CAPACITY, READERS);
    void *memory = aligned_alloc(ASP_RING_LINE, bytes + ASP_RING_LINE - bytes % ASP_RING_LINE);
    CHECK(memory != NULL);
    memset(memory, 0, bytes);
    CHECK(asp_ring_create(memory, bytes, CAPACITY, READERS, overflow, 1, 1, 1) == ASP_READY);
    char why[256];
    s = (stress){.seed = seed,
                 .until_ns = asp_after(asp_now_ns(), (uint64_t)(seconds * NS_PER_S))};
    CHECK_SAY(asp_ring_open(memory, bytes, &s.ring, why, sizeof why) == ASP_READY, "%s", why);

    pthread_t threads[READERS];
    for (uint32_t i = 0; i < READERS; i++) {
        readings[i] = (reading){.stress = &s, .slot = i};
        CHECK(pthread_create(&threads[i], NULL, read_all, &readings[i]) == 0);
    }
    const uint64_t waits = write_all(&s);
    for (uint32_t i = 0; i < READERS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(asp_ring_active_readers(&s.ring) == 0);

    const char *mode = overflow == ASP_OVERFLOW_BLOCK ? "block" : "drop_oldest";
    printf("%s: seed %" PRIu64 ", %" PRIu64 " messages sent, the writer waited %" PRIu64 " times\n",
           mode, seed, s.done, waits);
    uint64_t joins = 0, messages = 0, lost = 0;
    for (uint32_t i = 0; i < READERS; i++) {
        const reading *r = &readings[i];
        printf("  reader %u: %" PRIu64 " joins, %" PRIu64 " messages, %" PRIu64 " lost, %" PRIu64
               " waits\n", i, r->joins, r->messages, r->lost, r->waits);
        joins += r->joins;
        messages += r->messages;
        lost += r->lost;
    }
    CHECK_SAY(joins > READERS && messages > 0, "a run that shows nothing: give it more seconds");
    CHECK_SAY(lost == 0 || overflow == ASP_OVERFLOW_DROP_OLDEST, "lost in block mode");
    free(memory);
}

int main(int argc, char **argv) {
    const double seconds = argc > 1 ? strtod(argv[1], NULL) : 2;
    const uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : 1;
    CHECK_SAY(seconds > 0, "usage: %s [SECONDS [SEED]]", argv[0]);
    run(ASP_OVERFLOW_BLOCK, seconds / 2, seed);
    run(ASP_OVERFLOW_DROP_OLDEST, seconds / 2, seed);
    return 0;
}
