/* test_handover.c - plain data that one thread wrote before it stored a word is seen by who has seen the word: of
 * every width, through the snapshot of a buffer, and behind the magic of a ring.
 *
 * On x86 the values come out right in any case; ThreadSanitizer, which knows what orders them, is the
 * judge. */
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>

#include "changed.h"
#include "check.h"
#include "predicate.h"
#include "ring_bench.h"
#include "word.h"

#define ROUNDS 100u /* no more than one byte holds */

typedef struct handover {
    uint8_t width; /* 0: the taker looks for a change of any byte */
    _Alignas(8) uint8_t there[8], back[8];
    uint64_t data; /* plain */
} handover;

static void wait_for(const void *word, uint8_t width, uint64_t number) {
    while (asp_load_bits(word, width) != number) sched_yield();
}

static void *give(void *argument) {
    handover *h = argument;
    const uint8_t width = h->width ? h->width : 8;
    for (uint64_t n = 1; n <= ROUNDS; n++) {
        h->data = 3 * n;
        asp_store_bits(h->there, width, n); /* pairs with the look of the taker */
        wait_for(h->back, width, n);
    }
    return NULL;
}

static void take(handover *h) {
    pthread_t giver;
    asp_changed changed;
    CHECK(asp_changed_init(&changed, h->there, sizeof h->there, false) == ASP_READY);
    CHECK(pthread_create(&giver, NULL, give, h) == 0);
    for (uint64_t n = 1; n <= ROUNDS; n++) {
        if (h->width) wait_for(h->there, h->width, n);
        else while (!changed.watch.look(&changed.watch)) sched_yield();
        CHECK_U64(h->data, 3 * n);
        asp_store_bits(h->back, h->width ? h->width : 8, n);
    }
    CHECK(pthread_join(giver, NULL) == 0);
    asp_changed_free(&changed);
}

/* ---- a ring that is opened while it is being made ---- */

static _Alignas(ASP_RING_LINE) uint8_t segment[8192];

static void *make(void *argument) {
    (void)argument;
    CHECK_STATUS(asp_ring_create(segment, sizeof segment, CAPACITY, READERS, ASP_OVERFLOW_BLOCK, PID, 1, 1), ASP_READY);
    return NULL;
}

static void a_ring_is_opened_when_it_is_whole(void) {
    for (unsigned round = 0; round < ROUNDS; round++) {
        pthread_t maker;
        asp_ring ring;
        char why[256];
        memset(segment, 0, sizeof segment);
        CHECK(pthread_create(&maker, NULL, make, NULL) == 0);
        while (asp_ring_open(segment, sizeof segment, &ring, why, sizeof why) != ASP_READY) {
            CHECK_SAY(strstr(why, "magic is 0") != NULL, "%s", why);
            sched_yield();
        }
        CHECK_U64(ring.capacity, CAPACITY);
        CHECK(pthread_join(maker, NULL) == 0);
    }
}

int main(void) {
    const uint8_t widths[] = {1, 2, 4, 8, 0};
    for (unsigned i = 0; i < sizeof widths; i++) {
        handover h = {.width = widths[i]};
        take(&h);
    }
    a_ring_is_opened_when_it_is_whole();
    printf("test_handover: passed\n");
    return 0;
}
