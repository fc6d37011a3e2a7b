/* test_changed.c - a change of any byte is seen once, wherever the buffer begins and ends. */
#include <stdint.h>
#include <string.h>

#include "changed.h"
#include "check.h"

enum { LONGEST = 70, ALIGNMENTS = 8 };

static _Alignas(8) uint8_t memory[8 + LONGEST + 16];

static bool look(asp_changed *changed) { return changed->watch.look(&changed->watch); }

static void every_byte_at_every_alignment(void) {
    for (unsigned at = 0; at < ALIGNMENTS; at++) {
        for (unsigned bytes = 0; bytes <= LONGEST; bytes++) {
            asp_changed changed;
            memset(memory, 0x5a, sizeof memory);
            CHECK(asp_changed_init(&changed, memory + at, bytes, false) == ASP_READY);
            CHECK(changed.watch.prepare == NULL && changed.watch.span == bytes);
            CHECK(!look(&changed));
            for (unsigned i = 0; i < sizeof memory; i++) {
                memory[i] ^= (uint8_t)(1u << i % 8); /* one bit of it */
                CHECK_SAY(look(&changed) == (i >= at && i < at + bytes), "byte %u of %u from %u", i, bytes, at);
                CHECK_SAY(!look(&changed), "byte %u of %u from %u: seen twice", i, bytes, at);
            }
            asp_changed_free(&changed);
            CHECK(changed.snapshot == NULL);
        }
    }
}

static void two_changes_are_one_look(void) {
    asp_changed changed;
    CHECK(asp_changed_init(&changed, memory + 3, 40, false) == ASP_READY);
    memory[3] ^= 1;
    memory[20] ^= 1;
    memory[42] ^= 1;
    CHECK(look(&changed) && !look(&changed));
    asp_changed_free(&changed);
}

/* Notified: all futex words over the buffer, with what they hold; none when they are too many. */
static void prepares_the_words_over_it(void) {
    for (unsigned at = 0; at < ALIGNMENTS; at++) {
        for (unsigned bytes = 0; bytes <= LONGEST; bytes++) {
            asp_changed changed;
            asp_futex_word words[8];
            const unsigned first = at / 4, last = (at + bytes + 3) / 4;
            const unsigned want = bytes && last - first <= 8 ? last - first : 0;
            CHECK(asp_changed_init(&changed, memory + at, bytes, true) == ASP_READY);
            CHECK(changed.watch.prepare(&changed.watch, words, 8) == want);
            for (unsigned i = 0; i < want; i++) {
                uint32_t held;
                CHECK(words[i].word == (const uint32_t *)(const void *)memory + first + i);
                memcpy(&held, words[i].word, 4);
                CHECK(words[i].expected == held);
            }
            asp_changed_free(&changed);
        }
    }
}

static void an_empty_buffer_never_changes(void) {
    asp_changed changed;
    CHECK(asp_changed_init(&changed, NULL, 0, true) == ASP_READY);
    asp_futex_word words[1];
    CHECK(!look(&changed) && changed.watch.prepare(&changed.watch, words, 1) == 0);
    asp_changed_free(&changed);
}

int main(void) {
    every_byte_at_every_alignment();
    two_changes_are_one_look();
    prepares_the_words_over_it();
    an_empty_buffer_never_changes();
    printf("test_changed: passed\n");
    return 0;
}
