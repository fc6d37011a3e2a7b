/* park.h - an eventcount: lossless sleeping on one shared word, free for the notifier while
 * nobody sleeps.
 *
 * The word is 32 bits. Bit 0 says that somebody may be parked, the other bits count the wakes.
 *
 *   sleeper                                notifier
 *   expected = asp_park_prepare(word)      change the state that the sleeper looks at
 *   look; if ready, go on                  asp_park_notify(word)
 *   asp_futex_wait(word, expected)
 *
 * prepare ends with a full fence, notify begins with one: either the sleeper's look sees the new
 * state, or the notifier sees bit 0 and changes the word, so that the sleep ends or does not begin.
 * A sleeper that dies leaves bit 0 behind; the next notify clears it, so a dead sleeper costs one
 * system call, once, and nobody else's wake.
 *
 * The three steps and the elision follow the eventcounts of oneTBB (concurrent_monitor) and
 * folly; the flag bit inside the counter saves them the second shared word. */
#ifndef ASP_PARK_H
#define ASP_PARK_H

#include "atomics.h"
#include "futex.h"

static inline uint32_t asp_park_prepare(uint32_t *word) {
    uint32_t expected = asp_fetch_or_u32(word, 1) | 1;
    /* Pairs with the fence in asp_park_notify. The read-modify-write alone does not keep the loads of the
     * look behind it: in C11 never, on an ARMv8.0 core not where they are relaxed. */
    asp_fence();
    return expected;
}

/* Returns whether a system call was needed. */
static inline bool asp_park_notify(uint32_t *word) {
    asp_fence(); /* pairs with the fence in asp_park_prepare */
    uint32_t seen = asp_load_relaxed_u32(word);
    while (seen & 1) {
        if (asp_compare_exchange_u32(word, &seen, seen + 1)) {
            asp_futex_wake(word);
            return true;
        }
    }
    return false;
}

#endif
